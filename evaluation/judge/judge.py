"""An LLM as the judge of replies as an `evaluate` module."""

from __future__ import annotations

from ee_trl.evaluation.metrics.judge import judge_pairs, judge_replies
from ee_trl.evaluation.text_metric import Function, TextMetric


class Judge(TextMetric):
    """An LLM judge; see `judge_replies` (configuration "absolute") and `judge_pairs` ("pairwise")."""

    def function(self) -> Function:
        """The arithmetic of the configuration."""
        functions = {"default": judge_replies, "absolute": judge_replies, "pairwise": judge_pairs}
        if self.config_name not in functions:
            raise ValueError(f"unknown configuration {self.config_name!r}; valid: absolute, pairwise.")
        return functions[self.config_name]
