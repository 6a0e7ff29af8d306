"""The rubric: what a judge is asked, the form of its answer, and the strict parsers of that form.

The scoring prompt of Efficient-Empathy was never published, only the form of its answers. This rubric is the project's
own. It has a version, every report of a judge prints it, and a text file can replace it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ...axes import MAX_SCORE, MIN_SCORE, RATIONALITY, SENSIBILITY
from ...errors import ScorerError
from ...files import digest


RUBRIC = "rubric-1"
"""Name of the bundled rubric. When its text changes, the name changes too."""

ANSWER_HEADER = "Evaluation Form (scores ONLY):"
SLOTS = {SENSIBILITY: "- Sensibility:", RATIONALITY: "- Rationality:"}
"""How the line of each axis begins."""

_SCORE = r"(10|[0-9])"
_LINES = {
    axis: re.compile(
        rf"[ \t]*(?:[-*+\u2022][ \t]+[*_]{{0,3}}|[*_]{{2,3}}|#{{1,6}}[ \t]+[*_]{{0,3}}|\|[ \t]*[*_]{{0,3}}){name}"
        rf"[*_]{{0,3}}[ \t]*[:|][*_]{{0,3}}[ \t]*[*_]{{0,3}}{_SCORE}[*_]{{0,3}}[ \t\r]*\|?[ \t\r]*"
    )
    for axis, name in ((axis, slot.strip("- :")) for axis, slot in SLOTS.items())
}  # the slot, also in Markdown: bold, as a heading, or as the row of a table
_CLAIMS_AN_AXIS = re.compile(r"(sensibility|rationality)\W*[:=|]", re.IGNORECASE)
_AFTER_SLOT = re.compile(rf"[ \t]*{_SCORE}(?![\w.]|,\d|[ \t]*[/%]|[ \t]*[-\u2013][ \t]*\d)")


@dataclass(frozen=True)
class Rubric:
    """What a judge is asked."""

    name: str  # the bundled version, or the name of the user's file without its ending
    text: str  # the whole text, without white space at either end

    @property
    def fingerprint(self) -> str:
        """The name and 12 digits of a hash of the text: `rubric-1/sha256:4f1c0a9b2d3e`."""
        return f"{self.name}/sha256:{digest(self.text)}"


def load_rubric(path: str | os.PathLike[str] | None = None) -> Rubric:
    """
    Loads the bundled rubric, or a text file.

    Args:
        path (`str` or `os.PathLike`, *optional*):
            A text file in UTF-8 that replaces the bundled rubric. The judge is asked for one axis at a time, right
            after the line [`ANSWER_HEADER`], so a rubric should show its examples in that form ([`render_form`]).

    Raises:
        [`ScorerError`]: The file does not exist, or it is a folder, empty, or not text.
    """
    if path is None:
        bundled = files("ee_trl").joinpath(f"assets/rubric/{RUBRIC}.md")
        return Rubric(RUBRIC, bundled.read_text(encoding="utf-8").strip())
    path = Path(path)
    remedy = "Give a text file, or none for the bundled rubric; `ee-trl rubric` prints that one as an example."
    if path.is_dir():
        raise ScorerError(f"the rubric {str(path)!r} is a folder. {remedy}")
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
    except FileNotFoundError:
        raise ScorerError(f"no rubric {str(path)!r} (in {os.getcwd()!r}). {remedy}") from None
    except UnicodeDecodeError as error:
        raise ScorerError(f"the rubric {str(path)!r} is not text in UTF-8 ({error}). {remedy}") from None
    if "\0" in text:
        raise ScorerError(f"the rubric {str(path)!r} holds null characters: it is not text. {remedy}")
    if not text:
        raise ScorerError(f"the rubric {str(path)!r} is empty. {remedy}")
    return Rubric(re.sub(r"[^\w.-]+", "-", path.stem), text)


def render_form(sensibility: int, rationality: int) -> str:
    """The filled-in form, as published: header, rationality, sensibility."""
    for axis, score in ((SENSIBILITY, sensibility), (RATIONALITY, rationality)):
        if score not in range(int(MIN_SCORE), int(MAX_SCORE) + 1):
            raise ScorerError(f"{axis} {score!r} is not a whole number in [0, 10]")
    return f"{ANSWER_HEADER}\n{SLOTS[RATIONALITY]} {int(rationality)}\n{SLOTS[SENSIBILITY]} {int(sensibility)}"


def parse_form(text: str) -> tuple[int, int] | None:
    """
    Reads sensibility and rationality from a generated answer, strictly.

    `None` unless each axis has exactly one line with a whole number in [0, 10] alone, not `11`, `8/10` or `8.5`. Lines
    may be in Markdown: `**Sensibility:** 8`.
    """
    spans = form_spans(text)
    if spans is None:
        return None
    read = {axis: int(text[slice(*span)]) for axis, span in spans.items()}
    return read[SENSIBILITY], read[RATIONALITY]


def form_spans(text: str) -> dict[str, tuple[int, int]] | None:
    """Axis -> start and end of its number in an answer; `None` where [`parse_form`] does not read the answer."""
    found: dict[str, tuple[int, int]] = {}
    begin = 0
    for line in text.split("\n"):
        if _CLAIMS_AN_AXIS.search(line):
            read = {axis: match for axis, form in _LINES.items() if (match := form.fullmatch(line))}
            if len(read) != 1 or found.keys() & read:
                return None
            [(axis, match)] = read.items()
            found[axis] = (begin + match.start(1), begin + match.end(1))
        begin += len(line) + 1
    return found if len(found) == len(SLOTS) else None


def parse_slot(text: str) -> int | None:
    """
    The whole number in [0, 10] that a judge wrote after one slot; `None` without one, or where it goes on: `11`,
    `8.5`, `8,5`, `8/10`, `80%`, `7-8`.
    """
    match = _AFTER_SLOT.match(text)
    return int(match[1]) if match else None
