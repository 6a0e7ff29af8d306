"""Dist-1 and Dist-2 as plain functions; the `evaluate` module is `distinct.py` beside this file."""

from .diversity import DistinctResampler, distinct_ratio, distinct_scores


__all__ = ["DistinctResampler", "distinct_ratio", "distinct_scores"]
