"""The rubric of a judge, as reports print it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..data.tables import read_metadata
from ..display import Block
from ..files import WRITABLE, digest
from ..scoring.judge.rubric import Rubric


def rubric_text(scorer: Any) -> str | None:
    """The rubric that a scorer gives its judge; `None` for a scorer without a rubric."""
    rubric = getattr(scorer, "rubric", None)
    return rubric.text if isinstance(rubric, Rubric) else None


def rubric_of_file(path: str | os.PathLike[str] | None) -> str | None:
    """The rubric that the scores of a file were made with, as `ee-trl score` recorded it; `None` where it did not."""
    if path is None or Path(path).suffix.lower() not in WRITABLE or not Path(path).is_file():
        return None
    return (read_metadata(path) or {}).get("rubric")


def named_rubric(text: str | None, scorers: Iterable[str]) -> Rubric | None:
    """A rubric, by the name that it has in the fingerprints of the scorers."""
    if text is None:
        return None
    names = [found[1] for scorer in scorers if (found := re.search(rf"([^/]+)/sha256:{digest(text)}", scorer))]
    return Rubric(names[0] if names else "rubric", text)


def rubric_parts(text: str | None) -> list[str]:
    """The rubric in full as the parts of a page; no parts where there is no rubric."""
    return ["The judge was given this rubric:", Block(text)] if text else []
