"""One run: its recipe, in a process of its own, and the record of steps, tokens and losses."""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from data import speakers_turns, untrained
from plan import Run
from transformers.trainer_utils import get_last_checkpoint


ROOT = Path(__file__).resolve().parents[2]
SPEAKERS = "speakers"
LENGTH = 96
"""Tokens of a dialogue with its reply, at most."""
EVALS = 6
"""How often a run is measured on the validation samples that it is watched by; the best checkpoint is kept."""

WATCHED = {
    "eval_strategy": "steps", "save_strategy": "steps", "load_best_model_at_end": True, "save_total_limit": 1,
    "per_device_eval_batch_size": 64, "logging_steps": 25, "disable_tqdm": True, "dataset_test_split": "validation",
}  # fmt: skip
"""Of every run: its best checkpoint on the validation samples is kept."""
SMALL = {
    "learning_rate": 1e-3, "lr_scheduler_type": "cosine", "warmup_steps": 0.05, "weight_decay": 0.01,
    "train_sampling_strategy": "group_by_length",
}  # fmt: skip
"""Of a small model's run, which has no config of its own."""
CHAT = {
    "eval_strategy": "no", "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True, "dtype": "bfloat16",
}  # fmt: skip
"""Of a chat model's run, which is short: it is not watched, and its only checkpoint is the last."""
TURNS = {"completion_only_loss": False, "assistant_only_loss": True}
"""What differs for whole conversations: each of their replies counts."""
ROUTER = {"learning_rate": 1e-2, "load_best_model_at_end": False, "use_peft": False}
"""What differs for a mixture's gates, which are all that is trained, whatever the experts were trained by."""


def steps_of(run: Run, steps: int, work: Path) -> int:
    """The optimizer steps of a run: a multiple of the table's, or epochs of what it selects."""
    if not run.epochs:
        return max(1, round(steps * run.steps))
    table = plan_of(work)
    return math.ceil(selected_rows(run, work) * table["epochs"] / table["batch"])


def selected_rows(run: Run, work: Path) -> int:
    """How many samples a run of the released rule, or of a number of samples, trains on."""
    if "empathy_n" in run.options:
        return int(run.options["empathy_n"])
    quadrants = json.loads((work / "scored.json").read_text(encoding="utf-8"))["quadrants"]
    return sum(quadrants[name] for name in run.options.get("empathy_keep", "sensibility").split(","))


def plan_of(work: Path) -> dict[str, Any]:
    """What all runs of a table have in common."""
    return json.loads((work / "table.json").read_text(encoding="utf-8"))


def slug(name: str) -> str:
    """A run's name as a file name."""
    return "_".join(re.findall(r"[\w-]+", name))


def folder_of(name: str, work: Path) -> Path:
    """Where a run's model lies."""
    return work / "models" / slug(name)


def record_of(run: Run, work: Path) -> Path:
    """The record of a run; the file exists once the run is finished."""
    return work / "runs" / f"{slug(run.name)}.json"


def whole_model(folder: Path) -> Path:
    """A run's model for others to start from; an adapter is merged into its base, in a folder beside it."""
    if not (folder / "adapter_config.json").exists():
        return folder
    merged = folder / "merged"
    if not merged.exists():
        from ee_trl.evaluation.candidates import load_candidate

        loaded = load_candidate(str(folder))
        partial = folder / "merged.partial"
        loaded.model.save_pretrained(partial)
        loaded.tokenizer.save_pretrained(partial)
        partial.rename(merged)
    return merged


