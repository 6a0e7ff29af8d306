"""The arguments of recipes: strict, from the command line and YAML files."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from ee_trl.errors import EmpathyError
from ee_trl.online.policies.named import POLICIES, policy_options
from ee_trl.recipes import efficient_empathy, sft_moe, sft_online, sft_rationality, sft_sensibility
from ee_trl.training.arguments import ExpertArguments, OnlineArguments, PipelineArguments, parse_recipe_args


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
