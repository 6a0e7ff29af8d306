"""Data set in, scored data set out: finds the samples in each batch of rows, has them scored, adds the columns.

Source columns and their order survive. Added are `sensibility`, `rationality` (floats in [0, 10], null when unscored),
`score_status` (`"scored"` or one of [`~ee_trl.data.dialogue.REASONS`]) and `scorer` (the fingerprint of what made the
numbers); for formats of several turns also `row_index` (of the source row) and `turn` (which message is the reply).
Where a row is one utterance, the conversation is written out as `prompt` and `completion`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..axes import AXES, RATIONALITY, SENSIBILITY
from ..data.dialogue import NOT_ASKED, SCORED, SOURCE_ERROR, Dialogue, Sample, Turns, samples_of, whole_number
from ..data.formats import DialogueFormat, recognise
from ..data.tables import rows_of
from ..errors import ScoresError


if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Features

    from .base import Scorer
    from .run import ScoringRun

STATUS, SCORER = "score_status", "scorer"
SCORE_COLUMNS = (*AXES, STATUS, SCORER)
Row = dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """
    How the columns of a source become those of the scored data set; worked out once, before anything is scored.

    Args:
        fmt (`DialogueFormat`): The source's format.
        renames (`dict[str, str]`): Source columns whose names are taken by added columns -> what they are kept as.
        added (`tuple[str, ...]`): Names of the added columns, in order.
        rescored (`bool`): Whether the source has the columns of an earlier run.
        details (`tuple[str, ...]`): Those of the added columns that the scorer gives beside the scores, on request.
    """

    fmt: DialogueFormat
    renames: dict[str, str]
    added: tuple[str, ...]
    rescored: bool
    details: tuple[str, ...] = ()

    def kept_name(self, name: str) -> str:
        """What a source column is called in the scored data set; later rows of a stream may bring new columns."""
        if self.rescored or name not in (*self.added, "quadrant"):
            return self.renames.get(name, name)
        return self.renames.get(name) or _other_name(name, self.fmt, {*self.added, *self.renames.values()})

    @property
    def given_scores(self) -> list[str]:
        """The source's own score columns, which are kept under other names."""
        return [name for name in AXES if name in self.renames]


def layout_of(columns: Sequence[str], details: tuple[str, ...] = ()) -> Layout:
    """The [`Layout`] for a source with these columns; raises [`FormatError`] where no dialogue format fits them."""
    fmt = recognise(columns)
    added: tuple[str, ...] = ("row_index", "turn") if fmt.multi_turn else ()
    if all(name in columns for name in (*AXES, SCORER)):
        return Layout(fmt, {}, (*added, *SCORE_COLUMNS, *details), rescored=True, details=details)
    if fmt.utterance_rows:
        emotion = ("emotion",) if "context" in columns and "emotion" not in columns else ()
        added += ("prompt", "completion", *emotion)
    added += (*SCORE_COLUMNS, *details)
    taken = {*columns, *added, "quadrant"}
    renames: dict[str, str] = {}
    for name in columns:
        if name in added or name == "quadrant":
            new = _other_name(name, fmt, taken)
            taken.add(new)
            renames[name] = new
    return Layout(fmt, renames, added, rescored=False, details=details)


def _other_name(name: str, fmt: DialogueFormat, taken: set[str]) -> str:
    wanted = f"given_{name}" if name in AXES else f"source_{name}"
    if fmt.utterance_rows and name == "prompt" and "situation" not in taken:
        return "situation"
    while wanted in taken:
        wanted += "_"
    return wanted


def scored_features(features: Features, layout: Layout) -> Features:
    """The features of the scored data set."""
    from datasets import Features

    renamed = {layout.renames.get(name, name): feature for name, feature in features.items()}
    return Features({**renamed, **{n: f for n, f in added_features(layout).items() if n in layout.added}})


def added_features(layout: Layout) -> Features:
    """The features of all the columns that scoring can add."""
    from datasets import Features, List, Value

    messages = List({"role": Value("string"), "content": Value("string")})
    return Features(
        {
            "row_index": Value("int64"),
            "turn": Value("int64"),
            "prompt": messages,
            "completion": messages,
            "emotion": Value("string"),
            SENSIBILITY: Value("float64"),
            RATIONALITY: Value("float64"),
            STATUS: Value("string"),
            SCORER: Value("string"),
            **{name: Value("float64") for name in layout.details},
        }
    )


