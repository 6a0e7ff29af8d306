"""Reads JSON files: values stay as written, and a broken line loses only itself.

The `datasets` library turns text that looks like a date into a date and drops lone surrogates, and a single line that
is not JSON makes it refuse the file. Here Arrow reads the blocks of lines that it reads without any such change.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Collection, Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.json as pj

from ..errors import FormatError
from .dialogue import has_lone_surrogates
from .formats import ROLE_KEYS, fitting
from .tables import BATCH_ROWS
from .text_files import (
    HOW_ROWS_LOOK,
    SOURCE_LINE,
    Part,
    TypeChanged,
    Values,
    ValuesNeeded,
    blocks_of,
    open_text,
    pieces,
    read_files,
    without_null,
)


if TYPE_CHECKING:
    from datasets import Dataset

_DEEPEST_TYPE = 32
"""Values nested deeper than this are kept as JSON: Arrow's files hold no types of more than 63 levels."""
_DEEPEST_ROW = 200
"""Rows nested deeper than this count as broken, because JSON readers give up at different depths."""

Row = dict[str, Any]


def read_json(paths: list[Path], encoding: str | None = None) -> Dataset:
    """
    The rows of JSON files; a file holds JSON lines, one JSON array, or one object that is a row or holds the rows.

    A column has the narrowest type that holds all of its values, or is JSON if there is none. Whole numbers of more
    than 64 bits become floats. Raises [`FormatError`] if a file has no row that can be read.
    """
    return read_files(paths, partial(_json_parts, encoding=encoding), _JsonColumn, encoding)


class _JsonColumn:
    """The narrowest type that holds all values of a column; `None` if the column is JSON."""

    def __init__(self, name: str) -> None:
        self._type: pa.DataType | None = pa.null()
        self._arrow = False  # whether Arrow read some of the values

    def add(self, values: Values) -> None:
        self._arrow |= isinstance(values, pa.ChunkedArray)
        if self._type is not None:
            try:
                kind = values.type if isinstance(values, pa.ChunkedArray) else _type_of(values)
                schemas = [pa.schema({"": kind}) for kind in (self._type, kind)]
                self._type = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
            except (pa.ArrowException, OverflowError):
                self._type = None
        if self._type is None and self._arrow:
            raise ValuesNeeded

    def feature(self) -> Any:
        from datasets import Json
        from datasets.features.features import generate_from_arrow_type

        return Json() if self._is_json else generate_from_arrow_type(self._type)

    @property
    def _is_json(self) -> bool:
        return self._type is None or not _can_be_written(self._type)

    def array(self, values: Values) -> pa.Array | pa.ChunkedArray:
        if isinstance(values, pa.ChunkedArray):
            if values.type == self._type:
                return values
            values = values.to_pylist()
        if self._is_json and self._arrow:
            raise ValuesNeeded
        if self._is_json:
            texts = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
            return pa.ExtensionArray.from_storage(pa.json_(), pa.array(texts, pa.string()))
        try:
            return pa.array(values, self._type)
        except (pa.ArrowException, OverflowError):  # such as an integer that no float equals
            self._type = None
            raise (ValuesNeeded if self._arrow else TypeChanged) from None


def _type_of(values: list[Any]) -> pa.DataType:
    """The type that Arrow gives Python values; it refuses truth values among floats, of which Arrow would make 1.0."""
    kind = pa.array(values).type
    if "double" in str(kind) and _has_truth_for_float(values, kind):
        raise pa.ArrowInvalid("truth values among floats")
    return kind


def _has_truth_for_float(values: list[Any], kind: pa.DataType) -> bool:
    if pa.types.is_floating(kind):
        return bool in set(map(type, values))
    there = [value for value in values if value is not None]
    if pa.types.is_list(kind):
        return _has_truth_for_float(list(chain.from_iterable(there)), kind.value_type)
    if pa.types.is_struct(kind):
        return any(_has_truth_for_float([value.get(field.name) for value in there], field.type) for field in kind)
    return False


def _can_be_written(kind: pa.DataType) -> bool:
    """Whether files can store the type: parquet refuses structs without fields, Arrow very deep nesting."""
    level = [kind]
    for _ in range(_DEEPEST_TYPE):
        if any(pa.types.is_struct(inner) and not inner.num_fields for inner in level):
            return False
        level = [outer.field(i).type for outer in level for i in range(outer.num_fields)]
    return not level


