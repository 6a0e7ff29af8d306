"""Reads CSV and JSON files line by line: values stay as written, and a broken line loses only itself.

The `datasets` library guesses types by the chunk. In CSV files it turns `007` into 7 and a whole number beside an
empty field into a float, and it refuses a file whose numbers turn into words late. In JSON files it turns text that
looks like a date into a date and drops lone surrogates, and a single line that is not JSON makes it refuse the file.

Both readers read a file twice, first for the type of each column, then for the values, and never hold it in memory.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import logging
import lzma
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from ..axes import AXES
from ..errors import FormatError
from .dialogue import SOURCE_ERROR, has_lone_surrogates
from .formats import FORMATS
from .tables import BATCH_ROWS, to_dataset


if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

COMPRESSED = (".gz", ".zst", ".xz", ".bz2")
SOURCE_LINE = "source_line"
"""Column that holds a broken line as it stands in the file."""

Part = tuple[dict[str, list[Any]], list[str | None]]
"""Columns of some rows, and for each row the reason why it cannot be read as it is, if any; see [`_part`]."""


def read_csv(paths: list[Path], separator: str = ",") -> Dataset:
    """
    The rows of CSV files; the first line of a file names the columns.

    An empty field is null. A column is `int64`, `float64` or `bool` if every field is written as Python writes such a
    value (scores and turn numbers: if every field is a number), and text otherwise. Raises [`FormatError`] if a file
    has no row, or ends within a quoted field.
    """
    return _read(paths, partial(_csv_parts, separator=separator), _CsvColumn)


def read_json(paths: list[Path]) -> Dataset:
    """
    The rows of JSON files; a file holds JSON lines or one JSON array.

    A column has the narrowest type that holds all of its values, or is JSON if there is none. Whole numbers of more
    than 64 bits become floats. Raises [`FormatError`] if a file has no row that can be read.
    """
    return _read(paths, _json_parts, _JsonColumn)


def _read(paths: list[Path], parts: Callable[[Path], Iterator[Part]], new_column: Callable[[str], Any]) -> Dataset:
    from datasets import Features

    columns: dict[str, Any] = {}
    for path in paths:
        found: Counter[str | None] = Counter()
        for values, reasons in parts(path):
            found.update(reasons)
            for name, part in values.items():
                columns.setdefault(name, new_column(name)).add(part)
        _check_found(path, found)

    def tables(features: Features) -> Iterator[pa.Table]:
        for values, reasons in chain.from_iterable(map(parts, paths)):
            nothing = [None] * len(reasons)
            arrays = [column.array(values.get(name, nothing)) for name, column in columns.items()]
            yield pa.table(arrays, schema=features.arrow_schema)

    while True:
        features = Features({name: column.feature() for name, column in columns.items()})
        try:
            return to_dataset(tables(features), features)
        except _TypeChanged:
            continue


def _part(values: dict[str, list[Any]], reasons: list[str | None]) -> Part:
    """The columns, with the reasons in `source_error`; and the reasons."""
    if any(reasons):
        given = values.get(SOURCE_ERROR) or [None] * len(reasons)
        values[SOURCE_ERROR] = [reason or own for reason, own in zip(reasons, given, strict=True)]
    return values, reasons


def _check_found(path: Path, found: Counter[str | None]) -> None:
    rows, broken = found.total(), found["invalid_json"]
    if not rows:
        raise FormatError(f"{str(path)!r} is empty: it holds no row")
    if broken == rows:
        raise FormatError(f"{str(path)!r} holds no row: none of its {rows:,} lines is a JSON object")
    if bad := {reason: n for reason, n in found.items() if reason}:
        why = ", ".join(f"{reason}: {n:,}" for reason, n in bad.items())
        logger.warning("%s: some rows cannot be read as they are (%s); they are kept, but get no scores", path, why)


def _opened(path: Path, **options: Any) -> Any:
    """The lines of a UTF-8 file, unpacked by its name."""
    options |= {"encoding": "utf-8-sig"}
    suffix = path.suffix.lower()
    if suffix == ".zst":  # Python itself reads zstd only from 3.14 on
        return io.TextIOWrapper(pa.input_stream(str(path), compression="zstd"), **options)
    openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    return openers.get(suffix, open)(path, "rt", **options)


_LONGEST_FIELD = 1 << 30


class _Kind(NamedTuple):
    """A type that the fields of a column may have."""

    fits: Callable[[str], object]
    type: str
    convert: Callable[[str], Any]


def _written_as(text: str, convert: Callable[[str], Any]) -> bool:
    """Whether the field is written as Python writes its value."""
    try:
        return str(value := convert(text)) == text and bool(np.isfinite(value))
    except (ValueError, OverflowError):
        return False


_INT = _Kind(partial(_written_as, convert=np.int64), "int64", int)
_FLOAT = _Kind(partial(_written_as, convert=float), "float64", float)
_BOOL = _Kind(("True", "False").__contains__, "bool", "True".__eq__)
_NUMBER = _Kind(re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII).fullmatch, "float64", float)
_TEXT = _Kind(lambda text: True, "string", str)

_TEXTS = {name for fmt in FORMATS.values() for name in fmt.dialogue_columns} | {"utterance", SOURCE_ERROR, SOURCE_LINE}
"""Columns that are text even if all of their fields look like numbers."""
_NUMBERS = ("row_index", "turn", "utterance_idx", *AXES)
"""Columns that are numbers in any notation; so are a scorer's details (`sensibility_std`)."""


