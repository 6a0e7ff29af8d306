"""`ee-trl recipes`, which lists or copies the recipes of the package, and `ee-trl quickstart`."""

from __future__ import annotations

import argparse
import shutil
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from ..errors import FormatError
from . import options


def add_recipes(commands: Any) -> None:
    """Adds `ee-trl recipes` and its actions."""
    parser = options.new_command(
        commands,
        "recipes",
        run_list,
        help="list the recipes, or copy them to a folder",
        example="ee-trl recipes copy recipes",
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="list the recipes and their configs")
    listing.set_defaults(run=run_list)
    copy = actions.add_parser("copy", help="copy recipes and configs to a folder")
    copy.add_argument("folder", help="where to copy to; existing files are kept, unless --overwrite")
    copy.add_argument("--overwrite", action="store_true", help="replace existing files")
    copy.set_defaults(run=run_copy)


def recipe_files() -> list[Path]:
    """The recipes and their configs, relative to the package `ee_trl.recipes`."""
    with as_file(files("ee_trl.recipes")) as root:
        found = (p for p in root.rglob("*") if p.suffix in (".py", ".yaml", ".md") and p.name != "__init__.py")
        return sorted(p.relative_to(root) for p in found)


def run_list(args: argparse.Namespace) -> int:
    """Runs `ee-trl recipes list`."""
    for path in recipe_files():
        print(path)
    return 0


def run_copy(args: argparse.Namespace) -> int:
    """Runs `ee-trl recipes copy`; writes nothing if a file is in the way."""
    target = Path(args.folder)
    if target.exists() and not target.is_dir():
        raise FormatError(f"{args.folder!r} is a file; name a folder")
    names = recipe_files()
    there = [str(name) for name in names if (target / name).exists()]
    if there and not args.overwrite:
        raise FormatError(f"{args.folder!r} already has {', '.join(there)}; give another folder, or --overwrite")
    with as_file(files("ee_trl.recipes")) as root:
        for name in names:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, target / name)
    print(f"copied {len(names)} files to {target}")
    print(f"try: accelerate launch {target / 'sft_sensibility.py'}")
    return 0


def add_quickstart(commands: Any) -> None:
    """Adds `ee-trl quickstart`."""
    parser = options.new_command(
        commands,
        "quickstart",
        run_quickstart,
        help="score, select, train and evaluate on the embedded sample, and write a report",
        description="Scores the embedded sample with the bundled scorer, selects the sensibility set, trains a tiny "
        "expert on it with TRL, evaluates it on the held-out dialogues and writes a report. Offline, on CPU.",
        example="ee-trl quickstart -o runs/quickstart",
    )
    parser.add_argument("-o", "--output", default="runs/quickstart", help="folder (default: runs/quickstart)")


def run_quickstart(args: argparse.Namespace) -> int:
    """Runs `ee-trl quickstart`; its last line names the report."""
    from ..training.quickstart import quickstart

    print(f"Report: {quickstart(args.output)}")
    return 0
