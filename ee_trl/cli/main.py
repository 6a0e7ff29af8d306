"""Entry point of `ee-trl`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import CoverageError, EmpathyError, StoreError
from . import (
    agreement,
    cache,
    compose,
    distill,
    evaluate,
    explore,
    human,
    label,
    quickstart,
    recipes,
    rubric,
    score,
    select,
    summary,
    sweep,
    train_epitome,
)


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

COMMANDS = (
    score,
    select,
    sweep,
    summary,
    explore,
    agreement,
    label,
    distill,
    compose,
    evaluate,
    human,
    train_epitome,
    rubric,
    cache,
    recipes,
    quickstart,
)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="ee-trl",
        description="Score, select and fine-tune on empathetic dialogue (Efficient-Empathy).",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ee-trl {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and gives its exit code."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("ee_trl").setLevel(logging.INFO)
    args = build_parser().parse_args(argv)
    try:
        return args.run(args)
    except EmpathyError as error:
        print(f"ee-trl: {error}", file=sys.stderr)
        return 6 if isinstance(error, CoverageError) else 5 if isinstance(error, StoreError) else 3
    except BrokenPipeError:  # the reader of our output went away, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"ee-trl: {_said(error)}", file=sys.stderr)
        return 5
    except KeyboardInterrupt:
        print("ee-trl: interrupted; no output was written, scores that were made are in the store", file=sys.stderr)
        return 130


def _said(error: OSError) -> str:
    """What the file system said, of which file, and the fix where there is no room."""
    from ..files import DISK_FULL

    said = f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
    if error.errno not in DISK_FULL:
        return said
    return (
        f"{said}. Make room there, or write elsewhere ($TMPDIR is where temporary files go), and run the same command "
        "again: scores that were made are in the store"
    )


if __name__ == "__main__":
    sys.exit(main())
