"""EPITOME levels as plain functions, and the classifiers behind them; the `evaluate` module is `epitome.py`."""

from .classifier import load_classifier
from .levels import epitome_scores, level_resampler
from .training import cross_validate


__all__ = ["cross_validate", "epitome_scores", "level_resampler", "load_classifier"]
