"""`ee-trl score`: dialogues in, the same with scores out."""

from __future__ import annotations

import argparse
import time
from typing import Any

from ..dialogue import FORMATS
from . import common


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = common.new_command(
        commands,
        "score",
        help="score dialogues on sensibility and rationality",
        description="Score every listener turn on sensibility and rationality. Formats, recognised by the columns: "
        + ", ".join(FORMATS)
        + ". Samples that cannot be scored are kept, with the reason.",
        example="ee-trl score dialogues.parquet -o scored.parquet",
    )
    common.add_input(parser, "dataset", "parquet, jsonl, json or csv file, folder, or hub name")
    common.add_output(parser)
    parser.add_argument("--scorer", default="linear", help="linear (bundled, default), a folder, or a hub id")
    parser.add_argument(
        "--turns", choices=("each", "last"), default="each", help="of conversations: each listener turn, or the last"
    )
    common.add_threshold(parser)
    common.add_json(parser)
    common.add_quiet(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from ..data import check_output, row_count, write_file

    selector = common.make_selector(args, scorer=args.scorer, turns=args.turns)
    path = check_output(args.output, overwrite=args.overwrite)
    dataset = common.open_input(args.dataset, args)
    start = time.perf_counter()
    features, tables = selector.score_tables(dataset, row_count(args.dataset))
    metadata = {
        "command": "score",
        "source": args.dataset,
        "scorer": selector.scorer.fingerprint,
        "threshold": list(selector.threshold),
        "ties": args.ties,
        "turns": args.turns,
        "versions": common.versions(),
    }
    rows = write_file(tables, features, path, metadata=metadata)
    seconds = time.perf_counter() - start
    summary = selector.summary(common.open_written(path))
    if args.json:
        common.print_json({"output": str(path), "seconds": round(seconds, 3), **summary.to_dict()})
    else:
        print(summary)
        common.note(f"wrote {path} ({rows:,} samples in {seconds:.1f} s, {rows / max(seconds, 1e-9):,.0f} a second)")
    return 0
