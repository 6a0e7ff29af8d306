"""`ee-trl label`, which chooses what a judge should score, and `ee-trl distill`, which trains a small scorer."""

from __future__ import annotations

import argparse
from typing import Any

from ..distillation import STRATEGIES
from ..scoring.kinds import DEFAULT_SCORER
from . import options


def add_label(commands: Any) -> None:
    """Adds `ee-trl label`."""
    parser = options.new_command(commands, "label", run_label, "dialogues.parquet --budget 1000 -o to_judge.parquet")
    options.add_input(parser, "dataset")
    options.add_output(parser)
    add = parser.add_argument
    add("--budget", type=int, required=True, metavar="N", help="how many samples")
    add(
        "--strategy",
        choices=STRATEGIES,
        default=STRATEGIES[0],
        help="diverse: samples that say most about all others; mixed: about those near T; uncertain: samples nearest "
        "to T by --scorer; random: the baseline (default: %(default)s)",
    )
    note = "finds the samples near T: linear, or a distilled one (default: %(default)s)"
    add("--scorer", default=DEFAULT_SCORER, help=note)
    add("--encoder", metavar="ID_OR_PATH", help="its vectors measure how similar samples are (default: hashed words)")
    add("--labelled", metavar="FILE", help="dialogues that a judge has scored; they are not chosen again")
    add("--seed", type=int, default=0, help="(default: 0)")
    options.add_shared(parser, "threshold", "ties", "json")


def run_label(args: argparse.Namespace) -> int:
    """
    Choose which dialogues a judge should score first.

    Choose the N samples from which a distilled scorer learns most, and write them to a file for `ee-trl score --scorer
    JUDGE`. Rows keep their columns; label_order says which to judge first.
    """
    from ..data.tables import write_file
    from ..distillation.labels import check_libraries, choose_to_label, open_pool, pool_tables
    from ..files import check_output

    check_libraries(args.strategy)
    path = check_output(args.output, overwrite=args.overwrite)
    pool = open_pool(options.open_input(args.dataset, args), args.labelled)
    chosen = choose_to_label(
        pool.dialogues,
        args.budget,
        labelled=pool.labelled,
        threshold=options.threshold_of(args),
        **options.picked(args, "strategy", "scorer", "encoder", "seed"),
    )
    features, tables = pool_tables(pool, chosen)
    counts = {"samples": pool.samples, "distinct": len(pool.dialogues), "chosen": len(chosen)}
    settings = options.picked(args, "strategy", "scorer", "encoder", "labelled", "seed")
    metadata = {"command": "label", "source": args.dataset, **settings, **counts, "versions": options.versions()}
    write_file(tables, features, path, metadata=metadata)
    text = f"chose {len(chosen):,} of {pool.samples:,} samples ({args.strategy})"
    note = f"wrote {path}; now let a judge score them: ee-trl score {path} --scorer JUDGE -o judged.parquet"
    return options.show(args, {"output": str(path), **counts, **settings}, text, note)


def add_distill(commands: Any) -> None:
    """Adds `ee-trl distill`."""
    parser = options.new_command(
        commands, "distill", run_distill, "judged.parquet --encoder microsoft/deberta-v3-small -o distilled"
    )
    options.add_input(parser, "scored", options.SCORED_HELP)
    parser.add_argument("--encoder", required=True, metavar="ID_OR_PATH", help="hub id or folder of an encoder")
    options.add_output(parser, "folder to write")
    _add_fit(parser.add_argument_group("the fit"))
    _add_negatives(parser.add_argument_group("made bad replies, from which the scorer learns to flag"))
    report = parser.add_argument_group("the report")
    add = report.add_argument
    add("--held-out", type=float, default=0.1, metavar="SHARE", help="share of samples, whole conversations (0.1)")
    add("--folds", type=int, metavar="K", help="cross-validate instead of holding out a slice")
    add("--curve", type=numbers, default=(), metavar="N,N,...", help="learning curve: also fit to N samples each")
    add("--price-per-hour", type=float, metavar="X", help="price of this machine, for the cost in the report")
    options.add_shared(parser, "threshold", "ties", "json", "quiet")


def _add_fit(group: Any) -> None:
    add = group.add_argument
    add(
        "--method",
        choices=("full", "lora", "frozen"),
        default="full",
        help="what is trained: all weights, low-rank updates, or the head alone (default: full)",
    )
    add("--epochs", type=float, default=3.0, help="passes over the samples (default: 3)")
    add("--learning-rate", type=float, metavar="X", help="(default: by method)")
    add("--batch-size", type=int, default=32, metavar="N", help="samples in one step (default: 32)")
    add("--lora-rank", type=int, default=16, metavar="N", help="of --method lora (default: 16)")
    add("--max-length", type=int, default=128, metavar="N", help="tokens of a dialogue (default: 128)")
    add(
        "--text",
        choices=("canonical", "as_is"),
        default="canonical",
        help="canonical: lower case, contractions written out (English); as_is: unchanged (default: canonical)",
    )
    add("--no-bf16", dest="bf16", action="store_const", const=False, help="train in float32")
    add(
        "--words",
        type=float,
        default=0.4,
        metavar="SHARE",
        help="share of a linear model over words in the prediction; 0 for the encoder alone (default: 0.4)",
    )
    add("--seed", type=int, default=0, help="(default: 0)")
    add("--trust-remote-code", action="store_true", help="let code of a hub model run")


def _add_negatives(group: Any) -> None:
    add = group.add_argument
    add(
        "--negatives",
        default="none",
        const="all",
        nargs="?",
        metavar="KINDS",
        help="all, none, or kinds joined by commas, e.g. hostile,dismissive,swapped; the scorer reads context and "
        "reply apart then (default: none)",
    )
    add(
        "--negatives-per-sample", type=float, default=2.0, metavar="X", help="made replies for a dialogue (default: 2)"
    )
    add(
        "--false-flags",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="of the held-out true replies, which may be flagged (default: 0.05)",
    )


def run_distill(args: argparse.Namespace) -> int:
    """
    Make a small, fast scorer from a judge's scores.

    Fit an encoder to dialogues that a judge has scored (a few thousand suffice), measure it on a held-out slice, and
    write a folder that every command takes as --scorer, with its report and a model card.
    """
    from ..distillation.run import distill
    from ..reports.rubric import rubric_of_file

    if args.quiet:
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
    fit = (
        "method",
        "epochs",
        "learning_rate",
        "batch_size",
        "lora_rank",
        "words",
        "max_length",
        "text",
        "bf16",
        "seed",
        "negatives",
        "negatives_per_sample",
        "false_flags",
    )
    report = ("held_out", "folds", "curve", "ties", "price_per_hour", "trust_remote_code", "overwrite")
    made = distill(
        options.open_input(args.scored, args),
        args.encoder,
        args.output,
        rubric=rubric_of_file(args.scored),
        threshold=options.threshold_of(args),
        **options.picked(args, *fit, *report),
    )
    note = f"wrote {made.folder}; use it: ee-trl score DIALOGUES --scorer {made.folder} -o scored.parquet"
    return options.show(args, {"output": str(made.folder), **made.report}, made, note)


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers joined by commas."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not valid; valid: whole numbers, e.g. 500,1000,2000") from None
