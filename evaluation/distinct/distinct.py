"""Dist-1 and Dist-2 as an `evaluate` module."""

from ee_trl.evaluation.metrics.distinct import distinct_scores
from ee_trl.evaluation.text_metric import TextMetric


class Distinct(TextMetric):
    """Dist-1 and Dist-2; see `distinct_scores`."""

    functions = {"default": distinct_scores}
