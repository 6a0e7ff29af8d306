"""Reads CSV files: values stay as written, and a broken line loses only itself.

The `datasets` library guesses types by the chunk: it turns `007` into 7 and a whole number beside an empty field into
a float, and it refuses a file whose numbers turn into words late. Here Arrow splits the blocks of lines that are
written by the rules, all fields as text.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as pv

from ..axes import AXES
from ..errors import FormatError
from .dialogue import SOURCE_ERROR
from .formats import FORMATS, OTHER_COLUMNS, SYSTEM_COLUMNS
from .tables import BATCH_ROWS
from .text_files import BLOCK, SMALL, SOURCE_LINE, Part, Values, blocks_of, open_text, pieces, read_files, without_null


if TYPE_CHECKING:
    from datasets import Dataset

_LONGEST_FIELD = 1 << 30


def read_csv(paths: list[Path], separator: str = ",", encoding: str | None = None) -> Dataset:
    """
    The rows of CSV files; the first line of a file names the columns.

    An empty field is null. A column is `int64`, `float64` or `bool` if every field is written as Python writes such a
    value (scores and turn numbers: if every field is a number), and text otherwise. EmpatheticDialogues as published,
    where a field ends at every comma and quotes are text, is read as it is meant. Raises [`FormatError`] if a file has
    no row, is not in this `encoding` (UTF-8 by default), or ends within a quoted field.
    """
    return read_files(paths, partial(_csv_parts, separator=separator, encoding=encoding), _CsvColumn, encoding)


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

    def add(self, texts: Values) -> None:
        if isinstance(texts, pa.ChunkedArray):
            self.add(texts[:100].to_pylist())
            if self._kinds == [_INT, *([_NUMBER] * (_NUMBER in self._kinds)), _TEXT] and _are_whole(texts):
                self._filled |= texts.null_count < len(texts)
                return
        if self._filled and self._kinds == [_TEXT]:
            return
        fields = {*(texts.unique().to_pylist() if isinstance(texts, pa.ChunkedArray) else texts)} - {None}
        self._kinds = [kind for kind in self._kinds if all(map(kind.fits, fields))]
        self._filled |= bool(fields)

    def feature(self) -> Any:
        from datasets import Value

        return Value(self._kind.type)

    def array(self, texts: Values) -> pa.Array | pa.ChunkedArray:
        if isinstance(texts, pa.ChunkedArray):
            if self._kind in (_TEXT, _INT):
                return texts.cast(self.feature().pa_type)
            texts = texts.to_pylist()
        convert = self._kind.convert
        return pa.array([None if text is None else convert(text) for text in texts], self.feature().pa_type)

    @property
    def _kind(self) -> _Kind:
        if self._filled:
            return self._kinds[0]
        return _NUMBER if _NUMBER in self._kinds else _TEXT


def _are_whole(texts: pa.ChunkedArray) -> bool:
    """Whether all fields are written as Python writes whole numbers."""
    try:
        return texts.cast(pa.int64()).cast(pa.string()).equals(texts)
    except pa.ArrowInvalid:
        return False


def _csv_parts(path: Path, separator: str, encoding: str | None, arrow: bool = True) -> Iterator[Part]:
    with open_text(path, encoding, newline="", errors="strict") as lines:
        published = _is_published(path, encoding)
        source = _Source(blocks_of(path, encoding) if arrow and not published else iter([]))
        if source.fill():
            lines = source.lines()
        records = _split_at_commas(lines) if published else _csv_records(path, lines, separator)
        names = _csv_names(path, next(records, ([], ""))[0])
        while True:
            for table in source.tables(names, separator):
                yield dict(zip(names, table.columns, strict=True)), [None] * table.num_rows
            number = source.number
            while batch := list(islice(records, BATCH_ROWS)):
                yield _csv_part(names, batch, published)
                if source.number > number:
                    break
            else:
                return


def _csv_part(names: list[str], batch: list[tuple[list[str], str]], published: bool) -> Part:
    """The columns of some records; those with too many fields are kept as a line."""
    blank = [""] * len(names)
    if published:
        for fields, _ in batch:
            del fields[len(names) : len(names) + 1]  # the candidates
    broken = [line if any(fields[len(names) :]) else None for fields, line in batch]
    given = zip((fields for fields, _ in batch), broken, strict=True)
    rows = [blank if line else (fields + blank)[: len(names)] for fields, line in given]
    columns: dict[str, Values] = {
        name: [text or None for text in column] for name, *column in zip(names, *rows, strict=True)
    }
    if any(broken):
        columns[SOURCE_LINE] = broken
    return columns, ["too_many_fields" if line else None for line in broken]


class _Source:
    """A file as lines for our reader, and as tables for as long as Arrow splits a block as our reader does."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._text = io.StringIO()  # the lines that are being read
        self.number = 0  # how often lines were taken

    def fill(self) -> bool:
        """Takes the next lines, if there are any."""
        block = next(self._blocks, b"")
        end = block.find(b"\n", SMALL) + 1 or len(block)
        self._blocks = chain([block[end:]], self._blocks) if end < len(block) else self._blocks
        self._text, self.number = io.StringIO(block[:end].decode(), newline=""), self.number + 1
        return bool(block)

    def lines(self) -> Iterator[str]:
        """The lines of this block and of those after it."""
        while True:
            if line := self._text.readline():
                yield line
            elif not self.fill():
                return

    def tables(self, names: list[str], separator: str) -> Iterator[pa.Table]:
        """The rest of this block and those after it; ends before a block that our reader must read."""
        block = self._text.read().encode()
        while block or (block := next(self._blocks, b"")):
            parts = block.split(b'"')
            if len(parts) % 2 == 0 and len(block) < 4 * BLOCK and (more := next(self._blocks, b"")):
                block += more  # it ends within a quoted field
            elif (table := _arrow_table(block, parts, names, separator)) is not None:
                yield table
                block = b""
            elif len(smaller := pieces(block, b'"')) > 1:
                self._blocks, block = chain(smaller, self._blocks), b""
            else:
                break
        self._text = io.StringIO(block.decode(), newline="")


