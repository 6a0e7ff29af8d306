"""`ee-trl explore`: a page on which to choose thresholds."""

from __future__ import annotations

import argparse
from typing import Any

from . import common


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = common.new_command(
        commands,
        "explore",
        help="write a page on which to choose thresholds and read the dialogues",
        description="Write one HTML page, which needs no network: the score plane, a slider for each threshold, exact "
        "counts and shares of each quadrant and emotion, the dialogues, and the command that selects what was chosen.",
        example="ee-trl explore scored.parquet -o explorer.html",
    )
    common.add_input(parser, "scored", "what `ee-trl score` wrote, or data with columns sensibility and rationality")
    parser.add_argument("-o", "--output", required=True, help="file to write: .html")
    parser.add_argument("--overwrite", action="store_true", help="replace the output file if it is there already")
    parser.add_argument(
        "--keep", default="sensibility", metavar="QUADRANTS", help="ticked at the start (default: sensibility)"
    )
    common.add_threshold(parser)
    parser.add_argument(
        "--limit",
        type=int,
        default=50_000,
        metavar="N",
        help="dialogues whose text is in the page, drawn where there are more; counts are always of all "
        "(default: 50000)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of that draw (default: 0)")
    common.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from ..files import check_output
    from ..reports.explorer import ENDINGS, write_explorer

    check_output(args.output, overwrite=args.overwrite, endings=ENDINGS)
    path = write_explorer(
        common.open_input(args.scored, args),
        args.output,
        threshold=args.threshold[0] if len(args.threshold) == 1 else args.threshold,
        ties=args.ties,
        keep=args.keep,
        limit=args.limit,
        seed=args.seed,
        overwrite=args.overwrite,
        source=args.scored,
        split=args.split,
        config=args.config,
    )
    if args.json:
        common.print_json({"output": str(path), "bytes": path.stat().st_size})
    else:
        common.note(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB); open it in a browser")
    return 0
