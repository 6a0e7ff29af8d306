"""Data sets in, tables out: opening a path or hub name, reading in flat memory, writing atomically.

Work on a data set is a stream of Arrow tables, so that a million rows take no more memory than a batch. The way in is
[`open_dataset`] and [`tables_of`], the way out [`to_dataset`] (a memory-mapped `datasets.Dataset`) or [`write_file`].
"""

from __future__ import annotations

import atexit
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from .dialogue import has_lone_surrogates
from .errors import EmpathyError, FormatError, unknown
from .formats import FORMATS
from .json_lines import COMPRESSED, read_json
from .rows import rows_of


if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict
    from tqdm import tqdm

    AnyDataset: TypeAlias = Dataset | DatasetDict | IterableDataset | IterableDatasetDict

BATCH_ROWS = 1_000
WRITE_ROWS, WRITE_BYTES = 20_000, 64 << 20
"""How much is written at once: what a file says of each of its parts has to fit into memory too."""
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
_TEXT_COLUMNS = sorted({name for fmt in FORMATS.values() for name in fmt.dialogue_columns} | {"utterance"})
"""Columns that are text in a csv file even where all of them look like numbers."""


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
            return _open_folder(path, config, split)
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


def _open_folder(path: Path, config: str | None, split: str | None) -> Any:
    """A folder of files, whose splits are told by their names; read with the same care as a file."""
    from datasets import DatasetDict, load_dataset, load_dataset_builder

    files = load_dataset_builder(str(path), config).config.data_files or {}
    names = [Path(name) for part in files.values() for name in part]
    card = path / "README.md"
    if not (card.is_file() and "data_files:" in card.read_text(encoding="utf-8", errors="replace")):
        found = [file for file in path.rglob("*") if file.is_file() and not _is_about_data(file)]
        _check_one_kind(found, str(path / "*"))
    if not names or {_builder_of(name) for name in names} - {"json", "csv"}:
        return load_dataset(str(path), config, split=split)
    if split is not None and split not in files:
        raise FormatError(unknown("split", split, [str(name) for name in files]))
    parts = {
        str(name): _load_files(sorted(Path(file) for file in files[name] if not _is_about_data(Path(file))))
        for name in files
        if split in (None, name)
    }
    return parts[split] if split else DatasetDict(parts)


def _is_about_data(path: Path) -> bool:
    """Whether a file of a folder tells about its data rather than holds them; the library skips hidden ones too."""
    return path.name.endswith((".meta.json", "dataset_infos.json")) or path.name.startswith((".", "_"))


def _check_one_kind(paths: list[Path], pattern: str) -> None:
    """Raises [`FormatError`] for files of several kinds, of which the library would silently take the commonest."""
    kinds: dict[str, list[Path]] = {}
    for path in paths:
        kind = "tsv" if ".tsv" in map(str.lower, path.suffixes) else _builder_of(path)
        if kind:
            kinds.setdefault(kind, []).append(path)
    if len(kinds) > 1:
        found = " and ".join(f"{len(files)} {kind} ({files[0].name})" for kind, files in sorted(kinds.items()))
        commonest = max(kinds.values(), key=len)[0].suffix
        raise FormatError(
            f"{pattern!r} stands for files of several kinds: {found}. Name those of one kind, "
            f"e.g. {pattern.removesuffix('*') + '*' + commonest!r}"
        )


def _builder_of(path: Path) -> str | None:
    suffixes = [s.lower() for s in path.suffixes if s.lower() not in COMPRESSED]
    return _BUILDERS.get(suffixes[-1]) if suffixes else None


def _open_file(path: Path, split: str | None, streaming: bool) -> Any:
    """A file, or several by a pattern."""
    if split not in (None, "train"):
        raise FormatError(f"{str(path)!r} is one file and has no split {split!r}; leave the split out")
    paths = [path] if path.is_file() else sorted(Path(name) for name in glob.glob(str(path), recursive=True))
    if not paths:
        raise FormatError(f"there is no file {str(path)!r}")
    _check_one_kind(paths, str(path))
    return _load_files(paths, streaming)


