"""The dialogues in a trainer's rows, and the listener turn that each token of a row belongs to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import numpy as np
from datasets import Dataset

from ..data.dialogue import NOTHING_TO_SCORE, SOURCE_ERROR, Dialogue, Turns, samples_of
from ..data.formats import DialogueFormat, recognise
from ..data.samples import iter_samples
from ..errors import FormatError, ScoresError, TrainingError
from .loss import IDS


def dialogue_rows(rows: Dataset) -> tuple[Dataset, DialogueFormat]:
    """The dialogue columns of the rows, and their format; raises [`ScoresError`] where there are none."""
    columns = rows.column_names
    try:
        fmt = recognise([name for name in columns if name not in ("input_ids", "labels", "seq_lengths")])
    except FormatError as error:
        raise ScoresError(
            f"the rows (columns: {sorted(columns)}) have neither scores nor a dialogue to score. Give them the "
            "columns sensibility and rationality, or name the rows they were made from: dataset=..."
        ) from error
    if fmt.utterance_rows:
        raise ScoresError("SFTTrainer does not train on rows of one utterance; selector.score makes dialogues of them")
    return rows.select_columns([name for name in (*fmt.columns, SOURCE_ERROR) if name in columns]), fmt


class RowDialogues:
    """
    The dialogues of a trainer's rows: row i is `rows[positions[i]]`, without an `eos` that TRL appended.

    With `only` (of shape `(n,)`), the one of row i that ends in its message number `only[i]`.
    """

    def __init__(
        self, rows: Dataset, turns: Turns, eos: str | None, positions: np.ndarray, only: np.ndarray | None = None
    ) -> None:
        plain, self._fmt = dialogue_rows(rows)
        self._rows, self._turns, self._eos, self._positions = plain.with_format(None), turns, eos, positions
        self._only = only

    def __call__(self, numbers: Sequence[int]) -> list[list[Dialogue]]:
        """The dialogues of each of these rows; an empty list where none can be scored."""
        table = self._rows[self._positions[list(numbers)].tolist()]
        rows = [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]
        found: list[list[Dialogue]] = [[] for _ in rows]
        for sample in samples_of(self._fmt, [bare(row, self._eos) for row in rows], self._turns):
            wanted = self._only is None or sample.turn == self._only[numbers[sample.row]]
            if sample.dialogue is not None and wanted:
                found[sample.row].append(sample.dialogue)
        return found


def bare(row: dict[str, Any], eos: str | None) -> dict[str, Any]:
    """The row with its completion as the user gave it: TRL ends texts (not messages) with the end-of-text token."""
    completion = row.get("completion")
    return {**row, "completion": completion.removesuffix(eos)} if eos and isinstance(completion, str) else row


class ListenerTurns:
    """
    The listener turns of a data set, all rows in one list; a row without one has one that cannot be scored.

    Arrays of shape `(m,)`: turn u is message number `turn[u]` of row `row[u]` (-1 in a row that cannot be read), and
    `scorable[u]` says whether it is a reply to score. The turns of row i are `first[i]` to `first[i + 1]`.
    """

    def __init__(self, rows: Dataset) -> None:
        found: list[tuple[int, int, bool]] = []
        for batch in iter_samples(dialogue_rows(rows)[0]):
            kept = [s for s in batch.samples if s.reason not in NOTHING_TO_SCORE]
            found += [(batch.numbers[s.row], -1 if s.turn is None else s.turn, s.dialogue is not None) for s in kept]
        found += [(row, -1, False) for row in set(range(len(rows))).difference(row for row, _, _ in found)]
        self.row, self.turn, scorable = np.array(sorted(found), dtype=np.int64).reshape(-1, 3).T
        self.scorable = scorable.astype(bool)
        self.first = np.searchsorted(self.row, np.arange(len(rows) + 1))

    def spread(self, values: Sequence[Any], name: str, *, alike: bool = False) -> list[Any]:
        """
        The value of each turn, from one list of them in each row, or one value in a row of one turn.

        With `alike`, one value counts for all turns of its row. Raises [`ScoresError`] where the numbers differ.
        """
        out: list[Any] = []
        for row, (value, count) in enumerate(zip(values, np.diff(self.first).tolist(), strict=True)):
            several = (
                list(value) if isinstance(value, (list, tuple, np.ndarray)) else [value] * (count if alike else 1)
            )
            if len(several) != count:
                raise ScoresError(
                    f"granularity='turn' needs a value of each listener turn in column {name!r}: row {row} has "
                    f"{len(several)} for {count} turns. Give a list for each row"
                    + ("" if alike else ", or leave the scores out, so that each turn is scored")
                )
            out += several
        return out

    def number_tokens(self, rows: Dataset, tokenizer: Any, template: str | None, processes: int | None) -> Dataset:
        """
        A trainer's tokenized rows, with the number of its listener turn beside each token.

        A turn's tokens are those of its reply, and of what comes between it and the reply before it.
        """
        settings = {"turns": self, "tokenizer": tokenizer, "template": template}
        return rows.map(
            _with_turns, with_indices=True, fn_kwargs=settings, num_proc=processes, desc="Finding the listener turns"
        )


def _with_turns(row: dict[str, Any], i: int, turns: ListenerTurns, tokenizer: Any, template: str | None) -> Any:
    first, last = turns.first[i : i + 2].tolist()
    ids = list(row["input_ids"])
    if last - first == 1:
        return {IDS: [first] * len(ids)}

    from trl import maybe_convert_to_chatml  # which takes ten seconds

    tools = row.get("tools")
    tools = json.loads(tools) if isinstance(tools, str) else tools

    def encoded(messages: list[Any]) -> list[int]:
        options = {"tools": tools, "chat_template": template, **(row.get("chat_template_kwargs") or {})}
        return list(tokenizer.apply_chat_template(messages, return_dict=True, **options)["input_ids"])

    messages = list(maybe_convert_to_chatml(dict(row))["messages"])
    whole = encoded(messages)
    # the next message begins where other words in it make a difference, whatever the template does
    ends = [_alike(whole, encoded(_with_other_words(messages, turn + 1))) for turn in turns.turn[first : last - 1]]
    cut = next((at for at in (0, len(whole) - len(ids)) if whole[at : at + len(ids)] == ids), None)
    if cut is None:
        raise TrainingError(
            f"the tokens of row {i} are not those that the chat template makes of its messages, so its listener turns "
            "cannot be told apart; let the trainer tokenize the rows, or leave out granularity='turn'"
        )
    return {IDS: (first + np.searchsorted(ends, np.arange(cut, cut + len(ids)), side="right")).tolist()}


def _with_other_words(messages: list[Any], at: int) -> list[Any]:
    words = "@" if str(messages[at]["content"]).lstrip().startswith("#") else "#"
    return [*messages[:at], {**messages[at], "content": words}, *messages[at + 1 :]]


def _alike(a: list[int], b: list[int]) -> int:
    """How many tokens two lists have in common at their beginning."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def text_tokenizer(processing_class: Any) -> Any:
    """The tokenizer in a processor, or the tokenizer itself; None if there is none."""
    return getattr(processing_class, "tokenizer", processing_class)
