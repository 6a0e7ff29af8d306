"""Scored rows in, what SFTTrainer trains on out: reads the score columns, writes out the rows that a rule chose."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..axes import AXES, RATIONALITY, SENSIBILITY
from ..errors import FormatError, ScoresError
from .columns import Coded, Coder, distinct
from .dialogue import SCORED, SOURCE_ERROR, Dialogue, DialogueFormat, Sample, Turns, recognise, samples_of
from .tables import (
    BATCH_ROWS,
    chosen_rows,
    columns_of,
    conversation_order,
    features_of,
    is_stream,
    label_names,
    rows_of,
    tables_of,
    to_dataset,
)


if TYPE_CHECKING:
    from datasets import Dataset, Features, IterableDataset

GIVEN = "given"
"""What stands for the fingerprint of scores that a data set brought along."""

SIDES = ("prompt", "completion")

_ORIGIN = ("score_status", "scorer")
_SAMPLE_COLUMNS = ("row_index", "turn", SOURCE_ERROR)
_RESERVED = (
    *("prompt", "completion", "messages", "conversations", "chosen", "rejected"),
    *("input_ids", "labels", "completion_mask", "assistant_masks", "seq_lengths"),
)
"""Column names that mean something to SFTTrainer, so that no other column may have them."""


Row = dict[str, Any]

# ---- from rows to samples ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Batch:
    """
    Some rows of a data set, and the samples in them.

    Args:
        table (`pa.Table`): The rows, with all their columns; `None` of a stream that does not know its columns.
        rows (`list[dict]`): The same rows as Python values, with the columns that samples are made of and those that
            were asked for.
        numbers (`Sequence[int]`): For each row its number in the data set.
        samples (`list[Sample]`): In order; `row` counts within this batch. Each row has at least one, except for
            utterance rows: see [`~ee_trl.data.dialogue.samples_of`].
    """

    table: Any
    rows: list[Row]
    numbers: Sequence[int]
    samples: list[Sample]

    @property
    def num_rows(self) -> int:
        """How many rows."""
        return len(self.rows)


def iter_samples(
    dataset: Dataset | IterableDataset,
    turns: Turns = "each",
    *,
    columns: Iterable[str] = (),
    batch_rows: int = BATCH_ROWS,
) -> Iterator[Batch]:
    """
    All samples of a data set, batch by batch: the one way from rows to samples.

    Args:
        dataset (`Dataset` or `IterableDataset`): One split, in any format. Of one utterance a row, the utterances of a
            conversation are put together and in order; in a stream they must be neighbours.
        turns (`"each"` or `"last"`, *optional*, defaults to `"each"`): See [`~ee_trl.data.dialogue.samples_of`].
        columns (`Iterable[str]`, *optional*): Other columns that `rows` should have, where the data set has them.
        batch_rows (`int`, *optional*, defaults to `1000`): Rows of a batch, about.

    Raises:
        [`FormatError`]: No dialogue format fits the columns.
    """
    features = features_of(dataset)
    order = None
    if recognise(list(features)).utterance_rows and not is_stream(dataset):
        order = conversation_order(dataset)
        dataset = dataset.select(order)
    return batches_of(tables_of(dataset, batch_rows), features, turns, columns=columns, numbers=order)


def batches_of(
    tables: Iterable[pa.Table],
    features: Features,
    turns: Turns = "each",
    *,
    columns: Iterable[str] = (),
    numbers: Sequence[int] | None = None,
) -> Iterator[Batch]:
    """[`iter_samples`] of tables whose rows have these `numbers`, by default from 0 on."""
    fmt = recognise(list(features))
    wanted = [name for name in dict.fromkeys((*fmt.columns, *_SAMPLE_COLUMNS, *columns)) if name in features]
    start = 0
    for table in whole_conversations(tables) if fmt.utterance_rows else tables:
        span = range(start, start + table.num_rows)
        start = span.stop
        rows = rows_of(table, features, wanted)
        yield Batch(
            table, rows, span if numbers is None else numbers[span.start : span.stop], samples_of(fmt, rows, turns)
        )


def iter_row_samples(
    stream: Iterable[Row], fmt: DialogueFormat, turns: Turns = "each", *, batch_rows: int = BATCH_ROWS
) -> Iterator[Batch]:
    """[`iter_samples`] of a stream that does not know its columns: the rows as they are, and no tables."""
    start = 0
    rows: list[Row] = []

    def batch() -> Batch:
        return Batch(None, rows, range(start, start + len(rows)), samples_of(fmt, rows, turns))

    for row in stream:
        if len(rows) >= batch_rows and not (fmt.utterance_rows and row.get("conv_id") == rows[-1].get("conv_id")):
            yield batch()
            start, rows = start + len(rows), []
        rows.append(row)
    if rows:
        yield batch()


def read_samples(dataset: Dataset | IterableDataset, turns: Turns = "each") -> Iterator[Sample]:
    """All samples of a data set, as [`iter_samples`] finds them; their `row` counts over the whole data set."""
    for batch in iter_samples(dataset, turns):
        for sample in batch.samples:
            yield sample._replace(row=batch.numbers[sample.row])


def whole_conversations(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same utterance rows in tables that end where a conversation ends."""
    held: pa.Table | None = None
    for table in tables:
        held = table if held is None else pa.concat_tables([held, table])
        ids = held.column("conv_id").to_pylist()
        end = len(ids)
        while end and ids[end - 1] == ids[-1] and ids[-1] is not None:
            end -= 1
        if end:
            yield held.slice(0, end)
            held = held.slice(end)
    if held is not None and held.num_rows:
        yield held


