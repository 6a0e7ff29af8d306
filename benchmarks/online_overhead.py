#!/usr/bin/env python
"""
What selection while training costs: step time and peak memory against the stock SFTTrainer.

    python benchmarks/online_overhead.py --quick --json
    python benchmarks/online_overhead.py

Each way of training has its own trainer, model and optimizer in one process. They take turns, a few steps each, in a
new order every round, so that noise hits all alike. Reported is the median over the steps of the ratio to the stock
trainer's step at the same place, with a bootstrap interval (95 %, over rounds). `stock_again` is a second stock
trainer: differences within its interval are noise. `in plugin` shows what noise would hide: the time in the plugin's
own hooks (callback, collator, the sum of the weights, their look-up, the record of the losses), measured in the same
steps, as a share of the stock step, without the time in TRL's code that they call. On a GPU that is the host's time.
`CPU time over stock` compares the CPU time of this process, without waits for other programs and without the worker's
own; use `--threads 1` for it, since waiting threads use CPU time.

All rows have the same number of tokens. The policy is asked before every step, looks at the losses, and changes all
weights each time: the costliest case. Memory is that of a few steps and the report at the end, in a new process for
each way. The whole run takes 14 GB, and some 25 minutes on two cores. The model is a Llama of SmolLM2-135M's shape
with random weights; neither time nor memory depend on what it knows.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shlex
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from linear_scorer import processor
from torch.nn import functional as F
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PrinterCallback
from transformers.utils.logging import disable_progress_bar, set_verbosity_error
from trl import SFTConfig, SFTTrainer
from turns import Meter, Turn

from ee_trl import EmpathyCallback, EmpathyDataSelector, build_tiny_causal_lm, load_sample
from ee_trl.online import trl_internals
from ee_trl.online.loss import SampleIdCollator, WeightedModel


RESULTS = Path(__file__).parent / "results"
SHAPES = {  # hidden, MLP, layers, heads, key/value heads, vocabulary (0: the tokenizer's)
    "135M": (576, 1536, 30, 9, 3, 49_152),
    "quick": (64, 128, 2, 4, 2, 0),
}
WAYS: dict[str, tuple[str, dict[str, Any] | None]] = {  # name: (what, how it is attached)
    "stock": ("SFTTrainer", None),
    "stock_again": ("SFTTrainer once more: the noise", None),
    "weights": ("loss weights", {"kinds": ("loss",)}),
    "sampling": ("sampling weights", {"kinds": ("sampling",)}),
    "both": ("loss and sampling weights", {"kinds": ("loss", "sampling")}),
    "both_scored": ("+ the linear scorer, ahead, in a worker", {"kinds": ("loss", "sampling"), "scored": False}),
    "both_judged": (
        "+ the judge of `--judge`, ahead, on the same device",
        {"kinds": ("loss", "sampling"), "scored": False},
    ),
    "compute_loss_func": ("weights by TRL's `compute_loss_func`", None),
}


# ---- what is trained on --------------------------------------------------------------------------------------------


def new_model(shape: str, tokenizer: Any) -> LlamaForCausalLM:
    """A Llama of the shape, with the same random weights every time."""
    hidden, mlp, layers, heads, kv_heads, vocabulary = SHAPES[shape]
    config = LlamaConfig(
        vocab_size=vocabulary or len(tokenizer), hidden_size=hidden, intermediate_size=mlp, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    return LlamaForCausalLM(config)


def new_rows(n: int, tokens: int, tokenizer: Any) -> Dataset:
    """Conversations of at least so many tokens, made of the sample's dialogues laid end to end, with scores."""
    rng = np.random.default_rng(0)
    talks = load_sample()["messages"][:]
    lengths = [len(tokenizer.apply_chat_template(talk, tokenize=True, return_dict=False)) for talk in talks]
    rows = []
    for _ in range(n):
        messages: list[Any] = []
        length = 0
        while length < tokens:
            i = int(rng.integers(len(talks)))
            messages, length = messages + talks[i], length + lengths[i]
        sensibility, rationality = rng.uniform(0, 10, 2)
        rows.append({"messages": messages, "sensibility": sensibility, "rationality": rationality})
    return Dataset.from_list(rows)


