"""The behavioural check of scorers: its set is whole, and its numbers follow from the scores."""

from __future__ import annotations

import runpy
from collections.abc import Sequence

import numpy as np
from conftest import ROOT


run = runpy.run_path(str(ROOT / "benchmarks/check.py"))
CASES = run["check_cases"]()


class Oracle:
    """Gives the kind reply 8 and 2, and every other reply 2 and 8."""

    fingerprint = "oracle-1"

    def score(self, dialogues: Sequence) -> np.ndarray:
        kind = {case.dialogue for case in CASES if case.kind == run["TRUE"]}
        return np.array([[8.0, 2.0] if dialogue in kind else [2.0, 8.0] for dialogue in dialogues])


def test_every_context_has_a_reply_of_every_kind() -> None:
    groups = {case.group for case in CASES}
    assert len(groups) >= 60
    assert len({case.emotion for case in CASES}) == 32
    kinds = {run["TRUE"], *run["KINDS"]}
    assert all({case.kind for case in CASES if case.group == group} == kinds for group in groups)
    assert any(len(case.dialogue.context) > 1 for case in CASES)


def test_the_numbers_are_those_of_the_scores() -> None:
    found = run["check"](Oracle(), resamples=50)
    assert found.kinds["kind"]["quadrants"]["sensibility"] == 1
    own = {case.group for case in CASES if case.kind == "cruel"}
    cruel = found.kinds["cruel"]
    assert cruel["n"] == len(own)
    assert (cruel["quadrants"]["rationality"], cruel["kept"]["share"]) == (1, 1)
    assert (cruel["below"]["sensibility"]["share"], cruel["below"]["rationality"]["share"]) == (1, 0)
    assert cruel["below"]["both"]["share"] == 0.5  # equal means count half
    assert found.warnings  # it gives nearly all replies one number


def test_a_degenerate_scorer_is_named() -> None:
    warnings = run["signs_of_degeneration"](np.full((50, 2), [9.0, 2.0]))
    assert any("100.0%" in line and "sensibility" in line for line in warnings)
    assert any("one quadrant" in line for line in warnings)
