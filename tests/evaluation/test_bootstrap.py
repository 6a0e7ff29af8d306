"""Intervals and differences by the bootstrap, and Holm's correction."""

from __future__ import annotations

import numpy as np
import pytest

from ee_trl.errors import EmpathyError
from ee_trl.evaluation.bootstrap import Bootstrap, compare, holm, intervals, means, with_intervals
from ee_trl.evaluation.metrics.distinct import DistinctResampler


def test_the_interval_of_a_mean_is_the_textbooks() -> None:
    values = np.random.default_rng(0).normal(3, 2, 400)
    mean = means({"mean": values})
    low, high = intervals(mean, Bootstrap(4000))["mean"]
    half = 1.96 * values.std() / 20
    assert intervals(mean, Bootstrap(4000, seed=1))["mean"] != [low, high]
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.05 * half)


def test_clusters_of_one_sample_change_no_interval() -> None:
    draw = np.random.default_rng(0)
    mean = means({"mean": draw.normal(size=50)})
    corpus = DistinctResampler([draw.choice(list("abcdefg"), 4).tolist() for _ in range(50)])
    for resampler in (mean, corpus):
        for options in ({}, {"clusters": list(range(50))}, {"clusters": [f"c{i}" for i in draw.permutation(50)]}):
            found = intervals(resampler, Bootstrap(300, **options))
            assert found == intervals(resampler, Bootstrap(300))
            assert with_intervals({}, lambda r=resampler: r, resamples=300, **options) == with_intervals(
                {}, lambda r=resampler: r, resamples=300
            )


def test_samples_of_one_cluster_are_drawn_together() -> None:
    clusters = np.repeat(np.arange(100), 4)
    for counts in Bootstrap(250, clusters=clusters.tolist()).draws(400):
        assert (counts.reshape(len(counts), 100, 4).std(axis=2) == 0).all()
        assert (counts.sum(axis=1) == 400).all()
    for counts in Bootstrap(50, clusters=clusters.tolist()).draws(400, halves=True):
        assert set(np.unique(counts)) == {0.0, 1.0}
        assert (counts.sum(axis=1) == 200).all()
    # four copies of each value say no more than one of them: only the bootstrap of clusters knows
    values = np.random.default_rng(0).normal(size=100)
    once, copies = means({"x": values}), means({"x": np.repeat(values, 4)})
    width = {
        name: np.ptp(intervals(resampler, Bootstrap(2000, clusters=which))["x"])
        for name, resampler, which in (
            ("once", once, None), ("clusters", copies, clusters.tolist()), ("turns", copies, None)
        )
    }  # fmt: skip
    assert width["clusters"] == pytest.approx(width["once"], rel=1e-9)
    assert width["turns"] == pytest.approx(width["once"] / 2, rel=0.1)
    with pytest.raises(EmpathyError, match="clusters must name one cluster for each of 100 samples, got 3"):
        intervals(once, Bootstrap(10, clusters=[1, 2, 3]))


def test_paired_bootstrap_sees_a_constant_difference_that_intervals_do_not() -> None:
    draw = np.random.default_rng(0)
    values = draw.normal(0, 10, 200)
    a, b = means({"x": values}), means({"x": values + 0.5 + draw.normal(0, 0.5, 200)})
    found = compare(a, b, Bootstrap(500))["x"]
    assert found["p"] < 0.01
    assert found["interval"][0] > 0.3
    ends = [intervals(one, Bootstrap(500))["x"] for one in (a, b)]
    assert ends[0][1] > ends[1][0]  # taken one by one they overlap
    same = compare(a, a, Bootstrap(200))["x"]
    assert (same["difference"], same["p"], same["interval"]) == (0.0, 1.0, [0.0, 0.0])
    with pytest.raises(ValueError, match="paired samples are needed: A has 200, B 3"):
        compare(a, means({"x": values[:3]}), Bootstrap(10))


def test_p_is_rarely_small_where_nothing_differs() -> None:
    draw = np.random.default_rng(1)
    ps = [
        compare(means({"x": draw.normal(size=60)}), means({"x": draw.normal(size=60)}), Bootstrap(200, seed=i))["x"][
            "p"
        ]
        for i in range(200)
    ]
    assert 0.01 <= np.mean(np.array(ps) < 0.05) <= 0.11


def test_holm() -> None:
    assert holm({"a": 0.04, "b": 0.01, "c": 0.03, "d": None}) == {"a": 0.06, "b": 0.03, "c": 0.06, "d": None}
