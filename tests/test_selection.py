"""The rules: what is kept, and the named reason of every sample that is not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ee_trl.axes import AXES, QUADRANTS, TIES, quadrants, thresholds
from ee_trl.errors import SelectionError
from ee_trl.selection import KEEPABLE, RANKINGS, RULES, distance, keep_set, select_indices, sweep


NAN = float("nan")

# sensibility, rationality, quadrant at T = 5 by ties: drop, high, low
PLANE = [
    (8, 2, "sensibility", "sensibility", "sensibility"),
    (2, 8, "rationality", "rationality", "rationality"),
    (8, 8, "balanced", "balanced", "balanced"),
    (2, 2, "low", "low", "low"),
    (5, 2, "tie", "sensibility", "low"),
    (2, 5, "tie", "rationality", "low"),
    (5, 8, "tie", "balanced", "rationality"),
    (8, 5, "tie", "balanced", "sensibility"),
    (5, 5, "tie", "balanced", "low"),
    (NAN, 2, "", "", ""),
    (8, NAN, "", "", ""),
    (NAN, NAN, "", "", ""),
    (10, 0, "sensibility", "sensibility", "sensibility"),
    (5.0001, 4.9999, "sensibility", "sensibility", "sensibility"),
]
S, R = ([row[axis] for row in PLANE] for axis in (0, 1))

# the ranks below are of these, by hand; row 2 is unscored
SIX_S = [9, 4, NAN, 9, 6, 0]
SIX_R = [1, 4, 3, 7, 0, 10]


def kept(**options: Any) -> list[int]:
    return select_indices(SIX_S, SIX_R, **options).indices.tolist()


# ---- quadrants -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", TIES)
def test_quadrants_of_the_whole_plane(ties: str) -> None:
    column = 2 + ("drop", "high", "low").index(ties)
    assert quadrants(S, R, ties=ties).tolist() == [row[column] for row in PLANE]


def test_threshold_of_each_axis() -> None:
    assert quadrants([6, 6], [6, 8], threshold=(5, 7)).tolist() == ["sensibility", "balanced"]
    assert quadrants([6, 6], [6, 8], threshold={"rationality": 7}).tolist() == ["sensibility", "balanced"]
    assert quadrants([6], [6], threshold={"sensibility": 7}).tolist() == ["rationality"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [(5, (5.0, 5.0)), ((4, 6), (4.0, 6.0)), ([0, 10], (0.0, 10.0)), ({}, (5.0, 5.0)), (np.float32(2.5), (2.5, 2.5))],
)
def test_threshold_as_it_may_be_written(given: Any, expected: tuple[float, float]) -> None:
    assert thresholds(given) == expected


@pytest.mark.parametrize("wrong", [-1, 10.5, NAN, math.inf, "x", "55", None, [5], [1, 2, 3], {"rationality": "x"}, ()])
def test_threshold_out_of_range_or_of_no_number(wrong: Any) -> None:
    with pytest.raises(SelectionError, match=r"\[0, 10\]"):
        thresholds(wrong)


def test_threshold_of_an_unknown_axis() -> None:
    with pytest.raises(SelectionError, match="'rationalty'.*Did you mean 'rationality'"):
        thresholds({"rationalty": 5})


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, 10.5], "10.5 at index 1"),
        ([-0.1, 1.0], "outside"),
        ([math.inf, 1.0], "outside"),
        (["a", "b"], "not numbers"),
        ([[1.0], [2.0]], "shape"),
        ([1.0, 2.0, 3.0], "3 .* scores, but|but 3"),
    ],
)
def test_scores_that_are_none_are_refused(axis: str, values: Any, message: str) -> None:
    scores = {"sensibility": [1.0, 2.0], "rationality": [1.0, 2.0], axis: values}
    with pytest.raises(SelectionError, match=message):
        quadrants(scores["sensibility"], scores["rationality"])


# ---- the released rule ---------------------------------------------------------------------------------------------


def test_released_rule_is_strict_on_both_axes() -> None:
    chosen = select_indices(S, R)
    assert chosen.indices.tolist() == [0, 12, 13]
    assert chosen.reasons.tolist() == [
        *("", "quadrant_rationality", "quadrant_balanced", "quadrant_low"),
        *("tie", "tie", "tie", "tie", "tie"),
        *("unscored", "unscored", "unscored"),
        *("", ""),
    ]
    assert chosen.counts() == {
        "kept": 3,
        "tie": 5,
        "unscored": 3,
        "quadrant_rationality": 1,
        "quadrant_balanced": 1,
        "quadrant_low": 1,
    }


def test_released_rule_on_the_published_scores(real_data: Path) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(real_data / "ed_validation_scored.parquet", columns=list(AXES))
    s, r = (table.column(axis).to_numpy() for axis in AXES)
    assert len(s) == 5734
    assert len(select_indices(s, r)) == 3473
    assert len(select_indices(s, r, keep="rationality")) == 393
    shares = {row["threshold"]: row for row in sweep(s, r)}
    # as published, in per cent
    for t, sensibility, rationality in [(3, 30.4, 2.8), (4, 53.8, 5.7), (6, 63.0, 6.9), (7, 56.6, 6.7), (8, 7.7, 0.6)]:
        assert round(100 * shares[t]["sensibility_share"], 1) == sensibility
        assert round(100 * shares[t]["rationality_share"], 1) == rationality


@pytest.mark.parametrize("name", KEEPABLE)
def test_each_quadrant_can_be_kept(name: str) -> None:
    expected = [i for i, row in enumerate(PLANE) if row[2] == name]
    assert select_indices(S, R, keep=name).indices.tolist() == expected


@pytest.mark.parametrize(
    "keep",
    ["sensibility,balanced", "sensibility + balanced", ["balanced", "sensibility"], {"sensibility", "balanced"}],
)
def test_several_quadrants(keep: Any) -> None:
    assert select_indices(S, R, keep=keep).indices.tolist() == [0, 2, 12, 13]


@pytest.mark.parametrize("wrong", ["sens", "", [], "sensibility,", None, 5, ["sensibility", 3], "Sensibility"])
def test_unknown_quadrant_to_keep(wrong: Any) -> None:
    with pytest.raises(SelectionError, match="sensibility, rationality, balanced, low, tie"):
        keep_set(wrong)


def test_keeping_all_quadrants_drops_the_unscored_alone() -> None:
    chosen = select_indices(S, R, keep=KEEPABLE)
    assert chosen.counts() == {"kept": 11, "unscored": 3}


# ---- other rules ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("axis", "expected"),
    # sensibility: 9 9 6 4 0 of rows 0 3 4 1 5; rationality: 10 7 4 1 0 of rows 5 3 1 0 4;
    # difference: 8 6 2 0 -10 of rows 0 4 3 1 5
    # sum: 16 10 10 8 6 of rows 3 0 5 1 4
    [("sensibility", [0, 3, 4]), ("rationality", [1, 3, 5]), ("difference", [0, 3, 4]), ("sum", [0, 3, 5])],
)
def test_top_by_axis(axis: str, expected: list[int]) -> None:
    assert kept(rule="top", axis=axis, n=3) == expected
    assert kept(rule="top", axis=axis, fraction=0.6) == expected


def test_top_two_by_difference_are_not_the_top_two_by_sensibility() -> None:
    assert kept(rule="top", axis="difference", n=2) == [0, 4]
    assert kept(rule="top", axis="sensibility", n=2) == [0, 3]


def test_equal_ranks_fall_to_the_earlier_sample() -> None:
    assert kept(rule="top", n=1) == [0]


def test_top_of_the_smallest_difference_is_of_the_other_end() -> None:
    assert kept(rule="top", axis="difference", n=4) == [0, 1, 3, 4]


@pytest.mark.parametrize("rule", sorted(set(RULES) - {"threshold"}))
def test_default_size_is_that_of_the_threshold_rule(rule: str) -> None:
    same = {"lengths": range(6), "axis": "sensibility" if rule == "top" else None}
    for keep in ("sensibility", "rationality,balanced", "low"):
        expected = len(select_indices(SIX_S, SIX_R, keep=keep))
        assert len(kept(rule=rule, keep=keep, **same)) == expected


def test_longest() -> None:
    assert kept(rule="longest", n=2, lengths=[3, 9, 99, 9, 1, 4]) == [1, 3]
    assert kept(rule="longest", n=3, lengths=[3, 9, 99, 9, 1, 4]) == [1, 3, 5]


def test_random_is_seeded_and_covers_all_that_is_scored() -> None:
    assert kept(rule="random", n=3, seed=1) == kept(rule="random", n=3, seed=1)
    drawn = [tuple(kept(rule="random", n=2, seed=seed)) for seed in range(200)]
    assert set(drawn) == {(a, b) for a in (0, 1, 3, 4, 5) for b in (0, 1, 3, 4, 5) if a < b}


@pytest.mark.parametrize(("rule", "reason"), [("top", "not_in_top"), ("random", "not_drawn"), ("longest", "shorter")])
def test_every_sample_is_kept_or_has_a_reason(rule: str, reason: str) -> None:
    chosen = select_indices(SIX_S, SIX_R, rule=rule, n=2, lengths=range(6))
    assert chosen.counts() == {"kept": 2, reason: 3, "unscored": 1}
    assert np.flatnonzero(chosen.reasons == "").tolist() == chosen.indices.tolist() == sorted(chosen.indices.tolist())
    assert chosen.reasons[2] == "unscored"


@pytest.mark.parametrize("rule", RULES)
def test_settings_repeat_the_selection(rule: str) -> None:
    lengths = None if rule != "longest" else [3, 9, 99, 9, 1, 4]
    chosen = select_indices(SIX_S, SIX_R, rule=rule, keep="sensibility", threshold=(5, 4), lengths=lengths)
    again = select_indices(SIX_S, SIX_R, **chosen.settings, lengths=lengths)
    assert again.indices.tolist() == chosen.indices.tolist()
    assert again.settings == chosen.settings


@pytest.mark.parametrize("rule", RULES)
def test_no_samples(rule: str) -> None:
    chosen = select_indices([], [], rule=rule, lengths=[])
    assert (len(chosen), chosen.counts()) == (0, {"kept": 0})


@pytest.mark.parametrize("rule", RULES)
def test_nothing_scored(rule: str) -> None:
    chosen = select_indices([NAN, NAN], [1, NAN], rule=rule, lengths=[1, 2])
    assert chosen.counts() == {"kept": 0, "unscored": 2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "treshold"}, "Did you mean 'threshold'"),
        ({"ties": "up"}, "drop, high, low"),
        ({"n": 3}, "rule 'threshold'"),
        ({"fraction": 0.5}, "rule 'threshold'"),
        ({"axis": "sensibility"}, "rule 'threshold'"),
        ({"rule": "random", "axis": "sensibility"}, "rule 'random'"),
        ({"rule": "top", "keep": "low"}, ", ".join(RANKINGS)),
        ({"rule": "top", "axis": "sensability"}, "Did you mean 'sensibility'"),
        ({"rule": "top", "n": 2, "fraction": 0.5}, "give one"),
        ({"rule": "top", "n": 6}, "only 5 are scored"),
        ({"rule": "longest", "n": 2}, "lengths"),
        ({"control": "length"}, "lengths"),
        ({"control": "lenght"}, "Did you mean 'length'"),
        ({"control": "length", "lengths": [1, 2]}, "shape"),
        ({"control": "length", "rule": "longest", "lengths": range(6)}, "does not go with rule 'longest'"),
        ({"rule": "longest", "n": 2, "lengths": [1, 2]}, "shape"),
        *(({"rule": "top", "n": n}, "whole number") for n in (0, -1, 1.5, "3", NAN, math.inf)),
        *(({"rule": "top", "fraction": share}, "not in") for share in (0, -0.1, 1.1, NAN, "all")),
        *(({"rule": "random", "n": 2, "seed": seed}, "seed") for seed in (-1, 1.5, None, "x")),
    ],
)
def test_wrong_argument_is_refused_with_the_valid_ones(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SelectionError, match=message):
        kept(**options)


# ---- length told apart -------------------------------------------------------------------------------------------


def test_control_by_hand() -> None:
    # eight short and eight long replies; the rule takes six long and two short ones, the control four of each
    s = [9, 8, 4, 3, 2, 1, 1, 0, 9, 9, 8, 8, 7, 6, 0, 0]
    lengths = [1] * 8 + [9] * 8
    plain = select_indices(s, [1] * 16)
    assert plain.indices.tolist() == [0, 1, 8, 9, 10, 11, 12, 13]
    chosen = select_indices(s, [1] * 16, lengths=lengths, control="length")
    # the nearest outside fill the short ones up; those least inside leave the long ones
    assert chosen.indices.tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    assert chosen.counts() == {"kept": 8, "quadrant_low": 6, "length_full": 2}
    assert chosen.lengths == {"bins": 2, "distance": 0.0, "outside": 2}
    assert chosen.settings == {**plain.settings, "control": "length"}
    assert "2 kept samples lie outside the quadrants" in str(chosen)
    assert "Reply lengths" not in str(plain)


@pytest.mark.parametrize(
    ("rule", "keep"), [("threshold", "sensibility"), ("threshold", "low+tie"), ("top", "rationality")]
)
@pytest.mark.parametrize("ties", TIES)
def test_control_keeps_size_and_lengths(rule: str, keep: str, ties: str) -> None:
    drawn = np.random.default_rng(0)
    lengths = drawn.integers(5, 120, 2000)
    s = np.clip(np.round(2 + lengths / 20 + drawn.normal(size=2000)), 0, 10)  # longer replies score higher
    r = np.clip(np.round(drawn.normal(4, 2, 2000)), 0, 10)
    s[:50] = NAN
    options: Any = {"rule": rule, "keep": keep, "ties": ties, "lengths": lengths}
    plain, chosen = (select_indices(s, r, **options, control=control) for control in (None, "length"))
    assert len(chosen) == len(plain)
    kept, pool = np.sort(lengths[chosen.indices]), np.sort(lengths[50:])
    found = max(abs(np.mean(kept <= x) - np.mean(pool <= x)) for x in range(121))
    assert chosen.lengths is not None
    assert chosen.lengths["distance"] == pytest.approx(found)
    assert found < 0.03
    again = select_indices(s, r, **chosen.settings, lengths=lengths)
    assert again.indices.tolist() == chosen.indices.tolist()
    order = drawn.permutation(2000)  # the draw of bins does not depend on the order of the data
    other = select_indices(s[order], r[order], **{**options, "lengths": lengths[order]}, control="length")
    assert np.sort(lengths[order][other.indices]).mean() == pytest.approx(kept.mean(), rel=0.01)


def test_control_on_the_published_scores(real_data: Path) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(real_data / "ed_validation_scored.parquet")
    s, r = (table.column(axis).to_numpy() for axis in AXES)
    lengths = np.array([len(text) for text in table.column("response").to_pylist()])

    def measured(keep: str, rule: str = "threshold", control: str | None = None) -> tuple[int, float, int]:
        found = select_indices(s, r, keep=keep, rule=rule, control=control, lengths=lengths).indices
        inside = select_indices(s, r, keep=keep).indices
        return len(found), round(distance(lengths[found], lengths), 3), len(np.intersect1d(found, inside))

    # as docs/selection.md tells
    assert measured("sensibility") == (3473, 0.037, 3473)
    assert measured("sensibility", control="length") == (3473, 0.003, 3342)
    assert measured("sensibility", rule="longest") == (3473, 0.394, 1999)
    assert measured("rationality") == (393, 0.27, 393)
    assert measured("rationality", control="length") == (393, 0.013, 282)
    assert measured("rationality", rule="longest") == (393, 0.93, 11)


@pytest.mark.parametrize("size", [0, 1, 2, 7])
def test_control_of_few_samples(size: int) -> None:
    lengths = [3, 9, 99, 9, 1, 4, 5, 2][:size]
    chosen = select_indices([9.0] * size, [1.0] * size, lengths=lengths, control="length")
    assert len(chosen) == size
    assert select_indices([NAN] * size, [1.0] * size, lengths=lengths, control="length").counts()["kept"] == 0


def test_top_by_a_column_drops_what_has_no_value() -> None:
    chosen = select_indices(SIX_S, SIX_R, rule="top", axis="ifd", column=[0.2, NAN, 0.9, 0.5, 0.5, 0.1], n=2)
    assert chosen.indices.tolist() == [3, 4]
    assert chosen.reasons.tolist() == ["not_in_top", "no_value", "unscored", "", "", "not_in_top"]
    assert chosen.settings["axis"] == "ifd"
    everything = select_indices(SIX_S, SIX_R, rule="top", axis="ifd", column=[NAN] * 6)
    assert everything.counts() == {"kept": 0, "no_value": 5, "unscored": 1}
    with pytest.raises(SelectionError, match=r"shape \(2,\); expected \(6,\)"):
        kept(rule="top", axis="ifd", column=[1, 2], n=1)
    with pytest.raises(SelectionError, match="only 4 are scored"):
        kept(rule="top", axis="ifd", column=[0.2, NAN, 0.9, 0.5, 0.5, 0.1], n=5)


def clustered(order: np.ndarray, **options: Any) -> Any:
    """Three clusters of 60, 30 and 10 samples; samples 0 and 60 are unscored, 1 is flagged."""
    draw = np.random.default_rng(0)
    vectors = np.repeat([[0, 0], [9, 0], [0, 9]], [60, 30, 10], axis=0) + draw.normal(size=(100, 2)) / 9
    s, r = draw.permutation(1_000)[:200].reshape(2, 100) / 100
    s[[0, 60]] = NAN
    flags = np.array(["hostile" if i == 1 else None for i in range(100)], object)
    columns = {"flags": flags[order].tolist(), "vectors": vectors[order]}
    return select_indices(s[order], r[order], control="clusters", **columns, **options)


@pytest.mark.parametrize("options", [{"rule": "top", "axis": "sensibility"}, {"rule": "random"}, {}])
def test_clusters_keep_their_share_in_any_order_of_the_samples(options: dict[str, Any]) -> None:
    pytest.importorskip("sklearn")
    size = {"n": 6} if options else {}  # at most n // 2 clusters: the three that there are
    chosen = clustered(np.arange(100), **options, **size)
    assert chosen.counts()["unscored"] == 2
    assert chosen.counts()["flag_hostile"] == 1
    assert len(chosen) == 6 or not options
    assert clustered(np.arange(100), **options, **size).indices.tolist() == chosen.indices.tolist()
    if options:
        assert chosen.settings["clusters"] == 3
        assert np.bincount(np.repeat([0, 1, 2], [60, 30, 10])[chosen.indices]).tolist() == [4, 1, 1]
    if options.get("rule") != "random":
        order = np.random.default_rng(1).permutation(100)
        assert sorted(order[clustered(order, **options, **size).indices]) == chosen.indices.tolist()


def test_clusters_of_few_samples_and_without_vectors() -> None:
    pytest.importorskip("sklearn")
    for rows in (0, 1, 2):
        chosen = select_indices([8] * rows, [2] * rows, control="clusters", vectors=np.ones((rows, 3)))
        assert len(chosen) == rows
    with pytest.raises(SelectionError, match=r"needs a vector for each of 1 samples: vectors of shape \(1, d\)"):
        select_indices([8], [2], control="clusters")


# ---- sweep ---------------------------------------------------------------------------------------------------------


def test_sweep_by_hand() -> None:
    rows = sweep(SIX_S, SIX_R, grid=[5, 4])
    assert [row["threshold"] for row in rows] == [5, 4]
    # at 5: (9,1) (6,0) sensibility, (0,10) rationality, (9,7) balanced, (4,4) low; at 4: (4,4) ties
    assert [rows[0][name] for name in KEEPABLE] == [2, 1, 1, 1, 0]
    assert [rows[1][name] for name in KEEPABLE] == [2, 1, 1, 0, 1]
    assert [row["scored"] for row in rows] == [5, 5]
    assert rows[0]["sensibility_share"] == 0.4


@pytest.mark.parametrize("ties", TIES)
def test_sweep_counts_what_the_rule_keeps(ties: str) -> None:
    for row in sweep(S, R, ties=ties):
        for name in KEEPABLE:
            assert row[name] == len(select_indices(S, R, keep=name, threshold=row["threshold"], ties=ties))
        assert sum(row[f"{name}_share"] for name in KEEPABLE) == pytest.approx(1)
        if ties != "drop":
            assert row["tie"] == 0


def test_a_sweep_over_no_threshold_is_refused() -> None:
    for grid in ([], range(9, 1), iter(())):
        with pytest.raises(SelectionError, match="the grid holds no threshold"):
            sweep(SIX_S, SIX_R, grid=grid)


def test_sweep_of_nothing() -> None:
    assert [sum(row[name] for name in QUADRANTS) for row in sweep([], [])] == [0] * 9
