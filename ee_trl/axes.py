"""The two axes of empathy, a threshold on each, and the four quadrants.

Every array of scores in this package is of shape `(n, 2)`, in the order of [`AXES`]: sensibility first, rationality
second, each a float in [0, 10], or NaN in both columns where the sample is unscored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .errors import SelectionError, check_choice


SENSIBILITY = "sensibility"
"""Emotional grounding (affective empathy): the reply shares, names or soothes the feeling."""

RATIONALITY = "rationality"
"""Cognitive coherence (cognitive empathy): the reply reasons about the situation: asks, explains, advises."""

AXES = (SENSIBILITY, RATIONALITY)
MIN_SCORE, MAX_SCORE = 0.0, 10.0

BALANCED, LOW, TIE = "balanced", "low", "tie"
QUADRANTS = (SENSIBILITY, RATIONALITY, BALANCED, LOW)
"""High sensibility only, high rationality only, both high, both low; see [`quadrants`]."""

UNSCORED = "unscored"  # in place of a quadrant, for a sample without scores
QUADRANT = "quadrant"  # the column that names a sample's quadrant
FLAG = "score_flag"  # the column that names a sample's flag, null where it has none
APPROPRIATENESS = "appropriateness"  # a detail: the probability that a reply fits its context, in [0, 1]
NOT_ENGLISH = "not_english"
FLAGS = ("hostile", "dismissive", "off_topic", "repetitive", NOT_ENGLISH)
"""What a scorer may find wrong with a reply, whatever its scores. Stores keep the positions: add names at the end."""

QUADRANT_NAMES = ("", *QUADRANTS, TIE)  # the names behind the codes of `quadrant_codes`; "" is unscored
DEFAULT_THRESHOLD = 5.0  # T of the released rule (Efficient-Empathy)
Threshold = float | Sequence[float] | Mapping[str, float]

TIES = ("drop", "high", "low")


def thresholds(threshold: Threshold = DEFAULT_THRESHOLD) -> tuple[float, float]:
    """T per axis, `(sensibility, rationality)`, from one number, a pair, or a mapping of axis to number."""
    pair: Any = threshold if isinstance(threshold, (list, tuple)) else [threshold, threshold]
    if isinstance(threshold, Mapping):
        for name in threshold:
            check_choice("axis", name, AXES, SelectionError)
        pair = [threshold.get(axis, DEFAULT_THRESHOLD) for axis in AXES]
    try:
        values = tuple(float(t) for t in pair)
    except (TypeError, ValueError):
        values = ()
    if len(values) != 2 or not all(MIN_SCORE <= t <= MAX_SCORE for t in values):
        raise SelectionError(
            f"threshold {threshold!r} is not valid; valid: one number in [0, 10] for both axes, a pair (sensibility, "
            "rationality), or a mapping of axis to number"
        )
    return values[0], values[1]


def scores_array(values: ArrayLike, name: str) -> np.ndarray:
    """Scores as float64, NaN where unscored; raises [`SelectionError`] if one is not a number in [0, 10]."""
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "iuf":  # NumPy would read booleans and digits as numbers
            if any(isinstance(value, (str, bytes, bool, np.bool_)) for value in array.flat):
                raise TypeError
            array = array.astype(object)
        array = array.astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        raise SelectionError(f"the {name} scores are not numbers") from None
    if array.ndim != 1:
        raise SelectionError(f"the {name} scores have shape {array.shape}; expected one number for each sample")
    wrong = np.flatnonzero((array < MIN_SCORE) | (array > MAX_SCORE))
    if len(wrong):
        raise SelectionError(
            f"{len(wrong)} {name} scores are outside [0, 10], the first is {array[wrong[0]]} at index {wrong[0]}; "
            "rescale them, e.g. by 10 / their maximum"
        )
    return array


def quadrants(
    sensibility: ArrayLike, rationality: ArrayLike, threshold: Threshold = DEFAULT_THRESHOLD, ties: str = "drop"
) -> np.ndarray:
    """
    The quadrant of each sample.

    Args:
        sensibility (`ArrayLike` of shape `(n,)`): Scores in [0, 10], NaN where unscored.
        rationality (`ArrayLike` of shape `(n,)`): Likewise.
        threshold (`float`, pair or mapping, *optional*, defaults to `5.0`): T, for both axes or for each.
        ties (`str`, *optional*, defaults to `"drop"`):
            How a score equal to T counts: in no quadrant (`"drop"`, the released rule), as `"high"` or as `"low"`.

    Returns:
        `np.ndarray` of shape `(n,)`, of `str`: `"sensibility"` (S high, R low), `"rationality"` (R high, S low),
        `"balanced"` (both high), `"low"` (both low), `"tie"`, or `""` where either score is missing.
    """
    return np.array(QUADRANT_NAMES, dtype=object)[quadrant_codes(sensibility, rationality, threshold, ties)]


def quadrant_codes(
    sensibility: ArrayLike, rationality: ArrayLike, threshold: Threshold = DEFAULT_THRESHOLD, ties: str = "drop"
) -> np.ndarray:
    """[`quadrants`] as `uint8`: positions in [`QUADRANT_NAMES`]."""
    check_choice("ties", ties, TIES, SelectionError)
    s, r = scores_array(sensibility, SENSIBILITY), scores_array(rationality, RATIONALITY)
    if len(s) != len(r):
        raise SelectionError(f"{len(s)} sensibility scores, but {len(r)} rationality scores")
    t_s, t_r = thresholds(threshold)
    s_high, r_high = (s >= t_s, r >= t_r) if ties == "high" else (s > t_s, r > t_r)
    s_low, r_low = (s <= t_s, r <= t_r) if ties == "low" else (s < t_s, r < t_r)
    codes = np.full(len(s), QUADRANT_NAMES.index(TIE), np.uint8)
    for name, where in (
        (LOW, s_low & r_low),
        (BALANCED, s_high & r_high),
        (RATIONALITY, r_high & s_low),
        (SENSIBILITY, s_high & r_low),
        ("", np.isnan(s) | np.isnan(r)),
    ):
        codes[where] = QUADRANT_NAMES.index(name)
    return codes


def combined_scores(
    scores: ArrayLike, appropriateness: ArrayLike | None = None, flags: Sequence[str | None] | None = None
) -> np.ndarray:
    """
    One number for each sample, where one is needed: `(S + R) / 2`, times the appropriateness.

    It is 0 for a flagged reply, unless the appropriateness is below 0.5 and so says the same, in finer steps.

    Args:
        scores (`ArrayLike` of shape `(n, 2)`): Sensibility and rationality in [0, 10], NaN where unscored.
        appropriateness (`ArrayLike` of shape `(n,)`, *optional*):
            The probability that the reply fits its context, in [0, 1]. NaN counts as 1.
        flags (`Sequence` of length `n`, *optional*): One of [`FLAGS`] for each sample, or `None`.

    Returns:
        `np.ndarray` of shape `(n,)`, in [0, 10], NaN where a sample is unscored.
    """
    combined = np.asarray(scores, np.float64).mean(axis=1)
    fits = np.ones(len(combined))
    if appropriateness is not None:
        fits = np.nan_to_num(np.asarray(appropriateness, np.float64), nan=1.0)
    if flags is not None:
        fits[np.array([bool(flag) for flag in flags], bool) & (fits >= 0.5)] = 0.0
    return combined * fits
