"""From answers to scores: the probability of each value 0 to 10, from a model's logits or from a server's answer.

A server's answer is generated text, so each number was written by one run of tokens: `" 8"`, `"10"`, or `"1"` then
`"0"`. At its first token the alternatives that the server lists give the probabilities. Where the tokenizer splits 10,
a first digit 1 can still become 10. If 1 was taken, the alternatives of the next token tell how probable that was. If
another digit was taken, this is unknown: a server that continues a text is asked for it; elsewhere 1 and 10 share the
probability of the 1 as their neighbours 2 and 9 do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from ...axes import AXES, MAX_SCORE, MIN_SCORE
from ...data.chat import without_thought
from ...data.dialogue import Dialogue
from ..base import BatchedScorer, ScoredBatch
from .rubric import form_spans, parse_form


VALUES = tuple(range(int(MAX_SCORE) + 1))  # the integers that a judge can answer

DETAILS = tuple(f"{axis}_{what}" for axis in AXES for what in ("mode", "std", "mass"))
"""Columns on request: the greedy answer, the spread, and the total probability of the answers 0 to 10."""

_NUMBERS = {str(value).encode(): value for value in VALUES}


def summarised(values: np.ndarray, mode: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """
    Scores, shape `(n, 2)`, and for each of [`DETAILS`] an array of shape `(n,)`, from the greedy answers `(n, 2)` and
    the probability of each answer 0 to 10 `(n, 2, 11)`, NaN where it is not known.
    """
    mass = values.sum(axis=2)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = values / mass[:, :, None]
    expected = shares @ np.array(VALUES, float)
    spread = np.sqrt(np.maximum((shares * (np.array(VALUES) - expected[:, :, None]) ** 2).sum(axis=2), 0))
    details: dict[str, np.ndarray] = {}
    for a, axis in enumerate(AXES):
        details |= {f"{axis}_mode": mode[:, a], f"{axis}_std": spread[:, a], f"{axis}_mass": mass[:, a]}
    return np.clip(expected, MIN_SCORE, MAX_SCORE), details


class BatchedJudge(BatchedScorer):
    """A scorer whose batches bring [`DETAILS`]."""

    details = DETAILS

    def score_with_details(self, dialogues: Sequence[Dialogue]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The scores, and for each of [`DETAILS`] an array of shape `(n,)`, NaN where it is not known."""
        scores = np.full((len(dialogues), len(AXES)), np.nan)
        details = {name: np.full(len(dialogues), np.nan) for name in DETAILS}
        for batch in self.score_batches(dialogues):
            where = list(batch.indices)
            scores[where] = batch.scores
            for name, values in batch.details.items():
                details[name][where] = values
        return scores, details


class Token(NamedTuple):
    """A generated token, and its alternatives, itself included: (text, probability)."""

    text: bytes
    alternatives: tuple[tuple[bytes, float], ...]

    @classmethod
    def read(cls, item: dict[str, Any]) -> Token:
        """From an entry of `logprobs.content`; raises where it is malformed."""
        text, chance = _entry(item)
        others = [_entry(other) for other in item.get("top_logprobs") or ()]
        if text not in (other for other, _ in others):
            others.append((text, chance))
        if sum(chance for _, chance in others) > 1.01:
            raise ValueError("probabilities of more than 1")
        return cls(text, tuple(others))


def _entry(item: dict[str, Any]) -> tuple[bytes, float]:
    text, given, logprob = item["token"], item.get("bytes"), item["logprob"]
    if isinstance(logprob, bool) or not isinstance(logprob, (int, float)) or math.isnan(logprob) or logprob > 0.01:
        raise ValueError("not a log probability")
    return bytes(given) if isinstance(given, list) and given else _bytes(text), math.exp(min(logprob, 0.0))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # JSON can hold half a character


@dataclass(frozen=True)
class Completion:
    """A chat completion of one choice, without the thought before the answer."""

    text: str
    tokens: list[Token]  # empty where the server gives no log probabilities that can be read
    filtered: bool  # the server withheld the answer
    cut_off: bool  # the answer did not end by itself
    written: str  # all text, with the thought

    @classmethod
    def read(cls, body: Any) -> Completion | None:
        """From a server's JSON, whatever it holds; `None` unless it has exactly one choice with a message of text."""
        choices = body.get("choices") if isinstance(body, dict) else None
        if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
            return None
        [choice] = choices
        message = choice.get("message")
        content = _text_of(message.get("content")) if isinstance(message, dict) else None
        if content is None:
            return None
        try:
            tokens = [Token.read(item) for item in choice["logprobs"]["content"]]
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
            tokens = []
        filtered = choice.get("finish_reason") == "content_filter" or bool(message.get("refusal"))
        return cls(without_thought(content), tokens, filtered, choice.get("finish_reason") == "length", content)

    @property
    def has_alternatives(self) -> bool:
        """Whether the server lists more than the tokens that were taken."""
        return any(len(token.alternatives) > 1 for token in self.tokens)


def _text_of(content: Any) -> str | None:
    """The text of a message's content: a string, or a list of parts, of which thoughts are left out."""
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and part.get("type") in ("text", "output_text")]
        texts = [part.get("text") for part in parts]
        return "".join(map(str, texts)) if parts and all(isinstance(text, str) for text in texts) else None
    return content or "" if isinstance(content, (str, type(None))) else None


