"""The loss-aware policy: high quality, not yet learnt, and not hopeless."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...axes import SENSIBILITY
from ...errors import SelectionError
from .score import MAX_TAU, WEIGH, ScorePolicy, quadrants_only, soft_gate
from .weights import checked, in_range, one_of


def loss_quantiles(losses: np.ndarray) -> np.ndarray:
    """
    The quantile of each loss among the losses seen: its middle rank over their number, in (0, 1); NaN where not seen.

    Equal losses have equal quantiles, and a single one has 0.5.
    """
    seen = ~np.isnan(losses)
    found = np.full(len(losses), np.nan)
    if seen.any():
        _, place, counts = np.unique(losses[seen], return_inverse=True, return_counts=True)
        found[seen] = ((np.cumsum(counts) - counts / 2) / counts.sum())[place]
    return found


def learnability(losses: np.ndarray, learnt: float = 0.2, hopeless: float = 0.9, least: float = 0.1) -> np.ndarray:
    """
    A bump over the quantile q of a sample's loss among those seen: 1 in the middle, falling in a line to both ends.

        l = least + (1 - least) min(1, q / learnt, (1 - q) / (1 - hopeless)),    1 where not seen yet

    Losses are of shape `(n,)`, NaN where not seen; for the other arguments see [`LossAware`].
    """
    q = loss_quantiles(losses)
    bump = np.ones(len(q))
    if learnt > 0:
        bump = np.minimum(bump, q / learnt)
    if hopeless < 1:
        bump = np.minimum(bump, (1 - q) / (1 - hopeless))
    return np.where(np.isnan(q), 1.0, least + (1 - least) * bump)


@dataclass(kw_only=True, eq=False)
class LossAware(ScorePolicy):
    """
    Emphasis on samples of high quality that are still learnable: less on those learnt already and on the hopeless.

        w_i = quality_i x learnability_i,    quality = the soft gate at a fixed tau,
        learnability = least + (1 - least) min(1, q / learnt, (1 - q) / (1 - hopeless)), q the quantile of its loss

    Source: own formula. The idea is RHO-LOSS (Mindermann et al. 2022, arXiv 2206.07137: points that are learnable,
    worth learning, not yet learnt) and Rho-1 (Lin et al. 2024, arXiv 2404.07965: the same for tokens). Both measure
    against a reference model; here a quantile stands in for it, which cannot tell a high loss that would fall from one
    that never will.

    Args:
        keep (`str` or `Sequence[str]`, *optional*, defaults to `"sensibility"`): Quadrants of high quality.
        tau (`float`, *optional*, defaults to `1.0`): Temperature of the quality, in points of score, in (0, 100].
        learnt (`float`, *optional*, defaults to `0.2`): The lower the quantile of the loss is below this, the more the
            sample counts as learnt; 0: low losses count fully.
        hopeless (`float`, *optional*, defaults to `0.9`): The higher the quantile is above this, the more it counts as
            hopeless. Above `learnt`; 1: high losses count fully.
        least (`float`, *optional*, defaults to `0.1`):
            Learnability at both ends, in (0, 1]: above 0, so that a sample that was forgotten can come back.
        weigh (`str`, *optional*, defaults to `"loss"`):
            Loss weights, or sampling weights (`"sampling"`). With loss weights every sample is drawn, which updates
            its loss; with sampling weights, rarely drawn samples keep an old loss.
        threshold, ties, unscored: See [`ScorePolicy`]; for ties, [`~ee_trl.online.policies.score.soft_gate`].
    """

    keep: str | Sequence[str] = checked(SENSIBILITY, quadrants_only)
    tau: float = in_range(1.0, 0, MAX_TAU, above=True)
    learnt: float = in_range(0.2, 0, 1)
    hopeless: float = in_range(0.9, 0, 1)
    least: float = in_range(0.1, 0, 1, above=True)
    weigh: str = one_of("loss", WEIGH)
    needs_losses: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learnt >= self.hopeless:
            raise SelectionError(f"learnt={self.learnt} is not below hopeless={self.hopeless}; both are quantiles")

    def weights(self, scores: np.ndarray, losses: np.ndarray, progress: float) -> np.ndarray:
        """In [0, 1]; `progress` is not used."""
        quality = soft_gate(scores, self.tau, self.keep, self.threshold, self.ties)
        return quality * learnability(losses, self.learnt, self.hopeless, self.least)