def command_of(run: Run, work: Path) -> list[str]:
    """The recipe's command line."""
    table = plan_of(work)
    base = whole_model(folder_of(run.base, work)) if run.base else common_base(work)
    chat = {**CHAT, "chat_template_path": work / "template.jinja"} if table.get("chat") else {}
    turns = run.recipe == "turns"
    if turns:
        chat |= {**TURNS, "chat_template_path": work / "template_turns.jinja"}
    if chat and torch.cuda.is_available():
        chat |= {"use_cpu": False, "bf16": True}
    config = table["config"] or ROOT / "recipes" / "configs" / ("smollm2_cpu.yaml" if chat else "tiny_cpu.yaml")
    steps = steps_of(run, table["steps"], work)
    every = max(1, steps // EVALS)
    settings: dict[str, Any] = {
        **(chat or WATCHED), **({} if table["config"] or chat else SMALL),
        **(ROUTER if run.recipe == "sft_moe" else {}),
        "per_device_train_batch_size": table["batch"], "max_length": table["max_length"],
        "dataset": work / ("data/train.parquet" if turns else run.data),
        "output_dir": folder_of(run.name, work), "model_name_or_path": base,
        "max_steps": steps, "seed": run.seed, **({} if chat else {"eval_steps": every, "save_steps": every}),
        **({} if turns else run.options),
    }  # fmt: skip
    words = [f"--config={config}"]
    for name, value in settings.items():
        words += [f"--{name}", json.dumps(value) if isinstance(value, dict) else str(value)]
    return words


def common_base(work: Path) -> Any:
    """The model that all runs of a table start from."""
    return plan_of(work)["model"] or work / "models" / SPEAKERS


@contextmanager
def only_replies_projected() -> Iterator[None]:
    """
    Computes the log-probabilities of the replies only, as TRL does with Triton.

    Elsewhere TRL projects every position onto the vocabulary and then masks those of the prompt, three in four here;
    the loss is the same.
    """
    import trl.trainer.utils as utils

    before = utils._use_triton
    utils._use_triton = lambda device: True
    try:
        yield
    finally:
        utils._use_triton = before


def train_on_speakers(work: Path, epochs: float = 1.0) -> Path:
    """
    Trains the common base of the small models on what speakers say in the training split, without any reply.

    A model with random weights that is trained on replies only learns mostly English, from any set; this base learns
    it once, for all.
    """
    from trl import SFTConfig, SFTTrainer

    folder = work / "models" / SPEAKERS
    if (folder / "trainer_state.json").exists():
        return folder
    settings = SFTConfig(
        str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=32,
        max_length=LENGTH,
        learning_rate=2e-3,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        train_sampling_strategy="group_by_length",
        save_steps=200,
        save_total_limit=1,
        logging_steps=50,
        report_to="none",
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
    )
    trainer = SFTTrainer(str(untrained(work)), args=settings, train_dataset=speakers_turns(work))
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)) if folder.exists() else None)
    trainer.save_model()
    trainer.save_state()
    return folder


def train(run: Run, work: Path) -> None:
    """Trains or composes a run's model in this process; continues an interrupted run."""
    from ee_trl import compose_moe
    from ee_trl.moe.compose import average_experts
    from ee_trl.training.command_line import parse_recipe_args

    target = folder_of(run.name, work)
    if run.recipe in ("average", "compose"):
        if target.exists():  # it is written whole or not at all; the run was stopped while it was measured
            return
        base, experts = (
            whole_model(folder_of(run.base, work)) if run.base else Path(common_base(work)),
            {name.split()[0]: folder_of(name, work) for name in run.of},
        )
        if run.recipe == "average":
            average_experts(base, experts, target)
        else:
            from datasets import Dataset

            selected = {name: str(folder / "selection" / "selected.parquet") for name, folder in experts.items()}
            sets = {n: Dataset.from_parquet(p) for n, p in selected.items()}
            compose_moe(base, experts, target, gate_data=sets, gate_samples=32 if plan_of(work).get("chat") else 256)
        return
    recipe = import_module(f"ee_trl.recipes.{'sft_online' if run.recipe == 'turns' else run.recipe}")
    given = parse_recipe_args(recipe.make_parser(), command_of(run, work))
    with only_replies_projected():
        if run.recipe == "turns":
            from chat import train_by_turn

            train_by_turn(run, work, *given[1:])
        else:
            recipe.main(*given)


def stops_of(run: Run, work: Path) -> list[int]:
    """The steps at which an interrupted run was resumed."""
    path = record_of(run, work).with_suffix(".stops")
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def train_and_measure(run: Run, work: Path) -> None:
    """What the process of one run does."""
    from measures import on_validation

    record_of(run, work).parent.mkdir(parents=True, exist_ok=True)
    with record_of(run, work).with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # held by a process that outlived the command that started it
        folder = folder_of(run.name, work)
        if folder.exists() and (checkpoint := get_last_checkpoint(str(folder))):
            stops = [step for step in stops_of(run, work) if step < int(checkpoint.rpartition("-")[2])]
            stops.append(int(checkpoint.rpartition("-")[2]))
            record_of(run, work).with_suffix(".stops").write_text(json.dumps(stops), encoding="utf-8")
        train(run, work)
        on_validation(run, work)