def _json_parts(path: Path, encoding: str | None, arrow: bool = True) -> Iterator[Part]:
    with open_text(path, encoding, errors="surrogateescape") as lines:
        blocks = blocks_of(path, encoding) if arrow else iter([])
        first, row_of = next(blocks, b""), _json_row
        if _holds_lines(first):
            blocks = chain([first], blocks)
        else:
            whole = lines.read() if first[:64].lstrip().startswith(b"[") else ""
            found = _lines_of_array(whole)
            if found is None:
                yield from _parts_of(_json_rows(path, io.StringIO(whole, newline="\n") if whole else lines))
                return
            blocks, row_of = _blocks_of_rows(found), _row_of_array
    schema = None
    while block := next(blocks, b""):
        if (table := _arrow_table(block, schema)) is not None:
            schema = table.schema
            yield dict(zip(table.column_names, table.columns, strict=True)), [None] * table.num_rows
        elif len(parts := pieces(block)) > 1:
            blocks = chain(parts, blocks)
        else:
            texts = io.TextIOWrapper(io.BytesIO(block), "utf-8", errors="surrogateescape")
            yield from _parts_of(row_of(line.rstrip("\n")) for line in texts if not line.isspace())


def _lines_of_array(text: str) -> list[str] | None:
    """The objects of a JSON array, each on one line; `None` if the text is anything else."""
    text, found, place = text.strip(), list[str](), 1
    decode, skip = json.JSONDecoder().raw_decode, re.compile(r"[ \t\r\n]*").match
    try:
        while text[place := skip(text, place).end()] != "]":  # type: ignore[union-attr]
            value, end = decode(text, place)
            if not isinstance(value, dict):
                return None
            found.append(text[place:end].translate(_ONE_LINE))
            place = skip(text, end).end()  # type: ignore[union-attr]
            place += text[place] == ","
            if text[place - 1] != "," and text[place] != "]":
                return None
    except (ValueError, RecursionError, IndexError):
        return None
    return found if found and place == len(text) - 1 else None


_ONE_LINE = dict.fromkeys(map(ord, "\t\r\n"), " ")
"""JSON has these only between values."""


def _blocks_of_rows(rows: list[str]) -> Iterator[bytes]:
    for start in range(0, len(rows), 10 * BATCH_ROWS):
        yield "\n".join(rows[start : start + 10 * BATCH_ROWS]).encode("utf-8", "surrogateescape")


def _row_of_array(line: str) -> tuple[Row, str | None]:
    value = _parsed(line)
    return _checked(value) or _broken(json.dumps(value))


def _parts_of(rows: Iterator[tuple[Row, str | None]]) -> Iterator[Part]:
    while batch := list(islice(rows, BATCH_ROWS)):
        names = dict.fromkeys(name for row, _ in batch for name in row)
        columns: dict[str, Values] = {name: [row.get(name) for row, _ in batch] for name in names}
        yield columns, [reason for _, reason in batch]


def _holds_lines(block: bytes) -> bool:
    """Whether a file that begins so holds JSON lines: its first line is an object, and another one follows."""
    first = block.partition(b"\n")[0].removesuffix(b"\r")
    if not first.startswith(b"{") or b"\r" in first or b"\n{" not in block:
        return False
    return _json_row(first.decode("utf-8", "surrogateescape"))[1] != "invalid_json"


_CONTROLS = bytes(set(range(32)) - {10})
_ALIKE = bytes.maketrans(b"123456789E+", b"000000000e-")
_INEXACT = (b"0" * 16, b"e000", b"e-000", b"NaN", b"Inf")
_MINUS_ZERO = re.compile(rb"-0[^.\deE]")
"""Numbers that Arrow does not read as we do, in a column of floats: many digits, large exponents, and -0."""
_MOST_LEVELS = 1_000
"""Arrow crashes on a row of a hundred thousand levels."""


