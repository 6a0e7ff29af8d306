"""JSON files, line by line: every value as it stands, and a line that is none costs that line alone.

The `datasets` library gives up a whole file for such a line, turns text that looks like a date into a date and, in a
column of several types, text that looks like a number into a number; and lone surrogates vanish.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FormatError
from .dialogue import SOURCE_ERROR, has_lone_surrogates


if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, Features

logger = logging.getLogger(__name__)

_BATCH_ROWS = 1_000
_DEEPEST_TYPE = 32
"""Values nested deeper than this are kept as JSON: Arrow's files hold no types of more than 63 levels."""
_DEEPEST_ROW = 200
"""Levels of a row; those nested deeper than this are bad, since readers of JSON give up at depths of their own."""
COMPRESSED = (".gz", ".zst", ".xz", ".bz2")

Row = dict[str, Any]


def read_json(paths: list[Path], folder: Path) -> Dataset:
    """
    The rows of JSON files; those that cannot be taken as they are say so in `source_error`.

    Values have the narrowest type that holds all of their column; where there is none, the column is JSON. Whole
    numbers of more than 64 bits become floats.

    Args:
        paths (`list[Path]`): The files, of JSON lines or of one JSON array each.
        folder (`Path`): Where the rows go, which has to stay as long as they are used.

    Raises:
        [`FormatError`]: Not a single line of a file can be read: it is something else.
    """
    from datasets import Dataset

    types = _Types()
    for path in paths:
        _note_types(path, types)
    while True:
        try:
            _write_rows(paths, folder / "rows.arrow", types)
        except _WrongType as wrong:  # such as a whole number that no float is equal to
            types.give_up(str(wrong))
        else:
            return Dataset.from_file(str(folder / "rows.arrow"))


def _note_types(path: Path, types: _Types) -> None:
    """Looks through a file for the types of its columns."""
    rows = bad = broken = 0
    for batch in _batches(path):
        reasons = [reason for _, reason in batch]
        rows += len(batch)
        broken += reasons.count("invalid_json")
        bad += len(reasons) - reasons.count(None)
        types.add([_marked(row, reason) for row, reason in batch])
    if broken == rows:
        raise FormatError(
            f"{str(path)!r} holds no row: none of its {rows:,} lines is a JSON object"
            if rows
            else f"{str(path)!r} is empty: it has blank lines alone"
        )
    if bad:
        logger.warning("%s: %d rows cannot be read as they are; they are kept and marked unscored", path, bad)


