"""The evidence: what the runs read, what is run, and that the page's tables are those of the raw results."""

from __future__ import annotations

import importlib.util
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


@pytest.mark.parametrize("table", ["plan", "chat_plan"])
def test_runs_come_after_those_they_need_and_have_their_size(table: str) -> None:
    import plan

    runs = getattr(plan, table)(1_000)
    assert [name for name in runs if name.partition("-")[0] == "random"] == ["random", "random-1", "random-2"]
    assert all(run.options["empathy_n"] == 1_000 for run in runs.values() if "empathy_n" in run.options)
    seen: set[str] = set()
    for run in runs.values():
        assert seen.issuperset(run.needs), run.name
        seen.add(run.name)


def test_the_tables_are_those_of_the_results() -> None:
    import tables

    page = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
    assert tables.rendered(page, RESULTS) == page, "run benchmarks/evidence again: it makes the tables anew"
    assert len(tables._MARKED.findall(page)) == 13
    assert "not run yet" not in page


def test_tokens_go_on_where_a_run_was_cut_off() -> None:
    import training

    begun = [{"step": 2, "num_tokens": 10.0}, {"step": 2, "eval_loss": 1.0, "eval_num_tokens": 10.0}]
    whole = [*begun, {"step": 4, "num_tokens": 25.0}, {"step": 4, "train_runtime": 1.0}]
    resumed = [*begun, {"step": 4, "num_tokens": 15.0}, {"step": 4, "train_runtime": 1.0}]
    assert training.tokens_seen(whole) == [10, 10, 25, 25]
    assert training.tokens_seen(resumed, [2]) == [10, 10, 25, 25]


def test_differences_at_a_like_length_leave_out_what_length_does() -> None:
    import measures
    import numpy as np

    rng = np.random.default_rng(0)
    short, long = rng.integers(0, 4, 4_000), rng.integers(2, 6, 4_000)
    a, b = short + rng.normal(size=4_000), long + 0.5 + rng.normal(size=4_000)
    found = measures.matched(a, b, short, long)
    assert b.mean() - a.mean() > 2
    assert found["difference"] == pytest.approx(0.5, abs=0.1)
    assert found["interval"][0] < found["difference"] < found["interval"][1]
    assert measures.matched(a, a, short, short)["difference"] == 0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--only", "sensibilty"], "there is no run 'sensibilty'; there are: before training; full; sensibility; "),
        (["--model", "scratch", "--only", "top by S"], "there is no run 'top by S'; there are: full; sensibility; "),
        (["--again", "nothing"], "there is no run 'nothing'"),
        (["--jobs", "0"], "--jobs 0 is not a number above 0"),
        (["--epochs", "nan"], "--epochs nan is not a number above 0"),
        (["--max-length", "-1"], "--max-length -1 is not a number above 0"),
        (["--model", "some/model"], "--model and --config go together"),
        (["--judged", "nowhere.parquet"], "there is no judged validation split 'nowhere.parquet'"),
    ],
)
def test_what_would_fail_late_is_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], told: str
) -> None:
    command = evidence_command()
    for name in ("ed_train.parquet", "ed_validation_scored.parquet", "ed_test.parquet"):
        (tmp_path / name).touch()
    with pytest.raises(SystemExit):
        command.parse([str(tmp_path), "--encoder", "folder", *options])
    assert told in capsys.readouterr().err


def test_results_are_the_pages_only_if_asked(tmp_path: Path) -> None:
    command = evidence_command()
    for name in ("ed_train.parquet", "ed_validation_scored.parquet", "ed_test.parquet"):
        (tmp_path / name).touch()
    words = [str(tmp_path), "--encoder", "folder", "--work", str(tmp_path / "work")]
    assert command.parse(words).results == tmp_path / "work" / "results"
    assert command.parse([*words, "--page", "--model", "scratch"]).results == RESULTS
    assert command.parse([*words, "--page"]).results == RESULTS / "smollm2"


