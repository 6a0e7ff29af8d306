"""Two small models to evaluate."""

from __future__ import annotations

from pathlib import Path

import torch

from ee_trl import build_tiny_causal_lm


def base_and_adapter(folder: Path) -> dict[str, Path]:
    """A base model, and a LoRA adapter that changes what it says."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    base = build_tiny_causal_lm(folder / "base", **size)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=4, target_modules=["q_proj", "up_proj", "down_proj"])
    )
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(std=1.0)
    model.save_pretrained(folder / "adapter")
    return {"base": base, "adapter": folder / "adapter"}
