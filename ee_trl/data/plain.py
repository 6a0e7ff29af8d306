"""Rows in columns: where turns are plain, they are found for all rows of a table at once.

A turn is plain if its beginning shows that it is text, and neither blank nor a list that became text. Nearly all
turns are. What stands in other rows, the parsers of [`~ee_trl.data.formats`] find out row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .dialogue import MAX_TURN_CHARS, SOURCE_ERROR, Dialogue, Sample, Turns, sample_at, turns_wanted
from .formats import ROLE_KEYS, ROLES, SYSTEM_COLUMNS, TEXT_KEYS, DialogueFormat, Message, role_named


_SYSTEM, _USER, _ASSISTANT = range(3)  # places in ROLES
_OTHER = -1


class PlainTurns(NamedTuple):
    """
    The turns of a table's rows, laid end to end.

    Args:
        plain (`np.ndarray` of shape `(n,)`, of `bool`): Which rows hold nothing but plain turns of known roles.
        starts, ends (`np.ndarray` of shape `(n,)`): Where each row's turns are.
        roles (`np.ndarray` of shape `(turns,)`): Their roles, as places in [`~ee_trl.data.formats.ROLES`].
        texts (`pa.StringArray`): What was said.
        named (`np.ndarray` of shape `(n,)`): The turn that a row stands for, if `score` made it; -1 for none.
    """

    plain: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    roles: np.ndarray
    texts: pa.StringArray
    named: np.ndarray


class _Side(NamedTuple):
    """The turns of one column: how many each row has, and which rows are not null."""

    lengths: np.ndarray
    there: np.ndarray
    roles: np.ndarray
    texts: pa.StringArray


def plain_turns(table: pa.Table, fmt: DialogueFormat) -> PlainTurns | None:
    """The turns of a table's rows; `None` if its columns have other types than those of texts and messages."""
    if fmt.utterance_rows:
        return None
    roles: Sequence[int] = (_USER, _ASSISTANT) if len(fmt.columns) > 1 else (_OTHER,)
    columns = [_combined(table.column(name)) for name in fmt.columns]
    sides = [_side(column, role, fmt.name) for column, role in zip(columns, roles, strict=True)]
    named = _named(table, fmt)
    if None in sides or named is None:
        return None
    found = [side for side in sides if side is not None]
    try:
        for side in found:
            side.texts.validate(full=True)  # Arrow does not check the bytes of strings
    except pa.ArrowInvalid:
        return None
    lengths = sum(side.lengths for side in found)
    ends = np.cumsum(lengths)
    starts = ends - lengths
    if len(found) == 1:
        role, texts = found[0].roles, found[0].texts
    else:
        before, reply = found
        order = np.empty(len(before.roles) + len(reply.roles), np.int64)
        order[_places(starts, before.lengths)] = np.arange(len(before.roles))
        order[_places(starts + before.lengths, reply.lengths)] = np.arange(len(before.roles), len(order))
        role = np.concatenate([before.roles, reply.roles])[order]
        texts = pa.concat_arrays([before.texts, reply.texts]).take(pa.array(order))
    bad = np.concatenate([[0], np.cumsum(~_are_plain(texts) | (role == _OTHER))])
    plain = (bad[starts] == bad[ends]) & np.logical_and.reduce([side.there for side in found])
    plain &= np.logical_and.reduce([side.lengths > 0 for side in found])
    if len(found) > 1:  # a longer reply may repeat what was said before it
        plain &= found[1].lengths <= np.maximum(found[0].lengths, 1)
    for name in (*SYSTEM_COLUMNS, SOURCE_ERROR, *(["response"] if fmt.multi_turn else [])):
        if name in table.column_names:
            plain &= table.column(name).is_null().to_numpy()
    return PlainTurns(plain, starts, ends, role, texts, named)


