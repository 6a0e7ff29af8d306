"""Rows without scores are scored while training, before they are drawn; how fast the scorer is changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import online_runs as runs
import pyarrow.parquet as pq
import pytest
import torch
from sent_scorers import Lengths

from ee_trl import EmpathyCallback, EmpathyDataSelector, EmpathySFTTrainer, load_sample
from ee_trl.errors import NothingLeftError, TrainingError
from ee_trl.online.lookahead import ScoringAhead
from ee_trl.online.plan import put_off, still_due
from ee_trl.online.state import read_state, write_state
from ee_trl.scoring.store import ScoreStore


pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of the libraries
    pytest.mark.usefixtures("no_pictures"),
]

ROWS = 120
GOOD = {"max_steps": 12, "logging_steps": 4}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return runs.build_model(tmp_path_factory.mktemp("model"))


def unscored(n: int = ROWS) -> Any:
    return load_sample().select(range(n))


def attached(model: str, scorer: Any, tmp_path: Path, policy: Any = "sensibility", **options: Any) -> Any:
    ours = ("max_steps", "save_strategy", "save_steps")
    settings = GOOD | {name: options.pop(name) for name in list(options) if name in ours}
    trainer = runs.stock(model, unscored(), output_dir=tmp_path, **settings)
    callback = EmpathyDataSelector(scorer, store=options.pop("store", True)).attach(trainer, policy, **options)
    return trainer, callback


def draws(folder: Path) -> dict[str, list[Any]]:
    return pq.read_table(folder / "empathy_draws.parquet").to_pydict()


# ---- the rules


def test_what_was_drawn_is_made_up_for() -> None:
    rest = still_due([1, 1, 2, 0], np.array([0, 2]), 8)
    np.testing.assert_allclose(rest, [1, 2, 3, 0])
    np.testing.assert_allclose(still_due([1, 1], np.array([0, 0, 1, 1]), 4), [1, 1])


def test_first_the_new_then_the_late_then_what_comes_again() -> None:
    late = np.array([False, True, False, False])
    assert put_off(np.array([3, 1, 0, 3, 2, 0]), 1, late).tolist() == [3, 0, 2, 1, 3, 0]
    assert put_off(np.array([1, 0]), 0, None).tolist() == [1, 0]


# ---- trainings


def test_only_what_is_scored_and_good_is_drawn(model: str, tmp_path: Path) -> None:
    trainer, callback = attached(model, Lengths(), tmp_path)
    assert np.isnan(callback.scores).all(), "training starts at once"
    trainer.train()
    found = draws(tmp_path)
    drawn = [q for q, n in zip(found["quadrant"], found["draws"], strict=True) for _ in range(n)]
    assert set(drawn) == {"sensibility"}
    assert len(drawn) == 12 * 6
    expected = EmpathyDataSelector(Lengths(), store=False).score(unscored())
    means: dict[int, list[float]] = {}
    for row, s in zip(expected["row_index"], expected["sensibility"], strict=True):
        means.setdefault(row, []).append(s)
    known = [i for i, s in enumerate(found["sensibility"]) if s is not None]
    assert len(known) > 60
    assert [found["sensibility"][i] for i in known] == pytest.approx([np.mean(means[i]) for i in known])
    assert ScoreStore().scorers()[0].scored == sum(len(means[i]) for i in known)
    waits = [entry["empathy/scorer_wait"] for entry in trainer.state.log_history if "empathy/scorer_wait" in entry]
    assert len(waits) == 3
    assert all(wait >= 0 for wait in waits)


def test_what_is_drawn_during_the_warm_up_is_scored_and_told_too(model: str, tmp_path: Path) -> None:
    trainer, _ = attached(model, Lengths(), tmp_path, max_steps=18, warmup=16)
    trainer.train()
    coverage = [entry["empathy/coverage"] for entry in trainer.state.log_history if "empathy/coverage" in entry]
    assert coverage == sorted(coverage)
    assert coverage[1] > 0, "at step 8, long before the policy is asked"
    history = json.loads((tmp_path / "empathy_history.json").read_text())
    assert history[-2]["shares"]["unscored"] == 0


@pytest.mark.parametrize("strategy", ["bfd", "wrapped"])
def test_packed_rows_are_drawn_when_all_of_their_samples_are_scored(model: str, tmp_path: Path, strategy: str) -> None:
    def packed(name: str, seconds: float) -> Any:
        settings = GOOD | {"packing": True, "packing_strategy": strategy, "max_length": 160, "max_steps": 6}
        args = runs.config(output_dir=tmp_path / name, **settings)
        selector = EmpathyDataSelector(Lengths(seconds), store=False)
        return EmpathySFTTrainer(model, args=args, train_dataset=unscored(), selector=selector)

    trainer = packed("fast", 0.0)
    assert len(trainer.train_dataset) < ROWS
    assert trainer.empathy_callback.ahead.pending.all()
    whole = runs.trained(trainer)
    found = draws(tmp_path / "fast")
    counted = [q for q, weight in zip(found["quadrant"], found["mean_weight"], strict=True) if weight]
    assert set(counted) == {"sensibility"}
    assert "unscored" not in [q for q, n in zip(found["quadrant"], found["draws"], strict=True) if n]
    if strategy == "wrapped":
        assert torch.equal(runs.trained(packed("slow", 0.005)), whole), "however fast the scorer is"


def test_a_slow_scorer_is_waited_for_and_changes_nothing(model: str, tmp_path: Path) -> None:
    results = []
    for name, seconds in (("fast", 0.0), ("slow", 0.01)):
        trainer, _ = attached(model, Lengths(seconds), tmp_path / name, store=False)
        results.append(runs.trained(trainer))
    assert torch.equal(*results)
    assert draws(tmp_path / "fast") == draws(tmp_path / "slow")


def test_what_is_drawn_does_not_depend_on_being_scored_before(model: str, tmp_path: Path) -> None:
    """A policy without an opinion: the rows come as they would, each once an epoch."""
    trainer, _ = attached(model, Lengths(), tmp_path, lambda scores, losses, progress: (None, None), max_steps=20)
    trainer.train()
    assert set(draws(tmp_path)["draws"]) == {1}  # 120 rows, 6 a step


STOCK = {
    "plain": {},
    "workers": {"dataloader_num_workers": 2},
    "grouped_by_length": {"train_sampling_strategy": "group_by_length"},
    "sampler_without_a_seed": {"accelerator_config": {"use_seedable_sampler": False}},
    "bfd": {"packing": True, "packing_strategy": "bfd", "max_length": 160},
}


@pytest.mark.parametrize("name", STOCK)
def test_without_sampling_weights_the_stock_order_stays_while_scores_are_on_their_way(name: str, model: str) -> None:
    """Two epochs and more, with weights of one: bit-equal to the stock trainer."""
    settings = STOCK[name] | {"max_steps": 25, "logging_steps": 25}
    expected = runs.trained(runs.stock(model, unscored(60), **settings))
    trainer = runs.guided(model, unscored(60), runs.ones, **settings)
    asked: list[int] = []
    ask, ahead = trainer.empathy_callback.ahead.look.ask, trainer.empathy_callback.ahead
    ahead.look.ask = lambda rows: ask(asked.extend(rows) or rows)
    assert torch.equal(runs.trained(trainer), expected)
    assert not ahead.pending.any()
    assert trainer.empathy_weights.table is not None
    if name == "plain":
        first = trainer.empathy_callback.plan._stock_order(0)
        assert asked == first.tolist(), "the rows that come next are scored next"


def test_a_checkpoint_in_which_the_order_was_not_the_stock_one_goes_on(model: str, tmp_path: Path) -> None:
    """As 0.1.0 wrote it for a policy without sampling weights: the epoch's order stays, and no row comes twice."""
    saving = {"max_steps": 20, "save_strategy": "steps", "save_steps": 5}
    trainer, callback = attached(model, Lengths(), tmp_path / "a", runs.ones, **saving)
    trainer.train()
    checkpoint = tmp_path / "a" / "checkpoint-5"
    state = read_state(checkpoint)
    assert state is not None
    state["sampling"] = state["plan"]["weights"] = np.ones(ROWS)
    state["plan"]["late"] = state["ahead"]["pending"]
    write_state(checkpoint, state)
    trainer, callback = attached(model, Lengths(), tmp_path / "b", runs.ones, **saving)
    trainer.train(resume_from_checkpoint=str(checkpoint))
    assert set(callback.diary.records.draws) == {1}


