"""What models are evaluated on: dialogues with their reference replies, from any format."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ee_trl.data.dialogue import Dialogue, Turns, check_turns
from ee_trl.data.formats import recognise
from ee_trl.data.mapping import mapped
from ee_trl.data.reading import check_dataset, open_rows
from ee_trl.data.sample import load_sample
from ee_trl.data.samples import iter_samples
from ee_trl.data.tables import features_of, is_stream, spread, tables_of, to_dataset
from ee_trl.errors import FormatError, unknown
from ee_trl.files import digest

from .metrics.emotion_accuracy import check_labels


@dataclass(frozen=True)
class EvalSet:
    """
    Dialogues, each ending in the reference reply.

    Args:
        name (`str`): The set's name in reports.
        dialogues (`tuple[Dialogue, ...]`): The samples, in order.
        emotions (`tuple[str, ...]`, *optional*): The emotion of each, `""` where unknown; `None` where none is known.
        left_out (`dict[str, int]`, *optional*): How many samples have no dialogue with a reply, by reason.
        available (`int`, *optional*, defaults to `0`): How many dialogues there were before `limit` chose some.
        rows (`tuple[int, ...]`, *optional*): The numbers of the chosen dialogues among all.
    """

    name: str
    dialogues: tuple[Dialogue, ...]
    emotions: tuple[str, ...] | None = None
    left_out: dict[str, int] | None = None
    available: int = 0
    rows: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.dialogues)

    @cached_property
    def references(self) -> list[str]:
        """The reference replies."""
        return [dialogue.response for dialogue in self.dialogues]

    @cached_property
    def prompts(self) -> list[list[dict[str, str]]]:
        """What came before each reply, as messages."""
        return [dialogue.prompt for dialogue in self.dialogues]

    @cached_property
    def conversations(self) -> list[int]:
        """
        The number of each dialogue's conversation.

        A dialogue continues another if its context begins with the other's context and reference; the nearest counts.
        """
        found = list(range(len(self)))
        places: dict[tuple[str, ...], list[int]] = {}
        for i in sorted(found, key=lambda i: len(self.dialogues[i].context)):
            dialogue = self.dialogues[i]
            for end in range(len(dialogue.context) - 1, 1, -1):
                if others := places.get(dialogue.context[:end]):
                    found[i] = found[max((j for j in others if j < i), default=others[0])]
                    break
            places.setdefault((*dialogue.context, dialogue.response), []).append(i)
        return found

    @cached_property
    def emotion_labels(self) -> list[str] | None:
        """The emotion of each dialogue, if all are among the 32 of EmpatheticDialogues."""
        try:
            return None if self.emotions is None else check_labels("emotion", self.emotions)
        except (TypeError, ValueError):
            return None

    @cached_property
    def fingerprint(self) -> str:
        """Identifies the dialogues, their references and their order."""
        blocks = (repr((d.context, d.roles, d.system, d.response)).encode() for d in self.dialogues)
        return f"dialogues:{len(self)}/sha256:{digest(blocks)}"


def read_eval_set(
    source: Any = None,
    *,
    split: str | None = None,
    config: str | None = None,
    limit: int | None = None,
    turns: Turns = "each",
    name: str | None = None,
    encoding: str | None = None,
    mapping: Mapping[str, str] | None = None,
) -> EvalSet:
    """
    Reads the dialogues to evaluate on.

    Args:
        source (`str`, `os.PathLike`, `Dataset`, `IterableDataset` or `DatasetDict`, *optional*):
            A file, folder, hub name or data set, in any format; by default the held-out part of the embedded sample.
            An [`EvalSet`] is returned as it is.
        split, config (`str`, *optional*): Names of a split and a configuration, if the data set has several.
        limit (`int`, *optional*): How many dialogues are taken, evenly spaced; by default all.
        turns (`"each"` or `"last"`, *optional*, defaults to `"each"`):
            Which listener turns of a conversation are samples.
        name (`str`, *optional*): The name of the set; by default the source's name.
        encoding, mapping (*optional*): See [`~ee_trl.data.reading.open_dataset`]; `mapping` is of a data set, too.

    Raises:
        [`FormatError`]: The source cannot be read, or holds no dialogue with a reply.
    """
    if isinstance(source, EvalSet):
        return source
    check_turns(turns)
    dataset, called = _opened(source, split, config, encoding, mapping)
    features = features_of(dataset)
    emotion = "context" if recognise(list(features)).utterance_rows and "emotion" not in features else "emotion"
    found: list[tuple[Dialogue, str]] = []
    left_out: Counter[str | None] = Counter()
    for batch in iter_samples(dataset, turns, columns=[emotion]):
        for sample in batch.samples:
            if sample.dialogue is None:
                left_out[sample.reason] += 1
                continue
            named = batch.rows[sample.row].get(emotion)
            found.append((sample.dialogue, named if isinstance(named, str) else ""))
    if not found:
        raise FormatError(f"{name or called} holds no dialogue with a reply: {dict(left_out)}")
    rows = tuple(spread(len(found), limit))
    dialogues, emotions = zip(*(found[i] for i in rows), strict=True)
    known = emotions if any(named for _, named in found) else None
    reasons = {str(reason): n for reason, n in left_out.most_common()}
    return EvalSet(name or called, dialogues, known, reasons, len(found), rows)


def _opened(source: Any, split: str | None, config: str | None, encoding: Any, mapping: Any) -> tuple[Any, str]:
    if source is None:
        return load_sample("test"), "the embedded sample's held-out dialogues"
    if isinstance(source, (str, os.PathLike)):
        dataset = open_rows(source, config=config, split=split, encoding=encoding, mapping=mapping)
        called = os.path.basename(os.fspath(source))
    else:
        dataset, called = mapped(_split_of(source, split), mapping), "the data set"
    if hasattr(dataset, "keys"):
        raise FormatError(f"{called!r} has several splits: {', '.join(dataset)}; name one (--split)")
    features = features_of(dataset)
    if recognise(list(features)).utterance_rows and is_stream(dataset):  # a conversation's turns may lie anywhere
        dataset = to_dataset(tables_of(dataset), features)
    return dataset, called


def _split_of(source: Any, split: str | None) -> Any:
    """One split of a mapping of splits, if it is named or the only one; a data set is returned as it is."""
    check_dataset(source)
    if not hasattr(source, "keys"):
        if split not in (None, str(source.split)):
            raise FormatError(f"the data set is one split and has no split {split!r}; leave the split out")
        return source
    if split is not None and split not in source:
        raise FormatError(unknown("split", split, [str(name) for name in source]))
    if split is None and len(source) != 1:
        return source
    return source[split or next(iter(source))]
