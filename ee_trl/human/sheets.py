"""The sheets of a study: blinded sheets for raters, the key that undoes the blinding, and the answers read back."""

from __future__ import annotations

import csv
import io
import json
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..data.dialogue import Turns
from ..data.text_files import other_encoding
from ..display import csv_text
from ..errors import EmpathyError, FormatError, check_choice, check_count, require, unknown
from ..evaluation.candidates import candidates_of, read_replies
from ..evaluation.eval_set import read_eval_set
from ..evaluation.report import render
from ..files import check_free, digest, read_json, write_json, write_text
from ..reports.explorer import script_hash


AB, RATING = "ab", "rating"
KINDS = (AB, RATING)
ASPECTS = {
    "empathy": "Which reply better understands what the speaker feels, and shows more care?",
    "coherence": "Which reply fits better with what was said before?",
    "informativeness": "Which reply is more useful, or moves the conversation forward more?",
    "continuity": "Which reply makes you want to continue the conversation more?",
}  # aspect -> the question to a rater of two replies
RATED = {
    "empathy": "Does the reply understand what the speaker feels, and show care?",
    "coherence": "Does the reply fit with what was said before?",
    "informativeness": "Does the reply say something useful, or move the conversation forward?",
    "continuity": "Does the reply make you want to continue the conversation?",
}  # aspect -> the question to a rater of one reply
CHOICES = {AB: ("A", "B", "tie"), RATING: ("1", "2", "3", "4", "5")}
SCALE = "1: not at all, 2: a little, 3: somewhat, 4: well, 5: very well"
KEY_FILE = "key.json"
REFERENCES = "references"
ROLES = {"user": "Speaker", "assistant": "Listener"}
ENDINGS = (".csv", ".html")  # of a sheet's files


@dataclass(frozen=True)
class Item:
    """One question of a sheet."""

    id: str  # the sheet and the place on it, e.g. `2-017`
    dialogue: int  # its number in the evaluation set
    context: list[list[str]]  # role and text of each turn
    replies: list[str]  # A and B, or one


@dataclass(frozen=True)
class Sheet:
    """The questions to one rater, in order."""

    name: str
    study: str
    kind: str
    aspects: list[str]
    items: list[Item]


@dataclass(frozen=True)
class Key:
    """The key that undoes the blinding; raters must not see it."""

    study: str  # a digest of all that the study was made of; sheets and answers carry it
    kind: str
    aspects: list[str]
    candidates: list[str]
    sheets: dict[str, dict[str, dict[str, Any]]]  # sheet -> item -> `dialogue` and `shown`, the candidates by place


@dataclass(frozen=True)
class Answers:
    """The answers of one rater."""

    source: str  # the file
    sheet: str
    given: dict[str, dict[str, str]]  # item -> aspect -> answer; questions left open are not in it


def export_study(
    dataset: Any,
    predictions: Mapping[str, Any] | Sequence[str],
    folder: Path,
    *,
    references: bool = False,
    kind: str = AB,
    aspects: Sequence[str],
    n: int = 50,
    raters: int = 3,
    limit: int | None = None,
    turns: Turns = "each",
    seed: int = 0,
    **reading: Any,
) -> list[Path]:
    """
    Writes the sheets and the key of a study, and gives the sheets' files; see [`make_sheets`] for its options.

    `n` dialogues are drawn; for A/B only those with two different replies. `references` makes the
    reference replies a candidate. `reading` and the other options are those of [`~ee_trl.evaluation.read_eval_set`].
    """
    require("jinja2", extra="human", purpose="the sheets' HTML forms")
    eval_set = read_eval_set(dataset, limit=limit, turns=turns, **reading)
    replies = {}
    if predictions or not references:
        for candidate in candidates_of(predictions=predictions):
            if references and candidate.name == REFERENCES:
                raise EmpathyError(
                    f"a file of replies is called {REFERENCES!r}, as the reference replies are; give it another name: "
                    f"other={candidate.source}"
                )
            replies[candidate.name] = read_replies(candidate.source, eval_set, candidate.name).texts
    if references:
        replies[REFERENCES] = eval_set.references
    chosen = _drawn(kind, replies, len(eval_set), n, seed)
    contexts = [
        [[ROLES[role], text] for role, text in zip(d.roles, d.context, strict=True)] for d in eval_set.dialogues
    ]
    options: dict[str, Any] = {"kind": kind, "aspects": aspects, "raters": raters, "seed": seed}
    return write_sheets(folder, *make_sheets(contexts, replies, dialogues=chosen, **options))


