"""`ee-trl select`: scored dialogues in, the ones to train on out."""

from __future__ import annotations

import argparse
from typing import Any

from . import common


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = common.new_command(
        commands,
        "select",
        help="select the dialogues to train on, ready for SFTTrainer",
        example="ee-trl select scored.parquet --keep sensibility -o sensibility.parquet",
    )
    common.add_input(parser, "scored", "what `ee-trl score` wrote, or data with columns sensibility and rationality")
    common.add_output(parser)
    common.add_rule(parser)
    common.add_threshold(parser)
    parser.add_argument("--dropped", metavar="FILE", help="also write the samples dropped, each with its drop_reason")
    common.add_json(parser)
    common.add_quiet(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from ..data import check_output, write_file
    from ..subset import dropped_tables

    selector = common.make_selector(args)
    path = check_output(args.output, overwrite=args.overwrite)
    dropped_path = check_output(args.dropped, overwrite=args.overwrite) if args.dropped else None
    scored = common.open_input(args.scored, args)
    chosen = selector.choose(scored, **common.rule_options(args))
    counts = chosen.counts()
    if not len(chosen):
        common.note(f"ee-trl: nothing selected by {chosen.settings}: {counts}. Look at: ee-trl sweep {args.scored}")
        return 4
    metadata = {
        "command": "select",
        "source": args.scored,
        **chosen.settings,
        "counts": counts,
        "versions": common.versions(),
    }
    features, tables = selector.select_tables(scored, chosen)
    write_file(tables, features, path, metadata=metadata)
    if dropped_path:
        features, tables = dropped_tables(scored, chosen)
        write_file(tables, features, dropped_path, metadata=metadata)
    if args.json:
        common.print_json({"output": str(path), "settings": chosen.settings, "counts": counts})
    else:
        print(chosen)
        common.note(f"wrote {path}" + (f" and {dropped_path}" if dropped_path else ""))
    return 0
