"""How far two scorers agree, and what their differences do to the selection: pure functions of their scores."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..axes import (
    AXES,
    DEFAULT_THRESHOLD,
    QUADRANTS,
    RATIONALITY,
    SENSIBILITY,
    TIE,
    Threshold,
    quadrants,
    scores_array,
    thresholds,
)
from ..display import Displayed, Table, number, percent, with_interval
from ..errors import ScoresError


CELLS = (*QUADRANTS, TIE)
"""Rows and columns of the cross table."""

CLASSES = (SENSIBILITY, RATIONALITY, "discarded")
"""The classes of the released rule: a sample trains one expert, the other, or neither."""


@dataclass(frozen=True)
class Agreement(Displayed):
    """
    How B's scores differ from A's on the samples that both scored. Prints as tables; [`~Agreement.to_dict`] gives the
    same for machines. A number that is not defined (a correlation with a constant, a mean of nothing) is `None`.

    Args:
        samples, compared (`int`): All samples, and those that both scored; the other numbers are about the latter.
        unscored (`dict[str, int]`): How many samples `a` and `b` left unscored.
        threshold, ties: See [`agree`]; T as a list.
        axes (`dict[str, dict]`): Axis -> correlations, and the mean of B - A and of its amount, in points of [0, 10].
        quadrants (`dict[str, dict[str, int]]`): Quadrant (or `tie`) by A -> the same by B -> count.
        changed (`float`, *optional*): Share of the samples whose quadrant (or tie) changes from A to B.
        entered, left (`dict`): Count and share of the samples in the sensibility set of B alone, and of A alone.
        three_way (`dict`): Agreement and Cohen's kappa on sensibility, rationality, discarded.
        resamples, seed (`int`): Of the bootstrap behind the intervals, which are percentiles 2.5 and 97.5.
    """

    samples: int
    compared: int
    unscored: dict[str, int]
    threshold: list[float]
    ties: str
    axes: dict[str, dict[str, Any]]
    quadrants: dict[str, dict[str, int]]
    changed: float | None
    entered: dict[str, Any]
    left: dict[str, Any]
    three_way: dict[str, Any]
    resamples: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain types."""
        return asdict(self)

    def parts(self) -> Iterable[str | Table]:
        """How many samples were compared; tables of the scores, of the selection, and of quadrants by A and by B."""
        t_s, t_r = self.threshold
        three = self.three_way
        yield (
            f"{self.compared:,} of {self.samples:,} samples are scored by both and compared; unscored: "
            f"{self.unscored['a']:,} by A, {self.unscored['b']:,} by B."
        )
        axes = [
            (
                axis,
                with_interval(row["spearman"], row["spearman_interval"]),
                number(row["pearson"]),
                number(row["mean_shift"], "+.2f"),
                number(row["mean_absolute_difference"]),
            )
            for axis, row in self.axes.items()
        ]
        head = ("axis", "Spearman (95 %)", "Pearson", "mean of B - A", "mean of |B - A|")
        yield Table(head, axes, "Scores, in points of [0, 10]")
        facts = [
            ("fall into another quadrant", percent(self.changed)),
            ("enter the sensibility set", f"{percent(self.entered['share'])} ({self.entered['count']:,})"),
            ("leave the sensibility set", f"{percent(self.left['share'])} ({self.left['count']:,})"),
            (f"same of three classes ({', '.join(CLASSES)})", percent(three["agreement"])),
            ("Cohen's kappa on these (95 %)", with_interval(three["kappa"], three["kappa_interval"])),
        ]
        title = f"Selection from A to B, at T = {t_s:g} (sensibility) and {t_r:g} (rationality), ties: {self.ties}"
        yield Table(("", "of the compared"), facts, title)
        cross = [(name, *(f"{n:,}" for n in row.values())) for name, row in self.quadrants.items()]
        yield Table(("A, down; B, across", *CELLS), cross, "Quadrants by A and by B, in samples")


def agree(
    a: ArrayLike,
    b: ArrayLike,
    threshold: Threshold = DEFAULT_THRESHOLD,
    ties: str = "drop",
    *,
    resamples: int = 1_000,
    seed: int = 0,
) -> Agreement:
    """
    Compares two scorers' scores of the same samples.

    Args:
        a (`ArrayLike` of shape `(n, 2)`): Sensibility and rationality in [0, 10] by A, NaN where unscored.
        b (`ArrayLike` of shape `(n, 2)`): The same by B.
        threshold (`float`, pair or mapping, *optional*, defaults to `5.0`): T, for both axes or for each.
        ties (`str`, *optional*, defaults to `"drop"`): See [`~ee_trl.axes.quadrants`].
        resamples (`int`, *optional*, defaults to `1000`): Bootstrap resamples (of samples, with replacement).
        seed (`int`, *optional*, defaults to `0`): Of the bootstrap.

    Raises:
        [`ScoresError`]: The two are not arrays of the same samples.
        [`SelectionError`]: A score or the threshold is outside [0, 10].
    """
    first, second = _checked(a, "A"), _checked(b, "B")
    if len(first) != len(second):
        raise ScoresError(f"A has scores of {len(first):,} samples, B of {len(second):,}; both must score the same")
    missing_a, missing_b = (np.isnan(scores).any(axis=1) for scores in (first, second))
    both = ~(missing_a | missing_b)
    n = int(both.sum())
    draw = np.random.default_rng(seed)
    axes = _axes(first[both], second[both], resamples, draw)
    where_a, where_b = (quadrants(s[both, 0], s[both, 1], threshold, ties) for s in (first, second))
    in_a, in_b = where_a == SENSIBILITY, where_b == SENSIBILITY
    return Agreement(
        samples=len(first),
        compared=n,
        unscored={"a": int(missing_a.sum()), "b": int(missing_b.sum())},
        threshold=list(thresholds(threshold)),
        ties=ties,
        axes=axes,
        quadrants={q: {p: int(((where_a == q) & (where_b == p)).sum()) for p in CELLS} for q in CELLS},
        changed=float((where_a != where_b).mean()) if n else None,
        entered=_part(~in_a & in_b),
        left=_part(in_a & ~in_b),
        three_way=_three_way(where_a, where_b, resamples, draw),
        resamples=resamples,
        seed=seed,
    )


