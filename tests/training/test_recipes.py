"""The recipes, run for real on a tiny model: what they select, save, resume and refuse."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from conftest import ROOT
from datasets import Dataset
from safetensors.torch import load_file
from trl import SFTConfig, SFTTrainer

from ee_trl import EmpathyDataSelector, build_tiny_causal_lm, compose_moe, load_sample
from ee_trl.data.samples import all_dialogues
from ee_trl.errors import CoverageError, EmpathyError, FormatError
from ee_trl.recipes import efficient_empathy, sft_moe, sft_online, sft_rationality, sft_sensibility
from ee_trl.scoring import encoder
from ee_trl.training.command_line import parse_recipe_args
from ee_trl.training.data import untrained
from ee_trl.training.run import RECORD, RecipeRun


# of the libraries that a recipe runs, not of this package
pytestmark = [pytest.mark.filterwarnings("ignore")]

EXPERTS = {"sft_sensibility": sft_sensibility, "sft_rationality": sft_rationality}
RECIPES = {**EXPERTS, "sft_online": sft_online, "sft_moe": sft_moe, "efficient_empathy": efficient_empathy}
CONFIGS = sorted((ROOT / "recipes" / "configs").glob("*.yaml"))


def recipes_of(config: Path) -> list[str]:
    """A config is for the recipe that its launch command names; one of an expert's is for every expert's."""
    [named] = [name for name in RECIPES if f" recipes/{name}.py " in config.read_text().splitlines()[0]]
    return list(EXPERTS) if named in EXPERTS else [named]


PAIRS = [
    pytest.param(
        name, config, marks=[pytest.mark.slow] if name == "efficient_empathy" or "smollm2" in config.name else []
    )
    for config in CONFIGS
    for name in recipes_of(config)
]
SAID = {
    ("user", 0): "My dog {} died last night and I can't stop crying.",
    ("assistant", 0): "Oh no, I am so sorry to hear that. How old was dog {}?",
    ("user", 1): "He was with me for {} years. The house is so quiet now.",
    ("assistant", 1): "That must be really hard. You gave him {} good years.",
}
QUICK = ["--max_steps", "3", "--logging_steps", "1", "--disable_tqdm", "true"]
NO_OPTIONS = ["--empathy_policy_options", "{}", "--empathy_warmup", "0"]


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_causal_lm(tmp_path_factory.mktemp("model"), hidden_size=32, num_hidden_layers=2)


def run(recipe: Any, *args: str) -> None:
    recipe.main(*parse_recipe_args(recipe.make_parser(), list(args)))


def weights(folder: Path) -> bytes:
    return next(iter(sorted(folder.glob("*.safetensors")))).read_bytes()


def draws(folder: Path) -> dict[str, list[Any]]:
    return pq.read_table(folder / "empathy_draws.parquet").to_pydict()


def selection(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "selection" / "selection.json").read_text())


def test_every_recipe_is_tested() -> None:
    assert {path.stem for path in (ROOT / "recipes").glob("*.py")} - {"__init__"} == set(RECIPES)
    assert {name for config in CONFIGS for name in recipes_of(config)} == set(RECIPES)


@pytest.mark.parametrize("name", EXPERTS)
def test_without_arguments_it_trains_on_the_embedded_sample_and_says_so(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "expert"
    run(RECIPES[name], "--output_dir", str(out), *QUICK)
    axis = name.removeprefix("sft_")
    assert "tiny CPU demonstration" in caplog.text
    assert "--dataset" in caplog.text

    selector = EmpathyDataSelector()
    expected = selector.select(selector.score(load_sample("train")), keep=axis)
    selected = pq.read_table(out / "selection" / "selected.parquet")
    assert selected.column("prompt").to_pylist() == expected["prompt"][:]
    assert selection(out)["counts"]["kept"] == len(expected)
    assert selection(out)["dataset"] == "embedded sample"

    card = (out / "README.md").read_text()
    assert "## Training data: what was selected, and why" in card
    assert f"| `kept` | {len(expected)} |" in card
    assert selector.scorer.fingerprint in card
    lonely = expected["emotion"][:].count("lonely")
    assert re.search(rf"^\| lonely \| \d+ \| {lonely} \|", card, flags=re.MULTILINE)
    assert "cross-validated Spearman" in card
    head = yaml.safe_load(card.split("\n---\n")[0].removeprefix("---"))
    assert "ee-trl" in head["tags"]
    assert not {"licence", "datasets"} & set(head)  # no placeholder; the embedded sample is not on the hub
    assert (out / "model.safetensors").exists()
    assert (out / "selection" / "plane.png").exists()


@pytest.mark.parametrize(("name", "config"), PAIRS, ids=lambda value: getattr(value, "stem", value))
def test_every_config_runs_with_a_tiny_model_on_cpu(name: str, config: Path, tiny_model: Path, tmp_path: Path) -> None:
    """All settings as they are, quantization and LoRA too; only the model and the number of steps differ."""
    out = tmp_path / "expert"
    model = (
        compose_moe(tiny_model, dict.fromkeys("ab", tiny_model), tmp_path / "moe") if name == "sft_moe" else tiny_model
    )
    args = ["--model_name_or_path", str(model), "--use_cpu", "true", "--output_dir", str(out)]
    if name == "efficient_empathy":
        args += ["--empathy_eval_samples", "8", "--empathy_eval_replies", "4"]
        args += ["--empathy_router_training", '{"max_steps": 3, "logging_steps": 1}']
    run(RECIPES[name], "--config", str(config), *args, *QUICK)
    settings = yaml.safe_load(config.read_text())
    if name == "efficient_empathy":
        assert (out / "report.md").exists()
        [out] = out.glob("sensibility-*")
    if name == "sft_moe":
        assert not (out / "adapter_config.json").exists()
        assert (out / "router_report.md").exists()
    elif settings.get("use_peft"):
        adapter = json.loads((out / "adapter_config.json").read_text())
        assert adapter["r"] == settings["lora_r"] == (16 if "smollm2" in config.name else 8)
        assert set(adapter["target_modules"]) == set(settings["lora_target_modules"])
        assert len(settings["lora_target_modules"]) == 7
    losses = [e["loss"] for e in json.loads((out / "trainer_state.json").read_text())["log_history"] if "loss" in e]
    assert len(losses) == 3


def test_the_paper_s_settings_are_the_paper_s() -> None:
    settings = yaml.safe_load((ROOT / "recipes/configs/lora_8b.yaml").read_text())
    paper = {"lora_r": 8, "lora_alpha": 32, "lora_dropout": 0.1, "learning_rate": 1e-4, "num_train_epochs": 1}
    paper |= {"per_device_train_batch_size": 16, "max_length": 512, "completion_only_loss": True}
    assert {name: settings[name] for name in paper} == paper


@pytest.mark.parametrize("name", ["tiny_cpu", "qlora_8b", "lora_8b"])
def test_the_online_configs_differ_in_the_policy_alone(name: str) -> None:
    offline, online = (
        yaml.safe_load((ROOT / f"recipes/configs/{stem}.yaml").read_text()) for stem in (name, f"online_{name}")
    )
    assert {key: value for key, value in online.items() if not key.startswith("empathy_")} == offline


@pytest.mark.parametrize("config", sorted((ROOT / "recipes/accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_accelerate_file_is_one(config: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    loaded = load_config_from_file(str(config))
    assert loaded.num_processes == 8
    assert str(loaded.distributed_type).split(".")[-1] in ("FSDP", "DEEPSPEED", "MULTI_GPU")


def test_each_config_says_its_launch_command_first() -> None:
    for config in CONFIGS:
        first = config.read_text().splitlines()[0]
        assert first.startswith("# accelerate launch ")
        assert any(f" recipes/{name}.py " in first for name in RECIPES)
        assert f"--config recipes/configs/{config.name}" in first


@pytest.mark.parametrize("given", ["parquet", "scored", "own_scores", "messages_jsonl", "folder"])
def test_any_data_set_can_be_trained_on(given: str, tiny_model: Path, tmp_path: Path) -> None:
    selector = EmpathyDataSelector()
    sample = load_sample("train")
    path = tmp_path / f"data.{'jsonl' if given == 'messages_jsonl' else 'parquet'}"
    if given == "parquet":
        sample.to_parquet(path)
    elif given == "messages_jsonl":
        sample.select_columns(["messages"]).to_json(path)
    elif given == "folder":
        path = tmp_path / "saved"
        sample.save_to_disk(path)
    elif given == "scored":
        selector.score(sample).to_parquet(path)
    else:
        marks = [{"sensibility": 9, "rationality": 1}, {"sensibility": 1, "rationality": 9}]
        rows = [{"context": [f"I am sad {i}"], "response": f"oh no {i}"} | marks[i % 2] for i in range(40)]
        path.unlink(missing_ok=True)
        from datasets import Dataset

        Dataset.from_list(rows).to_parquet(path)
    out = tmp_path / "expert"
    config = str(ROOT / "recipes/configs/tiny_cpu.yaml")
    args = ["--config", config, "--model_name_or_path", str(tiny_model), "--dataset", str(path)]
    run(sft_sensibility, *args, "--output_dir", str(out), *QUICK)
    if given == "own_scores":
        assert selection(out)["counts"] == {"kept": 20, "quadrant_rationality": 20}
        assert selection(out)["settings"]["scorer"] == ["given"]
    else:
        assert selection(out)["counts"]["kept"] == len(selector.select(selector.score(sample)))
        assert selection(out)["settings"]["scorer"] == [selector.scorer.fingerprint]


def test_the_baselines_are_a_matter_of_one_option(tmp_path: Path) -> None:
    for option, value in (("rule", "random"), ("rule", "longest"), ("control", "length")):
        out = tmp_path / value
        run(sft_sensibility, "--output_dir", str(out), f"--empathy_{option}", value, *QUICK)
        assert selection(out)["settings"][option] == value
    selector = EmpathyDataSelector()
    expected = len(selector.select(selector.score(load_sample("train"))))
    assert selection(tmp_path / "random")["counts"]["kept"] == expected
    assert selection(tmp_path / "longest")["counts"]["kept"] == expected
    assert selection(tmp_path / "length")["counts"]["kept"] == expected
    assert selection(tmp_path / "length")["lengths"]["distance"] < 0.05


def test_it_evaluates_on_the_held_out_dialogues_when_asked(tmp_path: Path) -> None:
    args = ["--eval_strategy", "steps", "--eval_steps", "3", "--output_dir", str(tmp_path / "expert")]
    run(sft_sensibility, *args, *QUICK)
    history = json.loads((tmp_path / "expert" / "trainer_state.json").read_text())["log_history"]
    assert any("eval_loss" in entry for entry in history)


@pytest.mark.slow
def test_the_router_s_demonstration_trains_both_experts_of_the_chat_model_first(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat, out = tmp_path / "chat", tmp_path / "out"
    shutil.copytree(tiny_model, chat)
    (chat / "demo_model.json").write_text("{}")
    monkeypatch.setattr("ee_trl.training.command_line.pretrained", lambda: chat)
    for _ in range(2):  # the second time there is nothing to do
        run(sft_moe, "--output_dir", str(out), "--empathy_report_rows", "8", *QUICK)
    for axis in ("sensibility", "rationality"):
        expert = out / f"expert_{axis}"
        assert json.loads((expert / "adapter_config.json").read_text())["base_model_name_or_path"] == str(chat)
        assert selection(expert)["settings"]["keep"] == [axis]
    assert json.loads((out / "config.json").read_text())["num_local_experts"] == 2
    assert (out / "router_report.md").exists()


# ---- selection while training --------------------------------------------------------------------------------------


def test_online_without_arguments_it_draws_from_the_whole_sample_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "expert"
    run(sft_online, "--output_dir", str(out), *QUICK, "--empathy_policy", "sensibility", *NO_OPTIONS)
    assert "tiny CPU demonstration" in caplog.text
    assert "recipes/configs/online_qlora_8b.yaml" in caplog.text

    selector = EmpathyDataSelector()
    scored = selector.score(load_sample("train"))
    assert (
        pq.read_table(out / "rows" / "rows.parquet").column("prompt").to_pylist() == all_dialogues(scored)["prompt"][:]
    )
    found = draws(out)
    columns = [*(found[name] for name in ("draws", "sensibility", "quadrant")), scored["sensibility"][:]]
    assert all(own == expected for _, own, _, expected in zip(*columns, strict=True) if own is not None)
    assert all(own is not None for n, own, _, _ in zip(*columns, strict=True) if n)
    assert sum(found["draws"]) == 3 * 8
    assert {name for name, n in zip(found["quadrant"], found["draws"], strict=True) if n} == {"sensibility"}

    card = (out / "README.md").read_text()
    assert "## Training data: what was drawn, and why" in card
    assert f"all {len(scored)} samples of `embedded sample`" in card
    assert f"| sensibility | {found['quadrant'].count('sensibility')} | 24 | 100.0% | 1.00 |" in card
    assert "| policy | `sensibility` |" in card
    assert selector.scorer.fingerprint in card
    said = capsys.readouterr().out
    for name in ("empathy_report.md", "empathy_draws.png", "empathy_draws.parquet", "empathy_history.json"):
        assert name in said
        assert (out / name).exists()


@pytest.mark.parametrize("packing", [False, True], ids=["rows", "packed"])
def test_online_takes_all_rows_and_the_scores_they_bring(packing: bool, tiny_model: Path, tmp_path: Path) -> None:
    """A conversation's own scores are those of its last reply; what has no dialogue is left out and counted."""
    marks = [{"sensibility": 9, "rationality": 1}, {"sensibility": 1, "rationality": 9}, {}]
    rows = [
        {"messages": [{"role": r, "content": SAID[r, j].format(i)} for j in range(2) for r in ("user", "assistant")]}
        | marks[i % 3]
        for i in range(30)
    ]
    rows[0]["messages"] = None
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "expert"
    args = ["--dataset", str(tmp_path / "own.jsonl"), "--model_name_or_path", str(tiny_model), "--use_cpu", "true"]
    args += ["--bf16", "false", "--empathy_policy", "gate", "--empathy_policy_options", '{"keep": "rationality"}']
    run(sft_online, *args, "--packing", str(packing).lower(), "--max_length", "64", "--output_dir", str(out), *QUICK)
    table = pq.read_table(out / "rows" / "rows.parquet").to_pydict()
    assert [prompt[-1]["content"] for prompt in table["prompt"]] == [SAID["user", 1].format(i) for i in range(1, 30)]
    record = json.loads((out / "rows" / "rows.json").read_text())
    assert record["left_out"] == {"null_dialogue": 1}
    assert record["scores"].startswith("given with the data, where missing by bi-encoder")
    found = draws(out)
    assert found["quadrant"] == ["rationality" if i % 3 == 1 else "sensibility" for i in range(1, 30)], (
        "what brings no score has one of the bundled scorer's"
    )
    weighed = {q for q, n, w in zip(found["quadrant"], found["draws"], found["mean_weight"], strict=True) if n and w}
    assert weighed == {"rationality"}
    assert "left out" not in (out / "README.md").read_text()
    assert "without a dialogue to train on: 1 null_dialogue" in (out / "README.md").read_text()


