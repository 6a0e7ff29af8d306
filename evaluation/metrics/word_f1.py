"""Word F1 over a corpus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..bootstrap import Sums, Values, divided, with_intervals
from ..texts import Tokenizer, check_columns, tokenize_all


def word_f1_scores(
    predictions: Sequence[str], references: Sequence[str], tokenizer: Tokenizer = "whitespace", **bootstrap: Any
) -> dict[str, Any]:
    """Word F1, x100, of counts that are summed over the corpus; card: `evaluation/word_f1/README.md`."""
    predictions, references = check_columns({"predictions": predictions, "references": references})
    resampler = word_f1_resampler(tokenize_all(predictions, tokenizer), tokenize_all(references, tokenizer))
    return with_intervals({**resampler.point(), "n": resampler.n}, lambda: resampler, **bootstrap)


def word_f1_resampler(hypotheses: Sequence[Sequence[str]], targets: Sequence[Sequence[str]]) -> Sums:
    """The numbers of [`word_f1_scores`] for resamples of a corpus of token lists."""
    pairs = zip(hypotheses, targets, strict=True)
    return Sums(np.array([[clipped_matches(hyp, ref), len(hyp), len(ref)] for hyp, ref in pairs], float), _from_sums)


def clipped_matches(prediction: Sequence[str], reference: Sequence[str]) -> int:
    """
    The clipped unigram matches of two token lists: the sum over words of the smaller of the two counts.

    >>> clipped_matches(["so", "so", "sorry"], ["so", "sorry", "sorry"])
    2
    """
    return (Counter(prediction) & Counter(reference)).total()


def _from_sums(sums: np.ndarray) -> Values:
    """From matches, predicted and reference tokens, `(r, 3)`, to the three numbers, each of shape `(r,)`."""
    matches, predicted, wanted = sums.T
    return {
        "word_f1": divided(200.0 * matches, predicted + wanted, 0.0),
        "precision": divided(100.0 * matches, predicted, 0.0),
        "recall": divided(100.0 * matches, wanted, 0.0),
    }
