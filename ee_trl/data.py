"""Data sets in, tables out: opening a path or hub name, reading in flat memory, writing atomically.

Work on a data set is a stream of Arrow tables, so that a million rows take no more memory than a batch. The way in is
[`open_dataset`] and [`tables_of`], the way out [`to_dataset`] (a memory-mapped `datasets.Dataset`) or [`write_file`].
"""

from __future__ import annotations

import atexit
import glob
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from .dialogue import SOURCE_ERROR, has_lone_surrogates
from .errors import FormatError


if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict

    AnyDataset: TypeAlias = Dataset | DatasetDict | IterableDataset | IterableDatasetDict

logger = logging.getLogger(__name__)

BATCH_ROWS = 1_000
METADATA_KEY = b"ee_trl"
"""Key of this package's JSON in a parquet file's schema metadata."""

_BUILDERS = {
    ".parquet": "parquet",
    ".jsonl": "json",
    ".json": "json",
    ".ndjson": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".arrow": "arrow",
}
WRITABLE = (".parquet", ".jsonl")


# ---- in ------------------------------------------------------------------------------------------------------------


def open_dataset(
    source: str | os.PathLike[str], *, config: str | None = None, split: str | None = None, streaming: bool = False
) -> AnyDataset:
    """
    Opens a file, a folder or a data set of the hub.

    Args:
        source (`str` or `os.PathLike`):
            A file (parquet, jsonl, json, csv, tsv, arrow; `*` allowed), a folder (of `save_to_disk`, or of such
            files), or the name of a data set on the hub.
        config (`str`, *optional*):
            Configuration name of a hub data set.
        split (`str`, *optional*):
            Which split; by default all of them, a file has one.
        streaming (`bool`, *optional*, defaults to `False`):
            Read parquet files as a stream rather than through the cache. Other files always go through it.

    Raises:
        [`FormatError`]: There is no such file, or its content is not what its name says.
    """
    from datasets import load_dataset, load_from_disk
    from datasets.exceptions import DatasetNotFoundError

    source = os.fspath(source)
    path = Path(source).expanduser()
    try:
        if path.is_dir():
            if (path / "state.json").exists() or (path / "dataset_dict.json").exists():
                dataset = load_from_disk(str(path))
                return dataset[split] if split and hasattr(dataset, "keys") else dataset
            return load_dataset(str(path), config, split=split)
        if path.is_file() or "*" in source:
            return _open_file(path, split, streaming)
    except FormatError:
        raise
    except Exception as error:  # the libraries' errors for damaged files are of many types and name no file
        raise FormatError(f"cannot read {source!r}: {_root_cause(error)}") from error
    if _looks_like_a_path(source):
        raise FormatError(f"no such file or folder: {source!r} (in {os.getcwd()!r})")
    try:
        return load_dataset(source, config, split=split)
    except (DatasetNotFoundError, ConnectionError, FileNotFoundError) as error:
        raise FormatError(
            f"{source!r} is neither a file or folder here nor a data set that the hub gives: {_root_cause(error)}"
        ) from error


def _open_file(path: Path, split: str | None, streaming: bool) -> Any:
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    suffixes = [s.lower() for s in path.suffixes if s.lower() not in (".gz", ".zst", ".xz", ".bz2")]
    builder = _BUILDERS.get(suffixes[-1]) if suffixes else None
    if builder is None:
        raise FormatError(
            f"cannot tell the format of {str(path)!r} by its name; known endings: {', '.join(_BUILDERS)}"
        )
    if split not in (None, "train"):
        raise FormatError(f"{str(path)!r} is one file and has no split {split!r}; leave the split out")
    options: dict[str, Any] = {"split": "train"}
    if builder == "csv":  # only an empty field is missing: a reply may well be "none" or "NA"
        options |= {"keep_default_na": False, "na_values": [""], "sep": "\t" if suffixes[-1] == ".tsv" else ","}
    if builder == "parquet":
        options["streaming"] = streaming
    files = str(path) if "*" in path.name else glob.escape(str(path))
    if path.is_file() and path.stat().st_size == 0:
        raise FormatError(f"{str(path)!r} is empty")
    try:
        return load_dataset(builder, data_files=files, **options)
    except DatasetGenerationError:
        if builder != "json" or not path.is_file():
            raise
        return load_dataset("json", data_files=glob.escape(str(_repaired(path))), **options)


def _repaired(path: Path) -> Path:
    """A copy of a JSON-lines file in which every line can be read; those that could not say so in `source_error`."""
    copy = temporary_folder() / f"{path.name.split('.')[0]}.jsonl"
    bad = 0
    opener = _opener(path)
    with (
        opener(path, "rt", encoding="utf-8", errors="surrogateescape") as lines,
        copy.open("w", encoding="utf-8") as out,
    ):
        for line in lines:
            if not line.strip():
                continue
            row, reason = _read_line(line)
            bad += reason is not None
            out.write(json.dumps({**row, SOURCE_ERROR: reason}, ensure_ascii=False) + "\n")
    logger.warning("%s: %d rows cannot be read as they are; they are kept and marked unscored", path, bad)
    return copy


