"""The ways to ask a server for scores: for the whole form, or for one axis at a time as a local judge is asked.

[`Slots`] gives the answer's beginning up to the slot of an axis, and the server continues it: the same text and the
same probabilities as a local judge's. [`Grammar`] and [`Schema`] let the model write nothing but an axis's line, or a
JSON object with its number. [`Way`] itself asks for the form. A probe finds out which of them a server follows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ...axes import AXES
from ...data.chat import NO_THINKING
from .answers import VALUES, Answer, Completion, Slot, read_answer, slots_of, used_tokens, zero
from .rubric import ANSWER_HEADER, SLOTS


Ask = Callable[..., Awaitable[tuple[Any, str | None]]]
"""`ask(text, written, fields)`: an answer's JSON, or why there is none; `written` is the answer's given beginning."""

_NUMBER = "(10|[0-9])"
_TELLING = 0.002  # a first digit 1 of less probability moves the score by less than 0.02, whatever it becomes


class AxisAnswer(NamedTuple):
    """The result for one axis, as [`Answer`] is for both."""

    reason: str | None
    values: np.ndarray = np.full(len(VALUES), np.nan)
    mode: float = np.nan
    used: int = 0


class Way:
    """One request for the whole form."""

    name = "form"

    async def answer(self, ask: Ask, text: str, sample: int, top: int) -> Answer:
        """The scores of one sample, by as many requests as it takes."""
        body, reason = await ask(text)
        return Answer(sample, reason) if reason else read_answer(body, sample, top)


class ByAxis(Way):
    """One request for each axis, in which the model does not see the other."""

    async def answer(self, ask: Ask, text: str, sample: int, top: int) -> Answer:
        """The scores of one sample; the first axis without a score ends it."""
        found: list[AxisAnswer] = []
        for axis in AXES:
            found.append(await self.about(ask, text, axis, top))
            if found[-1].reason:
                return Answer(sample, found[-1].reason, used=sum(one.used for one in found))
        mode = (found[0].mode, found[1].mode)
        return Answer(sample, None, np.stack([one.values for one in found]), mode, sum(one.used for one in found))

    async def about(self, ask: Ask, text: str, axis: str, top: int) -> AxisAnswer:
        """The result for one axis."""
        body, reason = await ask(text, *self.request(axis))
        found = None if reason else Completion.read(body)
        if found is None:
            return AxisAnswer(reason or "server_malformed")
        return self.read(found, axis, top)._replace(used=used_tokens(body))

    def request(self, axis: str) -> tuple[str, dict[str, Any]]:
        """The beginning of the answer that is given, and the request's further fields."""
        raise NotImplementedError

    def read(self, found: Completion, axis: str, top: int) -> AxisAnswer:
        """The result by an answer of the server."""
        match = re.fullmatch(rf"\s*{self.pattern(axis)}\s*", found.text)
        if found.cut_off or match is None:
            refused = found.filtered and not found.text
            return AxisAnswer(
                "server_cut_off" if found.cut_off else "server_refused" if refused else "answer_not_in_form"
            )
        slots = slots_of(found.text, found.tokens, [match.span(1)]) if top else None
        if top and (slots is None or not slots[0].chances.sum()):
            return AxisAnswer("server_malformed")
        values = slots[0].values() if slots else np.full(len(VALUES), np.nan)
        return AxisAnswer(None, values, float(match[1]))

    def pattern(self, axis: str) -> str:
        """What the whole answer about an axis looks like, with the number as its group."""
        raise NotImplementedError

    def followed(self, body: Any, axis: str) -> bool:
        """Whether a server that was asked this way did what it was told: a probe's answer shows it."""
        found = Completion.read(body)
        return found is not None and re.fullmatch(rf"\s*{self.pattern(axis)}\s*", found.text) is not None


class Slots(ByAxis):
    """The server continues the answer after an axis's slot; only for servers that give log probabilities."""

    name = "slots"

    def request(self, axis: str, digit: str = "") -> tuple[str, dict[str, Any]]:
        """The slot, and what makes servers continue it; with a digit, the question how a number goes on."""
        fields = {"add_generation_prompt": False, "continue_final_message": True, "chat_template_kwargs": NO_THINKING}
        limits = {"max_tokens": 1} if digit else {"max_tokens": 4, **only(" ")}
        return f"{ANSWER_HEADER}\n{SLOTS[axis]}{digit}", {**fields, **limits}

    async def about(self, ask: Ask, text: str, axis: str, top: int) -> AxisAnswer:
        """The result for one axis; a second request asks for 10 where the answer does not tell it from 1."""
        body, reason = await ask(text, *self.request(axis))
        found = None if reason else Completion.read(body)
        if found is None or not found.tokens:
            return AxisAnswer(reason or ("server_refused" if found and found.filtered else "server_malformed"))
        slot, used = Slot.first(found.tokens), used_tokens(body)
        if slot is None:
            return AxisAnswer("answer_not_in_form", used=used)
        if slot.ten is None and slot.chances[1] > _TELLING:
            body, reason = await ask(text, *self.request(axis, " 1"))
            more = None if reason else Completion.read(body)
            if more is None or not more.tokens:
                return AxisAnswer(reason or "server_malformed", used=used)
            slot, used = replace(slot, ten=zero(more.tokens[0])), used + used_tokens(body)
        values = slot.values()
        return AxisAnswer(None, values, float(values.argmax()), used)

    def followed(self, body: Any, axis: str) -> bool:
        """A continued slot goes on with a space and a number; no answer of its own begins so."""
        found = Completion.read(body)
        if found is None or not found.has_alternatives:
            return False
        goes_on = found.written.removeprefix(self.request(axis)[0])
        tokens = b"".join(token.text for token in found.tokens).decode(errors="replace")
        return any(re.match(rf" +{_NUMBER}(?!\d)", text) for text in (goes_on, tokens))


class Grammar(ByAxis):
    """The model can write nothing but the form with one axis, by the server's grammar or regular expression."""

    name = "grammar"

    def request(self, axis: str) -> tuple[str, dict[str, Any]]:
        """The fields that force the axis's line."""
        return "", only(f"{ANSWER_HEADER}\n{SLOTS[axis]} ")

    def pattern(self, axis: str) -> str:
        """The form with one axis."""
        return rf"{re.escape(ANSWER_HEADER)}\n{re.escape(SLOTS[axis])} {_NUMBER}"


class Schema(ByAxis):
    """The model can write nothing but a JSON object with the number of one axis."""

    name = "schema"

    def request(self, axis: str) -> tuple[str, dict[str, Any]]:
        """The field that forces the object."""
        number = {"type": "integer", "enum": list(VALUES)}
        shape = {"type": "object", "properties": {axis: number}, "required": [axis], "additionalProperties": False}
        schema = {"name": axis, "strict": True, "schema": shape}
        return "", {"response_format": {"type": "json_schema", "json_schema": schema}}

    def pattern(self, axis: str) -> str:
        """The object."""
        return rf'\{{\s*"{axis}"\s*:\s*{_NUMBER}\s*\}}'


def only(beginning: str) -> dict[str, Any]:
    """The fields that hold an answer to a beginning and a number: of llama.cpp, vLLM (new and old), and SGLang."""
    regex = re.sub(r"([()\[\]{}.*+?|\\^$])", r"\\\1", beginning) + _NUMBER
    grammar = f'root ::= {json.dumps(beginning)} ("10" | [0-9])'
    return {"grammar": grammar, "structured_outputs": {"regex": regex}, "guided_regex": regex, "regex": regex}
