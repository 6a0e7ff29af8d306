"""
The scorers as reward functions of TRL's GRPOTrainer (and of every trainer that takes such functions).

In a script: `GRPOTrainer(model, reward_funcs=sensibility_reward, train_dataset=...)` with the bundled scorer, or
`reward_funcs=EmpathyReward("Qwen/Qwen3-8B", "sensibility")` with a judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from .axes import AXES, MAX_SCORE, RATIONALITY, SENSIBILITY
from .dialogue import dialogue_of
from .errors import EmpathyError, FormatError, unknown


if TYPE_CHECKING:
    from .scoring.base import Scorer


class EmpathyReward:
    """
    A reward from 0 to 1: the score of the completion, in the light of its prompt, over the highest possible.

    Args:
        scorer (`str`, `os.PathLike` or [`Scorer`], *optional*, defaults to `"linear"`):
            What [`load_scorer`] takes.
        axis (`str` or `Mapping[str, float]`, *optional*, defaults to `"sensibility"`):
            The axis that counts; or weights of both, whose weighted sum is the reward.
        failed (`float`, *optional*, defaults to `0.0`):
            The reward of an empty completion. One that the scorer gives no score gets none (`None`), and TRL leaves it
            out.
        options:
            Of a scorer that is loaded here, e.g. `quantization="nf4"`.

    Raises:
        [`ScorerError`]: There is no such scorer.
        [`EmpathyError`]: An axis that is not known.
    """

    def __init__(
        self,
        scorer: Any = "linear",
        axis: str | Mapping[str, float] = SENSIBILITY,
        *,
        failed: float = 0.0,
        **options: Any,
    ) -> None:
        from .scoring.load import load_scorer

        weights = {axis: 1.0} if isinstance(axis, str) else dict(axis)
        for name in weights:
            if name not in AXES:
                raise EmpathyError(unknown("axis", name, AXES))
        self.weights = tuple(float(weights.get(name, 0.0)) for name in AXES)
        self.failed = failed
        self.scorer: Scorer = load_scorer(scorer, **options)
        name = axis if isinstance(axis, str) else "empathy"
        self.__name__ = f"{name}_reward"  # what TRL calls it in its logs

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **kwargs: Any) -> list[float | None]:
        """
        The rewards of a batch.

        Args:
            prompts (`Sequence`): Conversations as lists of messages, or plain texts.
            completions (`Sequence`): The generated replies, in the same form.
            kwargs: Other columns and what TRL adds; not used.

        Returns:
            `list[float | None]`: one for each completion.
        """
        from .scoring.run import ScoringRun

        replies = [reply_text(completion) for completion in completions]
        asked = [i for i, reply in enumerate(replies) if reply.strip()]
        rewards: list[float | None] = [self.failed] * len(replies)
        dialogues = [dialogue_of(context_of(prompts[i]), replies[i]) for i in asked]
        scores = ScoringRun(self.scorer).score(dialogues).scores
        for i, row in zip(asked, scores.tolist(), strict=True):
            reward = sum(weight * score for weight, score in zip(self.weights, row, strict=True)) / MAX_SCORE
            rewards[i] = None if reward != reward else reward
        return rewards


def reply_text(completion: Any) -> str:
    """The text of a completion, which is a text or a list of messages."""
    if isinstance(completion, str):
        return completion
    try:
        return "\n".join(str(message["content"] or "") for message in completion)
    except (TypeError, KeyError):
        raise FormatError(f"a completion must be a text or a list of messages, got {completion!r}") from None


def context_of(prompt: Any) -> list[Any]:
    """The turns of a prompt, which is a text (one turn of the speaker) or a list of messages."""
    return [prompt] if isinstance(prompt, str) else list(prompt)


@lru_cache(maxsize=2)
def _linear(axis: str) -> EmpathyReward:
    return EmpathyReward("linear", axis)


def sensibility_reward(prompts: Sequence[Any], completions: Sequence[Any], **kwargs: Any) -> list[float | None]:
    """Sensibility by the bundled scorer, 0 to 1; see [`EmpathyReward`]."""
    return _linear(SENSIBILITY)(prompts, completions, **kwargs)


def rationality_reward(prompts: Sequence[Any], completions: Sequence[Any], **kwargs: Any) -> list[float | None]:
    """Rationality by the bundled scorer, 0 to 1; see [`EmpathyReward`]."""
    return _linear(RATIONALITY)(prompts, completions, **kwargs)
