"""The recipes, run for real on a tiny model: what they select, save, resume and refuse."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from conftest import ROOT

from ee_trl import EmpathyDataSelector, build_tiny_causal_lm, compose_moe, load_sample
from ee_trl.data.samples import all_dialogues
from ee_trl.errors import CoverageError, EmpathyError, FormatError
from ee_trl.online.policies.named import POLICIES, policy_options
from ee_trl.recipes import efficient_empathy, sft_moe, sft_online, sft_rationality, sft_sensibility
from ee_trl.training.arguments import ExpertArguments, OnlineArguments, parse_recipe_args
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
    pytest.param(name, config, marks=[pytest.mark.slow] if name == "efficient_empathy" else [])
    for config in CONFIGS
    for name in recipes_of(config)
]
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

    selector = EmpathyDataSelector("linear")
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
        assert adapter["r"] == settings["lora_r"] == 8
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
    selector = EmpathyDataSelector("linear")
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
    for rule in ("random", "longest"):
        out = tmp_path / rule
        run(sft_sensibility, "--output_dir", str(out), "--empathy_rule", rule, *QUICK)
        assert selection(out)["settings"]["rule"] == rule
    selector = EmpathyDataSelector("linear")
    expected = len(selector.select(selector.score(load_sample("train"))))
    assert selection(tmp_path / "random")["counts"]["kept"] == expected
    assert selection(tmp_path / "longest")["counts"]["kept"] == expected


def test_it_evaluates_on_the_held_out_dialogues_when_asked(tmp_path: Path) -> None:
    args = ["--eval_strategy", "steps", "--eval_steps", "3", "--output_dir", str(tmp_path / "expert")]
    run(sft_sensibility, *args, *QUICK)
    history = json.loads((tmp_path / "expert" / "trainer_state.json").read_text())["log_history"]
    assert any("eval_loss" in entry for entry in history)


# ---- selection while training --------------------------------------------------------------------------------------


def test_online_without_arguments_it_draws_from_the_whole_sample_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "expert"
    run(sft_online, "--output_dir", str(out), *QUICK, "--empathy_policy", "sensibility", *NO_OPTIONS)
    assert "tiny CPU demonstration" in caplog.text
    assert "recipes/configs/online_qlora_8b.yaml" in caplog.text

    selector = EmpathyDataSelector("linear")
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
        {"messages": [{"role": r, "content": f"{r} {i} {j}"} for j in range(2) for r in ("user", "assistant")]}
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
    assert [prompt[-1]["content"] for prompt in table["prompt"]] == [f"user {i} 1" for i in range(1, 30)]
    record = json.loads((out / "rows" / "rows.json").read_text())
    assert record["left_out"] == {"null_dialogue": 1}
    assert record["scores"].startswith("given with the data, where missing by linear")
    found = draws(out)
    assert found["quadrant"] == [
        "sensibility" if i % 3 == 0 else "rationality" if i % 3 == 1 else "low" for i in range(1, 30)
    ], "what brings no score has one of the bundled scorer's"
    weighed = {q for q, n, w in zip(found["quadrant"], found["draws"], found["mean_weight"], strict=True) if n and w}
    assert weighed == {"rationality"}
    assert "left out" not in (out / "README.md").read_text()
    assert "without a dialogue to train on: 1 null_dialogue" in (out / "README.md").read_text()


def test_online_one_utterance_a_row(tiny_model: Path, tmp_path: Path) -> None:
    """The utterances of a conversation may lie apart; scores of one utterance belong to no reply."""
    talk = [
        {"conv_id": f"c{i}", "utterance_idx": j + 1, "speaker_idx": j % 2, "utterance": f"{i} says {j}"}
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
    with pytest.raises(FormatError, match="one utterance a row"):
        run(sft_online, *args, "--output_dir", str(tmp_path / "other"))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--empathy_policy", "sofft"], "unknown policy 'sofft'; valid: .*Did you mean 'soft'"),
        (["--empathy_policy_options", '{"tau": 1}'], "unknown option of policy 'soft' 'tau'; valid: .*tau_start"),
        (["--empathy_policy_options", '{"threshold": 1}'], "unknown option of policy 'soft' 'threshold'"),
        (["--empathy_policy_options", '{"tau_start": "hot"}'], "tau_start"),
        (["--empathy_policy_options", "tau_start=3"], "is not JSON"),
        (["--empathy_policy_options", "[1]"], "is not a mapping"),
        (["--empathy_warmup", "soon"], "neither a number of steps"),
        (["--empathy_warmup", "1.5"], r"neither a share in \[0.0, 1.0\] nor"),
        (["--empathy_every_n_steps", "0"], "at least 1"),
        (["--empathy_floor", "3"], r"floor 3.0 is not a number in \[0, 1\]"),
        (["--empathy_keep", "low"], "unknown option: 'empathy_keep'"),
    ],
)
def test_online_arguments_are_strict(args: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_recipe_args(sft_online.make_parser(), ["--empathy_policy", "soft", *NO_OPTIONS, *args])
    assert stop.value.code == 2
    assert re.search(said, capsys.readouterr().err)


def test_a_wrong_option_s_error_lists_every_valid_one(capsys: pytest.CaptureFixture[str]) -> None:
    for policy in POLICIES:
        args = ["--empathy_policy", policy, "--empathy_policy_options", '{"nothing": 1}']
        with pytest.raises(SystemExit):
            parse_recipe_args(sft_online.make_parser(), args)
        assert f"valid: {', '.join(policy_options(policy))}." in capsys.readouterr().err


def test_online_arguments_as_yaml_and_as_options(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(
        "empathy_policy: soft\nempathy_policy_options: {tau_start: 3}\nempathy_warmup: 0.25\n"
        "use_cpu: true\nbf16: false\n"
    )

    def options(*extra: str) -> dict[str, Any]:
        args, _, _ = parse_recipe_args(sft_online.make_parser(), ["--config", str(config), *extra])
        assert isinstance(args, OnlineArguments)
        return args.online_options()

    rest = {"every_n_steps": 1, "floor": None, "ceiling": None}
    rest |= {"ahead": True, "behind": "wait", "on_failure": "stop"}
    assert options() == {"warmup": 0.25, "tau_start": 3, **rest}
    assert options("--empathy_policy_options", '{"tau_end": 1}') == {"warmup": 0.25, "tau_end": 1, **rest}
    steps = options("--empathy_warmup", "12", "--empathy_ceiling", "4")["warmup"]
    assert (steps, type(steps)) == (12, int)


def test_a_config_that_is_no_mapping_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_text("- seed\n")
    with pytest.raises(SystemExit):
        parse_recipe_args(sft_online.make_parser(), [f"--config={tmp_path / 'c.yaml'}", "--empathy_policy", "gate"])
    assert "c.yaml holds no mapping of names to values" in capsys.readouterr().err


@pytest.mark.parametrize("policy", POLICIES)
def test_another_policy_than_the_file_s_leaves_the_file_s_options(
    policy: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As `sft_online.py --empathy_policy curriculum`, whose demonstration has options of `soft`."""

    def options(*extra: str) -> Any:
        caplog.clear()
        args, _, _ = parse_recipe_args(sft_online.make_parser(), ["--max_steps", "6", *extra])
        return args.empathy_policy, args.empathy_policy_options

    soft = {"tau_start": 2.0, "tau_end": 0.25}
    for named in (["--empathy_policy", policy], [f"--empathy_policy={policy}"]):
        assert options(*named) == (policy, soft if policy == "soft" else {})
        assert ("empathy_policy_options ({'tau_start': 2.0" in caplog.text) is (policy != "soft")
    assert f"The policy is {policy}, but" in caplog.text or policy == "soft"
    assert options("--empathy_policy", policy, "--empathy_policy_options", "{}") == (policy, {})
    assert "are left out" not in caplog.text, "options that are given are those that count"


