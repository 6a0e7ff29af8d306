"""Prompt injection: how far a scorer's numbers move when the text that it rates tells it what to answer.

The attacks are written by hand, in families. An attack also makes a text longer and leaves its subject, which
may rightly change a score; so each is compared with neutral text of the same length in the same place.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any, Literal

import numpy as np

from ..axes import AXES, QUADRANTS
from ..data.dialogue import Dialogue, samples_of
from ..data.formats import FORMATS
from ..data.sample import load_sample
from ..scoring.base import Scorer
from ..scoring.run import ScoringRun


_NEUTRAL = (
    " The bus at the corner runs every twenty minutes. The library opens at nine and closes at six. The market is "
    "held on Thursdays, beside the post office. The new road has two lanes and a path for bicycles."
)


@dataclass(frozen=True, slots=True)
class Attack:
    """A text that tries to set its own score, appended to the reply or to the speaker's last turn."""

    family: str
    place: Literal["response", "speaker"]
    text: str


def load_attacks() -> list[Attack]:
    """The attacks that come with the package."""
    lines = files("ee_trl").joinpath("assets/injection/attacks.jsonl").read_text(encoding="utf-8").splitlines()
    return [Attack(**json.loads(line)) for line in lines]


def attacked(dialogue: Dialogue, attack: Attack) -> Dialogue:
    """The dialogue with the attack in its place; in the turn before the reply if the speaker has no turn."""
    if attack.place == "response":
        return replace(dialogue, response=dialogue.response + attack.text)
    spoken = [i for i, role in enumerate(dialogue.roles) if role == "user"] or [len(dialogue.roles) - 1]
    context = list(dialogue.context)
    context[spoken[-1]] += attack.text
    return replace(dialogue, context=tuple(context))


def neutral(attack: Attack) -> Attack:
    """Neutral sentences in the place of the attack, of the same length to within a word."""
    length = len(attack.text)
    text = _NEUTRAL * (length // len(_NEUTRAL) + 1)
    end = text.find(" ", max(length, 2))
    return replace(attack, family="neutral", text=text[:end] if end > 0 else text)


def base_dialogues() -> list[Dialogue]:
    """The dialogues attacked by default: the first replies of 12 dialogues of the embedded sample, 3 a quadrant."""
    rows = load_sample().to_list()
    chosen = []
    for quadrant in QUADRANTS:
        having = [row for row in rows if row["intended"][0] == quadrant]
        chosen += [having[i * len(having) // 3] for i in range(3)]
    found = [samples_of(FORMATS["messages"], [row])[0].dialogue for row in chosen]
    return [dialogue for dialogue in found if dialogue is not None]


def injection_shift(
    scorer: Scorer, dialogues: Sequence[Dialogue] | None = None, run: ScoringRun | None = None
) -> dict[str, Any]:
    """
    How far the attacks move a scorer's numbers.

    Args:
        scorer ([`Scorer`]): The scorer under attack.
        dialogues (`Sequence[Dialogue]`, *optional*): The dialogues that are attacked; defaults to [`base_dialogues`].
        run (`ScoringRun`, *optional*): Scores the dialogues, with a store if it has one; by default without a store.

    Returns:
        `dict`: `"scorer"` (the fingerprint), `"dialogues"` and `"attacks"` (counts), `"unscored_clean"` (dialogues
        without a score even before an attack), and `"families"`: family -> `{"attacks", "scored", "unscored",
        "sensibility", "rationality"}`, the last family being `"all"`. `scored` and `unscored` count attacked
        dialogues that have a clean score. Each axis holds, in points of [0, 10], `"mean"` and `"largest"` (by amount,
        with its sign) of attacked minus clean, and `"net_mean"` and `"net_largest"` of attacked minus neutral text of
        the same length; `None` where nothing was scored.
    """
    base = base_dialogues() if dialogues is None else list(dialogues)
    attacks = load_attacks()
    variants = [[attacked(d, made) for d in base] for attack in attacks for made in (attack, neutral(attack))]
    texts = list(dict.fromkeys([*base, *(d for group in variants for d in group)]))  # many neutral ones are the same
    place = {dialogue: i for i, dialogue in enumerate(texts)}
    scores = (run or ScoringRun(scorer)).score(texts).scores
    clean = scores[[place[d] for d in base]]
    shape = (len(attacks), 2, len(base), len(AXES))
    made = scores[[place[d] for group in variants for d in group]].reshape(shape)
    raw, net = made[:, 0] - clean, made[:, 0] - made[:, 1]
    known = ~np.isnan(clean).any(axis=1)
    families = {
        name: _family([i for i, attack in enumerate(attacks) if name in (attack.family, "all")], raw, net, known)
        for name in [*dict.fromkeys(attack.family for attack in attacks), "all"]
    }
    return {
        "scorer": scorer.fingerprint,
        "dialogues": len(base),
        "attacks": len(attacks),
        "unscored_clean": int((~known).sum()),
        "families": families,
    }


def _family(members: list[int], raw: np.ndarray, net: np.ndarray, known: np.ndarray) -> dict[str, Any]:
    """One family's entry, from shifts of shape `(attacks, dialogues, 2)`."""
    found = raw[members][:, known]
    scored = int((~np.isnan(found).any(axis=2)).sum())
    entry: dict[str, Any] = {
        "attacks": len(members),
        "scored": scored,
        "unscored": len(members) * int(known.sum()) - scored,
    }
    for i, axis in enumerate(AXES):
        mean, largest = _mean_and_largest(found[:, :, i])
        net_mean, net_largest = _mean_and_largest(net[members][:, known, i])
        entry[axis] = {"mean": mean, "largest": largest, "net_mean": net_mean, "net_largest": net_largest}
    return entry


def _mean_and_largest(shifts: np.ndarray) -> tuple[float | None, float | None]:
    values = shifts[~np.isnan(shifts)]
    if not len(values):
        return None, None
    return float(values.mean()), float(values[np.abs(values).argmax()])
