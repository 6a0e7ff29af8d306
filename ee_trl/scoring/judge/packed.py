"""A batch of trees in one row, without padding: only the attention inside each tree lays the trees side by side.

Each token attends twice: to the rubric's keys, for all tokens of the batch at once and without a mask, and to its own
tree, under a mask as small as the trees. The two results are joined by the sums of their exponentials, which fused
kernels return beside their output, so that they are what one attention over both gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.cache_utils import Cache, DynamicLayer


NAME = "ee_trl_packed"


@dataclass
class Packed:
    """A batch of `b` trees of at most `l` tokens as one row of `t` tokens."""

    input_ids: torch.Tensor  # (1, t)
    position_ids: torch.Tensor  # (1, t)
    keep: torch.Tensor  # (reads,): the indices that are read, sample by sample
    places: torch.Tensor  # (b, l): where each token of the padded trees is in the row; 0 for padding
    real: torch.Tensor  # (t,): where each token of the row is in the padded trees, flattened
    mask: torch.Tensor  # (b, 1, l, l) of bool: what each token sees of its own tree; in the model, see `_bias`
    checked: bool = False  # whether each layer's attention is compared with the usual one
    apart: float = 0.0  # the largest difference found, relative to the largest value
    layers: list[SharedLayer] = field(default_factory=list)  # those whose attention has begun
    attended: int = 0  # layers whose attention was the one of this module

    @classmethod
    def of(cls, padded: Any, checked: bool = False) -> Packed:
        """From the same batch with padding, [`~ee_trl.scoring.judge.tree.TreeInputs`]."""
        real, keep = padded.real, padded.keep
        places = (real.flatten().cumsum(0) - 1).view_as(real) * real
        ids, positions = padded.input_ids[real][None], padded.position_ids[real][None]
        back = real.flatten().nonzero()[:, 0]
        return cls(ids, positions, places[:, keep][real[:, keep]], places, back, padded.mask, checked)


_running: ContextVar[Packed | None] = ContextVar("the packed batch that runs", default=None)


class SharedLayer(DynamicLayer):
    """A layer's cache of the prefix: every row of any batch sees it, and nothing is added to it."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = self.prefix = keys, values

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The prefix's keys and values, expanded over the batch, then the new ones. Of a packed batch the new ones alone:
        its attention reads the prefix by itself.
        """
        new = key_states, value_states
        if packed := _running.get():
            packed.layers.append(self)
            return new
        keys, values = (
            torch.cat([old.expand(len(x), -1, -1, -1), x], dim=-2) for old, x in zip(self.prefix, new, strict=True)
        )
        return keys, values


def shared_cache(model: Any, prefix: Sequence[int]) -> Cache:
    """Runs the prefix through the model once; its cache serves any number of batches."""
    ids = torch.tensor([list(prefix)], device=model.device)
    filled = model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values
    if any(type(layer) is not DynamicLayer for layer in filled.layers):
        raise NotImplementedError(f"caches of {[type(layer).__name__ for layer in filled.layers][:1]} are not shared")
    return Cache(layers=[SharedLayer(layer.keys, layer.values) for layer in filled.layers])


def packed_logits(model: Any, batch: Packed, prefix: Cache) -> torch.Tensor:
    """The logits at the indices that are read, shape `(reads, vocabulary)`."""
    for name in ("input_ids", "position_ids", "keep", "places", "real", "mask"):
        setattr(batch, name, moved(getattr(batch, name), model.device))
    with _attention(model, batch):
        logits: torch.Tensor = model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            attention_mask=batch.mask[:1, :, :1, :1],  # four dimensions: the model leaves it as it is
            past_key_values=prefix,
            use_cache=True,
            logits_to_keep=batch.keep,
        ).logits[0]
    if not batch.attended == len(batch.layers) == len(prefix.layers):
        raise NotImplementedError("this model does not call the attention function of its configuration")
    return logits


def moved(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """On the device; CUDA does not wait, so what comes from there is to be read only after an event."""
    return tensor.to(device, non_blocking="cuda" in (tensor.device.type, torch.device(device).type))


@contextmanager
def _attention(model: Any, batch: Packed) -> Iterator[None]:
    config = model.config.get_text_config()
    usual, token = config._attn_implementation, _running.set(batch)
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = usual
        _running.reset(token)


def _bias(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A mask as what is added to the attention's scores; CUDA kernels want rows of a multiple of 16 in memory."""
    wide = pad(mask, (0, -mask.shape[-1] % 16))
    bias = torch.zeros(wide.shape, dtype=dtype, device=mask.device).masked_fill_(~wide, float("-inf"))
    return bias[..., : mask.shape[-1]]


