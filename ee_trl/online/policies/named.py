"""Policies by name, and how a policy is asked.

A policy is any callable with the arguments of [`~ee_trl.online.policies.weights.check_inputs`] that returns a pair
like [`~ee_trl.online.policies.weights.Weights`], e.g. a function. An object may have the attributes `needs_losses` and
`needs_weights` (it reads losses, returns loss weights), and a state of plain types and arrays with `state_dict()` and
`load_state_dict(state)`. `docs/policies.md` has a card of each named policy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any

import numpy as np

from ...axes import DEFAULT_THRESHOLD, Threshold
from ...errors import SelectionError, check_choice, check_count, unknown
from .bandit import Bandit
from .column import Column
from .loss import LossAware
from .score import Curriculum, Gate, ScorePolicy, SoftGate
from .weights import Weights, bounded, check_number, check_weights, tamed


Policy = Callable[[Any, Any, float], Any]

ON_FAILURE = ("stop", "continue")
BEHIND = ("wait", "draw")
"""What a training does when the scorer of the rows that come next dies twice, and when it falls behind."""

POLICIES: dict[str, tuple[type[ScorePolicy], dict[str, Any]]] = {  # name -> class, options that the name sets
    "sensibility": (Gate, {"keep": "sensibility"}),
    "rationality": (Gate, {"keep": "rationality"}),
    "gate": (Gate, {}),
    "soft": (SoftGate, {}),
    "curriculum": (Curriculum, {}),
    "loss_aware": (LossAware, {}),
    "bandit": (Bandit, {}),
    "column": (Column, {}),
}


def policy_options(name: str) -> tuple[str, ...]:
    """The options that [`load_policy`] takes for a policy, beside `threshold` and `ties`."""
    check_choice("policy", name, POLICIES, SelectionError)
    kind, settled = POLICIES[name]
    names = [f.name for f in fields(kind) if f.init and f.name not in {"threshold", "ties", *settled}]
    return tuple(sorted(names, key=[f.name for f in fields(ScorePolicy)].__contains__))  # its own options first


def check_options(policy: Any, options: Sequence[str], others: Sequence[str] = ()) -> None:
    """Raises [`SelectionError`] for a name that is not an option of the policy; it may mean one of the `others`."""
    if not isinstance(policy, str):
        if options:
            raise SelectionError(f"options {', '.join(options)} need a policy's name; build them into your function")
        return
    valid, kind = policy_options(policy), f"option of policy {policy!r}" + (" or of scoring" if others else "")
    for option in options:
        if option not in valid:
            raise SelectionError(unknown(kind, option, [*valid, *others]))


def load_policy(
    policy: str | Policy, threshold: Threshold = DEFAULT_THRESHOLD, ties: str = "drop", **options: Any
) -> Policy:
    """
    A policy by its name; a callable comes back as it is.

    Args:
        policy (`str` or callable):
            A name in [`POLICIES`], or `policy(scores, losses, progress)`, which handles thresholds itself.
        threshold (`float`, pair or mapping, *optional*, defaults to `5.0`): T, for both axes or for each.
        ties (`str`, *optional*, defaults to `"drop"`): What a score equal to T counts as; see [`~ee_trl.quadrants`].
        options: Those of the policy's class, see [`policy_options`].

    Raises:
        [`SelectionError`]: There is no such policy or option, or an option has a wrong value.

    Example:
        ```python
        from ee_trl.online.policies.named import load_policy

        policy = load_policy("soft", threshold=5.0, tau_start=3.0)
        sampling, loss = policy([[8.0, 2.0], [4.0, 3.0]], [2.1, float("nan")], 0.5)
        ```
    """
    if not isinstance(policy, str) and (isinstance(policy, type) or not callable(policy)):
        what = f"the class {policy.__name__}" if isinstance(policy, type) else repr(policy)
        raise SelectionError(
            f"{what} is not a policy; give a name ({', '.join(POLICIES)}), or a function of (scores, losses, progress)"
        )
    check_options(policy, list(options))
    if not isinstance(policy, str):
        return policy
    kind, settled = POLICIES[policy]
    return kind(threshold=threshold, ties=ties, **settled, **options)


def name_of(policy: Any) -> str:
    """What messages and checkpoints call a policy."""
    return str(getattr(policy, "name", None) or getattr(policy, "__name__", None) or type(policy).__name__)


@dataclass(frozen=True)
class Schedule:
    """
    When a policy is asked, and the bounds of its weights.

    Args:
        warmup (`float` or `int`, *optional*, defaults to `0`): Steps (`int`), or share of the training in [0, 1]
            (`float`), in which sampling is the stock trainer's and all weights are 1.
        every_n_steps (`int`, *optional*, defaults to `1`): The policy is asked at the first step after the warm-up,
            and every so many steps from there.
        floor (`float`, *optional*): In [0, 1]. The least weight above 0, for draws and for the loss, at a mean of 1; 0
            stays 0: dropped. See [`~ee_trl.online.policies.weights.bounded`].
        ceiling (`float`, *optional*): At least 1. The greatest.
    """

    warmup: float = 0
    every_n_steps: int = 1
    floor: float | None = None
    ceiling: float | None = None

    def __post_init__(self) -> None:
        share = isinstance(self.warmup, Real) and 0 <= self.warmup <= 1
        if not share and not (isinstance(self.warmup, Integral) and self.warmup >= 0):
            raise SelectionError(f"warmup {self.warmup!r} is neither a share in [0.0, 1.0] nor a number of steps")
        check_count("every_n_steps", self.every_n_steps, error=SelectionError)
        check_number("floor", self._bounds[0], 0, 1)
        check_number("ceiling", self._bounds[1], 1, math.inf)

    @property
    def _bounds(self) -> tuple[float, float]:
        return 0.0 if self.floor is None else self.floor, math.inf if self.ceiling is None else self.ceiling

    def warmup_steps(self, max_steps: int) -> int:
        """The number of steps before the policy is asked for the first time."""
        return int(self.warmup) if isinstance(self.warmup, Integral) else math.ceil(self.warmup * max_steps)

    def due(self, step: int, max_steps: int) -> bool:
        """Whether the policy is asked before the step of this number, counted from 0."""
        since = step - self.warmup_steps(max_steps)
        return step < max_steps and since >= 0 and since % self.every_n_steps == 0

    def ask(
        self,
        policy: Policy,
        scores: np.ndarray,
        losses: np.ndarray,
        progress: float,
        flagged: np.ndarray | None = None,
    ) -> Weights:
        """The policy's answer, checked and within the bounds; 0 for `flagged` samples if it is a policy of scores."""
        answer = policy(scores.copy(), losses.copy(), progress)  # copies, in which it may write
        if not isinstance(answer, (tuple, list)) or len(answer) != 2:
            raise SelectionError(
                f"policy {name_of(policy)!r} returned {type(answer).__name__}; expected a pair: sampling weights or "
                "None, loss weights or None"
            )
        checked = []
        for values, kind in zip(answer, ("sampling weights", "loss weights"), strict=True):
            weights = check_weights(values, len(scores), f"{kind} of policy {name_of(policy)!r}")
            if weights is not None:
                if flagged is not None and isinstance(policy, ScorePolicy) and getattr(policy, "needs_scores", True):
                    weights = check_weights(
                        np.where(flagged, 0.0, weights), len(scores), f"{kind} without flagged rows"
                    )
                    assert weights is not None
                weights = tamed(weights)
                if self.floor is not None or self.ceiling is not None:
                    weights = bounded(weights, *self._bounds)
            checked.append(weights)
        return Weights(*checked)
