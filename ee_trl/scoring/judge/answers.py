"""From the probability of each answer 0 to 10 to scores: the same for every judge, wherever its numbers come from."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ...axes import AXES, MAX_SCORE, MIN_SCORE
from ..base import ScoredBatch


VALUES = tuple(range(int(MAX_SCORE) + 1))
"""The integers that a judge can answer."""

DETAILS = tuple(f"{axis}_{what}" for axis in AXES for what in ("mode", "std", "mass"))
"""Columns on request: the greedy answer, the spread, and how much probability lay on answers 0 to 10 at all."""


def summarised(values: np.ndarray, mode: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """
    Scores and details of `n` samples.

    Args:
        values (`np.ndarray` of shape `(n, 2, 11)`): The probability of each answer 0 to 10 on each axis, which need
            not add up to 1: the rest lay on something else. NaN where there is none.
        mode (`np.ndarray` of shape `(n, 2)`): The greedy answers.

    Returns:
        `tuple`: expected values of shape `(n, 2)` over the answers alone, and for each of [`DETAILS`] an array of
        shape `(n,)`.
    """
    mass = values.sum(axis=2)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = values / mass[:, :, None]
    expected = shares @ np.array(VALUES, float)
    spread = np.sqrt(np.maximum((shares * (np.array(VALUES) - expected[:, :, None]) ** 2).sum(axis=2), 0))
    details: dict[str, np.ndarray] = {}
    for a, axis in enumerate(AXES):
        details |= {f"{axis}_mode": mode[:, a], f"{axis}_std": spread[:, a], f"{axis}_mass": mass[:, a]}
    return np.clip(expected, MIN_SCORE, MAX_SCORE), details


def gathered(batches: Iterable[ScoredBatch], n: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The scores of `n` dialogues, shape `(n, 2)`, and their [`DETAILS`], each of shape `(n,)`, from their batches."""
    scores = np.full((n, len(AXES)), np.nan)
    details = {name: np.full(n, np.nan) for name in DETAILS}
    for batch in batches:
        where = list(batch.indices)
        scores[where] = batch.scores
        for name, values in batch.details.items():
            details[name][where] = values
    return scores, details
