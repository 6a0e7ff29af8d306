"""What a judge reads: the rubric, the dialogue line by line, and at each scored turn a question per axis.

All of it as token ids, laid out so that work can be shared. The *prefix* (chat template up to the dialogue, rubric)
is the same for every sample. A *trunk* is a dialogue's turns. A *branch* hangs on the trunk where a reply ends: the
*head* (the template's switch to the assistant, the answer form's header) and from there two *chains*, one for each
axis, that do not see each other: each axis is asked on its own. The ids of a text are those of its parts joined,
whichever way they are computed, so that shared and unshared computation see the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from typing import TYPE_CHECKING

from ...axes import AXES
from ...data.dialogue import Dialogue
from ...errors import ScorerError
from .answers import VALUES
from .rubric import ANSWER_HEADER, SLOTS, Rubric
from .template import rendered


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LABELS = {"user": "Speaker", "assistant": "Listener"}

_DIALOGUE_TITLE = "Dialogue:\n"
_MARKERS = re.compile(
    r"<[|\uff5c][^|\uff5c<>]{0,60}[|\uff5c]?>|<[^|\uff5c<>]{1,60}[|\uff5c]>|<</?SYS>>|"
    r"</?(?:s|sop|eop|eod|think|tools?|tool_\w{1,30}|img|image|audio|video)>|"
    r"<(?:start|end)_of_\w{1,30}>|<(?:bos|eos|pad|unk|mask|sep|cls)(?:_token)?>|"
    r"<(?:unused|extra_id|reserved|special|custom_token)_?\d+>|<0x[0-9a-f]{2}>|"
    r"\[/?(?:(?:[BE]_)?INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_\w{1,30}|[GS]?MASK|SEP|CLS|PAD|UNK|IMG|control_\d+)\]",
    re.I,
)
_MARKUP = re.compile(r"\s*(?:<.*>|\[.*\])\s*", re.S)  # what an added token looks like that is not a word
_SPACES = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u2028\u2029\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]+")


@dataclass(frozen=True)
class Chain:
    """
    The question for one axis, and how its answer is read.

    Args:
        tokens (`tuple[int, ...]`):
            Ids after the head: the slot (`- Sensibility: `), and where 10 is two tokens the first of them: the digit
            of 1, or a space before 10 that other values have in their own token.
        reads (`int`):
            How many of the last tokens' next-token distributions are needed: 1, or 2 where 10 is split.
        first (`tuple[int, ...]` of length 11):
            The id that each value 0 to 10 begins with.
        second (`int`, *optional*):
            The id that goes on to 10 after its first one, where 10 is split.
    """

    tokens: tuple[int, ...]
    reads: int
    first: tuple[int, ...]
    second: int | None


class JudgePrompt:
    """
    Turns dialogues into token ids for one tokenizer and rubric.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): The judge's; its chat template is used if it has one.
        rubric (`Rubric`): What the judge is asked.

    Attributes:
        prefix (`tuple[int, ...]`): Ids of everything before the dialogue, the same for all samples.
        head (`tuple[int, ...]`): Ids between a reply and the questions.
        chains (`tuple[Chain, Chain]`): The questions, in the order of [`AXES`].

    Raises:
        [`ScorerError`]: The chat template loses what it is given, or the answers cannot be read with this tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, rubric: Rubric) -> None:
        self.tokenizer = tokenizer
        before, after = around_dialogue(tokenizer, rubric.text.strip())
        self.prefix = tuple(self._ids(before))
        self.head = tuple(self._ids(f"{after}{ANSWER_HEADER}\n"))
        self.chains = tuple(self._chain(axis) for axis in AXES)
        self.control_ids = frozenset(control_tokens(tokenizer).values())
        self.turn_ids = lru_cache(maxsize=20_000)(self._turn_ids)

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _chain(self, axis: str) -> Chain:
        answers = [self._ids(f"{SLOTS[axis]} {value}") for value in VALUES]
        shared = len(list(takewhile(lambda ids: len(set(ids)) == 1, zip(*answers, strict=False))))
        rest = [ids[shared:] for ids in answers]
        slot = tuple(answers[0][:shared])
        readable = all(len(ids) == 1 for ids in rest[:10]) and len({ids[0] for ids in rest[:10] if ids}) == 10
        if not readable or len(rest[10]) not in (1, 2) or not slot:
            raise ScorerError(
                f"the tokenizer splits the answers to {SLOTS[axis]!r} into {[len(ids) for ids in rest]} tokens; what "
                "can be read is one for each of 0 to 9, and one or two for 10"
            )
        first = tuple(ids[0] for ids in rest)
        if len(rest[10]) == 1:
            return Chain(slot, 1, first, None)
        return Chain((*slot, first[10]), 2, first, rest[10][1])

    # ---- dialogues

    def turns(self, dialogue: Dialogue) -> list[tuple[int, ...]]:
        """The ids of each turn, the reply last."""
        return [self.turn_ids(role, text) for role, text in _turns(dialogue)]

    def _turn_ids(self, role: str, text: str) -> tuple[int, ...]:
        """One line a turn; nothing in the text can end it, start another, or stand for a control token."""
        ids = self.tokenizer(turn_line(role, text), add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return tuple(i for i in ids if i not in self.control_ids)


def whole_prompt(rubric: Rubric, dialogue: Dialogue) -> str:
    """Rubric and dialogue as one text, for a judge behind a server, which has a tokenizer and template of its own."""
    lines = "".join(turn_line(role, text) for role, text in _turns(dialogue))
    return f"{rubric.text.strip()}\n\n{_DIALOGUE_TITLE}{lines}".rstrip("\n")


def _turns(dialogue: Dialogue) -> Iterable[tuple[str, str]]:
    return zip((*dialogue.roles, "assistant"), (*dialogue.context, dialogue.response), strict=True)


def turn_line(role: str, text: str) -> str:
    """How a judge is shown a turn: on one line, with its speaker, whatever the text holds."""
    return f"{LABELS[role]}: {neutralised(text)}\n"


def neutralised(text: str) -> str:
    """User text on one line, with template markers broken up (`<|im_end|>` -> `< |im_end| >`)."""
    flat = _SPACES.sub(" ", text).strip()
    return _MARKERS.sub(lambda m: f"{m[0][0]} {m[0][1:-1]} {m[0][-1]}", flat)


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Special tokens, and added ones that look like markup: what text must never turn into."""
    added = tokenizer.added_tokens_decoder
    found = {str(token): i for i, token in added.items() if token.special or _looks_like_markup(str(token))}
    return found | dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))


def _looks_like_markup(token: str) -> bool:
    return bool(_MARKUP.fullmatch(token) or _MARKERS.search(token))


def around_dialogue(tokenizer: PreTrainedTokenizerBase, rubric: str) -> tuple[str, str]:
    """The texts before and after the dialogue: by the chat template, or plain where there is none."""
    if not tokenizer.chat_template:
        return f"{tokenizer.bos_token or ''}{rubric}\n\n{_DIALOGUE_TITLE}", "\n"
    mark = "\N{WHITE HEXAGON}dialogue\N{WHITE HEXAGON}"
    text = rendered(tokenizer, f"{rubric}\n\n{_DIALOGUE_TITLE}{mark}")
    if text.count(mark) != 1:
        raise ScorerError("the tokenizer's chat template loses or repeats what the user says; give another tokenizer")
    before, after = text.split(mark)
    return before, after
