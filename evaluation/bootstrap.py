"""How certain a number is: bootstrap intervals, paired differences between candidates, and Holm's correction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ee_trl.errors import EmpathyError, check_count


CHUNK = 100
"""Resamples at a time: it bounds the memory and does not change the numbers."""

Values = Mapping[str, np.ndarray]
"""A metric's numbers by name, each of shape `(r,)` for `r` resamples; NaN where one is not defined."""


@dataclass(frozen=True)
class Bootstrap:
    """
    How samples are drawn for intervals.

    Args:
        resamples (`int`, *optional*, defaults to `0`): How many times the samples are drawn; 0 gives no intervals.
        confidence (`float`, *optional*, defaults to `0.95`): The share of the resamples inside an interval.
        seed (`int`, *optional*, defaults to `0`): Seed of the draws.
        clusters (`Sequence`, *optional*):
            The cluster of each sample, e.g. its conversation. Clusters are drawn whole; by default each sample is one.
    """

    resamples: int = 0
    confidence: float = 0.95
    seed: int = 0
    clusters: Sequence[Hashable] | None = None

    def __post_init__(self) -> None:
        check_count("resamples", self.resamples, 0)
        check_count("seed", self.seed, 0)
        if not isinstance(self.confidence, (int, float)) or not 0 < self.confidence < 1:
            raise EmpathyError(f"confidence {self.confidence!r} is not a share between 0 and 1, e.g. 0.95")

    def members(self, n: int) -> np.ndarray:
        """The number of each sample's cluster, shape `(n,)`; clusters are numbered as they first occur."""
        if self.clusters is None:
            return np.arange(n)
        if len(self.clusters) != n:
            raise EmpathyError(f"clusters must name one cluster for each of {n} samples, got {len(self.clusters)}")
        numbers: dict[Hashable, int] = {}
        return np.array([numbers.setdefault(cluster, len(numbers)) for cluster in self.clusters], int)

    def draws(self, n: int, halves: bool = False) -> Iterator[np.ndarray]:
        """
        How often each of `n` samples counts in each resample, in chunks of shape `(r, n)`.

        As many clusters are drawn as there are, with replacement, or half of them (`halves`) without replacement.
        """
        members = self.members(n)
        m = int(members.max(initial=-1)) + 1
        draw = np.random.default_rng(self.seed)
        half = (np.arange(m) < max(m // 2, 1)).astype(float)
        for start in range(0, self.resamples, CHUNK):
            rows = min(CHUNK, self.resamples - start)
            if halves:
                yield draw.permuted(np.tile(half, (rows, 1)), axis=1)[:, members]
            else:
                yield draw.multinomial(m, np.full(m, 1 / m), size=rows).astype(float)[:, members]

    def ends(self, values: np.ndarray) -> np.ndarray:
        """The two percentiles that enclose `confidence` of the values."""
        return np.percentile(values, [50 * (1 - self.confidence), 50 * (1 + self.confidence)])


class Resampler(ABC):
    """
    A metric as a function of how often each of its `n` samples counts; its numbers stay within `limits`.

    With `halves`, half of the samples are drawn without replacement, for metrics that repeated samples would bias.
    Halves vary as much as the whole (Politis and Romano 1994, m = n/2); the number itself centres the intervals.
    """

    n: int
    halves: bool = False
    limits: tuple[float, float] = (-np.inf, np.inf)

    @abstractmethod
    def values(self, counts: np.ndarray) -> Values:
        """The metric's numbers for `counts` of shape `(r, n)`, how often each sample counts in each resample."""

    @abstractmethod
    def ranks(self) -> np.ndarray:
        """The place of each sample in an order of their content, shape `(n,)`; equal samples have equal ranks."""

    @abstractmethod
    def take(self, order: np.ndarray) -> Resampler:
        """The samples with these numbers, in this order."""

    def point(self, inside: np.ndarray | None = None) -> dict[str, float]:
        """The numbers with each sample counted once, or only with those that are `inside`, shape `(n,)`."""
        counts = np.ones(self.n) if inside is None else np.asarray(inside, float)
        return {name: float(values[0]) for name, values in self.values(counts[None]).items()}


@dataclass(frozen=True)
class Sums(Resampler):
    """
    A metric of sums: `statistics`, `(n, k)`, is what each sample adds; `finish` maps sums, `(r, k)`, to numbers.

    >>> mean = Sums(np.array([[1.0], [3.0]]), lambda sums: {"mean": sums[:, 0] / 2})
    >>> mean.point(), mean.values(np.array([[2, 0]]))["mean"].tolist()
    ({'mean': 2.0}, [1.0])
    """

    statistics: np.ndarray
    finish: Callable[[np.ndarray], Values]

    @property
    def n(self) -> int:  # type: ignore[override]
        """The number of samples."""
        return len(self.statistics)

    def values(self, counts: np.ndarray) -> Values:
        """The metric's numbers for each row of `counts`."""
        return self.finish(counts @ self.statistics)

    def ranks(self) -> np.ndarray:
        """Samples are ordered by their first sum, then by the second, and so on."""
        return np.unique(self.statistics, axis=0, return_inverse=True)[1].reshape(-1)

    def take(self, order: np.ndarray) -> Sums:
        """The samples with these numbers, in this order."""
        return Sums(self.statistics[order], self.finish)


def means(columns: Mapping[str, np.ndarray]) -> Sums:
    """
    The mean of each column, shape `(n,)`, over the values that are not NaN.

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
    """`part / whole`, and `otherwise` where `whole` is 0."""
    part, whole = np.broadcast_arrays(np.asarray(part, float), np.asarray(whole, float))
    return np.divide(part, whole, out=np.full(part.shape, otherwise), where=whole != 0)


def intervals(resampler: Resampler, bootstrap: Bootstrap) -> dict[str, list[float]]:
    """Name -> `[low, high]`, percentiles over resamples; NaN if no resample defines the number."""
    chunks = [resampler.values(counts) for counts in bootstrap.draws(resampler.n, resampler.halves)]
    point = resampler.point() if resampler.halves else {}
    found = {}
    for name in chunks[0] if chunks else ():
        values = np.concatenate([np.asarray(chunk[name], float) for chunk in chunks])
        values = values[~np.isnan(values)]
        if not len(values):
            found[name] = [float("nan")] * 2
            continue
        shift = point[name] - values.mean() if resampler.halves else 0.0
        found[name] = [float(end) for end in np.clip(bootstrap.ends(values) + shift, *resampler.limits)]
    return found


def with_intervals(found: dict[str, Any], make: Callable[[], Resampler], **options: Any) -> dict[str, Any]:
    """
    A metric's result, with the interval of each number as `<name>_interval`, `[low, high]`.

    The samples are first sorted by content, so that intervals do not depend on the order of the data.
    """
    bootstrap = Bootstrap(**options)
    if not bootstrap.resamples:
        return found
    ends = intervals(*_in_content_order(make(), bootstrap))
    return {**found, **{f"{name}_interval": pair for name, pair in ends.items()}}


def _in_content_order(resampler: Resampler, bootstrap: Bootstrap) -> tuple[Resampler, Bootstrap]:
    members, ranks = bootstrap.members(resampler.n), resampler.ranks()
    content: dict[int, list[int]] = {}
    for member, rank in zip(members.tolist(), ranks.tolist(), strict=True):
        content.setdefault(member, []).append(rank)
    keys = [(sorted(content[member]), member, rank) for member, rank in zip(members, ranks, strict=True)]
    order = np.array(sorted(range(resampler.n), key=keys.__getitem__), int)
    return resampler.take(order), replace(bootstrap, clusters=members[order].tolist())


def compare(a: Resampler, b: Resampler, bootstrap: Bootstrap) -> dict[str, dict[str, Any]]:
    """
    How B's numbers differ from A's, by the paired bootstrap: both are measured on the same draws of the same samples.

    Returns name -> `difference` (B - A), `interval` (`[low, high]`) and two-sided `p` (see [`two_sided`]); `None`
    where a number is not defined.
    """
    if a.n != b.n:
        raise ValueError(f"paired samples are needed: A has {a.n}, B {b.n}.")
    points = a.point(), b.point()
    chunks = [(a.values(counts), b.values(counts)) for counts in bootstrap.draws(a.n, a.halves)]
    found: dict[str, dict[str, Any]] = {}
    for name in (name for name in points[0] if name in points[1]):
        difference = points[1][name] - points[0][name]
        values = np.concatenate([np.asarray(of_b[name]) - np.asarray(of_a[name]) for of_a, of_b in chunks])
        values = values[np.isfinite(values)]
        if not np.isfinite(difference) or not len(values):
            found[name] = {"difference": None, "interval": None, "p": None}
            continue
        if a.halves:
            values = values - values.mean() + difference
        found[name] = {
            "difference": float(difference),
            "interval": [float(end) for end in bootstrap.ends(values)],
            "p": two_sided(values),
        }
    return found


def two_sided(values: np.ndarray) -> float:
    """
    Twice the smaller share of resampled differences on either side of 0, with one more on each; at most 1.

    >>> two_sided(np.array([0.5] * 99)), two_sided(np.array([-1.0, 1.0] * 50))
    (0.02, 1.0)
    """
    below, above = (values <= 0).sum() + 1, (values >= 0).sum() + 1
    return float(min(1.0, 2 * min(below, above) / (len(values) + 1)))


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """
    P values corrected for their number (Holm 1979): they bound the chance of one false difference among all.

    >>> holm({"a": 0.01, "b": 0.04, "c": None})
    {'a': 0.02, 'b': 0.04, 'c': None}
    """
    known = sorted((p, name) for name, p in p_values.items() if p is not None)
    found: dict[str, float | None] = dict.fromkeys(p_values)
    highest = 0.0
    for i, (p, name) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - i)))
        found[name] = highest
    return found
