"""Perplexity of completions as an `evaluate` module."""

from ee_trl.evaluation.metrics.completion_perplexity import PERPLEXITY_CHECKS, perplexity_scores
from ee_trl.evaluation.text_metric import TextMetric


class CompletionPerplexity(TextMetric):
    """Perplexity of completions; see `perplexity_scores`."""

    checks = PERPLEXITY_CHECKS
    functions = {"default": perplexity_scores}
