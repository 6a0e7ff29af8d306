"""`benchmarks/gpu.py`, which needs a GPU, rehearsed: every kind of part at tiny size, and a run that is cut short."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import ROOT


pytestmark = [pytest.mark.filterwarnings("ignore")]
TINY = ["--device", "cpu", "--tiny"]


@pytest.mark.slow
def test_every_kind_of_part_runs_at_tiny_size(tmp_path: Path) -> None:
    kinds = ["judge_8b", "qlora_8b", "online", "mixture_1b", "generation"]
    command = [sys.executable, "benchmarks/gpu.py", *TINY, "--work", str(tmp_path), "--only", *kinds]
    env = {**os.environ, "EE_TRL_DATA": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    record = json.loads((tmp_path / "gpu.json").read_text())
    assert done.returncode == 0, (done.stderr, [part.get("log") for part in record["parts"].values()])
    found = {name: part["found"] for name, part in record["parts"].items()}
    judged = found["judge_8b"]
    assert judged["packed"]
    for data in ("ED", "ten replies"):
        assert judged[data]["padding"] == 0
        assert judged[data]["over_batched"] > 1
        assert judged[data]["to_plain_texts"]["scores_apart"] < judged[data]["to_plain_texts"]["scores_std"]
    assert len(judged["options"]) == 8
    assert judged["profile"]["host_seconds"]
    assert found["qlora_8b"]["tokens_per_second"] > 0
    assert found["mixture_1b"]["compose_seconds"] > 0
    assert found["online"]["both_judged"]["over_stock"]["median"] > 0
    assert found["generation"]["8B"]["tokens_per_second"] > 0
    assert "samples/s" in done.stdout


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        import gpu as module
    return module


def test_a_run_goes_on_with_what_is_missing(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []
    slow = ["judge_8b"]
    output = tmp_path / "gpu.json"

    def run_part(name: str, args: Any, limit: float) -> dict[str, Any]:
        if len(ran) == 2:
            raise KeyboardInterrupt
        ran.append(name)
        status = "out of time" if name in slow else "ok"
        return {"status": status, "seconds": limit, "found": {"tokens_per_second": 1.0}}

    monkeypatch.setattr(gpu, "run_part", run_part)
    run = [*TINY, "--work", str(tmp_path)]
    with pytest.raises(KeyboardInterrupt):
        gpu.main(run)
    assert [part["status"] for part in json.loads(output.read_text())["parts"].values()] == ["ok", "out of time"]
    ran.clear(), slow.clear()
    with pytest.raises(KeyboardInterrupt):
        gpu.main(run)
    assert ran == list(gpu.PARTS)[1:3], "what is done is not done again, what ran out of time is"
    ran.clear()
    with pytest.raises(SystemExit):
        gpu.main([*run, "--minutes", "0.01"])
    assert not ran
    said = capsys.readouterr()
    assert "no time left" in said.err
    assert "**judge_8b** | ok" in said.out


def test_a_part_that_hangs_is_ended_and_keeps_what_it_found(gpu: ModuleType, tmp_path: Path, monkeypatch: Any) -> None:
    hangs = tmp_path / "hangs.py"
    hangs.write_text(
        "import json, sys, time\nwork = [a for a in sys.argv if a.startswith('--work')][0][7:]\n"
        "json.dump({'first': 1}, open(f'{work}/tests.json', 'w'))\nprint('so far', flush=True)\ntime.sleep(60)\n"
    )
    monkeypatch.setattr(gpu, "__file__", str(hangs))
    args = gpu.make_parser().parse_args([*TINY, "--work", str(tmp_path), "--peak-tflops", "1"])
    part = gpu.run_part("tests", args, 2)
    assert (part["status"], part["found"]) == ("out of time", {"first": 1})
    assert "so far" in part["log"]
    assert part["seconds"] < 20


def test_it_says_what_it_needs(gpu: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main(["--list"])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(gpu.PARTS)
    with pytest.raises(SystemExit):
        gpu.main(["--device", "cpu"])
    assert "add --tiny" in capsys.readouterr().err
