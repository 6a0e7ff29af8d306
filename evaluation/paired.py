"""Whether two candidates differ: the paired bootstrap, both measured on the same draws of the same dialogues."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from .distinct.bootstrap import drawn


class AnyResampler(Protocol):
    """A resampler of any metric: each metric's folder has a class of its own."""

    halves: bool

    @property
    def n(self) -> int:
        """Samples."""
        ...

    def values(self, counts: np.ndarray) -> Mapping[str, np.ndarray]:
        """The metric's numbers for each row of `counts`, of shape `(r, n)`."""
        ...

    def point(self) -> dict[str, float]:
        """The numbers with each sample counted once."""
        ...


def compare(
    a: AnyResampler, b: AnyResampler, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """
    How B's numbers differ from A's.

    Args:
        a, b (`Resampler`):
            The same metric of two candidates, over the same samples in the same order.
        resamples (`int`, *optional*, defaults to `1000`):
            How many times samples are drawn, for both at once.
        confidence (`float`, *optional*, defaults to `0.95`):
            Of the intervals.
        seed (`int`, *optional*, defaults to `0`):
            Of the draws.

    Returns:
        `dict`: name -> `difference` (B - A), `interval` (`[low, high]`) and `p`, two-sided: twice the smaller share of
        resamples on either side of 0, counting one more on each. `None` where a number is not defined.

    Raises:
        ValueError: the two are not of the same number of samples.
    """
    if a.n != b.n:
        raise ValueError(f"paired samples are needed: A has {a.n}, B {b.n}.")
    points = a.point(), b.point()
    chunks = [(a.values(counts), b.values(counts)) for counts in drawn(a.n, resamples, seed, a.halves)]
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
        ends = np.percentile(values, [50 * (1 - confidence), 50 * (1 + confidence)])
        found[name] = {
            "difference": float(difference),
            "interval": [float(end) for end in ends],
            "p": two_sided(values),
        }
    return found


def two_sided(values: np.ndarray) -> float:
    """
    Twice the smaller share of resampled differences on either side of 0, at most 1.

    Example:

    >>> two_sided(np.array([0.5] * 99)), two_sided(np.array([-1.0, 1.0] * 50))
    (0.02, 1.0)
    """
    below, above = (values <= 0).sum() + 1, (values >= 0).sum() + 1
    return float(min(1.0, 2 * min(below, above) / (len(values) + 1)))


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """
    P values corrected for their number (Holm 1979): the chance of one false difference among them all stays as named.

    Example:

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


def pairs_of(names: list[str], baseline: str | None = None) -> list[tuple[str, str]]:
    """The pairs to compare: each candidate with the baseline, or every two of them."""
    if baseline is not None:
        return [(baseline, name) for name in names if name != baseline]
    return [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]


def plain(value: Any) -> Any:
    """The same for JSON: NaN and infinity as null, NumPy's numbers as Python's."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, (np.floating, float)):
        return float(value) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
