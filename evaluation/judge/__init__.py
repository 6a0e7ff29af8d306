"""An LLM as the judge of replies, as plain functions; the `evaluate` module is `judge.py` beside them."""

from .verdicts import judge_pairs, judge_replies, pair_resampler


__all__ = ["judge_pairs", "judge_replies", "pair_resampler"]
