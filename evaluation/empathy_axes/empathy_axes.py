"""Sensibility and rationality of replies as an `evaluate` module."""

from ee_trl.evaluation.metrics.empathy_axes import empathy_axes_scores
from ee_trl.evaluation.text_metric import TextMetric


class EmpathyAxes(TextMetric):
    """Sensibility and rationality of replies; see `empathy_axes_scores`."""

    functions = {"default": empathy_axes_scores}
