"""What the bundled scorer "linear" flags."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ee_trl import Dialogue, EmpathyDataSelector, LinearScorer
from ee_trl.axes import FLAGS


DATA = os.environ.get("EE_TRL_DATA")
CAT = "My cat died this morning. She was with me for twelve years and the house is so quiet now."


def to_cat(reply: str) -> Dialogue:
    return Dialogue((CAT,), reply, ("user",))


@pytest.fixture(scope="module")
def scorer() -> LinearScorer:
    return LinearScorer()


def flagged(scorer: LinearScorer, dialogues: list[Dialogue]) -> tuple[np.ndarray, list[str | None]]:
    batches = list(scorer.score_batches(dialogues))
    found = [flag for batch in batches for flag in batch.flags or ()]
    return np.concatenate([batch.details["appropriateness"] for batch in batches]), found


def test_bad_replies_are_flagged_and_kind_ones_are_not(scorer: LinearScorer) -> None:
    replies = {
        "I'm so sorry for your loss. Twelve years is a long time, you must miss her so much.": None,
        "Oh no, that is so sad. Was she ill?": None,
        "You are a pathetic loser and nobody likes you.": "hostile",
        "Hahaha, look at the crybaby! Want a tissue?": "hostile",
        "It's your own fault, you should have taken better care of her.": "hostile",
        "Whatever. It's just a cat, get over it.": "dismissive",
        "The bus to the airport leaves at nine and a ticket costs four dollars.": "off_topic",
        "I'm so sorry. I'm so sorry. I'm so sorry. I'm so sorry. I'm so sorry.": "repetitive",
        CAT: "repetitive",
    }
    fits, flags = flagged(scorer, [to_cat(reply) for reply in replies])
    assert dict(zip(replies, flags, strict=True)) == replies
    assert ((fits < 0.5) == [flag is not None for flag in replies.values()]).all()
    assert set(scorer.flags) <= set(FLAGS)


def test_selection_leaves_flagged_replies_out(scorer: LinearScorer) -> None:
    rows = [{"context": [CAT], "response": reply} for reply in ("I'm so sorry for your loss.", "You pathetic loser.")]
    from datasets import Dataset

    scored = EmpathyDataSelector("linear", store=False, show_progress=False).score(Dataset.from_list(rows))
    assert scored["score_flag"] == [None, "hostile"]


@pytest.mark.data
@pytest.mark.skipif(not DATA, reason="set EE_TRL_DATA to the folder with ed_test.parquet")
def test_flags_on_conversations_that_the_fit_has_not_seen(scorer: LinearScorer) -> None:
    import pyarrow.parquet as pq
    from sklearn.metrics import roc_auc_score

    from ee_trl.distillation.negatives import KINDS, negatives

    rows = pq.read_table(Path(str(DATA)) / "ed_test.parquet", columns=["context", "response"]).to_pylist()
    roles = ("user", "assistant")
    true = [
        Dialogue(tuple(c), row["response"], tuple(roles[(len(c) - 1 - i) % 2] for i in range(len(c))))
        for row in rows
        if (c := row["context"])
    ]
    made = list(negatives(true, seed=99))
    fits, flags = flagged(scorer, true)
    fits_made, flags_made = flagged(scorer, [one.dialogue for one in made])
    assert np.mean([flag is not None for flag in flags]) <= 0.06
    counts = Counter(one.kind for one, flag in zip(made, flags_made, strict=True) if flag == KINDS[one.kind])
    of = Counter(one.kind for one in made)
    for kind, least in {
        "hostile": 0.9,
        "dismissive": 0.85,
        "off_topic": 0.8,
        "repetition": 0.85,
        "echo": 0.95,
    }.items():
        assert counts[kind] / of[kind] >= least, kind
    swapped = fits_made[[one.kind == "swapped" for one in made]]
    area = roc_auc_score(np.repeat([1, 0], [len(fits), len(swapped)]), np.concatenate([fits, swapped]))
    assert area >= 0.75
