"""EPITOME levels of replies as an `evaluate` module."""

from __future__ import annotations

from ee_trl.evaluation.metrics.epitome import epitome_scores
from ee_trl.evaluation.text_metric import Function, TextMetric


class Epitome(TextMetric):
    """EPITOME levels of replies; see `epitome_scores`."""

    def function(self) -> Function:
        """The arithmetic."""
        return epitome_scores
