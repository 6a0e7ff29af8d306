"""The recipes as a user starts them: in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from recipe_runs import draws, run, weights

from ee_trl.recipes import sft_online, sft_sensibility
from ee_trl.training.run import RECORD


pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]
KNOWN = pytest.mark.usefixtures("sample_is_scored")


def launch(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONWARNINGS": "ignore"}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600)


@KNOWN
@pytest.mark.parametrize(
    ("name", "left", "said"),
    [("sft_moe", "router_report.png", "finished already"), ("efficient_empathy", "report.md", "[router] reused")],
)
def test_accelerate_launch_of_a_mixture_without_arguments(name: str, left: str, said: str, tmp_path: Path) -> None:
    accelerate = str(Path(sys.executable).with_name("accelerate"))
    command = [accelerate, "launch", str(ROOT / "recipes" / f"{name}.py")]
    done = launch(command, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "runs" / name / left).exists()
    again = launch(command, tmp_path)
    assert again.returncode == 0, again.stderr[-3000:]
    assert said in again.stdout + again.stderr


@pytest.mark.parametrize("name", ["sft_sensibility", "sft_rationality", "sft_online"])
def test_accelerate_launch_without_arguments(name: str, tmp_path: Path) -> None:
    accelerate = str(Path(sys.executable).with_name("accelerate"))
    command = [accelerate, "launch", str(ROOT / "recipes" / f"{name}.py")]
    done = launch(command, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    out = tmp_path / "runs" / name
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert losses[-1] < losses[0] - 1
    again = launch(command, tmp_path)
    assert again.returncode == 0
    assert "finished already" in again.stdout


def test_two_processes_select_the_same_and_save_once(tmp_path: Path) -> None:
    torchrun = [str(Path(sys.executable).with_name("torchrun")), "--nproc_per_node", "2"]
    script = str(ROOT / "recipes" / "sft_sensibility.py")
    done = launch([*torchrun, script, "--output_dir", "two", "--max_steps", "4"], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    run(sft_sensibility, "--output_dir", str(tmp_path / "one"), "--max_steps", "4")
    two, one = (pq.read_table(tmp_path / n / "selection" / "selected.parquet") for n in ("two", "one"))
    assert two.equals(one)
    assert (tmp_path / "two" / "model.safetensors").exists()
    assert json.loads((tmp_path / "two" / RECORD).read_text())["identity"]["processes"] == 2


def test_two_processes_draw_by_one_plan_and_write_once(tmp_path: Path) -> None:
    torchrun = [str(Path(sys.executable).with_name("torchrun")), "--nproc_per_node", "2"]
    script = str(ROOT / "recipes" / "sft_online.py")
    done = launch([*torchrun, script, "--output_dir", "two", "--max_steps", "4"], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    run(sft_online, "--output_dir", str(tmp_path / "one"), "--max_steps", "8")
    two, one = (draws(tmp_path / name) for name in ("two", "one"))
    assert sum(two["draws"]) == 2 * 4 * 8  # processes, steps, rows in a batch
    for name in ("sensibility", "rationality"):
        pairs = [(a, b) for a, b in zip(two[name], one[name], strict=True) if a is not None and b is not None]
        assert len(pairs) >= 64
        assert all(a == b for a, b in pairs)


@KNOWN
def test_kill_minus_nine_and_resume(tmp_path: Path) -> None:
    script = str(ROOT / "recipes" / "sft_sensibility.py")
    command = [sys.executable, script, "--output_dir", "killed", "--max_steps", "24", "--save_steps", "6"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list((tmp_path / "killed").glob("checkpoint-*/trainer_state.json")):
        assert process.poll() is None, "ended before its first checkpoint"
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = launch(command, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "resuming" in done.stderr
    whole = launch([*command[:3], "whole", *command[4:]], tmp_path)
    assert whole.returncode == 0
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
