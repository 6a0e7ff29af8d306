"""The arguments of recipes: strict, from the command line and YAML files."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from trl import ModelConfig, SFTConfig

from ee_trl import load_sample
from ee_trl.data.dialogue import Dialogue
from ee_trl.data.samples import read_samples
from ee_trl.errors import EmpathyError, FormatError
from ee_trl.online.policies.named import POLICIES, policy_options
from ee_trl.recipes import efficient_empathy, sft_moe, sft_online, sft_rationality, sft_sensibility
from ee_trl.training.arguments import DataArguments, ExpertArguments, OnlineArguments, PipelineArguments, trl_options
from ee_trl.training.command_line import parse_recipe_args
from ee_trl.training.data import content_of, open_split


pytestmark = [pytest.mark.filterwarnings("ignore")]  # of TRL, not of this package

RECIPES = {
    "sft_sensibility": sft_sensibility,
    "sft_rationality": sft_rationality,
    "sft_online": sft_online,
    "sft_moe": sft_moe,
    "efficient_empathy": efficient_empathy,
}
NO_OPTIONS = ["--empathy_policy_options", "{}", "--empathy_warmup", "0"]


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


@pytest.mark.parametrize(
    "text", ["a: [", "a: *b", "\x01", "? [a]\n: b", "!!python/object/apply:os.system [id]", "\xff"]
)
def test_a_config_that_is_no_yaml_is_refused(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(SystemExit):
        parse_recipe_args(sft_online.make_parser(), ["--config", str(tmp_path / "c.yaml")])
    assert "c.yaml is not YAML (" in capsys.readouterr().err


def test_a_config_that_is_no_mapping_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_text("- seed\n")
    with pytest.raises(SystemExit):
        parse_recipe_args(sft_online.make_parser(), [f"--config={tmp_path / 'c.yaml'}", "--empathy_policy", "gate"])
    assert "c.yaml holds no mapping of names to values" in capsys.readouterr().err


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


@pytest.mark.parametrize("policy", [name for name in POLICIES if name != "column"])
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


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"empathy_moe": {"shard": 1}}, "unknown option in empathy_moe 'shard'; valid: .*Did you mean 'shared'"),
        ({"empathy_router_training": {"learning_rat": 1}}, "Did you mean 'learning_rate'"),
        ({"empathy_base_training": "max_steps=3"}, "is not JSON"),
        ({"empathy_holdout": 1.5}, "not a share between 0 and 1"),
    ],
)
def test_the_mappings_are_strict(options: dict[str, Any], said: str) -> None:
    with pytest.raises(EmpathyError, match=said):
        PipelineArguments(**options)


# ---- before torch is loaded ----------------------------------------------------------------------------------------


def recipe_process(name: str, *args: str, **environment: str) -> tuple[int, str, str]:
    """A recipe as a process in which torch cannot be imported."""
    code = (
        "import runpy, sys; sys.modules['torch'] = None; del sys.argv[0]; runpy.run_path(sys.argv[0], {}, '__main__')"
    )
    command = [sys.executable, "-c", code, str(ROOT / "recipes" / f"{name}.py"), *args]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("name", RECIPES)
def test_help_is_of_the_recipe_s_own_options_and_short(name: str) -> None:
    code, out, _ = recipe_process(name, "--help")
    own = RECIPES[name].make_parser.args[0]
    assert code == 0
    assert [f"--{option.name} " in out for option in fields(own)] == [True] * len(fields(own))
    assert len(out.splitlines()) < 50
    assert "--help-all" in out.splitlines()[-1]
    assert "learning_rate_" not in out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--lerning_rate", "1"], "did you mean 'learning_rate'?"),
        (["--empathy_ruel", "top"], "did you mean 'empathy_rule'?"),
        (["--empathy_fraction", "half"], "invalid float value: 'half'"),
        (["--datasets", '[{"pth": "a.parquet"}]'], "unknown key in datasets 'pth'"),
    ],
)
def test_a_wrong_option_stops_before_torch_is_loaded_and_once(args: list[str], said: str) -> None:
    code, out, err = recipe_process("sft_sensibility", *args)
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err
    assert recipe_process("sft_sensibility", *args, RANK="1") == (2, "", ""), "the first process alone says it"


def test_the_names_of_trl_s_options_are_those_of_its_classes() -> None:
    for kind in (SFTConfig, ModelConfig):
        assert trl_options(kind.__name__) == {option.name for option in fields(kind) if option.init}
    assert trl_options() == trl_options("SFTConfig") | trl_options("ModelConfig")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_steps: 2.5", "--max-steps: invalid int value: '2.5'"),
        ("learning_rate: true", "--learning-rate: invalid float value: 'True'"),
        ("logging_steps: [1, 2]", "is one value right for each of these: logging_steps?"),
        ("empathy_threshold: {a: 1}", "empathy_threshold in FILE is {'a': 1}; give one value"),
        ("empathy_rule: [top]", "empathy_rule in FILE is ['top']; give one value"),
    ],
)
def test_a_value_of_another_type_in_yaml_is_named(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parsed(tmp_path, text)
    assert said.replace("FILE", str(tmp_path / "c.yaml")) in capsys.readouterr().err


# ---- TRL's habits --------------------------------------------------------------------------------------------------


def parsed(tmp_path: Path, text: str, *extra: str) -> Any:
    config = tmp_path / "c.yaml"
    config.write_text(f"{text}\nuse_cpu: true\nbf16: false\n")
    return parse_recipe_args(sft_sensibility.make_parser(), ["--config", str(config), *extra])


def test_a_data_set_may_be_called_dataset_name_in_yaml(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EE_TRL_OF_YAML", raising=False)
    args, *_ = parsed(tmp_path, "dataset_name: mine.parquet\nenv: {EE_TRL_OF_YAML: 1}")
    assert (args.dataset, os.environ["EE_TRL_OF_YAML"]) == ("mine.parquet", "1")
    assert parsed(tmp_path, "dataset_name: mine.parquet", "--dataset", "yours.parquet")[0].dataset == "yours.parquet"
    for wrong in ("dataset_name: a\ndataset: b", "streaming: true", "lerning_rate: 1"):
        with pytest.raises(SystemExit):
            parsed(tmp_path, wrong)
    said = capsys.readouterr().err
    assert said.count("\n") == 3
    assert "keep one of them" in said
    assert "looks at all rows" in said


def test_activation_checkpointing_has_two_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newer one is in the configs; before transformers had it, it is read as the older one."""
    assert parsed(tmp_path, "activation_checkpointing: false")[1].gradient_checkpointing is False
    assert (
        parsed(tmp_path, "activation_checkpointing: true", "--gradient_checkpointing=0")[1].gradient_checkpointing
        is False
    )
    older = trl_options() - {"activation_checkpointing"}
    monkeypatch.setattr("ee_trl.training.command_line.trl_options", lambda *_: older)
    assert parsed(tmp_path, "activation_checkpointing: false")[1].gradient_checkpointing is False


