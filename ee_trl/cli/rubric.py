"""`ee-trl rubric`: what a judge is asked."""

from __future__ import annotations

import argparse
from typing import Any

from . import common


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = common.new_command(
        commands,
        "rubric",
        help="print the rubric that an LLM judge is given, and its fingerprint",
        description="Print the rubric that an LLM judge is given. The text goes to standard output, the fingerprint "
        "to standard error, so that `ee-trl rubric > mine.md` is a start for a rubric of your own.",
        example="ee-trl rubric",
    )
    parser.add_argument("--rubric", metavar="FILE", help="a text file in the place of the bundled rubric")
    common.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from ..scoring.judge.rubric import load_rubric

    rubric = load_rubric(args.rubric)
    if args.json:
        common.print_json({"name": rubric.name, "fingerprint": rubric.fingerprint, "text": rubric.text})
    else:
        common.note(rubric.fingerprint)
        print(rubric.text)
    return 0
