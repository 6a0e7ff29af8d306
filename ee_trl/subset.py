"""Scored rows in, what SFTTrainer trains on out: reads the score columns, writes out the rows that a rule chose."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .axes import AXES, RATIONALITY, SENSIBILITY
from .data import features_of, rows_of, tables_of
from .dialogue import SCORED, SOURCE_ERROR, Dialogue, DialogueFormat, Turns, recognise, samples_of
from .errors import FormatError, ScoresError


if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from datasets import Dataset, Features, IterableDataset

    from .selection import Selection

GIVEN = "given"
"""What stands for the fingerprint of scores that a data set brought along."""


@dataclass(frozen=True)
class Scores:
    """
    The score columns of a data set, as arrays.

    Args:
        sensibility (`np.ndarray` of shape `(n,)`): In [0, 10], NaN where unscored.
        rationality (`np.ndarray` of shape `(n,)`): Likewise.
        status (`np.ndarray` of shape `(n,)`, of `str`): `"scored"` or the reason why not.
        scorers (`tuple[str, ...]`): The fingerprints of what made them; `("given",)` if they came without.
        lengths (`np.ndarray` of shape `(n,)`, *optional*): Characters in each reply, if asked for.
        emotion (`np.ndarray` of shape `(n,)`, *optional*): The emotion column, if there is one and it was asked for.
    """

    sensibility: np.ndarray
    rationality: np.ndarray
    status: np.ndarray
    scorers: tuple[str, ...]
    lengths: np.ndarray | None = None
    emotion: np.ndarray | None = None


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

    Where the scores came without a `score_status`, rows that are no dialogue with a reply count as unscored: nothing
    can be trained on them.
    """
    features = features_of(dataset)
    check_scored(list(features))
    fmt = None if "score_status" in features and not lengths else recognise(list(features))
    _refuse_utterances(fmt)
    wanted = [*AXES, "score_status", "scorer"] + (["emotion"] if emotion else [])
    wanted += [*fmt.columns, "row_index", "turn", SOURCE_ERROR] if fmt else []
    names = [name for name in dict.fromkeys(wanted) if name in features]
    parts = [_read_batch(table, features, fmt) for table in tables_of(dataset.select_columns(names), 10_000)]
    return _joined(parts, lengths=lengths, emotion=emotion and "emotion" in names)


def _refuse_utterances(fmt: DialogueFormat | None) -> None:
    if fmt is not None and fmt.utterance_rows:
        raise FormatError(
            "scores that come with one utterance a row cannot be selected from: write each reply with its context "
            "(columns context and response) first, or have them scored here: selector.score(dataset)"
        )


def _read_batch(table: pa.Table, features: Features, fmt: DialogueFormat | None) -> dict[str, Any]:
    import numpy as np

    part: dict[str, Any] = {axis: _floats(table.column(axis), axis) for axis in AXES}
    if fmt is not None:
        rows = rows_of(table, features, table.column_names)
        samples = samples_of(fmt, rows, "last")
        part["lengths"] = np.array([len(s.dialogue.response) if s.dialogue else 0 for s in samples])
        part["status"] = np.array([s.reason or SCORED for s in samples], dtype=object)
    missing = np.isnan(part[SENSIBILITY]) | np.isnan(part[RATIONALITY])
    if "score_status" in table.column_names:
        status = table.column("score_status").to_pylist()
        part["status"] = np.array([s if s is not None else "scorer_gave_none" for s in status], dtype=object)
    bad = part["status"] != SCORED
    part["status"][missing & ~bad] = "scorer_gave_none"
    for axis in AXES:
        part[axis][bad | missing] = np.nan
    part["scorers"] = set(table.column("scorer").unique().to_pylist()) if "scorer" in table.column_names else {None}
    if "emotion" in table.column_names:
        part["emotion"] = np.array([str(e) if e is not None else "" for e in table.column("emotion").to_pylist()])
    return part


def _floats(column: pa.ChunkedArray, name: str) -> np.ndarray:
    import numpy as np
    import pyarrow as pa

    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
        raise ScoresError(
            f"the column {name!r} is of type {kind}, not of numbers; cast it, or score the data set anew"
        )
    return np.array(column.cast(pa.float64()).to_numpy(), dtype=np.float64)


