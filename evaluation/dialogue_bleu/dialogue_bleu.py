"""Corpus BLEU-1 to BLEU-4 as an `evaluate` module."""

from ee_trl.evaluation.metrics.dialogue_bleu import BLEU_CHECKS, bleu_scores
from ee_trl.evaluation.text_metric import TextMetric


class DialogueBleu(TextMetric):
    """Corpus BLEU-1 to BLEU-4; see `bleu_scores`."""

    checks = BLEU_CHECKS
    functions = {"default": bleu_scores}