def _attend(
    inputs: Sequence[torch.Tensor], scale: float, bias: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of query, key and value by a fused kernel, and the logarithms of its sums, `(b, heads, l)`."""
    kernels, (query, key, value) = torch.ops.aten, inputs
    if query.device.type == "cpu":
        return kernels._scaled_dot_product_flash_attention_for_cpu(query, key, value, attn_mask=bias, scale=scale)
    flash = query.dtype != torch.float32 and torch.cuda.get_device_capability(query.device) >= (8, 0)
    if bias is None and flash:
        return kernels._scaled_dot_product_flash_attention.default(query, key, value, scale=scale)[:2]
    rows, heads, length = query.shape[:3]
    key, value = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (key, value))
    if bias is not None:
        bias = bias.expand(rows, heads, -1, -1)
    found, sums = kernels._scaled_dot_product_efficient_attention(query, key, value, bias, True, scale=scale)[:2]
    return found, sums[..., :length]


def packed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The attention of one layer, in the form that [`transformers.AttentionInterface`] takes."""
    if extra := [name for name in ("softcap", "s_aux", "position_bias") if kwargs.get(name) is not None]:
        raise NotImplementedError(f"attention with {extra[0]} is not packed")
    batch, scale = _running.get(), query.shape[-1] ** -0.5 if scaling is None else scaling
    if batch is None:
        raise RuntimeError("this attention is for packed batches alone")
    prefix, batch.attended = batch.layers[-1].prefix, batch.attended + 1
    rubric, rubric_sums = _attend((query, *prefix), scale)
    padded = [x[0].transpose(0, 1)[batch.places].transpose(1, 2) for x in (query, key, value)]  # (b, heads, l, size)
    if batch.mask.dtype != query.dtype:  # the first layer
        batch.mask = _bias(batch.mask, query.dtype)
    own, own_sums = _attend(padded, scale, batch.mask)
    own = own.transpose(1, 2).flatten(0, 1)[batch.real]  # (t, heads, size)
    share = torch.sigmoid(rubric_sums[0].T - own_sums.transpose(1, 2).flatten(0, 1)[batch.real])
    found = torch.lerp(own, rubric[0].transpose(0, 1), share[:, :, None].to(own.dtype))
    if batch.checked:
        usual = _usual(padded, prefix, batch.mask, scale).transpose(1, 2).flatten(0, 1)[batch.real]
        batch.apart = max(batch.apart, float((found.float() - usual).abs().max() / usual.abs().max()))
    return found[None], None


def _usual(
    padded: Sequence[torch.Tensor], prefix: Sequence[torch.Tensor], bias: torch.Tensor, scale: float
) -> torch.Tensor:
    """The same by one attention in float32."""
    query, *own = (x.float() for x in padded)
    rows, groups = query.shape[0], query.shape[1] // prefix[0].shape[1]
    both = (torch.cat([x.float().expand(rows, -1, -1, -1), y], dim=2) for x, y in zip(prefix, own, strict=True))
    key, value = (x.repeat_interleave(groups, dim=1) for x in both)
    mask = pad(bias.float(), (prefix[0].shape[2], 0))
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)


AttentionInterface.register(NAME, packed_attention)