# ---- score columns -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scores:
    """
    The score columns of a data set, as arrays of a few bytes a row.

    Args:
        sensibility (`np.ndarray` of shape `(n,)`): In [0, 10], NaN where unscored.
        rationality (`np.ndarray` of shape `(n,)`): Likewise.
        statuses ([`~ee_trl.data.columns.Coded`] of length `n`): `"scored"` or the reason why not.
        scorers (`tuple[str, ...]`): The fingerprints of what made them; `("given",)` if they came without.
        lengths (`np.ndarray` of shape `(n,)`, *optional*): Characters in each reply, if asked for.
        emotions ([`~ee_trl.data.columns.Coded`] of length `n`, *optional*): The emotion column, if there is one and it
            was asked for; `""` where there is none.
    """

    sensibility: np.ndarray
    rationality: np.ndarray
    statuses: Coded
    scorers: tuple[str, ...]
    lengths: np.ndarray | None = None
    emotions: Coded | None = None

    @property
    def status(self) -> np.ndarray:
        """`statuses` as an array of shape `(n,)`, of `str`."""
        return self.statuses.to_array()


def check_scored(columns: Sequence[str]) -> None:
    """Raises [`ScoresError`] unless both score columns are there."""
    missing = [axis for axis in AXES if axis not in columns]
    if missing:
        raise ScoresError(
            f"the data set has no column {' and '.join(map(repr, missing))} (columns: {sorted(columns)}); "
            "score it first: selector.score(dataset), or ee-trl score"
        )


def read_scores(dataset: Dataset | IterableDataset, *, lengths: bool = False, emotion: bool = False) -> Scores:
    """
    Reads the score columns, batch by batch.

    Of scores that came without `score_status` and `scorer`, rows that are no dialogue with a reply count as unscored:
    nothing can be trained on them.
    """
    columns = columns_of(dataset)
    check_scored(columns)
    fmt = None if _scored_here(columns) and not lengths else recognise(columns)
    refuse_utterances(fmt)
    read = [*AXES, *(_ORIGIN if _scored_here(columns) else ())] + (["emotion"] if emotion else [])
    read = [name for name in read if name in columns]
    dialogue = [name for name in (*fmt.columns, *_SAMPLE_COLUMNS) if name in columns] if fmt else []
    scores = _ScoreReader()
    for table, rows in _batches(dataset, read, dialogue):
        scores.add(table, rows, fmt)
    return scores.result(lengths=lengths, emotion=emotion and "emotion" in columns)


def _scored_here(columns: Sequence[str]) -> bool:
    """Whether the scores are of this package; otherwise columns of these names are the user's own."""
    return all(name in columns for name in (*AXES, *_ORIGIN))


def _batches(
    dataset: Dataset | IterableDataset, read: list[str], dialogue: list[str]
) -> Iterator[tuple[pa.Table, list[dict[str, Any]]]]:
    """The columns to `read`, as tables of known types, and with each table its rows of the `dialogue` columns."""
    if dataset.features is None:  # a stream of rows that may be of any types
        for batch in dataset.with_format(None).iter(10_000):
            rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
            yield _typed(batch, read), rows
        return
    features = features_of(dataset)
    for table in tables_of(dataset.select_columns([*dict.fromkeys([*read, *dialogue])]), 10_000):
        rows = rows_of(table, features, dialogue) if dialogue else []
        yield _named(table.select(read), features), rows