def test_no_config_has_a_key_that_transformers_calls_deprecated() -> None:
    parser = sft_sensibility.make_parser()
    old = {action.dest for action in parser._actions if (action.help or "").startswith("Deprecated")}
    for config in (ROOT / "recipes" / "configs").glob("*.yaml"):
        settings = yaml.safe_load(config.read_text())
        assert not ({"gradient_checkpointing"} | old) & set(settings), config.name


@pytest.fixture
def two_files(tmp_path: Path) -> list[str]:
    sample = load_sample()
    parts = sample.select(range(30)), sample.select(range(30, 40)).remove_columns("emotion")
    paths = [str(tmp_path / name) for name in ("a.parquet", "b.jsonl")]
    parts[0].to_parquet(paths[0])
    parts[1].to_json(paths[1])
    return paths


def test_a_mixture_of_data_sets_as_trl_writes_it(two_files: list[str], tmp_path: Path) -> None:
    a, b = two_files
    text = (
        f"datasets:\n  - {{path: {a}, columns: [messages]}}\n  - {{path: json, data_files: {b}, columns: [messages]}}"
    )
    args, *_ = parsed(tmp_path, text)
    assert open_split(args, "train")["messages"][:] == load_sample()["messages"][:40]
    assert args.named == f"{a}, json"
    before = content_of(args.datasets)
    load_sample().select(range(5)).to_parquet(a)
    assert content_of(args.datasets) != before
    assert len(open_split(args, "train")) == 15


