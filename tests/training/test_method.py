"""The whole method by one command: stages are reused while nothing that determines them changed, and resume."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from datasets import Dataset

from ee_trl import build_tiny_causal_lm, load_sample
from ee_trl.errors import EmpathyError
from ee_trl.recipes import efficient_empathy
from ee_trl.training.command_line import parse_recipe_args
from ee_trl.training.data import apart, content_of, read_rows
from ee_trl.training.method import EfficientEmpathy
from ee_trl.training.stages import Stage, Stages, digest_files


pytestmark = [pytest.mark.filterwarnings("ignore")]  # of the libraries that train

TINY = {"vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 1}
MODELS = ["base", "sensibility", "rationality", "union", "average", "moe_start", "moe"]
TRAINED = ["score", "select", "base", "sensibility", "rationality", "union", "average", "compose", "router"]
STAGES = [*TRAINED, *(f"evaluate_{name}" for name in MODELS)]
SMALL = [
    *("--max_steps", "3", "--disable_tqdm", "true", "--empathy_eval_samples", "12", "--empathy_eval_replies", "4"),
    *("--empathy_base_training", '{"max_steps": 3}', "--empathy_router_training", '{"max_steps": 3}'),
    *("--empathy_max_new_tokens", "4"),
]


STAGE = Stage("stage", Path("nowhere"), "sha256:0")


# ---- for real -------------------------------------------------------------------------------------------------------


def prepared(*options: str) -> EfficientEmpathy:
    on_cpu = ("--bf16", "false", "--use_cpu", "true")
    return EfficientEmpathy(*parse_recipe_args(efficient_empathy.make_parser(), [*options, *on_cpu]))


def test_another_seed_holds_out_others_and_evaluates_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "rows.parquet"
    load_sample("train").to_parquet(data)
    seen: dict[str, dict[str, Any]] = {}

    def look(self: Stages, name: str, inputs: dict[str, Any], work: Any, **_: Any) -> None:
        seen[name] = inputs
        raise StopIteration

    monkeypatch.setattr(Stages, "run", look)
    for given, holdout in ((["--dataset", str(data)], [0, 1]), (["--dataset_test_split", "test"], [None, None])):
        for seed in (0, 1):
            run = prepared("--output_dir", str(tmp_path / "run"), "--empathy_seed", str(seed), *given)
            for stage in (run._score, lambda run=run: run._evaluate("base", STAGE, STAGE)):
                with pytest.raises(StopIteration):
                    stage()
            assert seen["score"]["holdout_seed"] == holdout[seed]
            assert seen["evaluate_base"]["seed"] == seed


def test_what_is_held_out_are_whole_conversations() -> None:
    talks = [[f"hello {i}", "oh", "well", f"bye {i}"] for i in range(40)]
    utterances = Dataset.from_list(
        [
            {"conv_id": f"c{i}", "utterance_idx": n, "speaker_idx": n % 2, "utterance": text, "context": "sad"}
            for i, talk in enumerate(talks)
            for n, text in enumerate(talk, start=1)
        ]
    )
    parts = apart(utterances, 0.2, 0)
    assert [len(parts[name]) for name in ("train", "test")] == [128, 32]
    assert not set(parts["train"]["conv_id"]) & set(parts["test"]["conv_id"])
    assert parts["test"]["utterance_idx"] == [1, 2, 3, 4] * 8  # none is torn apart
    turns = [{"context": talk[:n], "response": talk[n]} for talk in talks for n in (1, 3)] + [{"context": []}]
    parts = apart(Dataset.from_list(turns), 0.2, 0)
    firsts = {name: {row["context"][0] for row in part if row["context"]} for name, part in parts.items()}
    assert firsts["test"]
    assert not firsts["train"] & firsts["test"]
    with pytest.raises(EmpathyError, match="of 1 conversations leaves none on one side"):
        apart(utterances.select(range(4)), 0.2, 0)


def test_data_are_known_by_their_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file, a folder, a pattern and a home; sizes and names stay what they were."""
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "data" / "a.jsonl"
    file.parent.mkdir()
    named = [str(file), str(file.parent), f"{tmp_path}/data/*.jsonl", "~/data/a.jsonl", "~/data", "~/data/*.jsonl"]
    file.write_text("1")
    before = [content_of(name) for name in named]
    assert before[0] == before[3]
    assert before[1] == before[4]
    (file.parent / "cache-1.arrow").write_text("of the library's")
    assert [content_of(name) for name in named] == before
    file.write_text("2")
    assert not set(before) & {content_of(name) for name in named}
    assert content_of("owner/name") == "owner/name"


