"""[`ScoringSpec`]: what another process, or a trainer, needs to score as a selector does."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..data.dialogue import Turns
from .base import Scorer


@dataclass(frozen=True)
class ScoringSpec:
    """
    A scorer by name, its options, where its scores are stored, and how scores are judged.

    Args:
        scorer (`str`, `os.PathLike` or [`Scorer`]): See [`~ee_trl.load_scorer`].
        options (`Mapping`): Options of the scorer's class.
        store (`str`, *optional*): Path of the score store; `None` for no store.
        retry_failures (`bool`): Whether dialogues that a scorer failed on in an earlier run are tried again.
        threshold (`tuple[float, float]`): T of sensibility and of rationality.
        ties (`str`): What a score equal to T is: `"drop"`, `"high"` or `"low"`.
        turns (`str`): `"each"` listener turn of a conversation is a sample, or the `"last"`.
    """

    scorer: str | os.PathLike[str] | Scorer
    options: Mapping[str, Any] = field(default_factory=dict)
    store: str | None = None
    retry_failures: bool = False
    threshold: tuple[float, float] = (5.0, 5.0)
    ties: str = "drop"
    turns: Turns = "each"


class ScoringSelector(Protocol):
    """What online training needs of a selector; [`EmpathyDataSelector`] is one."""

    @property
    def spec(self) -> ScoringSpec:
        """What it takes to score in another process."""
        ...

    def score(self, dataset: Any) -> Any:
        """Adds score columns to a data set, see [`EmpathyDataSelector.score`]."""
        ...