class Answer(NamedTuple):
    """The result for one sample: each value's probability and the integers written, or the `reason` for neither."""

    sample: int
    reason: str | None
    values: np.ndarray = np.full((len(AXES), len(VALUES)), np.nan)
    mode: tuple[float, float] = (np.nan, np.nan)
    used: int = 0  # tokens, as the server counts them


def read_answer(body: Any, sample: int, top: int) -> Answer:
    """The [`Answer`] that a chat completion gives."""
    found = Completion.read(body)
    if found is None:
        return Answer(sample, "server_malformed")
    used, mode = used_tokens(body), parse_form(found.text)
    if found.cut_off:
        return Answer(sample, "server_cut_off", used=used)
    if mode is None:
        refused = found.filtered and not found.text
        return Answer(sample, "server_refused" if refused else "answer_not_in_form", used=used)
    if not top:
        return Answer(sample, None, mode=mode, used=used)
    spans = form_spans(found.text) or {}
    slots = slots_of(found.text, found.tokens, [spans[axis] for axis in AXES])
    if slots is None or not all(slot.chances.sum() for slot in slots):
        return Answer(sample, "server_malformed", used=used)
    return Answer(sample, None, np.stack([slot.values() for slot in slots]), mode, used)


def used_tokens(body: Any) -> int:
    """How many tokens prompt and answer have, as the server counts them; 0 where it does not say."""
    usage = body.get("usage") if isinstance(body, dict) else None
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")] if isinstance(usage, dict) else []
    return sum(n for n in counts if isinstance(n, int) and not isinstance(n, bool) and n > 0)


def batch_of(answers: Sequence[Answer], top: int) -> ScoredBatch:
    """Answers as a batch: expected values where there are probabilities (`top`), else the integers written."""
    mode = np.array([answer.mode for answer in answers], float)
    scores, details = summarised(np.stack([answer.values for answer in answers]), mode)
    return ScoredBatch(
        indices=[answer.sample for answer in answers],
        scores=scores if top else mode,
        reasons=[answer.reason for answer in answers],
        details=details,
        forward_tokens=sum(answer.used for answer in answers),
    )


def slots_of(answer: str, tokens: Sequence[Token], spans: Iterable[tuple[int, int]]) -> list[Slot] | None:
    """What the tokens tell about the numbers in these places of an answer; `None` where they do not spell it."""
    shown = answer.strip()
    begin = b"".join(token.text for token in tokens).rfind(_bytes(shown))
    if begin < 0:
        return None
    begin -= len(_bytes(answer[: answer.index(shown)]))
    ends = list(accumulate(len(token.text) for token in tokens))
    return [_slot(tokens, ends, *(begin + len(_bytes(answer[:at])) for at in span)) for span in spans]


@dataclass(frozen=True)
class Slot:
    """What the tokens tell about one number."""

    chances: np.ndarray  # of each answer, (11,); where 10 is two tokens, of its first one under 1
    written: int | None  # the answer taken, 1 for the first of two tokens
    ten: float | None  # the probability that a first digit 1 becomes 10; `None` where the tokens do not tell

    @classmethod
    def first(cls, tokens: Sequence[Token]) -> Slot | None:
        """The first number of a text that continues a slot; `None` where no number is among the alternatives."""
        text = b"".join(token.text for token in tokens)
        start = len(text) - len(text.lstrip(b" "))
        if start == len(text):
            return None
        found = _slot(tokens, list(accumulate(len(token.text) for token in tokens)), start, start + 1)
        return found if found.chances.sum() else None

    def values(self) -> np.ndarray:
        """The probability of each answer; where it is not known what a 1 becomes, 2 and 9 tell (see the module)."""
        found, ten = self.chances.copy(), self.ten
        if ten is None:
            pairs = ((found[2], found[9]), (found[2:6].sum(), found[6:10].sum()))
            low, high = next((pair for pair in pairs if sum(pair)), (1, 0))
            ten = 0.0 if self.written == 1 else high / (low + high)
        found[10] += found[1] * ten
        found[1] *= 1 - ten
        return found


def _slot(tokens: Sequence[Token], ends: Sequence[int], start: int, stop: int) -> Slot:
    """The number that lies in `[start, stop)` of the tokens' text."""
    first = next(i for i, end in enumerate(ends) if start < end)
    token = tokens[first]
    lead = token.text[: start - (ends[first] - len(token.text))]  # what the token holds before the number
    chances = np.zeros(len(VALUES))
    for text, chance in token.alternatives:
        value = _value(text, lead)
        if value is not None:
            chances[value] += chance
    written = 1 if ends[first] < stop else _value(token.text, lead)
    if written == 1 and first + 1 < len(tokens):
        return Slot(chances, written, zero(tokens[first + 1]))
    return Slot(chances, written, 0.0 if chances[10] else None)


def _value(text: bytes, lead: bytes) -> int | None:
    """The number in a token that holds nothing else but `lead` and white space; else `None`."""
    mark, bare = lead.strip(), text.strip()
    return _NUMBERS.get(bare[len(mark) :].strip()) if bare.startswith(mark) else None


def zero(token: Token) -> float:
    """The probability that a token continues a number with a 0."""
    return min(1.0, sum(chance for text, chance in token.alternatives if text.rstrip() == b"0"))