def _typed(batch: Mapping[str, Sequence[Any]], names: list[str]) -> pa.Table:

    columns: dict[str, pa.Array] = {}
    for name in names:
        values = batch.get(name)
        if name not in AXES:
            columns[name] = pa.array([None if value is None else str(value) for value in values or ()], pa.string())
            continue
        try:
            columns[name] = pa.array(values, pa.float64())
        except (pa.ArrowException, OverflowError) as error:
            raise ScoresError(f"the column {name!r} does not hold numbers alone: {error}") from error
    return pa.table(columns)


def _named(table: pa.Table, features: Features) -> pa.Table:
    """The table with the names of emotions, where they are class labels."""
    from datasets import ClassLabel

    if "emotion" not in table.column_names or not isinstance(features["emotion"], ClassLabel):
        return table
    names = label_names(features["emotion"], table.column("emotion").to_pylist())
    return table.set_column(table.schema.get_field_index("emotion"), "emotion", pa.array(names, pa.string()))


def refuse_utterances(fmt: DialogueFormat | None) -> None:
    """Raises [`FormatError`] for a format of one utterance a row, whose own scores belong to no reply."""
    if fmt is not None and fmt.utterance_rows:
        raise FormatError(
            "scores that come with one utterance a row cannot be selected from: write each reply with its context "
            "(columns context and response) first, or have them scored here: selector.score(dataset)"
        )


class _ScoreReader:
    """Gathers the score columns of batches, in arrays that grow in place."""

    def __init__(self) -> None:
        self._axes = {axis: array("d") for axis in AXES}
        self._lengths = array("q")
        self._statuses = Coder((SCORED, "scorer_gave_none"))
        self._emotions = Coder()
        self._scorers: set[str] = set()

    def add(self, table: pa.Table, rows: list[dict[str, Any]], fmt: DialogueFormat | None) -> None:

        scores = {axis: _floats(table.column(axis), axis) for axis in AXES}
        missing = np.isnan(scores[SENSIBILITY]) | np.isnan(scores[RATIONALITY])
        if fmt is not None:
            samples = samples_of(fmt, rows, "last")
            self._lengths.extend(len(s.dialogue.response) if s.dialogue else 0 for s in samples)
            statuses = np.array([self._statuses.code(s.reason or SCORED) for s in samples], np.int32)
        if "score_status" in table.column_names:
            statuses = self._statuses.codes(table.column("score_status"), null=SCORED)
        bad = statuses != self._statuses.code(SCORED)
        statuses[missing & ~bad] = self._statuses.code("scorer_gave_none")
        self._statuses.append(statuses)
        for axis, values in scores.items():
            values[bad | missing] = np.nan
            self._axes[axis].frombytes(values.tobytes())
        named = distinct(table.column("scorer"))[0] if "scorer" in table.column_names else [None]
        self._scorers |= {name or GIVEN for name in named}
        if "emotion" in table.column_names:
            self._emotions.append(self._emotions.codes(table.column("emotion"), null=""))

    def result(self, *, lengths: bool, emotion: bool) -> Scores:

        sensibility, rationality = (
            np.frombuffer(self._axes[axis], np.float64) if self._axes[axis] else np.empty(0) for axis in AXES
        )
        return Scores(
            sensibility,
            rationality,
            self._statuses.result(),
            tuple(sorted(self._scorers)),
            np.array(self._lengths) if lengths else None,
            self._emotions.result() if emotion else None,
        )


def _floats(column: pa.ChunkedArray, name: str) -> np.ndarray:

    kind = column.type
    numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_null)
    if not any(is_kind(kind) for is_kind in numbers):
        raise ScoresError(
            f"the column {name!r} is of type {kind}, not of numbers; cast it, or score the data set anew"
        )
    return np.array(column.cast(pa.float64()).to_numpy(), dtype=np.float64)


# ---- the rows chosen, as prompt and completion ---------------------------------------------------------------------


def training_features(features: Features) -> Features:
    """The features of the rows that were chosen: `prompt` and `completion` take the place of the dialogue columns."""
    from datasets import Features, List, Value

    others = kept_names(list(features))
    messages = List({"role": Value("string"), "content": Value("string")})
    return Features({"prompt": messages, "completion": messages, **{new: features[n] for n, new in others.items()}})


def kept_names(columns: Sequence[str]) -> dict[str, str]:
    """
    The columns that survive a selection -> what they are called then.

    All but the dialogue columns survive, under their own names, except where SFTTrainer would take them for its own.
    """
    fmt = recognise(columns)
    others = [name for name in columns if name not in fmt.dialogue_columns and name != SOURCE_ERROR]
    names = {name: name for name in others if name not in _RESERVED}
    for name in others:
        if name in _RESERVED:
            new = f"source_{name}"
            while new in names.values():
                new += "_"
            names[name] = new
    return {name: names[name] for name in others}


