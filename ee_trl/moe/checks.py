"""What cannot be composed is refused by name, before anything is written."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CompositionError, unknown
from .checkpoint import Checkpoint, digest, read_config
from .sources import FullExpert, LoraExpert


if TYPE_CHECKING:
    from transformers import PreTrainedConfig

logger = logging.getLogger(__name__)

SHARED = ("average", "base")

# what two configurations of one architecture must have in common for their tensors to mean the same
_ALIKE = (
    "model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "hidden_act", "rms_norm_eps", "tie_word_embeddings", "rope_parameters",
    "sliding_window", "layer_types", "attention_bias", "mlp_bias",
)  # fmt: skip


def check_experts(names: tuple[str, ...], shared: str, top_k: int | None) -> None:
    """Raises for fewer than two experts, names that cannot be files, and settings that do not fit them."""
    if len(names) < 2:
        raise CompositionError(f"a mixture needs two experts or more; given: {', '.join(names) or 'none'}")
    for name in names:
        if not name or not name.replace("_", "").replace("-", "").isalnum() or name in SHARED:
            raise CompositionError(
                f"{name!r} is not a name for an expert; valid: letters, digits, '-' and '_', not 'average' or 'base'"
            )
    if shared not in (*SHARED, *names):
        raise CompositionError(unknown("shared", shared, (*SHARED, *names)))
    if top_k is not None and not (isinstance(top_k, int) and 1 <= top_k <= len(names)):
        raise CompositionError(f"top_k={top_k!r} is not valid; valid: 1 to {len(names)}, the number of experts")


def check_base(config: PreTrainedConfig, checkpoint: Checkpoint) -> None:
    """Raises for a base that is quantized, or lacks tensors that its configuration promises."""
    if getattr(config, "quantization_config", None):
        raise CompositionError(
            f"{str(checkpoint.folder)!r} is quantized; compose from the full-precision base (the LoRA of a QLoRA fits "
            "it as well), and quantize what was composed: ee_trl.moe.quantize.load_in_4bit"
        )
    needed = {"model.embed_tokens.weight", "model.norm.weight"}
    needed |= {
        f"model.layers.{i}.mlp.{part}.weight"
        for i in range(config.num_hidden_layers)
        for part in ("gate_proj", "up_proj", "down_proj")
    }
    if not config.tie_word_embeddings:
        needed.add("lm_head.weight")
    missing = sorted(needed - set(checkpoint.names))
    if missing:
        raise CompositionError(f"the base {str(checkpoint.folder)!r} lacks {', '.join(missing[:3])}")


def check_expert(
    name: str, expert: LoraExpert | FullExpert, config: PreTrainedConfig, base: Checkpoint, names: list[str]
) -> None:
    """
    Raises for an expert whose tensors do not fit the base's.

    Args:
        name (`str`): The expert's.
        expert (`LoraExpert` or `FullExpert`): What is checked.
        config (`PreTrainedConfig`): Of the base.
        base (`Checkpoint`): The base.
        names (`list[str]`): The base's tensors that are composed.
    """
    if isinstance(expert, LoraExpert):
        for tensor in expert.names:
            if tensor not in names:
                raise CompositionError(
                    f"expert {name!r} has a LoRA on {tensor!r}, which the base "
                    + ("ties to its embeddings" if tensor == "lm_head.weight" else "does not have")
                )
            a, b = expert.factors(tensor)
            if (b.shape[0], a.shape[1]) != base.shape(tensor):
                raise CompositionError(
                    f"expert {name!r} was trained on another base: its LoRA of {tensor!r} is for shape "
                    f"{(b.shape[0], a.shape[1])}, the base has {base.shape(tensor)}"
                )
        return
    other = read_config(expert.folder)
    if getattr(other, "quantization_config", None):
        raise CompositionError(f"expert {name!r} is quantized; give the full-precision model, or its LoRA")
    for field in _ALIKE:
        ours, theirs = getattr(config, field, None), getattr(other, field, None)
        if ours != theirs:
            raise CompositionError(f"expert {name!r} is of another base: {field} is {theirs!r}, the base has {ours!r}")
    for tensor in names:
        if tensor not in expert.checkpoint.files:
            raise CompositionError(f"expert {name!r} lacks {tensor!r}")
        if expert.checkpoint.shape(tensor) != base.shape(tensor):
            shapes = f"{expert.checkpoint.shape(tensor)}, the base has {base.shape(tensor)}"
            raise CompositionError(f"expert {name!r} is of another base: {tensor!r} is of shape {shapes}")


def check_same_base(base: str, folder: Path, experts: Mapping[str, LoraExpert | FullExpert]) -> None:
    """
    Raises where a LoRA says that it was trained on another base than the one given.

    The same name or folder, or a folder of the same bytes, is the same base.
    """
    own: str | None = None
    for name, expert in experts.items():
        said = expert.config.get("base_model_name_or_path") if isinstance(expert, LoraExpert) else None
        if not said or said in (base, str(folder)):
            continue
        there = Path(said) if Path(said).is_absolute() else expert.folder.parent / said
        there = there if there.is_dir() else Path(said)
        if there.is_dir():
            own = own or digest(folder)
            if there.resolve() == folder.resolve() or digest(there) == own:
                continue
        raise CompositionError(
            f"expert {name!r} says that it was trained on {said!r}, and the base given is {base!r}. If these are one "
            "model under two names, say so: trust_base=True (--trust-base)"
        )


def common_tokenizer(base: Path, experts: Mapping[str, Path]) -> Path | None:
    """
    The folder to take the tokenizer from: the experts' where they have one (their chat template was trained with).

    Raises:
        [`CompositionError`]: Two tokenizers differ in their vocabulary, special tokens or chat template.
    """
    found = {name: tokenizer for name, folder in experts.items() if (tokenizer := _tokenizer(folder)) is not None}
    own = _tokenizer(base)
    if own is None and not found:
        logger.warning("neither the base nor an expert has a tokenizer: the composed model gets none")
        return None
    if not found:
        return base
    first = next(iter(found))
    for name, tokenizer in found.items():
        _check_alike(f"expert {first!r}", found[first], f"expert {name!r}", tokenizer, template=True)
    if own is not None:
        _check_alike("the base", own, f"expert {first!r}", found[first], template=False)
    return experts[first]


def _check_alike(one: str, a: Any, other: str, b: Any, *, template: bool) -> None:
    words, others = a.get_vocab(), b.get_vocab()
    if words != others:
        odd = next(iter(sorted(dict(words.items() ^ others.items()))))
        raise CompositionError(
            f"{one} and {other} have unlike tokenizers ({len(words):,} and {len(others):,} tokens; e.g. {odd!r} is "
            f"{words.get(odd)} in one and {others.get(odd)} in the other)"
        )
    for name in ("bos_token", "unk_token", "eos_token"):
        if getattr(a, name) != getattr(b, name):
            raise CompositionError(
                f"{one} and {other} have unlike tokenizers: {name} is {getattr(a, name)!r} and {getattr(b, name)!r}"
            )
    if template and a.chat_template != b.chat_template:
        raise CompositionError(f"{one} and {other} have unlike chat templates; the mixture can have only one")


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    names = ("tokenizer_config.json", "tokenizer.json", "tokenizer.model", "vocab.json")
    if not any((folder / name).is_file() for name in names):
        return None
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        raise CompositionError(f"the tokenizer in {str(folder)!r} cannot be read: {error}") from error