def _checked(scores: ArrayLike, name: str) -> np.ndarray:
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != len(AXES):
        raise ScoresError(f"the scores of {name} have shape {array.shape}; expected (n, 2): sensibility, rationality")
    for i, axis in enumerate(AXES):
        scores_array(array[:, i], f"{axis} ({name})")
    return array


def _part(members: np.ndarray) -> dict[str, Any]:
    return {"count": int(members.sum()), "share": float(members.mean()) if len(members) else None}


def _axes(a: np.ndarray, b: np.ndarray, resamples: int, draw: np.random.Generator) -> dict[str, dict[str, Any]]:
    resampled = _resampled_spearman(a, b, resamples, draw)
    found = {}
    for i, axis in enumerate(AXES):
        x, y = a[:, i], b[:, i]
        constant = len(x) < 2 or bool((x == x[0]).all() or (y == y[0]).all())
        found[axis] = {
            "spearman": None if constant else correlation(ranks(places(x)), ranks(places(y))),
            "spearman_interval": None if constant else percentiles(resampled[:, i]),
            "pearson": None if constant else correlation(x, y),
            "mean_shift": float((y - x).mean()) if len(x) else None,
            "mean_absolute_difference": float(np.abs(y - x).mean()) if len(x) else None,
        }
    return found


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation, NaN where one of the two is constant."""
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a @ a) * (b @ b))
    return float(np.clip(a @ b / scale, -1, 1)) if scale > 0 else float("nan")


def _resampled_spearman(a: np.ndarray, b: np.ndarray, resamples: int, draw: np.random.Generator) -> np.ndarray:
    """Spearman's correlation of each axis in each resample, of shape `(resamples, 2)`, NaN where it is not defined."""
    found = np.full((resamples, len(AXES)), np.nan)
    if not len(a):
        return found
    placed = [(places(a[:, i]), places(b[:, i])) for i in range(len(AXES))]  # the values are sorted only once
    for row in found:
        drawn = draw.integers(0, len(a), len(a))
        row[:] = [correlation(ranks(of_a[drawn]), ranks(of_b[drawn])) for of_a, of_b in placed]
    return found


def places(values: np.ndarray) -> np.ndarray:
    """The place of each value among the distinct values in order, from 0."""
    return np.unique(values, return_inverse=True)[1]


def ranks(places: np.ndarray) -> np.ndarray:
    """The ranks of whole numbers from 0, equal ones sharing their mean rank."""
    counts = np.bincount(places)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]


def percentiles(values: np.ndarray) -> list[float] | None:
    """The middle 95 % of the resamples in which the number is defined."""
    values = values[np.isfinite(values)]
    return [float(end) for end in np.percentile(values, [2.5, 97.5])] if len(values) else None


def _three_way(where_a: np.ndarray, where_b: np.ndarray, resamples: int, draw: np.random.Generator) -> dict[str, Any]:
    """Agreement and Cohen's kappa on [`CLASSES`], from the quadrants by A and by B."""
    n = len(where_a)
    a, b = (np.where(np.isin(where, CLASSES[:2]), where, CLASSES[2]) for where in (where_a, where_b))
    table = np.array([[((a == p) & (b == q)).sum() for q in CLASSES] for p in CLASSES])
    if not n or table.max() == n and table.trace() == n:  # one class alone: kappa is not defined
        return {"agreement": 1.0 if n else None, "kappa": None, "kappa_interval": None}
    drawn = draw.multinomial(n, table.ravel() / n, size=resamples).reshape(-1, *table.shape)
    return {
        "agreement": float(table.trace() / n),
        "kappa": float(_kappas(table[None])[0]),
        "kappa_interval": percentiles(_kappas(drawn)),
    }


def _kappas(tables: np.ndarray) -> np.ndarray:
    """Cohen's kappa of each table of counts `(k, 3, 3)`, NaN where all of it is in one class."""
    n = tables.sum(axis=(1, 2))
    by_chance = (tables.sum(axis=1) * tables.sum(axis=2)).sum(axis=1)  # whole numbers: full agreement is exactly 1
    agreed = n * np.trace(tables, axis1=1, axis2=2)
    return np.divide(agreed - by_chance, n**2 - by_chance, out=np.full(len(tables), np.nan), where=by_chance < n**2)
