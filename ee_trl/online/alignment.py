"""Scores in the order of the rows that a trainer trains on, one pair a row; NaN where a row is unscored."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..axes import AXES, RATIONALITY, SENSIBILITY, scores_array
from ..data.dialogue import SOURCE_ERROR, Dialogue, Turns, samples_of
from ..data.formats import recognise
from ..errors import FormatError, ScoresError, TrainingError
from . import ranks
from .same_rows import compared


if TYPE_CHECKING:
    from datasets import Dataset

    from ..data.formats import DialogueFormat
    from ..selector import EmpathyDataSelector

logger = logging.getLogger(__name__)


def known_scores(rows: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """
    The scores that rows bring, and which of the others may be scored.

    Args:
        rows (`Dataset`): With `sensibility` and `rationality`, or without.

    Returns:
        `tuple` of an array of shape `(n, 2)`, NaN in both where there is no valid score, and one of shape `(n,)`:
        whether the row has no score and no reason in `score_status` for having none.
    """
    if not brings_scores(rows):
        return np.full((len(rows), 2), np.nan), np.ones(len(rows), dtype=bool)
    names = [*AXES, *(["score_status"] if "score_status" in rows.column_names else [])]
    table = rows.select_columns(names).with_format(None)[:]
    scores = np.stack([scores_array(table[axis], axis) for axis in AXES], axis=1)
    missing = np.isnan(scores).any(axis=1)
    failed = np.zeros(len(rows), dtype=bool)
    if "score_status" in table:
        failed = np.array([status not in (None, "scored") for status in table["score_status"]], dtype=bool)
    scores[missing | failed] = np.nan
    return scores, missing & ~failed


def scores_of(selector: EmpathyDataSelector, rows: Dataset, eos: str | None = None) -> np.ndarray:
    """
    The scores of rows by the selector's scorer.

    Args:
        selector ([`EmpathyDataSelector`]): Each process takes its share of the rows.
        rows (`Dataset`): With a dialogue a row. A conversation of several listener turns counts with the mean of its
            scored turns.
        eos (`str`, *optional*): A text that TRL appended to completions, which is left out of the scoring.

    Returns:
        `np.ndarray` of shape `(n, 2)`.
    """
    plain, _ = _dialogue_rows(rows)
    part = ranks.share(len(plain))
    own = _scored(selector, without_eos(plain.select(range(part.start, part.stop)), eos))
    return np.concatenate(ranks.every(own))


def brings_scores(rows: Dataset) -> bool:
    """Whether the rows have score columns; raises [`ScoresError`] where they have one of two."""
    given = [axis for axis in AXES if axis in rows.column_names]
    if len(given) == 1:
        raise ScoresError(f"there is a column {given[0]!r}, but not the other of {' and '.join(AXES)}; add it")
    return bool(given)


def _dialogue_rows(rows: Dataset) -> tuple[Dataset, DialogueFormat]:
    """The dialogue columns of the rows, and their format; raises [`ScoresError`] where there are none."""
    columns = rows.column_names
    plain = rows.remove_columns([name for name in ("input_ids", "labels", "seq_lengths") if name in columns])
    try:
        fmt = recognise(plain.column_names)
    except FormatError as error:
        raise ScoresError(
            f"the rows (columns: {sorted(columns)}) have neither scores nor a dialogue that could be scored. Give "
            "them the columns sensibility and rationality, or name the rows they were made from: dataset=..."
        ) from error
    if fmt.utterance_rows:
        raise ScoresError("one utterance a row is not what a trainer trains on; see selector.score")
    return plain.select_columns([n for n in (*fmt.columns, SOURCE_ERROR) if n in plain.column_names]), fmt


class RowDialogues:
    """
    The dialogues in rows, by number: what scoring ahead asks for.

    Args:
        rows (`Dataset`): With a dialogue a row.
        turns (`"each"` or `"last"`): Which listener turns are samples.
        eos (`str`, *optional*): A text that TRL appended to completions, which is left out of the scoring.
        positions (`np.ndarray` of shape `(n,)`, *optional*): Where in `rows` each of the trainer's rows is.
    """

    def __init__(
        self, rows: Dataset, turns: Turns, eos: str | None = None, positions: np.ndarray | None = None
    ) -> None:
        plain, self._fmt = _dialogue_rows(rows)
        self._rows, self._turns, self._eos, self._positions = plain.with_format(None), turns, eos, positions

    def __call__(self, numbers: Sequence[int]) -> list[list[Dialogue]]:
        """The dialogues of each of these rows; none where none can be scored."""
        where = list(numbers) if self._positions is None else self._positions[list(numbers)].tolist()
        table = self._rows[where]
        rows = [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]
        found: list[list[Dialogue]] = [[] for _ in rows]
        for sample in samples_of(self._fmt, [self._without_eos(row) for row in rows], self._turns):
            if sample.dialogue is not None:
                found[sample.row].append(sample.dialogue)
        return found

    def _without_eos(self, row: dict[str, Any]) -> dict[str, Any]:
        completion = row.get("completion")
        if not self._eos or not isinstance(completion, str):
            return row
        return {**row, "completion": completion.removesuffix(self._eos)}


def _scored(selector: EmpathyDataSelector, rows: Dataset) -> np.ndarray:
    """Scores by the selector: of a row of several samples the mean of those that have scores."""
    if not len(rows):
        return np.empty((0, 2))
    with random_state_kept():
        scored = selector.score(rows)
    found, _ = known_scores(scored)
    if "row_index" not in scored.column_names:
        return found
    return mean_by_row(np.asarray(scored["row_index"][:], dtype=np.int64), found, len(rows))


def mean_by_row(row_index: np.ndarray, scores: np.ndarray, n: int) -> np.ndarray:
    """The mean of the scored samples of each of `n` rows, NaN for a row that has none."""
    valid = ~np.isnan(scores).any(axis=1)
    counts = np.bincount(row_index[valid], minlength=n)
    sums = np.stack([np.bincount(row_index[valid], scores[valid, axis], n) for axis in range(2)], axis=1)
    means = np.full((n, 2), np.nan)
    means[counts > 0] = sums[counts > 0] / counts[counts > 0, None]
    return means


def without_eos(rows: Dataset, eos: str | None) -> Dataset:
    """The rows with completions as the user gave them: TRL ends texts (not messages) with the end-of-text token."""
    if not eos or "completion" not in rows.column_names or not len(rows) or not isinstance(rows[0]["completion"], str):
        return rows
    return rows.map(lambda row: {"completion": row["completion"].removesuffix(eos)}, desc="Taking off the EOS token")


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Whatever is drawn inside, the global random states are afterwards as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


# ---- rows of another data set --------------------------------------------------------------------------------------


def positions_in(rows: Dataset, source: Dataset, index: str | None, *, shuffled: bool) -> np.ndarray:
    """
    Where in a source data set each of the trainer's rows is.

    Args:
        rows (`Dataset`): The trainer's.
        source (`Dataset`): What it was made from.
        index (`str`, *optional*): A column of both that names each row. Without it, both must be in the same order.
        shuffled (`bool`): Whether the trainer shuffled its rows.

    Raises:
        [`TrainingError`]: The rows cannot be matched.
    """
    if index is None:
        return same_order(len(rows), len(source), shuffled)
    for name, dataset in (("trainer", rows), ("given", source)):
        if index not in dataset.column_names:
            raise TrainingError(f"the {name} data set has no column {index!r} (columns: {dataset.column_names})")
    names = source.with_format(None)[index][:]
    where = {value: i for i, value in enumerate(names)}
    if len(where) < len(names):
        raise TrainingError(f"the column {index!r} names {len(names) - len(where)} rows twice; it must name each once")
    wanted = rows.with_format(None)[index][:]
    missing = [value for value in wanted if value not in where]
    if missing:
        raise TrainingError(f"{len(missing)} rows of the trainer are not in the given data set, e.g. {missing[0]!r}")
    return np.array([where[value] for value in wanted], dtype=np.int64)


def same_order(n: int, given: int, shuffled: bool) -> np.ndarray:
    """The positions `0 ... n - 1`; raises [`TrainingError`] where the trainer's rows are not the given ones."""
    if shuffled:
        raise TrainingError(
            f"the trainer shuffled its rows (shuffle_dataset=True), so that theirs is another order; {_FIX}"
        )
    if n != given:
        why = f"; TRL drops rows in which max_length leaves nothing to learn: {given - n} of them" if n < given else ""
        raise TrainingError(f"the trainer has {n} rows, the given data set {given}{why}; {_FIX}")
    return np.arange(n)