# ---- scoring ------------------------------------------------------------------------------------------------------


def annotate(
    rows: Sequence[Mapping[str, Any]], layout: Layout, run: ScoringRun, turns: Turns, row_numbers: Sequence[int]
) -> tuple[list[int], dict[str, list[Any]]]:
    """
    Scores the samples of a batch of rows.

    Args:
        rows (`Sequence[Mapping[str, Any]]`): The batch, by the source's column names.
        layout (`Layout`): Of the source.
        run (`ScoringRun`): The scorer at work.
        turns (`"each"` or `"last"`): Which listener turns are samples.
        row_numbers (`Sequence[int]`): Index in the source of each row of the batch.

    Returns:
        `tuple`: for each sample the row of the batch that it comes from, and the added columns.
    """
    import numpy as np

    done = _done(rows, layout, run)
    if layout.rescored:  # whose rows know where they come from
        places = [whole_number(row.get("row_index")) for row in rows]
        row_numbers = [here if place is None else place for here, place in zip(row_numbers, places, strict=True)]
    samples = _samples(rows, layout, turns, done)
    todo = [i for i, s in enumerate(samples) if s.dialogue is not None]
    scored = run.score([d for i in todo if (d := samples[i].dialogue) is not None])

    columns: dict[str, list[Any]] = {
        name: [_value(name, s, rows, row_numbers) for s in samples] for name in layout.added
    }
    for i, (s, r), status in zip(todo, scored.scores.tolist(), scored.statuses, strict=True):
        columns[SENSIBILITY][i], columns[RATIONALITY][i] = (s, r) if status == SCORED else (None, None)
        columns[STATUS][i] = status
    for name in layout.details:
        for i, value in zip(todo, scored.details[name].tolist(), strict=True):
            columns[name][i] = None if np.isnan(value) else value
    columns[SCORER] = [run.scorer.fingerprint] * len(samples)
    for i, sample in enumerate(samples):
        if sample.row in done:
            for name in layout.added:
                columns[name][i] = _earlier(name, rows[sample.row].get(name))
            if columns[STATUS][i] is None:
                given = all(columns[axis][i] is not None for axis in AXES)
                columns[STATUS][i] = SCORED if given else "scorer_gave_none"
    run.coverage.kept += len(done)
    run.coverage.count(columns[STATUS])
    return [s.row for s in samples], columns


def _done(rows: Sequence[Mapping[str, Any]], layout: Layout, run: ScoringRun) -> set[int]:
    """
    The rows that came with this scorer's answer, failures included unless those are to be tried again; without the
    details that are wanted now, the answer is the store's to complete.
    """
    if not layout.rescored:
        return set()
    answered = {i for i, row in enumerate(rows) if row.get(SCORER) is not None}
    _check_fingerprints({str(rows[i][SCORER]) for i in answered}, run.scorer)
    scored = {i for i in answered if rows[i].get(STATUS) == SCORED}
    failed = {i for i in answered - scored if not run.retry_failures and rows[i].get(STATUS) != NOT_ASKED}
    return failed | {i for i in scored if all(name in rows[i] for name in layout.details)}


def _samples(rows: Sequence[Mapping[str, Any]], layout: Layout, turns: Turns, done: set[int]) -> list[Sample]:
    """The samples of the rows; a row that is `done` is one sample as it stands, whatever it holds."""
    if not done:
        return samples_of(layout.fmt, rows, turns)
    samples: list[Sample] = []
    for i, row in enumerate(rows):
        if i in done:
            samples.append(Sample(i, None, None, None))
        else:
            samples += [sample._replace(row=i) for sample in samples_of(layout.fmt, [row], turns)]
    return samples


def _earlier(name: str, value: Any) -> Any:
    """What an earlier run wrote into an added column, after the detours of its file (NaN for null, `2.0` for `2`)."""
    if name in ("row_index", "turn"):
        return whole_number(value)
    return None if value != value else value


def _value(name: str, sample: Sample, rows: Sequence[Mapping[str, Any]], row_numbers: Sequence[int]) -> Any:
    """A sample's value in an added column, before it is scored."""
    match name:
        case "row_index":
            return row_numbers[sample.row]
        case "turn":
            return sample.turn
        case "prompt" | "completion":
            return getattr(sample.dialogue, name) if sample.dialogue else None
        case "emotion":
            emotion = rows[sample.row].get("context")
            return None if emotion is None else str(emotion)
        case "score_status":
            return sample.reason
        case _:
            return None


