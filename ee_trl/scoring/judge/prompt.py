"""What a judge reads: the rubric, the dialogue line by line, and one question for each axis.

A local judge reads token ids. The *prefix* (the chat template up to the dialogue, with the rubric) is the same for
every sample. The *trunk* is the turns of one dialogue. Where a reply ends, a *branch* begins: the *head* (the template
switches to the assistant, and the answer form begins) and one *chain* for each axis. The chains do not see each other,
so each axis is asked on its own. Each part becomes ids by itself, so that every computation, shared or not, sees the
same ids.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

import numpy as np

from ...axes import AXES
from ...data.chat import render
from ...data.dialogue import Dialogue
from ...errors import FormatError, ScorerError
from .answers import VALUES
from .rubric import ANSWER_HEADER, SLOTS, Rubric


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LABELS = {"user": "Speaker", "assistant": "Listener"}

_DIALOGUE_TITLE = "Dialogue:\n"
_BARS = "|\uff5c\u2502\u00a6"
_BRACKETS = re.escape("<>[]{}\uff1c\uff1e\uff3b\uff3d\uff5b\uff5d\u2039\u203a\u27e8\u27e9\u3008\u3009\u3010\u3011")
_BRACKETED = re.compile(rf"([{_BRACKETS}])([^{_BRACKETS}]{{0,100}})(?=([{_BRACKETS}]))")
_DOUBLED = re.compile(rf"([{_BARS}_~@#])\1+")  # |||NAME|||, __start__
_MARKUP = re.compile(r"\s*(?:<.*>|\[.*\])\s*", re.S)  # the form of added tokens that are not words
_SPACES = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u2028\u2029\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]+")


def whole_prompt(rubric: Rubric, dialogue: Dialogue) -> str:
    """Rubric and dialogue as one text, for a server, which applies its own chat template."""
    lines = "".join(turn_line(role, text) for role, text in _turns(dialogue))
    return f"{rubric.text.strip()}\n\n{_DIALOGUE_TITLE}{lines}"


def _turns(dialogue: Dialogue) -> Iterable[tuple[str, str]]:
    return zip((*dialogue.roles, "assistant"), (*dialogue.context, dialogue.response), strict=True)


def turn_line(role: str, text: str) -> str:
    """A turn as a judge sees it: on one line, with its speaker, whatever the text holds."""
    return labelled(LABELS[role], text)


def labelled(label: str, text: str) -> str:
    """A text from the data on a line of its own behind a label."""
    return f"{label}: {neutralised(text)}\n"


def neutralised(text: str) -> str:
    """
    User text on one line, with everything in the shape of a control token broken up (`<|im_end|>` -> `< |im_end| >`).

    The rule knows shapes, not tokens: a word or nothing between two brackets (`[THINK]`, `]~b]`, `<seed:eos>`), any
    text between two barred brackets, and a word at a doubled mark (`__start__`). Citations such as `[1]` stay.
    """
    return _broken(_SPACES.sub(" ", text).strip())


def _broken(text: str) -> str:
    return _DOUBLED.sub(_spaced, _BRACKETED.sub(_opened, text))


def _opened(found: re.Match[str]) -> str:
    left, inside, right = found.groups()
    words = " " in inside and not (inside[0] in _BARS or inside[-1] in _BARS)
    letter = len(inside) == 1 and inside.isalnum() and left + right in ("[]", "{}")
    return found[0] if words or letter else f"{left} {inside.strip()}".rstrip() + " "


def _spaced(found: re.Match[str]) -> str:
    text, start, end = found.string, found.start(), found.end()
    before, after = text[start - 1 : start] if start else "", text[end : end + 1]
    if not (before.isalnum() or after.isalnum()):
        return found[0]
    return f"{' ' if before.strip() else ''}{found[0]}{' ' if after.strip() else ''}"


class SafeTokenizer:
    """A judge's tokenizer: trusted text as it is, text from the data without special tokens and markup."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.control_ids = set(tokenizer.all_special_ids)
        for i, token in tokenizer.added_tokens_decoder.items():
            if token.special or _MARKUP.fullmatch(str(token)) or _broken(str(token)) != str(token):
                self.control_ids.add(i)

    def trusted(self, text: str) -> list[int]:
        """The ids of the rubric, a template or a question."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def untrusted(self, text: str) -> list[int]:
        """The ids of a line with text from the data; none of them is a control token."""
        return self.untrusted_lines([text])[0]

    def untrusted_lines(self, texts: Sequence[str]) -> list[list[int]]:
        """[`SafeTokenizer.untrusted`] of many lines at once, which is faster."""
        found = self.tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True) if texts else {}
        return [[i for i in ids if i not in self.control_ids] for ids in found.get("input_ids", ())]

    def around_dialogue(self, instruction: str) -> tuple[str, str]:
        """The texts before and after the dialogue: by the chat template, or plain where there is none."""
        before = f"{instruction.strip()}\n\n{_DIALOGUE_TITLE}"
        if not self.tokenizer.chat_template:
            return f"{self.tokenizer.bos_token or ''}{before}", "\n"
        mark = "\N{WHITE HEXAGON}dialogue\N{WHITE HEXAGON}"
        parts = rendered(self.tokenizer, f"{before}{mark}").split(mark)
        if len(parts) != 2:
            raise ScorerError(
                "the tokenizer's chat template loses or repeats the user's message; give another tokenizer"
            )
        return parts[0], parts[1]


def newest(turns: Sequence[Sequence[int]], room: int, least: int) -> list[Sequence[int]] | None:
    """The last turns that fit into `room` tokens; `None` where even the last `least` turns do not fit."""
    kept = list(turns)
    while sum(map(len, kept)) > room and len(kept) > least:
        del kept[0]
    return kept if sum(map(len, kept)) <= room else None


@dataclass(frozen=True)
class Chain:
    """
    The question for one axis, and how its answer is read.

    `tokens` are the slot (`- Sensibility: `), and where 10 is two tokens also the first of them: the digit 1, or a
    space, which other values have within their own token.
    """

    tokens: tuple[int, ...]
    reads: int  # how many of the last tokens' next-token distributions are needed: 1, or 2 where 10 is split
    first: tuple[int, ...]  # the first id of each value 0 to 10
    second: int | None  # the second id of 10, where 10 is split

    @property
    def slot(self) -> tuple[int, ...]:
        """The ids after which a judge that generates would write its answer."""
        return self.tokens[: len(self.tokens) - self.reads + 1]

    def read(self, chances: np.ndarray) -> np.ndarray:
        """
        The probability of each answer 0 to 10, and the greedy answer, `(n, 12)`, from the probability of each one's
        first token, `(n, 11)`; where 10 is split, also of its second token and of the likeliest one there, `(n, 13)`.
        """
        values = chances[:, : len(VALUES)].astype(float)  # of 10: its first token alone
        greedy = values.argmax(axis=1)
        if self.second is not None:
            goes_on, most = chances[:, len(VALUES) :].astype(float).T
            is_ten = (goes_on >= most) & (values[:, 10] >= values[:, :10].max(axis=1))
            greedy = np.where(is_ten, 10, values[:, :10].argmax(axis=1))
            values[:, 10] *= goes_on
            begins = self.first.index(self.first[10])  # 1, or 10 where no other value begins with the same token
            if begins != 10:
                values[:, begins] *= 1 - goes_on
        return np.column_stack([values, greedy])


class JudgePrompt(SafeTokenizer):
    """
    Turns dialogues into token ids for one tokenizer (by its chat template, if it has one) and rubric.

    Raises [`ScorerError`] where the template loses its input, or the answers cannot be read with this tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, rubric: Rubric) -> None:
        super().__init__(tokenizer)
        before, after = self.around_dialogue(rubric.text)
        self.prefix = tuple(self.trusted(before))
        self.head = tuple(self.trusted(f"{after}{ANSWER_HEADER}\n"))
        self.chains = tuple(self._chain(axis) for axis in AXES)

    def _chain(self, axis: str) -> Chain:
        answers = [self.trusted(f"{SLOTS[axis]} {value}") for value in VALUES]
        shared = len(list(takewhile(lambda ids: len(set(ids)) == 1, zip(*answers, strict=False))))
        rest = [ids[shared:] for ids in answers]
        slot = tuple(answers[0][:shared])
        readable = all(len(ids) == 1 for ids in rest[:10]) and len({ids[0] for ids in rest[:10] if ids}) == 10
        if not readable or len(rest[10]) not in (1, 2) or not slot:
            raise ScorerError(
                f"the tokenizer splits the answers to {SLOTS[axis]!r} into {[len(ids) for ids in rest]} tokens; a "
                "judge needs one token for each of 0 to 9, and one or two for 10. Give another judge"
            )
        first = tuple(ids[0] for ids in rest)
        if len(rest[10]) == 1:
            return Chain(slot, 1, first, None)
        return Chain((*slot, first[10]), 2, first, rest[10][1])

    def turns(self, dialogue: Dialogue) -> list[tuple[int, ...]]:
        """The ids of each turn, the reply last."""
        return self.turns_of_all([dialogue])[0]

    def turns_of_all(self, dialogues: Sequence[Dialogue]) -> list[list[tuple[int, ...]]]:
        """[`JudgePrompt.turns`] of each dialogue; equal turns are tokenised once, and all of them together."""
        turns = list(dict.fromkeys(turn for dialogue in dialogues for turn in _turns(dialogue)))
        ids = dict(zip(turns, map(tuple, self.untrusted_lines([turn_line(*turn) for turn in turns])), strict=True))
        return [[ids[turn] for turn in _turns(dialogue)] for dialogue in dialogues]

    def ids(self, turns: Iterable[Sequence[int]], question: Sequence[int] = ()) -> list[int]:
        """The whole text of one question about a dialogue, given by the ids of its turns."""
        return [*self.prefix, *(i for turn in turns for i in turn), *self.head, *question]


