"""The selection rules, as pure functions of scores: which samples are kept, and why the others are dropped.

The released rule of Efficient-Empathy, with threshold T on both axes:

    sensibility set = {S > T and R < T},    rationality set = {R > T and S < T},    everything else is discarded.

The two inequalities span four quadrants; a score equal to T is in none of them (a `tie`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .axes import (
    AXES,
    BALANCED,
    DEFAULT_THRESHOLD,
    FLAGS,
    LOW,
    QUADRANT_NAMES,
    QUADRANTS,
    RATIONALITY,
    SENSIBILITY,
    TIE,
    Threshold,
    quadrant_codes,
    scores_array,
    thresholds,
)
from .data.columns import Coded
from .display import Displayed, Table, percent
from .errors import SelectionError, check_choice, check_count, options_named, require


RULES = ("threshold", "top", "random", "longest")
CONTROLS = ("length", "clusters")
LENGTH_BINS = 20
"""The most bins of reply lengths in which `control="length"` chooses; a bin keeps about two samples at least."""
KEEPABLE = (*QUADRANTS, TIE)
DIFFERENCE = "difference"
SUM = "sum"
RANKINGS = (*AXES, DIFFERENCE, SUM)
"""What `rule="top"` can rank by without a column: an axis, sensibility - rationality, or their sum."""


@dataclass(frozen=True)
class Selection(Displayed):
    """
    What a rule chose; prints as a table of the samples kept, and dropped for each reason.

    Args:
        indices (`np.ndarray` of shape `(kept,)`): Indices of the samples kept, in the order of the data.
        drops ([`~ee_trl.data.columns.Coded`] of length `n`):
            Why each sample is dropped, `""` if it is kept: `unscored`, `flag_<name>`, `tie`,
            `quadrant_<name>`, or, by rule, `not_in_top`, `not_drawn`, `shorter`; `no_value` where the column to rank
            by has none; `length_full`, `cluster_full` if the control keeps no more samples of this length or cluster.
        settings (`dict`): The arguments that gave this selection, with defaults and derived sizes.
        lengths (`dict`, *optional*):
            With `control="length"`: `bins`, how many there were; `distance`, between the lengths of the kept replies
            and of all (Kolmogorov-Smirnov); `outside`, how many kept samples are outside the quadrants to keep.
    """

    indices: np.ndarray
    drops: Coded
    settings: dict[str, Any]
    lengths: dict[str, float] | None = None

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
        """Counts, and the settings."""
        total = len(self.drops)
        rows = [(name, f"{n:,}", percent(n, total)) for name, n in self.counts().items()]
        yield Table(("kept, or dropped because", "samples", "share"), rows, f"{total:,} samples")
        yield Table(("setting", ""), [(name, str(value)) for name, value in self.settings.items()])
        if self.lengths:
            yield lengths_text(self.lengths)


def lengths_text(lengths: Mapping[str, float]) -> str:
    """[`Selection`]'s `lengths` in a sentence."""
    return (
        f"Reply lengths: the kept replies' distribution is within {lengths['distance']:.3f} of all scored replies' "
        f"(Kolmogorov-Smirnov, {lengths['bins']} bins). {lengths['outside']:,} kept samples lie outside the quadrants."
    )


class Sweep(list[dict[str, Any]], Displayed):
    """What [`sweep`] found: a list with a row for each threshold, which prints as a table."""

    def parts(self) -> Iterable[str | Table]:
        """A line for each threshold."""
        rows = [
            (f"{row['threshold']:g}", *(f"{percent(row[f'{name}_share'])} ({row[name]:,})" for name in KEEPABLE))
            for row in self
        ]
        scored = self[0]["scored"] if self else 0
        yield Table(("T", *KEEPABLE), rows, f"{scored:,} scored samples; share (count)")


