"""The iterator from rows to samples; the score columns of a data set; the chosen rows as SFTTrainer takes them."""

from __future__ import annotations

import logging
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..axes import AXES, FLAG, RATIONALITY, SENSIBILITY
from ..errors import FormatError, ScoresError
from .columns import Coded, Coder, distinct
from .dialogue import SCORED, SOURCE_ERROR, Dialogue, Sample, Turns, row_samples, samples_of, utterance_number
from .formats import KEYS, ROLES, SYSTEM_COLUMNS, BadRow, DialogueFormat, Message, recognise, say_what_it_means
from .plain import plain_samples, plain_sides, plain_turns
from .tables import (
    BATCH_ROWS,
    chosen_rows,
    columns_of,
    features_of,
    is_stream,
    label_names,
    only_columns,
    rows_of,
    tables_of,
    to_dataset,
)


if TYPE_CHECKING:
    from datasets import Dataset, Features, IterableDataset

logger = logging.getLogger(__name__)

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Batch:
    """
    Some rows of a data set, and the samples in them.

    Args:
        table (`pa.Table`): The rows with all of their columns; `None` for a stream without features.
        values (`Callable`): Gives the rows of a table as Python values.
        numbers (`Sequence[int]`): For each row its number in the data set.
        fmt, turns: See [`~ee_trl.data.dialogue.samples_of`].
        unknown (`set[str]`): Unknown roles that a warning has named; the batches of a data set share it.
    """

    table: Any
    values: Callable[[Any], list[Row]]
    numbers: Sequence[int]
    fmt: DialogueFormat
    turns: Turns
    unknown: set[str] = field(default_factory=set)

    @cached_property
    def samples(self) -> list[Sample]:
        """In order; their `row` counts within this batch."""
        found = self.found
        bad = [s.row for s in found if s.reason in ("unknown_role", "null_dialogue")] if not self.unknown else []
        for row in dict.fromkeys(bad):
            self._warn(row)
        return found

    @cached_property
    def found(self) -> list[Sample]:
        """The `samples`, without a warning of unknown roles."""
        plain = None if self.table is None else plain_turns(self.table, self.fmt)
        if plain is None:
            return samples_of(self.fmt, self.rows, self.turns)
        other = np.flatnonzero(~plain.plain)
        found = self.values(self.table.take(pa.array(other))) if len(other) else []
        rows = dict(zip(other.tolist(), found, strict=True))
        return plain_samples(plain, self.fmt, self.turns, lambda i: row_samples(self.fmt, i, rows[i], self.turns))

    @cached_property
    def rows(self) -> list[Row]:
        """The rows as Python values: the columns that samples are made of, and those that the caller asked for."""
        return self.values(self.table)

    def _warn(self, row: int) -> None:
        """Says which roles or keys of a row are unknown; the first row of a data set speaks for all."""
        try:
            turns = [] if self.fmt.utterance_rows or self.unknown else self.fmt.parse(self.rows[row])
        except BadRow:
            return
        if texts := list(dict.fromkeys(message.text for message in turns if message.problem and message.text)):
            self.unknown.update(texts)
            logger.warning(
                "row %s: the turns have roles or keys that are not known (%s). %s",
                *(self.numbers[row], "; ".join(texts), say_what_it_means(_meanings(turns, texts))),
            )

    @property
    def num_rows(self) -> int:
        """How many rows."""
        return len(self.numbers)


def _meanings(turns: Sequence[Message], unknown: Sequence[str]) -> dict[str, str]:
    """What unknown keys or roles may mean, as an example; whoever opens a conversation is often the speaker."""
    kind, _, names = unknown[0].partition(": ")
    if kind == "keys":
        return dict(zip(names.split(", "), KEYS if not turns[0].role else KEYS[1:], strict=False))
    sides = [side for side in ROLES[1:] if side not in {message.role for message in turns}] or ["user"]
    found = (text.partition(": ")[2].strip("'\"") for text in unknown)
    return dict(zip(found, sides, strict=False))


