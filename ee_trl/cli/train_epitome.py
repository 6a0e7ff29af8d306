"""`ee-trl train-epitome`: a classifier of EPITOME levels from labelled posts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..errors import EmpathyError, FormatError
from . import common


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = common.new_command(
        commands,
        "train-epitome",
        help="train a classifier of emotional reactions, interpretations and explorations",
        description="Train a classifier of EPITOME levels (0, 1, 2) from data with the columns seeker_post, "
        "response_post, emotional_reactions, interpretations and explorations, and say by cross-validation how well "
        "it does, per level, beside the majority class. The metric `epitome` and `ee-trl evaluate --epitome` take the "
        "folder. Mind the licence of the data: EPITOME's own are for academic use.",
        example="ee-trl train-epitome epitome.parquet -o epitome",
    )
    common.add_input(parser, "dataset", "labelled posts: parquet, jsonl, json or csv file, folder, or hub name")
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="where the classifier goes")
    parser.add_argument("--overwrite", action="store_true", help="replace a classifier that is there already")
    parser.add_argument("--encoder", metavar="FOLDER", help="fine-tune this encoder (default: a linear classifier)")
    parser.add_argument("--epochs", type=float, default=4.0, help="of an encoder (default: 4)")
    parser.add_argument("--learning-rate", type=float, default=5e-5, help="of an encoder (default: 5e-5)")
    parser.add_argument("--batch-size", type=int, default=32, help="of an encoder (default: 32)")
    parser.add_argument("--folds", type=int, default=5, help="of the cross-validation; 0 leaves it out (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="of folds and training (default: 0)")
    common.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from ..data.reading import open_dataset
    from ..evaluation.metrics.epitome_classifier import CONFIG
    from ..evaluation.metrics.epitome_training import read_posts, train_epitome

    folder = Path(args.output)
    if folder.exists() and not folder.is_dir():
        raise FormatError(f"{args.output!r} is a file; name a folder for the classifier")
    if (folder / CONFIG).exists() and not args.overwrite:
        raise FormatError(f"{str(folder / CONFIG)!r} is there already; give another folder, or --overwrite")
    if args.folds < 0 or args.folds == 1:
        raise EmpathyError(f"folds {args.folds} is not valid; valid: 2 or more, or 0 for none")
    dataset: Any = open_dataset(args.dataset, config=args.config, split=args.split)
    if hasattr(dataset, "keys"):
        if len(dataset) > 1:
            raise FormatError(f"{args.dataset!r} has several splits: {', '.join(dataset)}; name one with --split")
        dataset = next(iter(dataset.values()))
    posts = read_posts(dataset)
    options = {name: getattr(args, name) for name in ("epochs", "learning_rate", "batch_size")} if args.encoder else {}
    record = train_epitome(posts, folder, encoder=args.encoder, folds=args.folds, seed=args.seed, **options)
    if args.json:
        common.print_json({"output": str(folder), **record})
    else:
        print(table_of(record))
        common.note(f"wrote {folder}")
    return 0


def table_of(record: dict[str, Any]) -> str:
    """What the cross-validation found, as a table."""
    lines = [f"{record['samples']:,} replies, {record['kind']} classifier"]
    found = record["cross_validation"]
    if found:
        lines += ["", f"  {'':<20} {'macro F1':>9} {'accuracy':>9} {'recall 0':>9} {'recall 1':>9} {'recall 2':>9}"]
        for name, row in found["mechanisms"].items():
            for label, entry in ((name, row), ("  majority class", row["majority"])):
                recalls = " ".join(f"{entry['recall'].get(level, float('nan')):>9.2f}" for level in "012")
                lines.append(f"  {label:<20} {entry['macro_f1']:>9.3f} {entry['accuracy']:>9.3f} {recalls}")
        lines += ["", f"{found['folds']}-fold cross-validation; replies to one seeker are in one fold"]
    return "\n".join(lines)
