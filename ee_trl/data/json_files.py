"""Reads JSON files: values stay as written, and a broken line loses only itself.

The `datasets` library turns text that looks like a date into a date and drops lone surrogates, and a single line that
is not JSON makes it refuse the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..errors import FormatError
from .dialogue import has_lone_surrogates
from .formats import ROLE_KEYS, fitting
from .tables import BATCH_ROWS
from .text_files import HOW_ROWS_LOOK, SOURCE_LINE, Part, TypeChanged, open_text, read_files, without_null


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
            raise TypeChanged from None


def _can_be_written(kind: pa.DataType) -> bool:
    """Whether files can store the type: parquet refuses structs without fields, Arrow very deep nesting."""
    level = [kind]
    for _ in range(_DEEPEST_TYPE):
        if any(pa.types.is_struct(inner) and not inner.num_fields for inner in level):
            return False
        level = [outer.field(i).type for outer in level for i in range(outer.num_fields)]
    return not level


def _json_parts(path: Path, encoding: str | None) -> Iterator[Part]:
    with open_text(path, encoding, errors="surrogateescape") as lines:
        found = _json_rows(path, lines)
        while batch := list(islice(found, BATCH_ROWS)):
            names = dict.fromkeys(name for row, _ in batch for name in row)
            columns = {name: [row.get(name) for row, _ in batch] for name in names}
            yield columns, [reason for _, reason in batch]


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
