"""The base and its experts: opened, checked, and read tensor by tensor, with LoRA folded in."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file
from transformers import AutoTokenizer, PreTrainedConfig

from ..errors import CompositionError, check_choice
from ..files import read_json
from .checkpoint import Checkpoint, digest, read_config, resolve_folder
from .families import PROJECTIONS, family_of


logger = logging.getLogger(__name__)

SHARED = ("average", "base")
"""Sources of the weights outside the MLPs, besides an expert's name."""

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

# Fields of the configuration in which base and expert must agree, or their tensors mean different things
_ALIKE = (
    "model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "hidden_act", "rms_norm_eps", "tie_word_embeddings", "rope_parameters",
    "sliding_window", "layer_types", "attention_bias", "mlp_bias",
)  # fmt: skip

# LoRA settings that the two factors cannot express -> their value when off
_PLAIN = {
    "use_dora": False, "lora_bias": False, "use_qalora": False, "use_bdlora": None, "fan_in_fan_out": False,
    "bias": "none", "modules_to_save": None, "trainable_token_indices": None, "layer_replication": None,
    "alora_invocation_tokens": None, "target_parameters": None, "arrow_config": None, "kasa_config": None,
    "velora_config": None, "monteclora_config": None,
}  # fmt: skip
_CHANGES_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_PREFIX = "base_model.model."


class FullExpert:
    """An expert that is a model of its own."""

    kind = "full model"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoint = Checkpoint(folder)

    def changes(self, name: str) -> bool:
        """Whether a tensor may differ from the base's: here any may."""
        return True

    def tensor(self, name: str, base: Checkpoint, dtype: torch.dtype | None) -> torch.Tensor:
        """The expert's tensor of that name."""
        return self.checkpoint.read(name, dtype)

    def fingerprint(self) -> str:
        """A digest of the weights."""
        return digest(self.folder)

    def check(self, expert: str, config: PreTrainedConfig, base: Checkpoint, names: Sequence[str]) -> None:
        """Raises [`CompositionError`] if its tensors do not fit the composed tensors of the base (`names`)."""
        other = read_config(self.folder)
        if getattr(other, "quantization_config", None):
            raise CompositionError(f"expert {expert!r} is quantized; give the full-precision model, or its LoRA")
        alien = f"expert {expert!r} has another base:"
        for field in _ALIKE:
            ours, theirs = getattr(config, field, None), getattr(other, field, None)
            if ours != theirs:
                raise CompositionError(f"{alien} {field} is {theirs!r}, the base has {ours!r}")
        for name in names:
            if name not in self.checkpoint.files:
                raise CompositionError(f"expert {expert!r} lacks the tensor {name!r}")
            if self.checkpoint.shape(name) != base.shape(name):
                shapes = f"{self.checkpoint.shape(name)}, the base has {base.shape(name)}"
                raise CompositionError(f"{alien} {name!r} is of shape {shapes}")


