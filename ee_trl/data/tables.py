"""Data sets as streams of Arrow tables: work on a million rows takes no more memory than work on a batch.

Tables become rows of Python values ([`rows_of`]), a data set in a file ([`to_dataset`]) or a file ([`write_file`]).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import FormatError, check_count, root_cause
from ..files import atomic, json_text, named_when_full, read_json, temporary_folder, write_json
from .dialogue import SOURCE_ERROR


if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict
    from tqdm import tqdm

AnyDataset: TypeAlias = "Dataset | DatasetDict | IterableDataset | IterableDatasetDict"

BATCH_ROWS = 1_000
WRITE_ROWS, WRITE_BYTES = 20_000, 64 << 20
"""How much is written at once. Large parts keep the file's index small, which must also fit into memory."""
METADATA_KEY = b"ee_trl"
"""Key of this package's JSON in a parquet file's schema metadata."""


def is_stream(dataset: Any) -> bool:
    """Whether it is a `datasets.IterableDataset`, whose length is unknown."""
    return not hasattr(dataset, "__len__")


def each_split(splits: Any, function: Any) -> Any:
    """The same mapping of splits, with what `function` returns for each."""
    return type(splits)({name: function(part) for name, part in splits.items()})


def features_of(dataset: Dataset | IterableDataset) -> Features:
    """The features of a data set; for a stream without features, the library reads the first rows."""
    features = dataset.features
    if features is None:
        features = dataset._resolve_features().features
    if features is None:
        raise FormatError("the data set has no columns: it is empty")
    return features


def columns_of(dataset: Dataset | IterableDataset) -> list[str]:
    """The columns of a data set; for a stream without features, the columns of its first row."""
    if dataset.column_names or not is_stream(dataset):
        return list(dataset.column_names or ())
    for row in dataset.with_format(None):
        return list(row)
    raise FormatError("the stream has no rows")


def tables_of(dataset: Dataset | IterableDataset, batch_rows: int = BATCH_ROWS) -> Iterator[pa.Table]:
    """The rows as Arrow tables of `batch_rows` rows."""
    from datasets.table import CastError

    features = features_of(dataset)
    schema = features.arrow_schema  # made anew at each look
    try:
        for table in _raw_tables(dataset, features, batch_rows):
            yield conform(table, schema)
    except (pa.ArrowException, CastError, OSError) as error:
        if getattr(error, "errno", None):  # of the file system
            raise
        raise FormatError(f"the rows cannot be read, the file may be damaged: {root_cause(error)}") from error


def _raw_tables(dataset: Dataset | IterableDataset, features: Features, batch_rows: int) -> Iterator[pa.Table]:
    from datasets import Dataset

    if given := _whole(dataset):
        yield from _in_batches(given["make"](given["source"])[1], batch_rows)
        return
    if isinstance(dataset, Dataset) or getattr(dataset._ex_iterable, "iter_arrow", None):
        yield from dataset.with_format("arrow").iter(batch_size=batch_rows)
        return
    # a stream of Python rows; the library would guess the types of each row anew
    for batch in dataset.with_format(None).iter(batch_size=batch_rows):
        yield Dataset.from_dict(batch, features=features).with_format("arrow")[:]


