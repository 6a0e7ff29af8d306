"""Word F1 over a corpus: the arithmetic, without `evaluate`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from .bootstrap import Sums, Values, divided, with_intervals
from .texts import Tokenizer, check_same_length, check_texts, tokenize_all


def clipped_matches(prediction: Sequence[str], reference: Sequence[str]) -> int:
    """
    The clipped unigram matches of two token lists: the sum over words of the smaller of the two counts.

    Example:

    >>> clipped_matches(["so", "so", "sorry"], ["so", "sorry", "sorry"])
    2
    """
    return (Counter(prediction) & Counter(reference)).total()


def word_f1_resampler(hypotheses: Sequence[Sequence[str]], targets: Sequence[Sequence[str]]) -> Sums:
    """Word F1 of resamples of a corpus of token lists; see [`word_f1_scores`]."""
    pairs = zip(hypotheses, targets, strict=True)
    return Sums(np.array([[clipped_matches(hyp, ref), len(hyp), len(ref)] for hyp, ref in pairs], float), _from_sums)


def _from_sums(sums: np.ndarray) -> Values:
    """From matches, predicted and reference tokens, `(r, 3)`, to the three numbers, each of shape `(r,)`."""
    matches, predicted, wanted = sums.T
    return {
        "word_f1": divided(200.0 * matches, predicted + wanted, 0.0),
        "precision": divided(100.0 * matches, predicted, 0.0),
        "recall": divided(100.0 * matches, wanted, 0.0),
    }


def word_f1_scores(
    predictions: Sequence[str],
    references: Sequence[str],
    tokenizer: Tokenizer = "whitespace",
    resamples: int = 0,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """
    Word F1 over the corpus, x100: counts are summed over the samples first, then one F1 is made of them.

    With P_i and R_i the bags of words of sample i's prediction and reference, and M_i = |P_i & R_i| the clipped
    matches: precision = sum M_i / sum |P_i|, recall = sum M_i / sum |R_i|, F1 = 2 * precision * recall /
    (precision + recall) = 2 * sum M_i / (sum |P_i| + sum |R_i|).

    Args:
        predictions (`Sequence[str]`):
            The generated texts.
        references (`Sequence[str]`):
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
        `dict`: `word_f1`, `precision`, `recall` (0 to 100; 0 where there are no tokens to divide by) and `n`, the
        number of samples; with `resamples`, also `<name>_interval`, `[low, high]`, of each but `n`.

    Raises:
        ValueError: no samples, different numbers of predictions and references, or an unknown tokenizer.
        TypeError: something is not a string.

    Example:

    >>> word_f1_scores(["i am so so sorry", "oh"], ["i am sorry", "oh no !"])
    {'word_f1': 66.66666666666667, 'precision': 66.66666666666667, 'recall': 66.66666666666667, 'n': 2}
    """
    predictions, references = check_texts("predictions", predictions), check_texts("references", references)
    check_same_length(predictions=predictions, references=references)
    hypotheses, targets = tokenize_all(predictions, tokenizer), tokenize_all(references, tokenizer)
    resampler = word_f1_resampler(hypotheses, targets)
    found = {**resampler.point(), "n": resampler.n}
    return with_intervals(found, lambda: resampler, resamples, confidence, seed)
