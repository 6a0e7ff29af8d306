"""The rules behind a cascade: the promise is kept as its docstring says, counted over many calibrations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from ee_trl.errors import ScorerError
from ee_trl.scoring.conformal import (
    LearntDoubt,
    agreement_interval,
    classes_of,
    distance_doubt,
    limit_for_budget,
    limit_for_promise,
    most_wrong,
)


# ---- the promise ---------------------------------------------------------------------------------------------------


def drawn(draw: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Doubts, and mistakes that come with the chance 0.6 * doubt ** 2: the truth is known in closed form."""
    doubt = draw.random(n)
    return doubt, draw.random(n) < 0.6 * doubt**2


def true_risk(limit: float) -> float:
    """The share of all samples that are trusted and mistaken: the integral of 0.6 u ** 2 up to the limit."""
    return 0.2 * min(max(limit, 0.0), 1.0) ** 3


@pytest.mark.parametrize(("n", "agreement"), [(60, 0.95), (200, 0.95), (200, 0.9), (1_000, 0.97)])
def test_the_expected_agreement_is_what_was_promised(n: int, agreement: float) -> None:
    draw = np.random.default_rng(n)
    risks = np.array([true_risk(limit_for_promise(*drawn(draw, n), agreement)) for _ in range(4_000)])
    error = 3 * risks.std() / math.sqrt(len(risks))
    assert risks.mean() <= 1 - agreement + error
    assert risks.mean() >= 1 - agreement - 2.2 / n - error, "it asks the judge hardly more than it must"


@pytest.mark.parametrize(("n", "agreement", "confidence"), [(200, 0.95, 0.9), (500, 0.9, 0.8)])
def test_with_confidence_nearly_every_calibration_keeps_it(n: int, agreement: float, confidence: float) -> None:
    draw = np.random.default_rng(n)
    kept = np.mean(
        [true_risk(limit_for_promise(*drawn(draw, n), agreement, confidence)) <= 1 - agreement for _ in range(4_000)]
    )
    error = 3 * math.sqrt(confidence * (1 - confidence) / 4_000)
    assert kept >= confidence - error
    assert kept <= confidence + 0.09, "the bound is exact but for whole numbers"
    plain = np.mean([true_risk(limit_for_promise(*drawn(draw, n), agreement)) <= 1 - agreement for _ in range(1_000)])
    assert plain < confidence, "without it, the promise is one of the average"


def test_limits_by_hand() -> None:
    doubt = np.arange(20) / 20
    wrong = np.isin(np.arange(20), [10, 15])
    assert limit_for_promise(doubt, wrong, 0.94) == 0.5  # (0 + 1) / 21 <= 0.06: no mistake is allowed
    assert limit_for_promise(doubt, wrong, 0.9) == 0.75  # (1 + 1) / 21 <= 0.1
    assert limit_for_promise(doubt, wrong, 0.8) == math.inf
    assert limit_for_promise(doubt, wrong, 0.96) == -math.inf, "20 samples cannot promise that"
    assert limit_for_promise(doubt, np.zeros(20, bool), 0.95) == math.inf


def test_the_binomial_bound_is_scipys() -> None:
    for n, risk, chance in ((50, 0.05, 0.1), (300, 0.05, 0.05), (200, 0.2, 0.5)):
        k = most_wrong(n, risk, chance)
        assert k < 0 or binom.cdf(k, n, risk) <= chance
        assert binom.cdf(k + 1, n, risk) > chance


# ---- the budget ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [0.0, 0.1, 0.3, 0.777, 1.0])
@pytest.mark.parametrize("decimals", [9, 1], ids=["distinct doubts", "many equal doubts"])
def test_a_budget_is_never_passed_and_is_used(budget: float, decimals: int) -> None:
    draw = np.random.default_rng(3)
    doubt, audited = draw.random(997).round(decimals), draw.random(997) < 0.05
    if budget < 0.06:
        audited[:] = False
    limit = limit_for_budget(doubt, audited, budget)
    asked = int(((doubt >= limit) | audited).sum())
    assert asked <= budget * 997
    if decimals == 9:
        assert asked >= budget * 997 - 2


def test_what_an_audit_and_a_calibration_take_counts() -> None:
    doubt, shown = np.random.default_rng(0).random(100), np.arange(100) < 30
    limit = limit_for_budget(doubt, shown, 0.5)
    assert ((doubt >= limit) | shown).sum() == 50
    with pytest.raises(ScorerError, match="ask the judge 30 times already, and a budget of 0.2 allows 20"):
        limit_for_budget(doubt, shown, 0.2)


# ---- doubts --------------------------------------------------------------------------------------------------------


def test_distance_is_that_of_the_nearer_axis() -> None:
    scores = np.array([[8, 4.5], [5, 9], [0, 10], [np.nan, 2]])
    np.testing.assert_allclose(distance_doubt(scores, 5.0), [0.95, 1.0, 0.5, np.inf])
    np.testing.assert_allclose(distance_doubt(scores[:1], (6, 2)), [0.8])


def test_learnt_doubt_is_the_chance_of_a_mistake() -> None:
    draw = np.random.default_rng(0)
    cheap = draw.random((6_000, 2)) * 10
    judge = np.clip(cheap + draw.normal(0, [1.0, 3.0], cheap.shape), 0, 10)  # one axis is told apart better
    doubt = LearntDoubt.fit(cheap[:3_000], judge[:3_000], 5.0, "drop")(cheap[3_000:])
    wrong = classes_of(cheap[3_000:], 5.0) != classes_of(judge[3_000:], 5.0)
    for low, high in ((0.0, 0.15), (0.15, 0.3), (0.3, 0.5), (0.5, 0.9)):
        inside = (doubt >= low) & (doubt < high)
        assert inside.sum() > 100
        assert wrong[inside].mean() == pytest.approx(doubt[inside].mean(), abs=0.06)
    by_distance = distance_doubt(cheap[3_000:], 5.0)
    trusted = [np.argsort(d)[:1_500] for d in (doubt, by_distance)]
    assert wrong[trusted[0]].mean() < wrong[trusted[1]].mean(), "it orders better than distance does"


def test_unscored_is_doubted_without_end() -> None:
    scores = np.random.default_rng(0).random((100, 2)) * 10
    doubt = LearntDoubt.fit(scores, scores, 5.0, "drop")
    assert doubt(np.array([[np.nan, 3.0]]))[0] == math.inf


def test_interval_of_a_share() -> None:
    assert agreement_interval(0, 0) == (0.0, 1.0)
    low, high = agreement_interval(45, 50)
    assert (round(low, 3), round(high, 3)) == (0.786, 0.957)  # Wilson, by hand
