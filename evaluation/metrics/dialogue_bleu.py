"""Corpus BLEU-1 to BLEU-4. The n-gram counts and the score are nltk's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ee_trl.errors import require

from ..bootstrap import Sums, Values, with_intervals
from ..texts import CHECKS, Tokenizer, check_columns, check_references, tokenize_all


MAX_ORDER = 4
EPSILON = 1e-12
BLEU_CHECKS = {**CHECKS, "references": check_references}
"""The checks of the columns: each prediction may have several references."""


def bleu_scores(
    predictions: Sequence[str],
    references: Sequence[str | Sequence[str]],
    tokenizer: Tokenizer = "whitespace",
    **bootstrap: Any,
) -> dict[str, Any]:
    """BLEU-1 to BLEU-4 (Papineni et al. 2002), x100, by nltk; card: `evaluation/dialogue_bleu/README.md`."""
    texts, several = check_columns({"predictions": predictions, "references": references}, BLEU_CHECKS)
    hypotheses, targets = tokenize_all(texts, tokenizer), [tokenize_all(one, tokenizer) for one in several]
    bleu = _nltk_bleu()
    weights = [(1.0 / order,) * order for order in range(1, MAX_ORDER + 1)]
    scores = bleu.corpus_bleu(targets, hypotheses, weights, bleu.SmoothingFunction(epsilon=EPSILON).method1)
    lengths = [len(hypothesis) for hypothesis in hypotheses]
    closest = [bleu.closest_ref_length(refs, length) for refs, length in zip(targets, lengths, strict=True)]
    found = {
        **{f"bleu{order}": 100.0 * float(score) for order, score in enumerate(scores, start=1)},
        "brevity_penalty": float(bleu.brevity_penalty(sum(closest), sum(lengths))),
        "prediction_length": sum(lengths),
        "reference_length": sum(closest),
        "n": len(lengths),
    }
    return with_intervals(found, lambda: bleu_resampler(hypotheses, targets), **bootstrap)


def bleu_resampler(hypotheses: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> Sums:
    """BLEU-1 to BLEU-4 of resamples of a corpus of token lists; see [`bleu_scores`]."""
    bleu = _nltk_bleu()
    rows = []
    for hypothesis, refs in zip(hypotheses, references, strict=True):
        counts = [bleu.modified_precision(refs, hypothesis, order) for order in range(1, MAX_ORDER + 1)]
        length = len(hypothesis)
        sums = [*(c.numerator for c in counts), *(c.denominator for c in counts)]
        rows.append([*sums, length, bleu.closest_ref_length(refs, length)])
    return Sums(np.array(rows, float), _from_sums)


def _from_sums(sums: np.ndarray) -> Values:
    """BLEU, each of shape `(r,)`, from matches and n-grams of each order, and both lengths, `(r, 10)`."""
    matches, ngrams = sums[:, :MAX_ORDER], sums[:, MAX_ORDER : 2 * MAX_ORDER]
    length, closest = sums[:, -2], sums[:, -1]
    with np.errstate(divide="ignore", invalid="ignore"):
        penalty = np.where(length > closest, 1.0, np.exp(1 - closest / length))
        logs = np.cumsum(np.log(np.where(matches > 0, matches, EPSILON) / ngrams), axis=1)
    scores = 100.0 * penalty[:, None] * np.exp(logs / np.arange(1, MAX_ORDER + 1))
    scores[(matches[:, 0] == 0) | (length == 0)] = 0.0
    return {f"bleu{order}": scores[:, order - 1] for order in range(1, MAX_ORDER + 1)}


def _nltk_bleu() -> Any:
    return require("nltk.translate.bleu_score", extra="metrics", purpose="metric 'dialogue_bleu'")
