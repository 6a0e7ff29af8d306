"""Word F1 over the corpus as an `evaluate` module."""

from ee_trl.evaluation.metrics.word_f1 import word_f1_scores
from ee_trl.evaluation.text_metric import TextMetric


class WordF1(TextMetric):
    """Word F1 over the corpus; see `word_f1_scores`."""

    functions = {"default": word_f1_scores}
