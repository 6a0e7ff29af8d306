"""The rubric of a judge, as every report prints it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..scoring.judge.rubric import Rubric


def rubric_text(scorer: Any) -> str | None:
    """What a scorer asks its judge; `None` of a scorer that has no rubric."""
    rubric = getattr(scorer, "rubric", None)
    return rubric.text if isinstance(rubric, Rubric) else None


def rubric_of_file(path: str | os.PathLike[str] | None) -> str | None:
    """What the judge of a file that `ee-trl score` wrote was asked; `None` of another file, and of what is none."""
    from ..data.tables import read_metadata
    from ..files import WRITABLE

    if path is None or Path(path).suffix.lower() not in WRITABLE or not Path(path).is_file():
        return None
    return (read_metadata(path) or {}).get("rubric")


def named_rubric(text: str | None, scorers: Iterable[str]) -> Rubric | None:
    """A rubric with the name that the fingerprint of one of the scorers has for it."""
    if text is None:
        return None
    digits = hashlib.sha256(text.encode()).hexdigest()[:12]
    names = [found[1] for scorer in scorers if (found := re.search(rf"([^/]+)/sha256:{digits}", scorer))]
    return Rubric(names[0] if names else "rubric", text)


def rubric_part(text: str | None) -> list[str]:
    """The lines of a Markdown page that show a rubric in full; none where there is none."""
    if text is None:
        return []
    fence = "`" * 4  # a rubric of the user's may hold a fence of three
    return ["The judge was asked by this rubric:", "", f"{fence}text", *text.splitlines(), fence, ""]
