"""Asking a policy: when, with what, and what its answer must be.

A policy is `policy(scores, losses, progress)`: a function of the `(n, 2)` scores (NaN where unscored), the `(n,)` mean
losses per token as last seen (NaN where not seen) and the share of the training done. It returns a pair: sampling
weights and loss weights, each of shape `(n,)`, or None for equal ones. An object may say `needs_losses` or
`needs_weights`, and keep a state with `state_dict` and `load_state_dict`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np

from ...errors import SelectionError, unknown
from .weights import bounded, check_number, check_weights, tamed


Policy = Callable[[np.ndarray, np.ndarray, float], Any]


class Weights(NamedTuple):
    """
    What a policy answered.

    Args:
        sampling (`np.ndarray` of shape `(n,)`, *optional*): None: the stock order.
        loss (`np.ndarray` of shape `(n,)`, *optional*): None: all 1.
    """

    sampling: np.ndarray | None = None
    loss: np.ndarray | None = None


@dataclass(frozen=True)
class Schedule:
    """
    When a policy is asked, and within which bounds its weights are kept.

    Args:
        warmup (`float` or `int`, *optional*, defaults to `0`):
            Steps (`int`), or share of the training in [0, 1] (`float`), in which sampling is the stock trainer's and
            all weights are 1.
        every_n_steps (`int`, *optional*, defaults to `1`):
            The policy is asked at the first step after the warm-up, and every so many steps from there.
        floor (`float`, *optional*):
            In [0, 1]. The least weight above 0, of draws and of the loss alike, where their mean is 1; 0 stays 0:
            dropped. See [`~ee_trl.online.policies.weights.bounded`].
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
        if not isinstance(self.every_n_steps, Integral) or self.every_n_steps < 1:
            raise SelectionError(f"every_n_steps {self.every_n_steps!r} is not a whole number of at least 1")
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

    def ask(self, policy: Policy, scores: np.ndarray, losses: np.ndarray, progress: float) -> Weights:
        """
        The policy's answer, checked and within the bounds.

        Raises:
            [`SelectionError`]: It is no pair, or its weights are not `n` finite numbers of at least 0, one above 0.
        """
        answer = policy(scores.copy(), losses.copy(), progress)  # its own, to write in
        if not isinstance(answer, (tuple, list)) or len(answer) != 2:
            raise SelectionError(
                f"policy {name_of(policy)!r} returned {type(answer).__name__}; expected a pair: sampling weights or "
                "None, loss weights or None"
            )
        pairs = zip(answer, ("sampling weights", "loss weights"), strict=True)
        checked = [check_weights(w, len(scores), f"{kind} of policy {name_of(policy)!r}") for w, kind in pairs]
        checked = [None if w is None else tamed(w) for w in checked]
        if self.floor is not None or self.ceiling is not None:
            checked = [None if w is None else bounded(w, *self._bounds) for w in checked]
        return Weights(*checked)


def name_of(policy: Any) -> str:
    """What messages call a policy."""
    return str(getattr(policy, "name", None) or getattr(policy, "__name__", None) or type(policy).__name__)


def resolve_policy(
    policy: str | Policy, threshold: Any, ties: str, options: dict[str, Any], others: Sequence[str] = ()
) -> Policy:
    """
    A policy by its name, or a callable as it is.

    Args:
        policy (`str` or `Callable`): A name that `ee_trl.online.policies.named` knows, or a policy.
        threshold, ties: Of the selector; what a named policy judges by.
        options (`dict`): Of the named policy.
        others (`Sequence[str]`, *optional*): Options that are not the policy's: a mistyped one may be of them.
    """
    from .named import POLICIES, load_policy, policy_options

    if isinstance(policy, str) and policy in POLICIES:
        for option in options:
            valid = policy_options(policy)
            if option not in valid:
                raise SelectionError(unknown(f"option of policy {policy!r} or of scoring", option, [*valid, *others]))
    return load_policy(policy, threshold=threshold, ties=ties, **options)