def iter_samples(
    dataset: Dataset | IterableDataset,
    turns: Turns = "each",
    *,
    columns: Iterable[str] = (),
    batch_rows: int = BATCH_ROWS,
) -> Iterator[Batch]:
    """
    All samples of a data set, batch by batch: the one way from rows to samples.

    Utterance rows are gathered by conversation; in a stream a conversation's rows must be neighbours. The
    batches' `rows` also have these `columns`.
    """
    features = features_of(dataset)
    order = None
    if recognise(list(features)).utterance_rows and not is_stream(dataset):
        order = _conversation_order(dataset)
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
    """[`iter_samples`] of tables; their rows have these `numbers`, by default 0, 1, 2, ..."""
    fmt = recognise(list(features))
    wanted = [*sample_columns(fmt, features), *(name for name in columns if name in features)]
    values = partial(rows_of, features=features, columns=[*dict.fromkeys(wanted)])
    start, unknown = 0, set[str]()
    for table in _whole_conversations(tables) if fmt.utterance_rows else tables:
        end = start + table.num_rows
        here = range(start, end) if numbers is None else numbers[start:end]
        yield Batch(table, values, here, fmt, turns, unknown)
        start = end


def iter_row_samples(
    stream: Iterable[Row], fmt: DialogueFormat, turns: Turns = "each", *, batch_rows: int = BATCH_ROWS
) -> Iterator[Batch]:
    """[`iter_samples`] of a stream without features: the rows as they are, and no tables."""
    start, unknown = 0, set[str]()
    for rows in _row_batches(stream, fmt, batch_rows):
        yield Batch(None, partial(_given, rows), range(start, start + len(rows)), fmt, turns, unknown)
        start += len(rows)


def _given(rows: list[Row], table: Any) -> list[Row]:
    return rows


def _row_batches(stream: Iterable[Row], fmt: DialogueFormat, size: int) -> Iterator[list[Row]]:
    rows: list[Row] = []
    for row in stream:
        if len(rows) >= size and not (fmt.utterance_rows and row.get("conv_id") == rows[-1].get("conv_id")):
            yield rows
            rows = []
        rows.append(row)
    if rows:
        yield rows


def read_samples(dataset: Dataset | IterableDataset, turns: Turns = "each") -> Iterator[Sample]:
    """All samples of a data set, as [`iter_samples`] finds them; their `row` counts over the whole data set."""
    for batch in iter_samples(dataset, turns):
        for sample in batch.samples:
            yield sample._replace(row=batch.numbers[sample.row])


def _conversation_order(dataset: Dataset) -> list[int]:
    """Row numbers of utterance rows by conversation, in order of first appearance, and then by `utterance_idx`."""
    first: dict[str, int] = {}
    start, numbers = array("q"), array("d")
    wanted = ["conv_id", "utterance_idx"]
    for table in tables_of(dataset.select_columns(wanted), 10_000):
        for row in rows_of(table, dataset.features, wanted):
            i = len(start)
            start.append(i if row["conv_id"] is None else first.setdefault(str(row["conv_id"]), i))
            numbers.append(utterance_number(row["utterance_idx"]))
    return np.lexsort((numbers, start)).tolist()


