"""Made bad replies: a scorer learns from them what no listener should say.

Scored data hold hardly any hostile, dismissive or off-topic reply, so a scorer that learns from them alone cannot know
one. The phrases are in `ee_trl/assets/negatives/grammar.txt`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.resources import files
from random import Random
from typing import NamedTuple

import numpy as np

from ..data.dialogue import Dialogue
from ..errors import TrainingError, check_choice
from ..scoring.features import polarity, tokenise
from ..scoring.judged import conversation_numbers


KINDS = {
    "hostile": "hostile",
    "dismissive": "dismissive",
    "off_topic": "off_topic",
    "swapped": "off_topic",
    "wrong_emotion": "off_topic",
    "salad": "off_topic",
    "repetition": "repetitive",
    "echo": "repetitive",
}
"""Kind of made reply -> the flag that a scorer should give it."""

_SHARES = {"hostile": 7, "dismissive": 3, "off_topic": 2, "swapped": 5, "wrong_emotion": 3, "salad": 1.5,
           "repetition": 1.5, "echo": 1}  # fmt: skip
_LATER = 0.15  # share of the swapped replies that come from a later turn of the same conversation
_MOST_WORDS = 60  # of a repetition
_SLOT = re.compile(r"\(([^()]*\|[^()]*)\)|\{(?!topic|quote|turn)(\w+)\}")
_GIVEN = re.compile(r"\{(topic|quote|turn)\}")


class Negative(NamedTuple):
    """A dialogue with a made bad reply, one of [`KINDS`], and the position of the dialogue it was made from."""

    dialogue: Dialogue
    kind: str
    source: int


def kinds_of(kinds: str | Sequence[str]) -> tuple[str, ...]:
    """Kinds of made replies from their names (a sequence, or one text with commas), `"all"` or `"none"`."""
    names = [part.strip() for part in kinds.split(",")] if isinstance(kinds, str) else list(kinds)
    if names in (["all"], ["none"], []):
        return tuple(KINDS) if names == ["all"] else ()
    for name in names:
        check_choice("kind of made reply", name, KINDS, TrainingError)
    return tuple(dict.fromkeys(names))


def negatives(
    dialogues: Sequence[Dialogue], kinds: str | Sequence[str] = "all", *, per_sample: float = 1.0, seed: int = 0
) -> Iterator[Negative]:
    """
    Makes bad replies to the contexts of dialogues, in their order; equal arguments give equal replies.

    Args:
        dialogues (`Sequence[Dialogue]`): True replies with their contexts.
        kinds (`str` or `Sequence[str]`, *optional*, defaults to `"all"`): See [`kinds_of`].
        per_sample (`float`, *optional*, defaults to `1.0`): Made replies for each dialogue, on average.
        seed (`int`, *optional*, defaults to `0`): Seed of the draws.

    Yields:
        [`Negative`]. A dialogue that a kind cannot be made from gets another kind; where none can be made, it gets
        none.
    """
    names = kinds_of(kinds)
    if not per_sample > 0:
        raise TrainingError(f"negatives_per_sample {per_sample!r} is not above 0")
    numbers = conversation_numbers(dialogues)
    members: dict[int, list[int]] = {}
    for i, number in enumerate(numbers.tolist()):
        members.setdefault(number, []).append(i)
    for i, dialogue in enumerate(dialogues):
        draw = Random(f"{seed} {i}")
        for _ in range(int((i + 1) * per_sample) - int(i * per_sample)):
            left = {name: _SHARES[name] for name in names}
            while left:
                kind = draw.choices(list(left), list(left.values()))[0]
                del left[kind]
                later = [j for j in members[numbers[i]] if len(dialogues[j].context) > len(dialogue.context)]
                if kind == "swapped" and later and draw.random() < _LATER:
                    other = dialogues[draw.choice(later)]
                else:
                    other = _another(dialogues, numbers, i, draw)
                reply = _MAKERS[kind](dialogue, other, draw)
                if reply and tokenise(reply) != tokenise(dialogue.response):
                    yield Negative(_with(dialogue, reply), kind, i)
                    break


def _another(dialogues: Sequence[Dialogue], numbers: np.ndarray, i: int, draw: Random) -> Dialogue:
    """A dialogue of another conversation, if one is found soon."""
    for _ in range(10):
        j = draw.randrange(len(dialogues))
        if numbers[j] != numbers[i]:
            break
    return dialogues[j]


def _with(dialogue: Dialogue, reply: str) -> Dialogue:
    """The dialogue with another reply, in lower case or tokenised where its own texts are."""
    own = " ".join((*dialogue.context, dialogue.response))
    if own == own.lower():
        reply = reply.lower()
    if re.search(r"\w [.,!?]", own) and not re.search(r"\w[.,!?]", own):
        reply = " ".join(re.sub(r"([.,!?;:]+|'(?=\w))", r" \1", reply).split())
    return Dialogue(dialogue.context, reply, dialogue.roles, dialogue.system)


# ---- the grammar ---------------------------------------------------------------------------------------------------


@cache
def grammar() -> dict[str, list[str]]:
    """The phrases of each section of the grammar."""
    text = files("ee_trl").joinpath("assets/negatives/grammar.txt").read_text(encoding="utf-8")
    sections: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("[") and line.endswith("]"):
            phrases = sections.setdefault(line[1:-1], [])
        elif line.strip() and not line.startswith("#"):
            phrases.append(line)
    return sections


def _phrase(section: str, dialogue: Dialogue, draw: Random) -> str:
    """A phrase of a section, with its choices made and its slots filled."""

    def filled(match: re.Match[str]) -> str:
        if match[2] is None:
            return draw.choice(match[1].split("|"))
        found = draw.choice(grammar()[match[2].lower()])
        return found if match[2].islower() else found.capitalize()

    text, count = draw.choice(grammar()[section]), 1
    while count:
        text, count = _SLOT.subn(filled, text)
    turn = dialogue.last_speaker_turn
    words = turn.split()
    start = draw.randrange(max(1, len(words) - 3))
    given = {"turn": turn, "quote": " ".join(words[start : start + draw.randint(3, 7)]), "topic": _topic(turn, draw)}
    text = _GIVEN.sub(lambda match: given[match[1]], text).strip()
    return re.sub(r"\b([Aa]) (?=[aeiouAEIOU])", r"\1n ", text[:1].upper() + text[1:])


def _topic(text: str, draw: Random) -> str:
    """A word of a text that may name its subject."""
    known = set(" ".join(grammar()["not_topics"]).split())
    words = [word for word in re.findall(r"[a-z']{3,}", text.lower()) if word.replace("'", "") not in known]
    nouns = [word for word in words if not word.endswith(("ing", "ed", "ly", "n't")) and not polarity([word])]
    return draw.choice(nouns or words or ["story", "problem", "day"])


def _speech(section: str, dialogue: Dialogue, draw: Random, most: int = 4) -> str:
    """One to `most` phrases of a section."""
    number = draw.choices(range(1, most + 1), (9, 6, 3, 2)[:most])[0]
    return " ".join(dict.fromkeys(_phrase(section, dialogue, draw) for _ in range(number)))


def _styled(text: str, draw: Random) -> str:
    """The text as one of many people could have typed it."""
    if draw.random() < 0.15:
        text = text.lower()
    if draw.random() < 0.05:
        text = text.replace("'", "")
    roll = draw.random()
    if roll < 0.15:
        return text.rstrip(".!? ")
    if roll < 0.2:
        return re.sub(r"[.,!?:;\"]", "", text)
    return text.replace(".", "!") if roll < 0.24 else text


def _sentences(text: str) -> list[str]:
    return [found.strip() for found in re.findall(r"[^.!?]+[.!?]*", text) if found.strip()] or [text]


# ---- the kinds -----------------------------------------------------------------------------------------------------


def _turned(section: str, dialogue: Dialogue, draw: Random) -> str:
    """Phrases of a section; some begin or end kindly."""
    text, roll = _speech(section, dialogue, draw), draw.random()
    first = _sentences(dialogue.response)[0]
    if roll < 0.12:
        text = text if re.match(r"I\b", text) else text[:1].lower() + text[1:]
        text = f"{draw.choice(grammar()['opening'])} {text}"
    elif roll < 0.24:
        text = f"{first} {text}"
    elif roll < 0.29:
        text = f"{text} {first}"
    elif roll < 0.36:
        text = f"{text} {draw.choice(grammar()['ending'])}"
    return _styled(text, draw)


def _hostile(dialogue: Dialogue, other: Dialogue, draw: Random) -> str:
    return _turned(draw.choices(("cruel", "mocking", "blaming"), (3, 2, 2))[0], dialogue, draw)


def _dismissive(dialogue: Dialogue, other: Dialogue, draw: Random) -> str:
    if draw.random() < 0.25:
        return _styled(_speech("platitude", dialogue, draw, most=2), draw)
    return _turned("dismissive", dialogue, draw)


def _off_topic(dialogue: Dialogue, other: Dialogue, draw: Random) -> str:
    text = _speech("off_topic", dialogue, draw, most=3)
    return _styled(f"{_phrase('stock', dialogue, draw)} {text}" if draw.random() < 0.08 else text, draw)


def _swapped(dialogue: Dialogue, other: Dialogue, draw: Random) -> str | None:
    return other.response if len(other.response.split()) >= 4 else None


def _wrong_emotion(dialogue: Dialogue, other: Dialogue, draw: Random) -> str | None:
    """Joy on grief, or pity on joy, where both sides' words are clear."""
    said = [text for text, role in zip(dialogue.context, dialogue.roles, strict=True) if role == "user"]
    feeling = polarity(tokenise(" ".join((*said, dialogue.response))))
    if abs(feeling) < 2:
        return None
    return _styled(_speech("glad" if feeling < 0 else "grief", dialogue, draw, most=2), draw)


