"""A composed model in 4 bits, experts included: bitsandbytes alone skips them, because they are not linear layers."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from ..errors import CompositionError, check_choice
from .checkpoint import read_config, resolve_folder
from .families import TARGETS
from .routing import layer_list


logger = logging.getLogger(__name__)

EXPERT_PARAMETERS = ("gate_up_proj", "down_proj")
BLOCK = 64


@dataclass(frozen=True)
class Memory:
    """Bytes of a model's weights: of its experts, and of the rest (attention, embeddings, head, norms, routers)."""

    experts: int
    rest: int

    @property
    def total(self) -> int:
        """Both together."""
        return self.experts + self.rest

    def __str__(self) -> str:
        gib = [f"{size / 2**30:,.3f}" for size in (self.total, self.experts, self.rest)]
        return f"{gib[0]} GiB (experts {gib[1]}, all else {gib[2]})"


def load_in_4bit(
    model: str | os.PathLike[str],
    *,
    quant_type: str = "nf4",
    double_quant: bool = False,
    device: str | torch.device | None = None,
    dtype: str = "auto",
) -> Any:
    """
    Loads a composed model with its experts and its attention in 4 bits, and logs how much memory that saves.

    Embeddings, head, norms and routers stay as they are. The model is read on the CPU and moved layer by layer, so
    that the device never holds more than the quantized model and one layer. It is for inference: it cannot be saved
    (quantize at each load), and its router cannot be trained (train first).

    Args:
        model (`str` or `os.PathLike`): Folder or hub name of what [`~ee_trl.compose_moe`] or `sft_moe.py` wrote.
        quant_type (`str`, *optional*, defaults to `"nf4"`): `"nf4"` or `"fp4"`.
        double_quant (`bool`, *optional*, defaults to `False`): Whether the scales are quantized too.
        device (`str` or `torch.device`, *optional*): The model's device; by default a GPU if there is one.
        dtype (`str`, *optional*, defaults to `"auto"`): Type of the other weights, and of the arithmetic.

    Returns:
        `PreTrainedModel`, ready to generate.

    Raises:
        [`CompositionError`]: The model is not a composed mixture, or `quant_type` is unknown.
    """
    check_choice("quant_type", quant_type, ("nf4", "fp4"), CompositionError)
    folder = resolve_folder(model)
    config = read_config(folder)
    if config.model_type not in TARGETS:
        raise CompositionError(f"model_type {config.model_type!r} is no composed mixture; valid: {', '.join(TARGETS)}")
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    before = memory_of(loaded)
    loaded.requires_grad_(False)
    for layer in layer_list(loaded):
        _quantize_attention(layer.self_attn, place, quant_type, double_quant)
        _quantize_experts(experts_of(layer), place, quant_type, double_quant)
        layer.to(place)
    loaded.to(place)
    loaded.is_quantized = loaded.is_loaded_in_4bit = True
    loaded.save_pretrained = _refuse_to_save
    logger.info("4 bits (%s): %s instead of %s", quant_type, memory_of(loaded), before)
    return loaded


def experts_of(layer: Any) -> Any:
    """The fused experts of a decoder layer."""
    return next(module for module in layer.modules() if hasattr(module, EXPERT_PARAMETERS[0]))


def _quantize_attention(attention: Any, place: torch.device, kind: str, double: bool) -> None:
    """Replaces the linear layers with sizes that are multiples of 64."""
    import bitsandbytes as bnb

    for name, linear in list(attention.named_children()):
        if not isinstance(linear, torch.nn.Linear) or linear.in_features % BLOCK or linear.out_features % BLOCK:
            continue
        how: Any = {"quant_type": kind, "compress_statistics": double}
        sizes, biased = (linear.in_features, linear.out_features), linear.bias is not None
        new = bnb.nn.Linear4bit(*sizes, bias=biased, compute_dtype=linear.weight.dtype, device="meta", **how)
        new.weight = bnb.nn.Params4bit(linear.weight.data, requires_grad=False, module=new, **how)
        new.bias = linear.bias
        setattr(attention, name, new.to(place))


def _quantize_experts(experts: Any, place: torch.device, kind: Any, double: bool) -> None:
    from bitsandbytes.nn.parametrize import replace_parameter_4bit

    for name in EXPERT_PARAMETERS:
        parameter = getattr(experts, name)
        parameter.data = parameter.data.to(place)
        replace_parameter_4bit(experts, name, compress_statistics=double, quant_type=kind)


def _refuse_to_save(*args: Any, **kwargs: Any) -> None:
    raise CompositionError(
        "a composed model in 4 bits cannot be saved: keep the folder it was loaded from, and quantize at each load"
    )


def memory_of(model: Any) -> Memory:
    """The bytes of a model's weights, with the scales of weights in 4 bits."""
    experts = {id(tensor): tensor for layer in layer_list(model) for tensor in _tensors(experts_of(layer))}
    every = {id(tensor): tensor for tensor in _tensors(model)}
    sizes = {key: tensor.numel() * tensor.element_size() for key, tensor in every.items()}
    own = sum(sizes[key] for key in experts)
    return Memory(own, sum(sizes.values()) - own)


def _tensors(module: Any) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()
    for part in module.modules():
        state = getattr(part, "quant_state", None)
        for inner in (state, getattr(state, "state2", None)):
            if inner is not None:
                yield from (value for value in vars(inner).values() if isinstance(value, torch.Tensor))