def _whole_conversations(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
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


def sample_columns(fmt: DialogueFormat, columns: Iterable[str]) -> list[str]:
    """The columns that the samples of a data set are made of."""
    wanted = dict.fromkeys((*fmt.columns, "response", *SYSTEM_COLUMNS, "row_index", "turn", SOURCE_ERROR))
    return [name for name in wanted if name in columns]


GIVEN = "given"
"""Stands for the unknown fingerprint of scores that came with a data set."""


@dataclass(frozen=True)
class Scores:
    """
    The score columns of a data set, as arrays of a few bytes a row.

    Args:
        sensibility, rationality (`np.ndarray` of shape `(n,)`): In [0, 10], NaN where unscored.
        statuses ([`~ee_trl.data.columns.Coded`] of length `n`): `"scored"`, or the reason why not.
        scorers (`tuple[str, ...]`): The scorers' fingerprints; `("given",)` if the data set names none.
        lengths (`np.ndarray` of shape `(n,)`, *optional*): Characters in each reply, if asked for.
        emotions ([`~ee_trl.data.columns.Coded`] of length `n`, *optional*): The emotion column, if asked for and
            there; `""` for null.
        flags ([`~ee_trl.data.columns.Coded`] of length `n`, *optional*): The column `score_flag`, if the scorer wrote
            one; `""` for null.
    """

    sensibility: np.ndarray
    rationality: np.ndarray
    statuses: Coded
    scorers: tuple[str, ...]
    lengths: np.ndarray | None = None
    emotions: Coded | None = None
    flags: Coded | None = None

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


def refuse_utterances(fmt: DialogueFormat | None) -> None:
    """Raises [`FormatError`] for utterance rows: a score must belong to a reply with its context."""
    if fmt is not None and fmt.utterance_rows:
        raise FormatError(
            "each row of the data set is one utterance, but scores belong to replies with their context. Write one "
            "row for each reply (columns context and response), or score the data set here: "
            "selector.score(dataset)"
        )


def read_scores(dataset: Dataset | IterableDataset, *, lengths: bool = False, emotion: bool = False) -> Scores:
    """
    Reads the score columns.

    If the scores came without `score_status` and `scorer`, rows without a dialogue that ends in a reply count as
    unscored, because nothing can be trained on them.
    """
    parts = list(iter_scores(dataset, lengths=lengths, emotion=emotion))

    def array(name: str) -> np.ndarray:
        return np.concatenate([getattr(scores, name) for scores in parts])

    def coded(name: str) -> Coded | None:
        return None if getattr(parts[0], name) is None else Coded.joined([getattr(scores, name) for scores in parts])

    return Scores(
        array(SENSIBILITY),
        array(RATIONALITY),
        Coded.joined([scores.statuses for scores in parts]),
        tuple(sorted({name for scores in parts for name in scores.scorers})),
        array("lengths") if lengths else None,
        coded("emotions"),
        coded("flags"),
    )


def iter_scores(
    dataset: Dataset | IterableDataset, *, lengths: bool = False, emotion: bool = False
) -> Iterator[Scores]:
    """[`read_scores`], batch by batch; of a data set without rows one empty batch."""
    columns = columns_of(dataset)
    check_scored(columns)
    origin = [name for name in ("score_status", "scorer") if name in columns]
    ours = len(origin) == 2  # otherwise columns of these names are the user's own
    fmt = recognise(columns) if lengths or not ours else None
    refuse_utterances(fmt)
    emotion, flagged = emotion and "emotion" in columns, ours and FLAG in columns
    read = [*AXES, *(origin if ours else ()), *(["emotion"] if emotion else ()), *([FLAG] if flagged else ())]
    statuses, emotions, flags = Coder((SCORED, "scorer_gave_none")), Coder(), Coder(("",))
    empty, none = True, np.empty(0, np.int32)
    for values, batch in _score_batches(dataset, read, fmt):
        scores, empty, characters = [_floats(values[axis], axis) for axis in AXES], False, none
        if batch is not None:
            characters, codes = _replies(batch, statuses)
        if ours:
            codes = statuses.codes(values["score_status"], null=SCORED)
        codes[np.isnan(scores).any(axis=0) & (codes == statuses.code(SCORED))] = statuses.code("scorer_gave_none")
        for found in scores:
            found[codes != statuses.code(SCORED)] = np.nan
        yield Scores(
            scores[0],
            scores[1],
            statuses.coded(codes),
            tuple(name or GIVEN for name in distinct(values["scorer"])[0]) if ours else (GIVEN,),
            characters if lengths else None,
            emotions.coded(emotions.codes(values["emotion"], null="")) if emotion else None,
            flags.coded(flags.codes(values[FLAG], null="")) if flagged else None,
        )
    if empty:
        no_names = (emotions.coded(none) if emotion else None, flags.coded(none) if flagged else None)
        yield Scores(np.empty(0), np.empty(0), statuses.coded(none), (), none if lengths else None, *no_names)


def _score_batches(
    dataset: Dataset | IterableDataset, read: list[str], fmt: DialogueFormat | None
) -> Iterator[tuple[dict[str, pa.ChunkedArray], Batch | None]]:
    """The columns to `read` of each batch of rows, and its dialogues if their format is given."""
    from datasets import ClassLabel

    if dataset.features is None:  # the values of such a stream may have any type
        for batch in dataset.with_format(None).iter(BATCH_ROWS):
            rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
            found = Batch(None, partial(_given, rows), range(len(rows)), fmt, "last") if fmt else None
            yield {name: _typed(batch.get(name) or [None] * len(rows), name) for name in read}, found
        return
    features = dataset.features
    dialogue = sample_columns(fmt, features) if fmt else []
    rows_in = partial(rows_of, features=features, columns=dialogue)
    for table in tables_of(only_columns(dataset, [*dict.fromkeys([*read, *dialogue])]), 10 * BATCH_ROWS):
        values = {name: table.column(name) for name in read}
        if isinstance(features.get("emotion"), ClassLabel) and "emotion" in read:
            names = label_names(features["emotion"], values["emotion"].to_pylist())
            values["emotion"] = pa.chunked_array([pa.array(names, pa.string())])
        yield values, Batch(table, rows_in, range(table.num_rows), fmt, "last") if fmt else None


def _typed(values: Sequence[Any], name: str) -> pa.ChunkedArray:
    if name not in AXES:
        texts = [None if value is None else str(value) for value in values]
        return pa.chunked_array([pa.array(texts, pa.string())])
    try:
        return pa.chunked_array([pa.array(values, pa.float64())])
    except (pa.ArrowException, OverflowError) as error:
        raise ScoresError(f"the column {name!r} holds something other than numbers: {error}") from error


def _floats(column: pa.ChunkedArray, name: str) -> np.ndarray:
    types = pa.types
    if not any(fits(column.type) for fits in (types.is_integer, types.is_floating, types.is_decimal, types.is_null)):
        raise ScoresError(
            f"the column {name!r} has type {column.type}, which is not numeric; cast it, or score the data set again"
        )
    return np.array(column.cast(pa.float64()).to_numpy(), dtype=np.float64)


SIDES = ("prompt", "completion")

_RESERVED = (
    *(*SIDES, "messages", "conversations", "chosen", "rejected"),
    *("input_ids", "labels", "completion_mask", "assistant_masks", "seq_lengths"),
)
"""Columns that SFTTrainer reads; no other column may have these names."""


def training_features(features: Features) -> Features:
    """The features of selected rows: `prompt` and `completion` replace the dialogue columns."""
    from datasets import Features, List, Value

    messages = List({"role": Value("string"), "content": Value("string")})
    others = {new: features[name] for name, new in kept_names(list(features)).items()}
    return Features({**dict.fromkeys(SIDES, messages), **others})


def kept_names(columns: Sequence[str]) -> dict[str, str]:
    """The columns that a selection keeps (all but those of the dialogue) -> their names in it."""
    fmt = recognise(columns)
    others = [name for name in columns if name not in fmt.dialogue_columns and name != SOURCE_ERROR]
    names: dict[str, str] = {}
    taken = set(others) - set(_RESERVED)
    for name in others:
        new = f"source_{name}" if name in _RESERVED else name
        while name in _RESERVED and new in taken:
            new += "_"
        names[name] = new
        taken.add(new)
    return names


def training_row(row: Mapping[str, Any], dialogue: Dialogue) -> Row:
    """One row with `prompt` and `completion` in place of its dialogue columns."""
    others = {new: row[name] for name, new in kept_names(list(row)).items()}
    return {"prompt": dialogue.prompt, "completion": dialogue.completion, **others}


def _last_replies(batch: Batch) -> tuple[np.ndarray, list[pa.Array], Batch | None]:
    """Rows whose last sample Arrow makes, with its `prompt` and `completion`; and the other rows, if there are any."""
    plain = None if batch.table is None else plain_turns(batch.table, batch.fmt)
    if plain is None:
        return np.empty(0, np.int64), [], batch
    found, *sides = plain_sides(plain, batch.fmt)
    left = np.setdiff1d(np.arange(batch.num_rows), found, assume_unique=True)
    if not len(left):
        return found, sides, None
    return found, sides, replace(batch, table=batch.table.take(pa.array(left)), numbers=left.tolist())


def _replies(batch: Batch, statuses: Coder) -> tuple[np.ndarray, np.ndarray]:
    """For each row of a batch the characters of its last reply, and the code of its status."""
    found, sides, rest = _last_replies(batch)
    sizes, codes = np.zeros(batch.num_rows, np.int64), np.full(batch.num_rows, statuses.code(SCORED), np.int32)
    if sides:
        sizes[found] = pc.utf8_length(sides[1].flatten().field("content"))
    if rest:
        for row, sample in zip(rest.numbers, rest.found, strict=True):
            sizes[row] = len(sample.dialogue.response) if sample.dialogue else 0
            codes[row] = statuses.code(sample.reason or SCORED)
    return sizes, codes


def training_tables(tables: Iterable[pa.Table], features: Features) -> Iterator[pa.Table]:
    """The rows of scored tables as TRL trains on them; each must be scored."""
    others = list(kept_names(list(features)))
    schema = training_features(features).arrow_schema
    for batch in batches_of(tables, features, "last"):
        found, sides, rest = _last_replies(batch)
        parts = [batch.table.select(others).take(pa.array(found))] if rest else [batch.table.select(others)]
        parts = [pa.table([*sides, *part.columns], schema=schema) for part in parts if sides]
        if rest:
            for sample in rest.samples:
                if sample.dialogue is None:
                    raise ScoresError(
                        f"a row has scores, but no dialogue to train on ({sample.reason}): its text was changed "
                        "after scoring; score the data set again"
                    )
            parts.append(_training_table(rest, others, schema))
        whole = pa.concat_tables(parts)
        yield whole.take(pa.array(np.argsort([*found, *rest.numbers]))) if rest else whole


def _training_table(batch: Batch, others: list[str], schema: pa.Schema) -> pa.Table:
    """The samples of a batch that are dialogues: `prompt`, `completion`, and the `others` of its columns."""
    found = [sample for sample in batch.samples if sample.dialogue is not None]
    sides = [pa.array([getattr(s.dialogue, side) for s in found], schema.field(side).type) for side in SIDES]
    rows = batch.table.select(others).take(pa.array([sample.row for sample in found], pa.int64()))
    return pa.table([*sides, *rows.columns], schema=schema)


def dropped_tables(scored: Dataset | IterableDataset, drops: Coded) -> tuple[Features, Iterator[pa.Table]]:
    """
    The rows with a reason in `drops` (`""` for none), each with this reason in the column `drop_reason`.

    A column that has this name already becomes `source_drop_reason`.
    """
    from datasets import Features, Value

    dropped = ~drops.is_("")
    reasons = pa.array(drops.names, pa.string()).take(pa.array(drops.codes[dropped]))
    features, own = features_of(scored), "source_drop_reason"
    while own in features:
        own += "_"
    names = [own if name == "drop_reason" else name for name in features]

    def tables() -> Iterator[pa.Table]:
        start = 0
        for table in chosen_rows(tables_of(scored, 10 * BATCH_ROWS), dropped):
            own = reasons.slice(start, table.num_rows)
            yield table.rename_columns(names).append_column("drop_reason", own)
            start += table.num_rows

    return Features({**dict(zip(names, features.values(), strict=True)), "drop_reason": Value("string")}), tables()


def all_dialogues(dataset: Dataset, turns: Turns = "each") -> Dataset:
    """Every sample of a data set that is a dialogue with a reply, selected or not, as `prompt` and `completion`."""
    features, tables = dialogue_tables(dataset, turns)
    return to_dataset(tables, features).select_columns(list(SIDES))


def dialogue_tables(
    dataset: Dataset, turns: Turns = "each", left_out: Counter[str] | None = None, columns: Iterable[str] = ()
) -> tuple[Features, Iterator[pa.Table]]:
    """
    Every sample that is a dialogue with a reply, scored or not, as TRL trains on it.

    Returns `tuple`: the features (`prompt`, `completion`, and the score columns and `score_status` if the data set has
    both scores, and these `columns`), and the tables as they are made.
    """
    from datasets import Features

    features = features_of(dataset)
    scores = [
        name for name in (*AXES, "score_status", FLAG) if name in features and all(axis in features for axis in AXES)
    ]
    scores += [name for name in columns if name not in scores]
    types = training_features(features)
    out = Features({name: types[name] for name in (*SIDES, *scores)})
    batches = iter_samples(dataset, turns)

    def tables() -> Iterator[pa.Table]:
        for batch in batches:
            if left_out is not None:
                left_out.update(sample.reason for sample in batch.samples if sample.reason is not None)
            yield _training_table(batch, scores, out.arrow_schema)

    return out, tables()
