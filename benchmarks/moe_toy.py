"""
Two conflicting languages, an expert for each, and their mixture beside its baselines.

    python benchmarks/moe_toy.py -o benchmarks/results/moe_toy.json

Each language is a Markov chain over the same tokens with other transitions, so that no single expert can speak both
and only the context tells which one it is. A small Llama learns a third language; two LoRA of it learn a language
each; `ee_trl.compose_moe` composes them, and the routers (in one variant a LoRA on the attention as well) are trained
on both languages, for half as many steps as an expert. Beside the mixture stand each expert, the mean of both, and one
LoRA trained on both languages at once, with as many steps as one expert and as many as both. The number is the loss on
held-out text of both languages, in nats per token.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from ee_trl import compose_moe
from ee_trl.moe.compose import average_experts
from ee_trl.moe.training import ATTENTION, unfreeze_routers


TOKENS, LENGTH, BATCH, SUCCESSORS = 48, 48, 32, 3
PROJECTIONS = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]


class Language:
    """A Markov chain in which each token has few successors."""

    def __init__(self, seed: int) -> None:
        draw = np.random.default_rng(seed)
        self.table = np.zeros((TOKENS, TOKENS))
        for row in self.table:
            row[draw.choice(TOKENS, SUCCESSORS, replace=False)] = draw.dirichlet(np.full(SUCCESSORS, 3.0))

    def sample(self, rows: int, draw: np.random.Generator) -> torch.Tensor:
        found = np.empty((rows, LENGTH), dtype=np.int64)
        found[:, 0] = draw.integers(TOKENS, size=rows)
        edges = self.table.cumsum(1)
        for i in range(1, LENGTH):
            found[:, i] = (draw.random((rows, 1)) > edges[found[:, i - 1]]).sum(1).clip(max=TOKENS - 1)
        return torch.from_numpy(found)

    def entropy(self) -> float:
        """Nats per token of a perfect model of the chain, under its own distribution of tokens."""
        share = np.full(TOKENS, 1 / TOKENS)
        for _ in range(500):
            share = share @ self.table
        logs = np.log(self.table, where=self.table > 0, out=np.zeros_like(self.table))
        return float(-(share[:, None] * self.table * logs).sum())


def train(model: Any, batch: Callable[[], torch.Tensor], steps: int, rate: float) -> Any:
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps, pct_start=0.1)
    model.train()
    for _ in range(steps):
        ids = batch()
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model.eval()


@torch.inference_mode()
def losses(model: Any, held_out: list[torch.Tensor]) -> dict[str, float]:
    each = [float(model.eval()(ids, labels=ids).loss) for ids in held_out]
    return {"both": sum(each) / 2, "first": each[0], "second": each[1]}


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder)


def lora(base: Path, rank: int, targets: list[str]) -> Any:
    return get_peft_model(load(base), LoraConfig(r=rank, lora_alpha=4 * rank, target_modules=targets))


def one_seed(seed: int, folder: Path, steps: int) -> dict[str, dict[str, float]]:
    """Every model's loss on both languages and on each."""
    torch.manual_seed(seed)
    draw = np.random.default_rng(1_000 + seed)
    own, *languages = (Language(10 * seed + i) for i in range(3))
    held_out = [language.sample(256, np.random.default_rng(7)) for language in languages]
    config = LlamaConfig(
        vocab_size=TOKENS, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=LENGTH, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    train(LlamaForCausalLM(config), lambda: own.sample(BATCH, draw), 2 * steps, 3e-3).save_pretrained(folder / "base")
    found = {"base": losses(load(folder / "base"), held_out)}

    experts, data = {}, {}
    for name, language in zip(("first", "second"), languages, strict=True):
        expert = lora(folder / "base", 8, PROJECTIONS)
        train(expert, lambda language=language: language.sample(BATCH, draw), steps, 3e-3).save_pretrained(
            folder / name
        )
        found[f"expert of the {name}"] = losses(expert, held_out)
        experts[name] = folder / name
        data[name] = Dataset.from_dict({"input_ids": language.sample(256, draw).tolist()})
    average_experts(folder / "base", experts, folder / "average")
    found["mean of the experts"] = losses(load(folder / "average"), held_out)

    def union() -> torch.Tensor:
        return torch.cat([language.sample(BATCH // 2, draw) for language in languages])

    for how in ("zeros", "prototype", "probe"):
        given: dict[str, Any] = {} if how == "zeros" else {"gate_data": data}
        path = compose_moe(folder / "base", experts, folder / how, gate_init=how, **given)
        found[f"mixture, {how}, untrained"] = losses(load(path), held_out)
        model = load(path)
        unfreeze_routers(model)
        found[f"mixture, {how}, routers trained"] = losses(train(model, union, steps // 2, 1e-2), held_out)
    only_mlp = compose_moe(folder / "base", experts, folder / "mlp", shared="base", gate_data=data)
    model = load(only_mlp)
    unfreeze_routers(model)
    found["mixture, probe, base attention, routers trained"] = losses(train(model, union, steps // 2, 1e-2), held_out)
    model = lora(folder / "probe", 4, list(ATTENTION))
    unfreeze_routers(model, lora=True)
    found["mixture, probe, routers and attention LoRA trained"] = losses(
        train(model, union, steps // 2, 1e-2), held_out
    )
    for times in (1, 2):
        model = train(lora(folder / "base", 8, PROJECTIONS), union, times * steps, 3e-3)
        found[f"one LoRA on both, {'as many steps as one expert' if times == 1 else 'as many as both'}"] = losses(
            model, held_out
        )
    found["who knows the languages"] = {
        "both": sum(language.entropy() for language in languages) / 2,
        "first": languages[0].entropy(),
        "second": languages[1].entropy(),
    }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", default="benchmarks/results/moe_toy.json", help="JSON file to write")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200, help="of each expert's training")
    args = parser.parse_args()
    started, runs = time.perf_counter(), []
    for seed in range(args.seeds):
        with tempfile.TemporaryDirectory() as folder:
            runs.append(one_seed(seed, Path(folder), args.steps))
    mean = {name: float(np.mean([run[name]["both"] for run in runs])) for name in runs[0]}
    spread = {name: float(np.std([run[name]["both"] for run in runs])) for name in runs[0]}
    for name, value in mean.items():
        print(f"{name:55s} {value:.3f} +- {spread[name]:.3f}")
    record = {
        "command": f"python benchmarks/moe_toy.py --seeds {args.seeds} --steps {args.steps}",
        "machine": {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()},
        "versions": {name: version(name) for name in ("ee-trl", "torch", "transformers", "peft")},
        "seconds": round(time.perf_counter() - started, 1),
        "loss_on_both_mean": {name: round(value, 4) for name, value in mean.items()},
        "loss_on_both_std_over_seeds": {name: round(value, 4) for name, value in spread.items()},
        "runs": [{name: {k: round(v, 4) for k, v in own.items()} for name, own in run.items()} for run in runs],
    }
    Path(args.output).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
