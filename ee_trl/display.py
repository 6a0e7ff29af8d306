"""Results for people, and the one escape of each kind of output: terminal, Markdown, HTML and CSV.

One [`Table`] is shown as aligned text, Markdown or HTML; results show themselves by it.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any


class Markup(str):
    """A cell or paragraph that is Markdown already, such as a link; every other text is escaped."""


class Html(str):
    """A cell or paragraph that is HTML already, such as a picture; every other text is escaped."""


class Block(str):
    """A text in full, with its lines, as a block of code that nothing in it can end."""


class Code(str):
    """A cell that is a name for machines, such as a fingerprint: Markdown and HTML show it as code."""


class Heading(str):
    """A heading between the parts of a page."""

    level = 2


class Title(Heading):
    """The heading of a whole page."""

    level = 1


@dataclass(frozen=True)
class Table:
    """A table with a title above it; its first `texts` columns hold texts, the others numbers."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    texts: int = 1

    def text(self) -> str:
        """For a terminal: aligned columns, texts to the left and numbers to the right; no control characters."""
        lines = [[plain(cell) for cell in row] for row in (self.head, *self.rows)]
        widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
        sides = self._sides()
        body = ["  ".join(map(_padded, row, widths, sides)).rstrip() for row in lines]
        return "\n".join([plain(self.title), *body] if self.title else body)

    def markdown(self) -> str:
        """For Markdown: every cell is escaped, except [`Markup`]."""
        lines = [self.head, ["---" if side == "left" else "---:" for side in self._sides()], *self.rows]
        body = [f"| {' | '.join(row if i == 1 else map(markdown_text, row))} |" for i, row in enumerate(lines)]
        return "\n".join([markdown_text(self.title), "", *body] if self.title else body)

    def html(self) -> str:
        """For a page: every cell is escaped, except [`Markup`]."""
        title = f'<caption style="caption-side:top;text-align:left">{html_text(self.title)}</caption>'
        rows = "".join(_html_row("td", cells, self._sides()) for cells in self.rows)
        head = _html_row("th", self.head, self._sides())
        return f"<table>{title if self.title else ''}<thead>{head}</thead><tbody>{rows}</tbody></table>"

    def _sides(self) -> list[str]:
        return ["left" if i < self.texts else "right" for i in range(len(self.head))]


def as_text(parts: Iterable[str | Table]) -> str:
    """Paragraphs, headings and tables for a terminal."""
    return "\n\n".join(part.text() if isinstance(part, Table) else plain(part, lines=True) for part in parts)


def as_markdown(parts: Iterable[str | Table]) -> str:
    """Paragraphs, headings and tables as Markdown."""
    return "\n\n".join(part.markdown() if isinstance(part, Table) else _markdown_line(part) for part in parts)


def as_html(parts: Iterable[str | Table]) -> str:
    """Paragraphs, headings and tables for a page."""
    return "".join(part.html() if isinstance(part, Table) else _html_line(part) for part in parts)


class Displayed:
    """A result that shows its [`~Displayed.parts`] as text, as Markdown, or in a notebook as HTML."""

    def parts(self) -> Iterable[str | Table]:
        """Paragraphs, [`Heading`]s and tables, in order."""
        raise NotImplementedError

    def __str__(self) -> str:
        return as_text(self.parts())

    def markdown(self) -> str:
        """All parts as Markdown."""
        return as_markdown(self.parts())

    def _repr_html_(self) -> str:
        return as_html(self.parts())

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))  # IPython calls this in a terminal


class BySplit(dict[str, Any], Displayed):
    """One result for each split, by the split's name."""

    def parts(self) -> Iterable[str | Table]:
        """The parts of each split, under its name."""
        for name, value in self.items():
            yield f"{name}:"
            yield from value.parts()


def number(value: float | None, form: str = ",.2f") -> str:
    """A number; `n/a` for `None` and NaN."""
    return "n/a" if value is None or value != value else format(value, form)


def percent(part: float | None, whole: float = 1) -> str:
    """A share of a whole, e.g. `12.5%`; `n/a` where there is no part or no whole."""
    return number(part / whole if part is not None and whole else None, ".1%")