def shifting(kinds: Sequence[str]) -> Callable[..., Any]:
    """A policy whose weights depend on scores, losses and progress, and so all change each time it is asked."""

    def policy(scores: np.ndarray, losses: np.ndarray, progress: float) -> tuple[Any, Any]:
        weights = 0.5 + np.nan_to_num(scores[:, 0], nan=5) / 10 * (0.5 + progress)
        weights *= 1 + np.nan_to_num(losses, nan=5) / 100
        return (weights if "sampling" in kinds else None), (weights if "loss" in kinds else None)

    return policy


class WeightedLoss:
    """What a user would write for `compute_loss_func`: a collator that remembers the rows' weights, and the loss."""

    def __init__(self, collator: Any) -> None:
        self.collator, self.waiting = collator, deque[torch.Tensor]()

    def collate(self, rows: list[dict[str, Any]]) -> Any:
        self.waiting.append(torch.tensor([0.5 + row["sensibility"] / 10 for row in rows]))
        return self.collator([{name: row[name] for name in ("input_ids", "labels")} for row in rows])

    def __call__(self, outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        logits, labels = outputs.logits[:, :-1].float(), labels[:, 1:]
        losses = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=-100, reduction="none")
        weights = torch.where(labels != -100, self.waiting.popleft().to(labels.device)[:, None], 0)
        return (losses * weights).sum() / weights.sum()


def new_trainer(way: str, args: argparse.Namespace, rows: Dataset, tokenizer: Any, folder: str, steps: int) -> Any:
    """The trainer of a way, ready to train; and the seconds it took to attach."""
    cuda = torch.cuda.is_available()
    config = SFTConfig(
        f"{folder}/{way}", per_device_train_batch_size=args.batch_size, max_steps=steps, max_length=args.tokens,
        optim=args.optim, logging_steps=10, save_strategy="no", report_to="none", disable_tqdm=True,
        use_cpu=not cuda, bf16=cuda, gradient_checkpointing=False, remove_unused_columns=way != "compute_loss_func",
    )  # fmt: skip
    attached = WAYS[way][1]
    if attached and not attached.get("scored", True):
        rows = rows.remove_columns(["sensibility", "rationality"])
    trainer = SFTTrainer(new_model(args.model, tokenizer), config, train_dataset=rows, processing_class=tokenizer)
    trainer.remove_callback(PrinterCallback)
    if not all(len(ids) == args.tokens for ids in trainer.train_dataset.select(range(50))["input_ids"]):
        raise SystemExit(f"not every row has {args.tokens} tokens, so that steps cannot be compared")
    start = time.perf_counter()
    if attached:
        selector = EmpathyDataSelector(args.judge if way == "both_judged" else "linear", show_progress=False)
        selector.attach(trainer, shifting(attached["kinds"]))
    elif way == "compute_loss_func":
        weighted = WeightedLoss(trainer.data_collator)
        trainer.data_collator, trainer.compute_loss_func = weighted.collate, weighted
    return trainer, time.perf_counter() - start


def prepared(args: argparse.Namespace, rows: Dataset, tokenizer: Any, folder: str) -> Dataset:
    """The rows tokenized, by a trainer that is not measured."""
    small = argparse.Namespace(**{**vars(args), "model": "quick"})
    return new_trainer("stock", small, rows, tokenizer, folder, 1)[0].train_dataset


# ---- time ----------------------------------------------------------------------------------------------------------


def wrap_plugin(meter: Meter) -> None:
    """Measures what all attached trainers share."""
    meter.wrap(WeightedModel, "__call__")
    meter.wrap(trl_internals, "take_marks")
    meter.wrap(SampleIdCollator, "__call__")


def wrap_trainer(meter: Meter, trainer: Any) -> None:
    """Measures what belongs to one attached trainer."""
    events = [name for name in vars(EmpathyCallback) if name.startswith("on_") and name != "on_train_end"]
    meter.wrap(trainer.empathy_callback, *events)
    meter.wrap(trainer.empathy_weights, "normaliser", "weights_of", "note")
    trainer.data_collator = meter.timed(trainer.data_collator, ours=False)
    trainer.model.forward = meter.timed(trainer.model.forward, ours=False)