def _combined(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _places(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The places of stretches that start so and are so long, one after the other."""
    return np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())


_PLAIN = r"""^["(]?[^\p{Z}\p{C}\[{("']|^'"""
"""How a text begins that [`~ee_trl.data.formats.listed`] does not read, and that is not blank; but for `array(`."""


def _are_plain(texts: pa.StringArray) -> np.ndarray:
    plain = pc.and_not(pc.match_substring_regex(texts, _PLAIN), pc.starts_with(texts, "array("))
    plain = pc.and_(plain, pc.less_equal(pc.utf8_length(texts), MAX_TURN_CHARS))
    return plain.fill_null(False).to_numpy(zero_copy_only=False)


def _side(column: pa.Array, role: int, name: str) -> _Side | None:
    """The turns of a column; plain text is one turn of the `role`."""
    there = column.is_valid().to_numpy(zero_copy_only=False)
    joined = name == "context_response" and role == _USER and pa.types.is_string(column.type)
    if pa.types.is_string(column.type) and role != _OTHER and not joined:
        return _Side(np.ones(len(column), np.int64), there, np.full(len(column), role, np.int8), column)
    column = pc.split_pattern(column, "</s>") if joined else column
    if not pa.types.is_list(column.type):
        return None
    offsets = column.offsets.to_numpy()
    lengths, turns = np.diff(offsets).astype(np.int64), column.values[offsets[0] : offsets[-1]]
    if pa.types.is_string(turns.type) and (name == "dialog" or (name == "context_response" and role == _USER)):
        places = _places(np.zeros(len(lengths), np.int64), lengths)
        places = places if name == "dialog" else np.repeat(lengths - 1, lengths) - places  # the last is the speaker's
        sides = np.where(places % 2, _ASSISTANT, _USER).astype(np.int8)
        if joined:
            turns = pc.utf8_trim(turns, " ")
            trimmed = pc.match_substring_regex(turns, r"[^\p{Z}\p{C}]$").fill_null(False)
            sides[~trimmed.to_numpy(zero_copy_only=False)] = _OTHER
        return _Side(lengths, there, sides, turns)
    if not pa.types.is_struct(turns.type):
        return None
    fields = dict(zip((field.name for field in turns.type), turns.flatten(), strict=True))
    keys = [[key for key in fields if key.lower() in known] for known in (ROLE_KEYS, TEXT_KEYS)]
    if list(map(len, keys)) != [1, 1] or len({key.lower() for key in fields}) < len(turns.type):
        return None
    who, said = (fields[key] for [key] in keys)
    if not pa.types.is_string(who.type) or not pa.types.is_string(said.type):
        return None
    coded = who.dictionary_encode("encode")
    names = [role_named(name) if name else None for name in coded.dictionary.to_pylist()]
    codes = np.array([ROLES.index(name) if name else _OTHER for name in names], np.int8)
    return _Side(lengths, there, codes[coded.indices.to_numpy()], said)


def _named(table: pa.Table, fmt: DialogueFormat) -> np.ndarray | None:
    """The column `turn` where `score` wrote it, otherwise -1; `None` if it is not as `score` writes it."""
    if not fmt.multi_turn or not {"row_index", "turn"} <= set(table.column_names):
        return np.full(table.num_rows, -1)
    row, turn = table.column("row_index"), table.column("turn")
    if row.type != pa.int64() or turn.type != pa.int64():
        return None
    return np.where(row.is_valid().to_numpy(), turn.fill_null(-1).to_numpy(), -1)


def plain_samples(
    found: PlainTurns, fmt: DialogueFormat, turns: Turns, others: Callable[[int], list[Sample]]
) -> list[Sample]:
    """The samples of the rows; `others` gives those of a row that is not plain."""
    texts, patterns, samples = found.texts.to_pylist(), found.roles.tobytes(), list[Sample]()
    rows = zip(*(values.tolist() for values in (found.plain, found.starts, found.ends, found.named)), strict=True)
    known: dict[tuple[bytes, int], _Found] = {}
    for i, (plain, start, end, named) in enumerate(rows):
        if not plain:
            samples += others(i)
            continue
        layout = patterns[start:end], named
        for turn, reason, spoken, roles, systems in known.get(layout) or known.setdefault(
            layout, _samples_of(*layout, fmt.multi_turn, turns)
        ):
            dialogue = None
            if reason is None:
                said = texts[start : start + turn] if spoken is None else [texts[start + k] for k in spoken]
                system = "\n".join(texts[start + k] for k in systems) or None
                dialogue = Dialogue(tuple(said), texts[start + turn], roles, system)
            samples.append(Sample(i, turn, dialogue, reason))
    return samples


_Found = list[tuple[Any, str | None, tuple[int, ...] | None, tuple[str, ...], tuple[int, ...]]]


@lru_cache(maxsize=1 << 12)
def _samples_of(pattern: bytes, named: int, multi_turn: bool, turns: Turns) -> _Found:
    """
    The samples of every row whose plain turns have these roles.

    For each its turn, the reason why it is none, which turns are its context (`None` for all before it), their roles,
    and which turns are its system message.
    """
    roles = [ROLES[role] for role in pattern]
    messages = [Message(role, role) for role in roles]
    wanted = [named] if 0 <= named < len(roles) else turns_wanted(messages, turns if multi_turn else "last")
    samples = []
    for turn in wanted:
        sample = sample_at(0, messages, turn, multi_turn)
        spoken = tuple(k for k in range(max(turn, 0)) if roles[k] != "system")
        systems = tuple(k for k in range(max(turn, 0)) if roles[k] == "system")
        said = tuple(roles[k] for k in spoken)
        samples.append((sample.turn, sample.reason, spoken if systems else None, said, systems))
    return samples


def plain_sides(found: PlainTurns, fmt: DialogueFormat) -> tuple[np.ndarray, pa.Array, pa.Array]:
    """Rows whose last sample is a dialogue as it stands, and their columns `prompt` and `completion`."""
    rows = np.flatnonzero(found.plain)
    starts, named = found.starts[rows], found.named[rows]
    replies = np.where((named >= 0) & (starts + named < found.ends[rows]), starts + named, found.ends[rows] - 1)
    spoken = np.concatenate([[0], np.cumsum(found.roles != _SYSTEM)])
    asked = np.concatenate([[0], np.cumsum(found.roles == _USER)])
    head = (found.roles[starts] == _SYSTEM).astype(np.int64)  # a system message stands first, or there is none
    before = spoken[replies] - spoken[starts]
    good = (found.roles[replies] == _ASSISTANT) & (before > 0) & (before + head == replies - starts)
    if fmt.multi_turn:
        good &= asked[replies] > asked[starts]
    rows, starts, replies = rows[good], starts[good], replies[good]
    names = pa.array(ROLES, pa.string())

    def messages(places: np.ndarray, lengths: np.ndarray) -> pa.Array:
        texts = [names.take(pa.array(found.roles[places])), found.texts.take(pa.array(places))]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.StructArray.from_arrays(texts, ["role", "content"]))

    lengths = replies - starts
    return rows, messages(_places(starts, lengths), lengths), messages(replies, np.ones_like(replies))
