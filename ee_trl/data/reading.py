"""Opens data sets by path, pattern, folder or hub name, with errors that say what is wrong."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import FormatError, check_choice, root_cause
from ..files import full_disk
from .csv_files import read_csv
from .formats import recognise
from .json_files import read_json
from .mapping import mapped
from .tables import BATCH_ROWS, features_of, is_stream, stream_of_tables
from .text_files import COMPRESSED


if TYPE_CHECKING:
    from datasets import Features

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
    source: str | os.PathLike[str],
    *,
    config: str | None = None,
    split: str | None = None,
    streaming: bool = False,
    encoding: str | None = None,
    mapping: Mapping[str, str] | None = None,
) -> AnyDataset:
    """
    Opens a file, a folder or a data set of the hub.

    Args:
        source (`str` or `os.PathLike`): A path, a pattern with `*`, or a hub name.
        config, split (`str`, *optional*): Configuration and split; without a split all of them.
        streaming (`bool`, *optional*, defaults to `False`): Whether parquet files are read as a stream.
        encoding (`str`, *optional*, defaults to UTF-8): Of CSV and JSON files, e.g. `"cp1252"`.
        mapping (`dict[str, str]`, *optional*): What names of the data mean, see [`~ee_trl.data.mapping.mapped`].
    """
    return mapped(_open(os.fspath(source), config, split, streaming, encoding), mapping)


def _open(source: str, config: str | None, split: str | None, streaming: bool, encoding: str | None) -> Any:
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    path = Path(source).expanduser()
    try:
        if path.is_dir():
            return _open_folder(path, config, split, encoding)
        if path.is_file() or "*" in source:
            return _open_files(path, split, streaming, encoding)
    except FormatError:
        raise
    except Exception as error:  # the libraries' errors have many types and do not name the file
        if full := full_disk(error):
            raise full from error
        raise FormatError(f"cannot read {source!r}: {root_cause(error)}") from error
    if source.startswith((".", "/", "~")) or source.count("/") > 1 or path.suffix.lower() in _BUILDERS:
        raise FormatError(f"no such file or folder: {source!r} (in {os.getcwd()!r})")
    try:
        return load_dataset(source, config, split=split)
    except (DatasetNotFoundError, ConnectionError, FileNotFoundError) as error:
        raise FormatError(
            f"there is no file or folder {source!r}, and the hub gives no data set of this name: {root_cause(error)}"
        ) from error


def open_rows(source: str | os.PathLike[str], **options: Any) -> Any:
    """
    Opens a path or name to read its rows once: parquet as a stream, except utterance rows, which must be sorted.

    The options are those of [`open_dataset`].
    """
    found = only_split(open_dataset(source, streaming=True, **options))
    if not hasattr(found, "keys") and is_stream(found) and recognise(features_of(found)).utterance_rows:
        return open_dataset(source, **options)
    return found


def opened(dataset: Any) -> Any:
    """The data set itself, or the one at a path or hub name; a path with one split gives this split."""
    if isinstance(dataset, (str, os.PathLike)):
        return only_split(open_dataset(dataset))
    check_dataset(dataset)
    return dataset


def only_split(dataset: Any) -> Any:
    """The split of a mapping that has only one; anything else as it is."""
    return next(iter(dataset.values())) if hasattr(dataset, "keys") and len(dataset) == 1 else dataset


def check_dataset(dataset: Any) -> None:
    """Raises [`FormatError`] unless it is a data set or a mapping of splits."""
    if not hasattr(dataset, "keys") and not hasattr(dataset, "iter"):
        raise FormatError(
            f"{type(dataset).__name__} is not a data set; give a datasets.Dataset, IterableDataset or DatasetDict, or "
            "a path or hub name. datasets.Dataset.from_list makes one from a list of dicts."
        )


def row_count(source: str | os.PathLike[str]) -> int | None:
    """The number of rows of a parquet file, for progress bars; `None` for everything else."""
    path = Path(source)
    return pq.read_metadata(path).num_rows if path.suffix.lower() == ".parquet" and path.is_file() else None


def _open_folder(path: Path, config: str | None, split: str | None, encoding: str | None) -> Any:
    """A folder of `save_to_disk`, or of files whose names tell their splits, or whose card names them."""
    from datasets import DatasetDict, load_dataset, load_dataset_builder, load_from_disk

    _check_inside(path)
    if (path / "state.json").exists() or (path / "dataset_dict.json").exists():
        dataset = load_from_disk(str(path))
        return dataset[split] if split and hasattr(dataset, "keys") else dataset
    files = load_dataset_builder(str(path), config).config.data_files or {}
    card = path / "README.md"
    if not (card.is_file() and "data_files:" in card.read_text(encoding="utf-8", errors="replace")):
        _check_one_kind([file for file in path.rglob("*") if file.is_file() and _holds_data(file)], str(path / "*"))
    names = [os.path.normpath(name) for part in files.values() for name in part]
    if outside := [name for name in names if not Path(name).is_relative_to(path.resolve())]:
        raise FormatError(f"the card of {str(path)!r} names {outside[0]!r}, which is not in the folder")
    kinds = {_kind_of(Path(name)) for name in names}
    if not kinds or kinds - {"json", "csv", "tsv"}:
        return load_dataset(str(path), config, split=split)
    if split is not None:
        check_choice("split", split, map(str, files), FormatError)
    parts = {
        str(name): _load_files(sorted(file for file in map(Path, files[name]) if _holds_data(file)), encoding=encoding)
        for name in files
        if split in (None, name)
    }
    return parts[split] if split else DatasetDict(parts)


def _check_inside(path: Path) -> None:
    """Raises [`FormatError`] if a folder's card, or what `save_to_disk` writes, names a file outside or an address."""
    from huggingface_hub import DatasetCard
    from yaml import YAMLError, safe_load

    for file in (path / "README.md", path / ".huggingface.yaml", *path.glob("*.json"), *path.glob("*/state.json")):
        if not file.is_file() or file.suffix == ".json" and file.name not in ("state.json", "dataset_dict.json"):
            continue
        try:
            told = (
                DatasetCard.load(file).data.to_dict() if file.suffix == ".md" else safe_load(file.read_text("utf-8"))
            )
        except (YAMLError, ValueError, RecursionError) as error:
            raise FormatError(
                f"{str(file)!r} describes the folder, but cannot be read ({root_cause(error)}). Correct it, or name "
                f"the files: {str(path / '*.parquet')!r}"
            ) from error
        if outside := next(filter(_OUTSIDE.search, _files_in(told)), None):
            raise FormatError(
                f"{str(file)!r} names {outside!r}. A folder may name only files in it; correct it, or name the files "
                f"yourself: {str(path / '*.parquet')!r}"
            )


