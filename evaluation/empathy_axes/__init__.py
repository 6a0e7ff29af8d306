"""Sensibility and rationality of replies as plain functions; the `evaluate` module is `empathy_axes.py`."""

from .replies import axes_resampler, empathy_axes_scores, reply_scores


__all__ = ["axes_resampler", "empathy_axes_scores", "reply_scores"]
