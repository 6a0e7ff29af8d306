"""Pairs for DPO and records for Argilla, from scored replies; and scorers that take pairs of texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import WordScorer
from datasets import Dataset
from same_dialogues import messages

from ee_trl import EmpathyDataSelector, load_scorer
from ee_trl.cli.main import main
from ee_trl.data.dialogue import Dialogue
from ee_trl.data.export import argilla_records, preference_pairs
from ee_trl.data.reading import open_dataset
from ee_trl.errors import EmpathyError, FormatError, ScoresError


REPLIES = ["Oh no.", "I am so sorry to hear that.", "What? Why?", "I am so very sorry, what a day."]
ROWS = [
    *({"context": ["I lost my job."], "response": reply, "emotion": "sad"} for reply in REPLIES),
    {"context": ["I won!"], "response": "Great!", "emotion": "proud"},
    {"context": ["I won!"], "response": "Great!", "emotion": "proud"},
    {"context": ["Hi.", "Hello.", "I am ill."], "response": "Oh.", "emotion": None},
    {"context": ["Hi.", "Hello.", "I am ill."], "response": "", "emotion": None},
    {"context": ["Hi.", "Hello.", "I am ill."], "response": "Get well soon.", "emotion": None},
]


@pytest.fixture(scope="module")
def scored() -> Dataset:
    return EmpathyDataSelector(WordScorer()).score(Dataset.from_list(ROWS))


def test_pairs_of_each_context_with_several_scores(scored: Dataset) -> None:
    pairs = list(preference_pairs(scored))
    assert [(p["chosen"][0]["content"], p["rejected"][0]["content"]) for p in pairs] == [
        (REPLIES[3], REPLIES[0]),
        ("Get well soon.", "Oh."),
    ]
    assert pairs[0]["prompt"] == messages("I lost my job.")
    assert pairs[1]["prompt"] == messages("Hi.", "Hello.", "I am ill.")
    assert (pairs[0]["chosen_sensibility"], pairs[0]["rejected_sensibility"]) == (8.0, 2.0)
    [pair] = preference_pairs(scored, "rationality")
    assert pair["chosen"][0]["content"] == REPLIES[2]
    assert list(preference_pairs(scored.to_iterable_dataset())) == pairs


def test_flagged_reply_is_never_chosen_over_another(scored: Dataset) -> None:
    flags = ["hostile" if row["response"] == REPLIES[3] else None for row in ROWS]
    pair = next(preference_pairs(scored.add_column("score_flag", flags)))  # type: ignore[call-arg]
    assert (pair["chosen"][0]["content"], pair["rejected"][0]["content"]) == (REPLIES[1], REPLIES[3])


def test_pairs_need_scores_and_a_known_axis(scored: Dataset) -> None:
    with pytest.raises(EmpathyError, match="axis"):
        list(preference_pairs(scored, "charm"))
    with pytest.raises(ScoresError):
        list(preference_pairs(Dataset.from_list(ROWS)))


def test_records_for_argilla(scored: Dataset) -> None:
    records = argilla_records(scored)
    assert len(records) == len(ROWS) - 1
    assert records[1] == {
        "id": "1",
        "fields": {"context": messages("I lost my job."), "response": REPLIES[1]},
        "suggestions": {
            "sensibility": {"value": 7, "agent": "words-1"},
            "rationality": {"value": 0, "agent": "words-1"},
        },
        "metadata": {"sensibility": 7.0, "rationality": 0.0, "quadrant": "sensibility", "emotion": "sad"},
    }


def test_formats_of_the_command(scored: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "scored.parquet"
    scored.to_parquet(path)

    def select(*options: str) -> int:
        return main(["select", str(path), "-q", *options])

    assert select("-o", str(tmp_path / "a.json"), "--format", "argilla") == 0
    records = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert [record["metadata"]["quadrant"] for record in records] == ["sensibility"] * 2
    assert select("-o", str(tmp_path / "a.jsonl"), "--format", "argilla") == 3
    assert select("-o", str(tmp_path / "pairs.parquet"), "--format", "dpo") == 0
    pairs = open_dataset(tmp_path / "pairs.parquet")
    assert pairs.to_list() == list(preference_pairs(scored))
    assert select("-o", str(tmp_path / "more.jsonl"), "--format", "dpo", "--axis", "rationality") == 0
    assert "1 pairs by rationality" in capsys.readouterr().out


def test_scorer_takes_pairs_like_a_cross_encoder() -> None:
    scorer: Any = load_scorer("linear")
    turns = ("Hi.", "Hello.", "I lost my job.")
    pairs = [("I lost my job.", REPLIES[1]), (list(turns), REPLIES[1]), (messages(*turns), REPLIES[2])]
    found = scorer.predict(pairs)
    expected = scorer.score(
        [
            Dialogue(("I lost my job.",), REPLIES[1], ("user",)),
            Dialogue(turns, REPLIES[1], ("user", "assistant", "user")),
            Dialogue(turns, REPLIES[2], ("user", "assistant", "user")),
        ]
    )
    np.testing.assert_array_equal(found, expected)
    assert found.shape == (3, 2)
    assert scorer.predict([]).shape == (0, 2)
    assert scorer.predict(("I lost my job.", "Oh.")).shape == (2,)
    for wrong in ([("I lost my job.",)], ["I lost my job."], [("a", "b", "c")]):
        with pytest.raises(FormatError, match="is not a pair"):
            scorer.predict(wrong)
    with pytest.raises(FormatError):
        scorer.predict([(None, "Oh.")])