def with_interval(value: float | None, ends: Sequence[float] | None, form: str = ",.2f") -> str:
    """A number with its interval, if there is one: `0.38 (0.31 to 0.45)`."""
    if not ends or any(end is None or end != end for end in (value, *ends)):
        return number(value, form)
    return f"{number(value, form)} ({number(ends[0], form)} to {number(ends[1], form)})"


def plain(text: str, lines: bool = False) -> str:
    """Text for a terminal: characters that would act on it are shown as spaces; line breaks stay if `lines`."""
    if text.isascii() and text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(c if c in kept or unicodedata.category(c) not in _ACTING else " " for c in text)


class PlainFormatter(logging.Formatter):
    """The lines of a log for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """The message as [`plain`] text."""
        return plain(super().format(record), lines=True)


def log_to_terminal(level: int) -> None:
    """Sends log lines to standard error as plain text, unless logging is set up already."""
    handler = logging.StreamHandler()
    handler.setFormatter(PlainFormatter("%(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


def markdown_text(text: str, limit: int | None = None) -> str:
    """Text for Markdown on one line of at most `limit` characters; everything but [`Markup`] is escaped."""
    if isinstance(text, Markup):
        return text
    if isinstance(text, Block):
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
        return f"{fence}text\n{plain(text, lines=True)}\n{fence}"
    flat = shortened(" ".join(plain(text).split()), limit)
    if isinstance(text, Code):
        return f"`{flat.translate(_IN_CODE)}`"
    return _MARKUP.sub(r"\\\1", flat).replace("<", "&lt;")


def html_text(text: str) -> str:
    """Text for HTML; everything but [`Html`] is escaped."""
    if isinstance(text, Html):
        return text
    tag = "code" if isinstance(text, Code) else "pre" if isinstance(text, Block) else None
    return f"<{tag}>{escape(text)}</{tag}>" if tag else escape(text)


def csv_text(text: str) -> str:
    """
    Text for a cell of a sheet: no line of it, and nothing after a separator, can act as a formula.

    A spreadsheet takes `=`, `+`, `-` and `@` for the beginning of a formula, and their full-width forms; an apostrophe
    before them makes them text.
    """
    clean = "".join(c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs") else "" for c in text)
    return _FORMULA.sub("'", clean)


def shortened(text: str, limit: int | None) -> str:
    """The text, or its beginning and `…` where it has more than `limit` characters."""
    return text if limit is None or len(text) <= limit else text[: limit - 1] + "…"


_IN_CODE = {ord("`"): "'", ord("|"): "/", ord("<"): "&lt;"}
_MARKUP = re.compile(  # `_` inside a word is text
    r"([\|*`\[\]]|!(?=\[)|(?<=\])\(|(?<![^\W_])_|_(?![^\W_])|&(?=\w+;|#)|~(?=~))"
)
_LINE_START = re.compile(r"^([#>+=-])")  # of a heading, quotation, list or line
_ACTING = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Categories of characters that act on a terminal, or that it cannot show."""
_FORMULA = re.compile(
    r"""^(?=[\s"​-‏﻿]*[=+@\-＝＋－＠−]|\s*	)"""
    r"""|(?<=[
	])(?=[\s"​-‏﻿]*[=+@\-＝＋－＠−])(?![+-] [^
|!(]*(?:
|\Z))"""
    r"""|(?<=;)(?=[\s"]*[=+@\-]\s*[\w("'])"""
)


def _markdown_line(text: str) -> str:
    if isinstance(text, Heading):
        return f"{'#' * text.level} {markdown_text(text)}"
    return markdown_text(text) if isinstance(text, (Markup, Block)) else _LINE_START.sub(r"\\\1", markdown_text(text))


def _html_line(text: str) -> str:
    tag = f"h{text.level}" if isinstance(text, Heading) else None if isinstance(text, Block) else "p"
    return f"<{tag}>{html_text(text)}</{tag}>" if tag else html_text(text)


def _width(text: str) -> int:
    """Columns in a terminal: wide characters take two, combining marks none."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


def _padded(cell: str, width: int, side: str) -> str:
    space = " " * (width - _width(cell))
    return cell + space if side == "left" else space + cell


def _html_row(tag: str, cells: Sequence[str], sides: Sequence[str]) -> str:
    found = (f'<{tag} style="text-align:{side}">{html_text(c)}</{tag}>' for side, c in zip(sides, cells, strict=True))
    return f"<tr>{''.join(found)}</tr>"
