"""Perplexity of completions as plain functions; the `evaluate` module is `completion_perplexity.py` beside them."""

from .likelihood import perplexity_scores, total_nll
from .samples import TokenizedSample, tokenize_sample


__all__ = ["TokenizedSample", "perplexity_scores", "tokenize_sample", "total_nll"]
