"""A recipe's folder a second time: what is resumed, left alone or refused."""

from __future__ import annotations

import json
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from recipe_runs import LINEAR, NO_OPTIONS, QUICK, RECIPES, draws, run, selection, weights
from trl import SFTTrainer

from ee_trl import EmpathyDataSelector, load_sample
from ee_trl.errors import CoverageError, EmpathyError
from ee_trl.recipes import sft_online, sft_sensibility
from ee_trl.training.run import RECORD, RecipeRun


# of the libraries that a recipe runs, not of this package
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("sample_is_scored", "no_pictures")]


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
    args += LINEAR * (request.param == "sft_online")
    args += ["--max_steps", "10", "--save_steps", "4", "--save_total_limit", "3", "--logging_steps", "3"]
    found = Whole(request.param, args, tmp_path_factory.mktemp("whole") / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ee_trl.reports.draws.draw_draws", lambda *args: None)
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
    out = ["--output_dir", str(tmp_path / "expert"), *LINEAR]
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


def test_what_a_kill_left_half_written_is_removed_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A run record that was never named, a checkpoint without the policy's state, and one of which half is there."""
    data = EmpathyDataSelector("linear").score(load_sample("train").select(range(16)))
    data.to_parquet(tmp_path / "data.parquet")
    args = ["--dataset", str(tmp_path / "data.parquet"), *QUICK[2:], *NO_OPTIONS, "--max_steps", "4"]
    args += ["--save_steps", "1", "--save_total_limit", "9", *LINEAR]
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
