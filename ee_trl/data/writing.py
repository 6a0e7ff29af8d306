"""Arrow tables to a memory-mapped data set, or to a parquet or jsonl file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import atomic, named_when_full, temporary_folder, write_json
from .dialogue import has_lone_surrogates
from .rows import rows_of
from .tables import conform


if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, Features

WRITE_ROWS, WRITE_BYTES = 20_000, 64 << 20
"""How much is written at once: what a file says of each of its parts has to fit into memory too."""
METADATA_KEY = b"ee_trl"
"""Key of this package's JSON in a parquet file's schema metadata."""


def to_dataset(tables: Iterable[pa.Table], features: Features) -> Dataset:
    """Writes the tables to a temporary file as they come and maps it into memory as a `datasets.Dataset`."""
    import pyarrow as pa
    from datasets import Dataset

    path = temporary_folder() / "data.arrow"
    schema = features.arrow_schema
    with named_when_full(path), pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for table in _gathered(tables, schema):
            writer.write_table(table)
    return Dataset.from_file(str(path))


def _gathered(tables: Iterable[pa.Table], schema: pa.Schema) -> Iterator[pa.Table]:
    """The same rows in tables of [`WRITE_ROWS`] or [`WRITE_BYTES`]."""
    import pyarrow as pa

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
    import pyarrow.parquet as pq

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
    import pyarrow.parquet as pq

    path = Path(path)
    if path.suffix.lower() != ".parquet":
        beside = path.with_name(path.name + ".meta.json")
        return json.loads(beside.read_text(encoding="utf-8")) if beside.exists() else None
    raw = (pq.read_schema(path).metadata or {}).get(METADATA_KEY)
    return json.loads(raw) if raw else None