class LoraExpert:
    """
    An expert that is a LoRA folder; each tensor is what PEFT's `merge_and_unload` would make of it, to the last bit.

    Raises [`CompositionError`] where the adapter is more than a plain LoRA (DoRA, a bias, modules saved whole, ...).
    """

    kind = "LoRA"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.config: dict[str, Any] = dict(read_json(folder / ADAPTER_CONFIG))
        except (ValueError, TypeError) as error:
            raise CompositionError(f"{str(folder / ADAPTER_CONFIG)!r} is damaged: {error}") from error
        _check_plain(self.config, folder)
        if not (folder / ADAPTER_WEIGHTS).is_file():
            raise CompositionError(f"{str(folder)!r} has no {ADAPTER_WEIGHTS}; save the adapter with save_pretrained")
        self._factors = self._by_name(load_file(folder / ADAPTER_WEIGHTS))

    def _by_name(self, tensors: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
        factors: dict[str, dict[str, torch.Tensor]] = {}
        for key, tensor in tensors.items():
            module, _, side = key.removesuffix(".weight").rpartition(".")
            if not key.startswith(_PREFIX) or side not in ("lora_A", "lora_B") or not key.endswith(".weight"):
                raise CompositionError(
                    f"{str(self.folder)!r} holds {key!r}, which is no factor of a linear layer's LoRA; only plain "
                    "LoRA on linear layers can be folded in. Give the full model, merged by PEFT"
                )
            factors.setdefault(module.removeprefix(_PREFIX) + ".weight", {})[side] = tensor.float()
        for name, sides in factors.items():
            if set(sides) != {"lora_A", "lora_B"}:
                raise CompositionError(f"{str(self.folder)!r} holds only one factor of {name!r}; the file is damaged")
        return factors

    @property
    def rank(self) -> int:
        """The largest rank of its layers."""
        return max(sides["lora_A"].shape[0] for sides in self._factors.values())

    def scaling(self, name: str) -> float:
        """`alpha / r`, or `alpha / sqrt(r)` with rsLoRA, of the layer that the tensor belongs to."""
        module = name.removesuffix(".weight")
        alphas: dict[str, float] = self.config.get("alpha_pattern") or {}
        ranks: dict[str, int] = self.config.get("rank_pattern") or {}
        alpha = float(alphas.get(get_pattern_key(list(alphas), module), self.config["lora_alpha"]))
        rank = int(ranks.get(get_pattern_key(list(ranks), module), self.config["r"]))
        return alpha / (rank**0.5 if self.config.get("use_rslora") else rank)

    def changes(self, name: str) -> bool:
        """Whether a LoRA is on the tensor."""
        return name in self._factors

    def tensor(self, name: str, base: Checkpoint, dtype: torch.dtype | None) -> torch.Tensor:
        """The base's tensor, with the LoRA folded in where there is one."""
        merged = base.read(name, dtype)
        if name in self._factors:
            sides = self._factors[name]
            merged += (sides["lora_B"] @ sides["lora_A"]) * self.scaling(name)
        return merged

    def fingerprint(self) -> str:
        """A digest of the adapter's weights and settings."""
        return digest(self.folder, (ADAPTER_WEIGHTS, ADAPTER_CONFIG))

    def check(self, expert: str, config: PreTrainedConfig, base: Checkpoint, names: Sequence[str]) -> None:
        """See [`FullExpert.check`]."""
        for name, sides in self._factors.items():
            if name not in names:
                why = "ties to its embeddings" if name == "lm_head.weight" else "does not have"
                raise CompositionError(f"expert {expert!r} has a LoRA on {name!r}, which the base {why}")
            shape = (sides["lora_B"].shape[0], sides["lora_A"].shape[1])
            if shape != base.shape(name):
                raise CompositionError(
                    f"expert {expert!r} was trained on another base: its LoRA of {name!r} is for shape {shape}, the "
                    f"base has {base.shape(name)}"
                )


Expert = FullExpert | LoraExpert


def _check_plain(config: Mapping[str, Any], folder: Path) -> None:
    if (kind := config.get("peft_type")) != "LORA":
        raise CompositionError(
            f"{str(folder)!r} is an adapter of type {kind!r}; only LORA can be composed. Merge it into its base with "
            "PEFT's merge_and_unload and give the full model"
        )
    for name, plain in _PLAIN.items():
        value = config.get(name, plain)
        if value != plain and not (plain is None and not value):
            named = "DoRA" if name == "use_dora" else f"{name}={value!r}"
            raise CompositionError(
                f"{str(folder)!r} uses {named}, which cannot be folded in exactly; merge it into its base with PEFT's "
                "merge_and_unload and give the full model, or train with plain LoRA"
            )
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.startswith(_CHANGES_THE_BASE):
        raise CompositionError(
            f"{str(folder)!r} was initialised with {start!r}, which changes the base's weights; convert it with "
            "save_pretrained(path_initial_model_for_weight_conversion=...), or give the merged full model"
        )


@dataclass(frozen=True)
class Sources:
    """A dense base and its experts, checked."""

    base: Checkpoint
    config: PreTrainedConfig
    experts: Mapping[str, Expert]
    names: list[str]  # the base's tensors that are composed, in the order in which they are written
    tokenizer: Path | None  # where the tokenizer is taken from
    dtype: torch.dtype | None  # what tensors are cast to; without it they stay as they are

    @classmethod
    def open(
        cls,
        base: str,
        experts: Mapping[str, str | os.PathLike[str]],
        *,
        dtype: str | None = None,
        trust_base: bool = False,
        revision: str | None = None,
    ) -> Sources:
        """Opens and checks; the arguments are those of [`~ee_trl.compose_moe`]. Nothing is written."""
        if dtype is not None:
            check_choice("dtype", dtype, ("float32", "bfloat16", "float16"), CompositionError)
        folder = resolve_folder(base, revision)
        config, checkpoint = read_config(folder), Checkpoint(folder)
        family_of(config)
        _check_base(config, checkpoint)
        tied = config.tie_word_embeddings
        names = sorted((n for n in checkpoint.names if not (tied and n == "lm_head.weight")), key=_order)
        folders = {name: resolve_folder(path) for name, path in experts.items()}
        opened: dict[str, Expert] = {
            name: LoraExpert(path) if (path / ADAPTER_CONFIG).is_file() else FullExpert(path)
            for name, path in folders.items()
        }
        for name, expert in opened.items():
            expert.check(name, config, checkpoint, names)
        if not trust_base:
            _check_same_base(base, folder, opened)
        cast = None if dtype is None else getattr(torch, dtype)
        return cls(checkpoint, config, opened, names, _common_tokenizer(folder, folders), cast)

    def expert(self, expert: str, name: str) -> torch.Tensor:
        """One expert's tensor."""
        return self.experts[expert].tensor(name, self.base, self.dtype)

    def shared(self, name: str, rule: str) -> torch.Tensor:
        """The tensor that all experts share, by the rule of `compose_moe(shared=...)`."""
        if rule in self.experts:
            return self.expert(rule, name)
        if rule == "base" or not any(expert.changes(name) for expert in self.experts.values()):
            return self.base.read(name, self.dtype)
        return mean_of(self.expert(expert, name) for expert in self.experts)


def mean_of(tensors: Iterable[torch.Tensor], rows: int = 4096) -> torch.Tensor:
    """The mean of tensors of one shape, in float64 and a few rows at a time; the mean of equal tensors is exact."""
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
    if name.startswith("model.layers."):
        return 1, int(name.split(".")[2]), name
    return (0 if "embed_tokens" in name else 2), 0, name


def check_experts(names: tuple[str, ...], shared: str, top_k: int | None) -> None:
    """Raises [`CompositionError`] for fewer than two experts, invalid names, and settings that do not fit them."""
    if len(names) < 2:
        raise CompositionError(f"a mixture needs two experts or more; given: {', '.join(names) or 'none'}")
    for name in names:
        if not name or not name.replace("_", "").replace("-", "").isalnum() or name in SHARED:
            raise CompositionError(
                f"{name!r} is not a name for an expert; valid: letters, digits, '-' and '_', not 'average' or 'base'"
            )
    check_choice("shared", shared, (*SHARED, *names), CompositionError)
    if top_k is not None and not (isinstance(top_k, int) and 1 <= top_k <= len(names)):
        raise CompositionError(f"top_k={top_k!r} is not valid; valid: 1 to {len(names)}, the number of experts")


def _check_base(config: PreTrainedConfig, checkpoint: Checkpoint) -> None:
    """Raises [`CompositionError`] for a quantized base, and for one without the tensors that its config promises."""
    if getattr(config, "quantization_config", None):
        raise CompositionError(
            f"{str(checkpoint.folder)!r} is quantized; compose from the full-precision base (the LoRA of a QLoRA fits "
            "it as well), and quantize the composed model: ee_trl.moe.quantize.load_in_4bit"
        )
    needed = {"model.embed_tokens.weight", "model.norm.weight"}
    needed |= {f"model.layers.{i}.mlp.{part}.weight" for i in range(config.num_hidden_layers) for part in PROJECTIONS}
    if not config.tie_word_embeddings:
        needed.add("lm_head.weight")
    missing = sorted(needed - set(checkpoint.names))
    if missing:
        raise CompositionError(f"the base {str(checkpoint.folder)!r} lacks {', '.join(missing[:3])}")


def _check_same_base(base: str, folder: Path, experts: Mapping[str, Expert]) -> None:
    """Raises [`CompositionError`] for a LoRA of another base; the same name, folder or bytes are the same base."""
    same: dict[Path | None, bool] = {None: False, folder.resolve(): True}
    for name, expert in experts.items():
        said = expert.config.get("base_model_name_or_path") if isinstance(expert, LoraExpert) else None
        if not said or said in (base, str(folder)):
            continue
        there = next((path.resolve() for path in (expert.folder.parent / said, Path(said)) if path.is_dir()), None)
        if there is not None and there not in same:
            same[there] = digest(there) == digest(folder)
        if not same[there]:
            raise CompositionError(
                f"expert {name!r} says that it was trained on {said!r}, but the base given is {base!r}. If these are "
                "one model under two names, say so: trust_base=True (--trust-base)"
            )


def _common_tokenizer(base: Path, experts: Mapping[str, Path]) -> Path | None:
    """The folder of the tokenizer: an expert's, which has the trained chat template, or else the base's."""
    found = {name: tokenizer for name, folder in experts.items() if (tokenizer := _tokenizer(folder)) is not None}
    own = _tokenizer(base)
    if not found:
        if own is None:
            logger.warning("neither the base nor an expert has a tokenizer, so the composed model gets none")
        return None if own is None else base
    first = next(iter(found))
    for name, tokenizer in found.items():
        _check_alike(f"expert {first!r}", found[first], f"expert {name!r}", tokenizer, template=True)
    if own is not None:
        _check_alike("the base", own, f"expert {first!r}", found[first], template=False)
    return experts[first]


def _check_alike(one: str, a: Any, other: str, b: Any, *, template: bool) -> None:
    differ = f"{one} and {other} have different"
    words, others = a.get_vocab(), b.get_vocab()
    if words != others:
        odd = min(words.items() ^ others.items())[0]
        raise CompositionError(
            f"{differ} tokenizers ({len(words):,} and {len(others):,} tokens; e.g. {odd!r} is "
            f"{words.get(odd)} in one and {others.get(odd)} in the other)"
        )
    for name in ("bos_token", "unk_token", "eos_token"):
        if getattr(a, name) != getattr(b, name):
            raise CompositionError(f"{differ} tokenizers: {name} is {getattr(a, name)!r} and {getattr(b, name)!r}")
    if template and a.chat_template != b.chat_template:
        raise CompositionError(f"{differ} chat templates; the mixture can have only one")


def _tokenizer(folder: Path) -> Any:
    names = ("tokenizer_config.json", "tokenizer.json", "tokenizer.model", "vocab.json")
    if not any((folder / name).is_file() for name in names):
        return None
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # a damaged folder can raise anything
        raise CompositionError(f"the tokenizer in {str(folder)!r} cannot be read: {error}") from error
