"""Whether two data sets of the same length hold the same dialogues in the same order, as far as a few rows tell."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ..data.formats import recognise
from ..errors import FormatError


_ROWS = 16
"""Rows that are compared: enough to tell another order from a few rows that were rewritten."""
_CHARACTERS = 3


def out_of_order(theirs: Sequence[str], given: Sequence[str]) -> int:
    """
    How many texts are more like the text of another row than like that of their own.

    Whether the texts are equal is not asked: one may be of tokens (in lower case, with a template around it), or have
    got a system message since.

    Args:
        theirs (`Sequence[str]`): Of rows of one data set.
        given (`Sequence[str]`): Of the same rows of the other.
    """
    grams = [[_grams(text) for text in texts] for texts in (theirs, given)]
    alike = np.array([[2 * len(a & b) / max(len(a) + len(b), 1) for b in grams[1]] for a in grams[0]])
    return int((np.diag(alike) < alike.max(axis=1) - 1e-9).sum()) if len(alike) else 0


def compared(rows: Any, given: Any, tokenizer: Any = None, max_length: int | None = None) -> tuple[int, int]:
    """
    Compares a spread of rows of two data sets of the same length.

    Args:
        rows (`Dataset`): The trainer's: with a dialogue a row, or with `input_ids`.
        given (`Dataset`): What it is said to be made from. Without dialogues nothing is compared.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): Of the `input_ids`. Without it they are not compared.
        max_length (`int`, *optional*): Where the trainer cuts; rows of tokens that are as long are left out.

    Returns:
        `tuple` of how many rows were compared, and how many of them are more like another one.
    """
    numbers = np.unique(np.linspace(0, len(rows) - 1, _ROWS).astype(int)).tolist() if len(rows) else []
    columns = _dialogue_columns(given)
    if not columns:
        return 0, 0
    theirs, own = [], _dialogue_columns(rows)
    for number in numbers:
        row = rows[number]
        if own:
            theirs.append(" ".join(_strings([row[name] for name in own])))
        elif "input_ids" in row and tokenizer is not None and len(row["input_ids"]) < (max_length or np.inf):
            theirs.append(tokenizer.decode(row["input_ids"], skip_special_tokens=True))
        else:
            theirs.append("")
    pairs = [
        (text, " ".join(_strings([given[number][name] for name in columns])))
        for number, text in zip(numbers, theirs, strict=True)
        if text
    ]
    return len(pairs), out_of_order([a for a, _ in pairs], [b for _, b in pairs])


def _dialogue_columns(rows: Any) -> tuple[str, ...]:
    names = [name for name in rows.column_names if name not in ("input_ids", "labels", "seq_lengths")]
    try:
        return tuple(recognise(names).columns)
    except FormatError:
        return ()


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _strings([item for name, item in value.items() if name not in ("role", "from")])
    elif isinstance(value, Iterable):
        for item in value:
            yield from _strings(item)


def _grams(text: str) -> set[str]:
    plain = "".join(text.casefold().split())
    return {plain[i : i + _CHARACTERS] for i in range(max(len(plain) - _CHARACTERS + 1, 1))}
