"""How a mixture routes: what each expert counts in each layer, for each of some dialogues."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .router import expert_names, layer_list, logits_of, pad, router_of, routing_weights


if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Routing:
    """
    The routing of some dialogues, each the mean over its tokens, without padding.

    Args:
        experts (`tuple[str, ...]`): Their names.
        weights (`np.ndarray` of shape `(rows, layers, experts)`): What each expert counts; sums to 1 over the experts.
        first (`np.ndarray` of shape `(rows, layers, experts)`): The share of tokens that it counts most for.
    """

    experts: tuple[str, ...]
    weights: np.ndarray
    first: np.ndarray


def measure_routing(
    model: Any, tokenizer: Any, rows: Sequence[dict[str, Any]], *, batch_size: int = 8, max_length: int = 512
) -> Routing:
    """
    Runs a composed model over dialogues and looks at its routers.

    Args:
        model (`PreTrainedModel` or `PeftModel`): A composed mixture; left in the mode it was in.
        tokenizer (`PreTrainedTokenizerBase`): With a chat template.
        rows (`Sequence[dict]`): With `prompt` and `completion`, lists of messages.
        batch_size (`int`, *optional*, defaults to `8`): Rows at a time; changes nothing but speed.
        max_length (`int`, *optional*, defaults to `512`): Tokens of a row, from its start.
    """
    import numpy as np
    import torch

    encoded = [_encode(tokenizer, row)[:max_length] for row in rows]
    blocks = [router_of(layer) for layer in layer_list(model)]
    config, number = model.config, len(expert_names(model))
    weights = np.zeros((len(rows), len(blocks), number))
    first = np.zeros_like(weights)
    order = sorted(range(len(rows)), key=lambda i: len(encoded[i]))
    training = model.training
    model.eval()
    try:
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            ids, mask = pad([encoded[i] for i in batch])
            with torch.inference_mode():
                found = _logits(model, blocks, ids, mask)
            for layer, logits in enumerate(found):
                shares = routing_weights(logits, config.num_experts_per_tok).reshape(*ids.shape, number).cpu()
                best = torch.nn.functional.one_hot(shares.argmax(-1), number).float()
                for row, i in enumerate(batch):
                    kept = mask[row].bool()
                    weights[i, layer] = shares[row][kept].mean(0).numpy()
                    first[i, layer] = best[row][kept].mean(0).numpy()
    finally:
        model.train(training)
    return Routing(expert_names(model), weights, first)


def _encode(tokenizer: Any, row: dict[str, Any]) -> list[int]:
    talk = list(row["prompt"]) + list(row["completion"])
    return tokenizer.apply_chat_template(talk, return_dict=True)["input_ids"]


def _logits(model: Any, blocks: Sequence[Any], ids: Any, mask: Any) -> list[Any]:
    """The logits of every router, of shape `(batch * length, experts)`."""
    found: list[Any] = []

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