def timed_steps(args: argparse.Namespace, rows: Dataset, tokenizer: Any, folder: str) -> dict[str, dict[str, Any]]:
    """The seconds of each step of each way, and those in the plugin."""
    meter, turns, attach_seconds = Meter(), dict[str, Turn](), dict[str, float]()
    wrap_plugin(meter)
    rows = prepared(args, rows, tokenizer, folder)
    for way in args.ways:
        steps = args.warmup + args.rounds * args.block
        trainer, attach_seconds[way] = new_trainer(way, args, rows, tokenizer, folder, steps)
        if hasattr(trainer, "empathy_callback"):
            wrap_trainer(meter, trainer)
        turns[way] = Turn(trainer, meter)
    args.parameters = sum(p.numel() for p in trainer.model.parameters())
    for turn in turns.values():
        turn.take(args.warmup)
    rng = np.random.default_rng(0)
    for number in range(args.rounds):
        for i in rng.permutation(len(args.ways)):
            turns[args.ways[i]].take(args.block)
        last = ", ".join(f"{way} {mean(turn.seconds[-args.block :]):.3f} s" for way, turn in turns.items())
        print(f"round {number + 1} of {args.rounds}: {last}", file=sys.stderr)
    for turn in turns.values():
        turn.finish()
    return {
        way: {
            "attach_seconds": attach_seconds[way],
            "seconds": turn.seconds[args.warmup :],
            "cpu_seconds": turn.cpu_seconds[args.warmup :],
            "plugin_seconds": turn.plugin[args.warmup :],
        }
        for way, turn in turns.items()
    }


def compared(found: dict[str, Any], stock: dict[str, Any], block: int) -> dict[str, Any]:
    """A way against the stock trainer: medians of paired steps, with an interval by resampling the rounds."""
    return {
        "step_seconds": median(found["seconds"]),
        "over_stock": paired(found["seconds"], stock["seconds"], block),
        "cpu_over_stock": paired(found["cpu_seconds"], stock["cpu_seconds"], block),
        "plugin_ms_a_step": 1_000 * mean(found["plugin_seconds"]),
        "plugin_share": mean(found["plugin_seconds"]) / median(stock["seconds"]),
        "attach_seconds": found["attach_seconds"],
    }


def paired(found: Sequence[float], stock: Sequence[float], block: int) -> dict[str, float]:
    """The median ratio of steps at the same place, and its interval."""
    ratios = (np.array(found) / np.array(stock)).reshape(-1, block)
    drawn = np.random.default_rng(0).integers(len(ratios), size=(10_000, len(ratios)))
    low, high = np.quantile(np.median(ratios[drawn].reshape(len(drawn), -1), axis=1), [0.025, 0.975])
    return {"median": float(np.median(ratios)), "low": float(low), "high": float(high)}


# ---- memory --------------------------------------------------------------------------------------------------------


