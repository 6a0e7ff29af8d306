"""The tensors of a composed model, one after another, from the base's and the experts' folders."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CompositionError, unknown
from .checkpoint import Checkpoint, read_config, resolve_folder
from .checks import check_base, check_expert, check_same_base, common_tokenizer
from .families import PROJECTIONS, SHARED_WIDTH, Family, family_of, mlp_part
from .sources import FullExpert, LoraExpert, open_expert


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class Sources:
    """
    A base and its experts, checked.

    Args:
        base (`Checkpoint`): The dense base.
        config (`PreTrainedConfig`): Its configuration.
        experts (`Mapping[str, LoraExpert | FullExpert]`): Name -> expert, in order.
        names (`list[str]`): The base's tensors that are composed, in the order in which they are written.
        tokenizer (`Path`, *optional*): Where the tokenizer is taken from.
        dtype (`torch.dtype`, *optional*): What tensors are cast to; `None` for as they are.
    """

    base: Checkpoint
    config: PreTrainedConfig
    experts: Mapping[str, LoraExpert | FullExpert]
    names: list[str]
    tokenizer: Path | None
    dtype: torch.dtype | None

    @classmethod
    def open(
        cls,
        base: str,
        experts: Mapping[str, str | os.PathLike[str]],
        dtype: str | None,
        trust_base: bool,
        revision: str | None = None,
    ) -> Sources:
        """Opens and checks; nothing is written."""
        folder = resolve_folder(base, revision)
        config, checkpoint = read_config(folder), Checkpoint(folder)
        family_of(config)
        check_base(config, checkpoint)
        names = sorted(checkpoint.names, key=_order)
        if config.tie_word_embeddings:
            names = [name for name in names if name != "lm_head.weight"]
        folders = {name: resolve_folder(path) for name, path in experts.items()}
        opened = {name: open_expert(path) for name, path in folders.items()}
        for name, expert in opened.items():
            check_expert(name, expert, config, checkpoint, names)
        if not trust_base:
            check_same_base(str(base), folder, opened)
        return cls(checkpoint, config, opened, names, common_tokenizer(folder, folders), _dtype(dtype))

    def expert(self, expert: str, name: str) -> torch.Tensor:
        """One expert's tensor."""
        return self.experts[expert].tensor(name, self.base, self.dtype)

    def shared(self, name: str, rule: str) -> torch.Tensor:
        """The one tensor that all experts share, by the rule of `compose_moe(shared=...)`."""
        if rule in self.experts:
            return self.expert(rule, name)
        if rule == "base" or not any(expert.changes(name) for expert in self.experts.values()):
            return self.base.read(name, self.dtype)
        return mean_of(self.expert(expert, name) for expert in self.experts)


def mixture_tensors(sources: Sources, family: Family, shared: str) -> Iterator[tuple[str, Any]]:
    """Every tensor of the mixture's checkpoint; `None` ends a shard, and the gates are in the last one."""
    import torch

    layers, hidden = sources.config.num_hidden_layers, sources.config.hidden_size
    kind = sources.dtype
    for name in sources.names:
        part = mlp_part(name)
        if part is None:
            yield name, sources.shared(name, shared)
        elif family.stacked:
            if part[1] == "gate_proj":
                yield from _stacked(sources, family, part[0])
        else:
            for i, expert in enumerate(sources.experts):
                tensor = sources.expert(expert, name)
                kind = tensor.dtype
                yield family.expert_name(part[0], i, part[1]), tensor
    if family.target == "qwen2_moe":
        for layer in range(layers):
            yield from _silent_shared_expert(f"model.layers.{layer}.mlp.shared_expert", hidden, kind)
    kind = kind or sources.base.read("model.norm.weight").dtype
    yield "", None
    for layer in range(layers):
        yield family.gate_name(layer), torch.zeros(len(sources.experts), hidden, dtype=kind)


def _stacked(sources: Sources, family: Family, layer: int) -> Iterator[tuple[str, torch.Tensor]]:
    import torch

    prefix = f"model.layers.{layer}.{family.block}."
    gate, up, down = (f"model.layers.{layer}.mlp.{part}.weight" for part in PROJECTIONS)
    both = [torch.cat([sources.expert(expert, gate), sources.expert(expert, up)]) for expert in sources.experts]
    yield f"{prefix}{family.projections['gate_proj']}.weight", torch.stack(both)
    del both
    yield (
        f"{prefix}{family.projections['down_proj']}.weight",
        torch.stack([sources.expert(expert, down) for expert in sources.experts]),
    )


def _silent_shared_expert(prefix: str, hidden: int, dtype: torch.dtype | None) -> Iterator[tuple[str, torch.Tensor]]:
    """The shared expert that Qwen2-MoE always adds: all zeros, so that it adds nothing."""
    import torch

    wide = (SHARED_WIDTH, hidden)
    shapes = {"gate_proj": wide, "up_proj": wide, "down_proj": wide[::-1]}
    for name, shape in shapes.items():
        yield f"{prefix}.{name}.weight", torch.zeros(shape, dtype=dtype)
    yield f"{prefix}_gate.weight", torch.zeros(1, hidden, dtype=dtype)


def mean_of(tensors: Iterable[torch.Tensor], rows: int = 4096) -> torch.Tensor:
    """The mean of tensors of one shape, computed in float64 a few rows at a time: of equal ones, the tensor itself."""
    import torch

    first, *rest = tensors
    if not rest:
        return first
    mean = torch.empty_like(first)
    for start in range(0, len(first), rows):
        part = slice(start, start + rows)
        total = first[part].double()
        for tensor in rest:
            total += tensor[part].double()
        mean[part] = (total / (1 + len(rest))).to(mean.dtype)
    return mean


def _order(name: str) -> tuple[int, int, str]:
    """Embeddings, then layer by layer, then the rest."""
    parts = name.split(".")
    if name.startswith("model.layers."):
        return 1, int(parts[2]), name
    return (0 if "embed_tokens" in name else 2), 0, name


def _dtype(name: str | None) -> torch.dtype | None:
    import torch

    if name is None:
        return None
    kinds = ("float32", "bfloat16", "float16")
    if name not in kinds:
        raise CompositionError(unknown("dtype", name, kinds))
    return getattr(torch, name)
