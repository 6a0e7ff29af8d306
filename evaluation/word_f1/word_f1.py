"""Word F1 over the corpus as an `evaluate` module. The arithmetic is in `overlap.py`."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from .bootstrap import CONFIDENCE
from .overlap import word_f1_scores
from .texts import CheckedInputs, Tokenizer


_DESCRIPTION = """
Word F1 over the corpus, x100: the clipped unigram matches between predictions and references are summed over all
samples; precision is their share of all predicted tokens, recall their share of all reference tokens.
"""

_CITATION = """
@inproceedings{dinan2019wizard,
    title = {Wizard of {Wikipedia}: Knowledge-Powered Conversational Agents},
    author = {Dinan, Emily and Roller, Stephen and Shuster, Kurt and Fan, Angela and Auli, Michael and Weston, Jason},
    booktitle = {International Conference on Learning Representations},
    year = {2019}
}
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[str]`):
        The generated replies.
    references (`list[str]`):
        The reference of each.
    tokenizer (`str` or `Callable`, *optional*, defaults to `"whitespace"`):
        `"whitespace"` (case kept), `"nltk"` (lower-cased word tokens), or a function from a text to its tokens.
    resamples (`int`, *optional*, defaults to `0`):
        How many bootstrap resamples to draw for an interval of each number; 0 for no intervals.
    confidence (`float`, *optional*, defaults to `0.95`):
        Of the intervals.
    seed (`int`, *optional*, defaults to `0`):
        Of the resamples.

Returns:
    `dict`: `word_f1`, `precision`, `recall` (0 to 100) and `n`, the number of samples; with `resamples`, also
    `word_f1_interval`, `precision_interval`, `recall_interval`.

Examples:

    >>> import evaluate
    >>> word_f1 = evaluate.load("evaluation/word_f1")
    >>> word_f1.compute(predictions=["i am so so sorry", "oh"], references=["i am sorry", "oh no !"])
    {'word_f1': 66.66666666666667, 'precision': 66.66666666666667, 'recall': 66.66666666666667, 'n': 2}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class WordF1(CheckedInputs, evaluate.Metric):
    """Word F1 over the corpus; see `word_f1_scores`."""

    def _info(self) -> evaluate.MetricInfo:
        texts = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": texts, "references": texts}),
            reference_urls=["https://arxiv.org/abs/1811.01241"],
        )

    def _compute(
        self,
        predictions: list[str],
        references: list[str],
        tokenizer: Tokenizer = "whitespace",
        resamples: int = 0,
        confidence: float = CONFIDENCE,
        seed: int = 0,
    ) -> dict[str, Any]:
        return word_f1_scores(predictions, references, tokenizer, resamples, confidence, seed)
