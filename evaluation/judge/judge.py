"""An LLM as the judge of replies as an `evaluate` module."""

from ee_trl.evaluation.metrics.judge import judge_pairs, judge_replies
from ee_trl.evaluation.text_metric import TextMetric


class Judge(TextMetric):
    """An LLM judge; see `judge_replies` and `judge_pairs`."""

    functions = {"default": judge_replies, "absolute": judge_replies, "pairwise": judge_pairs}