def sweep(
    sensibility: ArrayLike, rationality: ArrayLike, grid: Iterable[float] = range(1, 10), ties: str = "drop"
) -> Sweep:
    """
    The share of each quadrant at each threshold of a `grid`; for the other arguments see [`~ee_trl.axes.quadrants`].

    Returns:
        [`Sweep`], a `list[dict]` that prints as a table: for each T `{"threshold", "scored", "<quadrant>": count,
        "<quadrant>_share": of the scored}`.

    Raises:
        [`SelectionError`]: The grid is empty, or holds something that is not a threshold.
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
        raise SelectionError("the grid holds no threshold; give at least one, e.g. range(1, 10) or 1:9")
    return rows


def coded_quadrants(
    sensibility: ArrayLike, rationality: ArrayLike, threshold: Threshold = DEFAULT_THRESHOLD, ties: str = "drop"
) -> Coded:
    """[`~ee_trl.axes.quadrants`] with one byte for each sample."""
    return Coded(quadrant_codes(sensibility, rationality, threshold, ties), QUADRANT_NAMES)


def keep_set(keep: str | Iterable[str]) -> tuple[str, ...]:
    """The quadrants to keep, from one name, several names, or names joined by commas (or `+`)."""
    if isinstance(keep, str):
        names = [name.strip() for name in keep.replace("+", ",").split(",")]
    else:
        names = list(keep) if isinstance(keep, Iterable) else [keep]
    for name in names:
        check_choice("quadrant to keep", name, KEEPABLE, SelectionError)
    if not names:
        raise SelectionError(f"nothing to keep; valid: {', '.join(KEEPABLE)}")
    return tuple(dict.fromkeys(names))


def exclude_set(exclude: str | Iterable[str]) -> tuple[str, ...]:
    """The flags whose samples are dropped, from `"all"`, `"none"`, one name, several names, or names with commas."""
    names = [name.strip() for name in exclude.split(",")] if isinstance(exclude, str) else list(exclude)
    if names in (["all"], ["none"]):
        return FLAGS if names == ["all"] else ()
    for name in names:
        check_choice("flag to exclude", name, ("all", "none", *FLAGS), SelectionError)
    if {"all", "none"} & {*names}:
        raise SelectionError(f"exclude {exclude!r} mixes {names[0]!r} with others; give all, none, or names of flags")
    return tuple(dict.fromkeys(names))


@options_named
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
    control: str | None = None,
    vectors: ArrayLike | None = None,
    column: ArrayLike | None = None,
    flags: Coded | Sequence[str | None] | None = None,
    exclude: str | Iterable[str] = "all",
) -> Selection:
    """
    Chooses samples by their scores.

    With `control="length"` the rule keeps as many samples as without, but with the distribution of reply lengths of
    all scored samples. It chooses within bins of length (quantiles). If it keeps n samples, and F(b) is the share of
    all scored samples in the first b bins, bin b keeps round(n F(b)) - round(n F(b - 1)) samples. In each bin the
    threshold rule prefers the samples furthest inside the quadrants, by the smaller of their distances to T on the two
    axes, and then those nearest outside: this moves T in each bin until the size fits. Other rules keep their order.

    With `control="clusters"` the bins are clusters of `vectors` by k-means, about as many as the square root of the
    number of scored samples: the rule takes the best of each cluster, and each cluster keeps its share.

    Args:
        sensibility (`ArrayLike` of shape `(n,)`): Scores in [0, 10], NaN where unscored.
        rationality (`ArrayLike` of shape `(n,)`): Likewise.
        keep (`str` or `Iterable[str]`, *optional*, defaults to `"sensibility"`):
            The quadrants that the threshold rule keeps. The other rules take their size from it if neither `n` nor
            `fraction` is given: they keep as many samples as the threshold rule, as baselines of equal size.
        rule (`str`, *optional*, defaults to `"threshold"`):
            `"threshold"` (the released rule), `"top"` (highest on `axis`), `"random"` (seeded), `"longest"` (longest
            replies).
        threshold, ties: See [`~ee_trl.axes.quadrants`].
        n (`int`, *optional*): How many samples to keep, at most as many as are scored.
        fraction (`float`, *optional*): Share of the scored samples to keep, in (0, 1]; rounded, at least one sample.
        axis (`str`, *optional*):
            What `"top"` ranks by: `"sensibility"`, `"rationality"`, `"difference"` (sensibility - rationality),
            `"sum"` (sensibility + rationality), or a name for `column`. Defaults to `keep` if that is one of the axes.
        seed (`int`, *optional*, defaults to `0`): Seed of the random rule, and of the clusters.
        lengths (`ArrayLike` of shape `(n,)`, *optional*): Lengths of the replies, for `"longest"` and `control`.
        control (`str`, *optional*):
            `"length"`: keep the pool's distribution of reply lengths. It does not go with the rule `"longest"`.
            `"clusters"`: keep the pool's distribution over clusters of similar dialogues.
        vectors (`ArrayLike` of shape `(n, d)`, *optional*): Embeddings of the dialogues, for `control="clusters"`.
        column (`ArrayLike` of shape `(n,)`, *optional*):
            Other numbers for `"top"` to rank by, the highest first; samples with NaN are dropped.
        flags ([`~ee_trl.data.columns.Coded`] or `Sequence` of length `n`, *optional*):
            What the scorer found wrong with each reply, one of [`~ee_trl.axes.FLAGS`]; `None` or `""` where nothing.
        exclude (`str` or `Iterable[str]`, *optional*, defaults to `"all"`):
            The flags whose samples every rule drops, as if they had no scores: `"all"`, `"none"`, or names. Recorded
            in the settings where it is not `"all"`.

    Returns:
        [`Selection`]. Only scored samples are kept; of equally ranked samples, the earlier ones.

    Raises:
        [`SelectionError`]: An argument is unknown, out of range, or not valid for the rule.
    """
    check_choice("rule", rule, RULES, SelectionError)
    if control is not None:
        check_choice("control", control, CONTROLS, SelectionError)
        if rule == "longest" and control == "length":
            raise SelectionError("control='length' does not go with rule 'longest'; leave one of them out")
    names = keep_set(keep)
    where = coded_quadrants(sensibility, rationality, threshold, ties)
    settings: dict[str, Any] = {
        "rule": rule,
        "keep": list(names),
        "threshold": list(thresholds(threshold)),
        "ties": ties,
    }
    if control is not None:
        settings["control"] = control
    out = exclude_set(exclude)
    if out != FLAGS:
        settings["exclude"] = list(out) or "none"
    flagged = _flag_codes(flags, out, len(where))
    flagged[where.is_("")] = 0
    reasons = [_reason(name, names) for name in where.names]
    coded = tuple(dict.fromkeys(("", "unscored", *reasons, *(f"flag_{name}" for name in FLAGS))))
    codes = np.array([coded.index(reason) for reason in reasons], np.uint8)[where.codes]
    codes[flagged > 0] = coded.index(f"flag_{FLAGS[0]}") - 1 + flagged[flagged > 0]
    drops, eligible = Coded(codes, coded), ~where.is_("") & (flagged == 0)
    inside, scored = drops.is_(""), np.flatnonzero(eligible)
    if rule == "threshold":
        _refuse(rule, n=n, fraction=fraction, axis=axis)
        if control is None:
            return Selection(np.flatnonzero(inside), drops, settings)
        margins = _margins(sensibility, rationality, threshold, names)
        size, order = int(inside.sum()), np.lexsort((-margins[scored], ~inside[scored]))
        full = "length_full" if control == "length" else "cluster_full"
        drops = Coded(np.where(inside, np.uint8(len(coded)), drops.codes), (*coded, full))
    else:
        why, ranks = "not_in_top", np.zeros(len(where))
        if rule == "top":
            axis = _axis(axis, names, column is not None)
            ranks = _ranks(axis, sensibility, rationality, column)
            coded, codes = (*coded, "no_value"), np.where(eligible & np.isnan(ranks), np.uint8(len(coded)), codes)
            eligible &= ~np.isnan(ranks)
            drops, scored = Coded(codes, coded), np.flatnonzero(eligible)
        size = settings["n"] = _size(len(scored), n, fraction, default=min(int(inside.sum()), len(scored)))
        if rule == "top":
            settings["axis"] = axis
            order = np.argsort(-ranks[scored], kind="stable")
        elif rule == "random":
            _refuse(rule, axis=axis)
            check_count("seed", seed, 0, SelectionError)
            settings["seed"] = seed
            order, why = np.random.default_rng(int(seed)).permutation(len(scored)), "not_drawn"
        else:
            _refuse(rule, axis=axis)
            order, why = np.argsort(-_lengths(lengths, len(where), rule)[scored], kind="stable"), "shorter"
        drops = Coded(np.where(eligible, np.uint8(len(coded)), drops.codes), (*coded, why))
    found = None
    if control is None:
        indices = np.sort(scored[order[:size]])
    elif control == "clusters":
        check_count("seed", seed, 0, SelectionError)
        settings["seed"] = seed
        bins = cluster_numbers(_vectors(vectors, len(where))[scored], size // 2, seed)
        settings["clusters"] = int(bins.max(initial=-1)) + 1
        indices = np.sort(scored[_as_the_pool(order, bins, size)])
    else:
        pool = _lengths(lengths, len(where), f"{rule}' with control 'length")[scored]
        bins = length_bins(pool, min(LENGTH_BINS, size // 2))
        chosen = _as_the_pool(order, bins, size)
        indices = np.sort(scored[chosen])
        found = {
            "bins": int(bins.max(initial=0)) + 1,
            "distance": distance(pool[chosen], pool),
            "outside": int((~inside[indices]).sum()),
        }
    drops.codes[indices] = 0
    return Selection(indices, drops, settings, found)


def length_bins(lengths: np.ndarray, bins: int) -> np.ndarray:
    """The bin of each length, from 0: quantiles of all the lengths, so that equal lengths are in one bin."""
    edges = np.quantile(lengths, np.arange(1, bins) / bins) if len(lengths) else np.zeros(0)
    return np.unique(np.searchsorted(np.unique(edges), lengths), return_inverse=True)[1].reshape(-1)


def cluster_numbers(vectors: np.ndarray, most: int, seed: int = 0) -> np.ndarray:
    """
    The cluster of each vector, from 0, by k-means: the square root of their number, at most `most`.

    The vectors are sorted before, so that their order changes nothing.
    """
    require("sklearn", extra="metrics", purpose="control='clusters'")
    from sklearn.cluster import KMeans

    distinct, place = np.unique(vectors, axis=0, return_inverse=True)
    k = max(1, min(round(len(vectors) ** 0.5), most, len(distinct)))
    if len(distinct) == 0:
        return np.zeros(0, np.intp)
    weights = np.bincount(place.reshape(-1))
    return KMeans(k, n_init=1, random_state=seed).fit(distinct, sample_weight=weights).labels_[place.reshape(-1)]


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The Kolmogorov-Smirnov distance: how far the shares of `a` and `b` up to a value differ at most; 0 if empty."""
    values = np.concatenate([a, b])
    shares = [np.searchsorted(np.sort(part), values, "right") / max(len(part), 1) for part in (a, b)]
    return float(np.abs(shares[0] - shares[1]).max(initial=0.0)) if len(a) and len(b) else 0.0


