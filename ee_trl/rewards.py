"""
The scorers as reward functions of TRL's GRPOTrainer, and of every trainer that takes such functions.

In a script: `GRPOTrainer(model, reward_funcs=sensibility_reward, train_dataset=...)` with the bundled scorer, or
`reward_funcs=EmpathyReward("Qwen/Qwen3-8B", "sensibility")` with a judge.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from numbers import Real
from typing import Any

import numpy as np

from .axes import APPROPRIATENESS, AXES, MAX_SCORE, NOT_ENGLISH, RATIONALITY, SENSIBILITY, combined_scores
from .data.dialogue import dialogue_of
from .data.formats import BadRow, content_text
from .errors import EmpathyError, FormatError, check_choice
from .scoring.base import Scorer
from .scoring.kinds import DEFAULT_SCORER
from .scoring.load import load_scorer
from .scoring.run import ScoringRun


COMBINED = "combined"
"""Both axes in one number, times the appropriateness; see [`~ee_trl.axes.combined_scores`]."""

AXIS_OR_WEIGHTS = f"{', '.join(AXES)}, {COMBINED}, or weights such as {{'{AXES[0]}': 0.7, '{AXES[1]}': 0.3}}"


class EmpathyReward:
    """
    A reward from 0 to 1: the score of the completion, given its prompt, divided by the highest possible score.

    TRL's logs name it by its axes and weights, e.g. `sensibility_reward` or `sensibility_0.7_rationality_0.3_reward`.

    Args:
        scorer (`str`, `os.PathLike` or [`Scorer`], *optional*, defaults to [`~ee_trl.scoring.kinds.DEFAULT_SCORER`]):
            What [`load_scorer`] takes.
        axis (`str` or `Mapping[str, float]`, *optional*, defaults to `"sensibility"`):
            The axis that counts, or `"combined"`: the mean of both, times the probability that the reply fits its
            context where the scorer gives one. Or weights, e.g. `{"sensibility": 0.7, "rationality": 0.3}`. Only their
            ratio counts: they are divided by the sum of their absolute values. A negative weight subtracts its axis,
            and the reward can fall to -1.
        failed (`float`, *optional*):
            The reward of an empty completion and of a flagged one (hostile, off topic, repetitive, not English, ...);
            by default the lowest that the weights allow, so that neither ever pays. Without a score from the scorer
            the reward is `None`, and TRL leaves the completion out.
        options: Passed to [`load_scorer`], e.g. `quantization="nf4"`.

    Raises:
        [`ScorerError`]: There is no such scorer.
        [`EmpathyError`]: An axis is unknown, a weight is not a number, or all weights are 0.
    """

    def __init__(
        self,
        scorer: Any = DEFAULT_SCORER,
        axis: str | Mapping[str, float] = SENSIBILITY,
        *,
        failed: float | None = None,
        **options: Any,
    ) -> None:
        self.combined = axis == COMBINED
        self.weights = (0.5, 0.5) if self.combined else _weights(axis)
        self.failed = sum(min(weight, 0.0) for weight in self.weights) if failed is None else failed
        self.scorer: Scorer = load_scorer(scorer, **options)
        self.__name__ = f"{COMBINED if self.combined else _name(self.weights)}_reward"  # what TRL calls it in its logs

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **kwargs: Any) -> list[float | None]:
        """
        The reward of each completion.

        Args:
            prompts (`Sequence`): Conversations as lists of messages, or plain texts.
            completions (`Sequence`): The generated replies, in the same form.
            kwargs: Other columns and what TRL adds; not used.

        Raises:
            [`FormatError`]: A completion is not text, or there are not as many prompts as completions.
        """
        if len(prompts) != len(completions):
            raise FormatError(
                f"{len(prompts)} prompts and {len(completions)} completions do not go together; give a prompt for each"
            )
        replies = [reply_text(completion) for completion in completions]
        asked = [i for i, reply in enumerate(replies) if reply.strip()]
        rewards: list[float | None] = [self.failed] * len(replies)
        dialogues = [dialogue_of(context_of(prompts[i]), replies[i]) for i in asked]
        found = ScoringRun(self.scorer).score(dialogues)
        fits = found.details.get(APPROPRIATENESS) if self.combined else None
        weighted = (weight * column for weight, column in zip(self.weights, found.scores.T, strict=True))
        values = combined_scores(found.scores, fits) if self.combined else np.add(*weighted)
        flags = found.flags or [None] * len(asked)
        for i, value, status, flag in zip(asked, values.tolist(), found.statuses, flags, strict=True):
            if flag is None and status != NOT_ENGLISH:
                rewards[i] = None if value != value else value / MAX_SCORE
        return rewards


def _weights(axis: str | Mapping[str, float]) -> tuple[float, ...]:
    """The weight of each axis; their absolute values sum to 1."""
    if not isinstance(axis, (str, Mapping)):
        raise EmpathyError(f"axis {axis!r} is neither a name nor weights; valid: {AXIS_OR_WEIGHTS}")
    weights = {axis: 1.0} if isinstance(axis, str) else dict(axis)
    for name, weight in weights.items():
        check_choice("axis", name, AXES if isinstance(axis, Mapping) else (*AXES, COMBINED))
        if not isinstance(weight, Real) or not math.isfinite(weight):
            raise EmpathyError(f"the weight of {name}, {weight!r}, is not a number; valid: {AXIS_OR_WEIGHTS}")
    whole = sum(abs(float(weight)) for weight in weights.values())
    if not whole:
        raise EmpathyError(f"axis {axis!r} gives no axis a weight; valid: {AXIS_OR_WEIGHTS}")
    return tuple(float(weights.get(name, 0.0)) / whole for name in AXES)


def _name(weights: Sequence[float]) -> str:
    """`sensibility`, or `sensibility_0.7_rationality_0.3`."""
    return "_".join(
        name if weight == 1 else f"{name}_{weight:.4g}" for name, weight in zip(AXES, weights, strict=True) if weight
    )


def reply_text(completion: Any) -> str:
    """The text of a completion: a text, or a list of messages whose contents are texts or lists of text parts."""
    if isinstance(completion, str):
        return completion
    try:
        contents = [message["content"] for message in completion]
        return "\n".join(content_text(content) for content in contents if content is not None)
    except (TypeError, KeyError, BadRow):
        raise FormatError(
            f"a completion must be a text or a list of messages of text alone, got {completion!r}"
        ) from None


def context_of(prompt: Any) -> list[Any]:
    """The turns of a prompt: a list of messages, or a text, which is one turn of the speaker."""
    return [prompt] if isinstance(prompt, str) else list(prompt)


@lru_cache(maxsize=2)
def _default(axis: str) -> EmpathyReward:
    return EmpathyReward(axis=axis)


def sensibility_reward(prompts: Sequence[Any], completions: Sequence[Any], **kwargs: Any) -> list[float | None]:
    """Sensibility by the bundled scorer, 0 to 1; see [`EmpathyReward`]."""
    return _default(SENSIBILITY)(prompts, completions, **kwargs)


def rationality_reward(prompts: Sequence[Any], completions: Sequence[Any], **kwargs: Any) -> list[float | None]:
    """Rationality by the bundled scorer, 0 to 1; see [`EmpathyReward`]."""
    return _default(RATIONALITY)(prompts, completions, **kwargs)
