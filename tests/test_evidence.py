"""The evidence: what the runs read, what is run, and that the page's tables are those of the raw results."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT


FOLDER = ROOT / "benchmarks" / "evidence"
RESULTS = ROOT / "benchmarks" / "results" / "evidence"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.fixture
def data() -> ModuleType:
    pytest.importorskip("nltk")
    import data

    return data


def row(*turns: str) -> dict[str, object]:
    return {"context": list(turns[:-1]), "response": turns[-1], "emotion": "proud"}


@pytest.mark.parametrize(
    ("typed", "plain"),
    [
        ("That's great! I didn't know.", "that is great ! i did not know ."),
        ("My friend. It was 3.5 miles", "my friend . it was 3.5 miles"),
        ("don’t ask", "do not ask"),
        ("", ""),
    ],
)
def test_typed_text_becomes_that_of_the_held_out_splits(data: ModuleType, typed: str, plain: str) -> None:
    assert data.plain_text(typed) == plain
    assert data.plain_text(plain) == plain


def test_no_pair_twice_and_nothing_of_the_held_out_splits(data: ModuleType) -> None:
    rows = [row("a", "b"), row("a", "b"), row("a", "c"), row("x", "y", "z", "b"), row("a", "")]
    kept, gone = data.without_repeats(rows, [row("x", "other")])
    assert kept == [rows[0], rows[2]]
    assert gone == {"the same pair once more": 1, "its conversation begins as a held-out one": 1, "no reply": 1}


@pytest.mark.parametrize(("most", "left"), [(100, 5), (40, 5), (39, 4), (20, 3), (19, 2), (5, 1)])
def test_the_oldest_turns_go_first_and_the_last_stays(data: ModuleType, most: int, left: int) -> None:
    long = row("a", "b", "c", "d", "e", "reply")
    found = data.cut(long, [10, 10, 5, 5, 5, 5], most)
    assert found["context"] == long["context"][-len(found["context"]) :]
    assert len(found["context"]) == left
    assert found["response"] == "reply"


def test_runs_come_after_those_they_need_and_have_their_size() -> None:
    from plan import plan

    runs = plan(1_000)
    assert [name for name in runs if name.startswith("random")] == ["random", "random-1", "random-2"]
    assert all(run.options["empathy_n"] == 1_000 for run in runs.values() if "empathy_n" in run.options)
    seen: set[str] = set()
    for run in runs.values():
        assert seen.issuperset(run.needs), run.name
        seen.add(run.name)


def test_the_tables_are_those_of_the_results() -> None:
    import tables

    page = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
    assert tables.rendered(page, RESULTS) == page, "run benchmarks/evidence again: it makes the tables anew"
    assert len(tables._MARKED.findall(page)) == 7


def test_every_run_that_is_told_of_has_its_raw_result() -> None:
    from plan import plan

    set_up = json.loads((RESULTS / "set_up.json").read_text(encoding="utf-8"))
    known = plan(set_up["scored"]["quadrants"]["sensibility"])
    for path in (RESULTS / "runs").glob("*.json"):
        found = json.loads(path.read_text(encoding="utf-8"))
        run = known[found["name"]]
        share = run.steps * set_up["table"]["steps"]
        if found.get("steps") and not run.epochs:
            assert found["steps"] == round(share), found["name"]


def test_the_hubs_utterances_give_the_rows_of_the_files(data: ModuleType, tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    turns = ["I'm sad.", "Oh no, why?", "My dog died. He was old", "Sorry!"]
    raw = [
        {"conv_id": "c:1", "utterance_idx": i, "context": "sad", "prompt": "My dog died", "speaker_idx": i % 2,
         "utterance": turn, "selfeval": "", "tags": ""}
        for i, turn in enumerate(turns, 1)
    ]  # fmt: skip
    DatasetDict(train=Dataset.from_list(raw)).save_to_disk(tmp_path / "hub")
    pairs = [{"context": turns[:1], "response": turns[1]}, {"context": turns[:3], "response": turns[3]}]
    Dataset.from_list([{**pair, "emotion": "sad"} for pair in pairs]).to_parquet(tmp_path / "file.parquet")
    found = data.read_typed(str(tmp_path / "hub"), "train")
    assert found == data.read_typed(str(tmp_path / "file.parquet"))
    assert found[1]["context"] == ["i am sad .", "oh no , why ?", "my dog died . he was old"]
    assert [row["emotion"] for row in found] == ["sad", "sad"]
