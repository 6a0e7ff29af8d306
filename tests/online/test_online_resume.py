"""A training that was stopped, however, goes on with the same samples at the same weights, to the last bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import online_runs as runs
import pytest
import torch

from ee_trl import EmpathyCallback, EmpathyDataSelector
from ee_trl.errors import TrainingError
from ee_trl.online.state import STATE_FILE, read_state, write_state


pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of the libraries
    pytest.mark.usefixtures("no_pictures"),
]

SAVING = {"save_strategy": "steps", "save_steps": 3, "max_steps": 7}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return runs.build_model(tmp_path_factory.mktemp("model"))


class Bandit:
    """A policy with a state of its own: it draws random numbers, and counts."""

    needs_losses = True

    def __init__(self) -> None:
        self.rng, self.asked = np.random.default_rng(3), 0

    def __call__(self, scores: np.ndarray, losses: np.ndarray, progress: float) -> Any:
        self.asked += 1
        return self.rng.uniform(0, 1, len(scores)), self.rng.uniform(0.5, 1.5, len(scores))

    def state_dict(self) -> dict[str, Any]:
        return {"rng": self.rng.bit_generator.state, "asked": self.asked}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rng.bit_generator.state, self.asked = state["rng"], state["asked"]


CASES: dict[str, dict[str, Any]] = {
    "losses": {},
    "bandit": {"policy": Bandit},
    "interval_in_the_middle": {"logging_steps": 2},
    "padding_free": {"padding_free": True, "max_length": None},
    "packing": {"packing": True, "packing_strategy": "bfd_split", "max_length": 64, "per_device_train_batch_size": 2},
    "not_seedable": {"accelerator_config": {"use_seedable_sampler": False}},
}


@pytest.mark.parametrize(("name", "step"), [*((name, 3) for name in CASES), ("losses", 6), ("packing", 6)])
def test_a_resumed_training_ends_as_one_never_stopped(name: str, step: int, model: str, tmp_path: Path) -> None:
    settings = {**SAVING, **CASES[name]}
    make = settings.pop("policy", lambda: runs.losses_decide)
    whole = runs.guided(model, runs.rows(), make(), output_dir=tmp_path / "run", **settings)
    expected = runs.trained(whole)
    again = runs.guided(model, runs.rows(), make(), output_dir=tmp_path / "again", **settings)
    found = runs.trained(again, resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{step}"))
    assert torch.equal(found, expected)
    one, other = (trainer.empathy_callback for trainer in (whole, again))
    assert one.plan.order.tolist() == other.plan.order.tolist()
    for figure, values in one.diary.records.state_dict().items():
        np.testing.assert_array_equal(other.diary.records.state_dict()[figure], values)
    assert one.diary.history == other.diary.history
    if hasattr(one.policy, "asked"):
        assert one.policy.asked == other.policy.asked == settings["max_steps"]


def test_a_checkpoint_made_without_scores_is_resumed_with_them_and_the_reverse(
    model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = runs.stock(model, runs.rows(), output_dir=tmp_path / "plain", **SAVING)
    expected = runs.trained(plain)
    with_scores = runs.guided(model, runs.rows(), runs.ones, output_dir=tmp_path / "with", **SAVING)
    from_plain = runs.trained(with_scores, resume_from_checkpoint=str(tmp_path / "plain" / "checkpoint-3"))
    assert torch.equal(from_plain, expected)
    assert STATE_FILE in caplog.text
    assert (tmp_path / "with" / "checkpoint-6" / STATE_FILE).exists()
    stock = runs.stock(model, runs.rows(), output_dir=tmp_path / "back", **SAVING)
    assert torch.equal(runs.trained(stock, resume_from_checkpoint=str(tmp_path / "with" / "checkpoint-6")), expected)


def test_a_callback_alone_finds_its_state_in_the_output_folder(model: str, tmp_path: Path) -> None:
    def sampling(scores: np.ndarray, losses: np.ndarray, progress: float) -> Any:
        return np.exp(scores[:, 0] * progress), None

    def trainer() -> Any:
        made = runs.stock(model, runs.rows(), output_dir=tmp_path / "run", **SAVING)
        made.add_callback(EmpathyCallback(EmpathyDataSelector("linear"), sampling, dataset=runs.rows()))
        return made

    expected = runs.trained(trainer())
    assert torch.equal(
        runs.trained(trainer(), resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3")), expected
    )
    assert not torch.equal(expected, runs.trained(runs.stock(model, runs.rows(), **SAVING)))


def test_a_checkpoint_of_other_data_is_refused(model: str, tmp_path: Path) -> None:
    runs.guided(model, runs.rows(), runs.ones, output_dir=tmp_path / "run", **SAVING).train()
    checkpoint = str(tmp_path / "run" / "checkpoint-3")
    with pytest.raises(TrainingError, match="17 now"):
        runs.guided(model, runs.rows(17), runs.ones, **SAVING).train(resume_from_checkpoint=checkpoint)
    rescored = runs.rows().map(lambda row: {"sensibility": row["sensibility"] / 2})
    with pytest.raises(TrainingError, match="of other scores"):
        runs.guided(model, rescored, runs.ones, **SAVING).train(resume_from_checkpoint=checkpoint)


def test_a_state_is_read_back_as_it_was_and_nothing_else_is_written(tmp_path: Path) -> None:
    state = {
        "order": np.arange(5),
        "deep": [{"x": np.float64(0.5)}, None, "text", (1, 2**100)],
        "empty": np.empty((0, 6)),
    }
    write_state(tmp_path, state)
    found = read_state(tmp_path)
    assert found is not None
    np.testing.assert_array_equal(found["order"], state["order"])
    assert found["deep"] == [{"x": 0.5}, None, "text", (1, 2**100)]
    assert found["empty"].shape == (0, 6)
    assert [path.name for path in tmp_path.iterdir()] == [STATE_FILE]
    with pytest.raises(TrainingError, match="holds a function"):
        write_state(tmp_path, {"policy": lambda: None})
    assert read_state(tmp_path / "nowhere") is None


def run_of(model: str, folder: Path, processes: int, workers: int, **more: Any) -> Any:
    """An epoch is 10 steps of one process, 5 of two."""
    settings = {
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "max_steps": 8 * (3 - processes) + 2,
        "save_strategy": "steps", "save_steps": 6 - 2 * processes, "dataloader_num_workers": workers,
        "output_dir": str(folder),
    }  # fmt: skip
    case = {"model": model, "policy": "losses_decide", "settings": settings, "out": f"{folder}.pt", **more}
    return runs.torchrun(case, processes)


@pytest.fixture(scope="module")
def unbroken(model: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, int], tuple[Any, Path]]:
    """What a training gives that is never stopped, and its folder; each is made once."""

    @cache
    def made(processes: int, workers: int) -> tuple[Any, Path]:
        folder = tmp_path_factory.mktemp("unbroken") / "run"
        return run_of(model, folder, processes, workers), folder

    return made


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "workers", "killed", "resumed"),
    [(1, 0, 6, 4), (1, 0, 14, 12), (1, 2, 14, 12), (2, 0, 3, 2), (2, 0, 9, 8), (2, 2, 3, 2), (2, 2, 9, 8)],
)
def test_killed_and_resumed_is_as_never_stopped(
    processes: int, workers: int, killed: int, resumed: int, model: str, unbroken: Any, tmp_path: Path
) -> None:
    """Killed in the middle of the first epoch, and of the second."""
    expected, whole = unbroken(processes, workers)
    broken = tmp_path / "run"
    run_of(model, broken, processes, workers, kill_at=killed)
    checkpoints = sorted(int(path.name.split("-")[1]) for path in broken.glob("checkpoint-*"))
    assert checkpoints[-1] == resumed
    found = run_of(model, broken, processes, workers, resume=True)
    assert torch.equal(found["parameters"], expected["parameters"])
    assert (found["order"], found["draws"]) == (expected["order"], expected["draws"])
    plain = json.loads((whole / "empathy_history.json").read_text())
    assert json.loads((broken / "empathy_history.json").read_text()) == plain