def _write_rows(paths: list[Path], target: Path, types: _Types) -> None:
    import pyarrow as pa

    schema = types.features().arrow_schema
    with pa.OSFile(str(target), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for path in paths:
            for batch in _batches(path):
                rows = [_marked(row, reason) for row, reason in batch]
                columns = [types.column(name, [row.get(name) for row in rows]) for name in schema.names]
                writer.write_table(pa.table(columns, schema=schema))


def _batches(path: Path) -> Iterator[list[tuple[Row, str | None]]]:
    with opened_text(path) as lines:
        found = _read_rows(lines)
        while batch := list(islice(found, _BATCH_ROWS)):
            yield batch


def _marked(row: Row, reason: str | None) -> Row:
    return row if reason is None else {**row, SOURCE_ERROR: reason}


class _WrongType(Exception):
    """A value is not of the type that its column seemed to have; the argument is the column's name."""


class _Types:
    """The types that hold all values of each column; columns of types that do not go together are JSON."""

    def __init__(self) -> None:
        self._types: dict[str, pa.DataType | None] = {}

    def add(self, rows: list[Row]) -> None:
        for name in dict.fromkeys(name for row in rows for name in row):
            self._types[name] = self._merged(name, [row.get(name) for row in rows])

    def give_up(self, name: str) -> None:
        self._types[name] = None

    def _merged(self, name: str, values: list[Any]) -> pa.DataType | None:
        import pyarrow as pa

        known = self._types.get(name, pa.null())
        if known is None:
            return None
        try:
            schemas = [pa.schema({name: kind}) for kind in (known, pa.array(values).type)]
            merged = pa.unify_schemas(schemas, promote_options="permissive").field(name).type
        except (pa.ArrowException, OverflowError):
            return None
        return merged if _can_be_written(merged) else None

    def features(self) -> Features:
        from datasets import Features, Json
        from datasets.features.features import generate_from_arrow_type

        return Features(
            {name: Json() if kind is None else generate_from_arrow_type(kind) for name, kind in self._types.items()}
        )

    def column(self, name: str, values: list[Any]) -> pa.Array:
        import pyarrow as pa

        kind = self._types[name]
        if kind is None:
            texts = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
            return pa.ExtensionArray.from_storage(pa.json_(), pa.array(texts, pa.string()))
        try:
            return pa.array(values, kind)
        except (pa.ArrowException, OverflowError):
            raise _WrongType(name) from None


def _can_be_written(kind: pa.DataType) -> bool:
    """Whether files hold the type: parquet knows no struct without fields, Arrow none that is nested very deeply."""
    import pyarrow as pa

    level = [kind]
    for _ in range(_DEEPEST_TYPE):
        if any(pa.types.is_struct(inner) and not inner.num_fields for inner in level):
            return False
        level = [outer.field(i).type for outer in level for i in range(outer.num_fields)]
    return not level


def opened_text(path: Path, *, newline: str | None = None, errors: str = "surrogateescape") -> Any:
    """The lines of a file of UTF-8, unpacked by its name."""
    import bz2
    import gzip
    import io
    import lzma

    import pyarrow as pa

    openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    options: Any = {"encoding": "utf-8-sig", "errors": errors, "newline": newline}
    suffix = path.suffix.lower()
    if suffix == ".zst":  # which Python knows from 3.14 on
        return io.TextIOWrapper(pa.input_stream(str(path), compression="zstd"), **options)
    return openers.get(suffix, open)(path, "rt", **options)


def _read_rows(lines: Iterable[str]) -> Iterator[tuple[Row, str | None]]:
    """The rows of JSON lines, or of one JSON array, each with the reason why it cannot be taken as it is, if any."""
    for number, line in enumerate(lines):
        if number == 0 and line.lstrip().startswith("["):
            whole = line + "".join(lines)
            try:
                array = _parsed(whole)
            except (ValueError, RecursionError):
                yield from (_read_row(text) for text in whole.split("\n") if text.strip())
            else:
                yield from (_checked(row) or _broken(json.dumps(row)) for row in array)
            return
        if line.strip():
            yield _read_row(line.rstrip("\n"))


def _read_row(line: str) -> tuple[Row, str | None]:
    try:
        return _checked(_parsed(line)) or _broken(line)
    except (ValueError, RecursionError):
        return _broken(line)


def _parsed(text: str) -> Any:
    return json.loads(text, parse_int=_whole_number)


def _whole_number(digits: str) -> int | float:
    if len(digits) < 19:
        return int(digits)
    return int(digits) if len(digits) < 22 and -(2**63) <= int(digits) < 2**64 else float(digits)


def _checked(row: Any) -> tuple[Row, str | None] | None:
    """A row, and `"invalid_text"` where it cannot be taken as it is; `None` for what is no row."""
    if not isinstance(row, dict):
        return None
    try:
        clean = _escaped(row)
    except RecursionError:
        return None
    return clean, None if clean == row else "invalid_text"


def _broken(line: str) -> tuple[Row, str | None]:
    return {"source_line": _escaped(line)}, "invalid_json"


def _escaped(value: Any, levels: int = _DEEPEST_ROW) -> Any:
    """`value` with lone surrogates written out (`\\ud83d`), since Arrow holds text alone."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode() if has_lone_surrogates(value) else value
    if isinstance(value, (list, dict)) and not levels:
        raise RecursionError
    if isinstance(value, list):
        return [_escaped(v, levels - 1) for v in value]
    if isinstance(value, dict):
        return {_escaped(k): _escaped(v, levels - 1) for k, v in value.items()}
    return value
