"""The routers of a mixture: found by their class, never by a part of a name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import CompositionError
from .families import EXPERT_NAMES


if TYPE_CHECKING:
    import torch


def router_classes() -> tuple[type[torch.nn.Module], ...]:
    """The router class of each native target."""
    from transformers.models.granitemoe.modeling_granitemoe import GraniteMoeTopKRouter
    from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter
    from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeTopKRouter
    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

    return MixtralTopKRouter, Qwen2MoeTopKRouter, Qwen3MoeTopKRouter, GraniteMoeTopKRouter


def routers(model: torch.nn.Module) -> dict[str, Any]:
    """
    Module name -> router, layer by layer.

    Raises:
        [`CompositionError`]: There is none: the model is dense, or of another kind of mixture.
    """
    classes = router_classes()
    found = {name: module for name, module in model.named_modules() if isinstance(module, classes)}
    if not found:
        names = ", ".join(sorted(kind.__name__ for kind in classes))
        raise CompositionError(
            f"{type(model).__name__} has no router of a known kind ({names}); compose a mixture first"
        )
    return found


def expert_names(model: Any) -> tuple[str, ...]:
    """The names of a composed model's experts; numbers for a mixture of another origin."""
    config = getattr(model, "config", model)
    number = next(getattr(config, name) for name in ("num_local_experts", "num_experts") if hasattr(config, name))
    return tuple(getattr(config, EXPERT_NAMES, None) or map(str, range(number)))


def routing_weights(logits: torch.Tensor, top_k: int) -> torch.Tensor:
    """
    What each expert counts for each token, where the weights of the active ones sum to 1.

    Args:
        logits (`torch.Tensor` of shape `(tokens, experts)`): Of the router.
        top_k (`int`): How many are active.

    Returns:
        `torch.Tensor` of shape `(tokens, experts)`, in float32; 0 for those not active.
    """
    import torch

    best = logits.float().topk(top_k, dim=-1)
    weights = torch.zeros_like(logits, dtype=torch.float32)
    return weights.scatter_(-1, best.indices, best.values.softmax(-1))


def logits_of(router: Any, hidden: torch.Tensor) -> torch.Tensor:
    """
    What a router makes of its input, before softmax: classes differ, by family and version, in what they return.

    Args:
        router (`torch.nn.Module`): Of one of [`router_classes`].
        hidden (`torch.Tensor` of shape `(..., hidden)`): What reaches it.

    Returns:
        `torch.Tensor` of shape `(tokens, experts)`, in the type of the router's weights.
    """
    from torch.nn.functional import linear

    return linear(hidden.reshape(-1, hidden.size(-1)).to(router.weight.dtype), router.weight)


def layer_list(model: Any) -> Iterator[Any]:
    """The decoder layers, in order."""
    yield from model.get_decoder().layers


def router_of(layer: Any) -> Any:
    """The router of one decoder layer."""
    return next(module for module in layer.modules() if isinstance(module, router_classes()))


def pad(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids padded on the right with 0, and their mask, both of shape `(rows, length)`."""
    import torch

    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    return ids, torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
