"""`ee-trl check`: how scorers treat good and bad replies, and how far they agree with people."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import FormatError
from . import options


def add_check(commands: Any) -> None:
    """Adds `ee-trl check`."""
    parser = options.new_command(commands, "check", run_check, "linear distilled --data dialogues.parquet -o check")
    add = parser.add_argument
    add("scorers", nargs="+", metavar="SCORER", help="name, folder or hub id; random and length are always added")
    options.add_input(parser, "--data", f"your dialogues with good replies: {options.DATA_HELP}")
    add("--limit", type=int, metavar="N", help="at most N rows of the data, evenly spaced")
    add("--human", nargs="+", default=(), metavar="COLUMN", help="columns of the data with ratings by people")
    add("--by", metavar="COLUMN", help="column that names the dialogue; ratings and scores are averaged over it")
    add("--option", **options.REPEATED, metavar="KEY=VALUE", help="option of the scorers, e.g. quantization=nf4")
    add("--seed", type=int, default=0, help="of the made replies and the bootstrap (default: 0)")
    options.add_output(parser, "folder, to also write check.md, check.json and check.png there", required=False)
    options.add_shared(parser, "threshold", "ties", "turns")
    options.add_store(parser)
    options.add_shared(parser, "json", "quiet")


def run_check(args: argparse.Namespace) -> int:
    """
    Check how scorers treat good and bad replies.

    Score a set of contexts with kind, cruel, dismissive, off-topic, repeated and other replies. Shows which share of
    each kind ranks below the kind reply, and which share would be kept; with --data also for swapped, repeated,
    truncated and shuffled replies of your own dialogues; with --human the correlation with ratings by people. Length
    alone and chance stand beside every scorer.
    """
    from ..reports.check import behaviour_check
    from ..reports.check_page import NAMES, check_figure, write_check

    given = [
        f"--{name}" for name in ("split", "config", "encoding", "map", "limit", "human", "by") if getattr(args, name)
    ]
    if given and not args.data:
        raise FormatError(f"{', '.join(given)} goes with --data")
    folder = None
    if args.output:
        check_figure()  # fails now, not after the scoring, where matplotlib is missing
        folder = options.report_folder(args, *NAMES)
    found = behaviour_check(
        args.scorers,
        options.open_input(args.data, args) if args.data else None,
        threshold=options.threshold_of(args),
        show_progress=False if args.quiet else None,
        **options.picked(args, "turns", "human", "by", "limit", "ties", "seed"),
        **options.store_options(args),
        **options.scorer_options(args.option),
    )
    notes = []
    if folder:
        notes = [f"wrote {write_check(folder, found, source=args.data, versions=options.versions())}"]
    return options.show(args, {"output": str(folder) if folder else None, **found.to_dict()}, found, *notes)
