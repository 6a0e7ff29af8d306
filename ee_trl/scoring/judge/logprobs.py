"""A server's answer with log probabilities -> the probability of each answer 0 to 10 on each axis.

The answer is generated text, so each number was written by one run of tokens: `" 8"`, `"10"`, or `"1"` then `"0"`. At
its first token the alternatives that the server lists give the probabilities. Where the tokenizer splits 10, a first
digit 1 can still become 10: if it was the token taken, the next token's alternatives tell how probably; if another
was, nothing tells, and it counts as that of 1 and 10 which lies nearer to the mean of the other answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from ...axes import AXES
from .answers import VALUES
from .rubric import form_spans


_NUMBERS = {str(value).encode(): value for value in VALUES}


@dataclass(frozen=True)
class Token:
    """
    One generated token.

    Args:
        text (`bytes`): Of the token that was taken.
        alternatives (`tuple[tuple[bytes, float], ...]`): The tokens that could have stood in its place, itself among
            them, with their probabilities.
    """

    text: bytes
    alternatives: tuple[tuple[bytes, float], ...]


def read_tokens(listed: Any) -> list[Token] | None:
    """The `logprobs.content` of a chat completion; `None` unless it is a list of tokens with log probabilities."""
    try:
        tokens = [_token(item) for item in listed]
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
        return None
    return tokens or None


def _token(item: dict[str, Any]) -> Token:
    text, chance = _entry(item)
    others = [_entry(other) for other in item.get("top_logprobs") or ()]
    if text not in (other for other, _ in others):
        others.append((text, chance))
    if sum(chance for _, chance in others) > 1.01:
        raise ValueError("probabilities of more than 1")
    return Token(text, tuple(others))


def _entry(item: dict[str, Any]) -> tuple[bytes, float]:
    text, given, logprob = item["token"], item.get("bytes"), item["logprob"]
    if isinstance(logprob, bool) or not isinstance(logprob, (int, float)) or math.isnan(logprob) or logprob > 0.01:
        raise ValueError("not a log probability")
    return bytes(given) if isinstance(given, list) and given else _bytes(text), math.exp(min(logprob, 0.0))


def has_alternatives(tokens: Sequence[Token]) -> bool:
    """Whether the server lists more than the tokens that were taken."""
    return any(len(token.alternatives) > 1 for token in tokens)


def form_distributions(answer: str, tokens: Sequence[Token]) -> np.ndarray | None:
    """
    Reads an answer in the rubric's form.

    Args:
        answer (`str`): What the model wrote.
        tokens (`Sequence[Token]`): The tokens that it wrote it with; others may come before and after.

    Returns:
        `np.ndarray` of shape `(2, 11)`: the probability of each answer 0 to 10, sensibility first; what is missing to
        1 lay on something else, or on tokens that the server did not list. `None` where the answer is not in the form
        or the tokens are not those of the answer.
    """
    spans = form_spans(answer)
    if spans is None:
        return None
    text = b"".join(token.text for token in tokens)
    shown = answer.strip()
    begin = text.rfind(_bytes(shown))
    if begin < 0:
        return None
    begin -= len(_bytes(answer[: answer.index(shown)]))
    ends = list(accumulate(len(token.text) for token in tokens))
    return np.stack([_slot(tokens, ends, *(begin + len(_bytes(answer[:at])) for at in spans[axis])) for axis in AXES])


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # JSON can hold half a character


def _slot(tokens: Sequence[Token], ends: Sequence[int], start: int, stop: int) -> np.ndarray:
    """The distribution of the number that lies in `[start, stop)` of the tokens' text."""
    first = next(i for i, end in enumerate(ends) if start < end)
    token = tokens[first]
    lead = token.text[: start - (ends[first] - len(token.text))]  # what the token holds before the number
    chances = np.zeros(len(VALUES))
    for text, chance in token.alternatives:
        value = _value(text, lead)
        if value is not None:
            chances[value] += chance
    if ends[first] < stop or _value(token.text, lead) == 1:  # 1 was taken: the next token tells whether it became 10
        goes_on = _zero(tokens[first + 1]) if first + 1 < len(tokens) else 0.0
        chances[10] += chances[1] * goes_on
        chances[1] *= 1 - goes_on
    elif chances[1] and not chances[10] and _nearer_to_ten(chances):
        chances[10], chances[1] = chances[1], 0.0
    return chances


def _value(text: bytes, lead: bytes) -> int | None:
    """The number that a token is, if it is one and nothing else beside `lead` and white space."""
    mark, bare = lead.strip(), text.strip()
    return _NUMBERS.get(bare[len(mark) :].strip()) if bare.startswith(mark) else None


def _zero(token: Token) -> float:
    """The probability that a token continues a number with a 0."""
    return min(1.0, sum(chance for text, chance in token.alternatives if text.rstrip() == b"0"))


def _nearer_to_ten(chances: np.ndarray) -> bool:
    others = chances.copy()
    others[1] = 0.0
    return bool(others.sum() and others @ np.array(VALUES) / others.sum() > (1 + 10) / 2)
