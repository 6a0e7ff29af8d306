"""Accuracy over the 32 emotions of EmpatheticDialogues as an `evaluate` module; the arithmetic is in `emotions.py`."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from .bootstrap import CONFIDENCE
from .emotions import emotion_scores
from .texts import CheckedInputs


_DESCRIPTION = """
How often a model names the emotion that a dialogue was written for: accuracy over the 32 emotions of
EmpatheticDialogues, macro F1, recall of each emotion, and what always giving the commonest would reach.
"""

_CITATION = """
@inproceedings{rashkin2019towards,
    title = {Towards Empathetic Open-domain Conversation Models: A New Benchmark and Dataset},
    author = {Rashkin, Hannah and Smith, Eric Michael and Li, Margaret and Boureau, Y-Lan},
    booktitle = {Proceedings of ACL},
    year = {2019}
}
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[str]`):
        The emotions that a model gives, one a dialogue.
    references (`list[str]`):
        Those of the data.
    resamples (`int`, *optional*, defaults to `0`):
        How many bootstrap resamples to draw for an interval of each number; 0 for no intervals.
    confidence (`float`, *optional*, defaults to `0.95`):
        Of the intervals.
    seed (`int`, *optional*, defaults to `0`):
        Of the resamples.

Returns:
    `dict`: `accuracy`, `macro_f1`, `majority` (0 to 100), `recall` (emotion -> 0 to 100), `n`; with `resamples`, also
    `accuracy_interval` and `macro_f1_interval`.

Examples:

    >>> import evaluate
    >>> accuracy = evaluate.load("evaluation/emotion_accuracy")
    >>> found = accuracy.compute(predictions=["sad", "proud", "angry", "sad"],
    ...                          references=["sad", "proud", "furious", "sad"])
    >>> found["accuracy"], found["majority"], found["recall"]["furious"], found["n"]
    (75.0, 50.0, 0.0, 4)
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class EmotionAccuracy(CheckedInputs, evaluate.Metric):
    """Accuracy over 32 emotions; see `emotion_scores`."""

    def _info(self) -> evaluate.MetricInfo:
        texts = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": texts, "references": texts}),
            reference_urls=["https://aclanthology.org/P19-1534/"],
        )

    def _compute(
        self,
        predictions: list[str],
        references: list[str],
        resamples: int = 0,
        confidence: float = CONFIDENCE,
        seed: int = 0,
    ) -> dict[str, Any]:
        return emotion_scores(predictions, references, resamples, confidence, seed)
