"""Data sets as streams of Arrow tables, so that work on a million rows takes no more memory than on a batch.

Tables become rows of Python values ([`rows_of`]), a data set in a file ([`to_dataset`]) or any file ([`write_file`]).
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import EmpathyError, FormatError, root_cause
from ..files import atomic, named_when_full, temporary_folder, write_json
from .dialogue import SOURCE_ERROR, has_lone_surrogates, utterance_number


if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict
    from tqdm import tqdm

    AnyDataset: TypeAlias = Dataset | DatasetDict | IterableDataset | IterableDatasetDict

BATCH_ROWS = 1_000
WRITE_ROWS, WRITE_BYTES = 20_000, 64 << 20
"""How much is written at once: what a file says of each of its parts has to fit into memory too."""
METADATA_KEY = b"ee_trl"
"""Key of this package's JSON in a parquet file's schema metadata."""

Decoder: TypeAlias = Callable[[Any], Any] | None


def is_stream(dataset: Any) -> bool:
    """Whether it is a `datasets.IterableDataset`, whose length nobody knows."""
    return not hasattr(dataset, "__len__")


def each_split(splits: Any, function: Any) -> Any:
    """The same mapping of splits with what `function` gives of each."""
    return type(splits)({name: function(part) for name, part in splits.items()})


def features_of(dataset: Dataset | IterableDataset) -> Features:
    """The features of a data set; a stream that does not know them is asked for its first rows."""
    features = dataset.features
    if features is None:
        features = dataset._resolve_features().features
    if features is None:
        raise FormatError("the data set has no columns: it is empty")
    return features


def columns_of(dataset: Dataset | IterableDataset) -> list[str]:
    """The columns of a data set; of a stream that does not declare them, those of its first row."""
    if dataset.column_names:
        return list(dataset.column_names)
    if hasattr(dataset, "__len__"):
        return []
    for row in dataset.with_format(None):
        return list(row)
    raise FormatError("the stream has no rows")


def tables_of(dataset: Dataset | IterableDataset, batch_rows: int = BATCH_ROWS) -> Iterator[pa.Table]:
    """The rows as Arrow tables of `batch_rows` rows."""
    from datasets.table import CastError

    features = features_of(dataset)
    try:
        for table in _raw_tables(dataset, features, batch_rows):
            yield conform(table, features.arrow_schema)
    except (pa.ArrowException, CastError, OSError) as error:
        if getattr(error, "errno", None):  # of the file system
            raise
        raise FormatError(f"the rows cannot be read, the file may be damaged: {root_cause(error)}") from error


def _raw_tables(dataset: Dataset | IterableDataset, features: Features, batch_rows: int) -> Iterator[pa.Table]:
    from datasets import Dataset

    if isinstance(dataset, Dataset) or getattr(dataset._ex_iterable, "iter_arrow", None):
        yield from dataset.with_format("arrow").iter(batch_size=batch_rows)
        return
    # a stream of Python rows, whose types the library would guess for each row anew
    for batch in dataset.with_format(None).iter(batch_size=batch_rows):
        yield Dataset.from_dict(batch, features=features).with_format("arrow")[:]


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the columns, types and metadata of a schema."""
    from datasets.table import table_cast

    # Arrow's own cast fails on lists of structs with a field of nulls, which messages with unused keys are
    return table_cast(table.select(schema.names), schema)


def chosen_rows(tables: Iterable[pa.Table], kept: np.ndarray) -> Iterator[pa.Table]:
    """The rows of the tables where `kept` is true; a table without such rows is left out."""
    start = 0
    for table in tables:
        chosen = np.flatnonzero(kept[start : start + table.num_rows])
        start += table.num_rows
        if len(chosen):
            yield table.take(pa.array(chosen))


def conversation_order(dataset: Dataset) -> list[int]:
    """Row numbers by conversation (in order of first appearance), and within one by `utterance_idx`."""

    first: dict[str, int] = {}
    start, numbers = array("q"), array("d")
    wanted = ["conv_id", "utterance_idx"]
    for table in tables_of(dataset.select_columns(wanted), 10_000):
        for row in rows_of(table, features_of(dataset), wanted):
            i = len(start)
            start.append(i if row["conv_id"] is None else first.setdefault(str(row["conv_id"]), i))
            numbers.append(utterance_number(row["utterance_idx"]))
    return np.lexsort((numbers, start)).tolist()


