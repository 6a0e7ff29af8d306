"""Sheets for raters: which replies they see, in which order and on which side, and the key that undoes it. Pure."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

from ..errors import EmpathyError, unknown


AB, RATING = "ab", "rating"
KINDS = (AB, RATING)
ASPECTS = {
    "empathy": "Which reply understands better what the speaker feels, and shows more care?",
    "coherence": "Which reply fits better to what was said before?",
    "informativeness": "Which reply says more that is of use, or moves the conversation on?",
    "continuity": "Which reply makes one rather want to go on talking?",
}
"""Aspect -> what a rater of two replies is asked."""

RATED = {
    "empathy": "Does the reply understand what the speaker feels, and show care?",
    "coherence": "Does the reply fit to what was said before?",
    "informativeness": "Does the reply say something of use, or move the conversation on?",
    "continuity": "Does the reply make one want to go on talking?",
}
"""Aspect -> what a rater of one reply is asked."""

CHOICES = {AB: ("A", "B", "tie"), RATING: ("1", "2", "3", "4", "5")}
"""The answers of each kind of sheet."""

SCALE = "1: not at all, 2: a little, 3: somewhat, 4: well, 5: very well"


@dataclass(frozen=True)
class Item:
    """
    One question of a sheet.

    Args:
        id (`str`): Of the sheet and its place on it, e.g. `"2-017"`.
        dialogue (`int`): Which dialogue of the evaluation set it is.
        context (`list[list[str]]`): The dialogue, role and text of each turn.
        replies (`list[str]`): What is judged: A and B, or one.
    """

    id: str
    dialogue: int
    context: list[list[str]]
    replies: list[str]


@dataclass(frozen=True)
class Sheet:
    """What one rater gets: `name`, `kind`, `aspects` and the items in their order."""

    name: str
    study: str
    kind: str
    aspects: list[str]
    items: list[Item]


@dataclass(frozen=True)
class Key:
    """
    What raters must not see.

    Args:
        study (`str`): Names the study, by all that it was made of; sheets and answers carry it.
        kind (`str`): `"ab"` or `"rating"`.
        aspects (`list[str]`): What is asked.
        candidates (`list[str]`): The candidates' names; of `"ab"` two.
        sheets (`dict[str, dict[str, dict]]`): Sheet -> item -> `dialogue` and `shown`, the candidates by place.
    """

    study: str
    kind: str
    aspects: list[str]
    candidates: list[str]
    sheets: dict[str, dict[str, dict[str, Any]]]

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain types."""
        return asdict(self)


def make_sheets(
    contexts: Sequence[Sequence[Sequence[str]]],
    replies: Mapping[str, Sequence[str]],
    *,
    kind: str = AB,
    aspects: Sequence[str] = tuple(ASPECTS),
    raters: int = 3,
    dialogues: Sequence[int] | None = None,
    seed: int = 0,
) -> tuple[list[Sheet], Key]:
    """
    A sheet for each rater. All judge the same dialogues, each in an order of its own.

    Which candidate is A is drawn for each rater and dialogue, so that each is A in half of a sheet's items (one more
    where their number is odd). On rating sheets every reply is an item, and all are in one random order.

    Args:
        contexts (`Sequence`): Of each dialogue, the turns before the reply: role and text.
        replies (`Mapping[str, Sequence[str]]`): Candidate -> a reply to each dialogue.
        kind (`str`, *optional*, defaults to `"ab"`): `"ab"`, two candidates side by side, or `"rating"`, one each.
        aspects (`Sequence[str]`, *optional*): Of [`ASPECTS`]; by default all.
        raters (`int`, *optional*, defaults to `3`): How many sheets.
        dialogues (`Sequence[int]`, *optional*): Which dialogues; by default all.
        seed (`int`, *optional*, defaults to `0`): Of sides and orders.

    Returns:
        `tuple`: the sheets, and the [`Key`].

    Raises:
        [`EmpathyError`]: An unknown kind or aspect, another number of candidates than two for `"ab"`, or no dialogue.
    """
    names = list(replies)
    chosen = list(range(len(contexts))) if dialogues is None else list(dialogues)
    _check(kind, aspects, names, raters, chosen)
    draw = random.Random(f"{seed}")
    study = _study(seed, kind, list(aspects), raters, names, contexts, [replies[name] for name in names], chosen)
    sheets, keys = [], {}
    for rater in range(1, raters + 1):
        shown = _sides(chosen, names, draw) if kind == AB else [(i, [name]) for i in chosen for name in names]
        draw.shuffle(shown)
        items, key = [], {}
        for place, (dialogue, order) in enumerate(shown, start=1):
            item = f"{rater}-{place:03d}"
            texts = [replies[name][dialogue] for name in order]
            items.append(Item(item, dialogue, [list(turn) for turn in contexts[dialogue]], texts))
            key[item] = {"dialogue": dialogue, "shown": order}
        sheets.append(Sheet(f"sheet-{rater}", study, kind, list(aspects), items))
        keys[f"sheet-{rater}"] = key
    return sheets, Key(study, kind, list(aspects), names, keys)


def _study(*made_of: Any) -> str:
    """Names a study by all that it is made of: what differs in any of it has another name."""
    return sha256(json.dumps(made_of, default=list).encode()).hexdigest()[:12]


def _sides(chosen: Sequence[int], names: Sequence[str], draw: random.Random) -> list[tuple[int, list[str]]]:
    """For each dialogue the two names by place, each first in half of them."""
    first = [i % 2 for i in range(len(chosen))]
    draw.shuffle(first)
    flip = draw.random() < 0.5  # of an odd number, who is A once more
    return [
        (dialogue, list(names) if side != flip else list(reversed(names)))
        for dialogue, side in zip(chosen, first, strict=True)
    ]


def _check(kind: str, aspects: Sequence[str], names: Sequence[str], raters: int, chosen: Sequence[int]) -> None:
    if kind not in KINDS:
        raise EmpathyError(unknown("kind of sheet", kind, KINDS))
    if not aspects:
        raise EmpathyError(f"no aspect is asked about; valid: {', '.join(ASPECTS)}")
    for aspect in aspects:
        if aspect not in ASPECTS:
            raise EmpathyError(unknown("aspect", aspect, ASPECTS))
    if kind == AB and len(names) != 2:
        raise EmpathyError(f"an A/B sheet compares two candidates, got {len(names)}: {', '.join(names) or 'none'}")
    if not names:
        raise EmpathyError("a rating sheet needs at least one candidate")
    if raters < 1:
        raise EmpathyError(f"raters {raters} is not a whole number of at least 1")
    if not chosen:
        raise EmpathyError("there is no dialogue to judge")
