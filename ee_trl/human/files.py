"""Sheets as files: CSV for spreadsheets, a self-contained HTML form, and the key; and answers read back."""

from __future__ import annotations

import csv
import io
import json
import os
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..errors import EmpathyError, FormatError, unknown
from ..files import write_json, write_text
from .sheets import AB, ASPECTS, CHOICES, RATED, SCALE, Key, Sheet


KEY_FILE = "key.json"
ENDINGS = (".csv", ".html")  # of a sheet's files
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a cell begins that a spreadsheet would compute


@dataclass(frozen=True)
class Answers:
    """
    What one rater answered.

    Args:
        source (`str`): The file.
        sheet (`str`): Which sheet it is of.
        given (`dict[str, dict[str, str]]`): Item -> aspect -> answer; without those that were left open.
    """

    source: str
    sheet: str
    given: dict[str, dict[str, str]]


# ---- out -----------------------------------------------------------------------------------------------------------


def write_sheets(folder: str | os.PathLike[str], sheets: Sequence[Sheet], key: Key) -> list[Path]:
    """
    Writes every sheet as CSV and HTML, and the key; gives the sheets' files. Sheets of the study that was there go.

    Raises:
        [`FormatError`]: What is there as the key is none.
    """
    folder = Path(folder)
    before = read_key(folder).sheets if (folder / KEY_FILE).exists() else {}
    paths = []
    for sheet in sheets:
        for ending, text in zip(ENDINGS, (sheet_csv(sheet), sheet_html(sheet)), strict=True):
            path = folder / f"{sheet.name}{ending}"
            write_text(path, text)
            paths.append(path)
    write_json(folder / KEY_FILE, key.to_dict())
    for name in set(before) - {sheet.name for sheet in sheets}:
        for ending in ENDINGS:
            (folder / f"{Path(name).name}{ending}").unlink(missing_ok=True)
    return paths


def sheet_csv(sheet: Sheet) -> str:
    """A sheet as CSV, an item a row, with an empty column for each aspect; no cell is a formula to a spreadsheet."""
    out = io.StringIO()
    out.write("\ufeff")  # what makes spreadsheets read UTF-8
    writer = csv.writer(out, lineterminator="\r\n")
    replies = ("reply_A", "reply_B") if sheet.kind == AB else ("reply",)
    writer.writerow(["study", "sheet", "item", "dialogue", *replies, *sheet.aspects])
    for item in sheet.items:
        said = "\n".join(f"{role}: {text}" for role, text in item.context)
        texts = [_cell(text) for text in (said, *item.replies)]
        writer.writerow([sheet.study, sheet.name, item.id, *texts, *("" for _ in sheet.aspects)])
    return out.getvalue()


def _cell(text: str) -> str:
    """Text that a spreadsheet takes for text."""
    clean = "".join(c for c in text if c in "\n\t" or c.isprintable() or not c.isascii())
    return f"'{clean}" if clean.startswith(_FORMULA) else clean


def sheet_html(sheet: Sheet) -> str:
    """
    A sheet as one HTML page that keeps its answers in the browser while it is filled in, and saves them to a file.

    Nothing in the dialogues can become markup: all text is escaped, and only the page's own script may run.

    Raises:
        [`MissingExtraError`]: jinja2 is not installed.
    """
    from importlib.resources import files

    from ..evaluation.report import render

    script = files("ee_trl").joinpath("assets/templates/human.js").read_text(encoding="utf-8")
    digest = b64encode(sha256(script.encode()).digest()).decode()
    asked = ASPECTS if sheet.kind == AB else RATED
    return render(
        "human.html",
        extra="human",
        sheet=sheet,
        questions={aspect: asked[aspect] for aspect in sheet.aspects},
        choices=CHOICES[sheet.kind],
        labels=("A", "B") if sheet.kind == AB else ("Reply",),
        scale="" if sheet.kind == AB else SCALE,
        digest=digest,
        script=Script(script),
    )


class Script(str):
    """Text of this package that goes into a page as it is."""

    def __html__(self) -> str:
        return str(self)


# ---- in ------------------------------------------------------------------------------------------------------------


