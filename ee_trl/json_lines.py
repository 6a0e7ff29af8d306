"""JSON files line by line: for those that the `datasets` library cannot read, or reads wrongly.

It gives up a whole file for one line that is no JSON, or of which a column is of another type than ten megabytes
before; and lone surrogates vanish from lines that it has to read twice. Here every line is taken for itself.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .dialogue import SOURCE_ERROR, has_lone_surrogates
from .errors import FormatError


if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, Features

logger = logging.getLogger(__name__)

_BATCH_ROWS = 1_000
COMPRESSED = (".gz", ".zst", ".xz", ".bz2")

_HIGH, _LOW = r"\\u[dD][89abAB][0-9a-fA-F]{2}", r"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_LONE_SURROGATE = re.compile(rf"(?<!\\)(?:\\\\)*(?:{_HIGH}(?!{_LOW})|(?<!\\u[dD][89abAB][0-9a-fA-F]{{2}}){_LOW})")
"""Half of a surrogate pair, written out as JSON does; too many matches do no harm, they mean a closer look."""


def is_sound(path: Path) -> bool:
    """Whether the library, where it reads the file without complaint, gives what is in it."""
    if path.suffix.lower() == ".zst":  # which Python cannot look into
        return True
    try:
        with _opener(path)(path, "rt", encoding="utf-8") as lines:
            # bytes that are no text go into Arrow, but never out again; lone surrogates may vanish without a word
            return not any(_LONE_SURROGATE.search(line) for line in lines if "\\u" in line)
    except UnicodeDecodeError:
        return False


def repaired(paths: list[Path], folder: Path) -> Dataset:
    """
    The rows of JSON files; those that cannot be taken as they are say so in `source_error`.

    Args:
        paths (`list[Path]`): The files, of JSON lines or of one JSON array each.
        folder (`Path`): Where copies go, which have to stay as long as the rows.

    Raises:
        [`FormatError`]: Not a single line of a file can be read: it is something else.
    """
    from datasets import load_dataset

    types = _Types()
    copies = [folder / f"{number}.jsonl" for number in range(len(paths))]
    bad = sum(_copy_rows(path, copy, types) for path, copy in zip(paths, copies, strict=True))
    rows = load_dataset("json", data_files=list(map(str, copies)), features=types.features(), split="train")
    return rows if bad else rows.remove_columns(SOURCE_ERROR)


def _copy_rows(path: Path, copy: Path, types: _Types) -> int:
    """Copies what can be read of a JSON file, line by line, and notes its types; how many rows are bad."""
    rows = bad = broken = 0
    with (
        _opener(path)(path, "rt", encoding="utf-8-sig", errors="surrogateescape") as lines,
        copy.open("w", encoding="utf-8") as out,
    ):
        found = _read_rows(lines)
        while batch := list(islice(found, _BATCH_ROWS)):
            rows += len(batch)
            broken += sum(reason == "invalid_json" for _, reason in batch)
            marked = [{**row, SOURCE_ERROR: reason or row.get(SOURCE_ERROR)} for row, reason in batch]
            bad += sum(row[SOURCE_ERROR] is not None for row in marked)
            types.add(marked)
            out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in marked)
    if broken == rows:
        raise FormatError(
            f"{str(path)!r} holds no row: none of its {rows:,} lines is a JSON object"
            if rows
            else f"{str(path)!r} is empty: it has blank lines alone"
        )
    if bad:
        logger.warning("%s: %d rows cannot be read as they are; they are kept and marked unscored", path, bad)
    return bad


class _Types:
    """The types that hold all values of each column; columns of types that do not go together are JSON."""

    def __init__(self) -> None:
        self._types: dict[str, pa.DataType | None] = {}

    def add(self, rows: list[dict[str, Any]]) -> None:
        for name in dict.fromkeys(name for row in rows for name in row):
            self._types[name] = self._merged(name, [row.get(name) for row in rows])

    def _merged(self, name: str, values: list[Any]) -> pa.DataType | None:
        import pyarrow as pa

        known = self._types.get(name, pa.null())
        if known is None:
            return None
        try:
            schemas = [pa.schema({name: kind}) for kind in (known, pa.array(values).type)]
            return pa.unify_schemas(schemas, promote_options="permissive").field(name).type
        except (pa.ArrowException, OverflowError):
            return None

    def features(self) -> Features:
        from datasets import Features, Json
        from datasets.features.features import generate_from_arrow_type

        return Features(
            {name: Json() if kind is None else generate_from_arrow_type(kind) for name, kind in self._types.items()}
        )


def _opener(path: Path) -> Any:
    """`open` for a file by its name; raises [`FormatError`] for a compression that Python does not know."""
    import bz2
    import gzip
    import lzma

    suffix = path.suffix.lower()
    if suffix not in COMPRESSED:
        return open
    openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    if suffix not in openers:
        raise FormatError(f"cannot look into {str(path)!r}; unpack it first")
    return openers[suffix]


def _read_rows(lines: Iterator[str]) -> Iterator[tuple[dict[str, Any], str | None]]:
    """The rows of JSON lines, or of one JSON array, each with the reason why it cannot be taken as it is, if any."""
    for number, line in enumerate(lines):
        if number == 0 and line.lstrip().startswith("["):
            whole = line + "".join(lines)
            try:
                array = json.loads(whole)
            except (ValueError, RecursionError):
                yield from (_read_row(text, None) for text in whole.split("\n") if text.strip())
            else:
                yield from (_read_row(json.dumps(row), row) for row in array)
            return
        if line.strip():
            yield _read_row(line.rstrip("\n"), None)


def _read_row(line: str, row: Any) -> tuple[dict[str, Any], str | None]:
    try:
        row = json.loads(line) if row is None else row
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        return {"source_line": _escaped(line)}, "invalid_json"
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
