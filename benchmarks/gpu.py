#!/usr/bin/env python
"""
What one GPU makes of this package, in runs of at most eight minutes: judge, training, online selection, a mixture.

    python benchmarks/gpu.py                          # on one H100 or H200
    python benchmarks/gpu.py --device cpu --tiny      # every part at tiny size: a rehearsal, in some minutes

Each part is a process with a time limit of its own. The most important come first, and each number is written as soon
as it is known: a run that is cut short, or has no time left, goes on with what is missing when it is started again. A
part that failed or ran out of time is tried again, too. Nothing is downloaded: models have the shape of Llama 3 with
random weights, which neither speed nor memory depend on. Dialogues are those of EmpatheticDialogues in the folder
`--data`, or without one those of the embedded sample with their replies exchanged.

MFU is 2 x parameters x useful tokens / seconds / peak: useful are a dialogue's tokens and its questions' once, without
padding and without the rubric, whose cache is shared. The peak is that of the data sheet for dense bfloat16, by the
card's name; `MFU of 790` is for comparison with runs that took 790 TFLOP/s for it.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import online_overhead
import scoring
import torch
from linear_scorer import processor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from transformers.utils.logging import disable_progress_bar, set_verbosity_error
from trl import SFTTrainer

from ee_trl import CausalLMScorer, compose_moe, load_sample
from ee_trl.data.dialogue import Dialogue
from ee_trl.evaluation.generation import generate_replies
from ee_trl.files import atomic_folder, package_versions, read_json, write_json
from ee_trl.recipes import sft_moe, sft_sensibility
from ee_trl.scoring.judge import loading
from ee_trl.scoring.judge.packed import Packed
from ee_trl.scoring.judge.tree import tree_inputs, trunks_of
from ee_trl.training.command_line import parse_recipe_args
from ee_trl.training.tiny_model import CHAT_TEMPLATE


ROOT = Path(__file__).parents[1]
PEAKS = {  # dense bfloat16, in TFLOP/s, by a part of the card's name; the first that fits counts
    "H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "H200": 989, "GH200": 989, "B200": 2250, "B300": 2250,
    "A100": 312, "A800": 312, "L40S": 362, "L40": 181, "A10G": 70, "A10": 125, "L4": 121, "4090": 165, "5090": 210,
}  # fmt: skip
scoring.SHAPES["tiny"] = (64, 128, 2, 4, 2, 0)
Found = dict[str, Any]
UNSAID = ("output", "passes")  # findings that are in the file alone


class Part(NamedTuple):
    """A part of the run: what it measures, its time limit in seconds, and the function that fills in what it found."""

    what: str
    limit: int
    measure: Callable[[argparse.Namespace, Keep], None]


class Keep(dict[str, Any]):
    """What a part has found so far; each number is on the disk at once."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def add(self, **found: Any) -> None:
        self.update(found)
        write_json(self.path, dict(self))


# ---- what is measured on --------------------------------------------------------------------------------------------


def conversations(args: argparse.Namespace) -> list[list[str]]:
    """The turns of each conversation."""
    if args.data and (Path(args.data) / scoring.DATA).exists():
        return scoring.conversations(Path(args.data) / scoring.DATA)
    talks = [[turn["content"] for turn in messages] for messages in load_sample()["messages"]]
    others = ([[*a[:-1], b[-1]] for a, b in zip(talks, talks[n:] + talks[:n], strict=True)] for n in range(1, 8))
    return talks + [talk for part in others for talk in part]


def tokenizer_of(args: argparse.Namespace, template: bool = False) -> Any:
    tokenizer = scoring.make_tokenizer(conversations(args)[:2_000])
    tokenizer.chat_template = CHAT_TEMPLATE if template else None
    return tokenizer


def on_disk(args: argparse.Namespace, shape: str) -> Path:
    """The folder of a model with random weights, for what loads one by its name; made once."""
    folder = Path(args.work) / f"model_{shape}"
    if not folder.exists():
        tokenizer = tokenizer_of(args, template=True)
        with atomic_folder(folder) as partial:
            scoring.make_model(shape, tokenizer, torch.bfloat16).save_pretrained(partial, max_shard_size="4GB")
            tokenizer.save_pretrained(partial)
        free()
    return folder


