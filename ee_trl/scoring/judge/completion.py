"""Reading a chat completion, whatever it holds: scores, or the reason why there are none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ...axes import AXES
from ..base import ScoredBatch
from .answers import VALUES, summarised
from .logprobs import Token, form_distributions, read_tokens
from .rubric import parse_form


class Answer(NamedTuple):
    """What came of one sample: the probability of each value and the integers written, or the `reason` for neither."""

    sample: int
    reason: str | None
    values: np.ndarray  # (2, 11); NaN where the server gives no log probabilities
    mode: tuple[float, float]
    used: int  # tokens, as the server counts them


def read_answer(body: Any, sample: int, top: int) -> Answer:
    """
    The [`Answer`] that a chat completion gives.

    Args:
        body (`Any`): Its JSON; `None` where what came was none.
        sample (`int`): Which sample it is of.
        top (`int`): How many alternatives a token were asked for; without them a sample has no score, unless 0 were.
    """
    choice = choice_of(body)
    if choice is None:
        return without("server_malformed", sample)
    used, text = _used(body), text_of(choice)
    if not text:
        filtered = choice.get("finish_reason") == "content_filter" or choice["message"].get("refusal")
        return without("server_refused" if filtered else "answer_not_in_form", sample, used)
    mode = parse_form(text)
    if mode is None:
        return without("answer_not_in_form", sample, used)
    if not top:
        return Answer(sample, None, np.full((len(AXES), len(VALUES)), np.nan), mode, used)
    tokens = tokens_of(choice)
    values = form_distributions(text, tokens) if tokens else None
    if values is None or not values.sum(axis=1).all():
        return without("server_malformed", sample, used)
    return Answer(sample, None, values, mode, used)


def choice_of(body: Any) -> dict[str, Any] | None:
    """The one choice of a chat completion, `None` where there is not exactly one with a message of text."""
    choices = body.get("choices") if isinstance(body, dict) else None
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        return None
    message = choices[0].get("message")
    if not isinstance(message, dict) or not isinstance(message.get("content"), (str, type(None))):
        return None
    return choices[0]


def text_of(choice: dict[str, Any]) -> str:
    """What the model wrote."""
    return choice["message"].get("content") or ""


def tokens_of(choice: dict[str, Any]) -> list[Token] | None:
    """The tokens with their log probabilities, `None` where the server gives none that can be read."""
    logprobs = choice.get("logprobs")
    return read_tokens(logprobs.get("content") if isinstance(logprobs, dict) else None)


def _used(body: dict[str, Any]) -> int:
    usage = body.get("usage")
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")] if isinstance(usage, dict) else []
    return sum(n for n in counts if isinstance(n, int) and not isinstance(n, bool) and n > 0)


def without(reason: str, sample: int, used: int = 0) -> Answer:
    """The [`Answer`] of a sample that has no scores."""
    return Answer(sample, reason, np.full((len(AXES), len(VALUES)), np.nan), (np.nan, np.nan), used)


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
