"""The embedded sample: dialogues written for this project, so that everything runs without a network."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TYPE_CHECKING, Literal

from ..errors import FormatError, check_choice


if TYPE_CHECKING:
    from datasets import Dataset


def load_sample(split: Literal["all", "train", "test"] = "all") -> Dataset:
    """
    Loads the embedded sample of short empathetic dialogues, in all 32 emotions of EmpatheticDialogues.

    They were written for demonstrations and tests, not collected: good for trying things out, not for claims.

    Args:
        split (`str`, *optional*, defaults to `"all"`): `"train"`, `"test"` (every sixth dialogue) or `"all"`.

    Returns:
        `Dataset` with `dialogue_id`, `emotion`, `situation`, `intended` (for each reply, the quadrant that it was
        written to be) and `messages`.
    """
    from datasets import Dataset

    check_choice("split of the embedded sample", split, ("all", "train", "test"), FormatError)
    lines = files("ee_trl").joinpath("assets/sample/dialogues.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for i, line in enumerate(lines) if split == "all" or (i % 6 == 0) == (split == "test")]
    return Dataset.from_list(rows)
