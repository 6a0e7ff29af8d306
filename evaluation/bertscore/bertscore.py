"""BERTScore as an `evaluate` module."""

from __future__ import annotations

from ee_trl.evaluation.metrics.bertscore import bertscore_scores
from ee_trl.evaluation.text_metric import Function, TextMetric


class Bertscore(TextMetric):
    """BERTScore; see `bertscore_scores`."""

    def function(self) -> Function:
        """The arithmetic."""
        return bertscore_scores
