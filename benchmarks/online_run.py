"""
The online recipe on a real data set: samples are scored while it trains, and drawn by their scores.

    python benchmarks/online_run.py "$EE_TRL_DATA/ed_train.parquet" --max_steps 600

Runs recipes/sft_online.py with the tiny CPU config as a process, and records what was drawn by step, how long training
waited for the scorer, coverage, losses, and how many of the scored rows were needed. Copies the recipe's picture to
docs/images/.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import pyarrow.parquet as pq


ROOT = Path(__file__).parents[1]


def train(dataset: str, folder: Path, options: list[str]) -> tuple[list[str], float]:
    """The recipe's command, and the seconds that it took as a process."""
    command = ["accelerate", "launch", "recipes/sft_online.py", "--config", "recipes/configs/online_tiny_cpu.yaml"]
    command += ["--disable_tqdm", "true", *options]
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    start = time.perf_counter()
    done = subprocess.run(
        [*command, "--dataset", dataset, "--output_dir", str(folder)],
        cwd=ROOT, env=env, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)}\n{done.stderr[-3000:]}")
    return command, round(time.perf_counter() - start, 1)


def found_in(folder: Path) -> dict[str, object]:
    """What the run left behind, in numbers."""
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    draws = pq.read_table(folder / "empathy_draws.parquet")
    end = next(entry for entry in log if "train_runtime" in entry)
    waits = [entry["empathy/scorer_wait"] for entry in log if "empathy/scorer_wait" in entry]
    scored = sum(value is not None for value in draws["sensibility"].to_pylist())
    counts = draws["draws"].to_pylist()
    return {
        "rows": len(counts),
        "steps": end["step"],
        "train_seconds": end["train_runtime"],
        "seconds_a_step": round(end["train_runtime"] / end["step"], 4),
        "rows_scored": scored,
        "rows_drawn": sum(count > 0 for count in counts),
        "draws": sum(counts),
        "most_draws_of_a_row": max(counts),
        "scorer_wait_seconds": {"by_interval": [round(wait, 4) for wait in waits], "sum": round(sum(waits), 3)},
        "losses": [entry["loss"] for entry in log if "loss" in entry],
        "history": json.loads((folder / "empathy_history.json").read_text()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="file or folder of dialogues")
    parser.add_argument("-o", "--output", default="benchmarks/results/online_run.json", help="JSON file to write")
    parser.add_argument("--picture", default="docs/images/online_draws.png", help="where the picture is copied")
    args, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as name:
        os.environ["EE_TRL_CACHE"] = f"{name}/cache"  # nothing is scored before
        command, seconds = train(str(Path(args.dataset).resolve()), Path(name) / "run", options)
        found = found_in(Path(name) / "run")
        Path(args.picture).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(name) / "run" / "empathy_draws.png", args.picture)
    packages = ("ee-trl", "trl", "transformers", "torch")
    result = {
        "command": shlex.join([*command, "--dataset", Path(args.dataset).name]),
        "machine": {"cores": os.cpu_count(), "processor": platform.processor(), "python": platform.python_version()},
        "versions": {package: version(package) for package in packages},
        "process_seconds": seconds,
        **found,
    }
    Path(args.output).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in result.items() if key not in ("history", "losses")}, indent=1))


if __name__ == "__main__":
    main()
