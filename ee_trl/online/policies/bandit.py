"""A bandit over quadrants or emotions: more draws where the training loss is falling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from ...axes import quadrants
from ...errors import SelectionError
from ...selection import KEEPABLE, keep_set
from .score import ScorePolicy
from .weights import Weights, in_range, one_of


PRIORS = ("size", "equal")
OUT, UNKNOWN = -1, -2  # instead of an arm's number: the arm is not played, or is unknown


@dataclass(frozen=True)
class ArmState:
    """What a bandit has learnt; losses and rewards are in nats per token."""

    losses: np.ndarray  # of shape (n,): of each sample at the last update, NaN where not seen
    last: np.ndarray  # of shape (arms,): mean loss of the samples that were drawn last, NaN before any was
    gain: np.ndarray  # of shape (arms,): moving average of the reward, 0 at first
    square: np.ndarray  # likewise of the reward squared
    updates: int

    @classmethod
    def new(cls, n: int, arms: int) -> ArmState:
        """The state of a bandit that has seen nothing."""
        return cls(np.full(n, np.nan), np.full(arms, np.nan), np.zeros(arms), np.zeros(arms), 0)


def update_arms(state: ArmState, arms: np.ndarray, losses: np.ndarray, rate: float) -> ArmState:
    """
    The state after another look at the losses.

    Samples with another loss than at the last update have been drawn since. From them, for each arm a,

        reward_a = mean loss of those drawn before - mean loss of these,    gain_a = (1 - rate) gain_a + rate reward_a

    The two means are over different samples, as no sample is drawn twice in a first epoch. An arm that was not drawn
    keeps its state.

    Arms (of shape `(n,)`) are negative where a sample has none; losses are as last seen, NaN where not seen.
    """
    fresh = np.isfinite(losses) & (losses != state.losses) & (arms >= 0)
    counts = np.bincount(arms[fresh], minlength=len(state.gain))
    now = np.bincount(arms[fresh], weights=losses[fresh], minlength=len(state.gain)) / np.maximum(counts, 1)
    drawn = counts > 0
    reward = np.where(drawn & ~np.isnan(state.last), state.last - now, np.nan)
    gain, square = (
        np.where(np.isnan(reward), old, (1 - rate) * old + rate * new)
        for old, new in ((state.gain, reward), (state.square, reward**2))
    )
    return ArmState(losses.copy(), np.where(drawn, now, state.last), gain, square, state.updates + 1)


def arm_shares(
    gain: np.ndarray, square: np.ndarray, sizes: np.ndarray, explore: float, temperature: float, prior: str
) -> np.ndarray:
    """
    The share of the draws of each arm.

        p = explore b + (1 - explore) b exp(gain / (temperature g)) / sum(...),    g = sqrt(mean of square)

    with b the arms' sizes over their sum (`prior="size"`) or equal (`"equal"`), and the mean over the arms that had a
    reward. Dividing by g makes p independent of the scale of the loss, and damps rewards that are noise: their average
    is small beside them. Before there is any reward, p = b.

    `sizes` counts each arm's samples (not all 0); an empty arm has no share. For the other arguments see [`Bandit`].
    """
    there = sizes > 0
    base = sizes / sizes.sum() if prior == "size" else there / there.sum()
    known = there & (square > 0)
    lean = gain / np.sqrt(square[known].mean()) / temperature if known.any() else np.zeros(len(gain))
    tilted = base * np.exp(lean - lean[there].max(), where=there, out=np.zeros(len(gain)))
    return explore * base + (1 - explore) * tilted / tilted.sum()


@dataclass(kw_only=True, eq=False)
class Bandit(ScorePolicy):
    """
    Draws more from the arms (quadrants, or any labels, e.g. emotions) whose training loss has been falling.

        w_i = n p_a / |a| for i in arm a,    p = explore b + (1 - explore) softmax_b(gain / (temperature g))

    gain is a moving average of the fall of the arm's mean loss between updates, and g the root mean square of those
    falls. The losses are those of training itself, so it costs no forward pass. Deterministic: the same losses give
    the same weights.

    Source: learning progress as reward is from Graves et al. 2017 (arXiv 1704.03003) and Matiisen et al. 2017 (arXiv
    1707.00183), the mixture with exploration from Exp3 (Auer et al. 2002), the use on groups of training data from
    Online Data Mixing (Albalak et al. 2023, arXiv 2312.02406), where the reward is the loss itself. Unlike Exp3 it
    updates all drawn arms at once, and does not divide by their shares.

    Args:
        labels (`Sequence`, *optional*): The arm of each sample in data-set order, e.g. `dataset["emotion"]`; None or
            `""` where it has none. By default the arms are the quadrants and the ties.
        keep (`str` or `Sequence[str]`, *optional*): Quadrants (and `"tie"`) to draw from; the others get weight 0. By
            default all; with labels, the scores are then not used.
        rate (`float`, *optional*, defaults to `0.2`): Rate of the moving average, in (0, 1].
        temperature (`float`, *optional*, defaults to `1.0`): In (0, 100]; the higher, the nearer to the prior.
        explore (`float`, *optional*, defaults to `0.2`): In (0, 1]: each arm keeps this part of its prior share.
        prior (`str`, *optional*, defaults to `"size"`):
            Shares before any reward: as large as the arms (every sample alike), or `"equal"`.
        threshold, ties, unscored: See [`ScorePolicy`]; with labels, a sample without a label is unscored.
    """

    labels: Sequence[Any] | None = None
    keep: str | Sequence[str] | None = None
    rate: float = in_range(0.2, 0, 1, above=True)
    temperature: float = in_range(1.0, 0, 100, above=True)
    explore: float = in_range(0.2, 0, 1, above=True)
    prior: str = one_of("size", PRIORS)
    needs_losses: ClassVar[bool] = True
    arms: tuple[str, ...] = field(init=False)
    state: ArmState | None = field(init=False, default=None)
    _codes: np.ndarray | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.arms = keep_set(self.keep or KEEPABLE)
        if self.labels is not None:
            self.arms, self._codes = _label_codes(self.labels)

    def __call__(self, scores: ArrayLike, losses: ArrayLike, progress: float) -> Weights:
        """Sampling weights of mean 1 over the samples played; learns from `losses`."""
        before = self.state
        try:
            return super().__call__(scores, losses, progress)
        except SelectionError:
            self.state = before
            raise

    def weights(self, scores: np.ndarray, losses: np.ndarray, progress: float) -> np.ndarray:
        """Of mean 1; `progress` is not used."""
        codes = self._arms_of(scores)
        state = self.state or ArmState.new(len(codes), len(self.arms))
        if len(state.losses) != len(codes):
            raise SelectionError(f"the bandit has learnt from {len(state.losses)} samples, but there are {len(codes)}")
        self.state = state = update_arms(state, codes, losses, self.rate)
        weights, played = np.where(codes == UNKNOWN, np.nan, 0.0), codes >= 0
        if played.any():
            sizes = np.bincount(codes[played], minlength=len(self.arms))
            shares = arm_shares(state.gain, state.square, sizes, self.explore, self.temperature, self.prior)
            weights[played] = (sizes.sum() * shares / np.maximum(sizes, 1))[codes[played]]
        return weights

    def _arms_of(self, scores: np.ndarray) -> np.ndarray:
        """The number of each sample's arm, [`OUT`] or [`UNKNOWN`]."""
        if self._codes is not None and len(self._codes) != len(scores):
            raise SelectionError(
                f"{len(self._codes)} labels for {len(scores)} samples; take the labels from the trainer's own data set"
            )
        if self._codes is not None and self.keep is None:
            return self._codes
        where = quadrants(scores[:, 0], scores[:, 1], self.threshold, self.ties)
        codes = np.full(len(where), OUT)
        for number, name in enumerate(keep_set(self.keep or KEEPABLE)):
            codes[where == name] = number
        if self._codes is not None:
            codes = np.where(codes >= 0, self._codes, codes)
        codes[where == ""] = UNKNOWN
        return codes

    def state_dict(self) -> dict[str, Any]:
        """What was learnt, as plain types and arrays; another bandit with the same arms can continue from it."""
        names = ("updates", "losses", "last", "gain", "square")
        learnt = asdict(self.state) if self.state else dict.fromkeys(names) | {"updates": 0}
        return {"arms": list(self.arms), **learnt}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from [`~Bandit.state_dict`]; arrays may be lists; other arms raise [`SelectionError`]."""
        if tuple(state["arms"]) != self.arms:
            raise SelectionError(
                f"the state is of arms {list(state['arms'])}, but this bandit's are {list(self.arms)}"
            )
        if state["losses"] is None:
            self.state = None
            return
        names = ("losses", "last", "gain", "square")
        arrays = {name: np.array(state[name], dtype=np.float64) for name in names}
        for name in names[1:]:
            if arrays[name].shape != (len(self.arms),):
                raise SelectionError(f"the state has {arrays[name].size} numbers {name} for {len(self.arms)} arms")
        self.state = ArmState(**arrays, updates=int(state["updates"]))


def _label_codes(labels: Sequence[Any]) -> tuple[tuple[str, ...], np.ndarray]:
    """The distinct labels, sorted, and the number of each sample's label."""
    names = ["" if label is None or label != label else str(label) for label in labels]
    arms = tuple(sorted({name for name in names if name}))
    if not arms:
        raise SelectionError(f"labels: none of the {len(names)} samples has one; give each a label, e.g. its emotion")
    number = {name: i for i, name in enumerate(arms)} | {"": UNKNOWN}
    return arms, np.array([number[name] for name in names], dtype=np.intp)
