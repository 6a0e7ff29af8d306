"""Scores that cannot be trusted are named, with the number and what to do; scores that spread are not."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from ee_trl import EmpathyDataSelector
from ee_trl.cli.main import main
from ee_trl.data.samples import iter_scores
from ee_trl.data.tally import Tally
from ee_trl.scoring.warnings import score_warnings


CHINESE = ["闭嘴，你真没用。", "明天晴转多云，北风三级。", "听起来真难受，我陪着你。"]


def rows(pairs: Any) -> Dataset:
    return Dataset.from_list(
        [
            {"context": ["Hello."], "response": "Hi.", "sensibility": float(s), "rationality": float(r)}
            for s, r in pairs
        ]
    )


def warned(pairs: Any, **rule: Any) -> list[str]:
    return score_warnings(Tally(iter_scores(rows(pairs)), **rule))


def test_scores_that_spread_are_fine() -> None:
    pairs = np.random.default_rng(0).uniform(0, 10, (200, 2))
    assert warned(pairs) == []


def test_one_answer_for_all_is_named() -> None:
    rng = np.random.default_rng(0)
    found = warned([(9 + rng.uniform(-0.3, 0.3), r) for r in rng.uniform(0, 4.5, 100)])
    assert len(found) == 2
    assert found[0].startswith("100.0% of the 100 sensibility scores lie within 0.5 of 9.0")
    assert found[1].startswith("100.0% of the 100 scored samples are in the quadrant 'sensibility'")
    assert all("ee-trl check" in warning for warning in found)


def test_nearly_all_in_one_quadrant_depends_on_the_threshold() -> None:
    pairs = [*zip(np.linspace(6, 10, 95), np.linspace(0.2, 4.8, 95), strict=True), *[(2, 8)] * 5]
    [found] = warned(pairs)
    assert found.startswith("95.0% of the 100 scored samples are in the quadrant 'sensibility'")
    assert warned([*pairs, (2, 8), (2, 8)]) == []
    assert warned(pairs, threshold=8) == []


def test_few_samples_say_nothing() -> None:
    assert warned([(9, 2)] * 49) == []
    assert len(warned([(9, 2)] * 50)) == 3


def test_replies_in_another_language_are_named_in_log_score_summary_and_card(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    source, scored = tmp_path / "rows.jsonl", tmp_path / "scored.parquet"
    english = ["That is so sad.", "Oh no! How are you now?", "I can imagine how you feel."]
    data = Dataset.from_list([{"context": ["I lost my job today."], "response": reply} for reply in CHINESE + english])
    data.to_json(source, force_ascii=False)
    said = "3 of 6 replies (50.0%) are not English"
    with caplog.at_level(logging.WARNING):
        EmpathyDataSelector("linear", show_progress=False).score(data)
    assert said in caplog.text
    assert main(["score", str(source), "-o", str(scored), "--scorer", "linear", "-q"]) == 0
    assert said in capsys.readouterr().out
    assert main(["summary", str(scored)]) == 0
    summary = " ".join(capsys.readouterr().out.split())
    assert said in summary
    assert "ee-trl score DATA --scorer JUDGE" in summary
    assert "not_english 3 50.0" in summary.replace("\u2502", "")
    out = tmp_path / "out" / "kept.jsonl"
    out.parent.mkdir()
    keep = "sensibility,rationality,balanced,low,tie"
    assert main(["select", str(scored), "-o", str(out), "--card", "--keep", keep]) == 0
    assert "flag_not_english" in capsys.readouterr().out
    assert said in " ".join((out.parent / "README.md").read_text().split())
    assert len(out.read_text().splitlines()) == 3


def test_they_can_be_left_unscored_and_that_is_no_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, scored = tmp_path / "rows.jsonl", tmp_path / "scored.parquet"
    Dataset.from_list([{"context": ["你好。"], "response": reply} for reply in CHINESE]).to_json(source)
    command = ["score", str(source), "-o", str(scored), "--scorer", "linear", "--other-language", "unscored", "-q"]
    assert main(command) == 0
    found = " ".join(capsys.readouterr().out.split())
    assert "3 of 3 replies (100.0%) are not English" in found
    assert "They are left unscored." in found
    assert Dataset.from_parquet(str(scored))["score_status"] == ["not_english"] * 3
