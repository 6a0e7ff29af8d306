"""Flags: what a scorer finds wrong with a reply goes through the store to its own column, and selection drops it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import WordScorer
from datasets import Dataset, IterableDataset

from ee_trl import Dialogue, EmpathyDataSelector
from ee_trl.axes import FLAGS, combined_scores
from ee_trl.errors import ScorerError, SelectionError
from ee_trl.online.alignment import known_scores
from ee_trl.scoring.base import BatchedScorer, ScoredBatch
from ee_trl.scoring.cascade import CascadeScorer
from ee_trl.scoring.run import ScoringRun
from ee_trl.scoring.store import ScoreStore
from ee_trl.selection import RULES, select_indices


REPLIES = ["Oh no, that hurts.", "hostile words", "off_topic words", "I am with you now."]
WRONG = [None, "hostile", "off_topic", None]


class Flagging(BatchedScorer):
    """Scores every reply (8, 2), and flags it with its first word where that is a flag."""

    fingerprint, flags, details = "flagging-1", ("hostile", "off_topic"), ("words",)

    def __init__(self, flags: Sequence[str] = ("hostile", "off_topic")) -> None:
        self.flags, self.asked = tuple(flags), 0

    def score_batches(self, dialogues: Sequence[Dialogue]) -> Any:
        for i, dialogue in enumerate(dialogues):
            self.asked += 1
            first = dialogue.response.split()[0]
            scores, words = np.array([[8.0, 2.0]]), np.array([float(len(dialogue.response.split()))])
            flags = [first if first in self.flags else None]
            yield ScoredBatch([i], scores, details={"words": words}, flags=flags)


def rows() -> Dataset:
    return Dataset.from_list([{"context": ["My dog died."], "response": reply} for reply in REPLIES])


def test_flags_become_a_column_from_the_scorer_and_from_the_store(tmp_path: Path) -> None:
    for asked in (4, 0):
        scorer = Flagging()
        scored = EmpathyDataSelector(scorer, store=tmp_path / "s.sqlite", show_progress=False).score(rows())
        assert scorer.asked == asked
        assert scored["score_flag"] == WRONG
        assert "words" not in scored.column_names
    again = EmpathyDataSelector(scorer, store=False, details=True, show_progress=False).score(scored)
    assert again["score_flag"] == WRONG
    assert again["words"] == [4, 2, 2, 5]


def test_a_stream_has_the_column_too(tmp_path: Path) -> None:
    selector = EmpathyDataSelector(Flagging(), store=False, show_progress=False)
    bare = IterableDataset.from_generator(lambda: iter(rows().to_list()))
    for stream in (rows().to_iterable_dataset(), bare):
        scored = selector.score(stream)
        assert [row["score_flag"] for row in scored] == WRONG
        assert len(list(selector.select(scored))) == 2
        assert len(list(selector.select(scored, exclude="hostile"))) == 3


def test_a_scorer_without_flags_adds_no_column() -> None:
    scored = EmpathyDataSelector(WordScorer(), store=False, show_progress=False).score(rows())
    assert "score_flag" not in scored.column_names


def test_an_unknown_flag_is_refused() -> None:
    scorer = Flagging(["Oh"])
    with pytest.raises(ScorerError, match=r"flag of scorer 'flagging-1' 'Oh'.*hostile"):
        EmpathyDataSelector(scorer, store=False, show_progress=False).score(rows())


def test_selection_drops_flagged_samples_and_counts_them() -> None:
    selector = EmpathyDataSelector(Flagging(), store=False, show_progress=False)
    scored = selector.score(rows())
    chosen = selector.choose(scored)
    assert chosen.counts() == {"kept": 2, "flag_hostile": 1, "flag_off_topic": 1}
    assert chosen.reasons.tolist() == ["", "flag_hostile", "flag_off_topic", ""]
    assert "exclude" not in chosen.settings
    assert selector.choose(scored, exclude="off_topic").settings["exclude"] == ["off_topic"]
    assert len(selector.select(scored, exclude="none")) == 4
    assert len(selector.select(scored, exclude=["off_topic", "hostile"])) == 2


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_leaves_flagged_samples_out(rule: str) -> None:
    s, r, flags = [9, 8, 7, 6, np.nan], [1, 1, 1, 1, np.nan], ["hostile", None, "", "repetitive", "hostile"]
    chosen = select_indices(s, r, rule=rule, lengths=[5, 1, 1, 9, 9], flags=flags)
    assert chosen.indices.tolist() == [1, 2]
    assert chosen.counts() == {"kept": 2, "flag_hostile": 1, "flag_repetitive": 1, "unscored": 1}
    assert len(select_indices(s, r, rule=rule, lengths=[5, 1, 1, 9, 9], flags=flags, exclude="none")) == 4


@pytest.mark.parametrize("wrong", ["rude", "all,hostile", ""])
def test_an_unknown_flag_to_exclude_is_refused(wrong: str) -> None:
    with pytest.raises(SelectionError, match="exclude"):
        select_indices([8], [2], flags=[None], exclude=wrong)


def test_as_many_flags_as_scores() -> None:
    with pytest.raises(SelectionError, match="1 sensibility scores, but 2 flags"):
        select_indices([8], [2], flags=[None, None])


def test_a_cascade_passes_the_flags_of_whoever_decides() -> None:
    class Judge(Flagging):
        fingerprint = "judge-1"

    class Cheap(Flagging):
        fingerprint = "cheap-1"

    dialogues = [Dialogue(("Hi.",), text, ("user",)) for text in ("repetitive", "hostile", "not_english", "fine")]
    cheap, judge = Cheap(["repetitive", "not_english"]), Judge(["hostile"])
    for budget, expected in (
        (1.0, ["repetitive", "hostile", None, None]),
        (0, ["repetitive", None, "not_english", None]),
    ):
        cascade = CascadeScorer(cheap, judge, budget=budget, audit=0)
        assert cascade.flags == ("repetitive", "not_english", "hostile")
        cascade.plan(dialogues)
        assert ScoringRun(cascade).score(dialogues).flags == expected


def test_online_training_treats_flagged_rows_as_unscored() -> None:
    scored = EmpathyDataSelector(Flagging(), store=False, show_progress=False).score(rows())
    scores, wanting = known_scores(scored)
    assert np.isnan(scores).any(axis=1).tolist() == [False, True, True, False]
    assert not wanting.any()


def test_stores_keep_flags_as_the_numbers_that_they_have(tmp_path: Path) -> None:
    """A store of any version reads on: the positions in FLAGS never change."""
    assert FLAGS[:5] == ("hostile", "dismissive", "off_topic", "repetitive", "not_english")
    store, dialogue = ScoreStore(tmp_path / "s.sqlite"), Dialogue(("Hi.",), "off_topic", ("user",))
    ScoringRun(Flagging(), store).score([dialogue])
    [found] = store.scores_of("flagging-1")
    assert found.details == {"score_flag": 2.0, "words": 1.0}


def test_one_number_by_hand() -> None:
    scores = [[8, 4], [8, 4], [8, 4], [np.nan, np.nan]]
    found = combined_scores(scores, [0.5, np.nan, 1, 1], [None, None, "hostile", None])
    np.testing.assert_array_equal(found, [3, 6, 0, np.nan])
    np.testing.assert_array_equal(combined_scores(scores), [6, 6, 6, np.nan])
