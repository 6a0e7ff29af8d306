"""Dist-1 and Dist-2: how varied the replies are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..bootstrap import Resampler, Values, with_intervals
from ..texts import Tokenizer, check_columns, tokenize_all


def distinct_scores(
    predictions: Sequence[str], tokenizer: Tokenizer = "nltk", truncate_to: int | None = None, **bootstrap: Any
) -> dict[str, Any]:
    """Dist-1 and Dist-2 of a whole corpus (Li et al. 2016), x100; card: `evaluation/distinct/README.md`."""
    [texts] = check_columns({"predictions": predictions})
    corpus = tokenize_all(_first(texts, truncate_to), tokenizer)
    found = {"dist1": distinct_ratio(corpus, 1), "dist2": distinct_ratio(corpus, 2), "n": len(corpus)}
    return with_intervals(found, lambda: DistinctResampler(corpus), **bootstrap)


def distinct_ratio(corpus: Sequence[Sequence[str]], order: int) -> float:
    """
    Unique n-grams over all n-grams of a corpus of token lists, x100; 0 without any. N-grams do not cross texts.

    >>> distinct_ratio([["so", "so"], ["so", "sad"]], 1)
    50.0
    """
    ngrams = [tuple(tokens[i : i + order]) for tokens in corpus for i in range(len(tokens) - order + 1)]
    return 100.0 * len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def _first(texts: list[str], count: int | None) -> list[str]:
    """The first `count` texts, or all where `count` is None."""
    if count is None:
        return texts
    if not isinstance(count, int) or isinstance(count, bool):
        raise TypeError(f"truncate_to must be an integer, got {type(count).__name__}: {count!r}.")
    if count < 1:
        raise ValueError(f"truncate_to must be at least 1, got {count}.")
    if count > len(texts):
        raise ValueError(f"truncate_to is {count}, but there are only {len(texts)} predictions.")
    return texts[:count]


@dataclass(frozen=True)
class DistinctResampler(Resampler):
    """
    Dist-1 and Dist-2 of resamples of a corpus of token lists.

    A reply drawn twice adds no new n-gram; resamples would be less varied than the corpus. So halves are drawn.
    """

    corpus: Sequence[Sequence[str]]
    halves = True
    limits = (0.0, 100.0)

    @property
    def n(self) -> int:  # type: ignore[override]
        """The number of texts."""
        return len(self.corpus)

    def ranks(self) -> np.ndarray:
        """Texts are ordered by their tokens."""
        texts = [tuple(tokens) for tokens in self.corpus]
        places = {text: i for i, text in enumerate(sorted(set(texts)))}
        return np.array([places[text] for text in texts], int)

    def take(self, order: np.ndarray) -> DistinctResampler:
        """The texts with these numbers, in this order."""
        return DistinctResampler([self.corpus[i] for i in order])

    def values(self, counts: np.ndarray) -> Values:
        """`dist1` and `dist2` of each resample, shape `(r,)`."""
        return {f"dist{order}": self._ratios(order, counts) for order in (1, 2)}

    @cached_property
    def _ngrams(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """Order -> for each n-gram of the corpus, the number of its text and the number of its kind."""
        found = {}
        for order in (1, 2):
            kinds: dict[tuple[str, ...], int] = {}
            pairs = [
                (i, kinds.setdefault(tuple(tokens[at : at + order]), len(kinds)))
                for i, tokens in enumerate(self.corpus)
                for at in range(len(tokens) - order + 1)
            ]
            texts, which = np.array(pairs, int).reshape(-1, 2).T
            found[order] = (texts, which)
        return found

    def _ratios(self, order: int, counts: np.ndarray) -> np.ndarray:
        texts, found = self._ngrams[order]
        ratios = np.zeros(len(counts))
        for row, times in enumerate(counts):
            drawn = times[texts]
            total, seen = drawn.sum(), np.zeros(found.max(initial=-1) + 1, bool)
            seen[found[drawn > 0]] = True
            ratios[row] = 100.0 * seen.sum() / total if total else 0.0
        return ratios