def evidence_command() -> ModuleType:
    pytest.importorskip("nltk")
    spec = importlib.util.spec_from_file_location("evidence_command", FOLDER / "__main__.py")
    assert spec is not None
    assert spec.loader is not None
    command = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(command)
    return command


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


def test_the_chat_models_runs_have_their_raw_results() -> None:
    from plan import chat_plan

    folder = RESULTS / "smollm2"
    set_up = json.loads((folder / "set_up.json").read_text(encoding="utf-8"))
    known = chat_plan(set_up["scored"]["sensibility"])
    found = [json.loads(path.read_text(encoding="utf-8")) for path in (folder / "runs").glob("*.json")]
    assert {"full", "sensibility", "random"} <= {run["row"] for run in found}
    for run in found:
        plan = known[run["name"]]
        assert run["command"][0] == plan.recipe
        if run.get("steps"):
            assert run["steps"] == round(plan.steps * set_up["table"]["steps"]), run["name"]


def test_a_row_is_compared_with_all_seeds_of_random(tmp_path: Path) -> None:
    import chat_tables
    import numpy as np

    draw, n = np.random.default_rng(0), 60
    quadrants = [name for name in ("sensibility", "rationality", "balanced", "low") for _ in range(15)]
    numbers = {"conversations": [i // 2 for i in range(n)]}
    held_out = {"weights": [2.0] * 30 + [1.0] * 30, "others": ["posts"], "posts": numbers, "test": numbers}
    held_out["validation"] = {**numbers, "quadrants": quadrants}
    (tmp_path / "runs").mkdir()
    (tmp_path / "set_up.json").write_text(json.dumps({"held_out": held_out}), encoding="utf-8")
    nll, words = draw.uniform(20, 40, n), draw.integers(4, 20, n)
    for name, worse, longer in (("random", 0.0, 0), ("random-1", 0.1, 0), ("sensibility", 1.05, 4)):
        side = {"nll": (nll + worse).tolist(), "tokens": [10] * n}
        replies = {**dict.fromkeys(chat_tables.REPLIES, [0.0] * n), "words": (words + longer).tolist()}
        replies["explorations"] = ((words + longer) / 4).tolist()
        run = {"row": name.partition("-")[0], "measures": {"references": {"validation": side, "posts": side}}}
        run["measures"]["replies"] = replies
        (tmp_path / "runs" / f"{name}.json").write_text(json.dumps(run), encoding="utf-8")
    results = chat_tables.ChatResults(tmp_path)
    for group in ("all", "sensibility", "low", "other"):  # one nat more for ten tokens
        assert results.found("sensibility", "references", group).value == pytest.approx(100 * np.expm1(0.1), rel=1e-6)
    assert results.noise["references", "all"] == pytest.approx(100 * np.expm1(0.01), rel=1e-6)
    assert results.found("sensibility", "references", "all").noise < results.noise["references", "all"]
    assert results.found("sensibility", "references", "all").beyond
    assert results.found("sensibility", "replies", "explorations").value == pytest.approx(1)
    assert abs(results.found("sensibility", "like length", "explorations").value) < 0.3
    assert not results.found("random", "references", "all").beyond


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


def test_a_composed_model_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    import training
    from plan import plan

    run = plan(1)["mixture, untrained"]
    target = training.folder_of(run.name, tmp_path)
    target.mkdir(parents=True)
    training.train(run, tmp_path)  # nothing that it would be made of is there
    assert not [*target.iterdir()]


def test_of_a_mixture_the_gates_alone_are_trained_whatever_the_config_says(tmp_path: Path) -> None:
    import training
    from plan import plan

    table = {"config": "lora.yaml", "model": "some/model", "steps": 8, "batch": 4, "max_length": 64}
    (tmp_path / "table.json").write_text(json.dumps(table), encoding="utf-8")
    words = training.command_of(plan(1)["mixture"], tmp_path)
    assert words[words.index("--use_peft") + 1] == "False"
    assert "--use_peft" not in training.command_of(plan(1)["full"], tmp_path)
