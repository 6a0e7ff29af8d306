"""Writing: tables to a memory-mapped data set or a file, and JSON or text; a file is there whole or not at all."""

from __future__ import annotations

import atexit
import errno
import glob
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from ..errors import FormatError
from .dialogue import has_lone_surrogates
from .rows import rows_of
from .tables import conform


if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, Features

WRITE_ROWS, WRITE_BYTES = 20_000, 64 << 20
"""How much is written at once: what a file says of each of its parts has to fit into memory too."""
WRITABLE = (".parquet", ".jsonl")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a file system says where there is no room for a file."""
METADATA_KEY = b"ee_trl"
"""Key of this package's JSON in a parquet file's schema metadata."""


def to_dataset(tables: Iterable[pa.Table], features: Features) -> Dataset:
    """Writes the tables to a temporary file as they come and maps it into memory as a `datasets.Dataset`."""
    import pyarrow as pa
    from datasets import Dataset

    path = temporary_folder() / "data.arrow"
    schema = features.arrow_schema
    with _named_when_full(path), pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
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


def check_output(path: str | os.PathLike[str], *, overwrite: bool, endings: tuple[str, ...] = WRITABLE) -> Path:
    """Raises [`FormatError`] if a file of that name, with one of the `endings`, cannot be written or is there."""
    path = Path(path)
    if path.suffix.lower() not in endings:
        raise FormatError(
            f"cannot write {str(path)!r}: its ending is {path.suffix or 'missing'}; valid: {', '.join(endings)}."
            + (" A dialogue is a nested value, and a flat file such as csv holds none." if endings is WRITABLE else "")
        )
    if path.is_dir():
        raise FormatError(f"{str(path)!r} is a folder; name a file in it, e.g. {str(path / f'out{endings[0]}')!r}")
    return check_free(path, overwrite=overwrite)


def check_free(path: Path, *, overwrite: bool) -> Path:
    """Raises [`FormatError`] if a file is there already that may not be replaced."""
    if path.exists() and not overwrite:
        raise FormatError(f"{str(path)!r} is there already; give another name, or --overwrite to replace it")
    return path


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


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes a JSON file atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text file atomically."""
    with atomic(Path(path)) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A name to write to; it becomes `path` when the block ends well and vanishes when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = f".{path.name}.partial-{platform.node()}-"
    _remove_left_over(path.parent, kind)
    partial = path.with_name(f"{kind}{os.getpid()}")
    try:
        with _named_when_full(path):
            yield partial
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _remove_left_over(folder: Path, kind: str) -> None:
    """Removes what processes of this machine that were killed have left of an output."""
    for partial in folder.glob(f"{glob.escape(kind)}*"):
        number = partial.name.removeprefix(kind)
        if number.isdecimal() and not psutil.pid_exists(int(number)):
            partial.unlink(missing_ok=True)


@contextmanager
def _named_when_full(path: Path) -> Iterator[None]:
    """Lets what a full disk says name the file, which Arrow's errors do not."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL and not error.filename:
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise


def temporary_folder() -> Path:
    """A new folder for memory-mapped tables, gone when the process ends."""
    folder = tempfile.mkdtemp(prefix="ee-trl-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What [`write_file`] recorded of a file, or `None` for a file of another origin."""
    import pyarrow.parquet as pq

    path = Path(path)
    if path.suffix.lower() != ".parquet":
        beside = path.with_name(path.name + ".meta.json")
        return json.loads(beside.read_text(encoding="utf-8")) if beside.exists() else None
    raw = (pq.read_schema(path).metadata or {}).get(METADATA_KEY)
    return json.loads(raw) if raw else None
