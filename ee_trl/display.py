"""Results for people: one [`Table`], as aligned text, Markdown or HTML, and results that show themselves by it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any


class Markup(str):
    """A cell or paragraph that is markup already, such as a link; every other text is escaped."""


@dataclass(frozen=True)
class Table:
    """
    A table of texts.

    Args:
        head (`Sequence[str]`): The columns' names. The first column holds names, the others numbers or short texts.
        rows (`Sequence[Sequence[str]]`): As many cells each.
        title (`str`, *optional*, defaults to `""`): Stands above the table.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""

    def text(self) -> str:
        """For a terminal: aligned columns, the first to the left, the others to the right; no control characters."""
        lines = [[plain(cell) for cell in row] for row in (self.head, *self.rows)]
        widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
        body = ["  ".join(map(_padded, row, widths, range(len(row)))).rstrip() for row in lines]
        return "\n".join([self.title, *body] if self.title else body)

    def markdown(self) -> str:
        """For Markdown: cells are escaped, but for [`Markup`]."""
        lines = [self.head, ["---", *["---:"] * (len(self.head) - 1)], *self.rows]
        body = [f"| {' | '.join(row if i == 1 else map(markdown_text, row))} |" for i, row in enumerate(lines)]
        return "\n".join([markdown_text(self.title), "", *body] if self.title else body)

    def html(self) -> str:
        """For a page: cells are escaped, but for [`Markup`]."""
        title = f'<caption style="caption-side:top;text-align:left">{html_text(self.title)}</caption>'
        rows = "".join(_html_row("td", cells) for cells in self.rows)
        head = _html_row("th", self.head)
        return f"<table>{title if self.title else ''}<thead>{head}</thead><tbody>{rows}</tbody></table>"


class Displayed:
    """
    A result that shows itself by [`~Displayed.parts`]: `print` gives text, a notebook HTML, `markdown()` Markdown.

    No text of the data becomes markup.
    """

    def parts(self) -> Iterable[str | Table]:
        """Paragraphs and tables, in order."""
        raise NotImplementedError

    def __str__(self) -> str:
        return "\n\n".join(
            part.text() if isinstance(part, Table) else plain(part, lines=True) for part in self.parts()
        )

    def markdown(self) -> str:
        """All parts as Markdown."""
        return "\n\n".join(
            part.markdown() if isinstance(part, Table) else markdown_text(part) for part in self.parts()
        )

    def _repr_html_(self) -> str:
        return "".join(
            part.html() if isinstance(part, Table) else f"<p>{html_text(part)}</p>" for part in self.parts()
        )

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))  # IPython calls this in a terminal


class BySplit(dict[str, Any], Displayed):
    """One result for each split, by the split's name."""

    def parts(self) -> Iterable[str | Table]:
        """The parts of each split, under its name."""
        for name, value in self.items():
            yield f"{name}:"
            yield from value.parts()

    def __str__(self) -> str:
        return "\n\n".join(f"{name}:\n{value}" for name, value in self.items())


# ---- one escape for each kind of output ----------------------------------------------------------------------------


def plain(text: str, lines: bool = False) -> str:
    """Text for a terminal: control and format characters are shown as spaces; line breaks stay if `lines`."""
    kept = "\n\t" if lines else ""
    return "".join(c if c in kept or unicodedata.category(c) not in ("Cc", "Cf") else " " for c in text)


def markdown_text(text: str, limit: int | None = None) -> str:
    """Text for Markdown on one line of at most `limit` characters, in which nothing is markup but [`Markup`]."""
    if isinstance(text, Markup):
        return text
    flat = shortened(" ".join(plain(text).split()), limit)
    return re.sub(r"([\\|*`\[\]])", r"\\\1", flat).replace("<", "&lt;")


def html_text(text: str) -> str:
    """Text for HTML, in which nothing is markup but [`Markup`]."""
    return text if isinstance(text, Markup) else escape(text)


def shortened(text: str, limit: int | None) -> str:
    """The text, or its beginning and `…` where it has more than `limit` characters."""
    return text if limit is None or len(text) <= limit else text[: limit - 1] + "…"


def _width(text: str) -> int:
    """Columns in a terminal: wide characters take two, marks that combine none."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


def _padded(cell: str, width: int, column: int) -> str:
    space = " " * (width - _width(cell))
    return space + cell if column else cell + space


def _html_row(tag: str, cells: Sequence[str]) -> str:
    sides = ["left", *["right"] * (len(cells) - 1)]
    found = (f'<{tag} style="text-align:{side}">{html_text(c)}</{tag}>' for side, c in zip(sides, cells, strict=True))
    return f"<tr>{''.join(found)}</tr>"
