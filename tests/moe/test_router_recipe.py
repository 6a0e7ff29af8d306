"""The recipe that trains a router, and `ee-trl compose`."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import tiny_moe as tiny
from safetensors.torch import load_file
from transformers import MixtralConfig

from ee_trl import build_tiny_causal_lm, load_sample
from ee_trl.cli.main import main
from ee_trl.errors import CompositionError
from ee_trl.moe.checkpoint import Checkpoint
from ee_trl.moe.routing_report import PAGE, PICTURE, RECORD
from ee_trl.moe.training import RouterSFTTrainer
from ee_trl.recipes import sft_moe
from ee_trl.training.command_line import parse_recipe_args


pytestmark = [pytest.mark.filterwarnings("ignore")]  # of the libraries that train

QUICK = ["--max_steps", "4", "--logging_steps", "1", "--disable_tqdm", "true", "--empathy_report_rows", "40"]
QUICK += ["--empathy_scorer", "linear"]


def run(folder: Path, *args: str) -> None:
    sft_moe.main(*parse_recipe_args(sft_moe.make_parser(), ["--output_dir", str(folder), *QUICK, *args]))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A whole run, and what it printed."""
    folder, printed = tmp_path_factory.mktemp("runs") / "whole", io.StringIO()
    with redirect_stdout(printed):
        run(folder)
    return folder, printed.getvalue()


def test_the_recipe_trains_routers_alone_and_reports(whole: tuple[Path, str]) -> None:
    folder, said = whole
    assert "two tiny random models are composed" in said
    for name in (PAGE, PICTURE, RECORD):
        assert (folder / name).exists()
        assert name in said
    before, after = (Checkpoint(place) for place in (folder / "tiny_moe", folder))
    changed = {name for name in before.names if not before.read(name).equal(after.read(name))}
    assert changed == {f"model.layers.{i}.block_sparse_moe.gate.weight" for i in range(3)}
    record = json.loads((folder / RECORD).read_text())
    assert record["before"]["load"] == [[0.5, 0.5]] * 3  # gates of zero
    assert record["after"]["load"] != record["before"]["load"]
    assert set(record["after"]["by"]) == {"quadrant", "emotion"}
    assert sum(group["rows"] for group in record["after"]["by"]["quadrant"].values()) == record["after"]["rows"]
    card = (folder / "README.md").read_text()
    assert "## The router" in card
    assert "Experts: sensibility, rationality." in card


def test_an_interrupted_run_goes_on_and_reports_the_same(
    whole: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for picture in ("moe.routing_report.plot_routing", "training.data.plot_plane"):  # which take seconds
        monkeypatch.setattr(f"ee_trl.{picture}", lambda *_: None)

    def interrupted(self: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RouterSFTTrainer, "merge", interrupted)  # after the last step, before anything is saved
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, "--save_steps", "2")
    [*_, last] = sorted(tmp_path.glob("checkpoint-*"))
    assert set(load_file(last / "routers.safetensors")) == {"0", "1", "2"}
    run(tmp_path, "--save_steps", "2")
    assert json.loads((tmp_path / RECORD).read_text()) == json.loads((whole[0] / RECORD).read_text())
    run(tmp_path, "--save_steps", "2")
    assert "is finished already" in capsys.readouterr().out


def test_a_quantized_start_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CompositionError, match="leave out load_in_4bit"):
        run(tmp_path / "out", "--load_in_4bit", "true")
    assert not (tmp_path / "out").exists()  # so that the corrected command finds no run with other settings


def test_one_active_expert_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    MixtralConfig(num_experts_per_tok=1).save_pretrained(tmp_path / "moe")
    with pytest.raises(CompositionError, match="one active expert"):
        run(tmp_path / "out", "--model_name_or_path", str(tmp_path / "moe"), "--bf16", "false", "--use_cpu", "true")
    assert not (tmp_path / "out").exists()


# ---- the command line -----------------------------------------------------------------------------------------------


def test_compose_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2}
    names = {name: build_tiny_causal_lm(tmp_path / name, seed=i, **sizes) for i, name in enumerate("abc")}
    load_sample("train").select(range(8)).to_parquet(tmp_path / "data.parquet")
    experts = ["-e", f"b={names['b']}", "-e", f"c={names['c']}"]
    data = ["--gate-data", f"b={tmp_path / 'data.parquet'}", "--gate-data", f"c={tmp_path / 'data.parquet'}"]
    out = tmp_path / "moe"
    assert main(["compose", str(names["a"]), *experts, *data, "-o", str(out), "--shared", "b", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["experts"] == ["b", "c"]
    assert said["bytes"] == sum(file.stat().st_size for file in out.glob("*.safetensors"))
    settings = json.loads((out / "composition.json").read_text())["settings"]
    assert (settings["shared"], settings["gate_init"]) == ("b", "probe")
    assert main(["compose", str(names["a"]), *experts, "-o", str(tmp_path / "mean"), "--average"]) == 0
    assert tiny.load(tmp_path / "mean").config.model_type == "llama"
    assert "b, c;" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["-e", "b"], "--expert 'b' is not valid; valid: NAME=PATH"),
        (["-e", "b=x", "-e", "b=y"], "--expert names 'b' twice"),
        (["-e", "b=x"], "needs two experts or more"),
        (["-e", "b=x", "-e", "c=x", "--shared", "d"], "unknown shared 'd'; valid: average, base, b, c"),
    ],
)
def test_what_compose_refuses(args: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compose", str(tmp_path), *args, "-o", str(tmp_path / "moe")]) == 3
    assert said in capsys.readouterr().err
    assert not (tmp_path / "moe").exists()
