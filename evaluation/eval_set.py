"""What models are evaluated on: dialogues with their reference replies, from any format."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from ee_trl.data.dialogue import Dialogue, Turns, check_turns
from ee_trl.data.formats import recognise
from ee_trl.data.reading import check_dataset, open_rows
from ee_trl.data.sample import load_sample
from ee_trl.data.samples import iter_samples
from ee_trl.data.tables import features_of, is_stream, spread, tables_of
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
        available (`int`, *optional*, defaults to `0`): How many dialogues there were before a limit chose some.
        rows (`tuple[int, ...]`, *optional*): The numbers of the chosen ones among those.
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

        A dialogue continues the nearest one before it whose context and reference begin its own context.
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
        """Names the dialogues, their references and their order."""
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

    Raises:
        [`FormatError`]: The source cannot be read, or holds no dialogue with a reply.
    """
    if isinstance(source, EvalSet):
        return source
    check_turns(turns)
    dataset, called = _opened(source, split, config)
    kept: list[tuple[Dialogue, str]] = []
    left_out: Counter[str] = Counter()
    emotion_known = False
    for dialogue, reason, emotion in _samples(dataset, turns):
        emotion_known |= bool(emotion)
        if reason is not None:
            left_out[reason] += 1
        if dialogue is not None:
            kept.append((dialogue, emotion))
    if not kept:
        raise FormatError(f"{name or called} holds no dialogue with a reply: {dict(left_out)}")
    rows = tuple(spread(len(kept), limit))
    emotions = tuple(kept[i][1] for i in rows) if emotion_known else None
    dialogues = tuple(kept[i][0] for i in rows)
    return EvalSet(name or called, dialogues, emotions, dict(left_out.most_common()), len(kept), rows)


def _opened(source: Any, split: str | None, config: str | None) -> tuple[Any, str]:
    if source is None:
        return load_sample("test"), "the embedded sample's held-out dialogues"
    if isinstance(source, (str, os.PathLike)):
        dataset, called = open_rows(source, config=config, split=split), os.path.basename(os.fspath(source))
    else:
        dataset, called = _split_of(source, split), "the data set"
    if hasattr(dataset, "keys"):
        raise FormatError(f"{called!r} has several splits: {', '.join(dataset)}; name one (--split)")
    if is_stream(dataset) and recognise(list(features_of(dataset))).utterance_rows:
        from datasets import Dataset

        # the turns of a conversation may lie anywhere in a stream
        empty = features_of(dataset).arrow_schema.empty_table()
        dataset = Dataset(pa.concat_tables([empty, *tables_of(dataset)]))
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


def _samples(dataset: Any, turns: Turns) -> Iterator[tuple[Dialogue | None, str | None, str]]:
    """The dialogue of each sample, or the reason why there is none, and its emotion, `""` where unknown."""
    features = features_of(dataset)
    fmt = recognise(list(features))
    emotion = "context" if fmt.utterance_rows and "emotion" not in features else "emotion"
    for batch in iter_samples(dataset, turns, columns=[emotion]):
        for sample in batch.samples:
            named = batch.rows[sample.row].get(emotion)
            yield sample.dialogue, sample.reason, named if isinstance(named, str) else ""
