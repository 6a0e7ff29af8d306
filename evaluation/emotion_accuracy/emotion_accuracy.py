"""Accuracy over the 32 emotions of EmpatheticDialogues as an `evaluate` module."""

from ee_trl.evaluation.metrics.emotion_accuracy import emotion_scores
from ee_trl.evaluation.text_metric import TextMetric


class EmotionAccuracy(TextMetric):
    """Accuracy over the 32 emotions of EmpatheticDialogues; see `emotion_scores`."""

    functions = {"default": emotion_scores}