def test_online_one_utterance_a_row(tiny_model: Path, tmp_path: Path) -> None:
    """The utterances of a conversation may lie apart; scores of one utterance belong to no reply."""
    talk = [
        {
            "conv_id": f"c{i}",
            "utterance_idx": j + 1,
            "speaker_idx": j % 2,
            "utterance": SAID[("user", "assistant")[j % 2], j // 2].format(i),
        }
        for j in range(4)
        for i in range(10)
    ]
    own = tmp_path / "own.jsonl"
    own.write_text("".join(json.dumps(row) + "\n" for row in talk))
    args = ["--dataset", str(own), "--model_name_or_path", str(tiny_model), "--use_cpu", "true", "--bf16", "false"]
    args += ["--empathy_policy", "soft", *QUICK]
    run(sft_online, *args, "--output_dir", str(tmp_path / "expert"))
    record = json.loads((tmp_path / "expert" / "rows" / "rows.json").read_text())
    assert (record["samples"], record["left_out"]) == (20, {})

    own.write_text("".join(json.dumps(row | {"sensibility": 1, "rationality": 2}) + "\n" for row in talk))
    with pytest.raises(FormatError, match="each row of the data set is one utterance"):
        run(sft_online, *args, "--output_dir", str(tmp_path / "other"))


# ---- resuming and refusing -----------------------------------------------------------------------------------------


@dataclass
class Whole:
    """A run of ten steps that nothing stopped; `args` make the same run in another folder."""

    name: str
    args: list[str]
    folder: Path

    def again(self, folder: Path, *more: str) -> None:
        run(RECIPES[self.name], *self.args, *more, "--output_dir", str(folder))

    def same(self, folder: Path) -> None:
        """The other run ended bit-equal."""
        assert weights(folder) == weights(self.folder)
        for file in self.folder.glob("empathy_*"):
            if file.suffix != ".png":
                assert (folder / file.name).read_bytes() == file.read_bytes()


@pytest.fixture(scope="module", params=["sft_sensibility", "sft_online"])
def whole(request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    config = {"sft_sensibility": "tiny_cpu", "sft_online": "online_tiny_cpu"}[request.param]
    args = ["--config", str(ROOT / f"recipes/configs/{config}.yaml"), "--model_name_or_path", str(tiny_model)]
    args += ["--max_steps", "10", "--save_steps", "4", "--save_total_limit", "3", "--logging_steps", "3"]
    found = Whole(request.param, args, tmp_path_factory.mktemp("whole") / "run")
    found.again(found.folder)
    left = {"empathy_draws.parquet", "empathy_report.md", "empathy_history.json"}
    assert request.param != "sft_online" or left <= {file.name for file in found.folder.iterdir()}
    return found


class Power:
    """Counts the steps that are taken, and is cut off before one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken, self.last = 0, -1
        real_step = SFTTrainer.training_step

        def step(trainer: SFTTrainer, *a: Any, **k: Any) -> Any:
            if self.taken == self.last:
                raise RuntimeError("the power went off")
            self.taken += 1
            return real_step(trainer, *a, **k)

        monkeypatch.setattr(SFTTrainer, "training_step", step)

    def off_after(self, steps: int) -> Any:
        self.taken, self.last = 0, steps
        return pytest.raises(RuntimeError, match="power")

    def on(self) -> None:
        self.taken, self.last = 0, -1


@pytest.fixture
def power(monkeypatch: pytest.MonkeyPatch) -> Power:
    return Power(monkeypatch)


def test_a_run_that_was_stopped_is_resumed_and_ends_bit_equal(whole: Whole, power: Power, tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    with power.off_after(6):
        whole.again(stopped)
    assert json.loads((stopped / RECORD).read_text())["status"] == "running"
    [written] = [*stopped.glob("selection/selected.parquet"), *stopped.glob("rows/rows.parquet")]
    before = written.stat().st_mtime_ns

    power.on()
    whole.again(stopped)
    assert power.taken == 6  # from the checkpoint of step 4 on
    whole.same(stopped)
    assert written.stat().st_mtime_ns == before


def test_a_run_that_was_stopped_after_its_last_step_takes_no_other(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = tmp_path / "stopped"

    def fail(self: RecipeRun, trainer: Any) -> None:
        (self.folder / "empathy_draws.parquet").unlink(missing_ok=True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RecipeRun, "save", fail)
        with pytest.raises(KeyboardInterrupt):
            whole.again(stopped)
    whole.again(stopped)
    states = [json.loads((folder / "trainer_state.json").read_text()) for folder in (stopped, whole.folder)]
    assert [state["global_step"] for state in states] == [10, 10]
    whole.same(stopped)


def test_a_named_checkpoint_is_where_a_new_folder_begins(whole: Whole, power: Power, tmp_path: Path) -> None:
    """And a rerun of the same command goes on with the folder's own last checkpoint."""
    command = [tmp_path / "new", "--resume_from_checkpoint", str(whole.folder / "checkpoint-4")]
    with power.off_after(5):
        whole.again(*command)
    assert (tmp_path / "new" / "checkpoint-8").exists()
    power.on()
    whole.again(*command)
    assert power.taken == 2
    whole.same(tmp_path / "new")


def test_a_finished_run_s_last_checkpoint_in_a_new_folder_takes_no_step(
    whole: Whole, power: Power, tmp_path: Path
) -> None:
    whole.again(tmp_path / "new", "--resume_from_checkpoint", str(whole.folder / "checkpoint-10"))
    assert power.taken == 0
    whole.same(tmp_path / "new")


def test_a_named_checkpoint_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EmpathyError, match="nowhere' is not a whole checkpoint: it has no trainer_state.json"):
        run(sft_sensibility, "--output_dir", str(tmp_path / "x"), "--resume_from_checkpoint", "nowhere", *QUICK)
    assert not (tmp_path / "x").exists()


def test_a_finished_run_is_left_alone_and_another_in_its_place_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--output_dir", str(tmp_path / "expert")]
    run(sft_sensibility, *out, *QUICK)
    before = weights(tmp_path / "expert")
    capsys.readouterr()
    run(sft_sensibility, *out, *QUICK, "--logging_steps", "2")  # how it is logged does not make it another run
    assert "finished already" in capsys.readouterr().out
    for other in (["--empathy_threshold", "4"], ["--learning_rate", "0.5"], ["--empathy_rule", "random"]):
        with pytest.raises(EmpathyError, match=f"{other[0].removeprefix('--')}.* -> "):
            run(sft_sensibility, *out, *QUICK, *other)
    assert weights(tmp_path / "expert") == before


def test_another_policy_in_the_place_of_a_finished_run_is_refused(tmp_path: Path) -> None:
    out = ["--output_dir", str(tmp_path / "expert")]
    run(sft_online, *out, *QUICK)
    run(sft_online, *out, *QUICK, "--save_steps", "7")
    for option, value in (
        ("--empathy_policy_options", '{"tau_end": 0.5}'),
        ("--empathy_warmup", "0"),
        ("--dataloader_num_workers", "1"),  # draws ahead: the policy's answers would act later
    ):
        with pytest.raises(EmpathyError, match=f"{option.removeprefix('--')}.* -> "):
            run(sft_online, *out, *QUICK, option, value)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(EmpathyError, match="not overwritten"):
        run(sft_sensibility, "--output_dir", str(tmp_path), *QUICK)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_folder_in_which_another_process_trains_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ee_trl.training.run.claim_folder", lambda folder: folder != tmp_path / "x")
    with pytest.raises(EmpathyError, match="another process trains in .* Wait until it ends"):
        run(sft_sensibility, "--output_dir", str(tmp_path / "x"), *QUICK)


def test_nothing_selected_is_an_error_with_the_counts(tmp_path: Path) -> None:
    with pytest.raises(EmpathyError, match="nothing was selected.*quadrant_low"):
        run(sft_sensibility, "--output_dir", str(tmp_path / "x"), "--empathy_threshold", "9.9", *QUICK)


def test_too_many_unscored_stop_the_run_and_nothing_is_lost(tiny_model: Path, tmp_path: Path) -> None:
    rows = load_sample().select(range(60)).to_list()
    for row in rows[:3]:
        row["messages"] = None
    with (tmp_path / "gaps.jsonl").open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    args = ["--dataset", str(tmp_path / "gaps.jsonl"), "--model_name_or_path", str(tiny_model), *QUICK]
    args += ["--output_dir", str(tmp_path / "expert"), "--use_cpu", "true", "--bf16", "false"]
    with pytest.raises(CoverageError, match=r"3 null_dialogue.*scored\.parquet"):
        run(sft_sensibility, *args)
    scored = pq.read_table(tmp_path / "expert" / "selection" / "scored.parquet")
    assert scored["score_status"].to_pylist()[:4] == ["null_dialogue"] * 3 + ["scored"]
    run(sft_sensibility, *args, "--empathy_max_unscored", "0.1")
    coverage = selection(tmp_path / "expert")["coverage"]
    assert coverage["unscored"] == {"null_dialogue": 3}
    assert coverage["scored"] == coverage["samples"] - 3


# ---- as a user starts them -----------------------------------------------------------------------------------------


def launch(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONWARNINGS": "ignore"}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "left", "said"),
    [("sft_moe", "router_report.png", "finished already"), ("efficient_empathy", "report.md", "[router] reused")],
)
def test_accelerate_launch_of_a_mixture_without_arguments(name: str, left: str, said: str, tmp_path: Path) -> None:
    accelerate = str(Path(sys.executable).with_name("accelerate"))
    command = [accelerate, "launch", str(ROOT / "recipes" / f"{name}.py")]
    done = launch(command, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "runs" / name / left).exists()
    again = launch(command, tmp_path)
    assert again.returncode == 0, again.stderr[-3000:]
    assert said in again.stdout + again.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sft_sensibility", "sft_rationality", "sft_online"])
def test_accelerate_launch_without_arguments(name: str, tmp_path: Path) -> None:
    accelerate = str(Path(sys.executable).with_name("accelerate"))
    command = [accelerate, "launch", str(ROOT / "recipes" / f"{name}.py")]
    done = launch(command, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    out = tmp_path / "runs" / name
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert losses[-1] < losses[0] - 1
    again = launch(command, tmp_path)
    assert again.returncode == 0
    assert "finished already" in again.stdout


@pytest.mark.slow
def test_two_processes_select_the_same_and_save_once(tmp_path: Path) -> None:
    torchrun = [str(Path(sys.executable).with_name("torchrun")), "--nproc_per_node", "2"]
    script = str(ROOT / "recipes" / "sft_sensibility.py")
    done = launch([*torchrun, script, "--output_dir", "two", "--max_steps", "4"], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    run(sft_sensibility, "--output_dir", str(tmp_path / "one"), "--max_steps", "4")
    two, one = (pq.read_table(tmp_path / n / "selection" / "selected.parquet") for n in ("two", "one"))
    assert two.equals(one)
    assert (tmp_path / "two" / "model.safetensors").exists()
    assert json.loads((tmp_path / "two" / RECORD).read_text())["identity"]["processes"] == 2


@pytest.mark.slow
def test_two_processes_draw_by_one_plan_and_write_once(tmp_path: Path) -> None:
    torchrun = [str(Path(sys.executable).with_name("torchrun")), "--nproc_per_node", "2"]
    script = str(ROOT / "recipes" / "sft_online.py")
    done = launch([*torchrun, script, "--output_dir", "two", "--max_steps", "4"], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    run(sft_online, "--output_dir", str(tmp_path / "one"), "--max_steps", "8")
    two, one = (draws(tmp_path / name) for name in ("two", "one"))
    assert sum(two["draws"]) == 2 * 4 * 8  # processes, steps, rows in a batch
    for name in ("sensibility", "rationality"):
        pairs = [(a, b) for a, b in zip(two[name], one[name], strict=True) if a is not None and b is not None]
        assert len(pairs) >= 64
        assert all(a == b for a, b in pairs)


def test_what_a_kill_left_half_written_is_removed_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, no_pictures: None
) -> None:
    """A run record that was never named, a checkpoint without the policy's state, and one of which half is there."""
    data = EmpathyDataSelector("linear").score(load_sample("train").select(range(16)))
    data.to_parquet(tmp_path / "data.parquet")
    args = ["--dataset", str(tmp_path / "data.parquet"), *QUICK[2:], *NO_OPTIONS, "--max_steps", "4"]
    args += ["--save_steps", "1", "--save_total_limit", "9", "--empathy_scorer", "linear"]
    out, whole = tmp_path / "run", tmp_path / "whole"
    out.mkdir()
    (out / f".{RECORD}.partial-{platform.node()}-{2**22 + 1}-0a1b2c").touch()  # no process has so high a number
    run(sft_online, *args, "--output_dir", str(out))
    assert not list(out.glob(".*"))
    shutil.copytree(out, whole)

    record = json.loads((out / RECORD).read_text())
    (out / RECORD).write_text(json.dumps(record | {"status": "running"}))
    (out / "checkpoint-4" / "trainer_state.json").write_text('{"best_')
    (out / "checkpoint-3" / "empathy_state.pt").unlink()
    for name in ("model.safetensors", "empathy_draws.parquet", "empathy_history.json"):
        (out / name).unlink()
    run(sft_online, *args, "--output_dir", str(out))
    for fault in (
        "checkpoint-4 is not whole (its trainer_state.json is damaged)",
        "checkpoint-3 is not whole (it has no empathy_state.pt)",
    ):
        assert fault in caplog.text
    assert f"resuming {out} from {out / 'checkpoint-2'}" in caplog.text
    assert draws(out) == draws(whole)
    same = ["model.safetensors", "checkpoint-3/model.safetensors", "empathy_history.json"]
    assert [name for name in same if (out / name).read_bytes() != (whole / name).read_bytes()] == []


@pytest.mark.slow
def test_kill_minus_nine_and_resume(tmp_path: Path) -> None:
    import signal
    import time

    script = str(ROOT / "recipes" / "sft_sensibility.py")
    command = [sys.executable, script, "--output_dir", "killed", "--max_steps", "60", "--save_steps", "10"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list((tmp_path / "killed").glob("checkpoint-*/trainer_state.json")):
        assert process.poll() is None, "ended before its first checkpoint"
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = launch(command, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "resuming" in done.stderr
    whole = launch([*command[:3], "whole", *command[4:]], tmp_path)
    assert whole.returncode == 0
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")


def test_the_online_recipe_takes_weights_from_a_column(tmp_path: Path) -> None:
    """A conversation's weight is that of each of its replies; a column that is not there is refused at once."""
    data = load_sample("train").select(range(12)).add_column("w", [float(i % 3) for i in range(12)])
    data.to_parquet(tmp_path / "data.parquet")
    args = ["--dataset", str(tmp_path / "data.parquet"), *QUICK, "--empathy_policy", "column", "--empathy_warmup", "0"]
    run(sft_online, *args, "--output_dir", str(tmp_path / "a"), "--empathy_policy_options", '{"column": "w"}')
    found = draws(tmp_path / "a")
    assert {w for w in found["mean_weight"] if w is not None} <= {0.0, 1.0, 2.0}
    with pytest.raises(EmpathyError, match="unknown column of the data set 'v'; valid: .*w"):
        run(sft_online, *args, "--output_dir", str(tmp_path / "b"), "--empathy_policy_options", '{"column": "v"}')
    assert not (tmp_path / "b").exists()


def long_rows(number: int = 12) -> Any:
    """Conversations of which every second is longer than 60 tokens before its reply."""
    talk = [{"role": "user", "content": "I lost my keys again."}, {"role": "assistant", "content": "Oh no, poor you!"}]
    longer = [{"role": "user", "content": "I lost my keys again. " * 20}, talk[1]]
    return Dataset.from_dict({"messages": [longer if i % 2 else talk for i in range(number)]})


@pytest.mark.parametrize(
    ("settings", "lost"),
    [
        ({}, 6),
        ({"truncation_mode": "keep_end"}, 0),
        ({"completion_only_loss": False}, 6),
        ({"packing": True}, 6),
        ({"packing": True, "packing_strategy": "bfd_split"}, 0),
        ({"max_length": 400}, 0),
    ],
)
def test_samples_that_lose_their_replies_are_counted(settings: dict[str, Any], lost: int, tiny_model: Path) -> None:
    rows = all_dialogues(long_rows())
    args = SFTConfig("x", **{"max_length": 60, "use_cpu": True, "bf16": False, "report_to": "none", **settings})
    trainer = SFTTrainer(str(tiny_model), args=args, train_dataset=rows)
    assert untrained(rows, trainer, trainer.processing_class) == lost


@pytest.mark.parametrize("recipe", [sft_sensibility, sft_online])
def test_a_recipe_says_how_many_samples_it_does_not_train_on(
    recipe: Any, tmp_path: Path, tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    long_rows().to_parquet(tmp_path / "data.parquet")
    args = ["--dataset", str(tmp_path / "data.parquet"), "--model_name_or_path", str(tiny_model), *QUICK]
    args += ["--use_cpu", "true", "--bf16", "false", "--report_to", "none", "--save_strategy", "no"]
    if recipe is sft_sensibility:
        args += ["--empathy_exclude", "none", "--empathy_keep", "sensibility,rationality,balanced,low,tie"]
    else:
        args += ["--empathy_policy", "gate", "--empathy_policy_options", '{"unscored": "keep"}']
        args[-1] = '{"keep": ["sensibility", "rationality", "balanced", "low", "tie"]}'
    out = tmp_path / "out"
    run(recipe, *args, "--max_length", "60", "--output_dir", str(out))
    assert "6 of 12 samples are not trained on: --max_length 60 leaves nothing of their replies" in caplog.text
    assert "--truncation_mode keep_end" in caplog.text
    record = "selection/selection.json" if recipe is sft_sensibility else "rows/rows.json"
    assert json.loads((out / record).read_text())["not_trained_on"] == 6
    assert (
        "6 of them were not trained on: `max_length` left nothing of their replies." in (out / "README.md").read_text()
    )
    if recipe is sft_sensibility:
        with pytest.raises(EmpathyError, match="12 of 12 samples are not trained on"):
            run(recipe, *args, "--max_length", "5", "--output_dir", str(tmp_path / "none"))


def test_a_type_that_the_cpu_only_emulates_is_not_used(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(encoder, "computes_in_bfloat16", lambda: False)
    args = ["--model_name_or_path", str(tiny_model), "--use_cpu", "true", "--bf16", "false", "--report_to", "none"]
    run(sft_sensibility, *args, *QUICK, "--dtype", "bfloat16", "--output_dir", str(tmp_path))
    assert "This CPU only emulates bfloat16, many times slower: the model computes in float32 here." in caplog.text
    saved = load_file(next(tmp_path.glob("*.safetensors")))
    assert {weight.dtype for weight in saved.values()} == {torch.float32}