def same_dialogues(rows: Dataset, given: Dataset, tokenizer: Any = None, max_length: int | None = None) -> None:
    """
    Raises [`TrainingError`] where a spread of the trainer's rows shows that the given ones are in another order.

    Args:
        rows, given, tokenizer, max_length: See [`~ee_trl.online.same_rows.compared`].
    """
    count, wrong = compared(rows, given, tokenizer, max_length)
    if 2 * wrong > count:
        raise TrainingError(
            f"of {count} rows compared, {wrong} of the trainer are more like another row of the given data set than "
            f"like their own: they are in another order, or of other data; {_FIX}"
        )


_FIX = "name a column that identifies the rows of both (index=...), or put the scores into the trainer's data set"


def text_tokenizer(processing_class: Any) -> Any:
    """The tokenizer in a processor, or the tokenizer itself; None if there is none."""
    return getattr(processing_class, "tokenizer", processing_class)


def origin(
    trainer: Any, rows: Dataset, source: Dataset | None, index: str | None
) -> tuple[Dataset, np.ndarray, str | None]:
    """
    Where the scores and dialogues of rows are.

    Args:
        trainer (`SFTTrainer`, *optional*): None where the rows are as they were given.
        rows (`Dataset`): What scores are wanted for.
        source (`Dataset`, *optional*): What the trainer's rows were made from.
        index (`str`, *optional*): A column of both that names each row.

    Returns:
        `tuple`: the data set that holds them, the positions of the rows in it, and the text that TRL appended there.
    """
    if trainer is None or source is None:
        tokenizer = text_tokenizer(getattr(trainer, "processing_class", None))
        return rows, np.arange(len(rows)), getattr(tokenizer, "eos_token", None)
    positions = positions_in(rows, source, index, shuffled=trainer.args.shuffle_dataset)
    if index is None:
        same_dialogues(rows, source, text_tokenizer(trainer.processing_class), trainer.args.max_length)
    return source, positions, None