def spread(n: int, limit: int | None) -> list[int]:
    """Indices of `limit` of `n` samples, evenly spaced; of all of them without a limit."""
    if limit is None or limit >= n:
        return list(range(n))
    if limit < 1:
        raise EmpathyError(f"limit {limit} is not a whole number of at least 1")
    return [i * n // limit for i in range(limit)]


def progress_bar(*, total: int | None, label: str, show: bool | None, unit: str = "rows") -> tqdm[Any]:
    """A progress bar on standard error; `show=None` is where that is a terminal."""
    from tqdm.auto import tqdm

    return tqdm(total=total, desc=label, unit=f" {unit}", disable=None if show is None else not show, smoothing=0.05)


def progress(tables: Iterable[pa.Table], bar: tqdm[Any]) -> Iterator[pa.Table]:
    """The same tables; the bar counts their rows as they have been dealt with."""
    with bar:
        for table in tables:
            yield table
            bar.update(table.num_rows)


# ---- tables as rows of Python values --------------------------------------------------------------------------------


def rows_of(table: pa.Table, features: Features, columns: Sequence[str]) -> list[dict[str, Any]]:
    """
    The rows of some columns as Python values, decoded: JSON as what it stands for, class labels as their names.

    Images and sounds stay the bytes that they are. Strings that are no text are null, and `source_error` says so.
    """
    chosen = table.select([name for name in columns if name in table.column_names])
    decoders = {name: _decoder(features[name]) for name in chosen.column_names}
    try:
        values = [_values(column, decoders[name]) for name, column in zip(decoders, chosen.columns, strict=True)]
    except UnicodeDecodeError:  # Arrow holds bytes as strings without a look at them
        return [_readable(chosen.slice(i, 1), decoders) for i in range(chosen.num_rows)]
    return [dict(zip(decoders, row, strict=True)) for row in zip(*values, strict=True)]


def label_names(feature: Any, values: Iterable[int | None]) -> list[str | None]:
    """The names of the class labels, `None` where there is none."""
    known = dict(enumerate(feature.names))
    return [None if value is None else known.get(value) for value in values]


def _values(column: pa.ChunkedArray, decode: Decoder) -> list[Any]:
    values = column.to_pylist()
    return values if decode is None else [None if value is None else decode(value) for value in values]


def _readable(row: pa.Table, decoders: Mapping[str, Decoder]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, decode in decoders.items():
        try:
            [values[name]] = _values(row.column(name), decode)
        except UnicodeDecodeError:
            values |= {name: None, SOURCE_ERROR: "invalid_text"}
    return values


def _decoder(feature: Any) -> Decoder:
    """What decodes a value of this feature other than null; `None` where there is nothing to decode."""
    from datasets import ClassLabel, Json, LargeList, List

    if isinstance(feature, Json):
        return _from_json
    if isinstance(feature, ClassLabel):
        known = dict(enumerate(feature.names))
        return known.get
    if isinstance(feature, (List, LargeList)):
        inner = _decoder(feature.feature)
        return inner and (lambda values: [None if value is None else inner(value) for value in values])
    if isinstance(feature, dict):
        fields = {name: decode for name, field in feature.items() if (decode := _decoder(field))}
        return (lambda value: _decoded_fields(value, fields)) if fields else None
    return None


def _decoded_fields(value: dict[str, Any], fields: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
    return {k: v if v is None or k not in fields else fields[k](v) for k, v in value.items()}


def _from_json(text: str) -> Any:
    """The value; the text itself where that is no JSON, or nested too deeply to be read."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


# ---- tables as data sets and files ----------------------------------------------------------------------------------


def stream_of_tables(
    make: Callable[[IterableDataset], tuple[Features, Iterator[pa.Table]]], stream: IterableDataset, features: Features
) -> IterableDataset:
    """The tables that `make` gives of a stream, as a stream with these features; nothing is read before it is."""
    from datasets import DatasetInfo, IterableDataset
    from datasets.iterable_dataset import ArrowExamplesIterable

    tables = ArrowExamplesIterable(_numbered_tables, {"make": make, "stream": stream})
    return IterableDataset(tables, info=DatasetInfo(features=features))


def _numbered_tables(make: Any, stream: IterableDataset) -> Iterator[tuple[tuple[int, int], pa.Table]]:
    features, tables = make(stream)
    for number, table in enumerate(tables):
        yield (0, number), conform(table, features.arrow_schema)


def to_dataset(tables: Iterable[pa.Table], features: Features) -> Dataset:
    """Writes the tables to a temporary file as they come and maps it into memory as a `datasets.Dataset`."""
    from datasets import Dataset

    path = temporary_folder() / "data.arrow"
    schema = features.arrow_schema
    with named_when_full(path), pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for table in _gathered(tables, schema):
            writer.write_table(table)
    return Dataset.from_file(str(path))


def _gathered(tables: Iterable[pa.Table], schema: pa.Schema) -> Iterator[pa.Table]:
    """The same rows in tables of [`WRITE_ROWS`] or [`WRITE_BYTES`]."""

    held: list[pa.Table] = []
    for table in tables:
        held.append(conform(table, schema))
        if sum(t.num_rows for t in held) >= WRITE_ROWS or sum(t.nbytes for t in held) >= WRITE_BYTES:
            yield pa.concat_tables(held).combine_chunks()
            held = []
    if held:
        yield pa.concat_tables(held).combine_chunks()


def write_file(
    tables: Iterable[pa.Table], features: Features, path: str | os.PathLike[str], *, metadata: dict[str, Any]
) -> int:
    """
    Writes the tables to a parquet or jsonl file, which appears under its name only when it is whole.

    Args:
        tables (`Iterable[pa.Table]`): The rows.
        features (`Features`): Their features.
        path (`str` or `os.PathLike`): Ends in `.parquet` or `.jsonl`; folders are made.
        metadata (`dict`): What made the file: into the parquet schema under `ee_trl`, or `<path>.meta.json` beside a
            jsonl file.

    Returns:
        `int`: how many rows were written.
    """
    path = Path(path)
    writer = _write_parquet if path.suffix.lower() == ".parquet" else _write_jsonl
    with atomic(path) as partial:
        rows = writer(tables, features, partial, metadata)
    if path.suffix.lower() != ".parquet":
        write_json(path.with_name(path.name + ".meta.json"), metadata)
    return rows


def _write_parquet(tables: Iterable[pa.Table], features: Features, path: Path, metadata: dict[str, Any]) -> int:

    schema = features.arrow_schema
    schema = schema.with_metadata({**(schema.metadata or {}), METADATA_KEY: json.dumps(metadata).encode()})
    rows = 0
    with pq.ParquetWriter(path, schema) as writer:
        for table in _gathered(tables, schema):
            writer.write_table(table)
            rows += table.num_rows
    return rows


def _write_jsonl(tables: Iterable[pa.Table], features: Features, path: Path, metadata: dict[str, Any]) -> int:
    rows = 0
    with path.open("w", encoding="utf-8") as out:
        for table in tables:
            for row in rows_of(table, features, table.column_names):
                out.write(_json_line(row) + "\n")
            rows += table.num_rows
    return rows


def _json_line(row: dict[str, Any]) -> str:
    line = json.dumps(row, ensure_ascii=False, default=str)
    return json.dumps(row, default=str) if has_lone_surrogates(line) else line  # which columns of JSON may hold


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What [`write_file`] recorded of a file, or `None` for a file of another origin."""

    path = Path(path)
    if path.suffix.lower() != ".parquet":
        beside = path.with_name(path.name + ".meta.json")
        return json.loads(beside.read_text(encoding="utf-8")) if beside.exists() else None
    raw = (pq.read_schema(path).metadata or {}).get(METADATA_KEY)
    return json.loads(raw) if raw else None
