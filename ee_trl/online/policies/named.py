"""Online policies: functions of (scores, losses so far, progress) to (sampling weights, loss weights).

A policy is any callable `policy(scores, losses, progress)`:

- `scores`, array of shape `(n, 2)`: sensibility and rationality in [0, 10], NaN where unscored;
- `losses`, array of shape `(n,)`: mean loss per token in nats, as last seen in training, NaN where not seen;
- `progress`, float in [0, 1]: share of the training done;

to a pair of arrays of shape `(n,)` in data-set order, of which either may be None (equal for all): how often each
sample is to be drawn, relative to the others, and what its loss counts. It may have the attributes of [`Policy`]; a
plain function will do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Protocol

from ...axes import DEFAULT_THRESHOLD, Threshold
from ...errors import SelectionError, unknown
from .bandit import Bandit
from .loss import LossAware
from .score import Curriculum, Gate, SoftGate
from .weights import bounded, check_weights


if TYPE_CHECKING:
    from numpy.typing import ArrayLike


class Policy(Protocol):
    """
    What a policy of this package has beside the call; of another's policy, each may be missing.

    Args:
        needs_losses (`bool`): Whether it looks at the losses.
        needs_weights (`bool`): Whether it returns loss weights.

    A policy that remembers has `state_dict()` and `load_state_dict(state)`, of plain types and numpy arrays, too.
    """

    @property
    def needs_losses(self) -> bool:
        """Whether it looks at the losses."""

    @property
    def needs_weights(self) -> bool:
        """Whether it returns loss weights."""

    def __call__(
        self, scores: ArrayLike, losses: ArrayLike, progress: float, /
    ) -> tuple[ArrayLike | None, ArrayLike | None]:
        """Sampling weights and loss weights."""


PolicyFunction = Callable[[Any, Any, float], tuple[Any, Any]]

POLICIES: dict[str, tuple[type, dict[str, Any]]] = {
    "sensibility": (Gate, {"keep": "sensibility"}),
    "rationality": (Gate, {"keep": "rationality"}),
    "gate": (Gate, {}),
    "soft": (SoftGate, {}),
    "curriculum": (Curriculum, {}),
    "loss_aware": (LossAware, {}),
    "bandit": (Bandit, {}),
}
"""Name -> class and what the name settles."""


def policy_options(name: str) -> tuple[str, ...]:
    """The options that [`load_policy`] takes for a policy, beside `threshold` and `ties`."""
    if name not in POLICIES:
        raise SelectionError(unknown("policy", name, POLICIES))
    kind, settled = POLICIES[name]
    return tuple(f.name for f in fields(kind) if f.init and f.name not in {"threshold", "ties", *settled})


def load_policy(
    policy: str | PolicyFunction, threshold: Threshold = DEFAULT_THRESHOLD, ties: str = "drop", **options: Any
) -> PolicyFunction:
    """
    A policy by its name; a callable comes back as it is.

    Args:
        policy (`str` or callable):
            A name in [`POLICIES`], or `policy(scores, losses, progress)`, which has its own idea of thresholds.
        threshold (`float`, pair or mapping, *optional*, defaults to `5.0`): T, for both axes or for each.
        ties (`str`, *optional*, defaults to `"drop"`): What a score equal to T is; see [`~ee_trl.quadrants`].
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
    if not isinstance(policy, str):
        if isinstance(policy, type) or not callable(policy):
            what = f"the class {policy.__name__}" if isinstance(policy, type) else repr(policy)
            raise SelectionError(
                f"{what} is not a policy; give a name ({', '.join(POLICIES)}), or a function of (scores, losses, "
                "progress)"
            )
        if options:
            raise SelectionError(
                f"options {', '.join(options)} go with a policy's name; build them into your function"
            )
        return policy
    valid = policy_options(policy)
    for option in options:
        if option not in valid:
            raise SelectionError(unknown(f"option of policy {policy!r}", option, valid))
    kind, settled = POLICIES[policy]
    return kind(threshold=threshold, ties=ties, **settled, **options)


__all__ = [
    "POLICIES",
    "Policy",
    "PolicyFunction",
    "bounded",
    "check_weights",
    "load_policy",
    "policy_options",
]
