"""`ee-trl summary`: what is in a scored file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from . import common


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = common.new_command(
        commands,
        "summary",
        help="show counts, shares, reasons and emotions of scored dialogues",
        example="ee-trl summary scored.parquet",
    )
    common.add_input(parser, "scored", "what `ee-trl score` wrote, or data with columns sensibility and rationality")
    common.add_threshold(parser)
    parser.add_argument("--plot", metavar="FILE", help="also draw the score plane (.png, .svg, .pdf)")
    common.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from ..data.tables import read_metadata
    from ..display import as_text
    from ..reports.rubric import rubric_of_file, rubric_parts

    selector = common.make_selector(args)
    scored = common.open_input(args.scored, args)
    summary = selector.summary(scored)
    if args.plot:
        from ..data.samples import read_scores
        from ..reports.plane import plot_plane

        scores = read_scores(scored)
        plot_plane(scores.sensibility, scores.rationality, selector.threshold, args.plot)
    rubric = rubric_of_file(args.scored)
    if args.json:
        made_by = read_metadata(args.scored) if Path(args.scored).is_file() else None
        common.print_json({**summary.to_dict(), "made_by": made_by})
    else:
        print(as_text([*summary.parts(), *rubric_parts(rubric)]))
    return 0
