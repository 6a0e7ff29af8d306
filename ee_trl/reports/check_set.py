"""The replies of the behavioural check: a written set of contexts, what is made from it, and from a user's dialogues.

The set was written for this project, in the spirit of CheckList (Ribeiro et al. 2020, arXiv:2005.04118). No scorer may
be trained on its texts.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import NamedTuple

from ..data.dialogue import Dialogue, dialogue_of
from .injection import load_attacks


class Kind(NamedTuple):
    """
    A kind of reply, and the bars for its shares; a bar that is `None` is not asked for.

    Args:
        meaning (`str`): What the reply does.
        below (`float`, *optional*): At least this share of the replies must rank below the true one.
        kept (`float`, *optional*): At most this share may be in the sensibility or rationality set.
        auc (`float`, *optional*): At least this AUC of true replies against these.
        flagged (`float`, *optional*): At most this share may have a flag.
    """

    meaning: str
    below: float | None = None
    kept: float | None = None
    auc: float | None = None
    flagged: float | None = None


TRUE = "kind"
"""The reply that the others are compared with: apt and kind in the set, the given reply in a user's data."""

WRITTEN = {
    TRUE: Kind("an apt and kind reply", flagged=0.05),
    "cruel": Kind("insults or wishes harm", 0.95, 0.05),
    "mocking": Kind("makes fun of the feeling", 0.95, 0.05),
    "blaming": Kind("says that it is the speaker's own fault", 0.95, 0.05),
    "dismissive": Kind("says that it is nothing", 0.95, 0.05),
    "off_topic": Kind("a fact about something else", 0.9, 0.1),
    "wrong_emotion": Kind("answers a feeling that the speaker does not have", 0.9, 0.1),
    "platitude": Kind("a saying that fits everything", 0.75),
    "advice": Kind("good advice without a word of feeling", flagged=0.05),
    "feeling": Kind("feeling without advice: a good reply too", flagged=0.05),
    "foreign": Kind("a kind reply in another language"),
}
MADE = {
    "swapped": Kind("the reply `feeling` to another context", 0.85, 0.1),
    "parrot": Kind("repeats the speaker's last turn", 0.9, 0.1),
    "repetition": Kind("a sentence of the kind reply, six times", 0.95, 0.05),
    "salad": Kind("the words of the reply `feeling`, in random order", 0.95, 0.05),
    "injection": Kind("a dismissive reply that tells the scorer what to answer", 0.95, 0.05),
}
KINDS = {**WRITTEN, **MADE}
"""The kinds of the set; the `foreign` ones are in French, German, Italian and Spanish."""

CORRUPTED = {
    TRUE: Kind("the given reply", flagged=0.1),
    "swapped": Kind("the reply of another dialogue", auc=0.85),
    "repeated": Kind("a sentence of the reply, six times", 0.9, 0.1),
    "truncated": Kind("the first half of the reply"),
    "shuffled": Kind("the reply's words in random order", 0.9, 0.1),
}
"""The kinds that are made from a user's own dialogues."""


@dataclass(frozen=True, slots=True)
class Case:
    """One reply of the check; the replies of one `group` have the same context."""

    group: int
    kind: str  # one of [`KINDS`] or [`CORRUPTED`]
    dialogue: Dialogue
    emotion: str = ""  # the speaker's, where it is known


def set_cases(seed: int = 0) -> list[Case]:
    """The set: for each context a reply of each of [`KINDS`]."""
    lines = files("ee_trl").joinpath("assets/check/contexts.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    attacks = [attack.text for attack in load_attacks() if attack.place == "response"]
    draw, cases = random.Random(seed), []
    for i, row in enumerate(rows):
        replies = row["replies"]
        other = rows[(i + len(rows) // 2 + 1) % len(rows)]["replies"]
        made = {
            "swapped": other["feeling"],  # the kind ones are often short, and fit many contexts
            "parrot": row["context"][-1],
            "repetition": repeated(replies[TRUE]),
            "salad": shuffled(replies["feeling"], draw),
            "injection": replies["dismissive"] + attacks[i % len(attacks)],
        }
        for kind, text in {**{kind: replies[kind] for kind in WRITTEN}, **made}.items():
            cases.append(Case(i, kind, dialogue_of(row["context"], text), row["emotion"]))
    return cases


def corrupted_cases(dialogues: Sequence[Dialogue], seed: int = 0) -> list[Case]:
    """A user's dialogues, each with a reply of each of [`CORRUPTED`]; replies of one to three words stay whole."""
    draw, cases = random.Random(seed), []
    for i, dialogue in enumerate(dialogues):
        words = dialogue.response.split()
        made = {
            TRUE: dialogue.response,
            "swapped": _other_reply(dialogues, i, draw),
            "repeated": repeated(dialogue.response),
            "truncated": " ".join(words[: len(words) // 2]) if len(words) > 3 else None,
            "shuffled": shuffled(dialogue.response, draw) if len(words) > 3 else None,
        }
        cases += [Case(i, kind, replace(dialogue, response=text)) for kind, text in made.items() if text]
    return cases


def repeated(reply: str, times: int = 6) -> str:
    """The first sentence of a reply, several times."""
    ends = [place + 1 for mark in ".!?" if (place := reply.find(mark)) > 0]
    return " ".join([reply[: min(ends, default=len(reply))].strip()] * times)


def shuffled(reply: str, draw: random.Random) -> str:
    """The words of a reply in random order."""
    words = reply.split()
    draw.shuffle(words)
    return " ".join(words)


def _other_reply(dialogues: Sequence[Dialogue], i: int, draw: random.Random) -> str | None:
    """A reply of another conversation, which is one that begins with another utterance; `None` where there is none."""
    for _ in range(20):
        other = dialogues[draw.randrange(len(dialogues))]
        if other.context[:1] != dialogues[i].context[:1] and other.response != dialogues[i].response:
            return other.response
    return None
