"""The licence of the source, which the samples selected from it keep."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import EmpathyError


UNKNOWN = "unknown"
"""The hub's word for a licence that nobody named."""

_CARRIED = ("license", "license_name", "license_link", "language")


@dataclass(frozen=True)
class Licence:
    """The source's licence: the fields of the hub's metadata (`license`, `language`, ...), and who told them."""

    carried: Mapping[str, Any] = field(default_factory=dict)
    told_by: str = ""

    def sentence(self) -> str:
        """For the text of a card."""
        licence = self.carried.get("license")
        if not licence or licence == UNKNOWN:
            return (
                "**The licence of the source is unknown**: nobody named it when these samples were selected. Their "
                "text is the source's; find out its licence before you use or publish them."
            )
        names = ", ".join(licence) if isinstance(licence, list) else licence
        return f"The samples are text of the source and keep its licence: `{names}` (as {self.told_by} says)."


def given_licence(name: str) -> Licence:
    """A licence by its name on the hub, e.g. `cc-by-nc-4.0`."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+_-]*", name):
        raise EmpathyError(
            f"licence {name!r} is not a licence name of the hub; valid: lower case without spaces, e.g. "
            "cc-by-nc-4.0, apache-2.0, other (https://hf.co/docs/hub/repositories-licenses)"
        )
    return Licence({"license": name}, "who selected it")


def find_licence(*places: Any) -> Licence:
    """The licence that the first of the places names."""
    for place in places:
        if hasattr(place, "info"):
            found = Licence({"license": getattr(place.info, "license", None)}, "the data set's own information")
        else:
            found = _of_card(Path(place)) if place else Licence()
        if found.carried.get("license"):
            return found
    return Licence()


def _of_card(path: Path) -> Licence:
    """The licence in the card beside a file, or in a folder."""
    from huggingface_hub import DatasetCard

    card = (path if path.is_dir() else path.parent) / "README.md"
    if not path.exists() or not card.is_file() or not card.read_text(encoding="utf-8").lstrip().startswith("---"):
        return Licence()
    try:
        data = DatasetCard.load(card).data.to_dict()
    except Exception as error:  # YAML raises many kinds
        raise EmpathyError(
            f"the head of {str(card)!r} cannot be read: {error}; correct it, or name the licence (--license)"
        ) from error
    return Licence({name: data[name] for name in _CARRIED if data.get(name)}, f"its card, `{card.name}`,")
