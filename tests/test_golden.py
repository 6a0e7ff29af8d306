"""Holds what version 0.1.0 scored, stored, trained, printed and was called, as `scripts/freeze_golden.py` wrote it."""

from __future__ import annotations

import contextlib
import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import golden_cases as cases
import numpy as np
import pytest

import ee_trl
from ee_trl import EmpathyDataSelector


# what has no public name, and where it is now: the one place to adapt when a module moves
INTERNALS = {
    "FEATURE_VERSION": "ee_trl.scoring.features",
}


def internal(name: str) -> Any:
    return getattr(importlib.import_module(INTERNALS[name]), name)


def same_numbers(found: Any, frozen: Any, tolerance: float) -> None:
    one, other = (np.array(values, dtype=float) for values in (found, frozen))
    np.testing.assert_allclose(one, other, rtol=0, atol=tolerance)


# ---- scorers -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cases.unpack("models.tar.xz", tmp_path_factory.mktemp("golden"))


# how far scores may be apart; low precisions round by the CPU's kind
TOLERANCES = {"linear": 1e-9, "own": 0, "server": 1e-9, "server_text": 0, "judge_bfloat16": 0.3, "judge_int8": 0.3}


@pytest.mark.parametrize("name", cases.SCORERS)
def test_a_scorer_s_fingerprint_and_scores_are_those_of_0_1_0(name: str, models: Path) -> None:
    frozen, found = cases.read("scorers.json")[name], cases.scores_of(name, models)
    assert found["fingerprint"] == frozen["fingerprint"]
    assert found["rubric"] == frozen["rubric"]
    tolerance = TOLERANCES.get(name, 0.1 if "int8" in name else 1e-4)
    same_numbers(found["scores"], frozen["scores"], tolerance)
    assert list(found["details"]) == list(frozen["details"])
    for detail, values in frozen["details"].items():
        if not (detail.endswith("_mode") and tolerance > 1e-3):  # which jumps
            same_numbers(found["details"][detail], values, tolerance)


def test_every_scorer_is_frozen() -> None:
    assert set(cases.read("scorers.json")) == set(cases.SCORERS)


def test_the_version_of_the_features_and_the_rubrics_are_those_of_0_1_0() -> None:
    frozen = cases.read("fingerprints.json")
    assert internal("FEATURE_VERSION") == frozen["FEATURE_VERSION"]
    assert cases.rubrics() == frozen["rubrics"]


def test_the_tiny_model_is_that_of_0_1_0(tmp_path: Path) -> None:
    same_libraries()
    same(cases.tiny_model(tmp_path), cases.read("fingerprints.json")["tiny model"], 1e-4)


# ---- the score store -----------------------------------------------------------------------------------------------


class Known:
    """A scorer of a given name that may not be asked."""

    def __init__(self, scorer: Any) -> None:
        self.fingerprint, self.asked = scorer.fingerprint, 0
        self.details = getattr(scorer, "details", ())

    def score_with_details(self, dialogues: Any) -> Any:
        self.asked += len(dialogues)
        return self.score(dialogues), {name: np.zeros(len(dialogues)) for name in self.details}

    def score(self, dialogues: Any) -> Any:
        self.asked += len(dialogues)
        return np.zeros((len(dialogues), 2))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return Path(shutil.copyfile(cases.GOLDEN / "store" / "scores.sqlite", tmp_path / "scores.sqlite"))


@pytest.mark.parametrize("name", cases.STORED)
def test_scores_that_0_1_0_stored_are_found(name: str, store: Path, models: Path) -> None:
    with cases.made(name, models) as scorer:
        known = Known(scorer)
    found, frozen = cases.columns(cases.stored(known, store)), cases.read("store/rows.json")[name]
    assert known.asked == 0
    assert found == frozen


def test_a_store_of_0_1_0_is_added_to(store: Path) -> None:
    """What is not there is asked for; what could not be scored is asked for again where that is wanted."""
    own, selector = cases.Own(), cases.load_sample().select(range(8, 12))
    scored = EmpathyDataSelector(own, store=store, show_progress=False).score(selector)
    assert own.asked == len(scored)
    known = Known(own)
    cases.stored(known, store)
    assert known.asked == 0
    retrying = EmpathyDataSelector(known, store=store, retry_failures=True, show_progress=False)
    retrying.score(cases.stored_rows())
    assert known.asked == 1


