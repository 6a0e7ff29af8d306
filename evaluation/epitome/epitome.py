"""EPITOME levels of replies as an `evaluate` module."""

from ee_trl.evaluation.metrics.epitome import epitome_scores
from ee_trl.evaluation.text_metric import TextMetric


class Epitome(TextMetric):
    """EPITOME levels of replies; see `epitome_scores`."""

    functions = {"default": epitome_scores}