def _drawn(kind: str, replies: Mapping[str, Sequence[str]], dialogues: int, n: int, seed: int) -> list[int]:
    """The numbers of `n` dialogues, ascending."""
    there = list(range(dialogues))
    if kind == AB and len(replies) == 2:
        first, second = replies.values()
        there = [i for i in there if first[i].strip() != second[i].strip()]
    if not there:
        raise EmpathyError(
            f"there is nothing to rate: {' and '.join(replies)} reply the same to all {dialogues:,} dialogues"
        )
    if not 1 <= n <= len(there):
        what = "to which the candidates reply differently" if kind == AB else "in the data set"
        raise EmpathyError(f"n {n} is not valid; valid: 1 to {len(there):,}, the dialogues {what}")
    return sorted(random.Random(f"dialogues {seed}").sample(there, n))


def make_sheets(
    contexts: Sequence[Sequence[Sequence[str]]],
    replies: Mapping[str, Sequence[str]],
    *,
    kind: str = AB,
    aspects: Sequence[str] = tuple(ASPECTS),
    raters: int = 3,
    dialogues: Sequence[int] | None = None,
    seed: int = 0,
) -> tuple[list[Sheet], Key]:
    """
    A sheet for each rater, and the [`Key`]. All raters judge the same dialogues, each in a different order.

    Which candidate is A is drawn for each rater and dialogue, so that each is A in half of a sheet's items (one more
    where their number is odd). On rating sheets every reply is an item, and all are in one random order.
    """
    names = list(replies)
    chosen = list(range(len(contexts))) if dialogues is None else list(dialogues)
    _check(kind, aspects, names, raters, chosen)
    draw = random.Random(f"{seed}")
    made_of = (seed, kind, list(aspects), raters, names, contexts, [replies[name] for name in names], chosen)
    study = digest(json.dumps(made_of, default=list))
    sheets, keys = [], {}
    for rater in range(1, raters + 1):
        shown = _sides(chosen, names, draw) if kind == AB else [(i, [name]) for i in chosen for name in names]
        draw.shuffle(shown)
        items, key = [], {}
        for place, (dialogue, order) in enumerate(shown, start=1):
            item = f"{rater}-{place:03d}"
            texts = [replies[name][dialogue] for name in order]
            items.append(Item(item, dialogue, [list(turn) for turn in contexts[dialogue]], texts))
            key[item] = {"dialogue": dialogue, "shown": order}
        sheets.append(Sheet(f"sheet-{rater}", study, kind, list(aspects), items))
        keys[f"sheet-{rater}"] = key
    return sheets, Key(study, kind, list(aspects), names, keys)


def _sides(chosen: Sequence[int], names: list[str], draw: random.Random) -> list[tuple[int, list[str]]]:
    """For each dialogue the two names by place, each first in half of them."""
    first = [i % 2 for i in range(len(chosen))]
    draw.shuffle(first)
    flip = draw.random() < 0.5  # says who is A once more where the number is odd
    return [(i, names[::-1] if side == flip else list(names)) for i, side in zip(chosen, first, strict=True)]


def _check(kind: str, aspects: Sequence[str], names: Sequence[str], raters: int, chosen: Sequence[int]) -> None:
    check_choice("kind of sheet", kind, KINDS)
    if not aspects:
        raise EmpathyError(f"no aspect is asked about; valid: {', '.join(ASPECTS)}")
    for aspect in aspects:
        check_choice("aspect", aspect, ASPECTS)
    if kind == AB and len(names) != 2:
        raise EmpathyError(f"an A/B sheet compares two candidates, got {len(names)}: {', '.join(names) or 'none'}")
    if not names:
        raise EmpathyError("a rating sheet needs at least one candidate")
    check_count("raters", raters)
    if not chosen:
        raise EmpathyError("there is no dialogue to judge")


def write_sheets(folder: str | os.PathLike[str], sheets: Sequence[Sheet], key: Key) -> list[Path]:
    """Writes every sheet as CSV and HTML, and the key, and removes the other sheets of an earlier key."""
    folder = Path(folder)
    before = read_key(folder).sheets if (folder / KEY_FILE).exists() else {}
    (folder / KEY_FILE).unlink(missing_ok=True)  # an old key with new sheets would mix up the candidates
    paths = []
    for sheet in sheets:
        for ending, text in zip(ENDINGS, (sheet_csv(sheet), sheet_html(sheet)), strict=True):
            path = folder / f"{sheet.name}{ending}"
            write_text(path, text)
            paths.append(path)
    write_json(folder / KEY_FILE, asdict(key))
    for name in set(before) - {sheet.name for sheet in sheets}:
        for ending in ENDINGS:
            (folder / f"{Path(name).name}{ending}").unlink(missing_ok=True)
    return paths


