"""An LLM as the judge of replies as an `evaluate` module. The arithmetic is in `verdicts.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import datasets
import evaluate

from .bootstrap import CONFIDENCE
from .questions import ASPECTS
from .texts import CheckedInputs, from_json
from .verdicts import judge_pairs, judge_replies


_DESCRIPTION = """
An LLM judges replies on naturalness, coherence and empathy: each on its own from 1 to 3 (configuration "absolute"), or
against another reply, asked in both orders, with the position bias reported (configuration "pairwise").
"""

_CITATION = """
@inproceedings{zheng2023judging,
    title = {Judging {LLM}-as-a-Judge with {MT}-Bench and Chatbot Arena},
    author = {Zheng, Lianmin and Chiang, Wei-Lin and Sheng, Ying and others},
    booktitle = {Advances in Neural Information Processing Systems, Datasets and Benchmarks Track},
    year = {2023}
}
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[str]`):
        The replies.
    references (`list[str]`):
        Of the configuration "pairwise": what each is compared with, e.g. another model's reply.
    contexts (`list[list[str]]`, `list[list[dict]]` or `list[str]`):
        What came before each: utterances of which the last is the speaker's, or messages.
    judge (`str` or object):
        A folder or hub id of a causal language model, `"server"`, or an object with `fingerprint` and
        `choose(questions, options)`.
    aspects (`list[str]`, *optional*):
        Of `naturalness`, `coherence`, `empathy`; by default all.
    judge_options (`dict`, *optional*):
        Of a judge that is loaded here, e.g. `{"quantization": "nf4"}`, or `{"model": ..., "base_url": ...}` of a
        server.
    resamples (`int`, *optional*, defaults to `0`):
        How many bootstrap resamples to draw for an interval of each number; 0 for no intervals.
    confidence (`float`, *optional*, defaults to `0.95`):
        Of the intervals.
    seed (`int`, *optional*, defaults to `0`):
        Of the resamples.

Returns:
    `dict`: absolute: each aspect's mean (1 to 3). Pairwise: `<aspect>_win`, `_tie`, `_lose` (shares), `_preference`
    (0.5 is even), `_position_bias` (-1 to 1, 0 is none), `_consistency` (share of the same verdict in both orders).
    Both: `unanswered`, `n`, `judge`; with `resamples`, also `<name>_interval`.

Examples:

    A judge of one's own, which likes length:

    >>> import evaluate
    >>> import numpy as np
    >>> class Longest:
    ...     fingerprint = "longest"
    ...     def choose(self, questions, options):
    ...         lengths = [len(question.candidates[0][1]) for question in questions]
    ...         return np.array([[0.0, 0.0, 1.0] if length > 5 else [1.0, 0.0, 0.0] for length in lengths])
    >>> judge = evaluate.load("evaluation/judge")
    >>> found = judge.compute(predictions=["i am so sorry", "oh"], contexts=["my dog died"] * 2, judge=Longest())
    >>> found["empathy"], found["n"], found["judge"]
    (2.0, 2, 'longest/judge-1')
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class Judge(CheckedInputs, evaluate.Metric):
    """An LLM judge; see `judge_replies` and `judge_pairs`."""

    def _info(self) -> evaluate.MetricInfo:
        names = {"default": "absolute", "absolute": "absolute", "pairwise": "pairwise"}
        if self.config_name not in names:
            raise ValueError(f"unknown configuration {self.config_name!r}; valid: absolute, pairwise.")
        texts = datasets.Value("string")
        pairwise = names[self.config_name] == "pairwise"
        columns = ("predictions", "references", "contexts") if pairwise else ("predictions", "contexts")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(dict.fromkeys(columns, texts)),
            reference_urls=["https://arxiv.org/abs/2306.05685"],
        )

    def _compute(
        self,
        predictions: list[str],
        contexts: list[str],
        references: list[str] | None = None,
        judge: Any = None,
        aspects: tuple[str, ...] = tuple(ASPECTS),
        judge_options: Mapping[str, Any] | None = None,
        resamples: int = 0,
        confidence: float = CONFIDENCE,
        seed: int = 0,
    ) -> dict[str, Any]:
        options = (judge, aspects, judge_options, resamples, confidence, seed)
        if references is None:
            return judge_replies(predictions, from_json(contexts), *options)
        return judge_pairs(predictions, references, from_json(contexts), *options)