def test_a_given_base_is_known_by_its_tokenizer_too(tmp_path: Path) -> None:
    base = build_tiny_causal_lm(tmp_path / "base")
    run = prepared("--output_dir", str(tmp_path / "run"), "--model_name_or_path", str(base))
    found = [run._base(STAGE).digest]
    for name in ("chat_template.jinja", "tokenizer_config.json", "generation_config.json", "tokenizer.model"):
        (base / name).write_text("{}")
        found.append(run._base(STAGE).digest)
    assert len(set(found)) == 5


def test_the_revision_of_a_base_is_the_one_that_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        "ee_trl.moe.checkpoint.snapshot_download", lambda *a, **k: asked.append(k["revision"]) or tmp_path
    )
    options = ["--output_dir", str(tmp_path / "run"), "--model_name_or_path", "owner/model", "--model_revision", "v2"]
    run = prepared(*options, "--empathy_moe", '{"gate_init": "zeros"}')
    base = run._base(STAGE)
    for make in (run._average, lambda experts, base: run._compose(experts, base, STAGE)):
        with pytest.raises((EmpathyError, OSError)):  # there is nothing in the folder
            make({"sensibility": STAGE, "rationality": STAGE}, base)
    assert asked == ["v2"] * 3


def test_an_averaged_model_does_not_depend_on_where_its_base_lies(tmp_path: Path) -> None:
    found = set()
    for place in ("here", "there"):
        models = [build_tiny_causal_lm(tmp_path / place / str(i), seed=i, **TINY) for i in range(3)]
        base, *pair = (Stage(name, model, digest_files(model)) for name, model in zip("bcd", models, strict=True))
        run = prepared("--output_dir", str(tmp_path / place / "run"), "--model_name_or_path", str(base.folder))
        found.add(run._average(dict(zip(("sensibility", "rationality"), pair, strict=True)), base).digest)
    assert len(found) == 1


