"""What version 0.1.0 scored, stored, trained, printed and was called, held: `scripts/freeze_golden.py` wrote it down."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import golden_cases as cases
import numpy as np
import pytest


# what has no public name, and where it is now: the one place to adapt when a module moves
INTERNALS = {
    "FEATURE_VERSION": "ee_trl.scoring.features",
}


def internal(name: str) -> Any:
    return getattr(importlib.import_module(INTERNALS[name]), name)


def same_numbers(found: Any, frozen: Any, tolerance: float) -> None:
    one, other = (np.array(values, dtype=float) for values in (found, frozen))
    np.testing.assert_allclose(one, other, rtol=0, atol=tolerance)


# ---- scorers -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cases.unpack("models.tar.xz", tmp_path_factory.mktemp("golden"))


# how far scores may be apart; low precisions round by the CPU's kind
TOLERANCES = {"linear": 1e-9, "own": 0, "server": 1e-9, "server_text": 0, "judge_bfloat16": 0.3, "judge_int8": 0.3}


@pytest.mark.parametrize("name", cases.SCORERS)
def test_a_scorer_s_fingerprint_and_scores_are_those_of_0_1_0(name: str, models: Path) -> None:
    frozen, found = cases.read("scorers.json")[name], cases.scores_of(name, models)
    assert found["fingerprint"] == frozen["fingerprint"]
    assert found["rubric"] == frozen["rubric"]
    tolerance = TOLERANCES.get(name, 0.1 if "int8" in name else 1e-4)
    same_numbers(found["scores"], frozen["scores"], tolerance)
    assert list(found["details"]) == list(frozen["details"])
    for detail, values in frozen["details"].items():
        if not (detail.endswith("_mode") and tolerance > 1e-3):  # which jumps
            same_numbers(found["details"][detail], values, tolerance)


def test_every_scorer_is_frozen() -> None:
    assert set(cases.read("scorers.json")) == set(cases.SCORERS)


def test_the_version_of_the_features_and_the_rubrics_are_those_of_0_1_0() -> None:
    frozen = cases.read("fingerprints.json")
    assert internal("FEATURE_VERSION") == frozen["FEATURE_VERSION"]
    assert cases.rubrics() == frozen["rubrics"]