def read_key(path: str | os.PathLike[str]) -> Key:
    """
    The [`Key`] that `ee-trl human export` wrote.

    Raises:
        [`FormatError`]: It is not there, or something else.
    """
    path = Path(path)
    path = path / KEY_FILE if path.is_dir() else path
    if not path.is_file():
        raise FormatError(f"no such file: {str(path)!r}; `ee-trl human export` writes it as {KEY_FILE}")
    try:
        return Key(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise FormatError(f"{str(path)!r} is not a key of `ee-trl human export`: {error}") from error


def read_answers(path: str | os.PathLike[str], key: Key) -> Answers:
    """
    Reads a filled-in CSV sheet (comma, semicolon or tab) or the JSON that the HTML form saved.

    Raises:
        [`FormatError`]: It is of another study, of a sheet or item that the key does not know, has an item twice, or
            an answer that is none of the valid ones; the message says where.
    """
    path = Path(path)
    if not path.is_file():
        raise FormatError(f"no such file: {str(path)!r} (in {os.getcwd()!r})")
    rows = _json_rows(path) if path.suffix.lower() == ".json" else _csv_rows(path)
    if not rows:
        raise FormatError(f"{str(path)!r} holds no answer")
    sheets = sorted({str(row.get("sheet")) for row in rows})
    for row in rows:
        if row.get("study") != key.study:
            raise FormatError(
                f"{str(path)!r} is of study {row.get('study')!r}, the key of study {key.study!r}; give the answers "
                "and the key of one study"
            )
    if len(sheets) != 1:
        raise FormatError(f"{str(path)!r} holds answers of several sheets: {', '.join(sheets)}; one file a rater")
    if sheets[0] not in key.sheets:
        raise FormatError(f"{str(path)!r}: {unknown('sheet', sheets[0], key.sheets)}")
    given: dict[str, dict[str, str]] = {}
    for number, row in enumerate(rows, start=1):
        item = str(row.get("item"))
        if item not in key.sheets[sheets[0]]:
            raise FormatError(f"{str(path)!r}, row {number}: {sheets[0]} has no item {item!r}")
        if item in given:
            raise FormatError(f"{str(path)!r}, row {number}: item {item!r} is there twice")
        given[item] = _answers_of(row, key, f"{str(path)!r}, item {item}")
    return Answers(str(path), sheets[0], given)


def _answers_of(row: dict[str, Any], key: Key, where: str) -> dict[str, str]:
    found = {}
    valid = {choice.lower(): choice for choice in CHOICES[key.kind]}
    for aspect in key.aspects:
        if aspect not in row:
            raise FormatError(f"{where}: there is no column {aspect!r}; it has {', '.join(map(str, row))}")
        text = str(row[aspect] if row[aspect] is not None else "").strip().lower().removesuffix(".0")
        if not text:
            continue
        if text not in valid:
            raise FormatError(f"{where}: {aspect} is {row[aspect]!r}; valid: {', '.join(valid.values())}, or empty")
        found[aspect] = valid[text]
    return found


def _json_rows(path: Path) -> list[dict[str, Any]]:
    try:
        whole = json.loads(path.read_text(encoding="utf-8-sig"))
        return [
            {"study": whole["study"], "sheet": whole["sheet"], "item": item, **dict.fromkeys(whole["aspects"]), **said}
            for item, said in whole["answers"].items()
        ]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FormatError(f"{str(path)!r} is not what the form saves ({type(error).__name__}: {error})") from error


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(f"{str(path)!r} is not text in UTF-8 ({error}); save it as CSV UTF-8") from error
    head = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=head.count)
    rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter))
    for name in ("study", "sheet", "item"):
        if rows and name not in rows[0]:
            raise FormatError(
                f"{str(path)!r} has no column {name!r}; it must be a filled-in sheet, with all its columns"
            )
    return [row for row in rows if any(value for value in row.values() if isinstance(value, str))]


def check_folder(folder: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Raises [`EmpathyError`] where a study is in the folder already."""
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise EmpathyError(f"{str(folder)!r} is a file; name a folder")
    if (path / KEY_FILE).exists() and not overwrite:
        raise EmpathyError(f"{str(path / KEY_FILE)!r} is there already; give another folder, or --overwrite")
    return path
