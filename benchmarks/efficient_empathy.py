"""
The whole method on EmpatheticDialogues with a small model: experts, baselines and mixture side by side.

    python benchmarks/efficient_empathy.py "$EE_TRL_DATA" -o benchmarks/results/efficient_empathy_ed.json

A Llama of some three million weights, with a tokenizer of its own, is first trained on dialogues of the training
split; that is the base. Then `recipes/efficient_empathy.py` runs on the same dialogues with the bundled scorer, and
evaluates on the test split. The folder of the run is kept, so that a rerun continues an interrupted run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from datasets import Dataset

from ee_trl import EmpathyDataSelector, RequestRouter, build_tiny_causal_lm
from ee_trl.recipes import efficient_empathy, sft_sensibility
from ee_trl.training.command_line import parse_recipe_args
from ee_trl.training.data import EVERYTHING, read_rows


ROOT = Path(__file__).parents[1]
SIZES = {"vocab_size": 4096, "hidden_size": 192, "num_hidden_layers": 5, "num_attention_heads": 6}


def run(recipe: Any, config: str, **options: Any) -> None:
    """Runs one recipe with a tiny config and the given changes."""
    args = ["--config", str(ROOT / "recipes/configs" / config), "--disable_tqdm", "true"]
    for name, value in options.items():
        args += [f"--{name}", json.dumps(value) if isinstance(value, dict) else str(value)]
    recipe.main(*parse_recipe_args(recipe.make_parser(), args))


def subset_of(source: Path, work: Path, rows: int) -> Path:
    """Some rows of the training split, the same ones every time."""
    path = work / f"train_{rows}.parquet"
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        Dataset.from_parquet(str(source)).shuffle(seed=0).select(range(rows)).to_parquet(path)
    return path


def base_of(folder: Path, train: Path, steps: int, batch: int) -> Path:
    """The base: its tokenizer learnt on the training split, its weights on all dialogues of it."""
    if not (folder / "untrained").exists():
        texts = [text for row in Dataset.from_parquet(str(train)) for text in row["context"]]
        build_tiny_causal_lm(folder / "untrained", texts, **SIZES)
    run(
        sft_sensibility, "tiny_cpu.yaml", output_dir=folder / "base", dataset=train,
        model_name_or_path=folder / "untrained", empathy_keep=EVERYTHING, max_steps=steps, learning_rate=2e-3,
        warmup_steps=50, per_device_train_batch_size=batch, max_length=128, save_steps=200, logging_steps=50,
    )  # fmt: skip
    return folder / "base"


def request_router_of(run: Path, stages: dict[str, str]) -> dict[str, Any]:
    """How often the prompt alone predicts the reply's set, on the test split."""
    names = ("sensibility", "rationality")
    sets = {name: read_rows(run / stages["select"] / f"{name}.parquet") for name in names}
    test = read_rows(run / stages["score"] / "test.parquet")
    held_out = {name: EmpathyDataSelector("linear").select(test, keep=name) for name in names}
    found = RequestRouter.fit(sets).accuracy(held_out)
    return {"accuracy": found, "held_out": {name: len(rows) for name, rows in held_out.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder with ed_train.parquet and ed_test.parquet")
    parser.add_argument("-o", "--output", default="benchmarks/results/efficient_empathy_ed.json", help="JSON to write")
    parser.add_argument("--work", default="runs/benchmark_efficient_empathy", help="folder of the run, kept")
    parser.add_argument("--base-steps", type=int, default=700)
    parser.add_argument("--rows", type=int, default=12_000, help="of the training split, drawn at random")
    parser.add_argument(
        "--expert-steps", type=int, default=200, help="of each expert; twice as many of the union LoRA"
    )
    parser.add_argument("--router-steps", type=int, default=150)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--samples", type=int, default=1_000, help="held-out samples for the perplexities")
    parser.add_argument("--replies", type=int, default=200)
    args = parser.parse_args()
    data, work = Path(args.data).resolve(), Path(args.work).resolve()
    train = subset_of(data / "ed_train.parquet", work, args.rows)
    base = base_of(work, train, args.base_steps, args.batch)
    router = {"max_steps": args.router_steps, "learning_rate": 5e-3, "warmup_steps": 10}
    run(
        efficient_empathy, "efficient_empathy_tiny_cpu.yaml", output_dir=work / "run",
        dataset=train, empathy_dataset_test=data / "ed_test.parquet", model_name_or_path=base,
        max_steps=args.expert_steps, learning_rate=1e-3, per_device_train_batch_size=args.batch, max_length=128,
        empathy_router_training=router, empathy_attention_lora_r=4, empathy_eval_samples=args.samples,
        empathy_eval_replies=args.replies, save_steps=100, logging_steps=20,
    )  # fmt: skip
    report = json.loads((work / "run" / "report.json").read_text(encoding="utf-8"))
    stages = {
        name: json.loads((work / "run" / ".stages" / f"{folder}.json").read_text(encoding="utf-8"))["seconds"]
        for name, folder in report["stages"].items()
    }
    router_folder = work / "run" / report["stages"]["router"]
    routing = json.loads((router_folder / "router_report.json").read_text(encoding="utf-8"))
    for when in routing.values():
        when["by"].pop("emotion", None)
    record = {
        "command": "python benchmarks/efficient_empathy.py $EE_TRL_DATA",
        "settings": {name: value for name, value in vars(args).items() if name not in ("data", "output", "work")},
        "model": SIZES,
        "machine": {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()},
        "versions": {name: version(name) for name in ("ee-trl", "torch", "transformers", "trl", "peft")},
        "seconds_by_stage": stages,
        "sets": report["selection"]["sets"],
        "models": report["models"],
        "routing": routing,
        "request_router": request_router_of(work / "run", report["stages"]),
    }
    Path(args.output).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    for name, found in report["models"].items():
        print(f"{name:15s}", {group: round(value, 3) for group, value in found["perplexity"].items()})


if __name__ == "__main__":
    main()
