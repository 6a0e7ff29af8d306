"""
The experts of the recipes side by side on EmpatheticDialogues' test set, by `ee-trl evaluate`.

    python benchmarks/experts.py DATA_DIR [--limit 500] [--steps 160] [--random]

DATA_DIR holds `ed_train.parquet`, which the recipes select from, `ed_test.parquet`, and `epitome_reddit.parquet`, from
which the script trains a linear classifier for the EPITOME levels, not kept. Each expert is the tiny CPU model of
`recipes/configs/tiny_cpu.yaml`, trained from random weights: the numbers show that the parts work and tell models
apart, not how good an expert of a real size is. `--random` adds an expert trained on equally many random samples.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from datasets import Dataset

from ee_trl.evaluation import evaluate_models
from ee_trl.evaluation.generation import Decoding
from ee_trl.evaluation.metrics.epitome_training import read_posts, train_epitome
from ee_trl.recipes import sft_rationality, sft_sensibility
from ee_trl.training.command_line import parse_recipe_args


ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = ("torch", "transformers", "trl", "datasets")
EXPERTS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "sensibility": (sft_sensibility, ()),
    "rationality": (sft_rationality, ()),
    "random": (sft_sensibility, ("--empathy_rule", "random")),
}


def train(folder: Path, recipe: Any, options: tuple[str, ...], data: Path, steps: int) -> Path:
    """An expert in a folder of its own; a rerun finds it there."""
    config = ROOT / "recipes" / "configs" / "tiny_cpu.yaml"
    command = ["--config", str(config), "--dataset", str(data), "--output_dir", str(folder), "--max_steps", str(steps)]
    recipe.main(*parse_recipe_args(recipe.make_parser(), [*command, *options]))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0].strip())
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--limit", type=int, default=500, help="dialogues of the test set (default: 500)")
    parser.add_argument("--steps", type=int, default=160, help="of training (default: 160, the config's)")
    parser.add_argument("--random", action="store_true", help="also train on as many samples drawn at random")
    parser.add_argument("--folder", type=Path, help="where experts and report are kept (default: nowhere)")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "experts.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch)
        models = {
            name: train(folder / name, recipe, options, args.data_dir / "ed_train.parquet", args.steps)
            for name, (recipe, options) in EXPERTS.items()
            if name != "random" or args.random
        }
        models = {"untrained": folder / "sensibility" / "tiny_base", **models}
        posts = read_posts(Dataset.from_parquet(str(args.data_dir / "epitome_reddit.parquet")))
        train_epitome(posts, folder / "epitome", folds=0)
        found = evaluate_models(
            models,
            str(args.data_dir / "ed_test.parquet"),
            limit=args.limit,
            output=folder / "report",
            epitome=folder / "epitome",
            decoding=Decoding(max_new_tokens=40),
            baseline="random" if args.random else "untrained",
        ).to_dict()
    for part in ("examples", "emotions"):  # they hold text of the data, or are many
        del found[part]
    for model in found["models"].values():
        del model["fingerprint"]  # of a model that nobody else has
    report = {
        "command": f"python benchmarks/experts.py DATA_DIR --limit {args.limit} --steps {args.steps}"
        + (" --random" if args.random else ""),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES},
        **found,
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
