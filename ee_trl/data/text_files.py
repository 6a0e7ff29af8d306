"""Text files of rows, of any encoding and compression; read again only if a column needs another type than at first.

A file is never held in memory. What a row is, and which types its values may have, the reader of the file's format
says ([`~ee_trl.data.csv_files`], [`~ee_trl.data.json_files`]). Both give a block of lines to Arrow, which is many
times faster, where Arrow reads it as they do.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import logging
import lzma
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa

from ..display import shortened
from ..errors import FormatError
from .dialogue import SOURCE_ERROR, has_lone_surrogates
from .tables import to_dataset


if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

HOW_ROWS_LOOK = (
    "A file of rows is a list of objects, or has one object a line, e.g. "
    '{"context": ["I lost my job."], "response": "I am sorry."}'
)
COMPRESSED = (".gz", ".zst", ".xz", ".bz2")
SOURCE_LINE = "source_line"
"""Column that holds a broken line as it stands in the file."""

BLOCK, SMALL = 8 << 20, 32 << 10
"""About how many bytes of a file Arrow is given at once; how many our reader is given where Arrow does not fit."""

Values: TypeAlias = "list[Any] | pa.ChunkedArray"
Part = tuple[dict[str, Values], list[str | None]]
"""Columns of some rows, and for each row the reason why it cannot be read as it is, if any."""


class TypeChanged(Exception):
    """A column needs another type than its values had so far; the rows must be written again."""


class ValuesNeeded(Exception):
    """A column needs its values as the file has them, and not as Arrow read them."""


def read_files(
    paths: list[Path],
    parts: Callable[..., Iterator[Part]],
    new_column: Callable[[str], Any],
    encoding: str | None,
) -> Dataset:
    """
    The rows of text files, one file after the other, with the reasons of bad rows in `source_error`.

    Args:
        paths (`list[Path]`): The files.
        parts (`Callable`): Reads a file, some rows at a time; with `arrow=False` without Arrow.
        new_column (`Callable`):
            Makes a column of this name. Its `add(values)` narrows its type down; then `feature()` is the type, and
            `array(values)` the values in it, which may raise [`TypeChanged`] once, or [`ValuesNeeded`].
        encoding (`str`, *optional*, defaults to UTF-8): Of the files.
    """
    try:
        return _read(paths, parts, new_column, encoding)
    except ValuesNeeded:
        return _read(paths, partial(parts, arrow=False), new_column, encoding)


def _read(
    paths: list[Path], parts: Callable[..., Iterator[Part]], new_column: Callable[[str], Any], encoding: str | None
) -> Dataset:
    from datasets import Features

    columns: dict[str, Any] = {}

    def features() -> Features:
        return Features({name: columns[name].feature() for name in sorted(columns, key=SOURCE_ERROR.__eq__)})

    def first_reading() -> Iterator[Part]:
        for path in paths:
            found: Counter[str | None] = Counter()
            _check_encoding(path, encoding)
            try:
                for values, reasons in _with_reasons(parts(path)):
                    found.update(reasons)
                    for name, part in values.items():
                        columns.setdefault(name, new_column(name)).add(part)
                    yield values, reasons
            except UnicodeError as error:
                raise FormatError(other_encoding(path, encoding)) from error
            _check_found(path, found, encoding)

    def tables(parts: Iterable[Part], types: Features) -> Iterator[pa.Table]:
        for values, reasons in parts:
            if features() != types:
                raise TypeChanged
            nothing = [None] * len(reasons)
            arrays = [columns[name].array(values.get(name, nothing)) for name in types]
            yield pa.table(arrays, schema=types.arrow_schema)

    reading = first_reading()
    given: Iterable[Part] = chain([next(reading)], reading)  # a file without rows is an error
    while True:
        types = features()
        try:
            return to_dataset(tables(given, types), types)
        except TypeChanged:
            for _ in reading:  # the types of all the other rows
                pass
            given = _with_reasons(chain.from_iterable(map(parts, paths)))


def _with_reasons(parts: Iterator[Part]) -> Iterator[Part]:
    for values, reasons in parts:
        if any(reasons):
            given = values.get(SOURCE_ERROR) or [None] * len(reasons)
            values[SOURCE_ERROR] = [reason or own for reason, own in zip(reasons, given, strict=True)]
        yield values, reasons


def _check_found(path: Path, found: Counter[str | None], encoding: str | None) -> None:
    rows, broken = found.total(), found["invalid_json"]
    if not rows:
        raise FormatError(f"{str(path)!r} is empty: it holds no row")
    damaged = bool(found["invalid_text"]) or broken == rows
    bad_lines, good_lines, lines = _undecodable(path, encoding) if damaged else (0, 0, 0)
    if bad_lines and not good_lines and (bad_lines > 1 or bad_lines == lines):
        raise FormatError(other_encoding(path, encoding))
    if broken == rows:
        raise FormatError(
            f"{str(path)!r} holds no row: none of its {rows:,} lines is a JSON object that has each key once. "
            f"{HOW_ROWS_LOOK}"
        )
    if bad := {reason: n for reason, n in found.items() if reason}:
        why = ", ".join(f"{reason}: {n:,}" for reason, n in bad.items())
        logger.warning("%s: some rows cannot be read as they are (%s); they are kept, but get no scores", path, why)
        if bad_lines:
            logger.warning("%s", other_encoding(path, encoding))


def _undecodable(path: Path, encoding: str | None) -> tuple[int, int, int]:
    """How many lines are not in the encoding, how many others hold more than ASCII, and how many there are."""
    bad = good = total = 0
    with open_text(path, encoding, errors="surrogateescape") as lines:
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
        raise FormatError(other_encoding(path, encoding))


_ENCODINGS = (
    *("utf_8", "utf_16", "utf_16_le", "utf_16_be", "utf_32", "cp1252", "gb18030", "cp932", "euc_jp", "euc_kr", "big5"),
)
_OTHER_ALPHABETS = ("cp1251", "koi8_r", "cp1253", "cp1255", "cp1256", "cp874")
"""Encodings of one byte a letter that fit any bytes; only a text with many bytes beyond ASCII can be in one."""


def other_encoding(path: Path, encoding: str | None = None, option: bool = True) -> str:
    """The message for a file that is not in the encoding: which one it looks like, and what to do (by an `option`)."""
    with _binary(path) as file:
        head = file.read(1 << 20)
    found = _guessed(head)
    name = found.replace("_", "-") if found else "NAME"
    looks = f"it looks like {name}" if found else "it looks like no common encoding"
    if found:
        lines = (line.strip() for line in head.decode(found, "replace").splitlines())
        line = next((line for line in lines if not line.isascii()), "")
        looks += f". In {name} its first line beyond ASCII is {shortened(line, 80)!r}" if line else ""
    given = f"Give --encoding {name} (in Python encoding={name!r}, in a recipe empathy_encoding), or convert the file"
    return (
        f"{str(path)!r} is not encoded in {encoding or 'UTF-8'}; {looks}. {given if option else 'Convert the file'}: "
        f"iconv -f {name} -t utf-8 {path.name} > utf8-{path.name}"
    )


def _guessed(head: bytes) -> str | None:
    """The encoding that bytes look like."""
    if head.count(0) * 2 > len(head):
        return "utf_32" if head[:4] in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE) else f"utf_32_{'bl'[head[0] > 0]}e"
    kana = sum(head.count(lead) for lead in (b"\xa4", b"\xa5"))  # of Japanese, in EUC-JP: half of all letters
    beyond = sum(byte > 127 for byte in head)
    if kana * 6 > beyond:
        with suppress(UnicodeDecodeError):
            return head.decode("euc_jp") and "euc_jp"
    try:  # it comes with the libraries that download data sets
        from charset_normalizer import from_bytes
    except ImportError:
        return None
    others = _OTHER_ALPHABETS if beyond > len(head) / 5 else ()
    found = from_bytes(head, cp_isolation=[*_ENCODINGS, *others]).best()
    return found.encoding if found else None


def open_text(path: Path, encoding: str | None, **options: Any) -> Any:
    """The lines of a text file, unpacked by its name; UTF-8 by default, with or without a byte order mark."""
    try:
        name = codecs.lookup(encoding or "utf-8").name
    except LookupError:
        raise FormatError(f"unknown encoding {encoding!r}; valid: e.g. utf-8, cp1252, gb18030, utf-16") from None
    return io.TextIOWrapper(_binary(path), encoding="utf-8-sig" if name == "utf-8" else name, **options)


def blocks_of(path: Path, encoding: str | None) -> Iterator[bytes]:
    """A file's bytes in blocks that end where a line ends, without a byte order mark; none if it is not in UTF-8."""
    if codecs.lookup(encoding or "utf-8").name != "utf-8":
        return
    with _binary(path) as file:
        held: list[bytes] = []
        mark = codecs.BOM_UTF8
        while more := file.read(BLOCK):
            end = more.rfind(b"\n") + 1
            held.append(more[:end] if end else more)
            if end:
                yield b"".join(held).removeprefix(mark)
                mark, held = b"", [more[end:]]
        if last := b"".join(held).removeprefix(mark):
            yield last


def pieces(block: bytes, quotes: bytes = b"") -> list[bytes]:
    """A block in up to 16 pieces that end where a line ends, each with an even number of `quotes`."""
    start, parts = 0, list[bytes]()
    while start < len(block):
        end = start + max(len(block) // 16, SMALL)
        while end := block.find(b"\n", end) + 1:
            if not quotes or block.count(quotes, start, end) % 2 == 0:
                break
        parts.append(block[start : end or len(block)])
        start = end or len(block)
    return parts


def _binary(path: Path) -> Any:
    """The bytes of a file, unpacked by its name."""
    suffix = path.suffix.lower()
    if suffix == ".zst":  # Python itself reads zstd only from 3.14 on
        return pa.input_stream(str(path), compression="zstd")
    openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    return openers.get(suffix, open)(path, "rb")


def without_null(name: str) -> str:
    """The name of a column or key without null characters, at which Arrow's names end."""
    return name.replace("\0", "\\x00")
