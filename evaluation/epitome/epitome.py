"""EPITOME levels of generated replies as an `evaluate` module. The arithmetic is in `levels.py`."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from .bootstrap import CONFIDENCE
from .classifier import Classifier
from .encoder import EncoderClassifier
from .levels import epitome_scores
from .linear import LinearClassifier
from .texts import CheckedInputs, from_json
from .training import cross_validate


_DESCRIPTION = """
How far replies communicate the three mechanisms of EPITOME (emotional reactions, interpretations, explorations; 0 no,
1 weak, 2 strong), by a classifier trained with `ee-trl train-epitome`, and diff-ER, diff-IP and diff-EX, the mean
squared differences to the references' levels.
"""

_CITATION = """
@inproceedings{sharma2020epitome,
    title = {A Computational Approach to Understanding Empathy Expressed in Text-Based Mental Health Support},
    author = {Sharma, Ashish and Miner, Adam and Atkins, David and Althoff, Tim},
    booktitle = {Proceedings of EMNLP},
    year = {2020}
}
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[str]`):
        The generated replies.
    references (`list[str]`):
        The reference of each.
    contexts (`list[list[str]]`, `list[list[dict]]` or `list[str]`):
        What came before each; the classifier is given the last turn.
    classifier (`str` or object):
        The folder that `ee-trl train-epitome` wrote, or an object with `predict(seekers, responses)` that gives levels
        of shape `(n, 3)`.
    resamples (`int`, *optional*, defaults to `0`):
        How many bootstrap resamples to draw for an interval of each number; 0 for no intervals.
    confidence (`float`, *optional*, defaults to `0.95`):
        Of the intervals.
    seed (`int`, *optional*, defaults to `0`):
        Of the resamples.

Returns:
    `dict`: `emotional_reactions`, `interpretations`, `explorations` and `reference_<mechanism>` (mean level, 0 to 2),
    `diff_er`, `diff_ip`, `diff_ex` (0 to 4), `n`; with `resamples`, also `<name>_interval`.

Examples:

    >>> import evaluate
    >>> class Words:
    ...     def predict(self, seekers, responses):
    ...         return [["sorry" in text, "must feel" in text, 2 * ("?" in text)] for text in responses]
    >>> epitome = evaluate.load("evaluation/epitome")
    >>> found = epitome.compute(predictions=["oh , i am sorry", "why ?"], references=["i am sorry"] * 2,
    ...                         contexts=["my dog died"] * 2, classifier=Words())
    >>> found["emotional_reactions"], found["explorations"], found["diff_er"], found["diff_ex"]
    (0.5, 1.0, 0.5, 2.0)
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class Epitome(CheckedInputs, evaluate.Metric):
    """EPITOME levels of replies; see `epitome_scores`."""

    # evaluate copies the files whose names this script imports, so it names all of the folder
    classifiers: tuple[type[Classifier], ...] = (LinearClassifier, EncoderClassifier)
    cross_validate = staticmethod(cross_validate)

    def _info(self) -> evaluate.MetricInfo:
        texts = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": texts, "references": texts, "contexts": texts}),
            reference_urls=["https://aclanthology.org/2020.emnlp-main.425/"],
        )

    def _compute(
        self,
        predictions: list[str],
        references: list[str],
        contexts: list[str],
        classifier: Any = None,
        resamples: int = 0,
        confidence: float = CONFIDENCE,
        seed: int = 0,
    ) -> dict[str, Any]:
        return epitome_scores(predictions, from_json(contexts), references, classifier, resamples, confidence, seed)