def _check_fingerprints(found: set[str], scorer: Scorer) -> None:
    others = sorted(found - {scorer.fingerprint})
    if others:
        raise ScoresError(
            "the data set has scores of another scorer, which are not mixed with new ones:\n"
            f"  in the data: {', '.join(others)}\n  this scorer: {scorer.fingerprint}\n"
            f"Select from it as it is, or drop the columns {', '.join((*SCORE_COLUMNS, 'quadrant'))} to score it anew."
        )


def score_tables(
    tables: Iterable[pa.Table],
    features: Features,
    layout: Layout,
    run: ScoringRun,
    turns: Turns,
    row_numbers: Sequence[int] | None = None,
) -> Iterator[pa.Table]:
    """The tables with the added columns; see [`annotate`]. Rows are numbered from 0 unless `row_numbers` are given."""
    import pyarrow as pa

    types = added_features(layout).arrow_schema
    first_row = 0
    for table, rows in _with_rows(tables, features, layout):
        span = range(first_row, first_row + len(rows))
        numbers = span if row_numbers is None else row_numbers[span.start : span.stop]
        take, columns = annotate(rows, layout, run, turns, numbers)
        out = table.take(pa.array(take, pa.int64())) if take != list(range(table.num_rows)) else table
        out = out.rename_columns([layout.renames.get(name, name) for name in out.column_names])
        for name in layout.added:
            array = _column(name, columns[name], types.field(name).type)
            index = out.schema.get_field_index(name)
            out = out.append_column(name, array) if index < 0 else out.set_column(index, name, array)
        yield out
        first_row += table.num_rows


def dialogues_of(
    tables: Iterable[pa.Table], features: Features, layout: Layout, run: ScoringRun, turns: Turns
) -> Iterator[list[Dialogue]]:
    """What of each table [`score_tables`] would have scored."""
    for _, rows in _with_rows(tables, features, layout):
        done = _done(rows, layout, run)
        yield [s.dialogue for s in _samples(rows, layout, turns, done) if s.dialogue is not None]


def every_dialogue(tables: Iterable[pa.Table], features: Features, layout: Layout, turns: Turns) -> Iterator[Dialogue]:
    """All dialogues of the tables, scored before or not."""
    for _, rows in _with_rows(tables, features, layout):
        yield from (s.dialogue for s in samples_of(layout.fmt, rows, turns) if s.dialogue is not None)


def _with_rows(tables: Iterable[pa.Table], features: Features, layout: Layout) -> Iterator[tuple[pa.Table, list[Row]]]:
    """Each table with what scoring reads of its rows; no table ends within a conversation."""
    wanted = [*layout.fmt.columns, "context", "row_index", "turn", SOURCE_ERROR]
    wanted += (*SCORE_COLUMNS, *layout.details) if layout.rescored else ()
    wanted = [name for name in dict.fromkeys(wanted) if name in features]
    if layout.fmt.utterance_rows and not layout.rescored:
        tables = whole_conversations(tables)
    for table in tables:
        yield table, rows_of(table, features, wanted)


def _column(name: str, values: list[Any], kind: pa.DataType) -> pa.Array:
    import pyarrow as pa

    try:
        return pa.array(values, kind)
    except (pa.ArrowException, OverflowError) as error:  # of an earlier run alone: new values are of their type
        raise ScoresError(
            f"the column {name!r} of the data set is not what scoring writes ({error}); drop or rename it"
        ) from error


def whole_conversations(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables that end where a conversation ends."""
    import pyarrow as pa

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


def score_rows(batches: Iterable[list[Row]], layout: Layout, run: ScoringRun, turns: Turns) -> Iterator[Row]:
    """The same for batches of Python rows (of a stream whose columns have no fixed types)."""
    first_row = 0
    for rows in batches:
        take, columns = annotate(rows, layout, run, turns, range(first_row, first_row + len(rows)))
        for n, i in enumerate(take):
            kept = {layout.kept_name(name): value for name, value in rows[i].items()}
            yield kept | {name: columns[name][n] for name in layout.added}
        first_row += len(rows)


def batched_rows(stream: Iterable[Row], layout: Layout, size: int) -> Iterator[list[Row]]:
    """Batches of about `size` rows that split no conversation."""
    together = layout.fmt.utterance_rows and not layout.rescored
    batch: list[Row] = []
    for row in stream:
        if len(batch) >= size and not (together and row.get("conv_id") == batch[-1].get("conv_id")):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
