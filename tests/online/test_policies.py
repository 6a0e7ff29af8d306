"""What every online policy keeps (a new one is tested here the day it has a name), and what each one does."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

from ee_trl.axes import QUADRANTS, TIES, quadrants
from ee_trl.errors import NothingLeftError, SelectionError
from ee_trl.online.policies.bandit import PRIORS, ArmState, Bandit, arm_shares, update_arms
from ee_trl.online.policies.loss import learnability, loss_quantiles
from ee_trl.online.policies.named import POLICIES, load_policy, policy_options
from ee_trl.online.policies.score import annealed, gate, scheduled, soft_gate
from ee_trl.online.policies.weights import bounded, check_weights
from ee_trl.selection import select_indices


N = 400


def draw(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Whole and broken scores, some missing, all quadrants and ties among them; losses, a third not seen."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0, 10, (n, 2))
    scores[: n // 2] = np.round(scores[: n // 2])
    scores[rng.random(n) < 0.1] = np.nan
    losses = rng.gamma(4, 0.5, n)
    losses[rng.random(n) < 0.3] = np.nan
    return scores, losses


NAMED = [name for name in POLICIES if name != "column"]  # those that weigh by scores
Make = Callable[[np.ndarray], Any]
"""From the order of the samples to a fresh policy: labels go with their samples."""

LABELS = np.array(["", "joyful", "afraid", "proud"])[np.arange(N) % 4]
ALL: dict[str, Make] = {name: lambda order, name=name: load_policy(name) for name in NAMED}
ALL |= {
    "soft, loss": lambda order: load_policy("soft", weigh="loss", keep=("rationality", "balanced"), ties="high"),
    "curriculum, reverse": lambda order: load_policy("curriculum", order="rationality_first", schedule="cosine"),
    "curriculum, loss": lambda order: load_policy("curriculum", weigh="loss", final_share=1.0),
    "loss_aware, draws": lambda order: load_policy("loss_aware", weigh="sampling", learnt=0, hopeless=1.0),
    "bandit, emotions": lambda order: load_policy("bandit", labels=LABELS[order]),
    "bandit, emotions of a set": lambda order: load_policy("bandit", labels=LABELS[order], keep="sensibility"),
}
ORDER = np.arange(N)


@pytest.fixture(params=ALL)
def make(request: pytest.FixtureRequest) -> Make:
    return ALL[request.param]


def both(found: tuple[Any, Any]) -> np.ndarray:
    """Sampling and loss weights as one array, 1 where None."""
    return np.array([np.ones(N) if part is None else part for part in found])


# ---- contract ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0, 1, np.float32(0.5)])
def test_weights_are_valid_and_as_many_as_samples(make: Make, progress: float) -> None:
    scores, losses = draw(N)
    policy = make(ORDER)
    found = policy(scores, losses, progress)
    assert [part is None for part in found] in ([False, True], [True, False])
    sampling, loss = (check_weights(part, N, "weights") for part in found)
    assert policy.needs_weights == (loss is not None)
    if loss is not None:
        assert loss[loss > 0].mean() == pytest.approx(1)
    assert sampling is None or sampling.dtype == np.float64


def test_what_was_given_is_not_changed(make: Make) -> None:
    scores, losses = draw(N)
    make(ORDER)(given := scores.copy(), seen := losses.copy(), 0.5)
    np.testing.assert_array_equal(given, scores)
    np.testing.assert_array_equal(seen, losses)


def test_it_is_deterministic_and_weights_go_with_their_samples(make: Make) -> None:
    order = np.random.default_rng(1).permutation(N)
    straight, moved = make(ORDER), make(order)
    for seed in range(3):  # a policy that remembers is asked more than once
        scores, losses = draw(N)[0], draw(N, seed)[1]
        found = both(straight(scores, losses, 0.4))
        np.testing.assert_allclose(both(moved(scores[order], losses[order], 0.4)), found[:, order], rtol=1e-9)
    again = make(ORDER)
    for seed in range(3):
        repeated = both(again(draw(N)[0], draw(N, seed)[1], 0.4))
    np.testing.assert_array_equal(repeated, found)


def test_it_looks_at_the_losses_only_if_it_says_so(make: Make) -> None:
    policy, (scores, losses) = make(ORDER), draw(N)
    other = losses * np.linspace(0.2, 3, N)
    policy(scores, losses, 0.4)
    policy(scores, other, 0.4)
    found, fresh = both(policy(scores, other * np.linspace(3, 0.1, N), 0.4)), both(make(ORDER)(scores, losses, 0.4))
    if policy.needs_losses and getattr(policy, "learnt", 1) != 0:  # without learnt and hopeless the bump is flat
        assert not np.allclose(found, fresh)
    elif not policy.needs_losses:
        np.testing.assert_array_equal(found, fresh)


def test_unscored_samples_are_dropped_or_get_the_mean_of_the_others_never_a_middle_score(make: Make) -> None:
    scores, losses = draw(N)
    policy = make(ORDER)
    labels, keep = getattr(policy, "labels", None), getattr(policy, "keep", None)
    unknown = np.isnan(scores).any(axis=1)
    if labels is not None:  # labels alone make the arms, unless quadrants are asked for too
        unknown = (LABELS == "") if keep is None else unknown | ((LABELS == "") & (gate(scores, keep) == 1))
    weights = np.prod(both(policy(scores, losses, 0.4)), axis=0)
    assert unknown.sum() > 20
    assert not weights[unknown].any()
    options = {name: getattr(policy, name) for name in policy_options(name_of(policy)) if name != "unscored"}
    kept = load_policy(name_of(policy), ties=policy.ties, unscored="keep", **options)
    values = np.prod(both(kept(scores, losses, 0.4)), axis=0)
    np.testing.assert_allclose(values[unknown], values[~unknown].mean())
    np.testing.assert_allclose(values[~unknown] / values[~unknown].sum(), weights[~unknown] / weights.sum())


def name_of(policy: Any) -> str:
    """A name of its class that settles nothing."""
    return next(name for name, (kind, settled) in POLICIES.items() if isinstance(policy, kind) and not settled)


def test_half_a_score_is_none(make: Make) -> None:
    scores, losses = draw(N)
    halved = scores.copy()
    halved[np.isnan(scores).any(axis=1), 0] = 9.0
    np.testing.assert_array_equal(both(make(ORDER)(halved, losses, 0.5)), both(make(ORDER)(scores, losses, 0.5)))


@pytest.mark.parametrize("name", NAMED)
def test_one_sample_is_drawn_or_the_error_says_why_not(name: str) -> None:
    inside = [[2.0, 8.0]] if name == "rationality" else [[8.0, 2.0]]
    if name == "curriculum":  # two sets cannot have one sample
        with pytest.raises(SelectionError, match="none of 1 scored samples is rationality; move the threshold"):
            load_policy(name)(inside, [np.nan], 0.0)
        return
    for losses in ([np.nan], [1.3]):
        sampling, loss = load_policy(name)(inside, losses, 0.5)
        assert check_weights(loss if sampling is None else sampling, 1, "weights") is not None


@pytest.mark.parametrize("name", NAMED)
def test_where_nothing_can_be_drawn_the_error_says_so(name: str) -> None:
    policy = load_policy(name)
    with pytest.raises(SelectionError, match="no sample can be drawn: the data set is empty"):
        policy(np.empty((0, 2)), np.empty(0), 0.5)
    nothing = np.full((7, 2), np.nan)
    with pytest.raises(SelectionError, match="no sample can be drawn: none of the 7 samples is scored"):
        policy(nothing, np.full(7, np.nan), 0.5)
    waiting = load_policy(name, unscored="keep")(nothing, np.full(7, np.nan), 0.5)
    assert [set(part.tolist()) for part in waiting if part is not None] == [{1.0}]


def test_an_empty_set_is_said_with_what_helps() -> None:
    with pytest.raises(SelectionError, match="2 of 3 samples are scored, and all of them have weight 0; move the thr"):
        load_policy("rationality")([[8, 2], [9, 9], [np.nan, np.nan]], [np.nan] * 3, 0.0)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (([[1, 2, 3]], [1.0], 0.5), r"scores have shape \(1, 3\); expected \(n, 2\)"),
        (([1.0, 2.0], [1.0, 1.0], 0.5), r"scores have shape \(2,\)"),
        (([[8, 2]], [1.0, 2.0], 0.5), r"losses have shape \(2,\); expected \(1,\)"),
        (([[8, 2]], [1.0], 1.01), r"progress 1.01 is not a number in \[0, 1\]"),
        (([[8, 2]], [1.0], float("nan")), "progress nan"),
    ],
)
def test_wrong_inputs_are_named(inputs: tuple[Any, Any, float], said: str) -> None:
    for name in NAMED:
        with pytest.raises(SelectionError, match=said):
            load_policy(name)(*inputs)


@pytest.mark.parametrize("name", NAMED)
def test_a_million_samples_take_less_than_a_second(name: str) -> None:
    scores, losses = draw(1_000_000)
    policy = load_policy(name)
    assert min(_seconds(policy, scores, losses) for _ in range(2)) < 1


def _seconds(policy: Any, scores: np.ndarray, losses: np.ndarray) -> float:
    start = time.process_time()
    policy(scores, losses, 0.5)
    return time.process_time() - start


# ---- by name -------------------------------------------------------------------------------------------------------


def test_a_function_comes_back_as_it_is() -> None:
    def mine(scores: Any, losses: Any, progress: float) -> tuple[Any, Any]:
        return scores[:, 0], None

    assert load_policy(mine, threshold=(3.0, 3.0), ties="high") is mine
    with pytest.raises(SelectionError, match="options tau need a policy's name"):
        load_policy(mine, tau=2)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        (
            "sensiblity",
            {},
            "unknown policy 'sensiblity'; valid: sensibility, rationality, .* Did you mean 'sensibility'",
        ),
        (
            "soft",
            {"tau": 1},
            "unknown option of policy 'soft' 'tau'; valid: keep, tau_start, tau_end, unscored, weigh",
        ),
        ("sensibility", {"keep": "low"}, "unknown option of policy 'sensibility' 'keep'; valid: unscored"),
        ("gate", {"keep": "high"}, "unknown quadrant to keep 'high'"),
        ("gate", {"unscored": "middle"}, "unknown unscored 'middle'; valid: drop, keep"),
        ("soft", {"keep": "tie"}, "unknown quadrant to keep 'tie'"),
        ("soft", {"tau_end": 0.0}, r"tau_end 0.0 is not a number in \(0, 100\]"),
        ("soft", {"weigh": "draws"}, "unknown weigh 'draws'; valid: sampling, loss"),
        ("curriculum", {"order": "sensibility"}, "unknown order .* Did you mean 'sensibility_first'"),
        ("curriculum", {"schedule": "step"}, "unknown schedule 'step'; valid: linear, cosine"),
        ("curriculum", {"final_share": 0}, r"final_share 0 is not a number in \(0, 1\]"),
        ("loss_aware", {"learnt": 0.9}, "learnt=0.9 is not below hopeless=0.9"),
        ("loss_aware", {"least": 0.0}, r"least 0.0 is not a number in \(0, 1\]"),
        ("bandit", {"explore": 0}, r"explore 0 is not a number in \(0, 1\]"),
        ("bandit", {"prior": "flat"}, "unknown prior 'flat'; valid: size, equal"),
        ("bandit", {"labels": ["", None]}, "none of the 2 samples has one"),
    ],
)
def test_a_wrong_name_option_or_value_is_named_with_the_valid_ones(name: str, options: dict, said: str) -> None:
    with pytest.raises(SelectionError, match=said):
        load_policy(name, **options)


@pytest.mark.parametrize("name", NAMED)
def test_threshold_and_ties_are_checked_by_every_policy(name: str) -> None:
    with pytest.raises(SelectionError, match="threshold 11 is not valid"):
        load_policy(name, threshold=11)
    with pytest.raises(SelectionError, match="unknown ties 'both'; valid: drop, high, low"):
        load_policy(name, ties="both")


@pytest.mark.parametrize("wrong", [3, None, Bandit])
def test_what_is_no_policy_is_refused(wrong: Any) -> None:
    with pytest.raises(SelectionError, match="is not a policy; give a name"):
        load_policy(wrong)


def test_the_page_has_a_card_for_every_policy_and_names_every_option() -> None:
    page = (ROOT / "docs/policies.md").read_text(encoding="utf-8")
    for name in POLICIES:
        [row] = re.findall(rf"^\| `{name}` \|.*$", page, flags=re.MULTILINE)
        for option in policy_options(name):
            assert option in ("unscored", "weigh") or f"`{option}" in row, (name, option)


# ---- weights -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([1, 2], r"the sampling weights have shape \(2,\); expected \(3,\)"),
        (
            [1, np.nan, -1],
            "2 of 3 sampling weights are not finite numbers of at least 0; the first is nan of sample 1",
        ),
        ([1, 2, -0.5], "the first is -0.5 of sample 2"),
        ([np.inf, 1, 1], "the first is inf of sample 0"),
        ([0, 0, 0], "the sampling weights are all 0"),
        (["a", "b", "c"], "the sampling weights are not numbers, but list"),
    ],
)
def test_weights_that_cannot_be_used_are_named(values: list, said: str) -> None:
    with pytest.raises(SelectionError, match=said):
        check_weights(values, 3, "sampling weights")


def test_weights_that_can_be_used_come_back_as_float64() -> None:
    assert check_weights(None, 3, "loss weights") is None
    found = check_weights([True, False, 2], 3, "loss weights")
    assert found is not None
    assert (found.dtype, found.tolist()) == (np.float64, [1.0, 0.0, 2.0])


@pytest.mark.parametrize(("floor", "ceiling"), [(0, np.inf), (0.2, 3), (0.9, 1.05), (0, 1.5), (1, 1), (0.5, np.inf)])
@pytest.mark.parametrize("spread", [0.1, 1.0, 6.0])
def test_bounded_weights_keep_their_bounds_their_order_and_a_mean_of_1(
    floor: float, ceiling: float, spread: float
) -> None:
    raw = np.exp(np.random.default_rng(0).normal(0, spread, 500)) * 1e-3
    raw[:50] = 0
    found = bounded(raw, floor, ceiling)
    assert found[50:].min() >= floor
    assert found.max() <= ceiling
    assert found[50:].mean() == pytest.approx(1, rel=1e-9)
    assert not found[:50].any(), "dropped stays dropped"
    assert (np.diff(found[np.argsort(raw)]) >= 0).all()
    free = (found > floor * (1 + 1e-9)) & (found < ceiling * (1 - 1e-9)) & (raw > 0)
    np.testing.assert_allclose(found[free] / raw[free], np.median(found[free] / raw[free]) if free.any() else 1)
    np.testing.assert_allclose(bounded(found, floor, ceiling), found, rtol=1e-9)
    np.testing.assert_allclose(bounded(raw * 7e5, floor, ceiling), found, rtol=1e-9)


def test_bounds_by_hand() -> None:
    np.testing.assert_allclose(bounded([1, 3]), [0.5, 1.5])
    np.testing.assert_allclose(bounded([0, 1, 3]), [0, 0.5, 1.5])
    np.testing.assert_allclose(bounded([1, 1, 1, 9], ceiling=2), [2 / 3, 2 / 3, 2 / 3, 2])
    np.testing.assert_allclose(bounded([1, 9, 10], floor=0.5), [0.5, 22.5 / 19, 25 / 19])
    np.testing.assert_allclose(bounded([5e-324, 1.0], floor=0.1), [0.1, 1.9])
    np.testing.assert_allclose(bounded([0.3], floor=0.1, ceiling=4), [1.0])


@pytest.mark.parametrize(("bounds", "said"), [((1.1, 2), "floor 1.1"), ((0, 0.9), "ceiling 0.9"), ((-1, 2), "floor")])
def test_bounds_that_no_mean_of_1_fits_in_are_refused(bounds: tuple[float, float], said: str) -> None:
    with pytest.raises(SelectionError, match=said):
        bounded([1, 2], *bounds)


# ---- gates and curriculum ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("keep", ["sensibility", "rationality", "balanced", "low", "sensibility,balanced"])
def test_the_hard_gate_is_the_released_rule_and_the_soft_one_comes_to_it(keep: str, ties: str) -> None:
    scores, losses = draw(N)
    threshold = (5.0, 4.0)
    weights, _ = load_policy("gate", threshold, ties, keep=keep)(scores, losses, 0.5)
    chosen = select_indices(*scores.T, keep=keep, threshold=threshold, ties=ties)
    assert np.flatnonzero(weights).tolist() == chosen.indices.tolist()
    assert set(weights.tolist()) == {0.0, 1.0}
    assert (quadrants(*scores.T, threshold) == "tie").sum() > 10, "ties are among them"
    soft, _ = load_policy("soft", threshold, ties, keep=keep, tau_end=1e-9)(scores, losses, 1.0)
    np.testing.assert_allclose(soft, weights, atol=1e-6)
    gaps = [np.abs(_soft(scores, tau, keep, threshold, ties) - weights).max() for tau in (1e-3, 1e-5, 1e-7, 1e-9)]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-6


def _soft(scores: np.ndarray, tau: float, *rule: Any) -> np.ndarray:
    return np.nan_to_num(soft_gate(scores, tau, *rule))


def test_a_soft_gate_by_hand() -> None:
    scores = np.array([[5.0 + np.log(3), 5.0 - np.log(4)], [5.0, 0.0], [np.nan, np.nan]])
    np.testing.assert_allclose(soft_gate(scores, 1.0, "sensibility")[0], 3 / 4 * 4 / 5)
    np.testing.assert_allclose(soft_gate(scores, 1.0, ("sensibility", "balanced"))[:2], [3 / 4, 1 / 2])
    np.testing.assert_allclose(soft_gate(scores, 2.0, "rationality")[0], (1 / (1 + 3**0.5)) * (1 / (1 + 2)))
    assert np.isnan(soft_gate(scores, 1.0, "low")[2])
    scored = draw(N)[0]
    total = sum(soft_gate(scored, 1.5, name) for name in QUADRANTS)
    np.testing.assert_allclose(total[~np.isnan(total)], 1)


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("tau", [3.0, 1.0, 0.7, 0.3, 0.1])
def test_a_soft_gate_rises_with_the_score_ties_and_all(tau: float, ties: str) -> None:
    scores = np.column_stack([np.arange(11.0), np.full(11, 1.0)])
    assert (np.diff(soft_gate(scores, tau, "sensibility", ties=ties)) >= 0).all()


def test_the_temperature_falls_in_equal_ratios() -> None:
    assert [annealed(2.0, 0.5, p) for p in (0, 0.5, 1)] == pytest.approx([2.0, 1.0, 0.5])
    scores, losses = draw(N)
    soft = load_policy("soft", tau_start=2.0, tau_end=0.5)
    for progress, tau in ((0.0, 2.0), (0.5, 1.0), (1.0, 0.5)):
        np.testing.assert_allclose(soft(scores, losses, progress)[0], _soft(scores, tau, "sensibility"))


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("order", ["sensibility_first", "rationality_first"])
def test_the_share_of_the_second_set_follows_the_schedule_whatever_its_size(order: str, schedule: str) -> None:
    scores = np.array([[8.0, 2.0]] * 30 + [[2.0, 8.0]] * 3 + [[8.0, 8.0]] * 5 + [[5.0, 2.0]] + [[np.nan] * 2])
    policy = load_policy("curriculum", order=order, schedule=schedule, final_share=0.6)
    second = slice(30, 33) if order == "sensibility_first" else slice(0, 30)
    for progress in (0.0, 0.25, 0.5, 1.0):
        weights, _ = policy(scores, np.full(40, np.nan), progress)
        expected = 0.6 * {"linear": progress, "cosine": np.sin(np.pi * progress / 2) ** 2}[schedule]
        assert weights[second].sum() / weights.sum() == pytest.approx(expected)
        assert not weights[33:].any()
        assert weights.mean() == pytest.approx(1)
    assert [scheduled(schedule, p) for p in (0, 1)] == pytest.approx([0, 1])
    with pytest.raises(NothingLeftError, match="none of 30 scored samples"):  # of which more may still be scored
        policy(scores[:30], np.full(30, np.nan), 0.0)


# ---- losses --------------------------------------------------------------------------------------------------------


def test_quantiles_of_losses_are_middle_ranks_of_those_seen() -> None:
    found = loss_quantiles(np.array([3.0, np.nan, 1.0, 3.0, 2.0, np.inf]))
    np.testing.assert_allclose(found, [0.6, np.nan, 0.1, 0.6, 0.3, 0.9])
    assert loss_quantiles(np.array([7.0])) == 0.5


def test_the_learnt_and_the_hopeless_count_less_and_the_unseen_in_full() -> None:
    found = learnability(np.append(np.linspace(0, 1, 1000), np.nan), learnt=0.2, hopeless=0.9, least=0.1)
    q = (np.arange(1000) + 0.5) / 1000
    np.testing.assert_allclose(found[:1000], np.interp(q, [0, 0.2, 0.9, 1], [0.1, 1, 1, 0.1]))
    assert found[1000] == 1
    assert learnability(np.array([1.0, 1.0])).tolist() == [1.0, 1.0], "equal losses, equal weights"
    np.testing.assert_allclose(learnability(np.array([1.0, 2.0, 3.0]), learnt=0, hopeless=1), 1)


def test_loss_aware_is_quality_times_learnability_of_mean_1() -> None:
    scores, losses = draw(N)
    _, weights = load_policy("loss_aware", tau=0.8)(scores, losses, 0.7)
    product = _soft(scores, 0.8, "sensibility") * learnability(losses)
    np.testing.assert_allclose(weights, product / product[product > 0].mean())
    draws, _ = load_policy("loss_aware", tau=0.8, weigh="sampling")(scores, losses, 0.7)
    np.testing.assert_allclose(draws, product)


# ---- bandit --------------------------------------------------------------------------------------------------------


def test_reward_is_the_fall_of_the_mean_loss_of_what_was_drawn_since() -> None:
    arms = np.array([0, 0, 0, 1, 1, -1])
    nan = np.nan
    first = update_arms(ArmState.new(6, 2), arms, np.array([4.0, 2.0, nan, 5.0, nan, 9.0]), 0.5)
    assert (first.last.tolist(), first.gain.tolist(), first.updates) == ([3.0, 5.0], [0.0, 0.0], 1)
    second = update_arms(first, arms, np.array([4.0, 2.0, 2.0, 5.0, nan, 1.0]), 0.5)
    assert (second.last.tolist(), second.gain.tolist()) == ([2.0, 5.0], [0.5, 0.0]), "only sample 2 is new: 3 - 2"
    third = update_arms(second, arms, np.array([1.0, 2.0, 2.0, 6.0, nan, 1.0]), 0.5)
    assert (third.last.tolist(), third.gain.tolist()) == ([1.0, 6.0], [0.75, -0.5])
    assert third.square.tolist() == [0.75, 0.5]
    same = update_arms(third, arms, third.losses, 0.5)
    for name in ("last", "gain", "square"):
        assert getattr(same, name).tolist() == getattr(third, name).tolist(), "nothing new"


@pytest.mark.parametrize("prior", PRIORS)
def test_shares_lean_to_gain_keep_the_exploration_and_do_not_know_the_scale(prior: str) -> None:
    sizes = np.array([60, 30, 10, 0])
    base = np.array([0.6, 0.3, 0.1, 0]) if prior == "size" else np.array([1, 1, 1, 0]) / 3
    np.testing.assert_allclose(arm_shares(np.zeros(4), np.zeros(4), sizes, 0.2, 1.0, prior), base)
    gain = np.array([0.01, -0.02, 0.05, 7.0])
    square = gain**2  # rewards that never change; of noise it would be larger
    found = arm_shares(gain, square, sizes, 0.2, 1.0, prior)
    assert found.sum() == pytest.approx(1)
    assert (found >= 0.2 * base).all()
    assert found[3] == 0, "an empty arm is never drawn"
    assert (np.diff((found / np.where(base > 0, base, 1))[[1, 0, 2]]) > 0).all()
    lean = base[:3] * np.exp(
        gain[:3] / 0.01 / 10**0.5
    )  # root mean square of 1, 2 and 5 hundredths: sqrt(10) hundredths
    np.testing.assert_allclose(found[:3], 0.2 * base[:3] + 0.8 * lean / lean.sum())
    np.testing.assert_allclose(arm_shares(1000 * gain, 1e6 * square, sizes, 0.2, 1.0, prior), found)
    np.testing.assert_allclose(arm_shares(gain, square, sizes, 1.0, 1.0, prior), base)
    noisy = arm_shares(gain, 1e4 * square, sizes, 0.2, 1.0, prior)
    np.testing.assert_allclose(noisy, base, rtol=0.03)
    cold = arm_shares(gain, square, sizes, 0.2, 1e-3, prior)
    np.testing.assert_allclose(cold, 0.2 * base + 0.8 * np.eye(4)[2], atol=1e-9)


def test_a_bandit_draws_from_where_the_loss_falls() -> None:
    labels = ["afraid"] * 50 + ["joyful"] * 50
    bandit, losses = Bandit(labels=labels), np.full(100, np.nan)
    for step in range(6):
        losses[step * 8 : step * 8 + 8] = 3.0 - 0.2 * step  # afraid is learnt, a sample is drawn once
        losses[50 + step * 8 : 58 + step * 8] = 3.0
        weights, _ = bandit(np.full((100, 2), np.nan), losses, step / 6)
    assert weights is not None
    lean = (1 - 0.8**5) ** 0.5  # five rewards of 0.2 nats: the average over its root mean square, both begun at 0
    assert weights[:50].mean() == pytest.approx(2 * (0.2 * 0.5 + 0.8 / (1 + np.exp(-lean))))
    assert weights[50:].sum() >= 0.2 * 50 * (1 - 1e-9)
    assert weights.mean() == pytest.approx(1)


@pytest.mark.parametrize(("fall", "low", "high"), [(0.0, 0.47, 0.53), (0.02, 0.52, 0.6), (0.2, 0.65, 0.9)])
def test_a_bandit_makes_little_of_noise_and_more_of_a_difference(fall: float, low: float, high: float) -> None:
    rng, n, shares = np.random.default_rng(0), 4000, []
    for _ in range(5):
        bandit, losses, weights = Bandit(labels=["a", "b"] * (n // 2)), np.full(n, np.nan), np.ones(n)
        for step in range(50):
            ids = rng.choice(n, 160, p=weights / weights.sum())
            losses[ids] = 3 + rng.normal(0, 0.5, 160) - np.where(ids % 2 == 0, fall * step, 0)
            weights = np.asarray(bandit(np.full((n, 2), np.nan), losses, step / 50)[0])
            shares.append(weights[::2].sum() / weights.sum())
    assert low < np.mean(shares) < high
    assert fall or np.std(shares) < 0.06


def test_without_news_a_bandit_draws_as_the_prior() -> None:
    scores, losses = draw(N)
    weights, _ = load_policy("bandit")(scores, losses, 0.1)
    assert set(np.round(weights, 9).tolist()) == {0.0, 1.0}
    equal, _ = load_policy("bandit", prior="equal", keep=("sensibility", "balanced"))(scores, losses, 0.1)
    where = quadrants(*scores.T)
    shares = {name: equal[where == name].sum() / equal.sum() for name in (*QUADRANTS, "tie", "")}
    assert shares == pytest.approx({"sensibility": 0.5, "balanced": 0.5, "rationality": 0, "low": 0, "tie": 0, "": 0})


@pytest.mark.parametrize("through_json", [False, True])
@pytest.mark.parametrize("options", [{}, {"labels": LABELS.tolist()}])
def test_a_bandit_goes_on_from_its_state_as_if_nothing_had_been(options: dict, through_json: bool) -> None:
    straight = Bandit(**options)
    for seed in range(6):
        if seed == 3:
            state = straight.state_dict()
            if through_json:
                plain = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in state.items()}
                state = json.loads(json.dumps(plain))
            resumed = Bandit(**options)
            resumed.load_state_dict(state)
            for array in state.values():
                if isinstance(array, np.ndarray):
                    array[:] = -1  # the state given is no part of the bandit
        losses = np.where(ORDER % 3, draw(N)[1], draw(N, seed)[1])  # most are not drawn again
        expected = straight(draw(N)[0], losses, seed / 6)[0]
        if seed >= 3:
            np.testing.assert_array_equal(resumed(draw(N)[0], losses, seed / 6)[0], expected)
    np.testing.assert_array_equal(straight.state_dict()["losses"], losses)
    uninterrupted = Bandit(**options)
    for seed in range(6):
        again = uninterrupted(draw(N)[0], np.where(ORDER % 3, draw(N)[1], draw(N, seed)[1]), seed / 6)[0]
    np.testing.assert_array_equal(again, expected)
    assert expected is not None
    assert len(set(expected.tolist())) > 3, "it has learnt something"
    assert resumed.state_dict()["updates"] == 6


def test_a_new_bandits_state_is_that_of_a_new_bandit() -> None:
    used = Bandit()
    used(*draw(N), 0.5)
    used.load_state_dict(Bandit().state_dict())
    assert used.state is None


def test_a_state_of_other_arms_or_samples_is_refused() -> None:
    bandit, (scores, losses) = Bandit(labels=LABELS), draw(N)
    with pytest.raises(SelectionError, match=r"the state is of arms \['sensibility', .* are \['afraid', 'joyful'"):
        bandit.load_state_dict(Bandit().state_dict())
    with pytest.raises(SelectionError, match="400 labels for 399 samples"):
        bandit(scores[1:], losses[1:], 0.5)
    quadrant = Bandit()
    quadrant(scores, losses, 0.5)
    with pytest.raises(SelectionError, match="learnt from 400 samples, but there are 399"):
        quadrant(scores[1:], losses[1:], 0.5)
    with pytest.raises(SelectionError, match="the state has 4 numbers last for 5 arms"):
        quadrant.load_state_dict(quadrant.state_dict() | {"last": [1, 2, 3, 4]})