def free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def shaped(args: argparse.Namespace, shape: str) -> str:
    return "tiny" if args.tiny else shape


# ---- the judge ------------------------------------------------------------------------------------------------------


def judge(shape: str, precision: str, whole: bool = False) -> Callable[[argparse.Namespace, Keep], None]:
    """The judge against generation, on short dialogues and on those of ten replies; `whole`: with every option."""

    def measure(args: argparse.Namespace, keep: Keep) -> None:
        loading.weights_of = loading.content_of = lambda *model: "random"  # no hash of 16 GB
        talks, tokenizer, name = conversations(args), tokenizer_of(args), shaped(args, shape)
        if precision == "bfloat16":
            scorer = CausalLMScorer(scoring.make_model(name, tokenizer, torch.bfloat16), tokenizer)
        else:
            scorer = CausalLMScorer(on_disk(args, name), tokenizer, quantization=precision, dtype="bfloat16")
        parameters = scoring.parameters_of(scorer.model)
        prepared = scoring.seconds_of(lambda: scorer.takes_tree)
        ways = {"parameters": parameters, "prepared_in_seconds": prepared, "tree": scorer.takes_tree}
        keep.add(**ways, packed=scorer.tree.packed, why_not_packed=scorer.tree.why_not_packed)
        counts = (40, 20) if args.tiny else (1_500, 600)
        sets = {
            "ED": scoring.samples(talks, counts[0]),
            "ten replies": scoring.samples(scoring.chained(talks), counts[1]),
        }
        for data, dialogues in sets.items():
            found = compared(scorer, dialogues, args, rounds=3)
            per_second = parameters * 2 * found["useful_tokens"] * found["ours"] / len(dialogues)
            for peak in {args.peak_tflops, 790}:
                found[f"mfu_of_{peak:g}"] = per_second / (peak * 1e12)
            keep.add(**{data: found})
        if whole:
            keep.add(host=host_time(scorer, sets["ED"]))
            keep.add(profile=profiled(scorer, sets["ED"]))
            options(scorer, sets["ED"][: counts[0] // 2], keep, args)

    return measure


def compared(scorer: CausalLMScorer, dialogues: list[Dialogue], args: argparse.Namespace, rounds: int) -> Found:
    """Samples a second of the judge and of generation, memory, padding, and the difference to plain texts."""
    trunks = trunks_of(scorer.prompt.turns_of_all(dialogues))
    useful = sum(len(t.tokens) for t in trunks) + len(dialogues) * scorer.tree.branch_size
    scorer.score(dialogues[:200])  # the first use of a shape picks its kernels
    scoring.peak_memory_mib()
    ours = [len(dialogues) / scoring.seconds_of(lambda: scorer.score(dialogues)) for _ in range(rounds)]
    memory = {"ours": scoring.peak_memory_mib()}
    computed = sum(batch.forward_tokens for batch in scorer.score_batches(dialogues))
    many, few = (scoring.some(dialogues, n) for n in ((8, 2) if args.tiny else (128, 3)))
    scoring.generate(scorer, few[:1], 1)
    batched = len(many) / scoring.seconds_of(lambda: scoring.generate(scorer, many, len(many)))
    memory["batched"] = scoring.peak_memory_mib()
    single = len(few) / scoring.seconds_of(lambda: scoring.generate(scorer, few, 1))
    return {
        "samples": len(dialogues), "dialogues": len(trunks), "useful_tokens": useful, "padding": computed / useful - 1,
        "ours": median(ours), "rounds": ours, "batched": batched, "one_by_one": single,
        "over_batched": median(ours) / batched, "over_one_by_one": median(ours) / single,
        "to_plain_texts": scoring.difference(scorer, scoring.some(dialogues, 4 if args.tiny else 16)),
        "peak_memory_mib": memory,
    }  # fmt: skip


def options(scorer: CausalLMScorer, dialogues: list[Dialogue], keep: Keep, args: argparse.Namespace) -> None:
    """Samples a second with each mechanism changed by itself, twice each."""

    def twice() -> float:
        return max(len(dialogues) / scoring.seconds_of(lambda: scorer.score(dialogues)) for _ in range(2))

    found: Found = {"as it is": twice()}
    changes = [("padded rows", "packed", False), ("answers read at once", "ahead", 0)]
    for name, attribute, value in changes:
        usual = getattr(scorer.tree, attribute)
        setattr(scorer.tree, attribute, value)
        found[name] = twice()
        setattr(scorer.tree, attribute, usual)
        keep.add(options=found)
    budget = scorer.token_budget
    for factor in (0.25, 0.5, 2):
        scorer.token_budget = int(budget * factor)
        found[f"{scorer.token_budget:,} tokens a batch"] = twice()
        keep.add(options=found)
    scorer.token_budget = budget
    for layer in scorer.model.get_decoder().layers:  # what lies between the matrix products, fused
        for module in (layer.mlp, layer.input_layernorm, layer.post_attention_layernorm):
            module.compile(dynamic=True, backend="eager" if args.tiny else "inductor")
    found["first pass with torch.compile, seconds"] = scoring.seconds_of(lambda: scorer.score(dialogues))
    found["torch.compile of MLPs and norms"] = twice()
    keep.add(options=found)


def host_time(scorer: CausalLMScorer, dialogues: list[Dialogue]) -> Found:
    """Milliseconds of Python for 1,000 samples, which the GPU waits for only where it has no batch to run."""
    turns: list[Any] = []
    tokenised = scoring.seconds_of(lambda: turns.extend(scorer.prompt.turns_of_all(dialogues)))
    tree, prefix = scorer.tree, len(scorer.prompt.prefix)
    trunks = trunks_of(turns)[:100]
    laid = scoring.seconds_of(lambda: Packed.of(tree_inputs(trunks, tree.branch, prefix)))
    share = sum(len(t.samples) for t in trunks)
    return {"tokenise_ms": 1e6 * tokenised / len(dialogues), "lay_out_ms": 1e6 * laid / share}


def profiled(scorer: CausalLMScorer, dialogues: list[Dialogue], most: int = 15) -> Found:
    """The kernels that take most time, how busy the GPU is, and the operations that take most of the host's time."""
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with profile(activities=kinds) as seen:
        wall = scoring.seconds_of(lambda: scorer.score(dialogues))
    events = seen.key_averages()
    kernels = {e.key: e.self_device_time_total for e in events if e.device_type == DeviceType.CUDA}
    host = {e.key: e.self_cpu_time_total for e in events if e.device_type == DeviceType.CPU}

    def top(times: dict[str, float]) -> Found:
        first = sorted(times.items(), key=lambda item: -item[1])[:most]
        return {name[:100]: round(time / 1e6, 4) for name, time in first}

    busy = sum(kernels.values()) / 1e6
    return {"seconds": wall, "gpu_busy": busy / wall, "kernel_seconds": top(kernels), "host_seconds": top(host)}


# ---- training -------------------------------------------------------------------------------------------------------


def recipe(module: Any, config: str, shape: str) -> Callable[[argparse.Namespace, Keep], None]:
    """Some steps of a recipe by its own config: tokens a second after the first step, and memory."""

    def measure(args: argparse.Namespace, keep: Keep) -> None:
        model = on_disk(args, shaped(args, shape))
        if module is sft_moe:
            mixture, start = Path(args.work) / "mixture", time.perf_counter()
            shutil.rmtree(mixture, ignore_errors=True)
            compose_moe(model, {"sensibility": model, "rationality": model}, mixture, max_shard_size="4GB")
            keep.add(compose_seconds=time.perf_counter() - start)
            model = mixture
        passes: list[tuple[float, int]] = []
        stock = SFTTrainer.training_step

        def timed(self: Any, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
            tokens, made = int(inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).sum()), []
            took = scoring.seconds_of(lambda: made.append(stock(self, model, inputs, *rest, **named)))
            passes.append((took, tokens))
            return made[0]

        SFTTrainer.training_step = timed
        with tempfile.TemporaryDirectory(dir=args.work) as folder:
            argv = ["--config", str(ROOT / "recipes" / "configs" / config), "--model_name_or_path", str(model)]
            argv += ["--output_dir", f"{folder}/run", "--max_steps", "2" if args.tiny else "6", "--logging_steps", "1"]
            argv += ["--save_strategy", "no", "--disable_tqdm", "true", "--empathy_scorer", "linear"]
            argv += ["--use_cpu", "true"] if not torch.cuda.is_available() else []
            try:
                module.main(*parse_recipe_args(module.make_parser(), argv))
            finally:
                SFTTrainer.training_step = stock
                later = passes[len(passes) // 3 :]
                if later:
                    seconds, tokens = sum(took for took, _ in later), sum(n for _, n in later)
                    keep.add(tokens_per_second=tokens / seconds, seconds_a_pass=seconds / len(later), passes=passes)
                keep.add(peak_memory_mib=scoring.peak_memory_mib(), reserved_mib=reserved())
        keep.add(fits_24_gb=keep["reserved_mib"] < 23_000)  # the driver keeps the rest

    return measure


def reserved() -> float:
    return torch.cuda.max_memory_reserved() / 2**20 if torch.cuda.is_available() else scoring.peak_memory_mib()


def online(args: argparse.Namespace, keep: Keep) -> None:
    """Selection while training against the stock trainer, without and with a judge on the same GPU."""
    ways = ["stock", "stock_again", "weights", "sampling", "both", "both_judged"]
    argv = ["--rows", "500", "--rounds", "8", "--block", "4", "--judge", str(on_disk(args, shaped(args, "1B")))]
    tiny = ["--rows", "60", "--rounds", "1", "--model", "quick", "--tokens", "64", "--batch-size", "2"]
    options = online_overhead.make_parser().parse_args([*argv, *(tiny if args.tiny else []), "--ways", *ways])
    free()
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = tokenizer_of(args, template=True)
        rows = online_overhead.new_rows(options.rows, options.tokens, tokenizer)
        raw = online_overhead.timed_steps(options, rows, tokenizer, folder)
    for way in ways:
        keep.add(**{way: online_overhead.compared(raw[way], raw["stock"], options.block)})
    keep.add(tokens_per_second=options.batch_size * options.tokens / keep["stock"]["step_seconds"])


def generation(args: argparse.Namespace, keep: Keep) -> None:
    """Replies as `ee-trl evaluate` generates them: new tokens a second."""
    tokenizer = tokenizer_of(args, template=True)
    prompts = [messages[:-1] for messages in load_sample()["messages"]][: 4 if args.tiny else 128]
    new, size = (4, 2) if args.tiny else (64, 64)
    for shape in ("8B", "1B"):
        model = scoring.make_model(shaped(args, shape), tokenizer, torch.bfloat16)
        model.generation_config.eos_token_id = None
        generate_replies(model, tokenizer, prompts[:2], max_new_tokens=2, show=False)
        scoring.peak_memory_mib()

        def replies(model: Any = model) -> None:
            generate_replies(model, tokenizer, prompts, max_new_tokens=new, batch_size=size, show=False)

        per_second = len(prompts) * new / scoring.seconds_of(replies)
        keep.add(**{shape: {"tokens_per_second": per_second, "peak_memory_mib": scoring.peak_memory_mib()}})
        del model
        free()


def tests(args: argparse.Namespace, keep: Keep) -> None:
    """The tests that only a GPU can run."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_gpu.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    keep.add(outcome=done.stdout.strip().splitlines()[-1:], output=done.stdout[-3_000:])
    if done.returncode:
        raise SystemExit("the GPU tests failed")


PARTS = {  # the most important first; the limits are for one H100
    "tests": Part("tests/test_gpu.py", 70, tests),
    "judge_8b": Part("the judge, 8B in bfloat16, with every option and a profile", 130, judge("8B", "bfloat16", True)),
    "judge_8b_nf4": Part("the judge, 8B in nf4", 75, judge("8B", "nf4")),
    "qlora_8b": Part("steps of recipes/configs/qlora_8b.yaml", 60, recipe(sft_sensibility, "qlora_8b.yaml", "8B")),
    "judge_1b": Part("the judge, 1B in bfloat16", 40, judge("1B", "bfloat16")),
    "online": Part("selection while training, against the stock trainer", 95, online),
    "judge_8b_int8": Part("the judge, 8B in int8", 75, judge("8B", "int8")),
    "lora_8b": Part("steps of recipes/configs/lora_8b.yaml", 60, recipe(sft_sensibility, "lora_8b.yaml", "8B")),
    "mixture_1b": Part("compose, and steps of the router of a 1B mixture", 60, recipe(sft_moe, "moe_8b.yaml", "1B")),
    "generation": Part("replies of an evaluation, 8B and 1B", 50, generation),
}


# ---- the run --------------------------------------------------------------------------------------------------------


def run_part(name: str, args: argparse.Namespace, limit: float) -> Found:
    """Runs a part in a process of its own; what it found before an error or its limit counts."""
    path = Path(args.work) / f"{name}.json"
    path.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--run", name, *(f"--{k}={getattr(args, k)}" for k in ("device", "work"))]
    command += [f"--peak-tflops={args.peak_tflops}", *(["--tiny"] if args.tiny else [])]
    command += [f"--data={args.data}"] if args.data else []
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
    env |= {"CUDA_VISIBLE_DEVICES": ""} if args.device == "cpu" else {}
    begin = time.monotonic()
    with (Path(args.work) / f"{name}.log").open("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
        try:
            status = "ok" if process.wait(limit) == 0 else "failed"
        except subprocess.TimeoutExpired:
            status = "out of time"
        finally:
            with suppress(ProcessLookupError):  # its workers, too
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.seek(0)
        said = log.read()[-3_000:]
    result = {"status": status, "seconds": round(time.monotonic() - begin, 1)}
    result |= {"found": read_json(path)} if path.exists() else {"found": {}}
    return result if status == "ok" else result | {"log": said}


def said(name: str, value: Any) -> str:
    """One finding in words."""
    if not isinstance(value, dict):
        shown = f"{value:,.0f}" if isinstance(value, float) and value >= 100 else value
        return f"{name.replace('_', ' ')} {f'{shown:.3g}' if isinstance(shown, float) else shown}"
    if "over_batched" in value:
        mfu = ", ".join(f"{share:.1%} of {key[7:]}" for key, share in value.items() if key.startswith("mfu_of_"))
        apart = value["to_plain_texts"]
        return (
            f"{name}: **{value['ours']:.0f} samples/s**, MFU {mfu}; {value['over_batched']:.1f}x batched and "
            f"{value['over_one_by_one']:.0f}x one-by-one generation; padding {value['padding']:.0%}; "
            f"{value['peak_memory_mib']['ours'] / 1024:.1f} GiB; {apart['scores_apart']:.2g} from plain texts "
            f"(std {apart['scores_std']:.2g})"
        )
    if "over_stock" in value:
        ratio, share = value["over_stock"], value["plugin_share"]
        bar = f" (bar 0.5 %: {'met' if share <= 0.005 else 'missed'})" if name in ("weights", "sampling") else ""
        return (
            f"{name}: {value['step_seconds']:.3f} s a step, {ratio['median']:.3f} of stock ({ratio['low']:.3f} to "
            f"{ratio['high']:.3f}), {share:.2%} in the plugin{bar}"
        )
    return f"{name}: " + "; ".join(said(key, part) for key, part in value.items() if not isinstance(part, list))


def table(results: dict[str, Found]) -> str:
    """Every part in Markdown, a line for each finding."""
    lines = ["| part | status | what was found |", "|---|---|---|"]
    for name, result in results.items():
        lines.append(f"| **{name}** | {result['status']}, {result['seconds']:.0f} s | {PARTS[name].what} |")
        found = {key: value for key, value in result["found"].items() if key not in UNSAID and value is not None}
        plain = [said(key, value) for key, value in found.items() if not isinstance(value, dict)]
        whole = [said(key, value) for key, value in found.items() if isinstance(value, dict)]
        lines += [f"| | | {line} |" for line in ("; ".join(plain), *whole) if line]
    return "\n".join(lines)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="say what the parts are, and end")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help="these parts alone, done or not")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="(default: cuda)")
    parser.add_argument("--tiny", action="store_true", help="tiny models and few steps: to see that every part works")
    parser.add_argument("--minutes", type=float, default=7.8, help="when the run ends (default: %(default)s)")
    parser.add_argument("--data", default=os.environ.get("EE_TRL_DATA"), help=f"a folder with {scoring.DATA}")
    parser.add_argument("--peak-tflops", type=float, help="of the card; by default by its name")
    parser.add_argument("--work", default="runs/gpu", help="for models (22 GB) and logs (default: %(default)s)")
    parser.add_argument("-o", "--output", help="the results (default: benchmarks/results/gpu.json; --tiny: in --work)")
    parser.add_argument("--run", choices=PARTS, help=argparse.SUPPRESS)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser()
    args = parser.parse_args(arguments)
    if args.list:
        print("\n".join(f"{name:14} {part.limit:4} s  {part.what}" for name, part in PARTS.items()))
        return
    card = torch.cuda.get_device_name() if args.device == "cuda" and torch.cuda.is_available() else None
    if args.device == "cuda" and card is None:
        parser.error("there is no GPU that PyTorch can use; to rehearse: --device cpu --tiny")
    if args.device == "cpu" and not args.tiny:
        parser.error("on a CPU only the rehearsal is possible: add --tiny")
    if args.peak_tflops is None:
        args.peak_tflops = next((float(peak) for part, peak in PEAKS.items() if part in (card or "")), 0.0)
        if card and not args.peak_tflops:
            parser.error(f"the peak of {card!r} is not known; give --peak-tflops, its dense bfloat16 TFLOP/s")
        args.peak_tflops = args.peak_tflops or 1.0
    Path(args.work).mkdir(parents=True, exist_ok=True)
    args.work = str(Path(args.work).resolve())
    if args.run:
        set_verbosity_error()
        disable_progress_bar()
        logging.getLogger("ee_trl").setLevel(logging.ERROR)
        PARTS[args.run].measure(args, Keep(Path(args.work) / f"{args.run}.json"))
        return
    output = Path(args.output or (Path(args.work) if args.tiny else ROOT / "benchmarks" / "results") / "gpu.json")
    names = ("ee-trl", "torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate")
    about = {
        "machine": card or processor(), "peak_tflops": args.peak_tflops, "tiny": args.tiny,
        "versions": package_versions(*names),
    }  # fmt: skip
    record = read_json(output) if output.exists() else {}
    results: dict[str, Found] = record.get("parts", {}) if record.get("about") == about else {}
    end = time.monotonic() + 60 * args.minutes
    for name in args.only or [name for name in PARTS if results.get(name, {}).get("status") != "ok"]:
        left = end - time.monotonic()
        if left < 5:
            print(f"{name}: no time left; start the same command again", file=sys.stderr)
            continue
        results[name] = run_part(name, args, min(PARTS[name].limit, left))
        ordered = {part: results[part] for part in PARTS if part in results}
        command = " ".join(["python", "benchmarks/gpu.py", *(sys.argv[1:] if arguments is None else arguments)])
        write_json(output, {"about": about, "command": command, "parts": ordered})
        print(f"{name}: {results[name]['status']}, {results[name]['seconds']:.0f} s", file=sys.stderr)
    ordered = {part: results[part] for part in PARTS if part in results}
    print(f"{about['machine']}, {json.dumps(about['versions'])}\n\n{table(ordered)}\n\nWritten to {output}")
    if any(results.get(name, {}).get("status") != "ok" for name in args.only or PARTS):
        raise SystemExit(1)
    for model in Path(args.work).glob("mo*") if not args.only else ():  # model_*, mixture*
        shutil.rmtree(model, ignore_errors=True)


if __name__ == "__main__":
    main()
