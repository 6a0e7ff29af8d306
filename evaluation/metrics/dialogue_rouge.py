"""Mean ROUGE F1 per sample. The score of a sample is rouge_score's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ee_trl.errors import require

from ..bootstrap import Sums, means, with_intervals
from ..texts import Tokenizer, check_columns, get_tokenizer


ROUGE_TYPES = ("rouge1", "rouge2", "rougeL")


def rouge_scores(
    predictions: Sequence[str],
    references: Sequence[str],
    use_stemmer: bool = False,
    tokenizer: Tokenizer | None = None,
    **bootstrap: Any,
) -> dict[str, Any]:
    """
    ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004): the F1 of each sample, averaged over the samples, x100.

    F1 = 2PR / (P + R); for ROUGE-1 and ROUGE-2, P and R are the share of the prediction's and of the reference's
    n-grams that the other holds (clipped); for ROUGE-L, the length of the longest common subsequence over either
    length.

    Args:
        predictions (`Sequence[str]`): The generated texts.
        references (`Sequence[str]`): The reference of each.
        use_stemmer (`bool`, *optional*, defaults to `False`): Whether words of more than three letters are cut to
            their Porter stem first. Only rouge_score's own tokenizer does that.
        tokenizer (`str` or `Callable`, *optional*): By default rouge_score's own: lower case, runs of the letters a to
            z and of digits. It leaves nothing of a text in another script; for that see
            [`~ee_trl.evaluation.texts.get_tokenizer`].
        bootstrap (*optional*): See [`~ee_trl.evaluation.bootstrap.Bootstrap`].

    Returns:
        `dict`: `rouge1`, `rouge2`, `rougeL` (0 to 100) and `n`, the number of samples; with `resamples` also
        `<name>_interval` of each but `n`.

    Example:

    >>> scores = rouge_scores(["i am so sorry"], ["i am sorry"])
    >>> {name: round(value, 2) for name, value in scores.items()}
    {'rouge1': 85.71, 'rouge2': 40.0, 'rougeL': 85.71, 'n': 1}
    """
    samples = sample_scores(predictions, references, use_stemmer, tokenizer)
    # fsum rounds once, so that the mean does not depend on the order of the samples
    averages = {name: math.fsum(values) / len(values) for name, values in samples.items()}
    found = {**averages, "n": len(samples[ROUGE_TYPES[0]])}
    return with_intervals(found, lambda: rouge_resampler(samples), **bootstrap)


def rouge_resampler(samples: Mapping[str, Sequence[float]]) -> Sums:
    """Mean ROUGE of resamples, from what [`sample_scores`] gives."""
    return means({name: np.array(values) for name, values in samples.items()})


def sample_scores(
    predictions: Sequence[str],
    references: Sequence[str],
    use_stemmer: bool = False,
    tokenizer: Tokenizer | None = None,
) -> dict[str, list[float]]:
    """Each sample's ROUGE-1, ROUGE-2 and ROUGE-L F1, x100; arguments as in [`rouge_scores`]."""
    predictions, references = check_columns({"predictions": predictions, "references": references})
    if tokenizer is not None and use_stemmer:
        raise ValueError("use_stemmer=True works with rouge_score's own tokenizer only: leave tokenizer unset.")
    module = require("rouge_score.rouge_scorer", extra="metrics", purpose="metric 'dialogue_rouge'")
    tokens = None if tokenizer is None else _Tokens(get_tokenizer(tokenizer))
    scorer = module.RougeScorer(list(ROUGE_TYPES), use_stemmer=use_stemmer, tokenizer=tokens)
    samples = [scorer.score(target=ref, prediction=pred) for pred, ref in zip(predictions, references, strict=True)]
    return {name: [100.0 * sample[name].fmeasure for sample in samples] for name in ROUGE_TYPES}


class _Tokens:
    """A tokenizer as rouge_score takes it: an object with a `tokenize` method."""

    def __init__(self, tokenize: Callable[[str], Sequence[str]]) -> None:
        self.tokenize = tokenize
