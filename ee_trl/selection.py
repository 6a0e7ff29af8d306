"""The rules, as pure functions of scores: which samples are kept, and why each of the others is not.

The released rule of Efficient-Empathy, with threshold T on both axes:

    sensibility set = {S > T and R < T},    rationality set = {R > T and S < T},    everything else is discarded.

The two inequalities span four quadrants; a score equal to T is in none of them (a `tie`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from .axes import (
    AXES,
    DEFAULT_THRESHOLD,
    QUADRANT_NAMES,
    QUADRANTS,
    RATIONALITY,
    SENSIBILITY,
    TIE,
    TIES,
    Threshold,
    quadrant_codes,
    quadrants,
    scores_array,
    thresholds,
)
from .data.columns import Coded
from .display import Displayed, Table
from .errors import SelectionError, unknown


if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike

__all__ = [
    "DIFFERENCE",
    "KEEPABLE",
    "RANKINGS",
    "RULES",
    "TIES",
    "Selection",
    "Threshold",
    "coded_quadrants",
    "keep_set",
    "quadrants",
    "scores_array",
    "select_indices",
    "sweep",
    "thresholds",
]

RULES = ("threshold", "top", "random", "longest")
KEEPABLE = (*QUADRANTS, TIE)
DIFFERENCE = "difference"
RANKINGS = (*AXES, DIFFERENCE)
"""What `rule="top"` can rank by: an axis, or the difference sensibility - rationality."""


@dataclass(frozen=True)
class Selection(Displayed):
    """
    What a rule chose. Prints as a table of what was kept, and dropped for each reason.

    Args:
        indices (`np.ndarray` of shape `(kept,)`):
            Indices of the samples kept, ascending (the order of the data survives).
        drops ([`~ee_trl.data.columns.Coded`] of length `n`):
            For every sample dropped the name of the reason, `""` for those kept. `unscored`, `tie`,
            `quadrant_<name>`, or, by rule, `not_in_top`, `not_drawn`, `shorter`.
        settings (`dict`):
            The arguments that gave this selection, defaults and derived sizes filled in.
    """

    indices: np.ndarray
    drops: Coded
    settings: dict[str, Any]

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def kept(self) -> np.ndarray:
        """Which samples were kept, of shape `(n,)`, of `bool`."""
        return self.drops.is_("")

    @property
    def reasons(self) -> np.ndarray:
        """`drops` as an array of shape `(n,)`, of `str`."""
        return self.drops.to_array()

    def counts(self) -> dict[str, int]:
        """How many samples were kept (`kept`), and dropped for each reason, most frequent first."""
        dropped = {name: n for name, n in self.drops.counts().items() if name}
        return {"kept": len(self.indices), **dropped}

    def parts(self) -> Iterable[str | Table]:
        """For a notebook."""
        total = len(self.drops)
        rows = [(name, f"{n:,}", _share(n, total)) for name, n in self.counts().items()]
        yield Table(("kept, or dropped because", "samples", "share"), rows, f"{total:,} samples")
        yield Table(("setting", ""), [(name, str(value)) for name, value in self.settings.items()])

    def __str__(self) -> str:
        total = len(self.drops)
        kept, *dropped = self.counts().items()
        lines = [f"kept {kept[1]:,} of {total:,} ({_share(kept[1], total)})"]
        return "\n".join([*lines, *(f"  dropped {why:<22} {n:>8,}  {_share(n, total):>6}" for why, n in dropped)])


class Sweep(list[dict[str, Any]], Displayed):
    """What [`sweep`] found: a list of rows, one a threshold, that prints as a table."""

    def parts(self) -> Iterable[str | Table]:
        """For a notebook."""
        rows = [(f"{row['threshold']:g}", *(_share_and_count(row, name) for name in KEEPABLE)) for row in self]
        yield Table(("T", *KEEPABLE), rows, f"{self._scored:,} scored samples; share (count)")

    def __str__(self) -> str:
        lines = [f"{self._scored:,} scored samples; share (count)"]
        lines.append(f"{'T':>5} " + " ".join(f"{name:>17}" for name in KEEPABLE))
        for row in self:
            cells = " ".join(f"{row[f'{name}_share']:>8.1%} ({row[name]:>6,})" for name in KEEPABLE)
            lines.append(f"{row['threshold']:>5g} {cells}")
        return "\n".join(lines)

    @property
    def _scored(self) -> int:
        return self[0]["scored"] if self else 0


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "none"


def _share_and_count(row: Mapping[str, Any], name: str) -> str:
    return f"{row[f'{name}_share']:.1%} ({row[name]:,})"


# ---- sweep ---------------------------------------------------------------------------------------------------------


def sweep(
    sensibility: ArrayLike,
    rationality: ArrayLike,
    grid: Iterable[float] = range(1, 10),
    ties: str = "drop",
) -> Sweep:
    """
    The share of each quadrant at each threshold of a `grid`.

    Returns:
        [`Sweep`], a `list[dict]` that prints as a table: for each T `{"threshold", "scored", "<quadrant>": count,
        "<quadrant>_share": of the scored}`.

    Raises:
        [`SelectionError`]: The grid is empty, or holds something that is no threshold.
    """
    s, r = scores_array(sensibility, SENSIBILITY), scores_array(rationality, RATIONALITY)
    rows = Sweep()
    for t in grid:
        found = coded_quadrants(s, r, t, ties).counts()
        scored = len(s) - found.get("", 0)
        row: dict[str, Any] = {"threshold": float(t), "scored": scored}
        for name in KEEPABLE:
            row[name] = found.get(name, 0)
            row[f"{name}_share"] = row[name] / scored if scored else 0.0
        rows.append(row)
    if not rows:
        raise SelectionError("the grid holds no threshold; give one at least, e.g. range(1, 10) or 1:9")
    return rows


# ---- rules ---------------------------------------------------------------------------------------------------------


def coded_quadrants(
    sensibility: ArrayLike, rationality: ArrayLike, threshold: Threshold = DEFAULT_THRESHOLD, ties: str = "drop"
) -> Coded:
    """[`~ee_trl.axes.quadrants`] in one byte a sample; `""`, which is unscored, has the code 0."""
    return Coded(quadrant_codes(sensibility, rationality, threshold, ties), QUADRANT_NAMES)


def keep_set(keep: str | Iterable[str]) -> tuple[str, ...]:
    """The quadrants named: one, several, or several joined by commas (or `+`)."""
    if not isinstance(keep, Iterable):
        raise SelectionError(unknown("quadrant to keep", keep, KEEPABLE))
    names = [name.strip() for name in keep.replace("+", ",").split(",")] if isinstance(keep, str) else list(keep)
    for name in names:
        if name not in KEEPABLE:
            raise SelectionError(unknown("quadrant to keep", name, KEEPABLE))
    if not names:
        raise SelectionError(f"nothing to keep; valid: {', '.join(KEEPABLE)}")
    return tuple(dict.fromkeys(names))


def select_indices(
    sensibility: ArrayLike,
    rationality: ArrayLike,
    *,
    keep: str | Iterable[str] = SENSIBILITY,
    rule: str = "threshold",
    threshold: Threshold = DEFAULT_THRESHOLD,
    ties: str = "drop",
    n: int | None = None,
    fraction: float | None = None,
    axis: str | None = None,
    seed: int = 0,
    lengths: ArrayLike | None = None,
) -> Selection:
    """
    Chooses samples by their scores.

    Args:
        sensibility (`ArrayLike` of shape `(n,)`): Scores in [0, 10], NaN where unscored.
        rationality (`ArrayLike` of shape `(n,)`): Likewise.
        keep (`str` or `Iterable[str]`, *optional*, defaults to `"sensibility"`):
            Which quadrants the threshold rule keeps. For the other rules it gives the size, where neither `n` nor
            `fraction` does: as many as the threshold rule would keep, so that they are baselines of equal size.
        rule (`str`, *optional*, defaults to `"threshold"`):
            `"threshold"` (the released rule), `"top"` (highest on `axis`), `"random"` (seeded), `"longest"` (longest
            replies).
        threshold, ties: See [`quadrants`].
        n (`int`, *optional*): How many to keep, not more than are scored.
        fraction (`float`, *optional*): Share of the scored samples to keep, in (0, 1], rounded, at least one.
        axis (`str`, *optional*):
            What `"top"` ranks by: `"sensibility"`, `"rationality"` or `"difference"` (sensibility - rationality).
            Defaults to `keep` where that is one of the axes.
        seed (`int`, *optional*, defaults to `0`): Of the random rule.
        lengths (`ArrayLike` of shape `(n,)`, *optional*): Lengths of the replies, which `"longest"` needs.

    Returns:
        [`Selection`]. Only scored samples are ever kept; equal ranks fall to the earlier sample.

    Raises:
        [`SelectionError`]: An argument is unknown, out of range, or does not go with the rule.
    """
    import numpy as np

    if rule not in RULES:
        raise SelectionError(unknown("rule", rule, RULES))
    names = keep_set(keep)
    where = coded_quadrants(sensibility, rationality, threshold, ties)
    settings: dict[str, Any] = {
        "rule": rule,
        "keep": list(names),
        "threshold": list(thresholds(threshold)),
        "ties": ties,
    }
    if rule == "threshold":
        _refuse(rule, n=n, fraction=fraction, axis=axis)
        reason = {q: "" if q in names else f"quadrant_{q}" if q in QUADRANTS else q for q in KEEPABLE}
        why_not = ("", "unscored", *(name for name in reason.values() if name))
        codes = np.array([why_not.index({"": "unscored", **reason}[q]) for q in where.names], np.uint8)
        drops = Coded(codes[where.codes], why_not)
        return Selection(np.flatnonzero(drops.is_("")), drops, settings)

    scored = np.flatnonzero(~where.is_(""))
    size = _size(len(scored), n, fraction, default=sum(where.counts().get(q, 0) for q in names))
    settings |= {"n": size}
    if rule == "top":
        axis = _axis(axis, names)
        settings |= {"axis": axis}
        order, why = np.argsort(-_ranking(sensibility, rationality, axis)[scored], kind="stable"), "not_in_top"
    else:
        _refuse(rule, axis=axis)
        if rule == "random":
            settings |= {"seed": seed}
            order, why = _generator(seed).permutation(len(scored)), "not_drawn"
        else:
            order, why = np.argsort(-_lengths(lengths, len(where))[scored], kind="stable"), "shorter"
    indices = np.sort(scored[order[:size]])
    drops = Coded(np.where(where.is_(""), np.uint8(1), np.uint8(2)), ("", "unscored", why))
    drops.codes[indices] = 0
    return Selection(indices, drops, settings)


def _refuse(rule: str, **given: object) -> None:
    for name, value in given.items():
        if value is not None:
            raise SelectionError(f"{name}={value!r} does not go with rule {rule!r}; leave it out, or use rule='top'")


def _size(scored: int, n: int | None, fraction: float | None, default: int) -> int:
    if n is not None and fraction is not None:
        raise SelectionError(f"n={n} and fraction={fraction} are both given; give one")
    if fraction is not None:
        if not isinstance(fraction, Real) or not 0 < fraction <= 1:
            raise SelectionError(f"fraction {fraction!r} is not in (0, 1]")
        return min(scored, max(1, int(float(fraction) * scored + 0.5)))
    if n is None:
        return default
    if not isinstance(n, Real) or not math.isfinite(n) or n != int(n) or n < 1:
        raise SelectionError(f"n {n!r} is not a whole number of at least 1")
    if n > scored:
        raise SelectionError(f"n={n} samples are asked for, but only {scored} are scored; lower n")
    return int(n)


def _axis(axis: str | None, names: tuple[str, ...]) -> str:
    if axis is None and len(names) == 1 and names[0] in AXES:
        return names[0]
    if axis is None:
        raise SelectionError(f"rule 'top' needs to know what to rank by; axis: {', '.join(RANKINGS)}")
    if axis not in RANKINGS:
        raise SelectionError(unknown("axis", axis, RANKINGS))
    return axis


def _generator(seed: int) -> np.random.Generator:
    import numpy as np

    if not isinstance(seed, Integral) or seed < 0:
        raise SelectionError(f"seed {seed!r} is not a whole number of at least 0")
    return np.random.default_rng(int(seed))


def _ranking(sensibility: ArrayLike, rationality: ArrayLike, axis: str) -> np.ndarray:
    import numpy as np

    s, r = np.asarray(sensibility, dtype=np.float64), np.asarray(rationality, dtype=np.float64)
    return {SENSIBILITY: s, RATIONALITY: r, DIFFERENCE: s - r}[axis]


def _lengths(lengths: ArrayLike | None, n: int) -> np.ndarray:
    import numpy as np

    if lengths is None:
        raise SelectionError("rule 'longest' needs the lengths of the replies: lengths=[...]")
    array = np.asarray(lengths, dtype=np.float64)
    if array.shape != (n,):
        raise SelectionError(f"lengths has shape {array.shape}; expected ({n},)")
    return array
