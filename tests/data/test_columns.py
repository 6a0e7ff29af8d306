"""Columns of few names: the same names, counts and masks as lists of strings would give."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ee_trl.data.columns import Coded, Coder, distinct


def coded(*batches: list[Any], null: str = "none") -> Coded:
    coder = Coder(("first",))
    return Coded.joined([coder.coded(coder.codes(pa.chunked_array([pa.array(each)]), null)) for each in batches])


@pytest.mark.parametrize("kinds", [1, 3, 300, 300_000])
def test_names_and_counts_are_those_of_the_strings(kinds: int) -> None:
    rng = np.random.default_rng(0)
    batches = [[f"name {i}" if i else None for i in rng.integers(kinds, size=50_000)] for _ in range(2)]
    column = coded(*batches)
    names = ["none" if name is None else name for batch in batches for name in batch]
    assert column.to_array().tolist() == names
    assert column.counts() == Counter(names)
    assert column.is_("none").tolist() == [name == "none" for name in names]
    assert not column.is_("no such name").any()
    assert column.codes.itemsize == (1 if len(column.names) <= 256 else 2 if len(column.names) <= 65_536 else 4)


def test_counts_come_most_frequent_first() -> None:
    assert list(coded(["a", "b", "b", "c", "c", "c"]).counts().items()) == [("c", 3), ("b", 2), ("a", 1)]


def test_pairs_are_counted() -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.integers(n, size=2_500_000).astype(np.uint8) for n in (3, 5))
    pairs = Counter(zip(first.tolist(), second.tolist(), strict=True))
    found = Coded(first, tuple("abcd")).counts_with(Coded(second, tuple("vwxyz")))
    assert found == {"abc"[i]: {"vwxyz"[j]: pairs[i, j] for j in range(5)} for i in range(3)}


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (pa.array([1, None, 1]), ["1", None, "1"]),
        (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
        (pa.array(["a"], pa.large_string()), ["a"]),
        (pa.array([[1], None]), ["[1]", None]),
        (pa.array([b"a", b"\xff"]).view(pa.string()), ["a", "\ufffd"]),
        (pa.array([None, None]), [None, None]),
        (pa.array([], pa.string()), []),
    ],
)
def test_columns_of_any_type(values: pa.Array, names: list[str | None]) -> None:
    found, positions = distinct(pa.chunked_array([values]))
    assert [found[i] for i in positions] == names


def test_nothing_at_all() -> None:
    assert (len(coded([])), coded([]).counts(), coded([]).to_array().tolist()) == (0, {}, [])
    assert coded([]).counts_with(coded([])) == Coded(np.zeros(0, np.uint8), ()).counts_with(coded([])) == {}
