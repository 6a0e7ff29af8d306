"""Tiny models of every family that can be composed, experts trained from them, and data to train routers on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from ee_trl import compose_moe
from ee_trl.files import temporary_folder
from ee_trl.moe.routing import logits_of, routers, routing_weights


EXPERTS = ("sensibility", "rationality")

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SCALED = {
    "rope_type": "llama3",
    "rope_theta": 5_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
FAMILIES: dict[str, Any] = {
    "llama": lambda **kw: LlamaConfig(**SIZES, **kw),
    "llama_bias": lambda **kw: LlamaConfig(**SIZES, attention_bias=True, **kw),
    "mistral": lambda **kw: MistralConfig(**SIZES, head_dim=16, sliding_window=8, **kw),
    "qwen2": lambda **kw: Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=8, max_window_layers=1, **kw),
    "qwen3": lambda **kw: Qwen3Config(**SIZES, head_dim=16, **kw),
}
VARIANTS: dict[str, dict[str, Any]] = {
    "": {"tie_word_embeddings": False},
    "-tied-scaled": {"tie_word_embeddings": True, "rope_parameters": SCALED},
}
ALL = [name + variant for name in FAMILIES for variant in VARIANTS]
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LORAS: dict[str, dict[str, Any]] = {
    "sensibility": {"r": 4, "lora_alpha": 8},
    "rationality": {
        "r": 4,
        "lora_alpha": 8,
        "use_rslora": True,
        "rank_pattern": {"down_proj": 2, "layers.1.self_attn.q_proj": 3},
        "alpha_pattern": {"mlp.up_proj": 5},
    },
}


def config_of(name: str) -> Any:
    family, dash, variant = name.partition("-")
    return FAMILIES[family](**VARIANTS[dash + variant])


def build(config: Any, folder: Path, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """A random model whose norms and biases are random too."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, mean=0.5, std=0.2)
        else:
            torch.nn.init.normal_(parameter, std=0.1)
    model.to(dtype).save_pretrained(folder)
    return folder


def build_lora(base: Path, folder: Path, seed: int, targets: Any = LAYERS, **settings: Any) -> Path:
    """A LoRA of random factors on the base's linear layers."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base)
    peft = get_peft_model(model, LoraConfig(target_modules=targets, task_type="CAUSAL_LM", **settings))
    for name, parameter in peft.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    peft.save_pretrained(folder)
    return folder


def build_tokenizer(folder: Path, *, words: int = 61, template: str = "{{ messages }}", **special: str) -> Path:
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"w{i}": i + 3 for i in range(words)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    given = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", **special}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **given)
    fast.chat_template = template
    fast.save_pretrained(folder)
    return folder


def family_folder(name: str, root: Path) -> dict[str, Path]:
    """`base` and both experts."""
    base = build(config_of(name), root / "base")
    found = {"base": base}
    for seed, (expert, settings) in enumerate(LORAS.items(), start=1):
        found[expert] = build_lora(base, root / expert, seed, **settings)
    return found


@cache
def family(name: str) -> dict[str, Path]:
    """`base` and both experts, made once."""
    return family_folder(name, temporary_folder())


@cache
def mixture(name: str) -> dict[str, Path]:
    """A `base` with a tokenizer, both experts and their mixture `moe`, made once."""
    root = temporary_folder()
    found = family_folder(name, root)
    build_tokenizer(found["base"])
    return found | {"moe": compose(found, root / "moe")}


def experts_of(folders: dict[str, Path]) -> dict[str, Path]:
    return {name: folders[name] for name in EXPERTS}


def compose(folders: dict[str, Path], output: Path, **options: Any) -> Path:
    return compose_moe(folders["base"], experts_of(folders), output, **options)


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def merged(base: Path, lora: Path) -> Any:
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), lora).merge_and_unload().eval()


def tokens(rows: int = 3, length: int = 24, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 64, (rows, length), generator=torch.Generator().manual_seed(seed))


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(ids).logits


@contextmanager
def only(model: Any, expert: int) -> Iterator[None]:
    """Every token goes to one expert."""

    def force(module: Any, args: Any, output: Any) -> Any:
        [chosen] = [part for part in output if not part.is_floating_point()]
        first, weights, last = output  # the logits are first or last
        return first, (chosen == expert).to(weights.dtype), last

    handles = [router.register_forward_hook(force) for router in routers(model).values()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def copy_of(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


# ---- data -----------------------------------------------------------------------------------------------------------


def rows(number: int = 16, low: int = 3, high: int = 64, seed: int = 0) -> Dataset:
    """Random token ids; the fewer the numbers, the more alike the rows."""
    found = np.random.default_rng(seed).integers(low, high, (number, 12)).tolist()
    return Dataset.from_dict({"input_ids": found, "labels": found})


def settings(folder: Path, **changes: Any) -> Any:
    from trl import SFTConfig

    own: dict[str, Any] = {
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_strategy": "no",
        "model_init_kwargs": {"dtype": "auto"},
    }
    return SFTConfig(str(folder), **(own | changes))


def weights_of(model: Any, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """`(layers, tokens, experts)`."""
    found: list[torch.Tensor] = []

    def note(router: Any, args: Any) -> None:
        found.append(logits_of(router, *args))

    handles = [router.register_forward_pre_hook(note) for router in routers(model).values()]
    logits(model, ids) if mask is None else model(ids, attention_mask=mask)
    for handle in handles:
        handle.remove()
    return torch.stack([routing_weights(part, 2) for part in found]).detach()


SAD = ["i feel so lonely", "my dog died and i cry", "she left me and it hurts", "i am heartbroken and alone"]
FACTS = [
    "how do i fix the router",
    "which train goes to the city",
    "what does the invoice cost",
    "how to file a tax form",
]


def dialogues(texts: list[str], copies: int = 1) -> Dataset:
    return Dataset.from_list([{"context": [text], "response": "ok"} for text in texts * copies])
