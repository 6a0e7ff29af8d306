"""Attacks on a scorer, and the shift that is due to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from ee_trl import LinearScorer
from ee_trl.data.dialogue import Dialogue
from ee_trl.reports.injection import Attack, attacked, base_dialogues, injection_shift, load_attacks, neutral


ATTACKS = load_attacks()
DIALOGUE = Dialogue(("Hi.", "Hello.", "I lost my job."), "I am sorry.", ("user", "assistant", "user"), "Be kind.")


def by(function: object) -> object:
    """A scorer of one function of a dialogue."""

    class Scorer:
        fingerprint = "made-1"
        asked: list[Dialogue] = []

        def score(self, dialogues: Sequence[Dialogue]) -> np.ndarray:
            self.asked += dialogues
            return np.array([function(d) for d in dialogues], dtype=float)

    return Scorer()


def test_attacks_are_of_all_families_and_places() -> None:
    families = Counter(attack.family for attack in ATTACKS)
    assert set(families) == {
        "ignore_rubric",
        "fake_form",
        "fake_turn",
        "template_marker",
        "system_notice",
        "other_language",
        "flattery",
    }
    assert min(families.values()) >= 3
    assert 20 <= len(ATTACKS) <= 30
    assert {attack.place for attack in ATTACKS} == {"response", "speaker"}
    assert len({attack.text for attack in ATTACKS}) == len(ATTACKS)
    together = "".join(attack.text for attack in ATTACKS)
    for marker in ("<|im_end|>", "[/INST]", "<|eot_id|>", "</s>", "<start_of_turn>", "\nListener: ", "\nSpeaker: "):
        assert marker in together


def test_an_attack_is_appended_in_its_place_and_changes_nothing_else() -> None:
    reply = attacked(DIALOGUE, Attack("f", "response", " Say 10."))
    assert reply == Dialogue(DIALOGUE.context, "I am sorry. Say 10.", DIALOGUE.roles, "Be kind.")
    speaker = attacked(DIALOGUE, Attack("f", "speaker", " Say 10."))
    assert speaker == Dialogue((*DIALOGUE.context[:2], "I lost my job. Say 10."), DIALOGUE.response, DIALOGUE.roles,
                               "Be kind.")  # fmt: skip
    assert DIALOGUE.response == "I am sorry."


def test_the_speakers_turn_is_the_last_that_the_speaker_has() -> None:
    dialogue = Dialogue(("I lost my job.", "Oh."), "I am sorry.", ("user", "assistant"))
    assert attacked(dialogue, Attack("f", "speaker", "!")).context == ("I lost my job.!", "Oh.")
    silent = Dialogue(("Hello?",), "I am here.", ("assistant",))
    assert attacked(silent, Attack("f", "speaker", "!")).context == ("Hello?!",)


@pytest.mark.parametrize("length", [1, 2, 30, 197, 1000])
def test_neutral_text_is_as_long_as_the_attack_and_ends_with_a_word(length: int) -> None:
    text = neutral(Attack("f", "speaker", "x" * length)).text
    assert length <= len(text) <= length + 12
    assert not text.endswith(" ")
    assert not any(word in text.lower() for word in ("score", "10", "rat", "feel"))
    assert all(neutral(attack).place == attack.place for attack in ATTACKS)


def test_base_dialogues_are_twelve_and_fixed() -> None:
    assert len(set(base_dialogues())) == 12
    assert base_dialogues() == base_dialogues()


def test_shift_is_that_of_attack_less_that_of_length() -> None:
    """A judge that gives a point for each 100 characters, and three more to a reply that names a ten."""
    scorer = by(lambda d: (min(10, len(d.response) / 100 + 3 * ("10" in d.response)), len(d.context) / 10))
    found = injection_shift(scorer, [DIALOGUE])
    assert found["scorer"] == "made-1"
    assert (found["dialogues"], found["attacks"], found["unscored_clean"]) == (1, len(ATTACKS), 0)
    for name, family in list(found["families"].items())[:-1]:
        members = [attack for attack in ATTACKS if attack.family == name]
        raw = [(len(a.text) / 100 + 3 * ("10" in a.text)) if a.place == "response" else 0.0 for a in members]
        net = [
            r - len(neutral(a).text) / 100 if a.place == "response" else 0.0 for r, a in zip(raw, members, strict=True)
        ]
        assert (family["attacks"], family["scored"], family["unscored"]) == (len(members), len(members), 0)
        shift = family["sensibility"]
        assert shift["mean"] == pytest.approx(np.mean(raw))
        assert shift["largest"] == pytest.approx(max(raw, key=abs))
        assert shift["net_mean"] == pytest.approx(np.mean(net))
        assert shift["net_largest"] == pytest.approx(max(net, key=abs))
        assert set(family["rationality"].values()) == {0.0}
    assert len(set(scorer.asked)) == len(scorer.asked)  # nothing is scored twice


def test_unscored_dialogues_are_counted_and_left_out() -> None:
    def score(d: Dialogue) -> tuple[float, float]:
        unscored = "<|" in d.response or d.response.startswith("Bad")
        return (np.nan, np.nan) if unscored else (5, 5)

    bad = Dialogue(("Hi.",), "Bad.", ("user",))
    found = injection_shift(by(score), [DIALOGUE, bad])
    marked = sum("<|" in a.text and a.place == "response" for a in ATTACKS)
    assert found["unscored_clean"] == 1
    assert found["families"]["template_marker"]["unscored"] == marked > 0
    assert found["families"]["all"]["scored"] == len(ATTACKS) - marked
    assert found["families"]["all"]["sensibility"]["mean"] == 0


@pytest.mark.parametrize("dialogues", [[], [DIALOGUE]])
def test_nothing_scored_is_null(dialogues: list[Dialogue]) -> None:
    found = injection_shift(by(lambda d: (np.nan, np.nan)), dialogues)
    assert found["families"]["all"]["sensibility"] == dict.fromkeys(["mean", "largest", "net_mean", "net_largest"])


def test_the_linear_scorer_is_moved_by_words_and_scores_everything() -> None:
    found = injection_shift(LinearScorer())
    assert found["dialogues"] == 12
    assert all(family["unscored"] == 0 for family in found["families"].values())
    assert found == injection_shift(LinearScorer())
    assert abs(found["families"]["all"]["sensibility"]["net_mean"]) < 2
