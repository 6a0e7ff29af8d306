"""From a model's raw predictions to the judge's scale: a piecewise linear map for each axis, fitted by shares.

A regression draws its predictions to the middle, so that a threshold on them would keep far too little or too much.
The map puts each whole score where the judge's own share of samples lies below it, so that the shares of a selection
come out as the judge's, whatever T is.
"""

from __future__ import annotations

import numpy as np

from ..axes import AXES, MIN_SCORE


THRESHOLDS = (3, 4, 5, 6, 7)
"""Whole scores at which the place of a cut among equal scores is chosen by the share of the sensibility set."""

_DECIMALS = 4  # hides differences in the last bits between platforms


def calibrate(raw: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """
    Brings raw predictions to the judge's scale: piecewise linear and increasing on each axis, limited to [0, 10].

    Args:
        raw (`np.ndarray`):
            `(n, 2)` raw predictions.
        knots (`np.ndarray`):
            `(2, 11)`, the raw predictions that become the scores 0 to 10.

    Returns:
        `np.ndarray` of shape `(n, 2)`, rounded to 4 decimals.
    """
    scores = np.empty_like(raw)
    for axis, knot in enumerate(knots):
        x = np.clip(raw[:, axis], knot[0], knot[-1])
        low = np.clip(np.searchsorted(knot, x, side="right") - 1, 0, len(knot) - 2)
        scores[:, axis] = MIN_SCORE + low + (x - knot[low]) / (knot[low + 1] - knot[low])
    return np.round(scores, _DECIMALS)


def knots_of(raw: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """
    The calibration: which raw predictions become the scores 0 to 10, from predictions of samples not trained on.

    Each axis is cut at a quantile, so that the judge's shares below and above come out. The judge gives whole numbers,
    so at T the cut may lie anywhere from the share below T to the share up to T. It is taken, at the same relative
    place on both axes, where the share of the sensibility set is nearest to the judge's.

    Args:
        raw (`np.ndarray` of shape `(n, 2)`): Raw predictions.
        scores (`np.ndarray` of shape `(n, 2)`): The judge's scores of the same samples.

    Returns:
        `np.ndarray` of shape `(2, 11)`, increasing on each axis.
    """

    def cuts(t: int, place: float) -> list[float]:
        below, at = (scores < t).mean(axis=0), (scores == t).mean(axis=0)
        return [float(np.quantile(raw[:, axis], below[axis] + place * at[axis])) for axis in range(len(AXES))]

    def error(t: int, place: float) -> float:
        s, r = cuts(t, place)
        wanted = np.mean((scores[:, 0] > t) & (scores[:, 1] < t))
        return float(abs(np.mean((raw[:, 0] > s) & (raw[:, 1] < r)) - wanted))

    # below the range of the thresholds the cut is at the lower end, above it at the upper end
    places = np.linspace(0, 1, 11).tolist()
    place = {t: min(places, key=lambda p, t=t: error(t, p)) for t in THRESHOLDS}  # type: ignore[misc]
    inner = [cuts(t, place.get(t, float(t > max(THRESHOLDS)))) for t in range(1, 10)]
    margin = np.ptp(raw, axis=0) / 10  # room for predictions beyond those seen
    knots = np.stack([raw.min(axis=0) - margin, *inner, raw.max(axis=0) + margin], axis=1)
    smallest = 1e-5 * np.where(margin > 0, 10 * margin, 1.0)[:, None]  # of the range, however narrow that is
    steps = np.maximum(np.diff(knots, axis=1), smallest)  # increasing also where the judge never used a number
    return np.concatenate([knots[:, :1], knots[:, :1] + np.cumsum(steps, axis=1)], axis=1)
