"""[`EmpathySFTTrainer`]: SFTTrainer with scores from the start, so that packed rows know their samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trl import SFTTrainer

from ..scoring.base import ScoringSelector
from .callback import EmpathyCallback
from .policies.named import Policy
from .trl_internals import OnlineMixin


class EmpathySFTTrainer(OnlineMixin, SFTTrainer):
    """
    [`~trl.SFTTrainer`] that draws and weights its samples by their empathy scores, packed or not.

    With packing, scores, losses and weights are those of the samples, in the order in which they are packed. A packed
    row is drawn with the mean sampling weight of its tokens' samples, and samples in it that have a sampling weight of
    0 do not count in the loss.

    Args:
        args, kwargs: As SFTTrainer's.
        selector, policy: See [`EmpathyCallback`].
        online (`Mapping`, *optional*): The other arguments of [`EmpathyCallback`], e.g. `{"warmup": 0.1}`.
    """

    def __init__(
        self,
        *args: Any,
        selector: ScoringSelector,
        policy: str | Policy = "sensibility",
        online: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.empathy_granularity = (online or {}).get("granularity", "sample")
        super().__init__(*args, **kwargs)
        self.add_callback(EmpathyCallback(selector, policy, trainer=self, **(online or {})))