class _CsvColumn:
    """The narrowest type that fits all fields of a column."""

    def __init__(self, name: str) -> None:
        numbers = name in _NUMBERS or name.startswith(tuple(f"{axis}_" for axis in AXES))
        self._kinds = [_INT, _NUMBER, _TEXT] if numbers else [_INT, _FLOAT, _BOOL, _TEXT]
        if name in _TEXTS:
            self._kinds = [_TEXT]
        self._filled = False

    def add(self, texts: list[str | None]) -> None:
        if self._filled and self._kinds == [_TEXT]:
            return
        fields = {text for text in texts if text is not None}
        self._kinds = [kind for kind in self._kinds if all(map(kind.fits, fields))]
        self._filled |= bool(fields)

    def feature(self) -> Any:
        from datasets import Value

        return Value(self._kind.type)

    def array(self, texts: list[str | None]) -> pa.Array:
        convert = self._kind.convert
        return pa.array([None if text is None else convert(text) for text in texts], self.feature().pa_type)

    @property
    def _kind(self) -> _Kind:
        if self._filled:
            return self._kinds[0]
        return _NUMBER if _NUMBER in self._kinds else _TEXT


def _csv_parts(path: Path, separator: str) -> Iterator[Part]:
    with _opened(path, newline="", errors="strict") as lines:
        records = _csv_records(path, lines, separator)
        names = _csv_names(next(records, ([], ""))[0])
        blank = [""] * len(names)
        while batch := list(islice(records, BATCH_ROWS)):
            broken = [line if any(fields[len(names) :]) else None for fields, line in batch]
            given = zip((fields for fields, _ in batch), broken, strict=True)
            rows = [blank if line else (fields + blank)[: len(names)] for fields, line in given]
            columns = {n: [text or None for text in column] for n, *column in zip(names, *rows, strict=True)}
            if any(broken):
                columns[SOURCE_LINE] = broken
            yield _part(columns, ["too_many_fields" if line else None for line in broken])


def _csv_names(fields: Sequence[str]) -> list[str]:
    """The columns' names; a missing or repeated one gets the name that pandas gives it."""
    names: list[str] = []
    for i, given in enumerate(fields):
        name, again = given or f"Unnamed: {i}", 0
        while name in names:
            again += 1
            name = f"{given}.{again}"
        names.append(name)
    return names


def _csv_records(path: Path, lines: Iterable[str], separator: str) -> Iterator[tuple[list[str], str]]:
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
        if ended:  # the reader gives a record after the end of the file only if it ends within quotes
            raise FormatError(f"{str(path)!r} ends within a quoted field: {text[:60]!r}; close the quotes")
        read.clear()
        if text.strip(blank):
            yield fields, text.rstrip("\r\n")


