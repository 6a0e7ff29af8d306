"""How results show themselves: as text in a terminal, as tables in a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any


@dataclass(frozen=True)
class Table:
    """
    A table as text.

    Args:
        head (`Sequence[str]`): The columns' names; the first column is of names, the others of numbers.
        rows (`Sequence[Sequence[str]]`): As many cells each.
        title (`str`, *optional*, defaults to `""`): What stands above it.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""


class Displayed:
    """
    Shows itself in a notebook by [`~Displayed.parts`], and in an interactive terminal as `print` does.

    No text of the data becomes markup.
    """

    def parts(self) -> Iterable[str | Table]:
        """Paragraphs and tables, in order."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        return "".join(_html(part) for part in self.parts())

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))  # IPython's name for what a terminal shows


class BySplit(dict[str, Any], Displayed):
    """What was found of each split, by its name."""

    def parts(self) -> Iterable[str | Table]:
        """The parts of each split, under its name."""
        for name, value in self.items():
            yield f"{name}:"
            yield from value.parts()

    def __str__(self) -> str:
        return "\n\n".join(f"{name}:\n{value}" for name, value in self.items())


def _html(part: str | Table) -> str:
    if isinstance(part, str):
        return f"<p>{escape(part)}</p>"
    title = f'<caption style="caption-side:top;text-align:left">{escape(part.title)}</caption>' if part.title else ""
    return (
        f"<table>{title}<thead>{_row('th', part.head)}</thead>"
        f"<tbody>{''.join(_row('td', cells) for cells in part.rows)}</tbody></table>"
    )


def _row(tag: str, cells: Sequence[str]) -> str:
    sides = ["left", *["right"] * (len(cells) - 1)]
    found = (f'<{tag} style="text-align:{side}">{escape(c)}</{tag}>' for side, c in zip(sides, cells, strict=True))
    return f"<tr>{''.join(found)}</tr>"
