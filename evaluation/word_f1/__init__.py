"""Word F1 as plain functions; the `evaluate` module is `word_f1.py` beside this file."""

from .overlap import clipped_matches, word_f1_resampler, word_f1_scores


__all__ = ["clipped_matches", "word_f1_resampler", "word_f1_scores"]
