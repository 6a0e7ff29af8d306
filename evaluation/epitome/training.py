"""How well a classifier does on data that it has not seen: cross-validation, with the majority class beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .classifier import LEVELS, MECHANISMS, Classifier


Fit = Callable[[Sequence[str], Sequence[str], np.ndarray], Classifier]


def cross_validate(
    fit: Fit,
    seekers: Sequence[str],
    responses: Sequence[str],
    levels: np.ndarray,
    groups: Sequence[Any] | None = None,
    *,
    folds: int = 5,
    seed: int = 0,
) -> dict[str, Any]:
    """
    Trains on all folds but one and predicts that one, in turn; replies to one seeker are all in one fold.

    Args:
        fit (`Callable`):
            `fit(seekers, responses, levels)` gives a classifier.
        seekers, responses (`Sequence[str]`):
            The posts.
        levels (`np.ndarray` of shape `(n, 3)`):
            0 to 2 for each of [`MECHANISMS`].
        groups (`Sequence`, *optional*):
            What must stay together; by default the seeker's post.
        folds (`int`, *optional*, defaults to `5`):
            How many.
        seed (`int`, *optional*, defaults to `0`):
            Of the folds.

    Returns:
        `dict`: mechanism -> [`level_report`] of the predictions of all folds together, with that of the majority class
        of each fold's training part under `majority`.

    Raises:
        ValueError: there are fewer groups than folds.
        ImportError: scikit-learn is not installed.
    """
    try:
        from sklearn.model_selection import GroupKFold
    except ImportError as error:
        raise ImportError(
            "cross-validation needs scikit-learn, which is not installed. Install it with: pip install scikit-learn"
        ) from error
    together = list(seekers) if groups is None else list(groups)
    if len(set(together)) < folds:
        raise ValueError(f"{folds} folds need at least {folds} different seekers, got {len(set(together))}.")
    found, majority = np.zeros_like(levels), np.zeros_like(levels)
    for train, test in GroupKFold(folds, shuffle=True, random_state=seed).split(levels, groups=together):
        model = fit([seekers[i] for i in train], [responses[i] for i in train], levels[train])
        found[test] = model.predict([seekers[i] for i in test], [responses[i] for i in test])
        majority[test] = [np.bincount(column).argmax() for column in levels[train].T]
    return {
        name: {**level_report(levels[:, i], found[:, i]), "majority": level_report(levels[:, i], majority[:, i])}
        for i, name in enumerate(MECHANISMS)
    }


def level_report(wanted: np.ndarray, found: np.ndarray) -> dict[str, Any]:
    """
    How predicted levels meet those that are wanted.

    Returns:
        `dict`: `macro_f1` (mean F1 over the levels that occur), `accuracy`, `recall` (level -> share of its samples
        that are found) and `samples` (level -> count).
    """
    from sklearn.metrics import f1_score, recall_score

    there = sorted(set(wanted.tolist()))
    recalls = recall_score(wanted, found, labels=list(LEVELS), average=None, zero_division=0)
    return {
        "macro_f1": float(f1_score(wanted, found, labels=there, average="macro", zero_division=0)),
        "accuracy": float((wanted == found).mean()),
        "recall": {str(level): float(recalls[level]) for level in there},
        "samples": {str(level): int((wanted == level).sum()) for level in there},
    }
