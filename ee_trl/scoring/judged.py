"""Judged samples: dialogues with a judge's scores, split so that no conversation is on both sides."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..axes import AXES, scores_array
from ..data.dialogue import Dialogue
from ..data.formats import recognise
from ..data.reading import open_rows
from ..data.samples import check_scored, read_samples, read_scores, refuse_utterances
from ..data.tables import AnyDataset, features_of
from ..errors import FormatError, ScoresError, require
from .store import dialogue_key


FEWEST = 50  # judged samples; results from fewer mean nothing


@dataclass(frozen=True)
class Judged:
    """`n` dialogues and what a judge gave them."""

    dialogues: list[Dialogue]
    scores: np.ndarray  # (n, 2), none is missing
    conversations: np.ndarray  # (n,), see `conversation_numbers`
    judges: tuple[str, ...]  # the scorers' fingerprints; "given" where unknown
    left_out: int  # rows without a dialogue, or without scores
    rows: np.ndarray  # (n,), which rows of the data set they are

    def __len__(self) -> int:
        return len(self.dialogues)

    def part(self, where: np.ndarray) -> Judged:
        """The samples at these places."""
        dialogues = [self.dialogues[i] for i in np.arange(len(self))[where]]
        arrays = {name: getattr(self, name)[where] for name in ("scores", "conversations", "rows")}
        return replace(self, dialogues=dialogues, **arrays)


def open_judged(scored: AnyDataset | str | os.PathLike[str], at_least: int = FEWEST) -> Judged:
    """[`read_judged`] of a data set, file, folder or hub name."""
    dataset: Any = open_rows(scored) if isinstance(scored, (str, os.PathLike)) else scored
    parts = list(dataset.values()) if hasattr(dataset, "keys") else [dataset]
    if len(parts) != 1:
        raise FormatError(f"there are several splits: {', '.join(dataset)}; give one of them")
    return read_judged(parts[0], at_least)


def read_judged(dataset: AnyDataset, at_least: int = FEWEST) -> Judged:
    """
    Judged samples of one split with the columns `sensibility` and `rationality`.

    In a conversation of several turns the last counts as the judged one, unless the row names a `turn`.
    """
    columns = list(features_of(dataset))
    check_scored(columns)
    refuse_utterances(recognise(columns))
    found = read_scores(dataset)
    scores = np.stack([scores_array(getattr(found, axis), axis) for axis in AXES], axis=1)
    samples = [sample.dialogue for sample in read_samples(dataset, "last")]
    good = np.array([dialogue is not None for dialogue in samples], bool) & ~np.isnan(scores).any(axis=1)
    rows = np.flatnonzero(good)
    if len(rows) < at_least:
        raise ScoresError(
            f"only {len(rows)} of {len(samples)} rows have a dialogue and a judge's scores; at least {at_least} are "
            "needed. Score some more: ee-trl score DIALOGUES --scorer JUDGE -o judged.parquet"
        )
    dialogues: list[Any] = [samples[row] for row in rows]
    left_out = len(samples) - len(rows)
    return Judged(dialogues, scores[rows], conversation_numbers(dialogues), tuple(found.scorers), left_out, rows)


def calibration_of(scored: AnyDataset | str | os.PathLike[str]) -> Judged:
    """Judged samples for a cascade to calibrate on, each content once."""
    judged = open_judged(scored)
    first = {dialogue_key(d): i for i, d in reversed(list(enumerate(judged.dialogues)))}
    return judged.part(np.array(sorted(first.values())))


def conversation_numbers(dialogues: Sequence[Dialogue]) -> np.ndarray:
    """Numbers of shape `(n,)`: equal for dialogues that begin with the same utterance."""
    numbers: dict[str, int] = {}
    firsts = (" ".join((d.context or (d.response,))[0].split()).lower() for d in dialogues)
    return np.array([numbers.setdefault(first, len(numbers)) for first in firsts], np.intp)


def folds_of(conversations: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Fold numbers of shape `(n,)`; no conversation is split. Recorded results depend on them."""
    unique, inverse = np.unique(conversations, return_inverse=True)
    return np.random.default_rng(seed).permutation(len(unique))[inverse] % folds


def held_out_of(conversations: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Which samples are held out, of shape `(n,)`, of `bool`: about `share` of them; no conversation is split."""
    unique, inverse, counts = np.unique(conversations, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(unique))
    before = np.cumsum(counts[order]) - counts[order]
    return np.isin(inverse, order[before < share * len(conversations)])


def targets(scores: np.ndarray) -> np.ndarray:
    """
    Regression targets: the mean of the judge's scores and of their ranks, both standardised.

    The ranks spread out scores that a judge crowds together; the scores keep the distances.
    """
    stats = require("scipy.stats", extra="report", purpose="distillation")
    ranks = np.stack([stats.rankdata(column) for column in scores.T], axis=1)
    parts = [(part - part.mean(axis=0)) / np.maximum(part.std(axis=0), 1e-9) for part in (ranks, scores)]
    return (parts[0] + parts[1]) / 2


def check_spread(scores: np.ndarray) -> None:
    """Raises [`ScoresError`] where a judge gave all samples the same score on an axis."""
    for axis, column in zip(AXES, scores.T, strict=True):
        if (column == column[0]).all():
            raise ScoresError(f"the judge gave every sample the {axis} {column[0]:g}; there is nothing to learn")
