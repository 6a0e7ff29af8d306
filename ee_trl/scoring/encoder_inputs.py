"""What an encoder reads of a dialogue, and how dialogues are put into batches that leave each other alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..data.dialogue import Dialogue
from ..errors import ScorerError, unknown
from . import features as ft


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

TEXTS = ("canonical", "as_is")
"""How text is read: in the one form of [`~ee_trl.scoring.features.tokenise`], or as it stands."""

MARKS = {"user": ">", "assistant": "<"}
"""What stands before a turn of the speaker, and of the listener."""

STEP = 16  # widths of batches are multiples of it

Encoded = dict[str, list[int]]
"""The ids of one dialogue, as the tokenizer names them (`input_ids`, `token_type_ids`, ...), without padding."""


@dataclass(frozen=True)
class EncoderInputs:
    """
    How a dialogue becomes a pair of segments: the turns so far, and the reply.

    Args:
        max_length (`int`, *optional*, defaults to `128`):
            Tokens of both together. What is too long loses its oldest words; a reply has at most half of it, and keeps
            its beginning.
        text (`str`, *optional*, defaults to `"canonical"`):
            `"canonical"`: lower case, English contractions written out, punctuation as tokens of its own, so that
            natural and tokenised text of one dialogue have one score. `"as_is"` for other languages and for encoders
            that know upper case.
    """

    max_length: int = 128
    text: str = "canonical"

    def __post_init__(self) -> None:
        if self.text not in TEXTS:
            raise ScorerError(unknown("text", self.text, TEXTS))
        if not isinstance(self.max_length, int) or self.max_length < STEP:
            raise ScorerError(f"max_length {self.max_length!r} is not a whole number of at least {STEP}")

    def encode(self, tokenizer: PreTrainedTokenizerBase, dialogues: Sequence[Dialogue]) -> list[Encoded]:
        """The ids of dialogues; no special token can come out of their text."""
        if not dialogues:
            return []
        contexts = _ids(tokenizer, [self._context(d) for d in dialogues])
        replies = _ids(tokenizer, [self._read(d.response) for d in dialogues])
        pair = _Pair.of(tokenizer)
        room = self.max_length - pair.special
        return [pair.joined(*_shortened(*both, room)) for both in zip(contexts, replies, strict=True)]

    def _context(self, dialogue: Dialogue) -> str:
        turns = zip(dialogue.roles, dialogue.context, strict=True)
        return " ".join(f"{MARKS.get(role, MARKS['user'])} {self._read(text)}" for role, text in turns)

    def _read(self, text: str) -> str:
        return " ".join(ft.tokenise(text)) if self.text == "canonical" else " ".join(text.split())


def _ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]


def _shortened(context: list[int], reply: list[int], room: int) -> tuple[list[int], list[int]]:
    """A reply keeps its beginning, within half the room or what the context leaves; a context keeps its end."""
    reply = reply[: max(room // 2, room - len(context))]
    return context[max(0, len(context) + len(reply) - room) :], reply


@dataclass(frozen=True)
class _Pair:
    """The special tokens before, between and after two segments, and the segments' token types, if it has any."""

    before: list[int]
    between: list[int]
    after: list[int]
    types: list[int] | None

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> _Pair:
        """Found by trying, since tokenizers do not tell."""
        first, second = _ids(tokenizer, ["no", "yes"])
        tried = tokenizer("no", "yes", verbose=False)
        ids = tried["input_ids"]
        starts = [i for i in range(len(ids)) if ids[i : i + len(first)] == first]
        ends = [i for i in range(len(ids)) if ids[i : i + len(second)] == second]
        if not first or not second or not starts or not ends or ends[-1] < starts[0] + len(first):
            raise ScorerError(f"{type(tokenizer).__name__} does not join two texts; take an encoder whose does")
        start, end = starts[0] + len(first), ends[-1]
        types = tried.get("token_type_ids")
        return cls(ids[: starts[0]], ids[start:end], ids[end + len(second) :], types and [types[0], types[-1]])

    @property
    def special(self) -> int:
        """How many they are."""
        return len(self.before) + len(self.between) + len(self.after)

    def joined(self, context: list[int], reply: list[int]) -> Encoded:
        first = [*self.before, *context, *self.between]
        second = [*reply, *self.after]
        found = {"input_ids": first + second}
        if self.types:
            found["token_type_ids"] = [self.types[0]] * len(first) + [self.types[1]] * len(second)
        return found


def width_of(length: int, max_length: int) -> int:
    """The width that a text of so many tokens is padded to."""
    return min(-(-length // STEP) * STEP, max_length)


def fixed_batches(lengths: Sequence[int], token_budget: int, max_length: int) -> Iterator[tuple[int, int, list[int]]]:
    """
    Batches whose shape depends on nothing but the width of their texts.

    The same number of rows, always, for one width: so the same kernels add the same numbers in the same order,
    whoever a text's batch mates are. What is lacking is filled up with copies.

    Args:
        lengths (`Sequence[int]`): Tokens of each text.
        token_budget (`int`): Tokens in one batch, padding included; a single text may have more.
        max_length (`int`): The widest.

    Yields:
        `tuple`: rows, width, and the numbers of the texts, at most as many as there are rows; the longest first.
    """
    by_width: dict[int, list[int]] = {}
    for i, length in enumerate(lengths):
        by_width.setdefault(width_of(length, max_length), []).append(i)
    for width in sorted(by_width, reverse=True):
        rows = max(1, token_budget // width)
        members = by_width[width]
        for start in range(0, len(members), rows):
            yield rows, width, members[start : start + rows]


def padded(tokenizer: Any, texts: Sequence[Encoded], rows: int, width: int) -> dict[str, torch.Tensor]:
    """Tensors of shape `(rows, width)`: the texts, then copies of the first of them; padded on the right, masked."""
    import torch

    full = [*texts, *[texts[0]] * (rows - len(texts))]
    fill = {"input_ids": tokenizer.pad_token_id or 0, "token_type_ids": 0}
    tensors = {
        name: torch.tensor([text[name] + [fill.get(name, 0)] * (width - len(text[name])) for text in full])
        for name in full[0]
    }
    lengths = torch.tensor([len(text["input_ids"]) for text in full])
    tensors["attention_mask"] = (torch.arange(width)[None] < lengths[:, None]).long()
    return tensors
