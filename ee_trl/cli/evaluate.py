"""`ee-trl evaluate`, which compares models, and `ee-trl train-epitome`, which trains a classifier for it."""

from __future__ import annotations

import argparse
import os
from typing import Any

from ..errors import EmpathyError, require
from ..scoring.kinds import DEFAULT_SCORER
from . import options


def add_evaluate(commands: Any) -> None:
    """Adds `ee-trl evaluate`."""
    parser = options.new_command(
        commands,
        "evaluate",
        run_evaluate,
        "test.parquet --model base=base --model expert=runs/expert --limit 500 -o evaluation",
    )
    options.add_input(parser, "dataset", "dialogues with reference replies: file, folder, or hub name")
    add, repeated = parser.add_argument, options.REPEATED
    add("--model", **repeated, metavar="[NAME=]FOLDER", help="folder or hub id; repeatable")
    note = "replies in a file, one for each dialogue in order: column `prediction`, or a .txt file; repeatable"
    add("--predictions", **repeated, metavar="[NAME=]FILE", help=note)
    options.add_output(parser, "folder for the report")
    add("--limit", type=int, metavar="N", help="only N dialogues, evenly spaced")
    options.add_shared(parser, "turns", "threshold", "ties", "json", "quiet")
    _add_generation(parser)
    _add_metrics(parser)
    options.add_store(parser)


