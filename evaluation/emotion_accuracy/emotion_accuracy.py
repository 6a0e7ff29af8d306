"""Accuracy over the 32 emotions of EmpatheticDialogues as an `evaluate` module."""

from __future__ import annotations

from ee_trl.evaluation.metrics.emotion_accuracy import emotion_scores
from ee_trl.evaluation.text_metric import Function, TextMetric


class EmotionAccuracy(TextMetric):
    """Accuracy over the 32 emotions of EmpatheticDialogues; see `emotion_scores`."""

    def function(self) -> Function:
        """The arithmetic."""
        return emotion_scores
