"""
A real data set from end to end: score, sweep, select, and the sensibility recipe with the tiny CPU config.

    python benchmarks/foundation.py "$EE_TRL_DATA" -o benchmarks/results/foundation.json

Runs the commands that a user runs, times each as a whole process, and records what they print. The recipe runs twice:
as it stands (a demonstration of 160 steps), and for one epoch over all that was selected.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path


ROOT = Path(__file__).parents[1]


def run(command: list[str], folder: Path) -> tuple[str, float]:
    """What a command prints, and the seconds it took."""
    start = time.perf_counter()
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    return done.stdout, round(time.perf_counter() - start, 2)


def recipe(folder: Path, name: str, *options: str) -> dict[str, object]:
    """One run of the sensibility recipe on what was selected."""
    command = ["accelerate", "launch", str(ROOT / "recipes/sft_sensibility.py")]
    command += ["--config", str(ROOT / "recipes/configs/tiny_cpu.yaml"), "--dataset", "sensibility.parquet"]
    _, seconds = run([*command, "--output_dir", name, "--disable_tqdm", "true", *options], folder)
    history = json.loads((folder / name / "trainer_state.json").read_text())["log_history"]
    losses = [entry["loss"] for entry in history if "loss" in entry]
    end = next(entry for entry in history if "train_runtime" in entry)
    tail = losses[-20:]
    return {
        "options": " ".join(options),
        "process_seconds": seconds,
        "train_seconds": end["train_runtime"],
        "steps": end["step"],
        "tokens": next(entry["num_tokens"] for entry in reversed(history) if "num_tokens" in entry),
        "first_loss": losses[0],
        "last_loss": round(sum(tail) / len(tail), 4),
        "last_perplexity": round(math.exp(sum(tail) / len(tail)), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder with ed_train.parquet")
    parser.add_argument("-o", "--output", default="benchmarks/results/foundation.json", help="JSON file to write")
    args = parser.parse_args()
    source = str(Path(args.data).resolve() / "ed_train.parquet")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scored, score_seconds = run(["ee-trl", "score", source, "-o", "scored.parquet", "--json", "-q"], folder)
        sweep, sweep_seconds = run(["ee-trl", "sweep", "scored.parquet", "--json"], folder)
        select = ["ee-trl", "select", "scored.parquet", "--keep", "sensibility", "-o", "sensibility.parquet", "--json"]
        selected, select_seconds = run(select, folder)
        record = {
            "command": "python benchmarks/foundation.py $EE_TRL_DATA",
            "machine": {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()},
            "versions": {n: version(n) for n in ("ee-trl", "trl", "transformers", "torch", "datasets", "accelerate")},
            "score": {"process_seconds": score_seconds, **json.loads(scored)},
            "sweep": {"process_seconds": sweep_seconds, **json.loads(sweep)},
            "select": {"process_seconds": select_seconds, **json.loads(selected)},
            "recipe": {
                "as it stands": recipe(folder, "demonstration"),
                "one epoch": recipe(
                    folder,
                    "epoch",
                    *("--max_steps", "-1", "--num_train_epochs", "1", "--per_device_train_batch_size", "32"),
                    *("--save_steps", "1000", "--logging_steps", "10"),
                ),
            },
        }
    Path(args.output).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(record["recipe"], indent=2))


if __name__ == "__main__":
    main()
