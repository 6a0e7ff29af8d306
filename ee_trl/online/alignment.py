"""Scores in the order of a trainer's rows, one pair per row; NaN where a row is unscored."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from ..axes import AXES, FLAG, RATIONALITY, SENSIBILITY, scores_array
from ..data.dialogue import Turns
from ..data.samples import check_scored
from ..errors import ScoresError, TrainingError, check_choice, unknown
from ..scoring.base import ScoringSelector
from . import ranks
from .dialogues import ListenerTurns, RowDialogues, bare, dialogue_rows, text_tokenizer
from .trl_internals import prepares_rows
from .worker import FLAGGED, mean_by_row


logger = logging.getLogger(__name__)

_COMPARED = 16  # rows; enough to tell a changed order from a few edited rows
GRANULARITY = ("sample", "turn")
_FIX = "name a column that identifies the rows in both (index=...), or put the scores into the trainer's data set"


class RowScores:
    """
    What is known of a trainer's rows when a policy is attached: scores, and where the dialogues are.

    `scores` (of shape `(n, 2)`) come with the rows or the data set they were made from, NaN where there are none;
    `wanting` (of shape `(n,)`) marks rows without scores that can be scored, `flagged` those whose reply has a flag:
    they have no scores here, and no named policy draws them. With `granularity="turn"` the n are the
    listener turns of all rows (`turns`). Without `scoring` no row is to be scored. Other arguments: see
    [`EmpathyCallback`].
    """

    def __init__(
        self,
        trainer: Any,
        rows: Dataset,
        source: Dataset | None = None,
        index: str | None = None,
        *,
        granularity: str = "sample",
        scoring: bool = True,
    ) -> None:
        check_choice("granularity", granularity, GRANULARITY, TrainingError)
        if granularity == "turn" and (trainer is None or source is not None):
            raise TrainingError(
                "granularity='turn' needs the trainer, and the dialogues in its own rows: selector.attach(trainer, "
                "policy=..., granularity='turn'), without dataset="
            )
        tokenizer, args = text_tokenizer(getattr(trainer, "processing_class", None)), getattr(trainer, "args", None)
        self.given, self.positions, self._eos = rows, np.arange(len(rows)), getattr(tokenizer, "eos_token", None)
        if args is not None and source is not None:
            self.positions = positions_in(rows, source, index, shuffled=args.shuffle_dataset)
            if index is None:
                same_dialogues(rows, source, tokenizer, args.max_length)
            self.given, self._eos = source, None
        self.turns = ListenerTurns(rows) if granularity == "turn" else None
        self.scores, self.wanting = self._known(scoring)
        self.flagged = np.zeros(len(self), dtype=bool)
        if FLAG in self.given.column_names:
            self.flagged[:] = [flag is not None for flag in self.column(FLAG)]
            self.scores[self.flagged], self.wanting[self.flagged] = np.nan, False
        self._dropped = 0
        cut = args is not None and args.max_length is not None and prepares_rows(trainer)
        if cut and trainer.train_dataset is rows:  # rows that get packed are not cut before
            self._dropped = rows.data.num_rows - len(rows)

    def _known(self, scoring: bool) -> tuple[np.ndarray, np.ndarray]:
        """The scores that are there, and where there are none but could be."""
        if not scoring and not set(AXES) <= set(self.given.column_names):
            return np.full((len(self), 2), np.nan), np.zeros(len(self), dtype=bool)
        if self.turns is None:
            scores, wanting = (found[self.positions] for found in known_scores(self.given))
            return scores, wanting & scoring
        if not set(AXES) & set(self.given.column_names):
            return np.full((len(self), 2), np.nan), self.turns.scorable & scoring
        check_scored(self.given.column_names)
        scores = np.stack([scores_array(self.column(axis), axis) for axis in AXES], axis=1)
        return scores, self.turns.scorable & np.isnan(scores).any(axis=1) & scoring

    def __len__(self) -> int:
        return len(self.positions if self.turns is None else self.turns.row)

    def column(self, name: str) -> list[Any]:
        """The values of a column in the order of the trainer's rows, or for each listener turn."""
        if name not in self.given.column_names:
            raise ScoresError(unknown("column of the data set", name, self.given.column_names))
        values = self.given.with_format(None)[name][:]
        values = [values[position] for position in self.positions]
        return values if self.turns is None else self.turns.spread(values, name, alike=name not in AXES)

    def dialogues(self, turns: Turns) -> RowDialogues:
        """The dialogues in the rows, or of each listener turn."""
        if self.turns is None:
            return RowDialogues(self.given, turns, self._eos, self.positions)
        return RowDialogues(self.given, "each", self._eos, self.positions[self.turns.row], self.turns.turn)

    def score(self, selector: ScoringSelector) -> None:
        """Scores the `wanting` rows, each process its share."""
        if not self.wanting.any():
            return
        part = ranks.share(int(self.wanting.sum()))
        wanted = np.flatnonzero(self.wanting)[part]
        if self.turns is None:
            rows, _ = dialogue_rows(self.given.select(self.positions[wanted]))
        else:
            found = self.dialogues("each")(wanted.tolist())
            rows = Dataset.from_list([{"prompt": d.prompt, "completion": d.completion} for [d] in found])
        if self._eos and len(rows) and isinstance(rows[0].get("completion"), str):
            rows = rows.map(bare, fn_kwargs={"eos": self._eos}, desc="Taking off the EOS token")
        own = _scored(selector, rows)
        self.scores[self.wanting] = np.concatenate(ranks.every(own))
        self.flagged |= self.scores[:, 0] == FLAGGED
        self.scores[self.flagged] = np.nan
        self.wanting[:] = False

    def report(self) -> None:
        """Logs how many rows are scored, how many will be while training, and how many the trainer left out."""
        scored = int((~np.isnan(self.scores).any(axis=1)).sum())
        kind = "rows" if self.turns is None else "listener turns"
        text = f"{scored:,} of {len(self.scores):,} {kind} are scored"
        if scored:
            means = np.nanmean(self.scores, axis=0)
            text += f" (mean {SENSIBILITY} {means[0]:.2f}, {RATIONALITY} {means[1]:.2f})"
        if self.wanting.any():
            text += f"; {int(self.wanting.sum()):,} are scored while training, before they are drawn"
        if self._dropped:
            text += (
                f"; TRL left out {self._dropped:,} rows in which max_length leaves nothing to learn: give a greater "
                "one, or truncation_mode='keep_end'"
            )
        logger.log(logging.WARNING if self._dropped else logging.INFO, text)