def test_a_policy_of_loss_weights_knows_the_scores_of_all_it_draws(model: str, tmp_path: Path) -> None:
    policy = {"policy": "soft", "weigh": "loss", "warmup": 3}
    trainer, callback = attached(model, Lengths(0.002), tmp_path, max_steps=24, **policy)
    trainer.args.logging_steps = 1
    trainer.train()
    assert [entry["shares"]["unscored"] for entry in callback.diary.history if entry["step"] > 3] == [0] * 21


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_training_goes_the_same_way(model: str, tmp_path: Path, workers: int) -> None:
    saving = {"save_strategy": "steps", "save_steps": 4}

    def make(folder: Path) -> Any:
        trainer, _ = attached(model, Lengths(0.002), folder, **saving)
        trainer.args.dataloader_num_workers = workers
        return trainer

    whole = runs.trained(make(tmp_path / "whole"))
    again = make(tmp_path / "again")
    resumed = runs.trained(again, resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    assert torch.equal(resumed, whole)
    assert draws(tmp_path / "again") == draws(tmp_path / "whole")


def test_without_waiting_what_is_not_scored_is_drawn_too(model: str, tmp_path: Path) -> None:
    trainer, _ = attached(model, Lengths(0.02), tmp_path, behind="draw", max_steps=20)
    trainer.train()
    found = draws(tmp_path)
    assert sum(found["draws"]) == 120
    waits = [entry["empathy/scorer_wait"] for entry in trainer.state.log_history if "empathy/scorer_wait" in entry]
    assert waits[0] > 0, "the first rows are waited for: there is no draw without a score at all"
    assert waits[1:] == [0] * 4


def test_a_callback_alone_scores_ahead_as_well(model: str, tmp_path: Path) -> None:
    data = unscored()
    trainer = runs.stock(model, data, output_dir=tmp_path, **GOOD)
    trainer.add_callback(EmpathyCallback(EmpathyDataSelector(Lengths()), dataset=data))
    trainer.train()
    found = draws(tmp_path)
    assert {q for q, n in zip(found["quadrant"], found["draws"], strict=True) if n} == {"sensibility"}


def test_a_dying_scorer_stops_the_training_or_not_as_asked(model: str, tmp_path: Path, caplog: Any) -> None:
    trainer, _ = attached(model, Lengths(dies=True), tmp_path / "a")
    with pytest.raises(TrainingError, match="(?s)died twice.*out of luck"):
        trainer.train()
    keep = {"policy": "gate", "keep": "sensibility", "unscored": "keep", "on_failure": "continue"}
    trainer, callback = attached(model, Lengths(dies=True), tmp_path / "b", **keep)
    trainer.train()
    assert "goes on without new scores" in caplog.text
    assert "out of luck" in callback.ahead.look.failure
    assert sum(draws(tmp_path / "b")["draws"]) == 12 * 6


def test_no_row_is_drawn_unscored_where_a_refresh_is_an_epoch_away(model: str, tmp_path: Path) -> None:
    """An epoch of 4 steps, a refresh every 5: what comes first in an epoch is settled when it begins."""

    def make(name: str) -> Any:
        saving = {"max_steps": 9, "save_strategy": "steps", "save_steps": 4}
        trainer = runs.stock(model, unscored(24), output_dir=tmp_path / name, **saving)
        EmpathyDataSelector(Lengths(), store=False).attach(trainer, every_n_steps=5)
        return trainer

    whole = runs.trained(make("whole"))
    history = json.loads((tmp_path / "whole" / "empathy_history.json").read_text())
    assert [entry["shares"]["unscored"] for entry in history] == [0] * 9
    again = make("again")  # the checkpoint is of an epoch's end
    resumed = runs.trained(again, resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    assert torch.equal(resumed, whole)
    assert draws(tmp_path / "again") == draws(tmp_path / "whole")


def test_a_plain_checkpoint_in_an_epoch_s_midst_is_taken_over(model: str, tmp_path: Path) -> None:
    runs.stock(model, unscored(), output_dir=tmp_path, max_steps=3, save_strategy="steps", save_steps=3).train()
    trainer, callback = attached(model, Lengths(), tmp_path / "b", max_steps=6, every_n_steps=2)
    trainer.args.logging_steps = 1
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert [(h["step"], h["shares"]["unscored"]) for h in callback.diary.history] == [(4, 0), (5, 0), (6, 0)]
    assert len(set(callback.plan.order[: 6 * 6].tolist())) > 6 * 5, "what the stock training drew counts as drawn"


def test_without_any_scores_training_goes_on_alike_and_says_so(model: str, tmp_path: Path, caplog: Any) -> None:
    trainer, _ = attached(model, Lengths(dies=True), tmp_path, max_steps=3, on_failure="continue")
    trainer.train()
    assert caplog.text.count("everything is drawn alike") == 1
    assert sum(draws(tmp_path)["draws"]) == 3 * 6


class NoProcess:
    """Takes what is asked for; answers when told to."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.failure = None

    def ask(self, rows: Any) -> None:
        self.asked += rows

    def take(self, wait_for: Any = ()) -> list[Any]:
        return [(row, 7.0, 2.0) for row in wait_for]


def test_no_more_is_asked_for_than_the_window_lacks() -> None:
    look = NoProcess()
    ahead = ScoringAhead(look, np.full((1000, 2), np.nan), np.ones(1000, dtype=bool))  # type: ignore[arg-type]
    order = np.arange(1000)
    ahead.need(range(8))  # the first are waited for
    ahead.request(order, 4, 1.0)
    assert look.asked == list(range(64))
    for drawn in range(4, 120, 4):
        ahead.refresh()
        ahead.request(np.arange(drawn, 1000), 4, 1.0)
        assert len(look.asked) <= drawn + 64
        assert not ahead.pending[:drawn].any(), "each is there when it is drawn"
    fewer = NoProcess()
    ahead = ScoringAhead(fewer, np.full((1000, 2), np.nan), np.ones(1000, dtype=bool))  # type: ignore[arg-type]
    ahead.request(order, 4, 0.25)
    assert len(fewer.asked) == 4 * 64


def test_nothing_scored_at_all_is_an_error_of_the_policy(model: str, tmp_path: Path) -> None:
    trainer, _ = attached(model, Lengths(scores_none=True), tmp_path)
    with pytest.raises(NothingLeftError):
        trainer.train()


def test_scores_can_still_be_made_before(model: str, tmp_path: Path) -> None:
    _, callback = attached(model, Lengths(), tmp_path, ahead=False)
    assert callback.ahead is None
    assert not np.isnan(callback.scores).any()


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "workers"), [(1, 0), (2, 0), (2, 2)])
def test_killed_and_resumed_is_as_never_stopped(processes: int, workers: int, model: str, tmp_path: Path) -> None:
    """Each process scores its share ahead; the plan is that of a training that was never stopped."""
    settings = {
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "max_steps": 12,
        "save_strategy": "steps", "save_steps": 4, "dataloader_num_workers": workers,
    }  # fmt: skip
    case = {"model": model, "policy": "sensibility", "unscored": True, "rows": ROWS}
    whole, broken = ({**settings, "output_dir": str(tmp_path / name)} for name in ("whole", "broken"))
    expected = runs.torchrun({**case, "settings": whole, "out": str(tmp_path / "whole.pt")}, processes)
    assert all(order == expected["order"] for order in expected["orders"])
    runs.torchrun({**case, "settings": broken, "kill_at": 6, "out": str(tmp_path / "none.pt")}, processes)
    found = runs.torchrun({**case, "settings": broken, "resume": True, "out": str(tmp_path / "b.pt")}, processes)
    assert torch.equal(found["parameters"], expected["parameters"])
    assert (found["order"], found["draws"]) == (expected["order"], expected["draws"])
    assert sum(found["draws"]) == 12 * 2 * processes
