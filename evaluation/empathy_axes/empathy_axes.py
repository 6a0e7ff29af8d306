"""Sensibility and rationality of replies as an `evaluate` module."""

from __future__ import annotations

from ee_trl.evaluation.metrics.empathy_axes import empathy_axes_scores
from ee_trl.evaluation.text_metric import Function, TextMetric


class EmpathyAxes(TextMetric):
    """Sensibility and rationality of replies; see `empathy_axes_scores`."""

    def function(self) -> Function:
        """The arithmetic."""
        return empathy_axes_scores
