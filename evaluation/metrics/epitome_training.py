"""Trains a classifier of EPITOME levels from labelled posts, and records how well it does."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ee_trl.data.tables import features_of, rows_of, tables_of
from ee_trl.errors import EmpathyError, FormatError, require
from ee_trl.files import digest

from .epitome_classifier import LEVELS, MECHANISMS, Classifier, EncoderClassifier, LinearClassifier


SEEKER, RESPONSE, GROUP = "seeker_post", "response_post", "sp_id"
Fit = Callable[[Sequence[str], Sequence[str], np.ndarray], Classifier]


@dataclass(frozen=True)
class Posts:
    """Labelled replies: `levels` has shape `(n, 3)`, `groups` names their seekers, `content` is a digest."""

    seekers: list[str]
    responses: list[str]
    levels: np.ndarray
    groups: list[str]
    content: str


def read_posts(dataset: Any) -> Posts:
    """Reads EPITOME-format data; a column `sp_id` says which posts are of one seeker."""
    features = features_of(dataset)
    needed = (SEEKER, RESPONSE, *MECHANISMS)
    missing = [name for name in needed if name not in features]
    if missing:
        raise FormatError(
            f"the data have no column {', '.join(map(repr, missing))} (columns: {sorted(features)}); EPITOME-format "
            f"data have {', '.join(needed)}"
        )
    wanted = [name for name in (*needed, GROUP) if name in features]
    rows = [row for table in tables_of(dataset) for row in rows_of(table, features, wanted)]
    if not rows:
        raise FormatError("the data hold no row")
    for i, row in enumerate(rows):
        for name in (SEEKER, RESPONSE):
            if not isinstance(row[name], str) or not row[name].strip():
                raise FormatError(f"row {i}: {name} is {row[name]!r}; a text is needed. Drop such rows first")
        for name in MECHANISMS:
            if row[name] not in LEVELS or isinstance(row[name], bool):
                raise FormatError(f"row {i}: {name} is {row[name]!r}; valid: 0, 1, 2. Drop such rows first")
    return Posts(
        [row[SEEKER] for row in rows],
        [row[RESPONSE] for row in rows],
        np.array([[int(row[name]) for name in MECHANISMS] for row in rows]),
        [str(row.get(GROUP) or row[SEEKER]) for row in rows],
        f"sha256:{digest(repr([sorted(row.items()) for row in rows]))}",
    )


def train_epitome(
    posts: Posts,
    folder: str | os.PathLike[str] | None,
    *,
    encoder: str | None = None,
    folds: int = 5,
    seed: int = 0,
    **options: Any,
) -> dict[str, Any]:
    """Trains a classifier on all posts and saves it with the record that this returns, cross-validation included."""
    require("sklearn", extra="metrics", purpose="training an EPITOME classifier")
    fit: Any = LinearClassifier.fit
    if encoder is not None:
        fit = partial(EncoderClassifier.fit, encoder=encoder, seed=seed, **options)
    record: dict[str, Any] = {
        "kind": "linear" if encoder is None else "encoder",
        "samples": len(posts.responses),
        "data": posts.content,
        "settings": {"encoder": encoder, "seed": seed, **options},
        "cross_validation": None,
    }
    try:
        if folds:
            mechanisms = cross_validate(fit, posts, folds=folds, seed=seed)
            record["cross_validation"] = {"folds": folds, "seed": seed, "mechanisms": mechanisms}
        if folder is not None:
            fit(posts.seekers, posts.responses, posts.levels).save(folder, record)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise EmpathyError(f"no classifier was trained: {error}") from error
    return record


def cross_validate(fit: Fit, posts: Posts, *, folds: int = 5, seed: int = 0) -> dict[str, Any]:
    """
    Trains on all folds but one and predicts that one, in turn; replies to one seeker are all in one fold.

    Returns mechanism -> [`level_report`] of all predictions; `majority` is the report of each fold's majority class.
    """
    from sklearn.model_selection import GroupKFold

    seekers, responses, levels = posts.seekers, posts.responses, posts.levels
    if (different := len(set(posts.groups))) < folds:
        raise ValueError(f"{folds} folds need at least {folds} different seekers, got {different}.")
    found, majority = np.zeros_like(levels), np.zeros_like(levels)
    for train, test in GroupKFold(folds, shuffle=True, random_state=seed).split(levels, groups=posts.groups):
        model = fit([seekers[i] for i in train], [responses[i] for i in train], levels[train])
        found[test] = model.predict([seekers[i] for i in test], [responses[i] for i in test])
        majority[test] = [np.bincount(column).argmax() for column in levels[train].T]
    return {
        name: {**level_report(levels[:, i], found[:, i]), "majority": level_report(levels[:, i], majority[:, i])}
        for i, name in enumerate(MECHANISMS)
    }


def level_report(wanted: np.ndarray, found: np.ndarray) -> dict[str, Any]:
    """`macro_f1` (over the levels that occur), `accuracy`, and for each level `recall` and the count of `samples`."""
    from sklearn.metrics import f1_score, recall_score

    there = sorted(set(wanted.tolist()))
    recalls = recall_score(wanted, found, labels=list(LEVELS), average=None, zero_division=0)
    return {
        "macro_f1": float(f1_score(wanted, found, labels=there, average="macro", zero_division=0)),
        "accuracy": float((wanted == found).mean()),
        "recall": {str(level): float(recalls[level]) for level in there},
        "samples": {str(level): int((wanted == level).sum()) for level in there},
    }
