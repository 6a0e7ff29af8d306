#!/usr/bin/env python
"""
Speed of the judge (`CausalLMScorer`) against generating the answer, one sample at a time and in batches.

    python benchmarks/scoring.py "$EE_TRL_DATA" --quick --json
    python benchmarks/scoring.py "$EE_TRL_DATA"

The folder holds `ed_validation_scored.parquet` (columns `context` and `response`, whole conversations in consecutive
rows). Unless `--model` names one, the model is a Llama with random weights, and its tokenizer is trained on the data:
neither speed nor agreement depends on what the model knows. The ways take turns, round by round. The result is the
ratio within a round, its median over the rounds. Preparing a scorer (the rubric's cache, one check) is timed apart.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from linear_scorer import processor
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast
from transformers.utils.logging import set_verbosity_error

from ee_trl.data.dialogue import Dialogue, samples_of
from ee_trl.data.formats import FORMATS
from ee_trl.scoring.judge.answers import VALUES
from ee_trl.scoring.judge.model import CausalLMScorer
from ee_trl.scoring.judge.rubric import Rubric, load_rubric
from ee_trl.scoring.judge.tree import alone, trunks_of, within_memory


DATA = "ed_validation_scored.parquet"
RESULTS = Path(__file__).parent / "results"
NEW_TOKENS = 24  # an answer form with both lines
SEED = 0
WAYS = {
    "one_by_one": "generate 24 tokens, one by one",
    "batched": "generate 24 tokens, batched and sorted by length",
    "plain": "one forward pass a question, nothing shared",
    "rubric_shared": "+ the rubric's cache shared, both questions in one pass",
    "ours": "+ one pass a dialogue (`CausalLMScorer.score`)",
}
SHAPES = {  # name: hidden, MLP, layers, heads, key/value heads, vocabulary (0: the tokenizer's)
    "56M": (640, 1728, 10, 10, 5, 0),
    "1B": (2048, 8192, 16, 32, 8, 128_256),
    "8B": (4096, 14336, 32, 32, 8, 128_256),
}


# ---- data ----------------------------------------------------------------------------------------------------------


def conversations(path: Path) -> list[list[str]]:
    """The turns of each conversation, from rows that each extend the one before."""
    found: list[list[str]] = []
    for row in pq.read_table(path, columns=["context", "response"]).to_pylist():
        turns = [*row["context"], row["response"]]
        if found and turns[: len(found[-1])] == found[-1]:
            found[-1] = turns
        else:
            found.append(turns)
    return found


def chained(talks: Sequence[list[str]], turns: int = 20) -> list[list[str]]:
    """Longer conversations, of 10 replies each as in ESConv, from short ones laid end to end."""
    flat = [turn for talk in talks if len(talk) % 2 == 0 for turn in talk]
    return [flat[i : i + turns] for i in range(0, len(flat) - turns + 1, turns)]


def samples(talks: Sequence[list[str]], at_least: int) -> list[Dialogue]:
    """Every reply of the first conversations that make up `at_least` samples."""
    found: list[Dialogue] = []
    for talk in talks:
        if len(found) >= at_least:
            break
        rows = [{"context": talk[:end], "response": talk[end]} for end in range(1, len(talk), 2)]
        found += [s.dialogue for s in samples_of(FORMATS["context_response"], rows) if s.dialogue]
    return found


def some(items: Sequence[Any], count: int) -> list[Any]:
    """A random part with all lengths, the same each time."""
    chosen = np.random.default_rng(SEED).permutation(len(items))[:count]
    return [items[i] for i in sorted(chosen)]


# ---- model and tokenizer -------------------------------------------------------------------------------------------


def make_tokenizer(talks: Sequence[list[str]]) -> PreTrainedTokenizerFast:
    """
    A byte-level BPE tokenizer of 8,000 ids; each digit is one, so that 10 is two.

    Its training text has the rubric 20 times: small talk alone leaves words such as "Evaluation" in pieces, which
    makes the questions twice as long as with a judge's own tokenizer.
    """
    bpe = Tokenizer(models.BPE())
    split = pre_tokenizers.Digits(individual_digits=True)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=8_000,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([*(turn for talk in talks for turn in talk), *[load_rubric().text] * 20], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def make_model(shape: str, tokenizer: PreTrainedTokenizerFast, dtype: torch.dtype) -> Any:
    """A Llama with random weights, wide enough that its answers differ from text to text."""
    hidden, mlp, layers, heads, kv_heads, vocabulary = SHAPES[shape]
    config = LlamaConfig(
        vocab_size=vocabulary or len(tokenizer),
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=4_096,
        initializer_range=hidden**-0.5,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(SEED)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def loaded(args: argparse.Namespace, talks: Sequence[list[str]]) -> Iterator[tuple[str, str, Any, Any]]:
    """Each model to be timed: `(name, precision, model, tokenizer)`."""
    cuda = torch.cuda.is_available()
    precisions = ["float32"] if args.quick and not cuda else ["bfloat16", "nf4"] if cuda else ["float32", "bfloat16"]
    if args.model:
        for precision in precisions:
            scorer = CausalLMScorer(args.model, **precision_options(precision))
            yield Path(args.model).name, precision, scorer.model, scorer.tokenizer
        return
    tokenizer = make_tokenizer(talks)
    for shape in ["1B", "8B"] if cuda else ["56M"]:
        for precision in precisions:
            if precision != "nf4":
                yield shape, precision, make_model(shape, tokenizer, getattr(torch, precision)), tokenizer
                continue
            with tempfile.TemporaryDirectory() as folder:  # quantising is part of loading
                make_model(shape, tokenizer, torch.bfloat16).save_pretrained(folder)
                scorer = CausalLMScorer(folder, tokenizer, **precision_options(precision))
            yield shape, precision, scorer.model, tokenizer


def precision_options(precision: str) -> dict[str, str]:
    return {"quantization": "nf4", "dtype": "bfloat16"} if precision == "nf4" else {"dtype": precision}


def parameters_of(model: Any) -> int:
    """The number of parameters; nf4 packs two in a byte."""
    return sum(p.numel() * (2 if type(p).__name__ == "Params4bit" else 1) for p in model.parameters())


def sized(tokenizer: Any, tokens: int) -> Rubric:
    """The bundled rubric's text, cut or repeated to a number of tokens."""
    ids = tokenizer(load_rubric().text, add_special_tokens=False)["input_ids"]
    ids = (ids * (1 + tokens // len(ids)))[:tokens]
    return Rubric(f"{tokens} tokens", tokenizer.decode(ids))


# ---- the ways ------------------------------------------------------------------------------------------------------


def prompts(scorer: CausalLMScorer, dialogues: Sequence[Dialogue]) -> list[list[int]]:
    """The ids that a generating judge gets: the same as ours, up to the beginning of its answer form."""
    return [scorer.prompt.ids(scorer.prompt.turns(d)) for d in dialogues]


@torch.inference_mode()
def generate(scorer: CausalLMScorer, dialogues: Sequence[Dialogue], batch_size: int) -> None:
    """Greedy generation with a cache, padded on the left."""
    texts = sorted(prompts(scorer, dialogues), key=len)
    for start in range(0, len(texts), batch_size):
        batch = texts[start : start + batch_size]
        width = max(map(len, batch))
        ids = torch.tensor([[0] * (width - len(t)) + t for t in batch])
        mask = torch.tensor([[0] * (width - len(t)) + [1] * len(t) for t in batch])
        output = scorer.model.generate(
            input_ids=ids.to(scorer.model.device),
            attention_mask=mask.to(scorer.model.device),
            do_sample=False,
            min_new_tokens=NEW_TOKENS,
            max_new_tokens=NEW_TOKENS,
            pad_token_id=scorer.tokenizer.pad_token_id or 0,
        )
        assert output.shape[1] == width + NEW_TOKENS


@torch.inference_mode()
def without_tree(scorer: CausalLMScorer, dialogues: Sequence[Dialogue], share_rubric: bool) -> np.ndarray:
    """Intermediate ways between generating and ours, as expected values of shape `(n, 2)`."""
    trunks = alone([scorer.prompt.turns(d) for d in dialogues])
    parts = within_memory(scorer, scorer.tree if share_rubric else scorer.texts, trunks)
    answers = {n: answer for part, _ in parts for n, answer in part.items()}
    chances = np.stack([answers[n] for n in range(len(dialogues))])[:, :, : len(VALUES)]  # the last is the greedy one
    return chances @ np.array(VALUES, float) / chances.sum(axis=2)


# ---- measuring -----------------------------------------------------------------------------------------------------


def seconds_of(work: Callable[[], Any]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_memory_mib() -> float:
    """Peak memory in MiB: on a GPU since the last call, else of the process since it began."""
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / 2**20
        torch.cuda.reset_peak_memory_stats()
        return round(peak)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def measure(scorer: CausalLMScorer, dialogues: list[Dialogue], args: argparse.Namespace, note: str) -> dict[str, Any]:
    """All ways on one set of dialogues: samples a second of each round, ratios, agreement, memory."""
    peak_memory_mib()
    preparation = seconds_of(lambda: scorer.takes_tree)
    if not scorer.takes_tree:
        raise SystemExit("this model does not take the branch mask: there is nothing to compare")
    apart = difference(scorer, some(dialogues, 16))
    subset, few = some(dialogues, args.batched_samples), some(dialogues, args.single_samples)
    lengths = {id(d): len(text) for d, text in zip(dialogues, prompts(scorer, dialogues), strict=True)}
    subset, few = (sorted(part, key=lambda d: lengths[id(d)]) for part in (subset, few))
    generate(scorer, few[:2], 1)
    trial = {n: n / seconds_of(lambda n=n: generate(scorer, some(subset, n), n)) for n in args.batch_sizes}
    best = max(trial, key=trial.__getitem__)
    # where a way has samples of its own, each round takes a share of all lengths
    ways: dict[str, tuple[list[Dialogue], Callable[[list[Dialogue]], Any]]] = {
        "ours": (dialogues, scorer.score),
        "one_by_one": (few, lambda part: generate(scorer, part, 1)),
        "batched": (subset, lambda part: generate(scorer, part, best)),
    }
    if not args.quick:
        ways["plain"] = few, lambda part: without_tree(scorer, part, share_rubric=False)
        ways["rubric_shared"] = dialogues, lambda part: without_tree(scorer, part, share_rubric=True)
    rates: dict[str, list[float]] = {way: [] for way in ways}
    memory: dict[str, float] = {}
    for n in range(args.rounds):
        for way, (found, work) in ways.items():
            part = found if found is dialogues else found[n :: args.rounds]
            rates[way].append(len(part) / seconds_of(lambda work=work, part=part: work(part)))
            memory[way] = peak_memory_mib()
        print(f"{note}, round {n + 1}: {show({way: rate[-1] for way, rate in rates.items()})}", file=sys.stderr)
    trunks = trunks_of([scorer.prompt.turns(d) for d in dialogues])
    branch = scorer.tree.branch_size
    tokens = sum(len(t.tokens) for t in trunks) + len(dialogues) * branch
    result = {
        "rubric_tokens": len(scorer.tokenizer(scorer.rubric.text, add_special_tokens=False)["input_ids"]),
        "prefix_tokens": len(scorer.prompt.prefix),
        "branch_tokens": branch,
        "samples": len(dialogues),
        "dialogues": len(trunks),
        "tokens_a_dialogue": round(sum(len(t.tokens) for t in trunks) / len(trunks), 1),
        "timed_samples": {way: len(found) for way, (found, _) in ways.items()},
        "batch_size": best,
        "batch_sizes_per_second": trial,
        "preparation_seconds": preparation,
        "per_second": rates,
        "speedup": {
            way: spread([ours / rate for ours, rate in zip(rates["ours"], rates[way], strict=True)])
            for way in rates
            if way != "ours"
        },
        "over_one_by_one": {
            way: spread([rate / base for rate, base in zip(rates[way], rates["one_by_one"], strict=True)])
            for way in rates
        },
        "largest_difference": apart,
        "peak_memory_mib": memory,
        "load_average": os.getloadavg()[0],
    }
    if torch.cuda.is_available():
        flops = 2 * parameters_of(scorer.model) * tokens * median(rates["ours"]) / len(dialogues)
        result["model_flops_utilisation"] = flops / (args.peak_tflops * 1e12)
    return result


def difference(scorer: CausalLMScorer, dialogues: list[Dialogue]) -> dict[str, float]:
    """How far our scores are from those of plain texts, beside how far samples are from each other."""
    plain = without_tree(scorer, dialogues, share_rubric=False)
    apart = np.abs(scorer.score(dialogues) - plain).max()
    return {"samples": len(dialogues), "scores_apart": float(apart), "scores_std": float(plain.std(axis=0).min())}


def spread(values: list[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}


def show(rates: dict[str, float]) -> str:
    return ", ".join(f"{way} {rate:.2f}/s" for way, rate in rates.items())


# ---- the run -------------------------------------------------------------------------------------------------------


def cases(
    args: argparse.Namespace, talks: list[list[str]], tokenizer: Any
) -> list[tuple[str, list[Dialogue], Rubric]]:
    """What is timed with each model: `(name, dialogues, rubric)`."""
    short = samples(talks, args.samples)
    if args.quick:
        return [("ED", short, load_rubric())]
    rubrics = [load_rubric(), *(sized(tokenizer, tokens) for tokens in (300, 600, 1_000))]
    long = samples(chained(talks), args.samples)
    return [("ED", short, rubric) for rubric in rubrics] + [("10 replies", long, load_rubric())]


def table(results: Sequence[dict[str, Any]]) -> str:
    """All ratios in Markdown: a line for each case, a column for each way."""
    lines = [
        "| model | precision | dialogues | rubric (tokens) | way | samples/s | over one by one | ours over it |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        for way in (way for way in WAYS if way in r["per_second"]):
            over, speedup = r["over_one_by_one"][way], r["speedup"].get(way)
            cells = [
                r["model"], r["precision"], r["data"], f"{r['rubric']} ({r['rubric_tokens']})", WAYS[way],
                f"{median(r['per_second'][way]):.2f}", f"{over['median']:.1f}x",
                f"**{speedup['median']:.1f}x** ({speedup['min']:.1f}-{speedup['max']:.1f})" if speedup else "",
            ]  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def make_parser() -> argparse.ArgumentParser:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", default=os.environ.get("EE_TRL_DATA"), help="the folder ($EE_TRL_DATA)")
    parser.add_argument("--model", metavar="PATH_OR_ID", help="a real judge instead of random weights")
    parser.add_argument("--quick", action="store_true", help="bundled rubric, one precision, ED alone; some minutes")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON: the (first) case's ratios")
    parser.add_argument("--rounds", type=int, default=3, help="times that the ways take turns (default: 3)")
    parser.add_argument(
        "--samples", type=int, default=200, help="samples that ours is timed on, each round (default: 200)"
    )
    parser.add_argument(
        "--single-samples", type=int, default=24, help="... generation one by one, over all rounds (default: 24)"
    )
    parser.add_argument(
        "--batched-samples", type=int, default=96, help="... batched generation, over all rounds (default: 96)"
    )
    parser.add_argument(
        "--batch-sizes", type=int, nargs="+", default=[16, 32, 64] if cuda else [8, 16], metavar="N",
        help="of which batched generation takes the fastest in a trial (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--threads", type=int, default=0, metavar="N",
        help="on a CPU (default: 0, as many as PyTorch takes; 1 is the steadiest where others compute too)",
    )  # fmt: skip
    parser.add_argument("--peak-tflops", type=float, default=790, help="of the GPU, in bfloat16 (default: 790)")
    name = f"scoring_{'gpu' if cuda else 'cpu'}.json"
    parser.add_argument(
        "-o", "--output", metavar="FILE.json",
        help=f"where the raw numbers are written (default: results/{name}; with --quick nowhere)",
    )  # fmt: skip
    parser.set_defaults(result_name=name)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser()
    args = parser.parse_args(arguments)
    if not args.data:
        parser.error("name the folder of the data, or set EE_TRL_DATA")
    set_verbosity_error()
    if not args.model:  # no warnings about the answers of random weights
        logging.getLogger("ee_trl").setLevel(logging.ERROR)
    if args.threads:
        torch.set_num_threads(args.threads)
    talks = conversations(Path(args.data) / DATA)
    results: list[dict[str, Any]] = []
    output = Path(args.output) if args.output else None if args.quick else RESULTS / args.result_name
    for name, precision, model, tokenizer in loaded(args, talks):
        count = parameters_of(model)
        print(f"{name}: {count / 1e6:.1f}M parameters, {precision}", file=sys.stderr)
        for data, dialogues, rubric in cases(args, talks, tokenizer):
            scorer = CausalLMScorer(model, tokenizer, rubric=rubric)
            case = {"model": name, "parameters": count, "precision": precision, "data": data, "rubric": rubric.name}
            note = f"{name} {precision}, {data}, {rubric.name}"
            results.append(case | measure(scorer, dialogues, args, note))
            if output:
                output.write_text(json.dumps(report(args, results), indent=2) + "\n", encoding="utf-8")
        del model
    print(table(results))
    if args.json:
        print(json.dumps(headline(results[0])))


def report(args: argparse.Namespace, results: list[dict[str, Any]]) -> dict[str, Any]:
    counts = ("rounds", "samples", "single_samples", "batched_samples", "threads")
    options = [f"--{name.replace('_', '-')} {value}" for name in counts if (value := getattr(args, name))]
    return {
        "command": " ".join(['python benchmarks/scoring.py "$EE_TRL_DATA"', *["--quick"] * args.quick, *options]),
        "results": results,
        "machine": torch.cuda.get_device_name() if torch.cuda.is_available() else processor(),
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("torch", "transformers", "tokenizers", "numpy")},
        },
    }


def headline(r: dict[str, Any]) -> dict[str, Any]:
    """One case on one line."""
    return {
        "vs_generate": r["speedup"]["one_by_one"]["median"],
        "vs_batched": r["speedup"]["batched"]["median"],
        "vs_generate_range": [r["speedup"]["one_by_one"][end] for end in ("min", "max")],
        "vs_batched_range": [r["speedup"]["batched"][end] for end in ("min", "max")],
        "largest_difference": r["largest_difference"]["scores_apart"],
        **{k: r[k] for k in ("parameters", "precision", "rubric_tokens", "samples", "timed_samples", "batch_size")},
        "per_second": {way: median(rates) for way, rates in r["per_second"].items()},
        "peak_memory_mib": max(r["peak_memory_mib"].values()),
        "load_average": r["load_average"],
    }


if __name__ == "__main__":
    main()
