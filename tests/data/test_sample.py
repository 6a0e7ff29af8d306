"""The embedded sample."""

from __future__ import annotations

from collections import Counter

import pytest

from ee_trl import EmpathyDataSelector, load_sample
from ee_trl.axes import QUADRANTS
from ee_trl.errors import FormatError


EMOTIONS = {
    *("afraid", "angry", "annoyed", "anticipating", "anxious", "apprehensive", "ashamed", "caring", "confident"),
    *("content", "devastated", "disappointed", "disgusted", "embarrassed", "excited", "faithful", "furious"),
    *("grateful", "guilty", "hopeful", "impressed", "jealous", "joyful", "lonely", "nostalgic", "prepared", "proud"),
    *("sad", "sentimental", "surprised", "terrified", "trusting"),
}


def test_sample_has_all_emotions_all_quadrants_and_no_repeats() -> None:
    sample = load_sample()
    assert len(sample) >= 300
    assert set(sample["emotion"]) == EMOTIONS
    intended = Counter(quadrant for row in sample["intended"] for quadrant in row)
    assert set(intended) == set(QUADRANTS)
    assert min(intended.values()) >= 40
    replies = [m["content"] for messages in sample["messages"] for m in messages if m["role"] == "assistant"]
    assert len(set(replies)) == len(replies) == sum(intended.values())


def test_sample_splits_are_disjoint_and_whole() -> None:
    train, test = set(load_sample("train")["dialogue_id"]), set(load_sample("test")["dialogue_id"])
    assert not train & test
    assert train | test == set(load_sample()["dialogue_id"])
    with pytest.raises(FormatError, match="valid: all, train, test"):
        load_sample("validation")  # type: ignore[arg-type]


def test_the_sample_is_scored_whole_and_in_all_quadrants() -> None:
    selector = EmpathyDataSelector("linear")
    scored = selector.score(load_sample())
    assert set(scored["score_status"]) == {"scored"}
    assert set(QUADRANTS) <= set(scored["quadrant"])


def test_scores_follow_what_the_replies_were_written_to_be() -> None:
    """Not a claim about the scorer: the two axes point the right way on replies that were written apart."""
    scored = EmpathyDataSelector("linear").score(load_sample()).to_pandas()
    turns = scored.groupby("row_index").cumcount()
    scored["intended_here"] = [row[i] for row, i in zip(scored["intended"], turns, strict=True)]
    means = scored.groupby("intended_here")[["sensibility", "rationality"]].mean()
    assert means.loc["sensibility", "sensibility"] > means.loc["rationality", "sensibility"] + 1
    assert means.loc["rationality", "rationality"] > means.loc["sensibility", "rationality"] + 1