def sheet_csv(sheet: Sheet) -> str:
    """A sheet as CSV, one row per item, with an empty column for each aspect; no cell can act as a formula."""
    out = io.StringIO()
    out.write("\ufeff")  # so that spreadsheets read UTF-8
    writer = csv.writer(out, lineterminator="\r\n")
    replies = ("reply_A", "reply_B") if sheet.kind == AB else ("reply",)
    writer.writerow(["study", "sheet", "item", "dialogue", *replies, *sheet.aspects])
    for item in sheet.items:
        said = "\n".join(f"{role}: {text}" for role, text in item.context)
        texts = [csv_text(text) for text in (said, *item.replies)]
        writer.writerow([sheet.study, sheet.name, item.id, *texts, *("" for _ in sheet.aspects)])
    return out.getvalue()


def sheet_html(sheet: Sheet) -> str:
    """
    A sheet as one HTML page that keeps its answers in the browser while it is filled in, and saves them to a file.

    No text of the dialogues can become markup: all text is escaped, and only the page's own script may run.
    """
    script = files("ee_trl").joinpath("assets/templates/human.js").read_text(encoding="utf-8")
    ab = sheet.kind == AB
    return render(
        "human.html",
        extra="human",
        sheet=sheet,
        questions={aspect: (ASPECTS if ab else RATED)[aspect] for aspect in sheet.aspects},
        choices=CHOICES[sheet.kind],
        labels=("A", "B") if ab else ("Reply",),
        scale="" if ab else SCALE,
        script_hash=script_hash(script),
        script=script,
    )


def check_folder(folder: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Raises [`EmpathyError`] if the folder holds a study that may not be replaced."""
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise EmpathyError(f"{str(folder)!r} is a file; name a folder")
    check_free(path / KEY_FILE, overwrite=overwrite)
    return path


def read_key(path: str | os.PathLike[str]) -> Key:
    """The [`Key`] that `ee-trl human export` wrote."""
    path = Path(path)
    path = path / KEY_FILE if path.is_dir() else path
    if not path.is_file():
        raise FormatError(f"no such file: {str(path)!r}; `ee-trl human export` writes it as {KEY_FILE}")
    try:
        key = Key(**read_json(path))
        entries = [entry for sheet in key.sheets.values() for entry in sheet.values()]
        fine = isinstance(key.study, str) and key.kind in KINDS and set(key.aspects) <= ASPECTS.keys()
        fine &= isinstance(key.aspects, list) and isinstance(key.candidates, list)
        for entry in entries:
            fine &= isinstance(entry["dialogue"], int) and set(entry["shown"]) <= set(key.candidates)
            fine &= len(entry["shown"]) == (2 if key.kind == AB else 1)
        if not fine:
            raise ValueError("it names a kind, aspect, dialogue or candidate that no study has")
        return key
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FormatError(f"{str(path)!r} is not a key of `ee-trl human export`: {error}") from error


def read_answers(path: str | os.PathLike[str], key: Key) -> Answers:
    """Reads a filled-in CSV sheet (comma, semicolon or tab) or the JSON that the HTML form saved."""
    path = Path(path)
    name = repr(str(path))
    if not path.is_file():
        raise FormatError(f"no such file: {name} (in {os.getcwd()!r})")
    rows = _json_rows(path) if path.suffix.lower() == ".json" else _csv_rows(path)
    if not rows:
        raise FormatError(f"{name} holds no answer")
    for row in rows:
        if row.get("study") != key.study:
            raise FormatError(
                f"{name} is of study {row.get('study')!r}, the key of study {key.study!r}; give the answers and the "
                "key of one study"
            )
    sheet, *others = sorted({str(row.get("sheet")) for row in rows})
    if others:
        raise FormatError(f"{name} holds answers of several sheets: {', '.join([sheet, *others])}; one file a rater")
    if sheet not in key.sheets:
        raise FormatError(f"{name}: {unknown('sheet', sheet, key.sheets)}")
    given: dict[str, dict[str, str]] = {}
    for number, row in enumerate(rows, start=1):
        item = str(row.get("item"))
        if item not in key.sheets[sheet]:
            raise FormatError(f"{name}, row {number}: {sheet} has no item {item!r}")
        if item in given:
            raise FormatError(f"{name}, row {number}: item {item!r} is there twice")
        given[item] = _answers_of(row, key, f"{name}, item {item}")
    return Answers(str(path), sheet, given)


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
        raise FormatError(f"{other_encoding(path, option=False)}, or save it as CSV UTF-8") from error
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # a dialogue may be longer than Python's limit
    delimiter = max(",;\t", key=text.split("\n", 1)[0].count)
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise FormatError(f"{str(path)!r} cannot be read as CSV ({error}); save the sheet again as CSV") from error
    for name in ("study", "sheet", "item"):
        if rows and name not in rows[0]:
            raise FormatError(
                f"{str(path)!r} has no column {name!r}; it must be a filled-in sheet, with all its columns"
            )
    return [row for row in rows if any(value for value in row.values() if isinstance(value, str))]
