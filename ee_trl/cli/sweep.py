"""`ee-trl sweep`: the share of each quadrant by threshold."""

from __future__ import annotations

import argparse
from typing import Any

from . import common


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = common.new_command(
        commands,
        "sweep",
        help="show the share of each quadrant at each threshold",
        example="ee-trl sweep scored.parquet --grid 3:7:0.5 --plot plane.png",
    )
    common.add_input(parser, "scored", "what `ee-trl score` wrote, or data with columns sensibility and rationality")
    parser.add_argument("--grid", default="1:9", help="thresholds: first:last[:step], or a list 3,5,7 (default: 1:9)")
    common.add_ties(parser)
    parser.add_argument("--plot", metavar="FILE", help="also draw the score plane and the shares (.png, .svg, .pdf)")
    common.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from ..data.samples import read_scores
    from ..selection import sweep

    grid = common.parse_grid(args.grid)
    scores = read_scores(common.open_input(args.scored, args))
    rows = sweep(scores.sensibility, scores.rationality, grid, args.ties)
    if args.plot:
        from ..reports.plane import plot_sweep

        plot_sweep(scores.sensibility, scores.rationality, rows, args.plot)
    if args.json:
        common.print_json({"scorer": list(scores.scorers), "ties": args.ties, "sweep": rows})
        return 0
    print(f"{len(scores.statuses):,} samples, by {', '.join(scores.scorers)}\n{rows}")
    return 0
