"""What every policy does with its arrays: check them, treat the unscored, keep the weights in bounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import field
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ...errors import NothingLeftError, SelectionError, check_choice


class Weights(NamedTuple):
    """What a policy answers; each array is of shape `(n,)` in data-set order."""

    sampling: np.ndarray | None = None  # how often each sample is drawn, relative to the others; None: the stock order
    loss: np.ndarray | None = None  # how much its loss counts; None: all 1


def check_inputs(scores: ArrayLike, losses: ArrayLike, progress: float) -> tuple[np.ndarray, np.ndarray]:
    """
    Scores and losses as float64; raises [`SelectionError`] where their shapes or `progress` are wrong.

    Args:
        scores (`ArrayLike` of shape `(n, 2)`): Sensibility and rationality in [0, 10], NaN where unscored.
        losses (`ArrayLike` of shape `(n,)`): Mean loss per token in nats, as last seen; NaN where not seen.
        progress (`float`): Share of the training done, in [0, 1].
    """
    found, seen = np.asarray(scores, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    if found.ndim != 2 or found.shape[1] != 2:
        raise SelectionError(f"scores have shape {found.shape}; expected (n, 2): sensibility and rationality")
    if not len(found):
        raise SelectionError("no sample can be drawn: the data set is empty")
    if seen.shape != (len(found),):
        raise SelectionError(
            f"losses have shape {seen.shape}; expected ({len(found)},), one a sample, NaN if not seen"
        )
    check_number("progress", progress, 0, 1)
    return found, seen


def check_weights(values: ArrayLike | None, n: int, what: str) -> np.ndarray | None:
    """
    What a policy returned, as float64, or None if it is None.

    Args:
        values (`ArrayLike` of shape `(n,)`, *optional*): Finite numbers of at least 0, not all 0.
        n (`int`): Samples in the data set.
        what (`str`): What the error calls them, e.g. `"sampling weights"`.

    Raises:
        [`SelectionError`]: They are something else; the message names the first sample at fault and its value.
    """
    if values is None:
        return None
    try:
        weights = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise SelectionError(f"the {what} are not numbers, but {type(values).__name__}") from None
    if weights.shape != (n,):
        raise SelectionError(f"the {what} have shape {weights.shape}; expected ({n},), one a sample in data-set order")
    wrong = np.flatnonzero(~np.isfinite(weights) | (weights < 0))
    if len(wrong):
        raise SelectionError(
            f"{len(wrong)} of {n} {what} are not finite numbers of at least 0; the first is {weights[wrong[0]]} "
            f"of sample {wrong[0]} (unscored samples have NaN scores; give them a weight too)"
        )
    if not weights.any():
        raise NothingLeftError(f"the {what} are all 0, so nothing is left to train on; at least one must be above 0")
    return weights


def checked(default: Any, check: Callable[[str, Any], object]) -> Any:
    """A field of a policy; `check(name, value)` raises for a value that is not valid."""
    return field(default=default, metadata={"check": check})


def in_range(default: float, low: float, high: float, *, above: bool = False) -> Any:
    """A field of a policy for a number; see [`check_number`]."""
    return checked(default, lambda name, value: check_number(name, value, low, high, above=above))


def one_of(default: str, valid: Sequence[str]) -> Any:
    """A field of a policy for one of the valid values."""
    return checked(default, lambda name, value: check_choice(name, value, valid, SelectionError))


def check_number(name: str, value: Any, low: float, high: float, *, above: bool = False) -> None:
    """Raises [`SelectionError`] unless `value` is a number in [`low`, `high`], or in (`low`, `high`] with `above`."""
    right = isinstance(value, Real) and not isinstance(value, bool)
    if not right or not low <= value <= high or (above and value == low):
        raise SelectionError(f"{name} {value!r} is not a number in {'(' if above else '['}{low:g}, {high:g}]")


def tamed(weights: np.ndarray, largest: int = 64) -> np.ndarray:
    """
    Weights (finite, at least 0) that sums, means and 32-bit numbers can hold.

    A power of two divides them where the greatest lies outside of 2^-`largest` and 2^`largest`.
    """
    exponent = int(np.frexp(weights.max(initial=0.0))[1])
    return weights if abs(exponent) <= largest else np.ldexp(weights, -exponent)


def settle(weights: np.ndarray, unscored: str) -> np.ndarray:
    """Weights without NaN: an unscored sample gets 0 (`unscored="drop"`), or the mean of the others (`"keep"`)."""
    missing = np.isnan(weights)
    scored = weights[~missing]
    other = 0.0 if unscored == "drop" else float(scored.mean()) if len(scored) else 1.0
    settled = np.where(missing, other, weights)
    if not settled.any():
        why = (
            f"{len(scored):,} of {len(weights):,} samples are scored, and all of them have weight 0; {OTHER_SET}"
            if len(scored)
            else f"none of the {len(weights):,} samples is scored; score them first, or set unscored='keep'"
        )
        raise NothingLeftError(f"no sample can be drawn: {why}")
    return settled


OTHER_SET = "move the threshold (`ee-trl sweep` shows the shares), or keep other quadrants"


def bounded(weights: ArrayLike, floor: float = 0.0, ceiling: float = float("inf")) -> np.ndarray:
    """
    Weights within bounds and of mean 1.

        w'_i = min(max(c w_i, floor), ceiling) for w_i > 0, with the one c for which mean(w' > 0) = 1;    0 stays 0.

    The trainer divides the weighted loss by the sum of the weights, so a common factor changes nothing. A mean of 1
    keeps that sum near the number of tokens, and the logged loss comparable with one without weights. Clipping alone
    would move the mean, so c is found after clipping; as floor <= 1 <= ceiling, there always is one. A weight of 0
    means *dropped*: a floor does not lift it, and it does not count in the mean.

    Args:
        weights (`ArrayLike` of shape `(n,)`): Finite, at least 0, not all 0.
        floor (`float`, *optional*, defaults to `0.0`): In [0, 1]: the least of the weights above 0.
        ceiling (`float`, *optional*, defaults to infinity): At least 1: the greatest weight.

    Returns:
        `np.ndarray` of shape `(n,)`. Weights that are in bounds and of mean 1 already come back as they were.
    """
    check_number("floor", floor, 0, 1)
    check_number("ceiling", ceiling, 1, np.inf)
    raw = np.asarray(weights, dtype=np.float64)
    checked = check_weights(raw, raw.size, "weights")
    assert checked is not None  # only None gives None
    top = checked.max()
    ordered = np.sort(checked[checked > 0] / top)
    ordered = np.maximum(ordered, 1e-200)  # so that 1 / weight is finite
    scale = _scale(ordered, floor, min(ceiling, len(ordered)))  # of n weights with mean 1 none is above n
    return np.where(checked > 0, np.clip(checked / top * scale, floor, ceiling), 0.0)


def _scale(ordered: np.ndarray, floor: float, ceiling: float) -> float:
    """The c of [`bounded`] for ascending weights in (0, 1], the last being 1; by bisection, the mean rising with c."""
    n, sums = len(ordered), np.concatenate([[0.0], np.cumsum(ordered)])

    def mean(c: float) -> float:
        low, high = np.searchsorted(ordered, [floor / c, ceiling / c])
        return (low * floor + c * (sums[high] - sums[low]) + (n - high) * ceiling) / n

    below, above = 1.0, ceiling / float(ordered[0])  # all at most 1, and all at the ceiling
    for _ in range(200):
        middle = float(np.sqrt(below) * np.sqrt(above))
        below, above = (middle, above) if mean(middle) < 1 else (below, middle)
    return above
