"""ROUGE-1, ROUGE-2 and ROUGE-L as an `evaluate` module. The arithmetic is in `rouge.py`."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from .bootstrap import CONFIDENCE
from .rouge import rouge_scores
from .texts import CheckedInputs, Tokenizer


_DESCRIPTION = """
ROUGE-1, ROUGE-2 and ROUGE-L by the rouge_score library: the F1 of each sample, averaged over the samples, x100.
"""

_CITATION = """
@inproceedings{lin2004rouge,
    title = {{ROUGE}: A Package for Automatic Evaluation of Summaries},
    author = {Lin, Chin-Yew},
    booktitle = {Text Summarization Branches Out},
    year = {2004}
}
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[str]`):
        The generated replies.
    references (`list[str]`):
        The reference of each.
    use_stemmer (`bool`, *optional*, defaults to `False`):
        Whether words are cut to their Porter stem first.
    tokenizer (`str` or `Callable`, *optional*):
        rouge_score's own when not set (runs of a to z and of digits, lower-cased); `"whitespace"`, `"nltk"`, or a
        function from a text to its tokens.
    resamples (`int`, *optional*, defaults to `0`):
        How many bootstrap resamples to draw for an interval of each number; 0 for no intervals.
    confidence (`float`, *optional*, defaults to `0.95`):
        Of the intervals.
    seed (`int`, *optional*, defaults to `0`):
        Of the resamples.

Returns:
    `dict`: `rouge1`, `rouge2`, `rougeL` (0 to 100) and `n`, the number of samples; with `resamples`, also
    `rouge1_interval`, `rouge2_interval`, `rougeL_interval`.

Examples:

    >>> import evaluate
    >>> rouge = evaluate.load("evaluation/dialogue_rouge")
    >>> scores = rouge.compute(predictions=["i am so sorry"], references=["i am sorry"])
    >>> {name: round(value, 2) for name, value in scores.items()}
    {'rouge1': 85.71, 'rouge2': 40.0, 'rougeL': 85.71, 'n': 1}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class DialogueRouge(CheckedInputs, evaluate.Metric):
    """Mean ROUGE F1; see `rouge_scores`."""

    def _info(self) -> evaluate.MetricInfo:
        texts = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": texts, "references": texts}),
            reference_urls=["https://aclanthology.org/W04-1013/"],
        )

    def _compute(
        self,
        predictions: list[str],
        references: list[str],
        use_stemmer: bool = False,
        tokenizer: Tokenizer | None = None,
        resamples: int = 0,
        confidence: float = CONFIDENCE,
        seed: int = 0,
    ) -> dict[str, Any]:
        return rouge_scores(predictions, references, use_stemmer, tokenizer, resamples, confidence, seed)
