"""The licence of the source, which the samples selected from it keep, and those that bind a model trained on them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from ..display import Code, Markup, markdown_text
from ..errors import EmpathyError
from ..files import read_json


UNKNOWN = "unknown"
"""The hub's word for a licence that nobody named."""
NON_COMMERCIAL = "cc-by-nc-4.0"
"""The licence of the data that the bundled scorers learnt from."""

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
        names = markdown_text(Code(", ".join(licence) if isinstance(licence, list) else licence))
        return f"The samples are text of the source and keep its licence: {names} (as {self.told_by} says)."


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


def bundled_scorer(scorers: Sequence[str]) -> dict[str, Any]:
    """The `metrics.json` of the bundled scorer among these fingerprints, alone or in a cascade; else empty."""
    with as_file(files("ee_trl").joinpath("assets")) as assets:
        found = [read_json(path) for path in sorted(assets.glob("*/metrics.json"))]
    return next((one for one in found if any(one["fingerprint"] in name for name in scorers)), {})


def scorer_terms(scorers: Sequence[str]) -> str:
    """What the licence of a bundled scorer's weights says of its scores, in Markdown; empty for other scorers."""
    if not (found := bundled_scorer(scorers)):
        return ""
    return (
        f"**Non-commercial: the scorer's weights** ({markdown_text(Code(found['fingerprint']))}) come from CC BY-NC "
        "4.0 data (EmpatheticDialogues). Use its scores, and what was selected by them, for non-commercial work only."
    )


@dataclass(frozen=True)
class Origin:
    """What a model is made from: its base (`None`: random weights), the licence of the data, and who scored them."""

    base: str | None
    licence: Licence
    scorers: Sequence[str]

    @property
    def name(self) -> str:
        """The base as a card names it: the name on the hub, or that of a folder without its path."""
        base = self.base or ""
        return Path(base).resolve().name if Path(base).is_dir() else base

    @property
    def named_base(self) -> str | None:
        """What the card in the base's folder names as its own base, if it is one name."""
        with suppress(EmpathyError):  # a card that cannot be read
            found = _of_card(Path(self.base or ""), ("base_model",)).carried.get("base_model")
            return found if isinstance(found, str) else None
        return None

    def terms(self) -> list[Markup]:
        """The licences that bind the model, as paragraphs."""
        if self.base is None:
            of_base = "The model began with random weights that ee-trl made."
        else:
            known = shared_licence([self.base])
            own = f"is {markdown_text(Code(known))} (as its card says)"
            if known == UNKNOWN:
                own = "is not known here: find it out before you publish this model"
            of_base = f"The licence of the base model {markdown_text(Code(self.name))} {own}."
        return [Markup(text) for text in (of_base, self.licence.sentence(), scorer_terms(self.scorers)) if text]


def shared_licence(folders: Iterable[Any]) -> str:
    """The licence that the cards in all folders give; non-commercial if one is, unknown where they differ."""
    named = set()
    for folder in folders:
        with suppress(EmpathyError):  # a card that cannot be read
            named.add(str(find_licence(folder).carried.get("license") or UNKNOWN))
    return NON_COMMERCIAL if NON_COMMERCIAL in named else named.pop() if len(named) == 1 else UNKNOWN


def _is_named(value: Any) -> bool:
    """Whether a field of a card's head is a name or a list of names; YAML can hold anything."""
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(name, str) for name in value))


def _of_card(path: Path, fields: Sequence[str] = _CARRIED) -> Licence:
    """The licence in the card beside a file, or in a folder; or other `fields` of its head."""
    from huggingface_hub import DatasetCard

    card = (path if path.is_dir() else path.parent) / "README.md"
    if (
        not path.exists()
        or not card.is_file()
        or not card.read_bytes().lstrip().startswith((b"---", b"\xef\xbb\xbf---"))
    ):
        return Licence()
    try:
        data = DatasetCard.load(card).data.to_dict()
        data = {name: value for name, value in data.items() if _is_named(value)}
    except Exception as error:  # YAML raises many kinds
        raise EmpathyError(
            f"the head of {str(card)!r} cannot be read: {error}; correct it, or name the licence (--license)"
        ) from error
    return Licence({name: data[name] for name in fields if data.get(name)}, f"its card, `{card.name}`,")