def test_rows_that_score_refuses_are_in_no_set_and_counted(tmp_path: Path) -> None:
    """Also where the data set has scores for them, since their text is not what the file says."""
    scores = [{"sensibility": 9, "rationality": 1}, {"sensibility": 1, "rationality": 9}]
    texts = [f"oh no {i}" + "\ud83d" * (i % 10 == 0) for i in range(40)]  # half of an emoji
    rows = [{"context": [f"I am sad {i}"], "response": text, **scores[i % 2]} for i, text in enumerate(texts)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = ("--dataset", str(tmp_path / "rows.jsonl"), "--empathy_holdout", "0.25")
    run = prepared("--output_dir", str(tmp_path / "run"), *found)
    score = run._score()
    train, test = (read_rows(score.folder / f"{name}.parquet") for name in ("train", "test"))
    assert (len(train), len(test)) == (30, 10)
    refused = [rows["source_error"][:].count("invalid_text") for rows in (train, test)]
    assert sum(refused) == 4
    selection = json.loads((run._select(score).folder / "selection.json").read_text())
    assert selection["counts"]["union"] == {"kept": 30 - refused[0], "unscored": refused[0]}
    eval_set, quadrants = run._held_out
    assert len(eval_set) == len(quadrants) == 10 - refused[1]
    assert all(dialogue.response.isascii() for dialogue in eval_set.dialogues)


def run(folder: Path, *args: str) -> None:
    efficient_empathy.main(*parse_recipe_args(efficient_empathy.make_parser(), ["--output_dir", str(folder), *args]))


def said_of(text: str) -> dict[str, str]:
    """Stage -> what it did."""
    return dict(re.findall(r"^\[(\w+)\] (reused|runs|was interrupted)", text, flags=re.MULTILINE))


@pytest.mark.slow
def test_the_whole_chain_on_the_embedded_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As `make efficient-empathy` does it, in five minutes of a core; each model is evaluated on the same rows."""
    started = time.process_time()  # the wall clock is that of everything else on the machine, too
    run(tmp_path, "--disable_tqdm", "true")
    assert time.process_time() - started < 300
    assert said_of(capsys.readouterr().out) == dict.fromkeys(STAGES, "runs")
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report["models"]) == MODELS
    samples = {json.dumps(found["samples"]) for found in report["models"].values()}
    assert len(samples) == 1
    assert report["selection"]["sets"]["union"] == sum(report["selection"]["sets"][n] for n in MODELS[1:3])
    loss = {name: found["loss"]["all"] for name, found in report["models"].items()}
    assert loss["moe"] < loss["moe_start"]  # the router's training helped on what it has not seen
    assert loss["base"] < 6.5  # of 7.6 for a model that knows nothing
    page = (tmp_path / "report.md").read_text()
    assert all(f"| {name} |" in page for name in MODELS)
    for picture in ("plane.png", "router_report.png"):
        assert (tmp_path / picture).stat().st_size > 10_000


@pytest.mark.slow
def test_killed_it_resumes_and_a_change_redoes_what_depends_on_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed while an expert trains: what was done is reused, the expert goes on from its checkpoint."""
    options = [*SMALL, "--max_steps", "40", "--save_steps", "4"]
    command = [sys.executable, str(ROOT / "recipes" / "efficient_empathy.py"), *options, "--output_dir", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("sensibility-*/checkpoint-*/trainer_state.json")):
        assert process.poll() is None, "ended before the expert's first checkpoint"
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run(tmp_path, *options)
    said = said_of(capsys.readouterr().out)
    assert [name for name in STAGES if said[name] == "reused"] == ["score", "select", "base"]
    assert said["sensibility"] == "was interrupted"

    run(tmp_path, *options)
    assert said_of(capsys.readouterr().out) == dict.fromkeys(STAGES, "reused")

    for name in ("average", "compose", "router"):  # killed when they were whole, but before they were recorded
        [record] = (tmp_path / ".stages").glob(f"{name}-*.json")
        record.unlink()
    run(tmp_path, *options)
    said = said_of(capsys.readouterr().out)
    assert {name for name, what in said.items() if what == "was interrupted"} == {"average", "compose", "router"}
    assert list(said.values()).count("reused") == len(STAGES) - 3

    run(tmp_path, *options, "--empathy_router_training", '{"max_steps": 4}')
    text = capsys.readouterr().out
    assert {name for name, what in said_of(text).items() if what == "runs"} == {"router", "evaluate_moe"}
    assert "training.max_steps: 3 -> 4" in text
    assert "Report: " in text.splitlines()[-1]

    run(tmp_path, *options[:-4], "--max_steps", "3", "--empathy_threshold", "6")
    assert {name for name, what in said_of(capsys.readouterr().out).items() if what == "reused"} == {"score", "base"}


@pytest.mark.slow
def test_two_processes_do_the_whole_chain_together(tmp_path: Path) -> None:
    """Experts and router are trained by both; the rest is the main process's, and the other waits for it."""
    script = str(ROOT / "recipes" / "efficient_empathy.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29677"]
    done = subprocess.run(
        [*command, script, *SMALL, "--output_dir", str(tmp_path)], capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert said_of(done.stdout) == dict.fromkeys(STAGES, "runs")  # each is said once
    assert list(json.loads((tmp_path / "report.json").read_text())["models"]) == MODELS
    [record] = (tmp_path / ".stages").glob("router-*.json")
    assert json.loads(record.read_text())["inputs"]["processes"] == 2
