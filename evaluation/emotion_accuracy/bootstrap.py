"""Bootstrap intervals of a metric: how far its number would move with other samples of the same kind.

Like `texts.py`, this file is the same, byte for byte, in the folder of every metric that gives intervals.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


CONFIDENCE = 0.95
"""Of the intervals, by default."""

CHUNK = 100
"""Resamples at a time: bounds the memory, changes no number."""

Values = Mapping[str, np.ndarray]
"""A metric's numbers by name, each of shape `(r,)` for `r` resamples; NaN where one is not defined."""


class Resampler(ABC):
    """
    A metric as a function of how often each of its samples counts.

    Attributes:
        n (`int`): Samples.
        halves (`bool`): Whether it is resampled by halves, drawn without replacement, rather than by as many samples
            as there are, drawn with it. For metrics that a sample drawn twice would bias; the spread of halves is that
            of the whole (Politis and Romano 1994, with m = n/2), and is laid around the number itself.
        limits (`tuple[float, float]`): The lowest and the highest value that the numbers can have.
    """

    n: int
    halves: bool = False
    limits: tuple[float, float] = (-np.inf, np.inf)

    @abstractmethod
    def values(self, counts: np.ndarray) -> Values:
        """The metric's numbers for `counts` of shape `(r, n)`, how often each sample counts in each resample."""

    @abstractmethod
    def ordered(self) -> Resampler:
        """The same samples in an order that depends on their content alone."""

    def point(self) -> dict[str, float]:
        """The numbers with each sample counted once."""
        return {name: float(values[0]) for name, values in self.values(np.ones((1, self.n))).items()}


@dataclass(frozen=True)
class Sums(Resampler):
    """
    A metric that is made of sums over its samples.

    Args:
        statistics (`np.ndarray` of shape `(n, k)`): What each sample adds to each of `k` sums.
        finish (`Callable`): From the sums, of shape `(r, k)`, to the metric's numbers.

    Example:

    >>> mean = Sums(np.array([[1.0], [3.0]]), lambda sums: {"mean": sums[:, 0] / 2})
    >>> mean.point(), mean.values(np.array([[2, 0]]))["mean"].tolist()
    ({'mean': 2.0}, [1.0])
    """

    statistics: np.ndarray
    finish: Callable[[np.ndarray], Values]

    @property
    def n(self) -> int:  # type: ignore[override]
        """Samples."""
        return len(self.statistics)

    def values(self, counts: np.ndarray) -> Values:
        """The metric's numbers for each row of `counts`."""
        return self.finish(counts @ self.statistics)

    def ordered(self) -> Sums:
        """The rows sorted by their columns."""
        return Sums(self.statistics[np.lexsort(self.statistics.T[::-1])], self.finish)


def means(columns: Mapping[str, np.ndarray]) -> Sums:
    """
    The mean of each column over the samples that have it.

    Args:
        columns (`Mapping[str, np.ndarray]`): Name -> values of shape `(n,)`, NaN where a sample has none.

    Example:

    >>> means({"score": np.array([1.0, np.nan, 2.0])}).point()
    {'score': 1.5}
    """
    table = np.stack([np.asarray(values, float) for values in columns.values()], axis=1)
    known, k = ~np.isnan(table), table.shape[1]

    def finish(sums: np.ndarray) -> Values:
        found = divided(sums[:, :k], sums[:, k:])
        return {name: found[:, i] for i, name in enumerate(columns)}

    return Sums(np.concatenate([np.where(known, table, 0.0), known.astype(float)], axis=1), finish)


def divided(part: np.ndarray, whole: np.ndarray, otherwise: float = np.nan) -> np.ndarray:
    """`part / whole`, and `otherwise` where there is nothing to divide by."""
    part, whole = np.broadcast_arrays(np.asarray(part, float), np.asarray(whole, float))
    return np.divide(part, whole, out=np.full(part.shape, otherwise), where=whole != 0)


def drawn(n: int, resamples: int, seed: int = 0, halves: bool = False) -> Iterator[np.ndarray]:
    """
    How often each of `n` samples is drawn in each resample, in chunks of shape `(r, n)`.

    Args:
        n (`int`): Samples.
        resamples (`int`): How many times they are drawn.
        seed (`int`, *optional*, defaults to `0`): Of the draws.
        halves (`bool`, *optional*, defaults to `False`): Whether half of the samples are drawn, each once at most,
            rather than `n` with replacement.
    """
    draw = np.random.default_rng(seed)
    half = (np.arange(n) < max(n // 2, 1)).astype(float)
    for start in range(0, resamples, CHUNK):
        rows = min(CHUNK, resamples - start)
        if halves:
            yield draw.permuted(np.tile(half, (rows, 1)), axis=1)
        else:
            yield draw.multinomial(n, np.full(n, 1 / n), size=rows).astype(float)


def intervals(
    resampler: Resampler, resamples: int = 1000, confidence: float = CONFIDENCE, seed: int = 0
) -> dict[str, list[float]]:
    """
    The interval of each of a metric's numbers: percentiles over resamples (see [`Resampler`] for how they are drawn).

    Args:
        resampler ([`Resampler`]): The metric.
        resamples (`int`, *optional*, defaults to `1000`): How many times samples are drawn.
        confidence (`float`, *optional*, defaults to `0.95`): Share of the resamples inside, in (0, 1).
        seed (`int`, *optional*, defaults to `0`): Of the draws.

    Returns:
        `dict`: name -> `[low, high]`, NaN where no resample has the number.
    """
    chunks = [resampler.values(counts) for counts in drawn(resampler.n, resamples, seed, resampler.halves)]
    point = resampler.point() if resampler.halves else {}
    found = {}
    for name in chunks[0]:
        values = np.concatenate([np.asarray(chunk[name], float) for chunk in chunks])
        values = values[~np.isnan(values)]
        if not len(values):
            found[name] = [float("nan")] * 2
            continue
        shift = point[name] - values.mean() if resampler.halves else 0.0
        ends = np.percentile(values, [50 * (1 - confidence), 50 * (1 + confidence)])
        found[name] = [float(end) for end in np.clip(ends + shift, *resampler.limits)]
    return found


def with_intervals(
    found: dict[str, Any], make: Callable[[], Resampler], resamples: int, confidence: float, seed: int
) -> dict[str, Any]:
    """
    A metric's result, and with `resamples` the interval of each number as `<name>_interval`, `[low, high]`.

    The samples are put in an order of their own first, so that the intervals do not depend on the one they came in.

    Raises:
        ValueError: `resamples` is no whole number from 0 up, or `confidence` is not between 0 and 1.
    """
    if not isinstance(resamples, int) or isinstance(resamples, bool) or resamples < 0:
        raise ValueError(f"resamples must be a whole number from 0 (no intervals) up, got {resamples!r}.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, e.g. 0.95, got {confidence!r}.")
    if not resamples:
        return found
    ends = intervals(make().ordered(), resamples, confidence, seed)
    return {**found, **{f"{name}_interval": pair for name, pair in ends.items()}}
