"""The loss-aware policy: high quality, not yet learnt, and not hopeless."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...axes import DEFAULT_THRESHOLD, SENSIBILITY, TIES, Threshold, thresholds
from ...errors import SelectionError
from .score import FIX, MAX_TAU, check_quadrants, soft_gate
from .weights import UNSCORED, WEIGH, as_returned, check_choice, check_inputs, check_number, settle


if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike

    from .weights import Weights


def loss_quantiles(losses: np.ndarray) -> np.ndarray:
    """
    Where each loss stands among those seen: its middle rank over their number, in (0, 1); NaN where not seen.

    Equal losses have equal quantiles, and a single one has 0.5.
    """
    import numpy as np

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

    Args:
        losses (`np.ndarray` of shape `(n,)`): Nats per token, NaN where not seen.
        learnt (`float`, *optional*, defaults to `0.2`): Below this quantile a sample counts as learnt by and by.
        hopeless (`float`, *optional*, defaults to `0.9`): Above this quantile it counts as hopeless by and by.
        least (`float`, *optional*, defaults to `0.1`): At the very ends.

    Returns:
        `np.ndarray` of shape `(n,)`, in [least, 1].
    """
    import numpy as np

    q = loss_quantiles(losses)
    bump = np.ones(len(q))
    if learnt > 0:
        bump = np.minimum(bump, q / learnt)
    if hopeless < 1:
        bump = np.minimum(bump, (1 - q) / (1 - hopeless))
    return np.where(np.isnan(q), 1.0, least + (1 - least) * bump)


@dataclass(frozen=True, kw_only=True)
class LossAware:
    """
    Emphasis on samples of high quality that are still learnable: less on those learnt already and on the hopeless.

        w_i = quality_i x learnability_i,    quality = the soft gate at a fixed tau,
        learnability = least + (1 - least) min(1, q / learnt, (1 - q) / (1 - hopeless)), q the quantile of its loss

    Source: the formula is own. The idea is that of RHO-LOSS (Mindermann et al. 2022, arXiv 2206.07137: points that
    are learnable, worth learning, not yet learnt) and of Rho-1's selective language modelling (Lin et al. 2024, arXiv
    2404.07965: likewise for tokens). Both measure against a reference model; this does without one, so that a high
    loss that would fall cannot be told from one that never will, and a quantile stands in for the difference. That
    learnt samples can be left out is what example forgetting (Toneva et al. 2019, arXiv 1812.05159) and EL2N pruning
    (Paul et al. 2021, arXiv 2107.07075) saw, on images; both keep the hard ones, which are often noise (RHO-LOSS).

    Helps over several epochs on data with noise. Does not help in the first epoch: no sample has been seen before it
    is drawn, so the quality alone acts. Losses are as last seen: an old one is too high by what the model has learnt
    since, and short replies have the most extreme means. Not known: whether it beats the gate, and the best quantiles.

    Args:
        keep (`str` or `Sequence[str]`, *optional*, defaults to `"sensibility"`): Quadrants of high quality.
        tau (`float`, *optional*, defaults to `1.0`): Temperature of the quality, in points of score, in (0, 100].
        learnt (`float`, *optional*, defaults to `0.2`): See [`learnability`]; 0 leaves the lowest losses alone.
        hopeless (`float`, *optional*, defaults to `0.9`): Above `learnt`; 1 leaves the highest losses alone.
        least (`float`, *optional*, defaults to `0.1`):
            Learnability at both ends, in (0, 1]: above 0, so that a sample forgotten can come back.
        weigh (`str`, *optional*, defaults to `"loss"`):
            Whether the weights are of the loss or of the draws (`"sampling"`). Of the loss, every sample is drawn, and
            its loss is measured anew at each draw; of the draws, the rarely drawn keep an old one.
        threshold, ties: See [`~ee_trl.quadrants`] and, for ties, [`~ee_trl.online.policies.score.soft_gate`].
        unscored (`str`, *optional*, defaults to `"drop"`):
            Weight of samples without scores: 0, or the mean of the others (`"keep"`).
    """

    keep: str | Sequence[str] = SENSIBILITY
    tau: float = 1.0
    learnt: float = 0.2
    hopeless: float = 0.9
    least: float = 0.1
    weigh: str = "loss"
    threshold: Threshold = DEFAULT_THRESHOLD
    ties: str = "drop"
    unscored: str = "drop"
    needs_losses: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_quadrants(self.keep)
        check_number("tau", self.tau, 0, MAX_TAU, above=True)
        check_number("learnt", self.learnt, 0, 1)
        check_number("hopeless", self.hopeless, 0, 1)
        check_number("least", self.least, 0, 1, above=True)
        if self.learnt >= self.hopeless:
            raise SelectionError(f"learnt={self.learnt} is not below hopeless={self.hopeless}; both are quantiles")
        check_choice("weigh", self.weigh, WEIGH)
        thresholds(self.threshold)
        check_choice("ties", self.ties, TIES)
        check_choice("unscored", self.unscored, UNSCORED)

    @property
    def needs_weights(self) -> bool:
        """Whether it returns loss weights."""
        return self.weigh == "loss"

    def __call__(self, scores: ArrayLike, losses: ArrayLike, progress: float) -> Weights:
        """Weights of mean 1 of the loss, or in [0, 1] of the draws; `progress` is not used."""
        found, seen = check_inputs(scores, losses, progress)
        quality = soft_gate(found, self.tau, self.keep, self.threshold, self.ties)
        weights = quality * learnability(seen, self.learnt, self.hopeless, self.least)
        return as_returned(settle(weights, self.unscored, "loss_aware", FIX), self.weigh)