def training_row(row: Mapping[str, Any], dialogue: Dialogue) -> dict[str, Any]:
    """One row with `prompt` and `completion` in the place of its dialogue columns."""
    others = {new: row[name] for name, new in kept_names(list(row)).items()}
    return {"prompt": dialogue.prompt, "completion": dialogue.completion, **others}


def training_tables(tables: Iterable[pa.Table], features: Features, kept: np.ndarray) -> Iterator[pa.Table]:
    """
    The rows where `kept` is true, as TRL trains on them.

    Args:
        tables (`Iterable[pa.Table]`): The scored rows.
        features (`Features`): Their features.
        kept (`np.ndarray` of shape `(n,)`, of `bool`): Which of all rows to take; each must be scored.
    """

    others = kept_names(list(features))
    types = training_features(features).arrow_schema
    for batch in batches_of(chosen_rows(tables, kept), features, "last"):
        table = batch.table.select(list(others)).rename_columns(list(others.values()))
        for side, column in zip(SIDES, _sides([_dialogue(sample) for sample in batch.samples], types), strict=True):
            table = table.append_column(side, column)
        yield table.select(types.names)


def _dialogue(sample: Sample) -> Dialogue:
    if sample.dialogue is None:
        raise ScoresError(
            f"a row with scores holds no dialogue to train on ({sample.reason}): its text is not what was scored; "
            "score the data set anew"
        )
    return sample.dialogue


def dropped_tables(scored: Dataset | IterableDataset, drops: Coded) -> tuple[Features, Iterator[pa.Table]]:
    """The rows with a reason to drop them, each with that reason (`drops`, `""` for none) in `drop_reason`."""
    from datasets import Features, Value

    features = Features({**features_of(scored), "drop_reason": Value("string")})

    def tables() -> Iterator[pa.Table]:
        start = 0
        for table in tables_of(scored):
            reasons = Coded(drops.codes[start : start + table.num_rows], drops.names)
            start += table.num_rows
            dropped = np.flatnonzero(~reasons.is_(""))
            column = pa.array(reasons.to_array()[dropped].tolist(), pa.string())
            yield table.take(pa.array(dropped)).append_column("drop_reason", column)

    return features, tables()


def all_dialogues(dataset: Dataset, turns: Turns = "each") -> Dataset:
    """Every sample of a data set that is a dialogue with a reply, selected or not, as `prompt` and `completion`."""
    features, tables = dialogue_tables(dataset, turns)
    return to_dataset(tables, features).select_columns(["prompt", "completion"])


def dialogue_tables(
    dataset: Dataset, turns: Turns = "each", left_out: Counter[str] | None = None
) -> tuple[Features, Iterator[pa.Table]]:
    """
    Every sample that is a dialogue with a reply, scored or not, as TRL trains on it.

    Args:
        dataset (`Dataset`): In any format; of one utterance a row, with each conversation's rows together.
        turns (`"each"` or `"last"`, *optional*, defaults to `"each"`): See [`~ee_trl.data.dialogue.samples_of`].
        left_out (`Counter`, *optional*): Counts the samples left out, by reason.

    Returns:
        `tuple`: the features (`prompt`, `completion`, and both score columns and `score_status` where the data set has
        both scores), and the tables as they are made.
    """
    from datasets import Features

    features = features_of(dataset)
    scores = [name for name in (*AXES, "score_status") if name in features and all(axis in features for axis in AXES)]
    types = training_features(features)
    out = Features({name: types[name] for name in ("prompt", "completion", *scores)})
    batches = iter_samples(dataset, turns)

    def tables() -> Iterator[pa.Table]:
        for batch in batches:
            if left_out is not None:
                left_out.update(sample.reason for sample in batch.samples if sample.reason is not None)
            found = [(sample.row, sample.dialogue) for sample in batch.samples if sample.dialogue is not None]
            kept = batch.table.select(scores).take(pa.array([row for row, _ in found], pa.int64()))
            sides = _sides([dialogue for _, dialogue in found], out.arrow_schema)
            yield pa.table([*sides, *kept.columns], schema=out.arrow_schema)

    return out, tables()


def _sides(dialogues: Sequence[Dialogue], schema: pa.Schema) -> list[pa.Array]:
    """`prompt` and `completion` of each dialogue."""
    return [pa.array([getattr(d, side) for d in dialogues], schema.field(side).type) for side in SIDES]
