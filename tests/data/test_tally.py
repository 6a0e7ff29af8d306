"""Scores counted batch by batch give the numbers of all scores at once."""

from __future__ import annotations

import numpy as np
import pytest

from ee_trl.axes import quadrants
from ee_trl.data import tally
from ee_trl.data.columns import Coded
from ee_trl.data.samples import Scores
from ee_trl.data.tally import Distribution, Tally


@pytest.mark.parametrize("digits", [0, 4, 17])
@pytest.mark.parametrize("batch", [1, 7, 1_000])
def test_a_distribution_has_the_numbers_of_numpy(digits: int, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "_MOST", 50)
    numbers = np.round(np.random.default_rng(0).uniform(0, 10, 1_001), digits)
    found = Distribution()
    for start in range(0, len(numbers), batch):
        found.add(np.append(numbers[start : start + batch], np.nan))
    assert len(found) == len(numbers)
    assert found.mean == pytest.approx(numbers.mean(), rel=1e-14)
    assert found.std == pytest.approx(numbers.std(), rel=1e-14)
    for q in (0, 10, 33.3, 50, 90, 100):
        assert found.percentile(q) == pytest.approx(np.percentile(numbers, q), rel=1e-15)
    assert found.share_near(5.0, 0.5) == (np.abs(numbers - 5.0) <= 0.5).mean()


def test_of_a_continuous_score_no_more_is_kept_than_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "_MOST", 100)
    found, drawn = Distribution(), np.random.default_rng(0)
    for _ in range(100):
        found.add(np.round(drawn.uniform(0, 10, 50), 1))
        assert sum(len(values) for values, _ in found._waiting) <= 150
    assert len(found._count()[0]) == 101


def test_parts_are_added_up() -> None:
    drawn = np.random.default_rng(0)
    s, r = np.round(drawn.uniform(0, 10, (2, 500)))
    s[::7] = np.nan
    where = quadrants(s, r)
    emotions, statuses = drawn.integers(3, size=500), np.isnan(s).astype(int)
    parts = [
        Scores(
            s[part],
            r[part],
            Coded(statuses[part], ("scored", "empty_reply")),
            (f"scorer {n}",),
            emotions=Coded(emotions[part], ("sad", "glad", "")),
        )
        for n, part in enumerate((slice(200), slice(200, 201), slice(201, 500)))
    ]
    found = Tally(parts)
    assert found.rows == 500
    assert found.scored == (where != "").sum()
    assert found.quadrants == {name: (where == name).sum() for name in {*where}}
    assert found.statuses == {"scored": found.scored, "empty_reply": 500 - found.scored}
    assert found.scorers == {"scorer 0", "scorer 1", "scorer 2"}
    assert found.emotions is not None
    assert found.emotions["glad"]["tie"] == ((emotions == 1) & (where == "tie")).sum()
    assert not Tally([]).rows
