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
    """
    Word F1 over the corpus, x100: counts are summed over the samples first, then one F1 is made of them.

    With P_i and R_i the bags of words of sample i's prediction and reference, and M_i = |P_i & R_i| the clipped
    matches: precision = sum M_i / sum |P_i|, recall = sum M_i / sum |R_i|, F1 = 2 * precision * recall /
    (precision + recall) = 2 * sum M_i / (sum |P_i| + sum |R_i|).

    Args:
        predictions (`Sequence[str]`): The generated texts.
        references (`Sequence[str]`): The reference of each.
        tokenizer (`str` or `Callable`, *optional*, defaults to `"whitespace"`): See
            [`~ee_trl.evaluation.texts.get_tokenizer`].
        bootstrap (*optional*): See [`~ee_trl.evaluation.bootstrap.Bootstrap`].

    Returns:
        `dict`: `word_f1`, `precision`, `recall` (0 to 100; 0 where there are no tokens to divide by) and `n`, the
        number of samples; with `resamples` also `<name>_interval` of each but `n`.

    Example:

    >>> word_f1_scores(["i am so so sorry", "oh"], ["i am sorry", "oh no !"])
    {'word_f1': 66.66666666666667, 'precision': 66.66666666666667, 'recall': 66.66666666666667, 'n': 2}
    """
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

    Example:

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
