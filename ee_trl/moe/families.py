"""Which native mixture a dense model becomes: the configuration and the tensor names of each family.

The targets are classes of transformers, written in the layout of their hub checkpoints, so that `from_pretrained` and
vLLM load them without custom code.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from ..errors import CompositionError, check_choice


PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
EXPERT_NAMES = "ee_trl_experts"
"""The key of a composed model's `config.json` that lists the names of its experts, in order."""

SHARED_WIDTH = 64
"""Width of the all-zero shared expert that Qwen2-MoE requires: narrow, but divisible."""

_KEPT = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps",
    "attention_dropout", "dtype",
)  # fmt: skip
_MLP = re.compile(r"model\.layers\.(\d+)\.mlp\.(gate_proj|up_proj|down_proj)\.weight")


@dataclass(frozen=True)
class Family:
    """A native mixture architecture, and how its checkpoint names its tensors."""

    target: str  # its model_type
    architecture: str  # the class in transformers
    block: str  # a layer's mixture
    projections: Mapping[str, str]  # dense projection -> its name in an expert
    gate: str = "gate.weight"  # the gate in the mixture
    stacked: bool = False  # whether the hub's layout stacks the experts of a layer

    def gate_name(self, layer: int) -> str:
        """The gate's tensor of a layer, of shape `(experts, hidden)`."""
        return f"model.layers.{layer}.{self.block}.{self.gate}"

    def expert_name(self, layer: int, expert: int, projection: str) -> str:
        """The tensor that a dense projection becomes in one expert."""
        return f"model.layers.{layer}.{self.block}.experts.{expert}.{self.projections[projection]}.weight"


_QWEN_NAMES = {name: name for name in PROJECTIONS}
MIXTRAL = Family(
    "mixtral", "MixtralForCausalLM", "block_sparse_moe", {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
)
QWEN2_MOE = Family("qwen2_moe", "Qwen2MoeForCausalLM", "mlp", _QWEN_NAMES)
QWEN3_MOE = Family("qwen3_moe", "Qwen3MoeForCausalLM", "mlp", _QWEN_NAMES)
_GRANITE_NAMES = {"gate_proj": "input_linear", "up_proj": "input_linear", "down_proj": "output_linear"}
GRANITE_MOE = Family(
    "granitemoe", "GraniteMoeForCausalLM", "block_sparse_moe", _GRANITE_NAMES, "router.layer.weight", stacked=True
)
TARGETS = {family.target: family for family in (MIXTRAL, QWEN2_MOE, QWEN3_MOE, GRANITE_MOE)}


def family_of(config: PreTrainedConfig) -> Family:
    """The native target of a dense model; raises [`CompositionError`] if there is none."""
    kind = config.model_type
    if kind in TARGETS:
        raise CompositionError(f"the base is a mixture already (model_type {kind!r}); give the dense base model")
    check_choice("model_type of the base", kind, ("llama", "mistral", "qwen2", "qwen3"), CompositionError)
    if getattr(config, "mlp_bias", False):
        raise CompositionError("the base has mlp_bias=True, but no native mixture has a bias in its experts")
    if kind in ("qwen2", "qwen3"):
        return QWEN2_MOE if kind == "qwen2" else QWEN3_MOE
    return GRANITE_MOE if getattr(config, "attention_bias", False) else MIXTRAL


def mixture_config(config: PreTrainedConfig, experts: tuple[str, ...], top_k: int) -> PreTrainedConfig:
    """The configuration of the mixture that a dense model becomes, with `top_k` of the named experts active."""
    family = family_of(config)
    settings: dict[str, Any] = {
        **{name: getattr(config, name) for name in _KEPT if getattr(config, name, None) is not None},
        **{name: getattr(config, name, None) for name in ("pad_token_id", "bos_token_id", "eos_token_id")},
        "tie_word_embeddings": bool(config.tie_word_embeddings),
        **_OWN[family.target](config, len(experts)),
        "rope_parameters": copy.deepcopy(config.rope_parameters),
        "num_experts_per_tok": top_k,
        "router_aux_loss_coef": 0.0,  # constant where all experts are active; otherwise training sets it
        "output_router_logits": False,
        EXPERT_NAMES: list(experts),
    }
    return AutoConfig.for_model(family.target, **settings)


def _mixtral(config: PreTrainedConfig, experts: int) -> dict[str, Any]:
    if len(set(getattr(config, "layer_types", None) or ["full_attention"])) > 1:
        raise CompositionError("the base mixes full and sliding attention; Mixtral has one kind for all layers")
    return {"num_local_experts": experts, "sliding_window": getattr(config, "sliding_window", None)}


def _granite(config: PreTrainedConfig, experts: int) -> dict[str, Any]:
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return {
        "num_local_experts": experts,
        "attention_bias": True,
        "attention_multiplier": head_dim**-0.5,
        "embedding_multiplier": 1.0,
        "logits_scaling": 1.0,
        "residual_multiplier": 1.0,
    }


def _qwen(config: PreTrainedConfig, experts: int) -> dict[str, Any]:
    return {
        "num_experts": experts,
        "moe_intermediate_size": config.intermediate_size,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "use_sliding_window": bool(config.use_sliding_window and config.sliding_window),
        "sliding_window": config.sliding_window,
    }


def _qwen2(config: PreTrainedConfig, experts: int) -> dict[str, Any]:
    return _qwen(config, experts) | {
        "shared_expert_intermediate_size": SHARED_WIDTH,
        "qkv_bias": True,
        "max_window_layers": config.max_window_layers,
        "layer_types": list(config.layer_types),
    }


def _qwen3(config: PreTrainedConfig, experts: int) -> dict[str, Any]:
    kinds = sorted(set(config.layer_types))
    if len(kinds) > 1:
        raise CompositionError(
            f"the base mixes {' and '.join(kinds)} (max_window_layers={config.max_window_layers}); Qwen3-MoE has one "
            "kind of attention for all layers. Set use_sliding_window=False in the base's config"
        )
    own = _qwen(config, experts) | {"attention_bias": config.attention_bias}
    return own if kinds == ["sliding_attention"] else own | {"use_sliding_window": False, "sliding_window": None}


_OWN = {"mixtral": _mixtral, "granitemoe": _granite, "qwen2_moe": _qwen2, "qwen3_moe": _qwen3}


def number_of_experts(config: PreTrainedConfig) -> int:
    """How many experts a mixture has, whatever its family calls them."""
    return next(getattr(config, name) for name in ("num_local_experts", "num_experts") if hasattr(config, name))


def mlp_part(name: str) -> tuple[int, str] | None:
    """Layer and projection of a dense checkpoint's MLP tensor; `None` for any other tensor."""
    match = _MLP.fullmatch(name)
    return (int(match[1]), match[2]) if match else None


def mirror_rope(config: dict[str, Any]) -> dict[str, Any]:
    """The content of a `config.json`, with `rope_theta` and `rope_scaling` also where transformers 4 reads them."""
    rope = dict(config.get("rope_parameters") or {})
    mirrored = dict(config)
    if "rope_theta" in rope:
        mirrored["rope_theta"] = rope.pop("rope_theta")
    if rope.get("rope_type", "default") != "default":
        mirrored["rope_scaling"] = rope
    return mirrored