def in_process(work: Path, threads: int, log: Path, *options: str) -> None:
    """Runs this command in a process of its own; raises where it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, str(Path(__file__).parent), "--work", str(work), *options]
    with log.open("a", encoding="utf-8") as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(options)} failed; its output is in {log}")


def measured_run(run: Run, work: Path, threads: int) -> dict[str, Any]:
    """Trains and measures a run in a process of its own, and records what it took; a finished one is read."""
    record = record_of(run, work)
    if record.exists():
        return json.loads(record.read_text(encoding="utf-8"))
    record.parent.mkdir(parents=True, exist_ok=True)
    attempts = record.with_suffix(".attempts")
    seconds = json.loads(attempts.read_text(encoding="utf-8")) if attempts.exists() else []
    start = time.time()
    chat = plan_of(work).get("chat")
    try:
        if chat:  # in this process: nothing is imported twice
            import chat as measures_of_chat

            if run.recipe != "none":
                train(run, work)
            measured = {"measures": measures_of_chat.measure(run, work, chat)}
        else:
            in_process(work, threads, record.with_suffix(".log"), "--train", run.name)
    finally:
        seconds.append(round(time.time() - start, 1))
        attempts.write_text(json.dumps(seconds), encoding="utf-8")
    if not chat:
        validation = work / "validation" / record.name
        measured = {"validation": json.loads(validation.read_text(encoding="utf-8"))}
    command = command_of(run, work) if chat and ("_" in run.recipe or run.recipe == "turns") else []
    found = {
        "name": run.name, "row": run.name.partition("-")[0] if run.seed else run.name, "seed": run.seed,
        "epochs": run.epochs, "seconds": round(sum(seconds), 1), "threads": threads,
        **what_it_took(run, work), **measured,
        **({"command": [run.recipe, *(_anywhere(word, work) for word in command)]} if chat else {}),
    }  # fmt: skip
    record.write_text(json.dumps(found, indent=2), encoding="utf-8")
    return found


def _anywhere(word: str, work: Path) -> str:
    """A word of a command without this machine's folders."""
    for folder, name in ((str(work), "WORK"), (f"{ROOT}/", ""), (str(common_base(work)), "MODEL")):
        word = word.replace(folder, name)
    return word


def tokens_seen(history: list[dict[str, Any]], resumed: Sequence[int] = ()) -> list[int]:
    """
    Tokens trained on up to each entry of a log.

    Args:
        history (`list[dict]`): The trainer's log.
        resumed (`Sequence[int]`, *optional*): Steps from which the run resumed; there the log counts from 0 again.
    """
    seen, before, last, stops = [], 0, 0, sorted(resumed)
    for entry in history:
        while stops and entry["step"] > stops[0]:
            stops.pop(0)
            before, last = before + last, 0
        last = int(entry.get("num_tokens", entry.get("eval_num_tokens", last)))
        seen.append(before + last)
    return seen


def what_it_took(run: Run, work: Path) -> dict[str, Any]:
    """Samples, steps, tokens and losses of a run that a recipe trained."""
    folder = folder_of(run.name, work)
    if not (folder / "trainer_state.json").exists():
        return {}
    state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    best, history = state.get("best_model_checkpoint"), state["log_history"]
    resumed = stops_of(run, work)
    selection, rows = folder / "selection" / "selection.json", folder / "rows" / "rows.json"
    if selection.exists():
        samples = json.loads(selection.read_text(encoding="utf-8"))["counts"]["kept"]
    else:
        samples = json.loads(rows.read_text(encoding="utf-8"))["samples"]
    return {
        "samples": samples,
        "steps": state["global_step"],
        "tokens": int(max(tokens_seen(history, resumed))),
        "kept_step": int(best.rpartition("-")[2]) if best else state["global_step"],
        "watched": [
            {"step": entry["step"], "tokens": tokens, "loss": entry["eval_loss"]}
            for entry, tokens in zip(history, tokens_seen(history, resumed), strict=True)
            if "eval_loss" in entry
        ],
    }
