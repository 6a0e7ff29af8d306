"""BERTScore as plain functions; the `evaluate` module is `bertscore.py` beside this file."""

from .similarity import bertscore_resampler, bertscore_scores, sample_similarities


__all__ = ["bertscore_resampler", "bertscore_scores", "sample_similarities"]
