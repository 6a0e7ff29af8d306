"""The routers of a mixture, found by their class, and how they route dialogues."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..data.chat import chat_ids
from ..data.tables import progress_bar
from ..errors import CompositionError
from .families import EXPERT_NAMES, number_of_experts


def router_classes() -> tuple[type[torch.nn.Module], ...]:
    """The router class of each native target."""
    from transformers.models.granitemoe.modeling_granitemoe import GraniteMoeTopKRouter
    from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter
    from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeTopKRouter
    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

    return MixtralTopKRouter, Qwen2MoeTopKRouter, Qwen3MoeTopKRouter, GraniteMoeTopKRouter


def routers(model: torch.nn.Module) -> dict[str, Any]:
    """Module name -> router, layer by layer; raises [`CompositionError`] if the model has none of a known kind."""
    classes = router_classes()
    found = {name: module for name, module in model.named_modules() if isinstance(module, classes)}
    if not found:
        names = ", ".join(sorted(kind.__name__ for kind in classes))
        raise CompositionError(
            f"{type(model).__name__} has no router of a known kind ({names}); compose a mixture first"
        )
    return found


def layer_list(model: Any) -> Iterator[Any]:
    """The decoder layers, in order."""
    yield from model.get_decoder().layers


def router_of(layer: Any) -> Any:
    """The router of one decoder layer."""
    return next(module for module in layer.modules() if isinstance(module, router_classes()))


def expert_names(model: Any) -> tuple[str, ...]:
    """The names of a composed model's experts; numbers for a mixture that was made elsewhere."""
    return tuple(getattr(model.config, EXPERT_NAMES, None) or map(str, range(number_of_experts(model.config))))


def logits_of(router: Any, hidden: torch.Tensor) -> torch.Tensor:
    """A router's logits `(tokens, experts)` for its input `(..., hidden)`; the families' `forward` differ."""
    return torch.nn.functional.linear(hidden.reshape(-1, hidden.size(-1)).to(router.weight.dtype), router.weight)


def routing_weights(logits: torch.Tensor, top_k: int) -> torch.Tensor:
    """How much each expert counts for each token, by logits `(tokens, experts)`: the active ones sum to 1."""
    best = logits.float().topk(top_k, dim=-1)
    weights = torch.zeros_like(logits, dtype=torch.float32)
    return weights.scatter_(-1, best.indices, best.values.softmax(-1))


def pad(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids padded on the right with 0, and their mask, both of shape `(rows, length)`."""
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    return ids, torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])


@dataclass(frozen=True)
class Routing:
    """The routing of some dialogues, each the mean over its tokens; arrays of shape `(rows, layers, experts)`."""

    experts: tuple[str, ...]
    weights: np.ndarray  # how much each counts; sums to 1 over the experts
    first: np.ndarray  # the share of tokens that it counts most for


def measure_routing(
    model: Any, tokenizer: Any, rows: Sequence[dict[str, Any]], *, batch_size: int = 8, max_length: int = 512
) -> Routing:
    """Runs a composed model over dialogues and records what its routers do."""
    talks = [[*row["prompt"], *row["completion"]] for row in rows]
    encoded = [chat_ids(tokenizer, t, where=f"row {i} of the report")[:max_length] for i, t in enumerate(talks, 1)]
    blocks, experts = [router_of(layer) for layer in layer_list(model)], expert_names(model)
    weights = np.zeros((len(rows), len(blocks), len(experts)))
    first = np.zeros_like(weights)
    order = sorted(range(len(rows)), key=lambda i: len(encoded[i]))
    training = model.training
    model.eval()
    bar = progress_bar(total=len(rows), label="routing", show=None, unit="dialogues")
    try:
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            ids, mask = pad([encoded[i] for i in batch])
            for layer, logits in enumerate(_logits(model, blocks, ids, mask)):
                shares = routing_weights(logits, model.config.num_experts_per_tok).reshape(*ids.shape, -1).cpu()
                best = torch.nn.functional.one_hot(shares.argmax(-1), len(experts)).float()
                for row, i in enumerate(batch):
                    kept = mask[row].bool()
                    weights[i, layer] = shares[row][kept].mean(0).numpy()
                    first[i, layer] = best[row][kept].mean(0).numpy()
            bar.update(len(batch))
    finally:
        bar.close()
        model.train(training)
    return Routing(experts, weights, first)


@torch.inference_mode()
def _logits(model: Any, blocks: Sequence[Any], ids: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
    """The logits of every router, of shape `(batch * length, experts)`."""
    found: list[torch.Tensor] = []

    def note(block: Any, args: Any) -> None:
        found.append(logits_of(block, *args))

    handles = [block.register_forward_pre_hook(note) for block in blocks]
    try:
        device = next(model.parameters()).device
        model.get_decoder()(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return found
