"""`ee-trl distill`: judged samples in, a small scorer out."""

from __future__ import annotations

import argparse
from typing import Any

from . import common


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = common.new_command(
        commands,
        "distill",
        help="make a small, fast scorer from a judge's scores",
        description="Fit an encoder to dialogues that a judge has scored (some thousand do), measure it on a slice "
        "held out, and write a folder that every command takes as --scorer, with its report and a model card.",
        example="ee-trl distill judged.parquet --encoder microsoft/deberta-v3-small -o distilled",
    )
    common.add_input(parser, "scored", "what `ee-trl score` wrote, or data with columns sensibility and rationality")
    parser.add_argument("--encoder", required=True, metavar="ID_OR_PATH", help="hub id or folder of an encoder")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace a scorer that is there already")
    _add_fit(parser.add_argument_group("the fit"))
    report = parser.add_argument_group("the report")
    report.add_argument(
        "--held-out", type=float, default=0.1, metavar="SHARE", help="of the samples, in whole conversations (0.1)"
    )
    report.add_argument("--folds", type=int, metavar="K", help="cross-validate, in the place of the held-out slice")
    report.add_argument(
        "--curve",
        type=numbers,
        default=(),
        metavar="N,N,...",
        help="also fit to so many samples each: a learning curve",
    )
    report.add_argument("--price-per-hour", type=float, metavar="X", help="of this machine, for the cost")
    common.add_threshold(parser)
    common.add_json(parser)
    common.add_quiet(parser)
    parser.set_defaults(run=run)


def _add_fit(group: Any) -> None:
    group.add_argument(
        "--method",
        choices=("full", "lora", "frozen"),
        default="full",
        help="what is trained: all weights, low-rank updates, or the head alone (default: full)",
    )
    group.add_argument("--epochs", type=float, default=3.0, help="passes over the samples (default: 3)")
    group.add_argument("--learning-rate", type=float, metavar="X", help="(default: by method)")
    group.add_argument("--batch-size", type=int, default=32, metavar="N", help="samples in one step (default: 32)")
    group.add_argument("--lora-rank", type=int, default=16, metavar="N", help="of --method lora (default: 16)")
    group.add_argument("--max-length", type=int, default=128, metavar="N", help="tokens of a dialogue (default: 128)")
    group.add_argument(
        "--text",
        choices=("canonical", "as_is"),
        default="canonical",
        help="English in one form (lower case, contractions written out), or text as it stands (default: canonical)",
    )
    group.add_argument("--no-bf16", dest="bf16", action="store_const", const=False, help="train in float32")
    group.add_argument(
        "--words",
        type=float,
        default=0.4,
        metavar="SHARE",
        help="of a linear model over words in the prediction; 0 for the encoder alone (default: 0.4)",
    )
    group.add_argument("--seed", type=int, default=0, help="(default: 0)")
    group.add_argument("--trust-remote-code", action="store_true", help="let code of a hub model run")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from ..distillation.run import distill
    from ..reports.rubric import rubric_of_file

    if args.quiet:
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
    names = (
        *(
            "method",
            "epochs",
            "learning_rate",
            "batch_size",
            "lora_rank",
            "words",
            "max_length",
            "text",
            "bf16",
            "held_out",
        ),
        *("folds", "curve", "ties", "price_per_hour", "seed", "trust_remote_code", "overwrite"),
    )
    made = distill(
        common.open_input(args.scored, args),
        args.encoder,
        args.output,
        rubric=rubric_of_file(args.scored),
        threshold=args.threshold[0] if len(args.threshold) == 1 else args.threshold,
        **{name: getattr(args, name) for name in names},
    )
    if args.json:
        common.print_json({"output": str(made.folder), **made.report})
    else:
        print(made)
        common.note(f"wrote {made.folder}; use it: ee-trl score DIALOGUES --scorer {made.folder} -o scored.parquet")
    return 0


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers joined by commas."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not valid; valid: whole numbers, e.g. 500,1000,2000") from None
