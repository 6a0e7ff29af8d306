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
    assert base["n"] == expert["n"] == len(all_dialogues(load_sample("test")))
    text = (out / "report.md").read_text()
    for part in ("what was selected", "plane.png", "loss.png", "Metrics on held-out dialogues", "Some replies"):
        assert part in text
    trained = (out / "expert" / "model.safetensors").stat().st_mtime_ns
    assert main(["quickstart", "-o", str(out)]) == 0
    assert (out / "expert" / "model.safetensors").stat().st_mtime_ns == trained
    assert json.loads((out / "report.json").read_text())["metrics"] == report["metrics"]