def has_dialogues(rows: Dataset) -> bool:
    """Whether the rows hold dialogues that could be scored."""
    try:
        _dialogue_rows(rows)
    except ScoresError:
        return False
    return True


def dropped_rows(trainer: Any, rows: Dataset) -> int:
    """How many rows TRL left out because truncation masked all of their tokens."""
    prepared = not trainer._skip_prepare_dataset and getattr(trainer, "_empathy_samples", None) is None
    return rows.data.num_rows - len(rows) if prepared and trainer.args.max_length is not None else 0


def report(scores: np.ndarray, ahead: int = 0, dropped: int = 0) -> None:
    """Says how many rows are scored, how many will be while training, and how many the trainer left out."""
    scored = int((~np.isnan(scores).any(axis=1)).sum())
    text = f"{scored:,} of {len(scores):,} rows are scored"
    if scored:
        means = np.nanmean(scores, axis=0)
        text += f" (mean {SENSIBILITY} {means[0]:.2f}, {RATIONALITY} {means[1]:.2f})"
    if ahead:
        text += f"; {ahead:,} are scored while training, before they are drawn"
    if dropped:
        text += f"; TRL left out {dropped:,} rows in which max_length leaves nothing to learn"
    logger.log(logging.WARNING if dropped else logging.INFO, text)
