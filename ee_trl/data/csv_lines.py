"""CSV files, field by field: every value as it stands, and a line of too many fields costs that line alone.

The `datasets` library guesses types by the chunk: `007` becomes 7, a whole number beside an empty field a float, and a
file whose numbers turn into words late is refused. Here a column is of numbers only where all of them can be written
back as they are.
"""

from __future__ import annotations

import csv
import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..axes import AXES
from ..errors import FormatError
from .dialogue import SOURCE_ERROR
from .formats import FORMATS
from .json_lines import opened_text


if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

logger = logging.getLogger(__name__)

SOURCE_LINE = "source_line"
_REASON = "too_many_fields"
_BATCH_ROWS = 1_000
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
    import pyarrow as pa
    from datasets import Dataset

    columns = _Columns()
    for path in paths:
        _look_through(path, separator, columns)
    schema = pa.schema([(name, _type(name, columns)) for name in columns.possible])
    target = folder / "rows.arrow"
    with pa.OSFile(str(target), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for path in paths:
            for rows, batch in _batches(path, separator):
                arrays = [_array(batch.get(name) or [None] * rows, schema.field(name).type) for name in schema.names]
                writer.write_table(pa.table(arrays, schema=schema))
    return Dataset.from_file(str(target))


def _type(name: str, columns: _Columns) -> pa.DataType:
    import pyarrow as pa

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
    for number, batch in _batches(path, separator):
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


def _array(texts: Texts, kind: pa.DataType) -> pa.Array:
    import pyarrow as pa

    if pa.types.is_string(kind):
        return pa.array(texts, kind)
    convert: Any = int if pa.types.is_integer(kind) else float if pa.types.is_floating(kind) else "True".__eq__
    return pa.array([None if text is None else convert(text) for text in texts], kind)


def _batches(path: Path, separator: str) -> Iterator[tuple[int, dict[str, Texts]]]:
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
