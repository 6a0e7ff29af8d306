"""A comparison in a notebook: the tables of its report, without the dialogues."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ee_trl.display import Table

from .measures import NOTES
from .report import (
    VERDICT_HEAD,
    decoding_in_words,
    number,
    of_references,
    p_value,
    set_in_words,
    shown_numbers,
    verdict_rows,
    with_interval,
)


if TYPE_CHECKING:
    from .comparison import Comparison


def parts_of(comparison: Comparison) -> Iterable[str | Table]:
    """What was evaluated, every number of every candidate, and the paired differences."""
    yield f"{set_in_words(comparison)} from {comparison.dataset['name']}.{decoding_in_words(comparison)}"
    names, models = shown_numbers(comparison), comparison.models
    rows = []
    for name in names:
        cells = (with_interval(e["numbers"].get(name), e["intervals"].get(name)) for e in models.values())
        shown = ("" if cell == number(None) else cell for cell in cells)
        rows.append((f"{name}: {NOTES[name]}", *shown, of_references(comparison, name)))
    yield Table(("number", *models, "references"), rows)
    for pair in comparison.paired:
        differences = [
            (name, with_interval(row["difference"], row["interval"]), p_value(row["p"]), p_value(row["p_holm"]))
            for name in names
            if (row := pair["numbers"].get(name))
        ]
        yield Table(("number", f"{pair['b']} minus {pair['a']}", "p", "p (Holm)"), differences)
        if verdicts := verdict_rows(pair):
            yield Table(("judge", f"{pair['b']} wins", "tie", f"{pair['a']} wins", *VERDICT_HEAD), verdicts)