PROMPT_DATE = "2024-07-26"
"""Chat templates get this date as today's date, so that a judge's prompt and fingerprint are the same every day. It is
the default date of Llama 3.1's template."""

# what the directives of strftime give at midnight of that day, in English whatever the locale
_DIRECTIVES = {
    **{"%Y": "2024", "%y": "24", "%m": "07", "%-m": "7", "%d": "26", "%-d": "26", "%e": "26", "%j": "208"},
    **{"%B": "July", "%b": "Jul", "%h": "Jul", "%A": "Friday", "%a": "Fri", "%F": PROMPT_DATE, "%D": "07/26/24"},
    **{"%H": "00", "%-H": "0", "%I": "12", "%-I": "12", "%M": "00", "%S": "00", "%p": "AM", "%T": "00:00:00"},
    **{"%f": "000000", "%R": "00:00", "%z": "", "%Z": "", "%x": "07/26/24", "%X": "00:00:00"},
    **{"%c": "Fri Jul 26 00:00:00 2024", "%u": "5", "%w": "5"},
}
_REPLACED = "".join(f"|replace({directive!r}, {text!r})" for directive, text in _DIRECTIVES.items())
# transformers gives templates only data, no functions, so a macro in the template takes the place of its clock. The
# line break at its end goes with the block (trim_blocks), so the template begins as it did.
_FIXED_CLOCK = "{%- macro strftime_now(format) -%}{{ format" + _REPLACED + " }}{%- endmacro %}\n"


def rendered(tokenizer: PreTrainedTokenizerBase, content: str) -> str:
    """One user message in the chat template, up to where the assistant's answer begins."""
    try:
        template = tokenizer.get_chat_template()
        clock = {"chat_template": _FIXED_CLOCK + template} if "strftime_now" in template else {}
        return render(tokenizer, [{"role": "user", "content": content}], prompt=True, where="the rubric", **clock)
    except (FormatError, ValueError) as error:
        raise ScorerError(
            f"the judge's chat template does not take a single user message ({error}); give another judge, or "
            "set tokenizer.chat_template to one that does and pass model and tokenizer"
        ) from error
