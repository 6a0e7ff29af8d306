"""Dist-1 and Dist-2 as an `evaluate` module. The arithmetic is in `diversity.py`."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from .bootstrap import CONFIDENCE
from .diversity import distinct_scores
from .texts import CheckedInputs, Tokenizer


_DESCRIPTION = """
Dist-1 and Dist-2: unique n-grams over all n-grams of the whole corpus of predictions, x100. A measure of how varied
the replies of a dialogue model are. It depends on the size of the corpus: compare only at equal n.
"""

_CITATION = """
@inproceedings{li2016diversity,
    title = {A Diversity-Promoting Objective Function for Neural Conversation Models},
    author = {Li, Jiwei and Galley, Michel and Brockett, Chris and Gao, Jianfeng and Dolan, Bill},
    booktitle = {Proceedings of NAACL-HLT},
    year = {2016}
}
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[str]`):
        The generated replies. References are not used.
    tokenizer (`str` or `Callable`, *optional*, defaults to `"nltk"`):
        `"nltk"` (lower-cased word tokens), `"whitespace"`, or a function from a text to its tokens.
    truncate_to (`int`, *optional*):
        Count only the first so many predictions; an error where there are fewer.
    resamples (`int`, *optional*, defaults to `0`):
        How many bootstrap resamples to draw for an interval of each number; 0 for no intervals.
    confidence (`float`, *optional*, defaults to `0.95`):
        Of the intervals.
    seed (`int`, *optional*, defaults to `0`):
        Of the resamples.

Returns:
    `dict`: `dist1`, `dist2` (0 to 100) and `n`, the number of predictions counted; with `resamples`, also
    `dist1_interval` and `dist2_interval`.

Examples:

    >>> import evaluate
    >>> distinct = evaluate.load("evaluation/distinct")
    >>> distinct.compute(predictions=["I am so so sorry", "I am here"])
    {'dist1': 62.5, 'dist2': 83.33333333333333, 'n': 2}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class Distinct(CheckedInputs, evaluate.Metric):
    """Dist-1 and Dist-2 of a corpus; see `distinct_scores`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": datasets.Value("string")}),
            reference_urls=["https://aclanthology.org/N16-1014/"],
        )

    def _compute(
        self,
        predictions: list[str],
        tokenizer: Tokenizer = "nltk",
        truncate_to: int | None = None,
        resamples: int = 0,
        confidence: float = CONFIDENCE,
        seed: int = 0,
    ) -> dict[str, Any]:
        return distinct_scores(predictions, tokenizer, truncate_to, resamples, confidence, seed)
