"""Made bad replies: what each kind is, and that none comes from the set of the check."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from ee_trl import Dialogue, load_sample
from ee_trl.data.samples import read_samples
from ee_trl.distillation.negatives import KINDS, Negative, grammar, kinds_of, negatives
from ee_trl.errors import TrainingError
from ee_trl.scoring.features import polarity, tokenise


ROOT = Path(__file__).parents[2]
SAMPLE = [sample.dialogue for sample in read_samples(load_sample()) if sample.dialogue]


@pytest.fixture(scope="module")
def made() -> list[Negative]:
    return list(negatives(SAMPLE, per_sample=8, seed=1))


def of_kind(made: list[Negative], kind: str) -> list[Negative]:
    return [one for one in made if one.kind == kind]


def test_each_dialogue_gets_bad_replies_of_all_kinds_to_its_own_context(made: list[Negative]) -> None:
    assert Counter(one.source for one in made) == dict.fromkeys(range(len(SAMPLE)), 8)
    assert {one.kind for one in made} == set(KINDS)
    for one in made:
        true = SAMPLE[one.source]
        assert (one.dialogue.context, one.dialogue.roles) == (true.context, true.roles)
        assert one.dialogue.response.strip()
        assert tokenise(one.dialogue.response) != tokenise(true.response)


def test_equal_seeds_give_equal_replies_and_other_seeds_others() -> None:
    first = list(negatives(SAMPLE[:50], seed=3))
    assert first == list(negatives(SAMPLE[:50], seed=3))
    assert first != list(negatives(SAMPLE[:50], seed=4))


def test_there_are_thousands_of_different_replies_of_all_lengths(made: list[Negative]) -> None:
    replies = {one.dialogue.response for one in made if one.kind in ("hostile", "dismissive", "off_topic")}
    assert len(replies) > 0.9 * sum(one.kind in ("hostile", "dismissive", "off_topic") for one in made)
    assert not [reply for reply in replies if re.search(r"\{\w+\}|\(\w*\|", reply)]
    for kind in ("hostile", "dismissive"):
        lengths = [len(one.dialogue.response.split()) for one in of_kind(made, kind)]
        assert min(lengths) == 1
        assert max(lengths) >= 30


def test_every_slot_of_the_grammar_has_its_phrases() -> None:
    found = grammar()
    for phrases in found.values():
        for phrase in phrases:
            assert phrase.count("(") == phrase.count(")")
            for name in re.findall(r"\{(\w+)\}", phrase):
                assert name.lower() in found or name in ("topic", "quote", "turn")


def test_what_each_kind_does(made: list[Negative]) -> None:
    others = {true.response for true in SAMPLE}
    assert all(one.dialogue.response in others for one in of_kind(made, "swapped"))
    for one in of_kind(made, "echo"):
        turn = set(tokenise(one.dialogue.last_speaker_turn))
        assert len(turn & set(tokenise(one.dialogue.response))) >= min(3, len(turn) // 3)
    for one in of_kind(made, "wrong_emotion"):
        true = SAMPLE[one.source]
        said = [text for text, role in zip(true.context, true.roles, strict=True) if role == "user"]
        assert abs(polarity(tokenise(" ".join([*said, true.response])))) >= 2
    again = [one for one in of_kind(made, "repetition") if one.dialogue.response in one.dialogue.context]
    assert again
    for one in again:
        assert one.dialogue.roles[one.dialogue.context.index(one.dialogue.response)] == "assistant"


def test_a_lower_case_tokenised_dialogue_gets_such_replies() -> None:
    plain = Dialogue(("i 'm sad . my cat died , and i cry .",), "i am so sorry .", ("user",))
    for one in negatives([plain] * 60, ("hostile", "off_topic")):
        reply = one.dialogue.response
        assert reply == reply.lower()
        assert not re.search(r"\w[.,!?]", reply)


def test_kinds_that_cannot_be_made_give_way_to_others() -> None:
    short = Dialogue(("Thanks.",), "Sure.", ("user",))
    assert {one.kind for one in negatives([short] * 20, ("echo", "dismissive"))} == {"dismissive"}
    assert list(negatives([short], "echo")) == []


def test_a_number_for_each_sample_may_be_a_fraction() -> None:
    assert len(list(negatives(SAMPLE[:40], "hostile", per_sample=0.25))) == 10
    with pytest.raises(TrainingError, match="negatives_per_sample 0 is not above 0"):
        list(negatives(SAMPLE[:4], per_sample=0))


def test_names_of_kinds() -> None:
    assert kinds_of("all") == tuple(KINDS)
    assert kinds_of("none") == kinds_of(()) == ()
    assert kinds_of("hostile, echo,hostile") == ("hostile", "echo")
    with pytest.raises(TrainingError, match="cruel"):
        kinds_of("cruel")


def runs(text: str, length: int = 5) -> set[tuple[str, ...]]:
    words = re.findall(r"[a-z']+", text.lower().replace("’", "'"))
    return {tuple(words[i : i + length]) for i in range(len(words) - length + 1)}


def whole(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[a-z']+", text.lower().replace("’", "'")))


def test_nothing_comes_from_the_set_of_the_check() -> None:
    """No phrase is one of its texts, or shares five words in a row with one, whatever is chosen in its slots."""
    [path] = [*ROOT.glob("benchmarks/check_set/contexts.jsonl"), *ROOT.glob("ee_trl/assets/check/*.jsonl")]
    texts: list[str] = []

    def collect(value: object) -> None:
        if isinstance(value, str):
            texts.append(value)
        elif isinstance(value, (list, dict)):
            for part in value.values() if isinstance(value, dict) else value:
                collect(part)

    for line in path.read_text(encoding="utf-8").splitlines():
        collect(json.loads(line))
    known = set().union(*map(runs, texts))
    sentences = {whole(part) for text in texts for part in re.split(r"[.!?]", text)}
    sentences = {words for words in sentences if len(words) >= 4}
    draw, shared = Random(0), set()
    for section, phrases in grammar().items():
        if section == "not_topics":
            continue
        for phrase in phrases:
            for _ in range(200):
                text, count = phrase, 1
                while count:
                    text, count = re.subn(
                        r"\(([^()]*\|[^()]*)\)", lambda match: draw.choice(match[1].split("|")), text
                    )
                text = re.sub(r"\{(\w+)\}", lambda m: draw.choice(grammar().get(m[1], ["thing"])), text)
                parts = [whole(part) for part in re.split(r"[.!?]", text)]
                if runs(text) & known or any(part in sentences for part in parts):
                    shared.add((section, phrase))
    assert not shared