def _arrow_table(block: bytes, parts: list[bytes], names: list[str], separator: str) -> pa.Table | None:
    """Records as Arrow splits them; `None` if our reader would split them in another way. Quotes part the `parts`."""
    before, *others = parts[::2]  # what is outside of quotes; nothing where two quotes stand for one
    ends = separator.encode() + b"\n"
    inner, after = others[:-1], others[-1] if others else b""
    if (
        len(parts) % 2 == 0
        or (others and before and before[-1] not in ends)
        or (after and after[0] not in ends + b"\r")
        or any(part and (part[0] not in ends + b"\r" or part[-1] not in ends) for part in inner)
        or (len(names) < 2 or b"\0" in block)
        or (b"\r" in block and block.count(b"\r") != block.count(b"\r\n"))
    ):
        return None
    try:
        return pv.read_csv(
            pa.BufferReader(block),
            pv.ReadOptions(use_threads=False, block_size=len(block), column_names=names),
            pv.ParseOptions(delimiter=separator, newlines_in_values=True),
            pv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), null_values=[""], strings_can_be_null=True
            ),
        )
    except pa.ArrowException:
        return None


_PUBLISHED = "conv_id,utterance_idx,context,prompt,speaker_idx,utterance,selfeval,tags"
"""The header of EmpatheticDialogues. There a field ends at every comma, quotes are text, commas are `_comma_`, and
lines of the validation and test files have a ninth field, without a name, that holds candidates for the reply."""


def _is_published(path: Path, encoding: str | None) -> bool:
    """Whether a file is EmpatheticDialogues as published, and not written anew by a program that sets quotes."""
    width = _PUBLISHED.count(",") + 1
    with open_text(path, encoding, newline="") as lines:
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
    for i, given in enumerate(without_null(field.removeprefix("\ufeff")) for field in fields):
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
