"""Sensibility and rationality of generated replies as an `evaluate` module. The arithmetic is in `replies.py`."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from .bootstrap import CONFIDENCE
from .replies import empathy_axes_scores
from .texts import CheckedInputs, from_json


_DESCRIPTION = """
Sensibility (emotional grounding) and rationality (cognitive coherence) of generated replies, 0 to 10 by a scorer of
ee_trl: means, shares of the four quadrants, and the difference to the references.
"""

_CITATION = """
@article{efficientempathy2024,
    title = {Efficient-Empathy: Towards Efficient and Effective Selection of Empathy Data},
    journal = {arXiv preprint arXiv:2407.01937},
    year = {2024}
}
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[str]`):
        The generated replies; a blank one is unscored.
    references (`list[str]`):
        The reference of each.
    contexts (`list[list[str]]`, `list[list[dict]]` or `list[str]`):
        What came before each: utterances of which the last is the speaker's, or messages.
    scorer (`str` or `Scorer`, *optional*, defaults to `"linear"`):
        `"linear"`, a judge's folder or hub id, or an object with `fingerprint` and `score`.
    threshold (`float`, *optional*, defaults to `5.0`):
        Of the quadrants, on both axes; or a pair.
    ties (`str`, *optional*, defaults to `"drop"`):
        What a score equal to the threshold is: `"drop"` (a tie), `"high"` or `"low"`.
    resamples (`int`, *optional*, defaults to `0`):
        How many bootstrap resamples to draw for an interval of each number; 0 for no intervals.
    confidence (`float`, *optional*, defaults to `0.95`):
        Of the intervals.
    seed (`int`, *optional*, defaults to `0`):
        Of the resamples.

Returns:
    `dict`: `sensibility`, `rationality` (means, 0 to 10), `<quadrant>_share` and `tie_share` (0 to 1), the same of the
    references as `reference_...`, `sensibility_difference`, `rationality_difference` (reply minus reference),
    `unscored`, `n`, `scorer` (its fingerprint); with `resamples`, also `<name>_interval`.

Examples:

    A scorer of one's own: sensibility is the number of words.

    >>> import evaluate
    >>> import numpy as np
    >>> class Words:
    ...     fingerprint = "words"
    ...     def score(self, dialogues):
    ...         return np.array([[len(dialogue.response.split()), 2.0] for dialogue in dialogues])
    >>> axes = evaluate.load("evaluation/empathy_axes")
    >>> found = axes.compute(predictions=["i am so sorry to hear"], references=["oh no"], contexts=["my dog died"],
    ...                      scorer=Words())
    >>> found["sensibility"], found["sensibility_share"], found["sensibility_difference"], found["scorer"]
    (6.0, 1.0, 4.0, 'words')
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class EmpathyAxes(CheckedInputs, evaluate.Metric):
    """Sensibility and rationality of replies; see `empathy_axes_scores`."""

    def _info(self) -> evaluate.MetricInfo:
        texts = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": texts, "references": texts, "contexts": texts}),
            reference_urls=["https://arxiv.org/abs/2407.01937"],
        )

    def _compute(
        self,
        predictions: list[str],
        references: list[str],
        contexts: list[str],
        scorer: Any = "linear",
        threshold: Any = 5.0,
        ties: str = "drop",
        resamples: int = 0,
        confidence: float = CONFIDENCE,
        seed: int = 0,
    ) -> dict[str, Any]:
        return empathy_axes_scores(
            predictions, from_json(contexts), references, scorer, threshold, ties, resamples, confidence, seed
        )
