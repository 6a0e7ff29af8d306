#!/usr/bin/env python
"""
Refuses a tag that the project's files disagree with.

    python scripts/check_release.py v0.2.0

The tag, `ee_trl.__version__`, `version` and `date-released` of CITATION.cff and the newest section of CHANGELOG.md
must name the same version and day. The script imports and builds nothing: it reads the files of the tagged commit.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path


ROOT = Path(__file__).parents[1]
TAG = re.compile(r"v\d+\.\d+\.\d+((a|b|rc)\d+)?")
SECTION = re.compile(r"^## \[(.+?)\](?: - (\S+))?[ \t]*$", flags=re.MULTILINE)
DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


def disagreements(root: Path, tag: str) -> list[str]:
    """Why `tag` does not fit the version in the folder `root`, a line for each reason; none if it fits."""
    if not TAG.fullmatch(tag):
        return [f"{tag!r} is not a tag of a version: vX.Y.Z, or vX.Y.ZrcN"]
    wanted = tag[1:]
    package = (root / "ee_trl/__init__.py").read_text(encoding="utf-8")
    citation = (root / "CITATION.cff").read_text(encoding="utf-8")
    found = {
        "ee_trl/__init__.py: __version__": _first(r'^__version__ = "(.+)"$', package),
        "CITATION.cff: version": _first(r"^version: (\S+)$", citation),
    }
    wrong = [f"{where} is {value}, not {wanted}" for where, value in found.items() if value != wanted]
    released = (_first(r"^date-released: (\S+)$", citation) or "missing").strip("\"'")
    return wrong + _of_changelog((root / "CHANGELOG.md").read_text(encoding="utf-8"), wanted, released)


def _of_changelog(text: str, wanted: str, released: str) -> list[str]:
    """Checks for an empty [Unreleased] on top, and below it the version with CITATION.cff's day and the changes."""
    parts = SECTION.split(text)[1:]  # name, day, body, name, ...
    sections = {name: (day, body.strip()) for name, day, body in zip(*[iter(parts)] * 3, strict=True)}
    newest = next((name for name in sections if name != "Unreleased"), None)
    wrong = []
    if next(iter(sections), None) != "Unreleased":
        wrong.append("CHANGELOG.md: no section [Unreleased] on top")
    elif sections["Unreleased"][1]:
        wrong.append(f"CHANGELOG.md: what [Unreleased] holds belongs to [{wanted}]")
    if newest != wanted:
        return [*wrong, f"CHANGELOG.md: the newest version is {newest}, not {wanted}"]
    day, body = sections[wanted]
    if not body:
        wrong.append(f"CHANGELOG.md: [{wanted}] says nothing")
    if day is None or not DAY.fullmatch(day):
        wrong.append(f"CHANGELOG.md: the day of [{wanted}] is {day}, not YYYY-MM-DD")
    elif released != day:
        wrong.append(f"CITATION.cff: date-released is {released}, but CHANGELOG.md says {day}")
    return wrong


def _first(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text, flags=re.MULTILINE)
    return found[1] if found else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tag", help="vX.Y.Z")
    wrong = disagreements(ROOT, parser.parse_args().tag)
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
