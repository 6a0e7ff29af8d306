"""The plan: draws in proportion, tails drawn anew, the same on every process; and what a policy may answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard, SeedableRandomSampler, skip_first_batches
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from ee_trl.errors import NothingLeftError, SelectionError, TrainingError
from ee_trl.online.loss import SampleIdCollator, lift, loss_weights, losses_by_sample
from ee_trl.online.plan import SamplingPlan, draw, install_plan, redraw_tail
from ee_trl.online.policies.named import Schedule, load_policy
from ee_trl.online.policies.weights import Weights, tamed
from ee_trl.online.records import Records, interval_figures, merged
from ee_trl.online.worker import FLAGGED, mean_by_row


# ---- draws ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 7, 100, 1000])
def test_each_sample_is_drawn_as_often_as_its_share_says_rounded(count: int) -> None:
    weights = np.random.default_rng(0).uniform(0, 1, 50) ** 3
    weights[::5] = 0
    for seed in range(20):
        drawn = draw(weights, count, [seed])
        expected = count * weights / weights.sum()
        counts = np.bincount(drawn, minlength=50)
        assert len(drawn) == count
        assert (counts >= np.floor(expected - 1e-9)).all()
        assert (counts <= np.ceil(expected + 1e-9)).all()
        assert not counts[::5].any()


def test_draws_are_unbiased() -> None:
    weights = np.array([0.1, 0.5, 0.0, 2.0, 1.0])
    counts = sum(np.bincount(draw(weights, 3, [1, seed]), minlength=5) for seed in range(4000))
    np.testing.assert_allclose(counts / counts.sum(), weights / weights.sum(), atol=0.01)


def test_equal_weights_give_a_permutation_and_a_seed_gives_one_order() -> None:
    for weight in (1.0, 0.1, 1 / 3, 1e-9):
        assert sorted(draw(np.full(1000, weight), 1000, [3])) == list(range(1000))
    assert draw(np.ones(50), 50, [1, 2]).tolist() == draw(np.ones(50), 50, [1, 2]).tolist()
    assert draw(np.ones(50), 50, [1, 2]).tolist() != draw(np.ones(50), 50, [1, 3]).tolist()
    assert draw(np.ones(50), 50, [1], shuffled=False).tolist() == list(range(50))


def test_extreme_weights_draw_and_count_as_their_ratios_say() -> None:
    for greatest in (1e308, 5e-324, 1e-50, 1e39):
        assert sorted(draw(np.full(9, greatest), 9, [3])) == list(range(9))
        answer = Schedule().ask(lambda *_, w=greatest: (None, np.full(4, w)), np.zeros((4, 2)), np.zeros(4), 0.0)
        assert 0.5 <= answer.loss[0] < 1
    for ordinary in (np.ones(3), np.array([1e-9, 3.3, 1e12])):
        assert tamed(ordinary) is ordinary


def test_a_policy_may_write_in_what_it_is_given() -> None:
    def policy(scores: np.ndarray, losses: np.ndarray, progress: float) -> Any:
        losses[np.isnan(losses)] = 5.0
        return None, losses

    seen = np.array([1.0, np.nan])
    assert Schedule().ask(policy, np.zeros((2, 2)), seen, 0.0).loss.tolist() == [1, 5]
    assert np.isnan(seen[1])


def test_losses_by_sample_are_the_sums_over_its_tokens() -> None:
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 40, (4, 50), generator=rng).sort(dim=1).values
    mask = torch.rand(4, 50, generator=rng) < 0.7
    log_probs = torch.where(mask, -torch.rand(4, 50, generator=rng), 0)
    drawn = torch.unique(ids)[1:]  # an id that was not drawn counts nowhere
    losses, counts = losses_by_sample(log_probs, mask, ids, drawn)
    for sample, loss, count in zip(drawn.tolist(), losses.tolist(), counts.tolist(), strict=True):
        assert loss == pytest.approx(float(-log_probs[ids == sample].sum()), rel=1e-6)
        assert count == int(mask[ids == sample].sum())


def test_a_tail_is_drawn_anew_and_the_rest_stays() -> None:
    order = np.arange(10)
    weights = np.array([0, 0, 1, 0, 0, 0, 0, 0, 0, 3.0])
    out = redraw_tail(order, 6, weights, [0])
    assert out[:6].tolist() == order[:6].tolist()
    assert sorted(out[6:].tolist()) == [2, 9, 9, 9]
    assert redraw_tail(order, 10, weights, [0]) is order


# ---- the sampler ---------------------------------------------------------------------------------------------------


def seedable(n: int) -> SeedableRandomSampler:
    return SeedableRandomSampler(range(n), data_seed=5)


def test_without_weights_the_order_is_the_stock_samplers_in_every_epoch() -> None:
    plan, stock = SamplingPlan(seedable(20), 20), seedable(20)
    for epoch in (0, 1, 2, 7):
        plan.set_epoch(epoch)
        stock.set_epoch(epoch)
        assert list(plan) == list(stock)


def shards(n: int, processes: int, batch: int) -> list[tuple[SamplingPlan, Any]]:
    out = []
    for rank in range(processes):
        plan = SamplingPlan(seedable(n), n, seed=1)
        out.append((plan, iter(BatchSamplerShard(BatchSampler(plan, batch, False), processes, rank))))
    return out


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_after_an_update_all_processes_draw_one_new_order_and_no_index_is_lost_or_doubled(ahead: int) -> None:
    """Two processes, one of which has drawn further: together they draw what the common plan says, batch by batch."""
    weights = np.random.default_rng(0).uniform(0, 1, 48)
    ranks = shards(48, 2, 4)
    drawn: list[list[list[int]]] = [
        [next(batches) for _ in range(2 + ahead * rank)] for rank, (_, batches) in enumerate(ranks)
    ]
    start = max(plan.cursor for plan, _ in ranks)
    before = ranks[0][0].order.copy()
    for plan, _ in ranks:
        plan.update(weights, start)
    orders = [plan.order.tolist() for plan, _ in ranks]
    assert orders[0] == orders[1] != before.tolist()
    assert orders[0][:start] == before[:start].tolist()
    for mine, (_, batches) in zip(drawn, ranks, strict=True):
        mine.extend(batches)
    together = [index for pair in zip(*drawn, strict=True) for batch in pair for index in batch]
    assert together == orders[0]
    counts = np.bincount(orders[0][start:], minlength=48)
    assert (np.abs(counts - (48 - start) * weights / weights.sum()) < 1).all()


def test_a_plan_restored_runs_its_epoch_again_in_the_same_order_and_draws_on_alike() -> None:
    weights = np.random.default_rng(0).uniform(0, 1, 20)
    plan = SamplingPlan(seedable(20), 20, seed=1)
    plan.set_epoch(1)
    first = iter(plan)
    seen = [next(first) for _ in range(6)]
    plan.update(weights, 8)
    state = plan.state_dict()
    seen += list(first)
    other = SamplingPlan(seedable(20), 20, seed=99)
    other.load_state_dict(state)
    other.set_epoch(1)
    assert list(other) == seen
    for sampler in (plan, other):
        sampler.set_epoch(2)
    assert list(plan) == list(other)
    with pytest.raises(TrainingError, match="20 rows"):
        SamplingPlan(seedable(19), 19).load_state_dict(state)


def test_a_plan_is_put_in_front_of_the_loaders_own_sampler_once() -> None:
    from accelerate import Accelerator

    rows = list(range(10))
    loader = Accelerator(cpu=True).prepare(DataLoader(rows, batch_size=2, sampler=SequentialSampler(rows)))  # type: ignore[arg-type]
    install_plan(loader)
    plan = install_plan(loader)
    assert isinstance(plan.base, SequentialSampler)
    assert torch.cat(list(loader)).tolist() == rows
    plan.update(np.eye(10)[3], 0)
    assert torch.cat(list(skip_first_batches(loader, 3))).tolist() == [3] * 4
    with pytest.raises(TrainingError, match="stream"):
        install_plan(DataLoader(iter(rows)))  # type: ignore[arg-type]


# ---- policies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "due"),
    [
        (Schedule(), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (Schedule(warmup=4, every_n_steps=3), [4, 7]),
        (Schedule(warmup=0.25), [3, 4, 5, 6, 7, 8, 9]),
        (Schedule(warmup=1.0), []),
        (Schedule(warmup=1), [1, 2, 3, 4, 5, 6, 7, 8, 9]),
    ],
)
def test_a_policy_is_asked_after_the_warm_up_and_every_n_steps(schedule: Schedule, due: list[int]) -> None:
    assert [step for step in range(12) if schedule.due(step, 10)] == due


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.ones(3), "expected a pair"),
        ((np.ones(4), None), r"shape \(4,\); expected \(3,\)"),
        ((None, [1, np.nan, 1]), "the first is nan of sample 1"),
        ((None, [1, 1, -1.0]), "the first is -1.0 of sample 2"),
        ((np.zeros(3), None), "are all 0"),
        ((["a", "b", "c"], None), "are not numbers"),
    ],
)
def test_an_answer_that_is_none_is_refused(answer: Any, message: str) -> None:
    with pytest.raises(SelectionError, match=message):
        Schedule().ask(lambda scores, losses, progress: answer, np.zeros((3, 2)), np.zeros(3), 0.0)


def test_weights_are_kept_within_the_bounds_and_what_a_policy_writes_into_is_its_own() -> None:
    def policy(scores: np.ndarray, losses: np.ndarray, progress: float) -> Any:
        scores[0] = losses[0] = 1
        return [0, 1, 9, 10], None

    scores, losses = np.zeros((4, 2)), np.zeros(4)
    found = Schedule(floor=0.5, ceiling=2).ask(policy, scores, losses, 0.5)
    assert not scores.any()
    assert not losses.any()
    assert found.sampling is not None
    np.testing.assert_allclose(found.sampling, [0, 0.5, 22.5 / 19, 25 / 19])  # 0 is dropped, whatever the floor
    for wrong in (
        {"floor": 1.5},
        {"floor": -1},
        {"ceiling": 0.5},
        {"warmup": 1.5},
        {"warmup": -1},
        {"every_n_steps": 0},
    ):
        with pytest.raises(SelectionError):
            Schedule(**wrong)  # type: ignore[arg-type]


def test_what_is_not_to_be_drawn_any_more_does_not_count_in_the_loss() -> None:
    """Batches that were fetched before an update hold such samples; so do packed rows."""
    weights = loss_weights(Weights(np.array([0, 1, 2.0]), None))
    assert weights is not None
    assert weights.tolist() == [0, 1, 1]
    weights = loss_weights(Weights(np.array([0, 1, 2.0]), np.array([3, 4, 0.0])))
    assert weights is not None
    assert weights.tolist() == [0, 4, 0]
    assert loss_weights(Weights(np.ones(3), None)) is None
    with pytest.raises(SelectionError, match="nothing is left"):
        loss_weights(Weights(np.array([0, 1.0]), np.array([1.0, 0])))


# ---- numbers -------------------------------------------------------------------------------------------------------


def test_a_row_counts_with_the_mean_of_its_scored_turns() -> None:
    scores = np.array([[1, 2], [3, 4], [np.nan, np.nan], [5, 6], [np.nan, np.nan]])
    found = mean_by_row(np.array([0, 0, 0, 2, 3]), scores, 4)
    np.testing.assert_array_equal(found, [[2, 3], [np.nan] * 2, [5, 6], [np.nan] * 2])


def test_a_row_whose_replies_are_flagged_is_flagged() -> None:
    scores = np.array([[1, 2], [FLAGGED] * 2, [FLAGGED] * 2, [np.nan] * 2])
    found = mean_by_row(np.array([0, 0, 1, 2]), scores, 3)
    np.testing.assert_array_equal(found, [[1, 2], [FLAGGED] * 2, [np.nan] * 2])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gate", {"keep": "sensibility", "unscored": "keep"}),
        ("loss_aware", {"unscored": "keep"}),
        ("bandit", {"labels": ["a", "b", "a", "b"]}),
    ],
)
def test_named_policies_leave_flagged_samples_out(name: str, options: dict[str, Any]) -> None:
    scores = np.array([[9, 1], [np.nan] * 2, [8, 2], [np.nan] * 2])
    flagged = np.array([False, False, False, True])
    found = Schedule().ask(load_policy(name, **options), scores, np.full(4, np.nan), 0.0, flagged)
    weights = found.loss if found.sampling is None else found.sampling
    assert weights is not None
    assert (weights > 0).tolist() == [True, True, True, False]
    with pytest.raises(NothingLeftError, match="without flagged rows"):
        Schedule().ask(load_policy(name, **options), scores, np.full(4, np.nan), 0.0, np.ones(4, bool))
    own = Schedule().ask(lambda *_: (np.ones(4), None), scores, np.full(4, np.nan), 0.0, flagged)
    assert own.sampling is not None
    assert own.sampling.tolist() == [1, 1, 1, 1]


def test_observations_of_processes_and_micro_batches_are_brought_together_in_any_order() -> None:
    rows = np.array([[0, 7, 1, 6.0, 3, 1], [0, 7, 2, 2.0, 1, 1], [1, 7, 1, 9.0, 3, 2], [1, 2, 1, 0.0, 0, 0]])
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]):
        found = merged([rows[order[:2]], rows[order[2:]]])
        np.testing.assert_array_equal(found, [[0, 7, 3, 8, 4, 1], [1, 2, 1, 0, 0, 0], [1, 7, 1, 9, 3, 2]])
        records = Records(9)
        records.add(found)
        assert (records.draws[7], records.draws[2]) == (4, 1)
        assert (records.first_loss[7], records.last_loss[7], records.mean_loss()[7]) == (2, 3, 2.5)
        assert np.isnan(records.last_loss[2])
        assert records.mean_weight()[7] == (3 * 1 + 2) / 4
    figures = interval_figures(found, np.array(["low"] * 7 + ["balanced"] * 2, dtype=object))
    assert figures["shares"]["balanced"] == 4 / 5
    assert figures["quadrant_loss"] == {"balanced": 17 / 7}
    assert figures["mean_weight"] == (3 * 1 + 0 + 2) / 5
    assert figures["effective_sample_size"] == 5**2 / (3 * 1 + 2**2)


def test_lifting_is_a_power_of_two_that_brings_the_mean_weight_to_one_or_more() -> None:
    count = torch.tensor(100.0)
    for mean in (1e-9, 0.3, 0.999999, 1.0, 1.7, 2.0, 12345.6):
        factor = float(lift(torch.tensor(mean * 100, dtype=torch.float64), count))
        assert np.log2(factor) == round(np.log2(factor))
        assert 1 <= mean * factor < 2
    assert lift(torch.tensor(0.0), count) == 1
    assert lift(torch.tensor(7.0), torch.tensor(7)) == 1


def test_a_collator_that_tears_rows_apart_is_refused() -> None:
    examples = [{"input_ids": [1, 2], "empathy_row": 0}, {"input_ids": [3], "empathy_row": 1}]
    with pytest.raises(TrainingError, match="cannot be told apart"):
        SampleIdCollator(lambda rows: {"labels": torch.zeros(3, 2)})(examples)
    with pytest.raises(TrainingError, match="no labels"):
        SampleIdCollator(lambda rows: {})(examples)
    batch = SampleIdCollator(lambda rows: {"labels": torch.zeros(1, 4)})(examples)
    assert batch["empathy_ids"].tolist() == [[0, 0, 1, 1]]
