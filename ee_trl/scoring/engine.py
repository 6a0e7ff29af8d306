"""Data set in, scored data set out: scores the samples of each batch of rows, and adds the columns.

Source columns and their order survive. For what is added, see [`~ee_trl.scoring.dataset.DatasetScorer.score`]; where a
row is one utterance, the conversation is written out as `prompt` and `completion` too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..axes import AXES, FLAG, QUADRANT
from ..data.dialogue import SCORED, UNANSWERED, Dialogue, Sample, whole_number
from ..data.formats import DialogueFormat, recognise
from ..data.samples import SIDES, Batch, Row, sample_columns
from ..errors import ScoresError
from .run import ScoringRun


if TYPE_CHECKING:
    from datasets import Features

STATUS, SCORER = "score_status", "scorer"
SCORE_COLUMNS = (*AXES, STATUS, SCORER)


@dataclass(frozen=True)
class Layout:
    """How the source's columns become columns of the scored data set; determined before scoring."""

    columns: tuple[str, ...]  # of the source
    fmt: DialogueFormat
    renames: dict[str, str]  # source columns whose names are taken by added columns -> their new names
    added: tuple[str, ...]  # names of the added columns, in order
    rescored: bool  # whether the source has the columns of an earlier run
    details: tuple[str, ...] = ()  # the added columns that the scorer gives beside the scores: flags, and on request

    @property
    def read(self) -> list[str]:
        """The columns that scoring reads."""
        added = ("context", *SCORE_COLUMNS, *self.details) if self.rescored else ("context",)
        wanted = dict.fromkeys([*sample_columns(self.fmt, self.columns), *added])
        return [name for name in wanted if name in self.columns]

    def kept_name(self, name: str) -> str:
        """The name of a source column in the scored data set; later rows of a stream may bring new columns."""
        if self.rescored or name not in (*self.added, QUADRANT):
            return self.renames.get(name, name)
        return self.renames.get(name) or _other_name(name, self.fmt, {*self.added, *self.renames.values()})


def layout_of(columns: Sequence[str], details: tuple[str, ...] = ()) -> Layout:
    """The [`Layout`] for a source with these columns; raises [`FormatError`] where no dialogue format fits them."""
    fmt = recognise(columns)
    rescored = all(name in columns for name in (*AXES, SCORER))
    added: tuple[str, ...] = ("row_index", "turn") if fmt.multi_turn else ()
    if fmt.utterance_rows and not rescored:
        emotion = ("emotion",) if "context" in columns and "emotion" not in columns else ()
        added += (*SIDES, *emotion)
    added += (*SCORE_COLUMNS, *details)
    taken = {*columns, *added, QUADRANT}
    renames: dict[str, str] = {}
    for name in columns:
        if name in (*added, QUADRANT) and not rescored:
            renames[name] = _other_name(name, fmt, taken)
            taken.add(renames[name])
    return Layout(tuple(columns), fmt, renames, added, rescored, details)


def _other_name(name: str, fmt: DialogueFormat, taken: set[str]) -> str:
    wanted = f"given_{name}" if name in AXES else f"source_{name}"
    if fmt.utterance_rows and name == "prompt" and "situation" not in taken:
        return "situation"
    while wanted in taken:
        wanted += "_"
    return wanted


def scored_features(features: Features, layout: Layout) -> Features:
    """The features of the scored data set, without the quadrant."""
    renamed = {layout.renames.get(name, name): feature for name, feature in features.items()}
    return type(features)({**renamed, **_added_features(layout)})


def _added_features(layout: Layout) -> Features:
    from datasets import Features

    return Features.from_arrow_schema(_added_types(layout))


def _added_types(layout: Layout) -> pa.Schema:
    messages = pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))
    types = {"row_index": pa.int64(), "turn": pa.int64(), **dict.fromkeys(SIDES, messages)}
    types |= dict.fromkeys(("emotion", STATUS, SCORER, FLAG), pa.string())
    return pa.schema({name: types.get(name, pa.float64()) for name in layout.added})


def score_tables(batches: Iterable[Batch], layout: Layout, run: ScoringRun) -> Iterator[pa.Table]:
    """The tables of the batches with the added columns; see [`annotate`]."""
    for batch in batches:
        yield joined(batch.table, layout, *added_columns(batch, layout, run))


def added_columns(batch: Batch, layout: Layout, run: ScoringRun) -> tuple[list[int] | None, pa.Table]:
    """For each sample of a batch the row that it comes from (`None`: all rows, in order), and the added columns."""
    rows, columns = annotate(batch, layout, run)
    types = _added_types(layout)
    whole = len(rows) == batch.num_rows and rows == list(range(len(rows)))
    return None if whole else rows, pa.table([_column(columns[field.name], field) for field in types], schema=types)


def joined(table: pa.Table, layout: Layout, rows: list[int] | None, added: pa.Table) -> pa.Table:
    """A table of the source with what [`added_columns`] made of it."""
    table = table if rows is None else table.take(pa.array(rows, pa.int64()))
    table = table.rename_columns([layout.renames.get(name, name) for name in table.column_names])
    for field, array in zip(added.schema, added.columns, strict=True):
        place = table.schema.get_field_index(field.name)
        table = table.append_column(field, array) if place < 0 else table.set_column(place, field, array)
    return table