def _add_generation(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("generation").add_argument
    note = "the report counts the replies that this cuts off (default: 128)"
    add("--max-new-tokens", type=int, default=128, metavar="N", help=note)
    add("--system", metavar="TEXT", help="the system message of every dialogue (default: the data's own, if any)")
    add("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    add("--top-p", type=float, default=1.0, help="of sampling (default: 1)")
    add("--batch-size", type=int, default=16, metavar="N", help="(default: 16)")
    add("--dtype", choices=options.DTYPES, default="auto", help="(default: auto)")


def _add_metrics(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("metrics").add_argument
    add("--metrics", metavar="NAMES", help="only these, joined by commas (default: all possible)")
    add("--tokenizer", choices=("nltk", "whitespace"), default="nltk", help="(default: nltk)")
    add("--scorer", default=DEFAULT_SCORER, help="of sensibility and rationality (default: %(default)s)")
    add("--scorer-option", action="append", default=[], metavar="KEY=VALUE", help="e.g. quantization=nf4; repeatable")
    add("--epitome", metavar="FOLDER", help="what `ee-trl train-epitome` wrote")
    add("--bertscore-model", metavar="FOLDER", help="an encoder, for BERTScore")
    add("--bertscore-layers", type=int, metavar="N", help="(default: the library's choice, or the last)")
    add("--judge", metavar="FOLDER", help="an LLM judge's folder or hub id, or `server`")
    add("--judge-option", action="append", default=[], metavar="KEY=VALUE", help="repeatable")
    add("--judge-pairs", action="store_true", help="the judge also compares the candidates in pairs")
    add("--baseline", metavar="NAME", help="compare all with this one (default: every pair)")
    add("--resamples", type=int, default=2000, metavar="N", help="of the bootstrap (default: 2000); 0: no intervals")
    add("--seed", type=int, default=0, help="of the bootstrap and of sampling (default: 0)")


PASSED_ON = (
    *("predictions", "limit", "turns", "system", "ties", "tokenizer", "epitome", "bertscore_model"),
    *("bertscore_layers", "judge", "judge_pairs", "batch_size", "dtype", "baseline", "resamples", "seed"),
)


def run_evaluate(args: argparse.Namespace) -> int:
    """
    Generate replies with one or more models and compare them.

    Generate the replies of models (base, LoRA folder, composed) to a set of dialogues, or read them from files, and
    compare them: overlap with the references, variety, sensibility and rationality, and more if you name a classifier,
    an encoder or a judge; with bootstrap intervals, paired differences, a table by emotion and the dialogues where
    they differ most. Writes report.json, .md and .html, and the replies. Replies are saved as they are made: after a
    stop, the same command goes on.
    """
    from ..evaluation.comparison import evaluate_models
    from ..evaluation.generation import Decoding
    from ..evaluation.report import DATA
    from ..scoring.load import load_scorer

    folder = options.report_folder(args, DATA)
    found = evaluate_models(
        args.model,
        args.dataset,
        output=folder,
        metrics=args.metrics.split(",") if args.metrics else None,
        scorer=load_scorer(args.scorer, **options.scorer_options(args.scorer_option)),
        threshold=options.threshold_of(args),
        store=options.store_options(args)["store"],
        judge_options=options.scorer_options(args.judge_option),
        decoding=Decoding(args.max_new_tokens, args.temperature, args.top_p, args.seed),
        show=False if args.quiet else None,
        **options.reading(args),
        **options.picked(args, *PASSED_ON),
    )
    if int(os.environ.get("RANK", "0")):  # only the first process of a launch prints
        return 0
    return options.show(args, {"output": str(folder), **found.to_dict()}, found, f"wrote {folder}")


def add_train_epitome(commands: Any) -> None:
    """Adds `ee-trl train-epitome`."""
    parser = options.new_command(commands, "train-epitome", run_train_epitome, "epitome.parquet -o epitome")
    options.add_input(parser, "dataset", f"labelled posts: {options.DATA_HELP}")
    options.add_output(parser, "folder for the classifier")
    add = parser.add_argument
    add("--encoder", metavar="FOLDER", help="fine-tune this encoder (default: a linear classifier)")
    add("--epochs", type=float, default=4.0, help="of an encoder (default: 4)")
    add("--learning-rate", type=float, default=5e-5, help="of an encoder (default: 5e-5)")
    add("--batch-size", type=int, default=32, help="of an encoder (default: 32)")
    add("--folds", type=int, default=5, help="of the cross-validation; 0 for none (default: 5)")
    add("--seed", type=int, default=0, help="of folds and training (default: 0)")
    options.add_shared(parser, "json")


def run_train_epitome(args: argparse.Namespace) -> int:
    """
    Train a classifier of emotional reactions, interpretations and explorations.

    Train a classifier of EPITOME levels (0, 1, 2) from data with the columns seeker_post, response_post,
    emotional_reactions, interpretations and explorations, and cross-validate it per level, beside the majority class.
    The metric `epitome` and `ee-trl evaluate --epitome` take the folder. Check the licence of the data: EPITOME's
    own data are for academic use.
    """
    from ..evaluation.metrics.epitome_classifier import CONFIG
    from ..evaluation.metrics.epitome_training import read_posts, train_epitome

    require("sklearn", extra="metrics", purpose="training an EPITOME classifier")
    folder = options.report_folder(args, CONFIG)
    if args.folds < 0 or args.folds == 1:
        raise EmpathyError(f"folds {args.folds} is not valid; valid: 2 or more, or 0 for none")
    posts = read_posts(options.open_input(args.dataset, args, dialogues=False))
    fit = options.picked(args, "epochs", "learning_rate", "batch_size") if args.encoder else {}
    record = train_epitome(posts, folder, encoder=args.encoder, folds=args.folds, seed=args.seed, **fit)
    return options.show(args, {"output": str(folder), **record}, _table_of(record), f"wrote {folder}")


def _table_of(record: dict[str, Any]) -> str:
    """What the cross-validation found, as a table."""
    from ..display import Table

    head = f"{record['samples']:,} replies, {record['kind']} classifier"
    found = record["cross_validation"]
    if not found:
        return head
    rows = []
    for name, row in found["mechanisms"].items():
        for label, entry in ((name, row), ("  majority class", row["majority"])):
            recalls = (f"{entry['recall'].get(level, float('nan')):.2f}" for level in "012")
            rows.append((label, f"{entry['macro_f1']:.3f}", f"{entry['accuracy']:.3f}", *recalls))
    table = Table(("", "macro F1", "accuracy", "recall 0", "recall 1", "recall 2"), rows)
    folds = f"{found['folds']}-fold cross-validation; replies to one seeker are in one fold"
    return f"{head}\n\n{table.text()}\n\n{folds}"
