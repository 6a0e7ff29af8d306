"""Reads CSV and JSON files line by line: values stay as written, and a broken line loses only itself.

The `datasets` library guesses types by the chunk. In CSV files it turns `007` into 7 and a whole number beside an
empty field into a float, and it refuses a file whose numbers turn into words late. In JSON files it turns text that
looks like a date into a date and drops lone surrogates, and a single line that is not JSON makes it refuse the file.

Both readers read a file twice, first for the type of each column, then for the values, and never hold it in memory.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import json
import logging
import lzma
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from ..axes import AXES
from ..errors import FormatError
from .dialogue import SOURCE_ERROR, has_lone_surrogates
from .formats import FORMATS, OTHER_COLUMNS, ROLE_KEYS, SYSTEM_COLUMNS, fitting
from .tables import BATCH_ROWS, to_dataset


if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

COMPRESSED = (".gz", ".zst", ".xz", ".bz2")
SOURCE_LINE = "source_line"
"""Column that holds a broken line as it stands in the file."""

Part = tuple[dict[str, list[Any]], list[str | None]]
"""Columns of some rows, and for each row the reason why it cannot be read as it is, if any; see [`_part`]."""


def read_csv(paths: list[Path], separator: str = ",", encoding: str | None = None) -> Dataset:
    """
    The rows of CSV files; the first line of a file names the columns.

    An empty field is null. A column is `int64`, `float64` or `bool` if every field is written as Python writes such a
    value (scores and turn numbers: if every field is a number), and text otherwise. EmpatheticDialogues as published,
    where a field ends at every comma and quotes are text, is read as it is meant. Raises [`FormatError`] if a file has
    no row, is not in this `encoding` (UTF-8 by default), or ends within a quoted field.
    """
    return _read(paths, partial(_csv_parts, separator=separator, encoding=encoding), _CsvColumn, encoding)


def read_json(paths: list[Path], encoding: str | None = None) -> Dataset:
    """
    The rows of JSON files; a file holds JSON lines, one JSON array, or one object that is a row or holds the rows.

    A column has the narrowest type that holds all of its values, or is JSON if there is none. Whole numbers of more
    than 64 bits become floats. Raises [`FormatError`] if a file has no row that can be read.
    """
    return _read(paths, partial(_json_parts, encoding=encoding), _JsonColumn, encoding)


def _read(
    paths: list[Path],
    parts: Callable[[Path], Iterator[Part]],
    new_column: Callable[[str], Any],
    encoding: str | None,
) -> Dataset:
    from datasets import Features

    columns: dict[str, Any] = {}
    for path in paths:
        found: Counter[str | None] = Counter()
        _check_encoding(path, encoding)
        try:
            for values, reasons in parts(path):
                found.update(reasons)
                for name, part in values.items():
                    columns.setdefault(name, new_column(name)).add(part)
        except UnicodeError as error:
            raise FormatError(_other_encoding(path, encoding)) from error
        _check_found(path, found, encoding)

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


def _check_found(path: Path, found: Counter[str | None], encoding: str | None) -> None:
    rows, broken = found.total(), found["invalid_json"]
    if not rows:
        raise FormatError(f"{str(path)!r} is empty: it holds no row")
    damaged = bool(found["invalid_text"]) or broken == rows
    bad_lines, good_lines, lines = _undecodable(path, encoding) if damaged else (0, 0, 0)
    if bad_lines and not good_lines and (bad_lines > 1 or bad_lines == lines):
        raise FormatError(_other_encoding(path, encoding))
    if broken == rows:
        raise FormatError(f"{str(path)!r} holds no row: none of its {rows:,} lines is a JSON object, each key once")
    if bad := {reason: n for reason, n in found.items() if reason}:
        why = ", ".join(f"{reason}: {n:,}" for reason, n in bad.items())
        logger.warning("%s: some rows cannot be read as they are (%s); they are kept, but get no scores", path, why)
        if bad_lines:
            logger.warning("%s", _other_encoding(path, encoding))


def _undecodable(path: Path, encoding: str | None) -> tuple[int, int, int]:
    """How many lines are not in the encoding, how many others hold more than ASCII, and how many there are."""
    bad = good = total = 0
    with _opened(path, encoding, errors="surrogateescape") as lines:
        for total, line in enumerate(lines, 1):  # noqa: B007
            if not line.isascii():
                wrong = has_lone_surrogates(line)
                bad, good = bad + wrong, good + (not wrong)
    return bad, good, total


def _check_encoding(path: Path, encoding: str | None) -> None:
    """Raises [`FormatError`] for UTF-16 and UTF-32, which can pass for UTF-8 with odd characters."""
    with _binary(path) as file:
        head = file.read(4096)
    if encoding is None and (head.startswith((b"\xff\xfe", b"\xfe\xff")) or head.count(0) * 5 > len(head) > 16):
        raise FormatError(_other_encoding(path, encoding))


_ENCODINGS = (
    *("utf_8", "utf_16", "utf_16_le", "utf_16_be", "utf_32", "cp1252", "gb18030", "cp932", "euc_jp", "euc_kr", "big5"),
)
_OTHER_ALPHABETS = ("cp1251", "koi8_r", "cp1253", "cp1255", "cp1256")
"""Encodings of one byte a letter that fit any bytes; only a text with many bytes beyond ASCII can be in one."""


def _other_encoding(path: Path, encoding: str | None) -> str:
    """The message for a file that is not in the encoding: which one it looks like, and what to do."""
    try:  # it comes with the libraries that download data sets
        from charset_normalizer import from_bytes
    except ImportError:
        name, looks = "NAME", "which encoding it has is not known"
    else:
        with _binary(path) as file:
            head = file.read(1 << 20)
        beyond = sum(byte > 127 for byte in head) > len(head) / 5
        found = from_bytes(head, cp_isolation=[*_ENCODINGS, *(_OTHER_ALPHABETS if beyond else ())]).best()
        name = found.encoding.replace("_", "-") if found else "NAME"
        looks = f"it looks like {name}" if found else "it looks like no common encoding"
    return (
        f"{str(path)!r} is not encoded in {encoding or 'UTF-8'}; {looks}. Give --encoding {name} (in Python "
        f"encoding={name!r}, in a recipe empathy_encoding), or convert the file: iconv -f {name} -t utf-8 "
        f"{path.name} > utf8-{path.name}"
    )


def _opened(path: Path, encoding: str | None, **options: Any) -> Any:
    """The lines of a text file, unpacked by its name; UTF-8 by default, with or without a byte order mark."""
    try:
        name = codecs.lookup(encoding or "utf-8").name
    except LookupError:
        raise FormatError(f"unknown encoding {encoding!r}; valid: e.g. utf-8, cp1252, gb18030, utf-16") from None
    return io.TextIOWrapper(_binary(path), encoding="utf-8-sig" if name == "utf-8" else name, **options)


def _binary(path: Path) -> Any:
    """The bytes of a file, unpacked by its name."""
    suffix = path.suffix.lower()
    if suffix == ".zst":  # Python itself reads zstd only from 3.14 on
        return pa.input_stream(str(path), compression="zstd")
    openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    return openers.get(suffix, open)(path, "rb")


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

_TEXTS = {name for fmt in FORMATS.values() for name in fmt.dialogue_columns}
_TEXTS |= {*chain(*OTHER_COLUMNS.values()), *SYSTEM_COLUMNS, "utterance", SOURCE_ERROR, SOURCE_LINE}
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


def _csv_parts(path: Path, separator: str, encoding: str | None) -> Iterator[Part]:
    with _opened(path, encoding, newline="", errors="strict") as lines:
        published = _is_published(path, encoding)
        records = _split_at_commas(lines) if published else _csv_records(path, lines, separator)
        names = _csv_names(path, next(records, ([], ""))[0])
        blank = [""] * len(names)
        while batch := list(islice(records, BATCH_ROWS)):
            if published:
                for fields, _ in batch:
                    del fields[len(names) : len(names) + 1]  # the candidates
            broken = [line if any(fields[len(names) :]) else None for fields, line in batch]
            given = zip((fields for fields, _ in batch), broken, strict=True)
            rows = [blank if line else (fields + blank)[: len(names)] for fields, line in given]
            columns = {n: [text or None for text in column] for n, *column in zip(names, *rows, strict=True)}
            if any(broken):
                columns[SOURCE_LINE] = broken
            yield _part(columns, ["too_many_fields" if line else None for line in broken])


_PUBLISHED = "conv_id,utterance_idx,context,prompt,speaker_idx,utterance,selfeval,tags"
"""The header of EmpatheticDialogues. There a field ends at every comma, quotes are text, commas are `_comma_`, and
lines of the validation and test files have a ninth field, without a name, that holds candidates for the reply."""


def _is_published(path: Path, encoding: str | None) -> bool:
    """Whether a file is EmpatheticDialogues as published, and not written anew by a program that sets quotes."""
    width = _PUBLISHED.count(",") + 1
    with _opened(path, encoding, newline="") as lines:
        if next(lines, "").rstrip("\r\n,") != _PUBLISHED:
            return False
        for line in lines:
            if '"' not in line:
                continue
            parts = line.rstrip("\r\n").split(",")
            if not width <= len(parts) <= width + 1:
                return False
            try:
                [fields] = csv.reader([line], strict=True)
            except (csv.Error, ValueError):
                continue
            doubled = any(re.fullmatch(r'"(?:[^"]|"")*""(?:[^"]|"")*"', part) for part in parts)
            if len(fields) == width and (len(parts) > width or doubled):
                return False
    return True


def _split_at_commas(lines: Iterable[str]) -> Iterator[tuple[list[str], str]]:
    """The fields of each line that is not blank, with the line."""
    for line in lines:
        if text := line.rstrip("\r\n"):
            yield text.split(","), text


def _csv_names(path: Path, fields: Sequence[str]) -> list[str]:
    """
    The columns' names; a missing or repeated one gets the name that pandas gives it.

    Raises [`FormatError`] for a repeated one that this package reads: it cannot tell which is meant.
    """
    names: list[str] = []
    for i, given in enumerate(_escaped_key(field.removeprefix("\ufeff")) for field in fields):
        if given in names and given in (*_TEXTS, *_NUMBERS):
            raise FormatError(f"{str(path)!r} has several columns named {given!r}; rename all but one of them")
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


def _json_parts(path: Path, encoding: str | None) -> Iterator[Part]:
    with _opened(path, encoding, errors="surrogateescape") as lines:
        found = _json_rows(path, lines)
        while batch := list(islice(found, BATCH_ROWS)):
            names = dict.fromkeys(name for row, _ in batch for name in row)
            columns = {name: [row.get(name) for row, _ in batch] for name in names}
            yield _part(columns, [reason for _, reason in batch])


def _json_rows(path: Path, lines: Iterator[str]) -> Iterator[tuple[Row, str | None]]:
    """The rows of JSON lines or of one JSON value, each with the reason why it cannot be read as it is, if any."""
    given = (line for line in lines if not line.isspace())
    first = next(given, "").removeprefix("\ufeff")
    if not first:
        return
    row = _json_row(first.rstrip("\n")) if not first.lstrip().startswith("[") else None
    if row is None or row[1] == "invalid_json":  # one value over several lines, or damaged lines
        whole = first + "".join(lines)
        values = _values_in(whole)
        if values is None:
            texts = (text for text in whole.split("\n") if text.strip() and text.strip() not in ("[", "]"))
            yield from map(_json_row, texts)
        else:
            rows = _rows_in(path, values)
            yield from (_checked(value) or _broken(json.dumps(value)) for value in rows)
        return
    second = next(given, None)
    if second is None and not row[1]:
        yield from (_checked(value) or _broken(json.dumps(value)) for value in _rows_in(path, [row[0]]))
        return
    yield row
    yield from (_json_row(line.rstrip("\n")) for line in chain([second] if second else [], given))


def _values_in(text: str) -> list[Any] | None:
    """The JSON values of a text, one after the other; `None` if it holds anything else."""
    decoder, values = json.JSONDecoder(parse_int=_whole_number, object_pairs_hook=_object), list[Any]()
    text, start = _LAST_COMMA.sub(r"\1", text.strip()), 0
    try:
        while start < len(text):
            value, end = decoder.raw_decode(text, start)
            values.append(value)
            start = _BETWEEN.match(text, end).end()  # type: ignore[union-attr]
    except (ValueError, RecursionError):
        return None
    return values


_BETWEEN = re.compile(r"[\s,]*")
_LAST_COMMA = re.compile(r",\s*([\]}]\s*)\Z")


def _rows_in(path: Path, values: list[Any]) -> list[Any]:
    """The rows of a file of JSON values; raises [`FormatError`] if it is not clear which values are the rows."""
    if len(values) > 1:
        return values
    [value] = values
    if isinstance(value, list) and (not value or any(isinstance(row, dict) for row in value)):
        return value
    if not isinstance(value, dict):
        inner = f"list of {_kinds(value)}" if isinstance(value, list) else _kinds([value]).removesuffix("s")
        raise FormatError(f"{str(path)!r} holds nothing that is a JSON object: it is one JSON {inner}. {_HOW}")
    lists = {name: rows for name, rows in value.items() if _are_objects(rows)}
    of_rows = {name: rows for name, rows in lists.items() if fitting(rows[0])}
    fmt = fitting(value)
    if not of_rows and fmt:
        sizes = {len(part) if isinstance(part, dict) or _are_texts(part) else 1 for part in value.values()}
        if all(isinstance(part, dict) for part in value.values()) or not (
            fmt.multi_turn or len(sizes) > 1 or 1 in sizes
        ):
            raise FormatError(
                f"{str(path)!r} is one JSON object of columns, not of rows; in pandas: to_json(path, "
                f"orient='records', lines=True). {_HOW}"
            )
        return values
    if not of_rows and {".jsonl", ".ndjson"} & {suffix.lower() for suffix in path.suffixes}:
        return values
    lists = of_rows or {name: rows for name, rows in lists.items() if not any(key in rows[0] for key in ROLE_KEYS)}
    if len(lists) == 1:
        return next(iter(lists.values()))
    if not lists and not any(isinstance(part, dict) for part in value.values()):
        return values
    found = ", ".join(f"{name} ({len(value[name])} rows)" for name in lists) or f"the keys {', '.join(value)}"
    what = "several lists of rows" if lists else "no list of rows"
    raise FormatError(
        f"{str(path)!r} is one JSON object with {what}: {found}. Write each list to its own file. {_HOW}"
    )


_HOW = (
    "A file of rows is a list of objects, or has one object a line, e.g. "
    '{"context": ["I lost my job."], "response": "I am sorry."}'
)


def _kinds(values: Collection[Any]) -> str:
    names = {list: "lists", str: "texts", dict: "objects", bool: "truth values", type(None): "nulls"}
    return " and ".join(sorted({names.get(type(value), "numbers") for value in values}))


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _json_row(line: str) -> tuple[Row, str | None]:
    for text in (line, line.strip().removeprefix("[").removesuffix("]").rstrip(", \t\r")):
        try:
            return _checked(_parsed(text)) or _broken(line)
        except (ValueError, RecursionError):
            continue
    return _broken(line)


def _parsed(text: str) -> Any:
    return json.loads(text, parse_int=_whole_number, object_pairs_hook=_object)


class _Ambiguous(Row):
    """A JSON object that has a key twice; readers differ in which value they take."""


def _object(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    return row if len(row) == len(pairs) else _Ambiguous(row)


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
    except (RecursionError, ValueError):
        return None
    return clean, None if clean == row else "invalid_text"


def _broken(line: str) -> tuple[Row, str | None]:
    return {SOURCE_LINE: _escaped(line)}, "invalid_json"


def _escaped(value: Any, levels: int = _DEEPEST_ROW) -> Any:
    """
    `value` with lone surrogates written out (`\\ud83d`), since Arrow's strings must be valid text.

    Raises `ValueError` for an ambiguous object, and `RecursionError` for a value of too many levels.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode() if has_lone_surrogates(value) else value
    if isinstance(value, (list, dict)) and not levels:
        raise RecursionError
    if isinstance(value, list):
        return [_escaped(v, levels - 1) for v in value]
    if isinstance(value, _Ambiguous):
        raise ValueError("a key is there twice")
    if isinstance(value, dict):
        return {_escaped_key(k): _escaped(v, levels - 1) for k, v in value.items()}
    return value


def _escaped_key(name: str) -> str:
    """A column's or key's name without null characters, at which Arrow's names end."""
    return str(_escaped(name)).replace("\0", "\\x00")