def score_rows(batches: Iterable[Batch], layout: Layout, run: ScoringRun) -> Iterator[Row]:
    """[`score_tables`] for rows of a stream whose columns have no fixed types."""
    for batch in batches:
        rows, columns = annotate(batch, layout, run)
        for n, row in enumerate(rows):
            kept = {layout.kept_name(name): value for name, value in batch.rows[row].items()}
            yield kept | {name: columns[name][n] for name in layout.added}


def unscored_dialogues(batches: Iterable[Batch], layout: Layout, run: ScoringRun) -> Iterator[list[Dialogue]]:
    """For each batch the dialogues that [`score_tables`] would have scored."""
    for batch in batches:
        samples = _samples(batch, _done(batch, layout, run))
        yield [sample.dialogue for sample in samples if sample.dialogue is not None]


def annotate(batch: Batch, layout: Layout, run: ScoringRun) -> tuple[list[int], dict[str, list[Any]]]:
    """Scores the samples of a batch: for each the row of the batch that it comes from, and the added columns."""
    done = _done(batch, layout, run)
    samples = _samples(batch, done)
    asked = [(i, sample.dialogue) for i, sample in enumerate(samples) if sample.dialogue is not None]
    scored = run.score([dialogue for _, dialogue in asked])
    columns: dict[str, list[Any]] = {}
    for name in layout.added:
        if name in layout.details or name in (*AXES, SCORER):
            columns[name] = [None] * len(samples)
        elif name == STATUS:
            columns[name] = [sample.reason for sample in samples]
        else:
            columns[name] = [None if s.row in done else _value(name, s, batch, layout) for s in samples]
        for i, sample in enumerate(samples if done else ()):
            if sample.row in done:
                columns[name][i] = _earlier(name, batch.rows[sample.row])
    given: dict[str, list[Any]] = {STATUS: scored.statuses}
    for axis, scores in zip(AXES, scored.scores.T.tolist(), strict=True):
        given[axis] = [s if status == SCORED else None for s, status in zip(scores, scored.statuses, strict=True)]
    for name in layout.details:
        flags = scored.flags or [None] * len(asked)
        given[name] = flags if name == FLAG else [None if v != v else v for v in scored.details[name].tolist()]
    for name, values in given.items():
        if len(asked) == len(samples):
            columns[name] = values
        else:
            for (i, _), value in zip(asked, values, strict=True):
                columns[name][i] = value
    columns[SCORER] = [run.scorer.fingerprint] * len(samples)
    run.coverage.kept += len(done)
    run.coverage.count(columns[STATUS])
    return [sample.row for sample in samples], columns


def _done(batch: Batch, layout: Layout, run: ScoringRun) -> set[int]:
    """The rows that came with this scorer's answer, except failures to be retried and rows that lack a detail."""
    if not layout.rescored:
        return set()
    rows = batch.rows
    answered = {i for i, row in enumerate(rows) if row.get(SCORER) is not None}
    if others := sorted({str(rows[i][SCORER]) for i in answered} - {run.scorer.fingerprint}):
        raise ScoresError(
            "the data set has scores of another scorer, which are not mixed with new ones:\n"
            f"  in the data: {', '.join(others)}\n  this scorer: {run.scorer.fingerprint}\n"
            f"Select from it as it is, or drop the columns {', '.join((*SCORE_COLUMNS, QUADRANT))} to score it again."
        )
    scored = {i for i in answered if rows[i].get(STATUS) == SCORED}
    failed = {i for i in answered - scored if not run.retry_failures and rows[i].get(STATUS) not in UNANSWERED}
    return failed | {i for i in scored if all(name in rows[i] for name in layout.details)}


def _samples(batch: Batch, done: set[int]) -> list[Sample]:
    """The samples of the rows; a row that is `done` is one sample as it stands, whatever it holds."""
    if not done:
        return batch.samples
    kept = [sample for sample in batch.samples if sample.row not in done] if len(done) < batch.num_rows else []
    return sorted([*kept, *(Sample(row, None, None, None) for row in done)], key=lambda sample: sample.row)


def _value(name: str, sample: Sample, batch: Batch, layout: Layout) -> Any:
    """A sample's value in an added column, before it is scored."""
    match name:
        case "row_index":
            earlier = whole_number(batch.rows[sample.row].get(name)) if layout.rescored else None
            return batch.numbers[sample.row] if earlier is None else earlier
        case "turn":
            return sample.turn
        case "prompt" | "completion":
            return getattr(sample.dialogue, name) if sample.dialogue else None
        case "emotion":
            emotion = batch.rows[sample.row].get("context")
            return None if emotion is None else str(emotion)
    return None


def _earlier(name: str, row: Mapping[str, Any]) -> Any:
    """What an earlier run wrote into an added column; its file may have made NaN of null, and `2.0` of `2`."""
    value = row.get(name)
    if name in ("row_index", "turn"):
        return whole_number(value)
    if name == STATUS and value is None:
        given = all(_earlier(axis, row) is not None for axis in AXES)
        return SCORED if given else "scorer_gave_none"
    return None if value != value else value


def _column(values: list[Any], field: pa.Field) -> pa.Array:
    try:
        return pa.array(values, field.type)
    except (pa.ArrowException, OverflowError) as error:  # only values of an earlier run can fail
        raise ScoresError(
            f"the column {field.name!r} of the data set is not what scoring writes ({error}); drop or rename it"
        ) from error
