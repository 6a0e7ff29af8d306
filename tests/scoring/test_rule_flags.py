"""The rules behind flags: another language, repetition, a copied turn; true replies go free."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ee_trl import Dialogue, LinearScorer
from ee_trl.errors import ScorerError
from ee_trl.scoring.features import tokenise
from ee_trl.scoring.flags import RuleFlags
from ee_trl.scoring.run import ScoringRun


RULES = RuleFlags()
TURN = "My dog died this morning and I can't stop crying."

NOT_ENGLISH = """
Lo siento mucho, eso suena muy difícil para ti.
no me gusta nada eso
Je suis vraiment désolé pour toi, c'est terrible.
on a un chat et un chien
Das tut mir so leid, ich bin für dich da.
in der Arbeit war es gut und so
Mi dispiace tanto, deve essere stato terribile.
Cala a boca, seu inútil.
het was een goede dag in de stad
Bardzo mi przykro, to musi być trudne.
bugün hava çok güzel
det var en bra dag i dag
Saya turut sedih mendengarnya, semoga cepat pulih.
Tôi rất tiếc, điều đó thật khó khăn.
Olen todella pahoillani puolestasi.
wo hen nan guo, ni hai hao ma
闭嘴，你真没用。
それは本当に大変でしたね。
정말 힘들었겠어요, 제가 옆에 있을게요.
Мне очень жаль, я с тобой.
أنا آسف جدا لما حدث لك
मुझे बहुत दुख हुआ यह सुनकर।
Λυπάμαι πολύ για σένα.
אני כל כך מצטער בשבילך
asdf jkl qwer zxcv
blorp snarf wibble frotz
import numpy as np; x = np.zeros((3, 4))
for i in range(10): print(i)
{"score": 7, "reason": "none"}
"""
FINE = """
Congrats!!
lol ok
Sarah?
u ok?
thx
😂😂😂
<3 <3
*hugs* I'm here
Oof. Hugs :)
Mazel tov!
Gracias
omg thats so awesome!!
i definately agre wiht you
Yeah Kyle and Tanya r the worst lmao
Wow, Schwarzenegger in Terminator!
bruh fr fr no cap
GTA5 or RDR2?
What breed? Schnauzer?
Those are pretty nice trucks ;/
no no no no
You have to do what you have to do. Did anyone see you?
Oh no, your poor dog! I can imagine how much you must miss her.
"""
REPETITIVE = """
I'm so sorry. I'm so sorry. I'm so sorry. I'm so sorry. I'm so sorry. I'm so sorry.
sorry sorry sorry sorry sorry
That is sad. That is sad. That is sad.
My dog died this morning and I can't stop crying.
Your dog died this morning and you can't stop crying.
You said your dog died this morning and you can't stop crying.
I am here for you if you want to talk.
"""


def flag(reply: str, *before: str) -> str | None:
    context = (*before, TURN) if before else ("Hi.", "I am here for you, if you want to talk!", TURN)
    roles = tuple(("user", "assistant")[(len(context) - 1 - i) % 2] for i in range(len(context)))
    return RULES([Dialogue(context, reply, roles)], [tokenise(reply)])[0]


@pytest.mark.parametrize("reply", NOT_ENGLISH.strip().splitlines())
def test_other_languages_scripts_code_and_gibberish_are_flagged(reply: str) -> None:
    assert flag(reply) == "not_english"


@pytest.mark.parametrize("reply", FINE.strip().splitlines())
def test_short_replies_names_slips_and_slang_are_not(reply: str) -> None:
    assert flag(reply) is None


@pytest.mark.parametrize("reply", REPETITIVE.strip().splitlines())
def test_repetitions_and_copies_are_flagged(reply: str) -> None:
    assert flag(reply) == "repetitive"


def test_a_reply_of_two_words_is_as_foreign_as_its_context() -> None:
    assert flag("Qué pena") is None
    foreign = Dialogue(("Hoy perdí mi trabajo y estoy muy triste.",), "Qué pena", ("user",))
    assert RULES([foreign], [tokenise(foreign.response)]) == ["not_english"]


def test_true_replies_are_seldom_flagged(real_data: Path) -> None:
    for name, most in (("ed_train", 0.002), ("ed_test", 0.002)):
        rows = (
            pq.read_table(real_data / f"{name}.parquet", columns=["context", "response"]).slice(0, 8_000).to_pylist()
        )
        dialogues = [Dialogue(tuple(r["context"]), r["response"], ("user",) * len(r["context"])) for r in rows]
        found = Counter(RULES(dialogues, [tokenise(d.response) for d in dialogues]))
        assert sum(n for name, n in found.items() if name) <= most * len(dialogues), found


def test_the_linear_scorer_flags_or_leaves_unscored() -> None:
    dialogues = [Dialogue((TURN,), text, ("user",)) for text in ("Oh no, how sad.", "闭嘴，你真没用。", TURN, " ")]
    flagging, leaving = LinearScorer(), LinearScorer(other_language="unscored")
    found, left = ScoringRun(flagging).score(dialogues), ScoringRun(leaving).score(dialogues)
    assert found.flags == [None, "not_english", "repetitive", None]
    assert found.statuses == ["scored", "scored", "scored", "scorer_gave_none"]
    assert left.flags == [None, None, "repetitive", None]
    assert left.statuses == ["scored", "not_english", "scored", "scorer_gave_none"]
    assert leaving.fingerprint == f"{flagging.fingerprint}/other_language:unscored"
    with pytest.raises(ScorerError, match="other_language 'drop'.*unscored"):
        LinearScorer(other_language="drop")
