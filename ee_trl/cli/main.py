"""Entry point of `ee-trl`."""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
from collections.abc import Sequence

from .. import telemetry
from ..display import log_to_terminal
from ..errors import CoverageError, EmpathyError, StoreError
from ..files import DISK_FULL, remove_temporary_folders
from .agreement import add_agreement
from .cache import add_cache
from .check import add_check
from .compose import add_compose
from .distill import add_distill, add_label
from .evaluate import add_evaluate, add_train_epitome
from .human import add_human
from .options import note, versions
from .recipes import add_quickstart, add_recipes
from .score import add_rubric, add_score
from .select import add_explore, add_select, add_summary, add_sweep


EXIT_CODES = """\
exit codes:
  0  done
  2  the command line is not valid
  3  the input, an option's value or a scorer is not valid; the message says which, and the fix
  4  nothing was selected
  5  the file system or the score store refused (disk full, no permission)
  6  more samples are unscored than --max-unscored accepts; everything was written
  130  interrupted
"""

COMMANDS = {
    "score": add_score,
    "select": add_select,
    "sweep": add_sweep,
    "summary": add_summary,
    "explore": add_explore,
    "check": add_check,
    "agreement": add_agreement,
    "label": add_label,
    "distill": add_distill,
    "compose": add_compose,
    "evaluate": add_evaluate,
    "human": add_human,
    "train-epitome": add_train_epitome,
    "rubric": add_rubric,
    "cache": add_cache,
    "recipes": add_recipes,
    "quickstart": add_quickstart,
}


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="ee-trl",
        description="Score, select and fine-tune on empathetic dialogue (Efficient-Empathy).",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ee-trl {versions()['ee-trl']}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add_command in COMMANDS.values():
        add_command(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a character gets its number
    telemetry.turn_off()
    log_to_terminal(logging.WARNING)
    logging.getLogger("ee_trl").setLevel(logging.INFO)
    args = build_parser().parse_args(argv)
    remove_temporary_folders()
    try:
        return args.run(args)
    except EmpathyError as error:
        note(f"ee-trl: {error}")
        return 6 if isinstance(error, CoverageError) else 5 if isinstance(error, StoreError) else 3
    except BrokenPipeError:  # the reader of the output has closed it, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        note(f"ee-trl: {_explained(error)}")
        return 5
    except KeyboardInterrupt:
        note("ee-trl: interrupted; no output was written, the store has the scores made so far")
        return 130


def _explained(error: OSError) -> str:
    """The file system's message, the file, and the fix where the disk is full."""
    text = f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
    if error.errno not in DISK_FULL:
        return text
    return (
        f"{text}. Free some space, or write elsewhere ($TMPDIR is where temporary files go), and run the same command "
        "again: the store has the scores made so far"
    )


if __name__ == "__main__":
    sys.exit(main())
