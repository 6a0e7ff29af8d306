"""Small trainings with and without scores, in this process or, as a script under torchrun, in several."""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from ee_trl import EmpathyDataSelector, EmpathySFTTrainer, build_tiny_causal_lm, load_sample
from ee_trl.online import ranks
from ee_trl.reports import draws as pictures


ROWS = 20
HANGS = 240
"""Seconds after which a process of a few steps is given up, and says where it stands."""
SETTINGS: dict[str, Any] = {
    "use_cpu": True,
    "bf16": False,
    "per_device_train_batch_size": 3,
    "gradient_accumulation_steps": 2,
    "max_steps": 5,  # an epoch is 4 steps, the last of one batch
    "max_length": 128,
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "gradient_checkpointing": False,
}


def build_model(folder: str | Path) -> str:
    """A model with dropout, so that a random number more or less would show."""
    path = build_tiny_causal_lm(folder, hidden_size=32, num_hidden_layers=1, vocab_size=600)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.1}))
    return str(path)


def rows(n: int = ROWS, form: str = "messages") -> Dataset:
    """Dialogues with given scores; `form` is `"messages"` or `"prompt_completion"`."""
    data = load_sample().select(range(n))
    rng = np.random.default_rng(0)
    data = data.add_column("sensibility", rng.uniform(0, 10, n)).add_column("rationality", rng.uniform(0, 10, n))
    if form == "messages":
        return data
    split = {
        "prompt": [messages[:-1] for messages in data["messages"]],
        "completion": [messages[-1:] for messages in data["messages"]],
    }
    return Dataset.from_dict(split | {axis: data[axis][:] for axis in ("sensibility", "rationality")})


def config(*, output_dir: str | Path | None = None, **settings: Any) -> SFTConfig:
    return SFTConfig(str(output_dir or tempfile.mkdtemp()), **SETTINGS | settings)


def sharded(model: str) -> Any:
    """The model, its parameters shared out over the processes by FSDP2. accelerate does so on GPUs alone."""
    from accelerate import PartialState
    from transformers import AutoModelForCausalLM
    from transformers.distributed import DistributedConfig

    size = PartialState(cpu=True).num_processes
    return AutoModelForCausalLM.from_pretrained(model, distributed_config=DistributedConfig(fsdp_size=size))


def stock(model: Any, data: Dataset, *, peft: Any = None, **settings: Any) -> SFTTrainer:
    return SFTTrainer(model, args=config(**settings), train_dataset=data, peft_config=peft)


def guided(model: Any, data: Dataset, policy: Any, *, peft: Any = None, online: Any = None, **settings: Any) -> Any:
    """A trainer with a policy: attached, or with packing of its own class."""
    selector = EmpathyDataSelector("linear")
    if settings.get("packing"):
        more = {"selector": selector, "policy": policy, "online": online}
        return EmpathySFTTrainer(model, args=config(**settings), train_dataset=data, peft_config=peft, **more)
    trainer = stock(model, data, peft=peft, **settings)
    selector.attach(trainer, policy, **(online or {}))
    return trainer


def parameters(trainer: Any) -> torch.Tensor:
    """All parameters in a line, whole where they are sharded."""
    whole = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in trainer.model.parameters()]
    return torch.cat([p.detach().flatten() for p in whole])


def torchrun(case: dict[str, Any], processes: int = 2) -> Any:
    """Runs `main` in processes of their own; what it saved, or None if it was killed."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", __file__, json.dumps(case)]
    folder = Path(__file__).parent
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{folder.parent}:{folder}"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=2 * HANGS)
    if "kill_at" in case:
        assert "Signal 9" in done.stderr, done.stderr[-4000:]
        return None
    assert done.returncode == 0, done.stderr[-4000:]
    return torch.load(case["out"])


def trained(trainer: Any, **options: Any) -> torch.Tensor:
    trainer.train(**options)
    return parameters(trainer)


# ---- policies ------------------------------------------------------------------------------------------------------


def ones(scores: np.ndarray, losses: np.ndarray, progress: float) -> Any:
    return None, np.ones(len(scores))


def random_weights(scores: np.ndarray, losses: np.ndarray, progress: float) -> Any:
    return None, np.random.default_rng(1).uniform(0.2, 3, len(scores))


def half_zero(scores: np.ndarray, losses: np.ndarray, progress: float) -> Any:
    return None, (np.arange(len(scores)) % 2).astype(float)


def losses_decide(scores: np.ndarray, losses: np.ndarray, progress: float) -> Any:
    """Draws and weights that change at every step, by what was seen: nothing that is lost goes unnoticed."""
    known = np.nan_to_num(losses, nan=5.0)
    return np.exp(scores[:, 0] / 5 - known / 3 + progress), 0.5 + known / known.mean()


POLICIES = {f.__name__: f for f in (ones, random_weights, half_zero, losses_decide)}


class Killer(TrainerCallback):
    """Ends the process as `kill -9` does, when it is about to take a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Runs one case, given as JSON: saves the parameters (and plan) of the first process to `out`."""
    faulthandler.dump_traceback_later(HANGS, exit=True)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # gloo's threads take a lock of the interpreter's, and a child forked meanwhile never gets it (CPython 3.11)
        multiprocessing.set_start_method("forkserver")
        multiprocessing.set_forkserver_preload(["__main__", "die_with_parent"])
    pictures.draw_draws = lambda *args: None  # a picture takes longer than these trainings
    case = json.loads(sys.argv[1])
    settings = case.get("settings", {})
    data = rows(case.get("rows", ROWS))
    if case.get("unscored"):
        data = data.remove_columns(["sensibility", "rationality"])
    model = sharded(case["model"]) if case.get("sharded") else case["model"]
    if case["policy"] is None:
        trainer = stock(model, data, **settings)
    else:
        policy = POLICIES.get(case["policy"], case["policy"])
        trainer = guided(model, data, policy, online=case.get("online"), **settings)
    if "kill_at" in case:
        trainer.add_callback(Killer(case["kill_at"]))
    trainer.train(resume_from_checkpoint=case.get("resume"))
    in_parts = any(isinstance(p, DTensor) for p in trainer.model.parameters())
    result = parameters(trainer)
    callback = getattr(trainer, "empathy_callback", None)
    order = None if callback is None else callback.plan.order.tolist()
    orders = ranks.every(order)
    if trainer.accelerator.is_main_process:
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        draws = None if callback is None else callback.diary.records.draws.tolist()
        found = {"parameters": result, "order": order, "losses": losses, "draws": draws, "sharded": in_parts}
        found["orders"] = orders
        torch.save(found, case["out"])


if __name__ == "__main__":
    os.environ |= {"HF_HUB_OFFLINE": "1"}
    main()