def own_peak(way: str, args: argparse.Namespace, rows: Dataset, tokenizer: Any, folder: str) -> dict[str, float]:
    """The peak memory, in MiB, of a few steps of one way in this process."""
    trainer, _ = new_trainer(way, args, rows, tokenizer, folder, args.memory_steps)
    peak, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.01):
            status = Path("/proc/self/status").read_text(encoding="ascii")
            peak[0] = max(peak[0], float(status.split("RssAnon:")[1].split()[0]) / 1024)

    watcher = threading.Thread(target=watch) if Path("/proc/self/status").exists() else None
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    if watcher:
        watcher.start()
    trainer.train()
    over.set()
    if watcher:
        watcher.join()
    found = {"peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "peak_anonymous_mib": peak[0]}
    if torch.cuda.is_available():
        found["peak_cuda_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return found


def peaks(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The peak memory of each way, in a process of its own."""
    found = {}
    same = [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in SHARED]
    for way in args.ways:
        command = [sys.executable, __file__, "--memory-of", way, *same, *(["--quick"] if args.quick else [])]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{shlex.join(command)}\n{done.stderr[-3000:]}")
        found[way] = json.loads(done.stdout.splitlines()[-1])
        print(f"memory of {way}: {found[way]}", file=sys.stderr)
    return found


# ---- the run -------------------------------------------------------------------------------------------------------

SHARED = ("model", "rows", "tokens", "batch_size", "optim", "memory_steps", "threads")
QUICK = {"model": "quick", "rows": 300, "tokens": 64, "rounds": 10, "memory_steps": 3}


def table(results: dict[str, Any]) -> str:
    """All ways in Markdown."""
    cuda = "peak_cuda_mib" in results["stock"]["memory"]
    kind = "peak_cuda_mib" if cuda else "peak_anonymous_mib"
    lines = [
        f"| way | step, s | over stock (95 %) | CPU time over stock (95 %) | in plugin, ms a step | share | attach, s "
        f"| peak {kind[5:-4]}, MiB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for way, r in results.items():
        ratios = [r["over_stock"], r["cpu_over_stock"]]
        peak = r["memory"][kind]
        cells = [
            WAYS[way][0],
            f"{r['step_seconds']:.3f}",
            *(f"{ratio['median']:.3f} ({ratio['low']:.3f}-{ratio['high']:.3f})" for ratio in ratios),
            f"{r['plugin_ms_a_step']:.2f}",
            f"{r['plugin_share']:.2%}",
            f"{r['attach_seconds']:.1f}",
            f"{peak:,.0f} ({peak - results['stock']['memory'][kind]:+,.0f})",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def make_parser() -> argparse.ArgumentParser:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny model, a minute: to see that it works")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON: all but the raw numbers")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="stock is always one of them")
    parser.add_argument("--model", choices=SHAPES, default="135M", help="(default: %(default)s)")
    parser.add_argument("--judge", metavar="FOLDER", help="of a model that scores ahead, for the way both_judged")
    parser.add_argument("--rows", type=int, default=10_000, help="of the data set (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=512 if cuda else 128, help="of a row (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=16 if cuda else 4, help="in rows (default: %(default)s)")
    parser.add_argument("--optim", default="adamw_torch", help="of SFTConfig (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=12, help="times that the ways take turns (default: %(default)s)")
    parser.add_argument("--block", type=int, default=2, help="steps of a turn (default: %(default)s)")
    parser.add_argument("--warmup", type=int, default=2, help="steps of each before (default: %(default)s)")
    parser.add_argument("--memory-steps", type=int, default=4, help="steps for the memory (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="on a CPU (default: 0, as many as PyTorch takes)")
    parser.add_argument("--memory-of", choices=WAYS, help=argparse.SUPPRESS)
    name = f"online_overhead_{'gpu' if cuda else 'cpu'}.json"
    parser.add_argument(
        "-o", "--output", help=f"where the raw numbers are written (default: results/{name}; with --quick nowhere)"
    )
    parser.set_defaults(result_name=name)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser()
    if "--quick" in (sys.argv[1:] if arguments is None else arguments):
        parser.set_defaults(**QUICK)
    args = parser.parse_args(arguments)
    args.ways = [way for way in WAYS if (way in args.ways or way == "stock") and (args.judge or way != "both_judged")]
    warnings.simplefilter("ignore")  # about the deprecated compute_loss_func
    set_verbosity_error()
    disable_progress_bar()
    if args.threads:
        torch.set_num_threads(args.threads)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = AutoTokenizer.from_pretrained(build_tiny_causal_lm(f"{folder}/tokenizer", num_hidden_layers=1))
        rows = new_rows(args.rows, args.tokens, tokenizer)
        if args.memory_of:
            print(json.dumps(own_peak(args.memory_of, args, rows, tokenizer, folder)))
            return
        memory = peaks(args)
        raw = timed_steps(args, rows, tokenizer, folder)
    results = {way: compared(raw[way], raw["stock"], args.block) | {"memory": memory[way]} for way in args.ways}
    record = {
        "command": shlex.join(["python", "benchmarks/online_overhead.py", *(arguments or sys.argv[1:])]),
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "load_average_before": load,
            "python": platform.python_version(),
        },
        "versions": {n: version(n) for n in ("ee-trl", "trl", "transformers", "torch", "datasets", "accelerate")},
        "settings": {n: getattr(args, n) for n in (*SHARED, "rounds", "block", "warmup", "parameters")},
        "ways": {way: WAYS[way][0] for way in args.ways},
        "results": results,
    }
    output = Path(args.output) if args.output else None if args.quick else RESULTS / args.result_name
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps({**record, "raw": raw}, indent=2) + "\n", encoding="utf-8")
    print(table(results))
    if args.json:
        print(json.dumps(record))


if __name__ == "__main__":
    main()