_OUTSIDE = re.compile(r"^[/~]|^\w[\w+.-]*:|::|\\|(^|/)\.\.(/|$)")
"""A path from the root or of a user's folder, an address, a path into an archive, a step out of the folder."""


def _files_in(value: Any, named: bool = False) -> Iterator[str]:
    """The texts of a value that name files or folders."""
    if isinstance(value, str) and named:
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _files_in(inner, named or key in ("data_files", "data_dir", "_data_files", "splits"))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _files_in(inner, named)


def _holds_data(path: Path) -> bool:
    """Whether a file in a folder holds data: it is not hidden, and does not describe other files."""
    return not path.name.endswith((".meta.json", "dataset_infos.json")) and not path.name.startswith((".", "_"))


def _open_files(path: Path, split: str | None, streaming: bool, encoding: str | None) -> Any:
    """A file, or several by a pattern."""
    if split not in (None, "train"):
        raise FormatError(f"{str(path)!r} is one file and has no split {split!r}; leave the split out")
    paths = [path] if path.is_file() else sorted(Path(name) for name in glob.glob(str(path), recursive=True))
    if not paths:
        raise FormatError(f"there is no file {str(path)!r}")
    _check_one_kind(paths, str(path))
    return _load_files(paths, streaming, encoding)


def _kind_of(path: Path) -> str | None:
    suffixes = [s.lower() for s in path.suffixes if s.lower() not in COMPRESSED]
    return "tsv" if ".tsv" in suffixes else _BUILDERS.get(suffixes[-1]) if suffixes else None


