"""The recipes, run in this process, and what a run leaves in its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ee_trl.recipes import efficient_empathy, sft_moe, sft_online, sft_rationality, sft_sensibility
from ee_trl.training.command_line import parse_recipe_args


EXPERTS = {"sft_sensibility": sft_sensibility, "sft_rationality": sft_rationality}
RECIPES = {**EXPERTS, "sft_online": sft_online, "sft_moe": sft_moe, "efficient_empathy": efficient_empathy}
QUICK = ["--max_steps", "3", "--logging_steps", "1", "--disable_tqdm", "true"]
LINEAR = ["--empathy_scorer", "linear"]  # its process beside the training starts without torch
NO_OPTIONS = ["--empathy_policy_options", "{}", "--empathy_warmup", "0"]


def run(recipe: Any, *args: str) -> None:
    recipe.main(*parse_recipe_args(recipe.make_parser(), list(args)))


def weights(folder: Path) -> bytes:
    return next(iter(sorted(folder.glob("*.safetensors")))).read_bytes()


def draws(folder: Path) -> dict[str, list[Any]]:
    return pq.read_table(folder / "empathy_draws.parquet").to_pydict()


def selection(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "selection" / "selection.json").read_text())
