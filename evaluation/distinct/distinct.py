"""Dist-1 and Dist-2 as an `evaluate` module."""

from __future__ import annotations

from ee_trl.evaluation.metrics.distinct import distinct_scores
from ee_trl.evaluation.text_metric import Function, TextMetric


class Distinct(TextMetric):
    """Dist-1 and Dist-2; see `distinct_scores`."""

    def function(self) -> Function:
        """The arithmetic."""
        return distinct_scores
