"""Corpus BLEU-1 to BLEU-4 as an `evaluate` module. The arithmetic is in `bleu.py`."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from .bleu import bleu_scores
from .bootstrap import CONFIDENCE
from .texts import CheckedInputs, Tokenizer


_DESCRIPTION = """
Corpus BLEU-1 to BLEU-4 with uniform weights, brevity penalty and epsilon smoothing (nltk's method1, 1e-12), x100: the
form that the literature on empathetic dialogue reports.
"""

_CITATION = """
@inproceedings{papineni2002bleu,
    title = {{BLEU}: a Method for Automatic Evaluation of Machine Translation},
    author = {Papineni, Kishore and Roukos, Salim and Ward, Todd and Zhu, Wei-Jing},
    booktitle = {Proceedings of ACL},
    year = {2002}
}
@inproceedings{chen2014smoothing,
    title = {A Systematic Comparison of Smoothing Techniques for Sentence-Level {BLEU}},
    author = {Chen, Boxing and Cherry, Colin},
    booktitle = {Proceedings of the Ninth Workshop on Statistical Machine Translation},
    year = {2014}
}
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[str]`):
        The generated replies.
    references (`list[str]` or `list[list[str]]`):
        The reference of each, or a list of them.
    tokenizer (`str` or `Callable`, *optional*, defaults to `"whitespace"`):
        `"whitespace"` (case kept), `"nltk"` (lower-cased word tokens), or a function from a text to its tokens.
    resamples (`int`, *optional*, defaults to `0`):
        How many bootstrap resamples to draw for an interval of each number; 0 for no intervals.
    confidence (`float`, *optional*, defaults to `0.95`):
        Of the intervals.
    seed (`int`, *optional*, defaults to `0`):
        Of the resamples.

Returns:
    `dict`: `bleu1` to `bleu4` (0 to 100), `brevity_penalty` (0 to 1), `prediction_length` and `reference_length`
    (tokens), `n` (samples); with `resamples`, also `bleu1_interval` to `bleu4_interval`.

Examples:

    >>> import evaluate
    >>> bleu = evaluate.load("evaluation/dialogue_bleu")
    >>> scores = bleu.compute(predictions=["i am so sorry"], references=[["i am sorry", "i am so sad"]])
    >>> round(scores["bleu1"], 2), round(scores["bleu2"], 2), scores["brevity_penalty"]
    (100.0, 81.65, 1.0)
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class DialogueBleu(CheckedInputs, evaluate.Metric):
    """Corpus BLEU-1 to BLEU-4; see `bleu_scores`."""

    several_references = True

    def _info(self) -> evaluate.MetricInfo:
        texts = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            # a plain string is wrapped in a list before it is stored, so that a corpus may mix the two forms
            features=datasets.Features({"predictions": texts, "references": datasets.Sequence(texts)}),
            reference_urls=["https://aclanthology.org/P02-1040/", "https://aclanthology.org/W14-3346/"],
        )

    def _compute(
        self,
        predictions: list[str],
        references: list[list[str]],
        tokenizer: Tokenizer = "whitespace",
        resamples: int = 0,
        confidence: float = CONFIDENCE,
        seed: int = 0,
    ) -> dict[str, Any]:
        return bleu_scores(predictions, references, tokenizer, resamples, confidence, seed)
