"""ROUGE-1, ROUGE-2 and ROUGE-L as an `evaluate` module."""

from ee_trl.evaluation.metrics.dialogue_rouge import rouge_scores
from ee_trl.evaluation.text_metric import TextMetric


class DialogueRouge(TextMetric):
    """ROUGE-1, ROUGE-2 and ROUGE-L; see `rouge_scores`."""

    functions = {"default": rouge_scores}