def _joined(parts: list[dict[str, Any]], *, lengths: bool, emotion: bool) -> Scores:
    import numpy as np

    def column(name: str, dtype: type) -> np.ndarray:
        return np.concatenate([p[name] for p in parts]) if parts else np.empty(0, dtype)

    scorers = sorted({name or GIVEN for part in parts for name in part["scorers"]})
    return Scores(
        column(SENSIBILITY, float),
        column(RATIONALITY, float),
        column("status", object),
        tuple(scorers),
        column("lengths", int) if lengths else None,
        column("emotion", str) if emotion else None,
    )


# ---- the rows chosen, as prompt and completion ---------------------------------------------------------------------


def training_features(features: Features) -> Features:
    """The features of the rows that were chosen: `prompt` and `completion` take the place of the dialogue columns."""
    from datasets import Features, List, Value

    fmt = recognise(list(features))
    messages = List({"role": Value("string"), "content": Value("string")})
    others = {_kept_name(n): f for n, f in features.items() if n not in fmt.dialogue_columns and n != SOURCE_ERROR}
    return Features({"prompt": messages, "completion": messages, **others})


def _kept_name(name: str) -> str:
    return f"source_{name}" if name in ("prompt", "completion") else name


def training_row(row: Mapping[str, Any], fmt: DialogueFormat, dialogue: Dialogue) -> dict[str, Any]:
    """One row with `prompt` and `completion` in the place of its dialogue columns."""
    others = {_kept_name(n): v for n, v in row.items() if n not in fmt.dialogue_columns and n != SOURCE_ERROR}
    return {"prompt": dialogue.prompt, "completion": dialogue.completion, **others}


def training_tables(tables: Iterable[pa.Table], features: Features, kept: np.ndarray) -> Iterator[pa.Table]:
    """
    The rows where `kept` is true, as TRL trains on them.

    Args:
        tables (`Iterable[pa.Table]`): The scored rows.
        features (`Features`): Their features.
        kept (`np.ndarray` of shape `(n,)`, of `bool`): Which of all rows to take; each must be scored.
    """
    import numpy as np
    import pyarrow as pa

    fmt = recognise(list(features))
    wanted = [name for name in (*fmt.columns, "row_index", "turn", SOURCE_ERROR) if name in features]
    target = training_features(features)
    types = target.arrow_schema
    start = 0
    for table in tables:
        chosen = np.flatnonzero(kept[start : start + table.num_rows])
        start += table.num_rows
        if not len(chosen):
            continue
        table = table.take(pa.array(chosen))
        dialogues = [s.dialogue for s in samples_of(fmt, rows_of(table, features, wanted), "last")]
        table = table.select([n for n in features if n not in fmt.dialogue_columns and n != SOURCE_ERROR])
        table = table.rename_columns([_kept_name(n) for n in table.column_names])
        for side in ("completion", "prompt"):
            values = [getattr(dialogue, side) for dialogue in dialogues]
            table = table.add_column(0, side, pa.array(values, types.field(side).type))
        yield table.select(target.arrow_schema.names)


def dropped_tables(scored: Dataset | IterableDataset, chosen: Selection) -> tuple[Features, Iterator[pa.Table]]:
    """The rows that were not chosen, as they are, each with its reason in `drop_reason`."""
    from datasets import Features, Value

    features = Features({**features_of(scored), "drop_reason": Value("string")})

    def tables() -> Iterator[pa.Table]:
        import numpy as np
        import pyarrow as pa

        start = 0
        for table in tables_of(scored):
            reasons = chosen.reasons[start : start + table.num_rows]
            start += table.num_rows
            dropped = np.flatnonzero(reasons != "")
            column = pa.array(reasons[dropped].tolist(), pa.string())
            yield table.take(pa.array(dropped)).append_column("drop_reason", column)

    return features, tables()


def all_dialogues(dataset: Dataset, turns: Turns = "each") -> Dataset:
    """Every sample of a data set that is a dialogue with a reply, selected or not, as `prompt` and `completion`."""
    from datasets import Dataset

    fmt = recognise(dataset.column_names)
    rows = dataset.select_columns([n for n in (*fmt.columns, SOURCE_ERROR) if n in dataset.column_names]).to_list()
    dialogues = [s.dialogue for s in samples_of(fmt, rows, turns) if s.dialogue is not None]
    return Dataset.from_list([{"prompt": d.prompt, "completion": d.completion} for d in dialogues])
