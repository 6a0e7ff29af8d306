"""The rubric of a judge, as every report prints it."""

from __future__ import annotations

from typing import Any

from ..rubric import Rubric


def rubric_text(scorer: Any) -> str | None:
    """What a scorer asks its judge; `None` of a scorer that has no rubric."""
    rubric = getattr(scorer, "rubric", None)
    return rubric.text if isinstance(rubric, Rubric) else None


def rubric_part(text: str | None) -> list[str]:
    """The lines of a Markdown page that show a rubric in full; none where there is none."""
    if text is None:
        return []
    fence = "`" * 4  # a rubric of the user's may hold a fence of three
    return ["The judge was asked by this rubric:", "", f"{fence}text", *text.splitlines(), fence, ""]
