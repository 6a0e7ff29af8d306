"""CSV and JSON files, read line by line: every value as it stands, and a broken line costs that line alone.

The `datasets` library guesses types by the chunk. In CSV files `007` becomes 7, a whole number beside an empty field a
float, and a file whose numbers turn into words late is refused. In JSON files text that looks like a date becomes a
date and, in a column of several types, text that looks like a number a number; lone surrogates vanish, and one line
that is no JSON costs the whole file.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import logging
import lzma
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..axes import AXES
from ..errors import FormatError
from .dialogue import SOURCE_ERROR, has_lone_surrogates
from .formats import FORMATS


if TYPE_CHECKING:
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

    level = [kind]
    for _ in range(_DEEPEST_TYPE):
        if any(pa.types.is_struct(inner) and not inner.num_fields for inner in level):
            return False
        level = [outer.field(i).type for outer in level for i in range(outer.num_fields)]
    return not level


def opened_text(path: Path, *, newline: str | None = None, errors: str = "surrogateescape") -> Any:
    """The lines of a file of UTF-8, unpacked by its name."""

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


# ---- CSV ------------------------------------------------------------------------------------------------------------


SOURCE_LINE = "source_line"
_REASON = "too_many_fields"
_LONGEST_FIELD = 1 << 30
_TEXTS = {name for fmt in FORMATS.values() for name in fmt.dialogue_columns} | {"utterance", SOURCE_ERROR, SOURCE_LINE}
"""Columns that are text even where all of them look like numbers."""
_NUMBERS = ("row_index", "turn", "utterance_idx", *AXES)
"""Columns that are numbers however those are written; so are what scorers tell beside their scores."""
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)

Texts = list[str | None]


def read_csv(paths: list[Path], folder: Path, separator: str = ",") -> Dataset:
    """
    The rows of CSV files, read twice and never held; those of too many fields say so in `source_error`.

    An empty field is null. A column is `int64`, `float64` or `bool` where every field is written as Python writes such
    a value (scores and what numbers the turns: where every field is a number), and text elsewhere.

    Args:
        paths (`list[Path]`): The files, the first line of each with the names of its columns.
        folder (`Path`): Where the rows go, which has to stay as long as they are used.
        separator (`str`, *optional*, defaults to `","`): Between fields.

    Raises:
        [`FormatError`]: A file has no row, or ends within a quoted field.
    """
    from datasets import Dataset

    columns = _Columns()
    for path in paths:
        _look_through(path, separator, columns)
    schema = pa.schema([(name, _type(name, columns)) for name in columns.possible])
    target = folder / "rows.arrow"
    with pa.OSFile(str(target), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for path in paths:
            for rows, batch in _csv_batches(path, separator):
                arrays = [
                    _csv_array(batch.get(name) or [None] * rows, schema.field(name).type) for name in schema.names
                ]
                writer.write_table(pa.table(arrays, schema=schema))
    return Dataset.from_file(str(target))


def _type(name: str, columns: _Columns) -> pa.DataType:

    possible = columns.possible[name]
    kind = possible[0] if name in columns.filled else "number" if "number" in possible else "text"
    kinds = {"int": pa.int64, "float": pa.float64, "number": pa.float64, "bool": pa.bool_, "text": pa.string}
    return kinds[kind]()


@dataclass
class _Columns:
    """What each column can be, the narrowest first, and which hold anything at all."""

    possible: dict[str, list[str]] = field(default_factory=dict)
    filled: set[str] = field(default_factory=set)


def _is_int(text: str) -> bool:
    try:
        return str(number := int(text)) == text and -(2**63) <= number < 2**63
    except ValueError:
        return False


def _is_float(text: str) -> bool:
    try:
        return repr(number := float(text)) == text and math.isfinite(number)
    except ValueError:
        return False


_KINDS: dict[str, Callable[[str], object]] = {
    "int": _is_int,
    "float": _is_float,
    "bool": ("True", "False").__contains__,
    "number": _NUMBER.fullmatch,
    "text": lambda text: True,
}
"""What all fields of a column can be, the narrowest first."""


def _possible(name: str) -> list[str]:
    if name in _TEXTS:
        return ["text"]
    if name in _NUMBERS or name.startswith(tuple(f"{axis}_" for axis in AXES)):
        return ["int", "number", "text"]
    return ["int", "float", "bool", "text"]


def _look_through(path: Path, separator: str, columns: _Columns) -> None:
    """Looks through a file for what its columns can be."""
    rows = bad = 0
    for number, batch in _csv_batches(path, separator):
        rows += number
        bad += batch.get(SOURCE_ERROR, []).count(_REASON)
        for name, texts in batch.items():
            possible = columns.possible.setdefault(name, _possible(name))
            if name in columns.filled and possible == ["text"]:
                continue
            fields = {text for text in texts if text is not None}
            columns.possible[name] = [kind for kind in possible if all(map(_KINDS[kind], fields))]
            if fields:
                columns.filled.add(name)
    if not rows:
        raise FormatError(f"{str(path)!r} holds no row")
    if bad:
        logger.warning(
            "%s: %d rows have more fields than the first line; they are kept and marked unscored", path, bad
        )


def _csv_array(texts: Texts, kind: pa.DataType) -> pa.Array:

    if pa.types.is_string(kind):
        return pa.array(texts, kind)
    convert: Any = int if pa.types.is_integer(kind) else float if pa.types.is_floating(kind) else "True".__eq__
    return pa.array([None if text is None else convert(text) for text in texts], kind)


def _csv_batches(path: Path, separator: str) -> Iterator[tuple[int, dict[str, Texts]]]:
    """How many rows, and their columns."""
    with opened_text(path, newline="", errors="strict") as lines:
        records = _records(path, lines, separator)
        names = _names(next(records, ([], ""))[0])
        while batch := list(islice(records, _BATCH_ROWS)):
            bad = [line if any(fields[len(names) :]) else None for fields, line in batch]
            blank = [""] * len(names)
            given = [(blank if line else fields) + blank for (fields, _), line in zip(batch, bad, strict=True)]
            rows = [fields[: len(names)] for fields in given]
            columns = {n: [text or None for text in column] for n, *column in zip(names, *rows, strict=True)}
            if any(bad):
                told = columns.get(SOURCE_ERROR, bad)
                reasons = [_REASON if line else reason for line, reason in zip(bad, told, strict=True)]
                columns |= {SOURCE_LINE: bad, SOURCE_ERROR: reasons}
            yield len(batch), columns


def _names(fields: Sequence[str]) -> list[str]:
    """The columns' names; one that is missing or there twice is made up as pandas does it."""
    names: list[str] = []
    for i, given in enumerate(fields):
        name, again = given or f"Unnamed: {i}", 0
        while name in names:
            again += 1
            name = f"{given}.{again}"
        names.append(name)
    return names


def _records(path: Path, lines: Iterable[str], separator: str) -> Iterator[tuple[list[str], str]]:
    """The fields of each record that is not blank, with the text that they are read from."""
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_FIELD))
    blank = " \t\r\n".replace(separator, "")
    read: list[str] = []
    ended = False

    def noted() -> Iterator[str]:
        nonlocal ended
        for line in lines:
            read.append(line)
            yield line
        ended = True

    for fields in csv.reader(noted(), delimiter=separator):
        text = "".join(read)
        if ended:  # which the reader sees before the end of a record within quotes alone
            raise FormatError(f"{str(path)!r} ends within a quoted field: {text[:60]!r}; close the quotes")
        read.clear()
        if text.strip(blank):
            yield fields, text.rstrip("\r\n")