@pytest.mark.parametrize("name", RECIPES)
def test_help_names_every_argument_of_ours(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = RECIPES[name].make_parser()
    with pytest.raises(SystemExit) as stop:
        parse_recipe_args(parser, ["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for field in fields(parser.dataclass_types[0]):
        assert f"--{field.name}" in shown
        assert field.metadata["help"]


# ---- resuming and refusing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "config", "written"),
    [
        ("sft_sensibility", "tiny_cpu", "selection/selected.parquet"),
        ("sft_online", "online_tiny_cpu", "rows/rows.parquet"),
    ],
    ids=["sft_sensibility", "sft_online"],
)
def test_a_run_that_was_stopped_is_resumed_and_ends_bit_equal(
    name: str, config: str, written: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl import SFTTrainer

    args = ["--config", str(ROOT / f"recipes/configs/{config}.yaml"), "--model_name_or_path", str(tiny_model)]
    args += ["--max_steps", "10", "--save_steps", "4"]
    run(RECIPES[name], *args, "--output_dir", str(tmp_path / "whole"))

    real_step, taken = SFTTrainer.training_step, []

    def step(self: SFTTrainer, *a: Any, **k: Any) -> Any:
        if len(taken) == 6:
            raise RuntimeError("the power went off")
        taken.append(1)
        return real_step(self, *a, **k)

    monkeypatch.setattr(SFTTrainer, "training_step", step)
    with pytest.raises(RuntimeError, match="power"):
        run(RECIPES[name], *args, "--output_dir", str(tmp_path / "stopped"))
    assert json.loads((tmp_path / "stopped" / RECORD).read_text())["status"] == "running"
    before = (tmp_path / "stopped" / written).stat().st_mtime_ns

    monkeypatch.setattr(SFTTrainer, "training_step", real_step)
    run(RECIPES[name], *args, "--output_dir", str(tmp_path / "stopped"))
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")
    assert (tmp_path / "stopped" / written).stat().st_mtime_ns == before
    if name == "sft_online":
        for file in ("empathy_draws.parquet", "empathy_report.md", "empathy_history.json"):
            assert (tmp_path / "stopped" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


@pytest.mark.parametrize(("name", "config"), [("sft_sensibility", "tiny_cpu"), ("sft_online", "online_tiny_cpu")])
def test_a_run_that_was_stopped_after_its_last_step_takes_no_other(
    name: str, config: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ["--config", str(ROOT / f"recipes/configs/{config}.yaml"), "--model_name_or_path", str(tiny_model)]
    args += ["--max_steps", "5", "--save_steps", "4", "--logging_steps", "2"]
    run(RECIPES[name], *args, "--output_dir", str(tmp_path / "whole"))

    def fail(self: RecipeRun, trainer: Any) -> None:
        (self.folder / "empathy_draws.parquet").unlink(missing_ok=True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RecipeRun, "save", fail)
        with pytest.raises(KeyboardInterrupt):
            run(RECIPES[name], *args, "--output_dir", str(tmp_path / "stopped"))
    run(RECIPES[name], *args, "--output_dir", str(tmp_path / "stopped"))
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")
    states = [json.loads((tmp_path / f / "trainer_state.json").read_text()) for f in ("stopped", "whole")]
    assert [state["global_step"] for state in states] == [5, 5]
    if name == "sft_online":
        for file in ("empathy_draws.parquet", "empathy_report.md", "empathy_history.json"):
            assert (tmp_path / "stopped" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


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


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--lerning_rate", "1"], "did you mean 'learning_rate'?"),
        (["--learning_r", "1"], "unknown option: 'learning_r'"),
        (["--config", "{bad}"], "unknown key in .*: 'empathy_treshold'; did you mean 'empathy_threshold'?"),
        (["--config={bad}"], "unknown key in"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--config"], "names no file"),
    ],
)
def test_arguments_are_strict(args: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("empathy_treshold: 4\n")
    with pytest.raises(SystemExit) as stop:
        parse_recipe_args(sft_sensibility.make_parser(), [arg.format(bad=bad) for arg in args])
    assert stop.value.code == 2
    assert re.search(said.replace("?", r"\?"), capsys.readouterr().err)


def test_yaml_gives_defaults_and_the_command_line_overrides(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(
        "empathy_threshold: [4, 6]\nempathy_keep: balanced\nlearning_rate: 1e-4\nuse_cpu: true\nbf16: false\n"
    )
    parse = lambda *extra: parse_recipe_args(sft_sensibility.make_parser(), ["--config", str(config), *extra])  # noqa: E731
    args, training_args, _ = parse()
    assert isinstance(args, ExpertArguments)
    assert (args.empathy_threshold, args.empathy_keep, training_args.learning_rate) == ([4, 6], "balanced", 1e-4)
    args, _, _ = parse("--empathy_keep", "low", "--dataset_name", "d.parquet")
    assert (args.empathy_keep, args.dataset) == ("low", "d.parquet")


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