def test_names_and_encoding_of_the_data(tmp_path: Path) -> None:
    path = tmp_path / "talks.csv"
    talk = [{"who": "Mia", "says": "I can’t sleep."}, {"who": "Dr. Who", "says": "That’s hard."}]
    with path.open("w", encoding="cp1252", newline="") as out:
        csv.writer(out).writerows([["talk"], [json.dumps(talk, ensure_ascii=False)]])
    names = {"talk": "messages", "who": "role", "says": "content", "mia": "user", "dr. who": "assistant"}
    text = f"dataset: {path}\nempathy_encoding: cp1252\nempathy_map: {json.dumps(names)}"
    args, *_ = parsed(tmp_path, text)
    [sample] = read_samples(open_split(args, "train"))
    assert sample.dialogue == Dialogue(("I can’t sleep.",), "That’s hard.", ("user",))
    (tmp_path / "talks.jsonl").write_text(json.dumps({"talk": talk, "id": 1}), encoding="utf-8")
    mixed = DataArguments(datasets=[{"path": str(tmp_path / "talks.jsonl")}], empathy_map=names)
    assert len(list(read_samples(open_split(mixed, "train")))) == 1


def test_shares_of_a_mixture_and_a_held_out_part(two_files: list[str], tmp_path: Path) -> None:
    a, b = ({"path": path, "columns": ["messages"]} for path in two_files)
    args = DataArguments(datasets=[{**a, "fraction": 0.5}, {**b, "fraction": 0.5}], test_split_size=0.2)
    train, test = open_split(args, "train"), open_split(args, "test")
    assert len(train) + len(test) == 20
    assert 0 < len(test) < 10
    mixed = [str(messages) for part in (train, test) for messages in part["messages"]]
    assert set(mixed) == {str(messages) for messages in load_sample().select([*range(10), *range(30, 40)])["messages"]}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"datasets": []}, "is not a list of mappings"),
        ({"datasets": [{"name": "x"}]}, "has no path"),
        ({"datasets": [{"path": "a", "fration": 1}]}, "Did you mean 'fraction'"),
        ({"datasets": [{"path": "a", "fraction": 1}, {"path": "b"}]}, "for every data set of datasets, or for none"),
        ({"datasets": [{"path": "a"}], "dataset": "b"}, "give one of them"),
        ({"datasets": [{"path": "a"}], "test_split_size": 2}, "not a share between 0 and 1"),
        ({"datasets": "a.parquet"}, "is not JSON"),
    ],
)
def test_wrong_mixtures_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(EmpathyError, match=said):
        DataArguments(**options)


def test_data_sets_that_do_not_go_together_are_refused(two_files: list[str]) -> None:
    with pytest.raises(FormatError, match="differ in their columns"):
        open_split(DataArguments(datasets=[{"path": path} for path in two_files]), "train")
    with pytest.raises(FormatError, match="unknown column .* 'message'.*Did you mean 'messages'"):
        open_split(DataArguments(datasets=[{"path": two_files[0], "columns": ["message"]}]), "train")


def test_without_a_gpu_a_model_alone_trains_in_float32_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ee_trl.training.command_line._has_accelerator", lambda: False)
    _, training_args, _ = parse_recipe_args(sft_sensibility.make_parser(), ["--model_name_or_path", "owner/model"])
    assert (training_args.use_cpu, training_args.bf16) == (True, False)
    assert "No GPU was found" in caplog.text
    options = ["--model_name_or_path", "owner/model", "--use_cpu", "true", "--bf16", "true"]
    assert parse_recipe_args(sft_sensibility.make_parser(), options)[1].bf16 is True