# ---- runs ----------------------------------------------------------------------------------------------------------


def same_libraries() -> None:
    """Skips where the libraries are others: their settings are part of a run's record, their random numbers of it."""
    frozen, found = cases.read("libraries.json"), cases.libraries()
    plain = {name: (frozen[name].split("+")[0], found[name].split("+")[0]) for name in frozen}
    others = {name: pair for name, pair in plain.items() if pair[0] != pair[1]}
    if others:
        pytest.skip(f"the files were written with other versions of libraries: {others}")


def same(found: Any, frozen: Any, tolerance: float, where: str = "") -> None:
    """Equal, with the same keys in the same order, and numbers within a tolerance."""
    if isinstance(frozen, dict):
        assert isinstance(found, dict), where
        assert list(found) == list(frozen), where
        for key, value in frozen.items():
            same(found[key], value, tolerance, f"{where}/{key}")
    elif isinstance(frozen, list):
        assert isinstance(found, list), where
        assert len(found) == len(frozen), where
        for i, (one, other) in enumerate(zip(found, frozen, strict=True)):
            same(one, other, tolerance, f"{where}/{i}")
    elif isinstance(frozen, float) and not isinstance(found, bool) and found is not None:
        assert found == pytest.approx(frozen, abs=tolerance, rel=tolerance), where
    else:
        assert found == frozen, where


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the models and data of the runs."""
    monkeypatch.chdir(cases.workplace(tmp_path))
    return tmp_path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", cases.RUNS)
def test_a_run_that_0_1_0_left_half_finished_goes_on_and_ends_as_it_would_have(name: str, workplace: Path) -> None:
    same_libraries()
    recipe, options = cases.RUNS[name]
    cases.unpack(f"runs/{name}.tar.xz", workplace / "run")
    before = {path: path.read_bytes() for path in (workplace / "run" / "checkpoint-3").iterdir()}
    record = json.loads((workplace / "run" / "expert_run.json").read_text())
    assert record["status"] == "running"
    taken = []
    cases.recipe(recipe, *options, taken=taken)
    assert len(taken) == 3, "from the checkpoint on, and no further"
    found, frozen = cases.outcome(workplace / "run"), cases.read("runs/outcomes.json")[name]
    state = frozen.pop("state", None)
    assert set(frozen.pop("files")) - set(found.pop("files")) <= {"selection/plane.png"}, "which is made but once"
    same(found, frozen, 1e-4)
    assert json.loads((workplace / "run" / "expert_run.json").read_text()) == {**record, "status": "finished"}
    assert all(path.read_bytes() == content for path, content in before.items())
    if state:
        assert cases.shape(cases.online_state(workplace / "run" / "checkpoint-6")) == state


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", cases.RECORDS)
def test_a_run_writes_down_of_itself_what_it_did(name: str, workplace: Path) -> None:
    """By this a rerun is told from another run: whatever differs would refuse to go on with runs of 0.1.0."""
    same_libraries()
    assert cases.record(*cases.RECORDS[name]) == cases.read("runs/records.json")[name]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "option", ["--learning_rate=0.5", "--empathy_threshold=4", "--seed=1", "--dataset=rows.jsonl"]
)
def test_another_run_is_refused_in_the_folder_of_a_half_finished_one(option: str, workplace: Path) -> None:
    same_libraries()
    recipe, options = cases.RUNS["sft_sensibility"]
    cases.unpack("runs/sft_sensibility.tar.xz", workplace / "run")
    before = sorted((path, path.stat().st_mtime_ns) for path in (workplace / "run").rglob("*"))
    with pytest.raises(SystemExit) as stop:
        cases.recipe(recipe, *options, option)
    assert option[2:].split("=")[0] in str(stop.value)
    assert sorted((path, path.stat().st_mtime_ns) for path in (workplace / "run").rglob("*")) == before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_whole_method_goes_on_with_the_stages_that_0_1_0_made(workplace: Path) -> None:
    same_libraries()
    frozen = cases.read("runs/stages.json")
    if frozen["score"]["ee-trl"] != ee_trl.__version__:
        pytest.skip("stages of another version are made anew: it is a part of what they go by")
    cases.unpack("runs/efficient_empathy.tar.xz", workplace / "run")
    said = cases.recipe("efficient_empathy", *cases.PIPELINE)
    reused = [line.split("]")[0].strip("[") for line in said.splitlines() if "] reused" in line]
    assert tuple(reused) == cases.MADE_BEFORE
    found = cases.stages(workplace / "run")
    assert set(found) == set(frozen)
    for name, inputs in frozen.items():
        if name == "evaluate_moe":  # the router's digest, which is trained on this machine
            inputs["model"] = found[name]["model"]
        assert found[name] == inputs, name


# ---- names ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    return cases.names()


def test_every_name_of_0_1_0_is_there(names: dict[str, Any]) -> None:
    frozen = cases.read("names.json")
    assert set(frozen) == set(names)
    for kind in ("ee_trl.__all__", "metrics", "accelerate"):
        assert set(frozen[kind]) <= set(names[kind])
    for file, keys in frozen["configs"].items():
        assert set(keys) == set(names["configs"][file]), file


@pytest.mark.parametrize("command", cases.read("names.json")["commands"])
def test_every_option_of_0_1_0_is_there_and_takes_the_same(command: str, names: dict[str, Any]) -> None:
    found = names["commands"][command]
    for option, frozen in cases.read("names.json")["commands"][command].items():
        assert option in found, f"{command} {option}"
        now = dict(found[option])
        assert set(frozen.pop("choices") or ()) <= set(now.pop("choices") or ()), f"{command} {option}"
        assert now == frozen, f"{command} {option}"


@pytest.mark.parametrize("recipe", cases.read("names.json")["recipes"])
def test_every_key_of_a_recipe_of_0_1_0_is_there_with_its_default(recipe: str, names: dict[str, Any]) -> None:
    for key, frozen in cases.read("names.json")["recipes"][recipe].items():
        assert names["recipes"][recipe][key] == frozen, f"{recipe} {key}"


# ---- metrics -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(models: Path) -> Any:
    """The numbers of a metric, each computed once."""
    known: dict[str, Any] = {}

    def measure(name: str) -> Any:
        if name not in known:
            with contextlib.chdir(models):
                known[name] = cases.metric(name)
        return known[name]

    return measure


@pytest.mark.parametrize("name", cases.read("metrics.json"))
def test_a_metric_gives_the_numbers_of_0_1_0(name: str, measured: Any) -> None:
    frozen = cases.without_intervals(cases.read("metrics.json")[name])
    same(cases.without_intervals(measured(name)), frozen, 1e-4 if name in cases.METRICS else 1e-9)


@pytest.mark.parametrize("name", cases.read("metrics.json"))
def test_a_metric_gives_the_intervals_of_0_1_0(name: str, measured: Any) -> None:
    frozen = cases.intervals(cases.read("metrics.json")[name])
    assert frozen
    same(cases.intervals(measured(name)), frozen, 1e-4 if name in cases.METRICS else 1e-9)


# ---- commands ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a command came to, each run once."""
    known: dict[str, Any] = {}

    def run(name: str) -> Any:
        if name not in known:
            with contextlib.chdir(cases.desk(tmp_path_factory.mktemp("desk"))):
                known[name] = cases.command(name)
        return known[name]

    return run


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", cases.COMMANDS)
def test_a_command_prints_and_writes_what_it_did(name: str, ran: Any) -> None:
    found, frozen = dict(ran(name)), cases.read("commands.json")[name]
    assert set(frozen.pop("files")) <= set(found.pop("files"))
    if isinstance(printed := found.get("printed"), dict):  # 0.1.0 did not warn of a judge that answers alike
        found["printed"] = {key: value for key, value in printed.items() if key != "warnings"}
    same(cases.without_intervals(found), cases.without_intervals(frozen), 1e-4 if "judge" in name else 1e-6)


WITH_INTERVALS = [name for name, frozen in cases.read("commands.json").items() if cases.intervals(frozen)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", WITH_INTERVALS)
def test_a_command_gives_the_intervals_that_it_did(name: str, ran: Any) -> None:
    same(cases.intervals(ran(name)), cases.intervals(cases.read("commands.json")[name]), 1e-4)


def test_every_command_is_frozen(names: dict[str, Any]) -> None:
    """All but the one that is a demonstration of minutes; a new one is frozen the day it is added."""
    run = {" ".join(["ee-trl", *line.split()]) for line in cases.COMMANDS.values()}
    leaves = [
        name for name in names["commands"] if not any(other.startswith(f"{name} ") for other in names["commands"])
    ]
    assert [name for name in leaves if not any(line.startswith(name) for line in run)] == ["ee-trl quickstart"]
