"""BERTScore as an `evaluate` module."""

from ee_trl.evaluation.metrics.bertscore import bertscore_scores
from ee_trl.evaluation.text_metric import TextMetric


class Bertscore(TextMetric):
    """BERTScore; see `bertscore_scores`."""

    functions = {"default": bertscore_scores}