_DEEPEST_TYPE = 32
"""Values nested deeper than this are kept as JSON: Arrow's files hold no types of more than 63 levels."""
_DEEPEST_ROW = 200
"""Rows nested deeper than this count as broken, because JSON readers give up at different depths."""

Row = dict[str, Any]


class _TypeChanged(Exception):
    """A column needs another type than the first reading found; the rows must be written again."""


class _JsonColumn:
    """The narrowest type that holds all values of a column; `None` if the column is JSON."""

    def __init__(self, name: str) -> None:
        self._type: pa.DataType | None = pa.null()

    def add(self, values: list[Any]) -> None:
        if self._type is None:
            return
        try:
            schemas = [pa.schema({"": kind}) for kind in (self._type, pa.array(values).type)]
            merged = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
        except (pa.ArrowException, OverflowError):
            merged = None
        self._type = merged if merged is not None and _can_be_written(merged) else None

    def feature(self) -> Any:
        from datasets import Json
        from datasets.features.features import generate_from_arrow_type

        return Json() if self._type is None else generate_from_arrow_type(self._type)

    def array(self, values: list[Any]) -> pa.Array:
        if self._type is None:
            texts = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
            return pa.ExtensionArray.from_storage(pa.json_(), pa.array(texts, pa.string()))
        try:
            return pa.array(values, self._type)
        except (pa.ArrowException, OverflowError):  # such as an integer that no float equals
            self._type = None
            raise _TypeChanged from None


def _can_be_written(kind: pa.DataType) -> bool:
    """Whether files can store the type: parquet refuses structs without fields, Arrow very deep nesting."""
    level = [kind]
    for _ in range(_DEEPEST_TYPE):
        if any(pa.types.is_struct(inner) and not inner.num_fields for inner in level):
            return False
        level = [outer.field(i).type for outer in level for i in range(outer.num_fields)]
    return not level


def _json_parts(path: Path) -> Iterator[Part]:
    with _opened(path, errors="surrogateescape") as lines:
        found = _json_rows(lines)
        while batch := list(islice(found, BATCH_ROWS)):
            names = dict.fromkeys(name for row, _ in batch for name in row)
            columns = {name: [row.get(name) for row, _ in batch] for name in names}
            yield _part(columns, [reason for _, reason in batch])


def _json_rows(lines: Iterator[str]) -> Iterator[tuple[Row, str | None]]:
    """The rows of JSON lines or of one JSON array, each with the reason why it cannot be read as it is, if any."""
    for number, line in enumerate(line for line in lines if not line.isspace()):
        if number == 0 and line.lstrip().startswith("["):
            whole = line + "".join(lines)
            try:
                array = _parsed(whole)
            except (ValueError, RecursionError):
                yield from (_json_row(text) for text in whole.split("\n") if text.strip())
            else:
                yield from (_checked(row) or _broken(json.dumps(row)) for row in array)
            return
        yield _json_row(line.rstrip("\n"))


def _json_row(line: str) -> tuple[Row, str | None]:
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
    """A row, with `"invalid_text"` if it cannot be read as it is; `None` if it is not a row."""
    if not isinstance(row, dict):
        return None
    try:
        clean = _escaped(row)
    except RecursionError:
        return None
    return clean, None if clean == row else "invalid_text"


def _broken(line: str) -> tuple[Row, str | None]:
    return {SOURCE_LINE: _escaped(line)}, "invalid_json"


def _escaped(value: Any, levels: int = _DEEPEST_ROW) -> Any:
    """`value` with lone surrogates written out (`\\ud83d`), since Arrow's strings must be valid text."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode() if has_lone_surrogates(value) else value
    if isinstance(value, (list, dict)) and not levels:
        raise RecursionError
    if isinstance(value, list):
        return [_escaped(v, levels - 1) for v in value]
    if isinstance(value, dict):
        return {_escaped(k): _escaped(v, levels - 1) for k, v in value.items()}
    return value
