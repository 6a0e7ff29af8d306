"""The model card of a recipe's run: TRL's own, mended, with a section on the data."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..files import write_text


TAGS = ("ee-trl", "empathetic-dialogue", "arxiv:2407.01937")


def hub_name(dataset: str | None) -> str | None:
    """The name if it can be that of a data set of the hub; a card must name no other."""
    if dataset is None or not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", dataset) or Path(dataset).exists():
        return None
    return None if Path(dataset).suffix and "/" not in dataset else dataset


def with_section(write: Callable[..., Any], card: Path, section: Callable[[], str]) -> Callable[..., None]:
    """
    A trainer's `create_model_card` that adds a section whenever the card is written, as it is anew for each push.

    Args:
        write (`Callable`): The trainer's own.
        card (`Path`): Where it writes to.
        section (`Callable[[], str]`): Gives the Markdown to add.
    """

    def create_model_card(*args: Any, **kwargs: Any) -> None:
        write(*args, **kwargs)
        if card.exists():  # the main process writes
            finish_model_card(card, section())

    return create_model_card


def finish_model_card(path: Path, section: str) -> None:
    """Adds a section and this package's tags to a card, and takes TRL's placeholder for a licence from its head."""
    from huggingface_hub import ModelCard

    card = ModelCard.load(path, ignore_metadata_errors=True)
    if card.data.get("licence") == "license":
        card.data.pop("licence")
    card.data.tags = [*dict.fromkeys([*(card.data.tags or []), *TAGS])]
    write_text(path, f"{str(card).rstrip()}\n{section}")