def _as_the_pool(order: np.ndarray, bins: np.ndarray, n: int) -> np.ndarray:
    """`n` samples, the first of `order` in each bin; each bin's share of them is its share of all samples."""
    sizes = np.bincount(bins)
    quotas = np.diff(np.floor(n * np.cumsum(sizes) / max(len(bins), 1) + 0.5), prepend=0)
    grouped = order[np.argsort(bins[order], kind="stable")]
    places = np.arange(len(grouped)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return grouped[places < quotas[bins[grouped]]]


def _margins(
    sensibility: ArrayLike, rationality: ArrayLike, threshold: Threshold, names: tuple[str, ...]
) -> np.ndarray:
    """How far each sample lies inside the nearest of the quadrants; outside of them it is negative."""
    t_s, t_r = thresholds(threshold)
    s, r = scores_array(sensibility, SENSIBILITY) - t_s, scores_array(rationality, RATIONALITY) - t_r
    of = {
        SENSIBILITY: np.minimum(s, -r),
        RATIONALITY: np.minimum(-s, r),
        BALANCED: np.minimum(s, r),
        LOW: np.minimum(-s, -r),
        TIE: -np.minimum(abs(s), abs(r)),
    }
    return np.max([of[name] for name in names], axis=0)


def _reason(quadrant: str, kept: tuple[str, ...]) -> str:
    """Why the threshold rule drops samples of a quadrant; `""` if it keeps them."""
    if quadrant in kept:
        return ""
    return f"quadrant_{quadrant}" if quadrant in QUADRANTS else quadrant or "unscored"


def _flag_codes(flags: Coded | Sequence[str | None] | None, out: tuple[str, ...], n: int) -> np.ndarray:
    """For each sample 1 + the number of its flag among [`FLAGS`], 0 where it has none of those in `out`."""
    if flags is None:
        return np.zeros(n, np.intp)
    if len(flags) != n:
        raise SelectionError(f"{n} sensibility scores, but {len(flags)} flags")
    number: dict[str | None, int] = {name: FLAGS.index(name) + 1 for name in out}
    if isinstance(flags, Coded):
        return np.array([number.get(name, 0) for name in flags.names], np.intp)[flags.codes]
    return np.array([number.get(name, 0) for name in flags], np.intp)


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
    check_count("n", n, error=SelectionError)
    if n > scored:
        raise SelectionError(f"n={n} samples are wanted, but only {scored} are scored and not flagged; lower n")
    return int(n)


def _axis(axis: str | None, names: tuple[str, ...], column: bool) -> str:
    if axis is None and len(names) == 1 and names[0] in AXES and not column:
        return names[0]
    if axis is None:
        raise SelectionError(f"rule 'top' needs an axis to rank by; valid: {', '.join(RANKINGS)}, or a column's name")
    if not column:
        check_choice("axis", axis, RANKINGS, SelectionError)
    return axis


def _ranks(axis: str, sensibility: ArrayLike, rationality: ArrayLike, column: ArrayLike | None) -> np.ndarray:
    s, r = (scores_array(values, "") for values in (sensibility, rationality))
    found = {SENSIBILITY: s, RATIONALITY: r, DIFFERENCE: s - r, SUM: s + r}
    if column is not None:
        found[axis] = np.asarray(column, dtype=np.float64)
    if found[axis].shape != s.shape:
        raise SelectionError(f"the column {axis!r} has shape {found[axis].shape}; expected {s.shape}")
    return found[axis]


def _vectors(vectors: ArrayLike | None, n: int) -> np.ndarray:
    array = np.asarray([] if vectors is None else vectors, dtype=np.float32)
    if array.ndim != 2 or len(array) != n:
        raise SelectionError(f"control 'clusters' needs a vector for each of {n} samples: vectors of shape ({n}, d)")
    return array


def _lengths(lengths: ArrayLike | None, n: int, rule: str) -> np.ndarray:
    if lengths is None:
        raise SelectionError(f"rule '{rule}' needs the lengths of the replies: lengths=[...]")
    array = np.asarray(lengths, dtype=np.float64)
    if array.shape != (n,):
        raise SelectionError(f"lengths has shape {array.shape}; expected ({n},)")
    return array
