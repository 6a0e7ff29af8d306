"""`ee-trl evaluate`: models side by side on one set of dialogues."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..errors import FormatError
from . import common
from .agreement import parse_options


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = common.new_command(
        commands,
        "evaluate",
        help="generate replies with one or more models and compare them",
        description="Generate the replies of models (base, LoRA folder, composed) to a set of dialogues, or read them "
        "from files, and compare them: overlap with the references, variety, sensibility and rationality, and more "
        "where a classifier, an encoder or a judge is named; with bootstrap intervals, paired differences, a table by "
        "emotion and the dialogues where they differ most. Writes report.json, .md and .html, and the replies. "
        "Replies are kept as they are made: the same command after a stop goes on where it was.",
        example="ee-trl evaluate test.parquet --model base=base --model expert=runs/expert --limit 500 -o evaluation",
    )
    common.add_input(parser, "dataset", "dialogues with reference replies: file, folder, or hub name")
    parser.add_argument(
        "--model", action="append", default=[], metavar="[NAME=]FOLDER", help="folder or hub id; repeatable"
    )
    parser.add_argument(
        "--predictions",
        action="append",
        default=[],
        metavar="[NAME=]FILE",
        help="replies in a file, one for each dialogue in order: column `prediction`, or a .txt file; repeatable",
    )
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="where the report is written")
    parser.add_argument("--overwrite", action="store_true", help="replace a report that is there already")
    parser.add_argument("--limit", type=int, metavar="N", help="N dialogues only, evenly spaced")
    parser.add_argument("--turns", choices=("each", "last"), default="each", help="of conversations (default: each)")
    _add_generation(parser)
    _add_metrics(parser)
    common.add_threshold(parser)
    common.add_store(parser)
    common.add_json(parser)
    common.add_quiet(parser)
    parser.set_defaults(run=run)


def _add_generation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("of models")
    group.add_argument("--max-new-tokens", type=int, default=64, metavar="N", help="(default: 64)")
    group.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    group.add_argument("--top-p", type=float, default=1.0, help="of sampling (default: 1)")
    group.add_argument("--batch-size", type=int, default=16, metavar="N", help="(default: 16)")
    group.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto")


def _add_metrics(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("of metrics")
    group.add_argument("--metrics", metavar="NAMES", help="some only, joined by commas (default: all that go)")
    group.add_argument("--tokenizer", choices=("nltk", "whitespace"), default="nltk", help="(default: nltk)")
    group.add_argument("--scorer", default="linear", help="of sensibility and rationality (default: linear)")
    group.add_argument(
        "--scorer-option", action="append", default=[], metavar="KEY=VALUE", help="e.g. quantization=nf4; repeatable"
    )
    group.add_argument("--epitome", metavar="FOLDER", help="what `ee-trl train-epitome` wrote")
    group.add_argument("--bertscore-model", metavar="FOLDER", help="an encoder, for BERTScore")
    group.add_argument(
        "--bertscore-layers", type=int, metavar="N", help="(default: the library's choice, or the last)"
    )
    group.add_argument("--judge", metavar="FOLDER", help="an LLM judge's folder or hub id, or `server`")
    group.add_argument("--judge-option", action="append", default=[], metavar="KEY=VALUE", help="repeatable")
    group.add_argument("--judge-pairs", action="store_true", help="the judge also compares the candidates two by two")
    group.add_argument("--baseline", metavar="NAME", help="compare all with this one (default: every two)")
    group.add_argument(
        "--resamples", type=int, default=2000, metavar="N", help="of the bootstrap (default: 2000); 0: no intervals"
    )
    group.add_argument("--seed", type=int, default=0, help="of the bootstrap and of sampling (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from ..evaluation.comparison import evaluate_models
    from ..evaluation.generation import Decoding
    from ..evaluation.report import DATA
    from ..scoring.load import load_scorer

    folder = Path(args.output)
    if folder.exists() and not folder.is_dir():
        raise FormatError(f"{args.output!r} is a file; name a folder for the report")
    if (folder / DATA).exists() and not args.overwrite:
        raise FormatError(f"{str(folder / DATA)!r} is there already; give another folder, or --overwrite")
    options = parse_options(args.scorer_option)
    threshold = args.threshold[0] if len(args.threshold) == 1 else args.threshold
    found = evaluate_models(
        args.model,
        args.dataset,
        predictions=args.predictions,
        output=folder,
        limit=args.limit,
        split=args.split,
        config=args.config,
        turns=args.turns,
        metrics=args.metrics.split(",") if args.metrics else None,
        scorer=load_scorer(args.scorer, **options),
        threshold=threshold,
        ties=args.ties,
        store=common.store_options(args)["store"],
        tokenizer=args.tokenizer,
        epitome=args.epitome,
        bertscore_model=args.bertscore_model,
        bertscore_layers=args.bertscore_layers,
        judge=args.judge,
        judge_options=parse_options(args.judge_option),
        judge_pairs=args.judge_pairs,
        decoding=Decoding(args.max_new_tokens, args.temperature, args.top_p, args.seed),
        batch_size=args.batch_size,
        dtype=args.dtype,
        baseline=args.baseline,
        resamples=args.resamples,
        seed=args.seed,
        show=False if args.quiet else None,
    )
    if args.json:
        common.print_json({"output": str(folder), **found.to_dict()})
    else:
        print(found)
        common.note(f"wrote {folder}")
    return 0
