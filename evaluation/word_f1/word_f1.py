"""Word F1 over the corpus as an `evaluate` module."""

from __future__ import annotations

from ee_trl.evaluation.metrics.word_f1 import word_f1_scores
from ee_trl.evaluation.text_metric import Function, TextMetric


class WordF1(TextMetric):
    """Word F1 over the corpus; see `word_f1_scores`."""

    def function(self) -> Function:
        """The arithmetic."""
        return word_f1_scores
