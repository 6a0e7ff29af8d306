"""`ee-trl quickstart`: the whole method on the embedded sample, offline, on CPU, in a few minutes."""

from __future__ import annotations

import argparse
from typing import Any

from . import common


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = common.new_command(
        commands,
        "quickstart",
        help="score, select, train and evaluate on the embedded sample, and write a report",
        description="Scores the embedded sample with the bundled scorer, selects the sensibility set, trains a tiny "
        "expert on it with TRL, evaluates it on the held-out dialogues and writes a report. Offline, on CPU.",
        example="ee-trl quickstart -o runs/quickstart",
    )
    parser.add_argument("-o", "--output", default="runs/quickstart", help="folder (default: runs/quickstart)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command; its last line names the report."""
    from ..training.quickstart import quickstart

    print(f"Report: {quickstart(args.output)}")
    return 0
