"""Policies by score alone, and [`ScorePolicy`], the base of all named ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from ...axes import DEFAULT_THRESHOLD, QUADRANTS, RATIONALITY, SENSIBILITY, TIE, TIES, Threshold, quadrants, thresholds
from ...errors import NothingLeftError, SelectionError, check_choice
from ...selection import keep_set
from .weights import OTHER_SET, Weights, bounded, check_inputs, checked, in_range, one_of, settle


WEIGH = ("sampling", "loss")
MAX_TAU = 100.0  # ten times the range of the scores: every sample counts nearly the same


def gate(
    scores: np.ndarray, keep: str | Sequence[str], threshold: Threshold = DEFAULT_THRESHOLD, ties: str = "drop"
) -> np.ndarray:
    """1 for the samples in the quadrants named, 0 for the others, NaN where unscored; see [`~ee_trl.quadrants`]."""
    where = quadrants(scores[:, 0], scores[:, 1], threshold, ties)
    inside = np.isin(where, keep_set(keep)).astype(float)
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
    How far each sample lies in the quadrants named, in [0, 1], NaN where unscored; tau is in points of score.

        u = 1 / (1 + exp(-(s - T) / tau)) on each axis: how high it is,    1 - u: how low
        w = sum over the quadrants named of (u_S or 1 - u_S) (u_R or 1 - u_R)

    A score equal to T lies half on either side, whatever tau. Below a tau of one point it goes over linearly to what
    `ties` makes of it, so that for every sample the limit for tau -> 0 is [`gate`].
    """
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

    The sets are membership (of shape `(n,)`), at least 0, NaN where unscored; neither is all 0.
    """
    return len(first) * ((1 - share) * first / np.nansum(first) + share * second / np.nansum(second))


def annealed(start: float, end: float, progress: float) -> float:
    """From `start` to `end` in equal ratios: start (end / start)^progress."""
    return start * (end / start) ** progress


def scheduled(schedule: str, progress: float) -> float:
    """From 0 to 1: as `progress` itself (`"linear"`), or slowly at both ends, (1 - cos(pi progress)) / 2."""
    return progress if schedule == "linear" else (1 - math.cos(math.pi * progress)) / 2


def quadrants_only(name: str, keep: str | Sequence[str]) -> None:
    """Raises [`SelectionError`] unless `keep` names quadrants; a tie is in none of them."""
    for quadrant in keep_set(keep):
        check_choice("quadrant to keep", quadrant, QUADRANTS, SelectionError)


@dataclass(kw_only=True, eq=False)
class ScorePolicy:
    """
    What the named policies have in common; a subclass gives `weights`.

    Args:
        threshold, ties: See [`~ee_trl.quadrants`].
        unscored (`str`, *optional*, defaults to `"drop"`): Weight of samples without scores: 0, or the mean of the
            others (`"keep"`).
    """

    threshold: Threshold = checked(DEFAULT_THRESHOLD, lambda name, value: thresholds(value))
    ties: str = one_of("drop", TIES)
    unscored: str = one_of("drop", ("drop", "keep"))
    weigh: str = field(default="sampling", init=False)
    needs_losses: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for option in fields(self):
            if "check" in option.metadata:
                option.metadata["check"](option.name, getattr(self, option.name))

    @property
    def needs_weights(self) -> bool:
        """Whether it returns loss weights."""
        return self.weigh == "loss"

    def __call__(self, scores: ArrayLike, losses: ArrayLike, progress: float) -> Weights:
        """Sampling weights as `weights` gives them, or loss weights scaled to a mean of 1."""
        found, seen = check_inputs(scores, losses, progress)
        weights = settle(self.weights(found, seen, progress), self.unscored)
        return Weights(None, bounded(weights)) if self.needs_weights else Weights(weights)

    def weights(self, scores: np.ndarray, losses: np.ndarray, progress: float) -> np.ndarray:
        """The weight of each sample, of shape `(n,)`, NaN where it is unscored."""
        raise NotImplementedError


@dataclass(kw_only=True, eq=False)
class Gate(ScorePolicy):
    """
    Draws from the quadrants named, each sample equally often: the released rule, while training.

        w_i = 1 if the quadrant of i is in keep, else 0

    Source: Efficient-Empathy (arXiv 2407.01937) and its released code.

    Args:
        keep (`str` or `Sequence[str]`, *optional*, defaults to `"sensibility"`): Quadrants, and `"tie"`.
        threshold, ties, unscored: See [`ScorePolicy`].
    """

    keep: str | Sequence[str] = checked(SENSIBILITY, lambda name, value: keep_set(value))

    def weights(self, scores: np.ndarray, losses: np.ndarray, progress: float) -> np.ndarray:
        """1 or 0."""
        return gate(scores, self.keep, self.threshold, self.ties)


@dataclass(kw_only=True, eq=False)
class SoftGate(ScorePolicy):
    """
    The gate with a soft edge, which sharpens while training: early on, samples near the threshold count in part.

        w_i = soft_gate(scores_i, tau),    tau = tau_start (tau_end / tau_start)^progress

    Source: own; a logistic relaxation of the rule with an annealed temperature.

    Args:
        keep (`str` or `Sequence[str]`, *optional*, defaults to `"sensibility"`): Quadrants.
        tau_start (`float`, *optional*, defaults to `2.0`): Temperature at first, in points of score, in (0, 100].
        tau_end (`float`, *optional*, defaults to `0.25`): Temperature at last; toward 0 it is the hard gate.
        weigh (`str`, *optional*, defaults to `"sampling"`): What the weights act on: the draws, or the `"loss"`.
        threshold, ties, unscored: See [`ScorePolicy`]; for a score equal to T, [`soft_gate`].
    """

    keep: str | Sequence[str] = checked(SENSIBILITY, quadrants_only)
    tau_start: float = in_range(2.0, 0, MAX_TAU, above=True)
    tau_end: float = in_range(0.25, 0, MAX_TAU, above=True)
    weigh: str = one_of("sampling", WEIGH)

    def weights(self, scores: np.ndarray, losses: np.ndarray, progress: float) -> np.ndarray:
        """In [0, 1]."""
        tau = annealed(self.tau_start, self.tau_end, progress)
        return soft_gate(scores, tau, self.keep, self.threshold, self.ties)


@dataclass(kw_only=True, eq=False)
class Curriculum(ScorePolicy):
    """
    Draws from the sensibility set first and blends the rationality set in, or the reverse.

        w_i = n ((1 - m) 1[i in first] / |first| + m 1[i in second] / |second|),
        m = final_share x (progress, or (1 - cos(pi progress)) / 2)

    m is the share of the draws that fall on the second set, whatever the sizes of the two. Source: own, for the sets
    of Efficient-Empathy; that order matters is the idea of curriculum learning (Bengio et al., ICML 2009).

    Args:
        order (`str`, *optional*, defaults to `"sensibility_first"`): Or `"rationality_first"`.
        schedule (`str`, *optional*, defaults to `"linear"`): Or `"cosine"`.
        final_share (`float`, *optional*, defaults to `0.5`): m at the end of training, in (0, 1].
        weigh (`str`, *optional*, defaults to `"sampling"`): What the weights act on: the draws, or the `"loss"`.
        threshold, ties, unscored: See [`ScorePolicy`].
    """

    order: str = one_of("sensibility_first", ("sensibility_first", "rationality_first"))
    schedule: str = one_of("linear", ("linear", "cosine"))
    final_share: float = in_range(0.5, 0, 1, above=True)
    weigh: str = one_of("sampling", WEIGH)

    def weights(self, scores: np.ndarray, losses: np.ndarray, progress: float) -> np.ndarray:
        """Of mean 1. Both sets must have a sample from the first call on, so that no run breaks off later."""
        names = (SENSIBILITY, RATIONALITY)
        sets = {name: gate(scores, name, self.threshold, self.ties) for name in names}
        scored = int((~np.isnan(sets[SENSIBILITY])).sum())
        if not scored:
            return sets[SENSIBILITY]
        for name, inside in sets.items():
            if not (inside == 1).any():
                raise NothingLeftError(
                    f"policy 'curriculum': none of {scored:,} scored samples is {name}; {OTHER_SET}"
                )
        first, second = names if self.order == "sensibility_first" else names[::-1]
        return mixture(sets[first], sets[second], self.final_share * scheduled(self.schedule, progress))