def _salad(dialogue: Dialogue, other: Dialogue, draw: Random) -> str | None:
    words = dialogue.response.split()
    roll = draw.random()
    if roll < 0.5 or len(words) < 5:
        words = words + (other.response if roll < 0.3 else f"{other.response} {' '.join(other.context)}").split()
    draw.shuffle(words)
    return _styled(" ".join(words[: draw.randint(5, 30)]), draw) if len(words) >= 4 else None


def _repetition(dialogue: Dialogue, other: Dialogue, draw: Random) -> str:
    earlier = [text for text, role in zip(dialogue.context, dialogue.roles, strict=True) if role == "assistant"]
    own, roll = _sentences(dialogue.response), draw.random()
    if earlier and roll < 0.5:  # what this listener has said already
        again = draw.choice(earlier)
        return again if roll < 0.4 else f"{draw.choice(own)} {again}"
    if roll < 0.7:
        return f"{dialogue.response} {' '.join([draw.choice(own)] * draw.randint(1, 3))}"
    phrase = draw.choice([*own, _sentences(other.response)[0], *(_phrase("stock", dialogue, draw) for _ in own)])
    again = " ".join([phrase] * draw.randint(3, 9))
    return _styled(" ".join(again.split()[:_MOST_WORDS]), draw)


def _echo(dialogue: Dialogue, other: Dialogue, draw: Random) -> str | None:
    """The speaker's last turn, whole or nearly."""
    turn, roll = dialogue.last_speaker_turn, draw.random()
    if len(turn.split()) < 5:
        return None
    if roll < 0.5:
        return turn
    if roll < 0.7:
        return _phrase("echo", dialogue, draw)
    if roll < 0.85:
        return _styled(" ".join(_sentences(turn)[:2]), draw)
    return _styled(" ".join(word for word in turn.split() if draw.random() < 0.85), draw)


_MAKERS: dict[str, Callable[[Dialogue, Dialogue, Random], str | None]] = {
    "hostile": _hostile,
    "dismissive": _dismissive,
    "off_topic": _off_topic,
    "swapped": _swapped,
    "wrong_emotion": _wrong_emotion,
    "salad": _salad,
    "repetition": _repetition,
    "echo": _echo,
}
