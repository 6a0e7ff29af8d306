"""Perplexity of completions as plain functions; the `evaluate` module is `completion_perplexity.py` beside them."""

from .likelihood import perplexity_resampler, perplexity_scores, sample_nlls, total_nll
from .samples import TokenizedSample, tokenize_sample


__all__ = [
    "TokenizedSample",
    "perplexity_resampler",
    "perplexity_scores",
    "sample_nlls",
    "tokenize_sample",
    "total_nll",
]