def _check_one_kind(paths: list[Path], pattern: str) -> None:
    """Raises [`FormatError`] for files of several kinds; the library would read only the most frequent kind."""
    kinds: dict[str, list[Path]] = {}
    for path in paths:
        if kind := _kind_of(path):
            kinds.setdefault(kind, []).append(path)
    if len(kinds) > 1:
        found = " and ".join(f"{len(files)} {kind} ({files[0].name})" for kind, files in sorted(kinds.items()))
        commonest = max(kinds.values(), key=len)[0].suffix
        raise FormatError(
            f"{pattern!r} matches files of several kinds: {found}. Name the files of one kind, "
            f"e.g. {pattern.removesuffix('*') + '*' + commonest!r}"
        )


def _load_files(paths: list[Path], streaming: bool = False, encoding: str | None = None) -> Any:
    """The rows of files of one kind, one file after the other."""
    from datasets import Dataset, load_dataset

    kind = _kind_of(paths[0])
    if kind is None:
        raise FormatError(
            f"cannot tell the format of {str(paths[0])!r} by its name; known endings: {', '.join(_BUILDERS)}"
        )
    for path in paths:
        if path.stat().st_size == 0:
            raise FormatError(f"{str(path)!r} is empty")
        if kind == "parquet":
            _check_names(path)
    if kind == "json":
        return read_json(paths, encoding)
    if kind in ("csv", "tsv"):
        return read_csv(paths, "\t" if kind == "tsv" else ",", encoding)
    if kind == "parquet" and streaming:
        files = [str(path) for path in paths]
        return stream_of_tables(_ParquetTables(), files, _ParquetTables()(files)[0])
    if kind == "parquet" and not any(map(row_count, paths)):  # the library refuses files without rows
        return Dataset(pq.read_table(paths[0]))
    try:
        return load_dataset(kind, data_files=[glob.escape(str(path)) for path in paths], split="train")
    except ValueError as error:
        if "corresponds to no data" not in str(error):
            raise
        raise FormatError(f"{str(paths[0])!r} holds no row") from error


def _check_names(path: Path) -> None:
    names = pq.read_schema(path).names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise FormatError(f"{str(path)!r} has several columns named {twice[0]!r}; rename all but one of them")
    if null := [name for name in names if "\0" in name]:
        raise FormatError(f"{str(path)!r} has a column whose name holds a null character: {null[0]!r}; rename it")


@dataclass(frozen=True)
class _ParquetTables:
    """The rows of parquet files, as features and tables; all columns, or those named."""

    columns: tuple[str, ...] | None = None

    def only(self, columns: Iterable[str]) -> _ParquetTables:
        """The same with these columns alone."""
        return _ParquetTables(tuple(columns))

    def __call__(self, files: list[str]) -> tuple[Features, Iterator[pa.Table]]:
        from datasets import Features

        def tables() -> Iterator[pa.Table]:
            for file in files:
                # The library's own stream decodes whole row groups ahead; other programs write groups of many rows.
                with pq.ParquetFile(file, pre_buffer=False) as parquet:
                    rows = _rows_at_once(parquet.metadata)
                    for batch in parquet.iter_batches(rows, columns=self.columns, use_threads=False):
                        yield pa.Table.from_batches([batch])

        found = Features.from_arrow_schema(pq.read_schema(files[0]))
        return found if self.columns is None else Features({name: found[name] for name in self.columns}), tables()


def _rows_at_once(file: pq.FileMetaData) -> int:
    size = sum(file.row_group(i).total_byte_size for i in range(file.num_row_groups))
    return min(max((8 << 20) * file.num_rows // max(size, 1), BATCH_ROWS), 10 * BATCH_ROWS)
