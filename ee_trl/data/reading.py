"""Opening data sets: a path, a pattern, a folder or a name on the hub, with care for what may be wrong with it."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FormatError, root_cause, unknown
from .dialogue import recognise
from .tables import BATCH_ROWS, features_of, is_stream
from .text_files import COMPRESSED, read_csv, read_json


if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, IterableDataset

    from .tables import AnyDataset

_BUILDERS = {
    ".parquet": "parquet",
    ".jsonl": "json",
    ".json": "json",
    ".ndjson": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".arrow": "arrow",
}


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
        raise FormatError(f"cannot read {source!r}: {root_cause(error)}") from error
    if _looks_like_a_path(source):
        raise FormatError(f"no such file or folder: {source!r} (in {os.getcwd()!r})")
    try:
        return load_dataset(source, config, split=split)
    except (DatasetNotFoundError, ConnectionError, FileNotFoundError) as error:
        raise FormatError(
            f"{source!r} is neither a file or folder here nor a data set that the hub gives: {root_cause(error)}"
        ) from error


def open_rows(source: str | os.PathLike[str], *, config: str | None = None, split: str | None = None) -> Any:
    """The rows of a path or name, to read once: parquet as a stream, unless neighbouring rows must be found."""
    found: Any = open_dataset(source, config=config, split=split, streaming=True)
    if hasattr(found, "keys"):
        return next(iter(found.values())) if len(found) == 1 else found
    if is_stream(found) and recognise(features_of(found)).utterance_rows:
        return open_dataset(source, config=config, split=split)
    return found


def opened(dataset: Any) -> Any:
    """The data set itself, or what is found under a path or name; the only split of a mapping with one split."""
    if isinstance(dataset, (str, os.PathLike)):
        found: Any = open_dataset(dataset)
        return next(iter(found.values())) if hasattr(found, "keys") and len(found) == 1 else found
    check_dataset(dataset)
    return dataset


def check_dataset(dataset: Any) -> None:
    """Raises [`FormatError`] for what is neither a data set nor a mapping of splits."""
    if not hasattr(dataset, "keys") and not hasattr(dataset, "iter"):
        raise FormatError(
            f"{type(dataset).__name__} is not a data set; give a datasets.Dataset, IterableDataset or DatasetDict, or "
            "a path or hub name. datasets.Dataset.from_list makes one from a list of dicts."
        )


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
        return read_json(paths)
    if builder == "csv":
        separator = "\t" if ".tsv" in [s.lower() for s in paths[0].suffixes] else ","
        return read_csv(paths, separator)
    if builder == "parquet":
        for path in paths:
            _check_names(path)
        if streaming:
            return _parquet_stream(paths)
        if not any(row_count(path) for path in paths):  # which the library refuses to load
            return _without_rows(paths[0])

    try:
        return load_dataset(builder, data_files=[glob.escape(str(path)) for path in paths], split="train")
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


def _without_rows(path: Path) -> Dataset:
    import pyarrow.parquet as pq
    from datasets import Dataset

    return Dataset(pq.read_table(path))


def _looks_like_a_path(source: str) -> bool:
    return source.startswith((".", "/", "~")) or source.count("/") > 1 or Path(source).suffix.lower() in _BUILDERS


def row_count(source: str | os.PathLike[str]) -> int | None:
    """How many rows a parquet file has, for progress bars; `None` where that is not known without reading it."""
    import pyarrow.parquet as pq

    path = Path(source)
    if path.suffix.lower() != ".parquet" or not path.is_file():
        return None
    return pq.read_metadata(path).num_rows