def _opener(path: Path) -> Any:
    import gzip

    return gzip.open if path.suffix.lower() == ".gz" else open


def _read_line(line: str) -> tuple[dict[str, Any], str | None]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return {"source_line": _escaped(line.rstrip("\n"))}, "invalid_json"
    if not isinstance(row, dict):
        return {"source_line": _escaped(line.rstrip("\n"))}, "invalid_json"
    clean = _escaped(row)
    return clean, None if clean == row else "invalid_text"


def _escaped(value: Any) -> Any:
    """`value` with lone surrogates written out (`\\ud83d`), since Arrow holds text alone."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode() if has_lone_surrogates(value) else value
    if isinstance(value, list):
        return [_escaped(v) for v in value]
    if isinstance(value, dict):
        return {_escaped(k): _escaped(v) for k, v in value.items()}
    return value


def _looks_like_a_path(source: str) -> bool:
    return source.startswith((".", "/", "~")) or source.count("/") > 1 or Path(source).suffix.lower() in _BUILDERS


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"


def row_count(source: str | os.PathLike[str]) -> int | None:
    """How many rows a parquet file has, for progress bars; `None` where that is not known without reading it."""
    import pyarrow.parquet as pq

    path = Path(source)
    if path.suffix.lower() != ".parquet" or not path.is_file():
        return None
    return pq.read_metadata(path).num_rows


# ---- through -------------------------------------------------------------------------------------------------------


def features_of(dataset: Dataset | IterableDataset) -> Features:
    """The features of a data set; a stream that does not know them is asked for its first rows."""
    features = dataset.features
    if features is None:
        features = dataset._resolve_features().features
    if features is None:
        raise FormatError("the data set has no columns: it is empty")
    return features


def tables_of(dataset: Dataset | IterableDataset, batch_rows: int = BATCH_ROWS) -> Iterator[pa.Table]:
    """The rows as Arrow tables of `batch_rows` rows."""
    schema = features_of(dataset).arrow_schema
    for table in dataset.with_format("arrow").iter(batch_size=batch_rows):
        yield table.select(schema.names).cast(schema)


def rows_of(table: pa.Table, features: Features, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of some columns as Python values (decoded: JSON columns too)."""
    from datasets import Features

    kept = [name for name in columns if name in table.column_names]
    decoded = Features({name: features[name] for name in kept}).decode_batch(table.select(kept).to_pydict())
    return [dict(zip(kept, values, strict=True)) for values in zip(*(decoded[name] for name in kept), strict=True)]


def progress(iterable: Iterable[pa.Table], *, total: int | None, label: str, show: bool | None) -> Iterator[pa.Table]:
    """The same tables, with a progress bar in rows on standard error (`show=None`: where that is a terminal)."""
    from tqdm.auto import tqdm

    with tqdm(
        total=total, desc=label, unit=" rows", disable=None if show is None else not show, smoothing=0.05
    ) as bar:
        for table in iterable:
            yield table
            bar.update(table.num_rows)


# ---- out -----------------------------------------------------------------------------------------------------------


def temporary_folder() -> Path:
    """A new folder for memory-mapped tables, gone when the process ends."""
    folder = tempfile.mkdtemp(prefix="ee-trl-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def to_dataset(tables: Iterable[pa.Table], features: Features) -> Dataset:
    """Writes the tables to a temporary file as they come and maps it into memory as a `datasets.Dataset`."""
    import pyarrow as pa
    from datasets import Dataset

    path = temporary_folder() / "data.arrow"
    schema = features.arrow_schema
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for table in tables:
            writer.write_table(table.cast(schema))
    return Dataset.from_file(str(path))


def check_output(path: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Raises [`FormatError`] if a file of that name cannot be written or is there already."""
    path = Path(path)
    if path.suffix.lower() not in WRITABLE:
        raise FormatError(
            f"cannot write {str(path)!r}: its ending is {path.suffix or 'missing'}; valid: {', '.join(WRITABLE)}. "
            "A dialogue is a nested value, and a flat file such as csv holds none."
        )
    if path.is_dir():
        raise FormatError(f"{str(path)!r} is a folder; name a file in it, e.g. {str(path / 'out.parquet')!r}")
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
        for table in tables:
            writer.write_table(table.cast(schema))
            rows += table.num_rows
    return rows


def _write_jsonl(tables: Iterable[pa.Table], features: Features, path: Path, metadata: dict[str, Any]) -> int:
    rows = 0
    with path.open("w", encoding="utf-8") as out:
        for table in tables:
            for row in rows_of(table, features, table.column_names):
                out.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
            rows += table.num_rows
    return rows


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
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What [`write_file`] recorded of a file, or `None` for a file of another origin."""
    import pyarrow.parquet as pq

    path = Path(path)
    if path.suffix.lower() != ".parquet":
        beside = path.with_name(path.name + ".meta.json")
        return json.loads(beside.read_text(encoding="utf-8")) if beside.exists() else None
    raw = (pq.read_schema(path).metadata or {}).get(METADATA_KEY)
    return json.loads(raw) if raw else None
