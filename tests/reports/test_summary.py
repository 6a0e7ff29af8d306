"""The summary's numbers, by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, IterableDataset

from ee_trl import EmpathyDataSelector
from ee_trl.axes import AXES
from ee_trl.data.dialogue import REASONS
from ee_trl.reports.summary import Summary


# sensibility, rationality, emotion
SCORES = [(8, 2, "sad"), (8, 2, "sad"), (2, 8, "sad"), (2, 2, "joy"), (6, 6, "joy"), (5, 1, None), (None, None, "joy")]


def row(s: float | None, r: float | None, emotion: str | None = None) -> dict[str, Any]:
    return {"context": ["Hello."], "response": "Hi.", "sensibility": s, "rationality": r, "emotion": emotion}


@pytest.fixture
def selector(word_scorer: Any) -> EmpathyDataSelector:
    return EmpathyDataSelector(word_scorer, show_progress=False)


@pytest.fixture
def own() -> Dataset:
    return Dataset.from_list([row(*entry) for entry in SCORES])


def test_counts_and_shares(selector: EmpathyDataSelector, own: Dataset) -> None:
    summary = selector.summary(own)
    assert (summary.rows, summary.scored, summary.unscored) == (7, 6, {"scorer_gave_none": 1})
    assert {name: entry["count"] for name, entry in summary.quadrants.items()} == {
        "sensibility": 2,
        "rationality": 1,
        "balanced": 1,
        "low": 1,
        "tie": 1,
    }
    assert summary.quadrants["sensibility"]["share"] == pytest.approx(2 / 6)
    assert summary.scorers == ["given"]
    assert summary.threshold == [5, 5]


def test_numbers_of_the_axes(selector: EmpathyDataSelector) -> None:
    summary = selector.summary(Dataset.from_list([row(s, 4.0) for s in range(11)]))
    # 0 to 10: mean 5, variance (11^2 - 1) / 12 = 10
    assert summary.axes["sensibility"] == pytest.approx({"mean": 5, "std": 10**0.5, "p10": 1, "median": 5, "p90": 9})
    assert summary.axes["rationality"] == pytest.approx({"mean": 4, "std": 0, "p10": 4, "median": 4, "p90": 4})


def test_shares_by_emotion_highest_sensibility_first(selector: EmpathyDataSelector, own: Dataset) -> None:
    emotions = selector.summary(own).emotions
    assert list(emotions) == ["sad", "(none)", "joy"]
    assert emotions["sad"]["scored"] == 3
    assert emotions["sad"]["sensibility_share"] == pytest.approx(2 / 3)
    assert emotions["joy"]["scored"] == 2
    assert (emotions["joy"]["low_share"], emotions["joy"]["balanced_share"]) == (0.5, 0.5)
    assert emotions["(none)"]["tie_share"] == 1


def test_emotions_by_name_where_they_are_class_labels(selector: EmpathyDataSelector) -> None:
    data = Dataset.from_list([row(8, 2), row(2, 8)]).remove_columns("emotion").add_column("emotion", [1, 0])
    data = data.cast_column("emotion", ClassLabel(names=["joy", "sad"]))
    assert set(selector.summary(data).emotions) == {"joy", "sad"}


def test_no_emotions_without_that_column(selector: EmpathyDataSelector, own: Dataset) -> None:
    assert selector.summary(own.remove_columns("emotion")).emotions is None


def test_reasons_are_counted_and_explained(selector: EmpathyDataSelector) -> None:
    rows = [{"context": ["a"], "response": text} for text in ("fine", "", " ", None)] + [{"response": "x"}]
    summary = selector.summary(selector.score(Dataset.from_list(rows)))
    assert summary.unscored == {"empty_response": 2, "null_dialogue": 2}
    assert summary.scorers == ["words-1"]
    for reason in summary.unscored:
        assert REASONS[reason] in str(summary)


def test_threshold_and_ties_are_the_selectors(word_scorer: Any, own: Dataset) -> None:
    high = EmpathyDataSelector(word_scorer, threshold=(7, 7), ties="high").summary(own)
    assert high.threshold == [7, 7]
    assert high.quadrants["balanced"]["count"] == 0
    low = EmpathyDataSelector(word_scorer, ties="low").summary(own)
    assert (low.quadrants["tie"]["count"], low.quadrants["low"]["count"]) == (0, 2)


def test_agrees_with_selection_and_sweep(selector: EmpathyDataSelector, own: Dataset) -> None:
    summary = selector.summary(own)
    [at_five] = [entry for entry in selector.sweep(own) if entry["threshold"] == 5]
    for name, entry in summary.quadrants.items():
        assert entry["count"] == at_five[name] == len(selector.select(own, keep=name))


def test_empty_data_set(selector: EmpathyDataSelector, own: Dataset) -> None:
    summary = selector.summary(own.select([]))
    assert (summary.rows, summary.scored, summary.axes) == (0, 0, {})
    assert str(summary).startswith("0 samples, 0 scored")


def test_one_summary_for_each_split(selector: EmpathyDataSelector, own: Dataset) -> None:
    summaries = selector.summary(DatasetDict(train=own, test=own.select([0])))
    assert {name: summary.rows for name, summary in summaries.items()} == {"train": 7, "test": 1}


def test_same_of_streams_and_files(selector: EmpathyDataSelector, own: Dataset, tmp_path: Path) -> None:
    expected = selector.summary(own)
    own.to_parquet(tmp_path / "own.parquet")
    for stream in (own.to_iterable_dataset(), IterableDataset.from_generator(lambda: iter(own.to_list()))):
        assert selector.summary(stream) == selector.summary(stream.with_format("arrow")) == expected
    assert selector.summary(tmp_path / "own.parquet") == expected


def test_plain_types_for_machines(selector: EmpathyDataSelector, own: Dataset) -> None:
    summary = selector.summary(own)
    assert Summary(**json.loads(json.dumps(summary.to_dict()))) == summary


def test_printed_lines(selector: EmpathyDataSelector, own: Dataset) -> None:
    text = str(selector.summary(own))
    assert text.splitlines()[0] == "7 samples, 6 scored (85.7%) by given"
    for expected in ("quadrants at T = 5", *AXES, "sad", "joy", "33.3%"):
        assert expected in text


def test_published_scores(real_data: Path, selector: EmpathyDataSelector) -> None:
    summary = selector.summary(real_data / "ed_validation_scored.parquet")
    assert (summary.rows, summary.scored) == (5734, 5734)
    assert summary.quadrants["sensibility"]["count"] == 3473
    assert summary.quadrants["rationality"]["count"] == 393
    assert len(summary.emotions) == 32
