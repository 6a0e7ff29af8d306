"""ROUGE-1, ROUGE-2 and ROUGE-L as an `evaluate` module."""

from __future__ import annotations

from ee_trl.evaluation.metrics.dialogue_rouge import rouge_scores
from ee_trl.evaluation.text_metric import Function, TextMetric


class DialogueRouge(TextMetric):
    """ROUGE-1, ROUGE-2 and ROUGE-L; see `rouge_scores`."""

    def function(self) -> Function:
        """The arithmetic."""
        return rouge_scores