def known_scores(rows: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """
    The scores in the rows, and which rows without scores can be scored.

    Both scores are NaN where one is missing, and where the reply has a flag.
    """
    given = [axis for axis in AXES if axis in rows.column_names]
    if len(given) == 1:
        raise ScoresError(f"the rows have only the column {given[0]!r} of {' and '.join(AXES)}; add the other")
    if not given:
        dialogue_rows(rows)
        return np.full((len(rows), 2), np.nan), np.ones(len(rows), dtype=bool)
    given += [name for name in ("score_status", FLAG) if name in rows.column_names]
    table = rows.select_columns(given).with_format(None)[:]
    scores = np.stack([scores_array(table[axis], axis) for axis in AXES], axis=1)
    missing = np.isnan(scores).any(axis=1)
    failed = np.zeros(len(rows), dtype=bool)
    if "score_status" in table:  # it may say why a row has no scores
        failed = np.array([status not in (None, "scored") for status in table["score_status"]], dtype=bool)
    if FLAG in table:
        failed |= np.array([flag is not None for flag in table[FLAG]], dtype=bool)
    scores[missing | failed] = np.nan
    try:
        dialogue_rows(rows)
    except ScoresError:  # tokens alone
        failed[:] = True
    return scores, missing & ~failed


def _scored(selector: ScoringSelector, rows: Dataset) -> np.ndarray:
    """The selector's scores, or [`FLAGGED`]; a row of several samples gets the mean of the scored ones."""
    if not len(rows):
        return np.empty((0, 2))
    with random_state_kept():
        scored = selector.score(rows)
    found, _ = known_scores(scored)
    if FLAG in scored.column_names:
        found[[flag is not None for flag in scored[FLAG]]] = FLAGGED
    if "row_index" not in scored.column_names:
        return found
    return mean_by_row(np.asarray(scored["row_index"][:], dtype=np.int64), found, len(rows))


@contextmanager
def random_state_kept(seed: int | None = None) -> Iterator[None]:
    """Restores the random states of Python, NumPy and torch afterwards; inside, torch starts from `seed`."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        if seed is not None:
            torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def positions_in(rows: Dataset, source: Dataset, index: str | None, *, shuffled: bool) -> np.ndarray:
    """Where in its source each of the trainer's rows is; raises [`TrainingError`] where they cannot be matched."""
    if index is None:
        return same_order(len(rows), len(source), shuffled)
    for name, dataset in (("trainer", rows), ("given", source)):
        if index not in dataset.column_names:
            raise TrainingError(f"the {name} data set has no column {index!r} (columns: {dataset.column_names})")
    names = source.with_format(None)[index][:]
    where = {value: i for i, value in enumerate(names)}
    if len(where) < len(names):
        raise TrainingError(f"the column {index!r} repeats {len(names) - len(where)} values; each row needs its own")
    wanted = rows.with_format(None)[index][:]
    missing = [value for value in wanted if value not in where]
    if missing:
        raise TrainingError(f"{len(missing)} rows of the trainer are not in the given data set, e.g. {missing[0]!r}")
    return np.array([where[value] for value in wanted], dtype=np.int64)


def same_order(n: int, given: int, shuffled: bool) -> np.ndarray:
    """The positions `0 ... n - 1`; raises [`TrainingError`] where the trainer's rows are not the given ones."""
    if shuffled:
        raise TrainingError(f"the trainer shuffled its rows (shuffle_dataset=True), so their order differs; {_FIX}")
    if n != given:
        why = f"; TRL drops rows in which max_length leaves nothing to learn: {given - n} of them" if n < given else ""
        raise TrainingError(f"the trainer has {n} rows, the given data set {given}{why}; {_FIX}")
    return np.arange(n)


def same_dialogues(rows: Dataset, given: Dataset, tokenizer: Any = None, max_length: int | None = None) -> None:
    """
    Raises [`TrainingError`] where a sample of rows shows that two data sets of the same length differ in their order.

    Rows of `input_ids` need the `tokenizer`; rows that `max_length` cut are skipped.
    """
    numbers = np.unique(np.linspace(0, len(rows) - 1, _COMPARED).astype(int)).tolist() if len(rows) else []
    theirs, own = _texts(rows, numbers), _texts(given, numbers)
    if theirs is None and tokenizer is not None and "input_ids" in rows.column_names:
        tokens = [ids if len(ids) < (max_length or np.inf) else [] for ids in rows.select(numbers)["input_ids"]]
        theirs = [tokenizer.decode(ids, skip_special_tokens=True) for ids in tokens]
    pairs = [pair for pair in zip(theirs or [], own or [], strict=False) if all(pair)]
    wrong = _out_of_order(pairs)
    if 2 * wrong > len(pairs):
        raise TrainingError(
            f"{wrong} of {len(pairs)} compared rows of the trainer resemble another row of the given data set more "
            f"than their own: the rows are in another order, or the data differ; {_FIX}"
        )


def _texts(rows: Dataset, numbers: list[int]) -> list[str] | None:
    """The dialogue in each of these rows as one text, None where rows have none."""
    try:
        found = RowDialogues(rows, "last", None, np.arange(len(rows)))(numbers)
    except ScoresError:
        return None
    return [" ".join(text for d in dialogues for text in (*d.context, d.response)) for dialogues in found]


def _out_of_order(pairs: Sequence[tuple[str, str]]) -> int:
    """
    How many first texts resemble the second text of another pair more than their own.

    The texts of a pair are seldom equal: one may be decoded from tokens or have an extra system message.
    """
    grams = [[_grams(pair[side]) for pair in pairs] for side in (0, 1)]
    alike = np.array([[2 * len(a & b) / max(len(a) + len(b), 1) for b in grams[1]] for a in grams[0]])
    return int((np.diag(alike) < alike.max(axis=1) - 1e-9).sum()) if len(alike) else 0


def _grams(text: str) -> set[str]:
    plain = "".join(text.casefold().split())
    return {plain[i : i + 3] for i in range(max(len(plain) - 2, 1))}
