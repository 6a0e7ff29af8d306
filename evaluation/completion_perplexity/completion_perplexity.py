"""Perplexity of completions as an `evaluate` module."""

from __future__ import annotations

from ee_trl.evaluation.metrics.completion_perplexity import PERPLEXITY_CHECKS, perplexity_scores
from ee_trl.evaluation.text_metric import Function, TextMetric


class CompletionPerplexity(TextMetric):
    """Perplexity of completions; see `perplexity_scores`."""

    checks = PERPLEXITY_CHECKS

    def function(self) -> Function:
        """The arithmetic."""
        return perplexity_scores
