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
    A scorer by name, its options, the path of its score store, and how scores are judged.

    The fields mean what the arguments of [`~ee_trl.EmpathyDataSelector`] mean; `options` are the `scorer_options`.
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

    def score(self, dataset: Any) -> Any:
        """Adds score columns to a data set, see [`EmpathyDataSelector.score`]."""