def _in_batches(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of `rows` rows; the last one may have fewer."""
    held: list[pa.Table] = []
    missing = rows
    for table in tables:
        while table.num_rows >= missing:
            yield pa.concat_tables([*held, table.slice(0, missing)])
            table, held, missing = table.slice(missing), [], rows
        if table.num_rows:
            held.append(table)
            missing -= table.num_rows
    if held:
        yield pa.concat_tables(held)


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the columns, types and metadata of a schema."""
    from datasets.table import table_cast

    # Arrow's own cast fails on lists of structs with a field of nulls, such as messages with unused keys
    return table_cast(table.select(schema.names), schema)


def chosen_rows(tables: Iterable[pa.Table], kept: np.ndarray) -> Iterator[pa.Table]:
    """The rows of the tables where `kept` is true; a table without such rows is left out."""
    start = 0
    for table in tables:
        chosen = np.flatnonzero(kept[start : start + table.num_rows])
        start += table.num_rows
        if len(chosen):
            yield table.take(pa.array(chosen))


def spread(n: int, limit: int | None) -> list[int]:
    """Indices of `limit` of `n` samples, evenly spaced; all indices without a limit."""
    if limit is not None:
        check_count("limit", limit)
    return list(range(n)) if limit is None or limit >= n else [i * n // limit for i in range(limit)]


def progress_bar(*, total: int | None, label: str, show: bool | None, unit: str = "rows") -> tqdm[Any]:
    """A progress bar on standard error; with `show=None` only in a terminal."""
    from tqdm.auto import tqdm

    return tqdm(total=total, desc=label, unit=f" {unit}", disable=None if show is None else not show, smoothing=0.05)


def progress(parts: Iterable[Any], bar: tqdm[Any]) -> Iterator[Any]:
    """The same tables or batches; the bar counts the `num_rows` of each once the caller has dealt with it."""
    with bar:
        for part in parts:
            yield part
            bar.update(part.num_rows)


def rows_of(table: pa.Table, features: Features, columns: Sequence[str]) -> list[dict[str, Any]]:
    """
    The rows of some columns as Python values, decoded: JSON as its value, class labels as their names.

    Images and sounds stay bytes. A string that is not valid text is null, and `source_error` says so.
    """
    chosen = table.select([name for name in columns if name in table.column_names])
    decoders = {name: _decoder(features[name]) for name in chosen.column_names}
    try:
        values = [_values(column, decoders[name]) for name, column in zip(decoders, chosen.columns, strict=True)]
    except UnicodeDecodeError:  # Arrow does not check the bytes of strings
        return [_readable(chosen.slice(i, 1), decoders) for i in range(chosen.num_rows)]
    return [dict(zip(decoders, row, strict=True)) for row in zip(*values, strict=True)]


def label_names(feature: Any, values: Iterable[int | None]) -> list[str | None]:
    """The names of class labels, `None` for an unknown label."""
    name_of = _decoder(feature)
    return [None if value is None else name_of(value) for value in values]


def _values(column: pa.ChunkedArray, decode: Any) -> list[Any]:
    values = column.to_pylist()
    return [None if value is None else decode(value) for value in values] if decode else values


def _readable(row: pa.Table, decoders: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, decode in decoders.items():
        try:
            [values[name]] = _values(row.column(name), decode)
        except UnicodeDecodeError:
            values |= {name: None, SOURCE_ERROR: "invalid_text"}
    return values


def _decoder(feature: Any) -> Any:
    """A function that decodes the values of this feature, except null; `None` if there is nothing to decode."""
    from datasets import ClassLabel, Json, LargeList, List

    if isinstance(feature, Json):
        return _from_json
    if isinstance(feature, ClassLabel):
        return dict(enumerate(feature.names)).get
    if isinstance(feature, (List, LargeList)):
        inner = _decoder(feature.feature)
        return inner and (lambda values: [None if value is None else inner(value) for value in values])
    if isinstance(feature, dict):
        fields: dict[str, Callable[[Any], Any]] = {k: f for k, v in feature.items() if (f := _decoder(v))}
        return fields and (
            lambda row: {k: fields[k](v) if k in fields and v is not None else v for k, v in row.items()}
        )
    return None


def _from_json(text: str) -> Any:
    """The value; the text itself if it is not JSON, or nested too deeply."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def stream_of_tables(
    make: Callable[[Any], tuple[Features, Iterator[pa.Table]]], source: Any, features: Features
) -> IterableDataset:
    """A stream of the tables that `make(source)` gives, with these features; nothing is read yet."""
    from datasets import DatasetInfo, IterableDataset, config
    from datasets.iterable_dataset import ArrowExamplesIterable

    tables = ArrowExamplesIterable(_numbered_tables, {"make": make, "source": source})
    there = config.TORCH_AVAILABLE
    config.TORCH_AVAILABLE = there and (_for_torch or "torch" in sys.modules)
    try:
        return IterableDataset(tables, info=DatasetInfo(features=features))
    finally:
        config.TORCH_AVAILABLE = there


_for_torch = True


def streams_without_torch() -> None:
    """From now on streams are not made for a torch `DataLoader`, so that `datasets` need not import torch."""
    global _for_torch
    _for_torch = False


def _whole(dataset: Any) -> dict[str, Any]:
    """What [`stream_of_tables`] was given for this stream; nothing if only a part of its rows is wanted."""
    given = getattr(getattr(dataset, "_ex_iterable", None), "kwargs", {})
    part = "make" not in given or dataset._distributed or dataset._starting_state_dict or dataset.epoch
    return {} if part else given


def stream_of_rows(rows: Callable[[], Iterator[dict[str, Any]]]) -> IterableDataset:
    """A stream of what `rows()` gives. `IterableDataset.from_generator` would pickle all it holds, a model too."""
    from datasets import IterableDataset
    from datasets.iterable_dataset import ExamplesIterable

    def numbered() -> Iterator[tuple[tuple[int, int], dict[str, Any]]]:
        for number, row in enumerate(rows()):
            yield (0, number), row

    return IterableDataset(ExamplesIterable(numbered, {}))


def only_columns(dataset: Any, columns: Sequence[str]) -> Any:
    """The data set with these columns alone; a stream that can leave out the others does not read them."""
    given = _whole(dataset)
    if hasattr(given.get("make"), "only"):
        make = given["make"].only(columns)
        return stream_of_tables(make, given["source"], make(given["source"])[0])
    return dataset.select_columns(list(columns))


def _numbered_tables(make: Any, source: Any) -> Iterator[tuple[tuple[int, int], pa.Table]]:
    features, tables = make(source)
    schema = features.arrow_schema
    for number, table in enumerate(tables):
        yield (0, number), conform(table, schema)


def to_dataset(tables: Iterable[pa.Table], features: Features) -> Dataset:
    """Writes the tables to a temporary file as they come, and maps it into memory as a `datasets.Dataset`."""
    from datasets import Dataset

    path = temporary_folder() / "data.arrow"
    schema = features.arrow_schema
    try:
        with named_when_full(path), pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            for table in _gathered(tables, schema):
                writer.write_table(table)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return Dataset.from_file(str(path))


def _gathered(tables: Iterable[pa.Table], schema: pa.Schema) -> Iterator[pa.Table]:
    """The same rows in tables of about [`WRITE_ROWS`] or [`WRITE_BYTES`]."""
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
    """Writes the tables to a parquet or jsonl file atomically, and returns the number of rows."""
    path = Path(path)
    if path.suffix.lower() == ".parquet":
        with atomic(path) as partial:
            return _write_parquet(tables, features, partial, metadata)
    with atomic(path) as partial:
        rows = _write_jsonl(tables, features, partial)
    write_json(_beside(path), metadata)
    return rows


def _write_parquet(tables: Iterable[pa.Table], features: Features, path: Path, metadata: dict[str, Any]) -> int:
    schema = features.arrow_schema
    schema = schema.with_metadata({**(schema.metadata or {}), METADATA_KEY: json_text(metadata).encode()})
    rows = 0
    with pq.ParquetWriter(path, schema) as writer:
        for table in _gathered(tables, schema):
            writer.write_table(table)
            rows += table.num_rows
    return rows


def _write_jsonl(tables: Iterable[pa.Table], features: Features, path: Path) -> int:
    rows = 0
    with path.open("w", encoding="utf-8") as out:
        for table in tables:
            for row in rows_of(table, features, table.column_names):
                out.write(json_text(row) + "\n")
            rows += table.num_rows
    return rows


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".meta.json")


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The metadata that [`write_file`] gave a file; `None` for every other file, whatever it says of itself."""
    path = Path(path)
    try:
        if path.suffix.lower() != ".parquet":
            found = read_json(_beside(path))
        else:
            found = json.loads((pq.read_schema(path).metadata or {}).get(METADATA_KEY, b""))
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    return {k: v for k, v in found.items() if k not in ("source", "rubric") or isinstance(v, str | None)}