def _load_files(paths: list[Path], streaming: bool = False) -> Any:
    """The rows of files of one kind, one after the other."""
    from datasets import load_dataset

    builder = _builder_of(paths[0])
    if builder is None:
        raise FormatError(
            f"cannot tell the format of {str(paths[0])!r} by its name; known endings: {', '.join(_BUILDERS)}"
        )
    for path in paths:
        if path.stat().st_size == 0:
            raise FormatError(f"{str(path)!r} is empty")
    if builder == "json":
        return read_json(paths, temporary_folder())
    options: dict[str, Any] = {"split": "train"}
    if builder == "csv":  # only an empty field is missing: a reply may well be "none" or "NA"
        separator = "\t" if ".tsv" in [s.lower() for s in paths[0].suffixes] else ","
        # without `index_col`, a line with a field too many would shift all its fields by one
        options |= {"keep_default_na": False, "na_values": [""], "sep": separator, "index_col": False}
        options["converters"] = dict.fromkeys(_TEXT_COLUMNS, _text_or_null)
    if builder == "parquet":
        for path in paths:
            _check_names(path)
        if streaming:
            return _parquet_stream(paths)
        if not any(row_count(path) for path in paths):  # which the library refuses to load
            return _without_rows(paths[0])

    try:
        return load_dataset(builder, data_files=[glob.escape(str(path)) for path in paths], **options)
    except ValueError as error:
        if "corresponds to no data" not in str(error):
            raise
        raise FormatError(f"{str(paths[0])!r} holds no row") from error


def _parquet_stream(paths: list[Path]) -> IterableDataset:
    """The rows of parquet files, as a stream of a few thousand at a time."""
    import pyarrow.parquet as pq
    from datasets import DatasetInfo, Features, IterableDataset
    from datasets.iterable_dataset import ArrowExamplesIterable

    features = Features.from_arrow_schema(pq.read_schema(paths[0]))
    tables = ArrowExamplesIterable(_parquet_tables, {"files": [str(path) for path in paths]})
    return IterableDataset(tables, info=DatasetInfo(features=features))


def _parquet_tables(files: list[str]) -> Iterator[tuple[tuple[int, int], pa.Table]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for number, file in enumerate(files):
        # The library's own stream decodes whole row groups ahead, which other programs write of a million rows.
        with pq.ParquetFile(file, pre_buffer=False) as parquet:
            for i, batch in enumerate(parquet.iter_batches(BATCH_ROWS, use_threads=False)):
                yield (number, i), pa.Table.from_batches([batch])


def _check_names(path: Path) -> None:
    import pyarrow.parquet as pq

    names = pq.read_schema(path).names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise FormatError(f"{str(path)!r} has several columns of the name {twice[0]!r}; rename all but one of them")


def _text_or_null(field: str) -> str | None:
    return field or None


def _without_rows(path: Path) -> Dataset:
    import pyarrow.parquet as pq
    from datasets import Dataset

    return Dataset(pq.read_table(path))


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
    import pyarrow as pa
    from datasets.table import CastError

    features = features_of(dataset)
    try:
        for table in _raw_tables(dataset, features, batch_rows):
            yield conform(table, features.arrow_schema)
    except (pa.ArrowException, CastError, OSError) as error:
        if getattr(error, "errno", None):  # of the file system
            raise
        raise FormatError(f"the rows cannot be read, the file may be damaged: {_root_cause(error)}") from error


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


def columns_of(dataset: Dataset | IterableDataset) -> list[str]:
    """The columns of a data set; of a stream that does not declare them, those of its first row."""
    if dataset.column_names:
        return list(dataset.column_names)
    if hasattr(dataset, "__len__"):
        return []
    for row in dataset.with_format(None):
        return list(row)
    raise FormatError("the stream has no rows")


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
