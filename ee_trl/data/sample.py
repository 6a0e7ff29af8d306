"""The embedded sample: dialogues written for this project, so that everything runs without a network."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Literal


if TYPE_CHECKING:
    from datasets import Dataset

HELD_OUT_EVERY = 6
"""Every sixth dialogue is held out for testing."""


def load_sample(split: Literal["all", "train", "test"] = "all") -> Dataset:
    """
    Loads the embedded sample of short empathetic dialogues, in all 32 emotions of EmpatheticDialogues.

    They were written for demonstrations and tests, not collected: good for trying things out, no basis for claims.

    Args:
        split (`str`, *optional*, defaults to `"all"`):
            `"train"`, `"test"` (every sixth dialogue) or `"all"`.

    Returns:
        `Dataset` with `dialogue_id`, `emotion`, `situation`, `intended` (for each reply, the quadrant that it was
        written to be) and `messages`.
    """
    import json

    from datasets import Dataset

    from ..errors import FormatError, unknown

    if split not in ("all", "train", "test"):
        raise FormatError(unknown("split of the embedded sample", split, ("all", "train", "test")))
    lines = files("ee_trl").joinpath("assets/sample/dialogues.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    if split != "all":
        rows = [row for i, row in enumerate(rows) if (i % HELD_OUT_EVERY == 0) == (split == "test")]
    return Dataset.from_list(rows)