def _arrow_table(block: bytes, schema: pa.Schema | None) -> pa.Table | None:
    """Lines as Arrow reads them, by the `schema` of other lines if it fits; `None` if we would read another thing."""
    block = block.replace(b"\r\n", b"\n") if b"\r" in block else block
    block = block.rstrip(b"\n")
    lines = block.count(b"\n") + 1
    if not (block[:1] == b"{" and block[-1:] == b"}" and block.count(b"}\n{") == lines - 1):
        return None  # not one object a line
    if len(block.translate(None, _CONTROLS)) < len(block) or b"\\u0000" in block:
        return None
    long = [line for line in block.split(b"\n") if len(line) > _MOST_LEVELS]
    if any(line.count(b"[") + line.count(b"{") > _MOST_LEVELS for line in long):
        return None
    try:
        table = _by_arrow(block, schema)
        table.validate(full=True)  # Arrow does not check the bytes of strings
        kinds = [_with_texts(kind) for kind in table.schema.types]
        if kinds != table.schema.types:
            table = _by_arrow(block, pa.schema(list(zip(table.column_names, kinds, strict=True))))
    except (pa.ArrowException, UnicodeDecodeError):
        return None
    if table.num_rows != lines or not kinds or table.schema.types != kinds or not all(map(_can_be_written, kinds)):
        return None
    return None if "double" in str(kinds) and _has_inexact(block) else table


def _has_inexact(block: bytes) -> bool:
    digits = block.translate(_ALIKE)  # one expression for all of them takes six times as long as Arrow's reading
    return any(mark in digits for mark in _INEXACT) or _MINUS_ZERO.search(block) is not None


def _by_arrow(block: bytes, schema: pa.Schema | None) -> pa.Table:
    options = pj.ReadOptions(use_threads=False, block_size=len(block))
    try:
        return pj.read_json(pa.BufferReader(block), options, pj.ParseOptions(explicit_schema=schema))
    except pa.ArrowInvalid:
        if schema is None:
            raise
        return _by_arrow(block, None)


def _with_texts(kind: pa.DataType) -> pa.DataType:
    """The type with text in place of times, which Arrow sees in text."""
    if pa.types.is_list(kind):
        return pa.list_(_with_texts(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _with_texts(field.type)) for field in kind])
    return pa.string() if pa.types.is_temporal(kind) else kind


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
        raise FormatError(
            f"{str(path)!r} holds nothing that is a JSON object: it is one JSON {inner}. {HOW_ROWS_LOOK}"
        )
    if {"columns", "data"} <= set(value) and isinstance(value["data"], list) and not _are_objects(value["data"]):
        raise FormatError(_OF_COLUMNS.format(str(path)))
    lists = {name: rows for name, rows in value.items() if _are_objects(rows)}
    of_rows = {name: rows for name, rows in lists.items() if fitting(rows[0])}
    fmt = fitting(value)
    if not of_rows and fmt:
        sizes = {len(part) if isinstance(part, dict) or _are_texts(part) else 1 for part in value.values()}
        if all(isinstance(part, dict) for part in value.values()) or not (
            fmt.multi_turn or len(sizes) > 1 or 1 in sizes
        ):
            raise FormatError(_OF_COLUMNS.format(str(path)))
        return values
    if not of_rows and {".jsonl", ".ndjson"} & {suffix.lower() for suffix in path.suffixes}:
        return values
    lists = of_rows or {name: rows for name, rows in lists.items() if not any(key in rows[0] for key in ROLE_KEYS)}
    if len(lists) == 1:
        return next(iter(lists.values()))
    if not lists and not any(isinstance(part, dict) for part in value.values()):
        return values
    if len(value) > 1 and all(isinstance(part, dict) for part in value.values()):
        raise FormatError(
            f"{str(path)!r} is one JSON object that holds {len(value):,} objects by key ('{next(iter(value))}', "
            f"...). Write each to a line of its own: jq -c '.[]' {path.name} > rows.jsonl. {HOW_ROWS_LOOK}"
        )
    found = ", ".join(f"{name} ({len(value[name])} rows)" for name in lists) or f"the keys {', '.join(value)}"
    what = "several lists of rows" if lists else "no list of rows"
    raise FormatError(
        f"{str(path)!r} is one JSON object with {what}: {found}. Write each list to its own file. {HOW_ROWS_LOOK}"
    )


_OF_COLUMNS = (
    "{!r} is one JSON object of columns, not of rows; in pandas: to_json(path, orient='records', lines=True). "
    + HOW_ROWS_LOOK.replace("{", "{{").replace("}", "}}")
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
        return {without_null(_escaped(k)): _escaped(v, levels - 1) for k, v in value.items()}
    return value
