"""Policies by score alone: the released rule as a gate, the same with a soft edge, a curriculum of the two sets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...axes import DEFAULT_THRESHOLD, QUADRANTS, RATIONALITY, SENSIBILITY, TIE, TIES, Threshold, quadrants, thresholds
from ...errors import NothingLeftError
from ...selection import keep_set
from .weights import UNSCORED, WEIGH, as_returned, check_choice, check_inputs, check_number, settle


if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike

    from .weights import Weights

ORDERS = ("sensibility_first", "rationality_first")
SCHEDULES = ("linear", "cosine")
MAX_TAU = 100.0
"""Ten times the range of the scores: every sample counts nearly the same."""


# ---- pure ----------------------------------------------------------------------------------------------------------


def gate(
    scores: np.ndarray, keep: str | Sequence[str], threshold: Threshold = DEFAULT_THRESHOLD, ties: str = "drop"
) -> np.ndarray:
    """1 for the samples in the quadrants named, 0 for the others, NaN where unscored; see [`~ee_trl.quadrants`]."""
    import numpy as np

    where = quadrants(scores[:, 0], scores[:, 1], threshold, ties)
    inside = np.zeros(len(where))
    for name in keep_set(keep):
        inside[where == name] = 1.0
    inside[where == ""] = np.nan
    return inside


def soft_gate(
    scores: np.ndarray,
    tau: float,
    keep: str | Sequence[str],
    threshold: Threshold = DEFAULT_THRESHOLD,
    ties: str = "drop",
) -> np.ndarray:
    """
    How far each sample lies in the quadrants named.

        u = 1 / (1 + exp(-(s - T) / tau)) on each axis: how high it is,    1 - u: how low
        w = sum over the quadrants named of (u_S or 1 - u_S) (u_R or 1 - u_R)

    A score equal to T lies half on either side, whatever tau; below a tau of one point it goes over linearly to what
    `ties` makes of it, so that the limit for tau -> 0 is [`gate`] for every sample.

    Args:
        scores (`np.ndarray` of shape `(n, 2)`): In [0, 10], NaN where unscored.
        tau (`float`): In points of score, above 0.
        keep, threshold, ties: See [`~ee_trl.select_indices`]; `keep` names quadrants.

    Returns:
        `np.ndarray` of shape `(n,)`, in [0, 1], NaN where unscored.
    """
    import numpy as np

    hard = gate(scores, keep, threshold, ties)
    distance = (scores - np.asarray(thresholds(threshold))) / tau
    s, r = (1 / (1 + np.exp(-np.clip(distance, -700, 700)))).T
    within = {SENSIBILITY: s * (1 - r), RATIONALITY: r * (1 - s), "balanced": s * r, "low": (1 - s) * (1 - r)}
    soft = sum((within[name] for name in keep_set(keep)), np.zeros(len(scores)))
    soft[np.isnan(hard)] = np.nan
    if tau < 1:
        tied = gate(scores, TIE, threshold) == 1
        soft[tied] = tau * soft[tied] + (1 - tau) * hard[tied]
    return soft


def mixture(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """
    Weights by which `share` of the draws fall on the second set and the others on the first, whatever their sizes.

        w_i = n ((1 - share) first_i / sum(first) + share second_i / sum(second)),    of mean 1

    Args:
        first, second (`np.ndarray` of shape `(n,)`): Membership, at least 0, NaN where unscored; neither is all 0.
        share (`float`): In [0, 1].
    """
    import numpy as np

    return len(first) * ((1 - share) * first / np.nansum(first) + share * second / np.nansum(second))


def annealed(start: float, end: float, progress: float) -> float:
    """From `start` to `end` in equal ratios: start (end / start)^progress."""
    return start * (end / start) ** progress


def scheduled(schedule: str, progress: float) -> float:
    """From 0 to 1: as `progress` itself (`"linear"`), or slowly at both ends, (1 - cos(pi progress)) / 2."""
    return progress if schedule == "linear" else (1 - math.cos(math.pi * progress)) / 2


# ---- policies ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Gate:
    """
    Draws from the quadrants named, each sample equally often: the released rule, while training.

        w_i = 1 if the quadrant of i is in keep, else 0

    Source: Efficient-Empathy (arXiv 2407.01937) and its released code. Helps where one data set is to serve several
    experts, or a run is to keep its length: as many steps as on all of the data. Does not help over selecting
    beforehand otherwise: it is the same set. The claim is that of the paper, with its authors' judge; whether another
    scorer's set does as well is not known. At T = 5 the rationality set is 7 % of EmpatheticDialogues' validation
    split: in an epoch of the length of all, each of its samples is drawn 15 times.

    Args:
        keep (`str` or `Sequence[str]`, *optional*, defaults to `"sensibility"`): Quadrants, and `"tie"`.
        threshold, ties: See [`~ee_trl.quadrants`].
        unscored (`str`, *optional*, defaults to `"drop"`):
            Weight of samples without scores: 0 (as the rule has it), or the mean of the others (`"keep"`).
    """

    keep: str | Sequence[str] = SENSIBILITY
    threshold: Threshold = DEFAULT_THRESHOLD
    ties: str = "drop"
    unscored: str = "drop"
    needs_losses: ClassVar[bool] = False
    needs_weights: ClassVar[bool] = False

    def __post_init__(self) -> None:
        keep_set(self.keep)
        _check_shared(self)

    def __call__(self, scores: ArrayLike, losses: ArrayLike, progress: float) -> Weights:
        """Sampling weights 1 and 0."""
        found, _ = check_inputs(scores, losses, progress)
        weights = gate(found, self.keep, self.threshold, self.ties)
        return settle(weights, self.unscored, "gate", FIX), None


@dataclass(frozen=True, kw_only=True)
class SoftGate:
    """
    The gate with a soft edge, which grows sharp while training: near the threshold a sample counts in part.

        w_i = u_S (1 - u_R) for keep="sensibility" and so on, u_a = sigmoid((s_a - T_a) / tau),
        tau = tau_start (tau_end / tau_start)^progress

    Two quadrants side by side are one axis alone: `keep=("sensibility", "balanced")` is w = u_S. Source: own, a
    logistic relaxation of the rule with an annealed temperature. Helps where scores are noisy or coarse, and one point
    more or less should not decide all. Does not help where samples of the other quadrants do harm early on. The
    temperatures are guesses that nobody has tuned; that training improves by it over the hard gate is not shown.

    Args:
        keep (`str` or `Sequence[str]`, *optional*, defaults to `"sensibility"`): Quadrants.
        tau_start (`float`, *optional*, defaults to `2.0`): Temperature at first, in points of score, in (0, 100].
        tau_end (`float`, *optional*, defaults to `0.25`): Temperature at last; toward 0 it is the hard gate.
        weigh (`str`, *optional*, defaults to `"sampling"`): Whether the weights are of the draws or of the `"loss"`.
        threshold, ties: See [`~ee_trl.quadrants`] and, for a score equal to T, [`soft_gate`].
        unscored (`str`, *optional*, defaults to `"drop"`):
            Weight of samples without scores: 0, or the mean of the others (`"keep"`).
    """

    keep: str | Sequence[str] = SENSIBILITY
    tau_start: float = 2.0
    tau_end: float = 0.25
    weigh: str = "sampling"
    threshold: Threshold = DEFAULT_THRESHOLD
    ties: str = "drop"
    unscored: str = "drop"
    needs_losses: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_quadrants(self.keep)
        check_number("tau_start", self.tau_start, 0, MAX_TAU, above=True)
        check_number("tau_end", self.tau_end, 0, MAX_TAU, above=True)
        check_choice("weigh", self.weigh, WEIGH)
        _check_shared(self)

    @property
    def needs_weights(self) -> bool:
        """Whether it returns loss weights."""
        return self.weigh == "loss"

    def __call__(self, scores: ArrayLike, losses: ArrayLike, progress: float) -> Weights:
        """Weights in [0, 1] of the draws, or of mean 1 of the loss."""
        found, _ = check_inputs(scores, losses, progress)
        tau = annealed(self.tau_start, self.tau_end, progress)
        weights = soft_gate(found, tau, self.keep, self.threshold, self.ties)
        return as_returned(settle(weights, self.unscored, "soft", FIX), self.weigh)


@dataclass(frozen=True, kw_only=True)
class Curriculum:
    """
    Draws from the sensibility set first and blends the rationality set in, or the reverse.

        w_i = n ((1 - m) 1[i in first] / |first| + m 1[i in second] / |second|),
        m = final_share x (progress, or (1 - cos(pi progress)) / 2)

    m is the share of the draws that fall on the second set, whatever the sizes of the two. Source: own, for the sets
    of Efficient-Empathy; that order matters is the idea of curriculum learning (Bengio et al., ICML 2009). Helps where
    one model is to have both sides and one set is much larger (at T = 5, 61 % and 7 % of EmpatheticDialogues'
    validation split): the smaller is not drowned. Does not help where the smaller is too small: at m = 0.5 each of
    those 7 % is drawn 9 times as often as one of the 61 %, and is soon learnt by heart. Which order is better, or
    whether any beats a fixed mixture, is not known.

    Args:
        order (`str`, *optional*, defaults to `"sensibility_first"`): Or `"rationality_first"`.
        schedule (`str`, *optional*, defaults to `"linear"`): Or `"cosine"`.
        final_share (`float`, *optional*, defaults to `0.5`): m at the end of training, in (0, 1].
        weigh (`str`, *optional*, defaults to `"sampling"`): Whether the weights are of the draws or of the `"loss"`.
        threshold, ties: See [`~ee_trl.quadrants`].
        unscored (`str`, *optional*, defaults to `"drop"`):
            Weight of samples without scores: 0, or the mean of the others (`"keep"`).
    """

    order: str = "sensibility_first"
    schedule: str = "linear"
    final_share: float = 0.5
    weigh: str = "sampling"
    threshold: Threshold = DEFAULT_THRESHOLD
    ties: str = "drop"
    unscored: str = "drop"
    needs_losses: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_choice("order", self.order, ORDERS)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_number("final_share", self.final_share, 0, 1, above=True)
        check_choice("weigh", self.weigh, WEIGH)
        _check_shared(self)

    @property
    def needs_weights(self) -> bool:
        """Whether it returns loss weights."""
        return self.weigh == "loss"

    def __call__(self, scores: ArrayLike, losses: ArrayLike, progress: float) -> Weights:
        """Weights of mean 1. Both sets must have a sample from the first call on, so that no run breaks off later."""
        found, _ = check_inputs(scores, losses, progress)
        names = (SENSIBILITY, RATIONALITY)
        sets = {name: gate(found, name, self.threshold, self.ties) for name in names}
        unscored = sets[SENSIBILITY] != sets[SENSIBILITY]
        if unscored.all():
            return as_returned(settle(sets[SENSIBILITY], self.unscored, "curriculum", FIX), self.weigh)
        for name, inside in sets.items():
            if not (inside == 1).any():
                scored = (~unscored).sum()
                raise NothingLeftError(f"policy 'curriculum': none of {scored:,} scored samples is {name}; {FIX}")
        first, second = names if self.order == "sensibility_first" else names[::-1]
        share = self.final_share * scheduled(self.schedule, progress)
        weights = mixture(sets[first], sets[second], share)
        return as_returned(settle(weights, self.unscored, "curriculum", FIX), self.weigh)


FIX = "move the threshold (`ee-trl sweep` shows the shares), or keep other quadrants"


def check_quadrants(keep: str | Sequence[str]) -> None:
    """Raises [`SelectionError`] unless `keep` names quadrants; in none of them is a tie."""
    for name in keep_set(keep):
        check_choice("quadrant to keep", name, QUADRANTS)


def _check_shared(policy: Gate | SoftGate | Curriculum) -> None:
    thresholds(policy.threshold)
    check_choice("ties", policy.ties, TIES)
    check_choice("unscored", policy.unscored, UNSCORED)
