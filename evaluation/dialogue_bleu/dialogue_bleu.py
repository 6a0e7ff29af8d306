"""Corpus BLEU-1 to BLEU-4 as an `evaluate` module."""

from __future__ import annotations

from ee_trl.evaluation.metrics.dialogue_bleu import BLEU_CHECKS, bleu_scores
from ee_trl.evaluation.text_metric import Function, TextMetric


class DialogueBleu(TextMetric):
    """Corpus BLEU-1 to BLEU-4; see `bleu_scores`."""

    checks = BLEU_CHECKS

    def function(self) -> Function:
        """The arithmetic."""
        return bleu_scores
