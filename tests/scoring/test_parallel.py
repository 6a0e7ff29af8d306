"""The same numbers from several processes and from Ray actors as from one process; a killed actor loses nothing."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import WordScorer
from datasets import Dataset
from random_judges import make_scorer

from ee_trl import CascadeScorer, Dialogue, EmpathyDataSelector, load_sample
from ee_trl.cli.main import main
from ee_trl.cli.options import actors
from ee_trl.data.dialogue import samples_of
from ee_trl.data.formats import FORMATS
from ee_trl.errors import ScorerError
from ee_trl.scoring.parallel import Launch, RayOptions, fill_share, plan_together
from ee_trl.scoring.run import ScoringRun
from ee_trl.scoring.store import ScoreStore


def dialogues_of_sample(n: int) -> list[Dialogue]:
    rows = load_sample().select(range(n)).to_list()
    return [s.dialogue for s in samples_of(FORMATS["messages"], rows) if s.dialogue]


# ---- shares


def test_shares_are_disjoint_whole_and_keep_conversations_together() -> None:
    launches = [Launch(rank, 3) for rank in range(3)]
    dialogues = dialogues_of_sample(200)
    owners = [[launch.rank for launch in launches if launch.owns(d)] for d in dialogues]
    assert all(len(ranks) == 1 for ranks in owners)
    counts = np.bincount([ranks[0] for ranks in owners])
    assert counts.min() > len(dialogues) / 6, "no process is left with little to do"
    by_conversation: dict[str, set[int]] = {}
    for dialogue, [rank] in zip(dialogues, owners, strict=True):
        by_conversation.setdefault(dialogue.context[0], set()).add(rank)
    assert all(len(ranks) == 1 for ranks in by_conversation.values())


def test_the_launcher_says_who_we_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Launch.from_environment() == Launch(0, 1)
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert Launch.from_environment() == Launch(1, 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    with pytest.raises(ScorerError, match="--engine ray"):
        Launch.from_environment()


def test_the_work_of_all_is_added_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dialogues = dialogues_of_sample(30) * 2
    scorer = WordScorer()
    store = ScoreStore(tmp_path / "s.sqlite")
    runs = [ScoringRun(scorer, store) for _ in range(2)]
    monkeypatch.setattr(Launch, "gather", lambda self, value: [run.coverage for run in runs])
    for rank, run in enumerate(runs):
        total = fill_share(run, [dialogues], Launch(rank, 2))
    assert scorer.asked == total.asked == len(set(dialogues))
    assert total.duplicates == len(dialogues) - len(set(dialogues))
    last = ScoringRun(scorer, store, filled=total)
    assert last.score(dialogues).statuses == ["scored"] * len(dialogues)
    assert (last.coverage.asked, last.coverage.cache_hits) == (len(set(dialogues)), 0)


def test_the_first_process_plans_a_cascade_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    dialogues, told = dialogues_of_sample(150), []

    def gather(self: Launch, value: Any) -> list[Any]:
        told.append(value)
        return told[:1]

    monkeypatch.setattr(Launch, "gather", gather)
    judges = [WordScorer(), WordScorer()]
    cascades = [CascadeScorer("linear", judge, budget=0.5, calibration=60) for judge in judges]
    for rank, cascade in enumerate(cascades):
        plan_together(cascade, dialogues, Launch(rank, 2))
    assert [judge.asked for judge in judges] == [60, 0]
    assert cascades[0].fingerprint == cascades[1].fingerprint
    assert cascades[0].report().calibration_calls == cascades[1].report().calibration_calls > 0
    told.clear()
    for rank in range(2):
        empty = CascadeScorer("linear", WordScorer(), budget=0.5)
        plan_together(empty, [], Launch(rank, 2))
        assert empty.needs_plan


def test_counts_of_actors_are_read_strictly() -> None:
    import argparse

    assert (actors("3"), actors("1:8")) == (3, (1, 8))
    for wrong in ("0", "2:1", "x", "1:", ""):
        with pytest.raises(argparse.ArgumentTypeError):
            actors(wrong)


def test_ray_options_without_ray_are_refused(tmp_path: Path, capsys: Any) -> None:
    load_sample().select(range(3)).to_parquet(tmp_path / "d.parquet")
    args = ["score", str(tmp_path / "d.parquet"), "-o", str(tmp_path / "o.parquet"), "--ray-actors", "2"]
    assert main(args) == 3
    assert "--ray-actors goes with --engine ray" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--ray-cpus", "--ray-gpus"])
def test_less_than_nothing_cannot_be_reserved(flag: str, tmp_path: Path, capsys: Any) -> None:
    load_sample().select(range(3)).to_parquet(tmp_path / "d.parquet")
    args = ["score", str(tmp_path / "d.parquet"), "-o", str(tmp_path / "o.parquet"), "--engine", "ray", flag, "-1"]
    assert main(args) == 3
    assert f"cannot reserve -1.0 {flag[6:]}; valid: 0 or more" in capsys.readouterr().err


@pytest.mark.parametrize("pool", [0, -1, 1.5, (0, 2), (5, 2)])
def test_actors_are_one_at_least_and_the_fewest_come_first(pool: Any) -> None:
    with pytest.raises(ScorerError, match="actors"):
        RayOptions(actors=pool)
    assert RayOptions(actors=(2, 5)).pool == (2, 5)
    assert RayOptions(actors=3).pool == (3, 3)


def test_a_missing_ray_is_explained(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    load_sample().select(range(3)).to_parquet(tmp_path / "d.parquet")
    args = ["score", str(tmp_path / "d.parquet"), "-o", str(tmp_path / "o.parquet"), "--engine", "ray"]
    assert main(args) == 3
    assert "pip install 'ee-trl[ray]'" in capsys.readouterr().err


# ---- for real


OF_A_LAUNCH = """
import json, os, sys
from datetime import timedelta
import numpy as np
import torch.distributed as dist
from datasets import load_dataset
from ee_trl import CascadeScorer, EmpathyDataSelector
from ee_trl.scoring.base import ScoredBatch
from ee_trl.scoring.store import dialogue_key

class Judge:
    asked = 0
    def __init__(self, name, noise):
        self.fingerprint, self.noise = name, noise
    def score(self, dialogues):
        return next(self.score_batches(dialogues)).scores
    def score_batches(self, dialogues):
        self.asked += len(dialogues)
        draws = [np.random.default_rng(list(dialogue_key(d))) for d in dialogues]
        scores = [np.clip(draw.random(2) * 10 + self.noise * draw.normal(size=2), 0, 10) for draw in draws]
        yield ScoredBatch(range(len(dialogues)), np.array(scores), tokens=len(dialogues))

rank = int(os.environ["RANK"])
judge = Judge("judge", 0.01 * rank)  # as on another device: not the same numbers to the last bit
cascade = CascadeScorer(Judge("cheap", 1.5), judge, budget=0.3, calibration=60)
selector = EmpathyDataSelector(cascade, store=sys.argv[1], show_progress=False)
scored = selector.score(sys.argv[2], shared=True)
told = {"asked": judge.asked, "tokens": selector.coverage.tokens, "fingerprint": cascade.fingerprint}
told |= {"scores": scored["sensibility"][:], "group": dist.is_initialized()}
dist.init_process_group("gloo", timeout=timedelta(seconds=90))
selector.score(sys.argv[2], shared=True)
told["same"] = dist.get_world_size() == 2 and dist.is_initialized()
print(json.dumps(told))
"""


@pytest.mark.slow
def test_two_processes_plan_a_cascade_once_and_leave_no_group_behind(tmp_path: Path) -> None:
    rows = [{"context": [f"this is number {i}"], "response": f"and this is the reply to {i}"} for i in range(400)]
    Dataset.from_list(rows).to_parquet(tmp_path / "data.parquet")
    told = of_a_launch(OF_A_LAUNCH, str(tmp_path / "s.sqlite"), str(tmp_path / "data.parquet"))
    assert [found["group"] for found in told] == [False, False], "a trainer makes its own, with its own timeout"
    assert [found["same"] for found in told] == [True, True], "a group that was there before stays"
    assert told[0]["fingerprint"] == told[1]["fingerprint"]
    assert told[0]["scores"] == told[1]["scores"]
    asked = sum(found["asked"] for found in told)
    assert 119 <= asked <= 0.3 * 400, "the budget holds for all processes together"
    assert told[0]["tokens"] == asked, "planning counts"


def of_a_launch(code: str, *args: str) -> list[dict[str, Any]]:
    """What two processes print that know of each other as a launcher's do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, *args],
            env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs[0][1][-3_000:] + outputs[1][1][-3_000:]
    return [json.loads(out.splitlines()[-1]) for out, _ in outputs]


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small judge in a folder; it has random weights, which give numbers all the same."""
    folder = tmp_path_factory.mktemp("judge")
    scorer = make_scorer()
    scorer.model.save_pretrained(folder)
    scorer.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 conversations, 20 of them twice."""
    path = tmp_path_factory.mktemp("data") / "data.parquet"
    rows = load_sample().select(range(100)).to_list()
    Dataset.from_list(rows + rows[:20]).to_parquet(path)
    return path


def by_command(*command: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, *command, "--json"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3_000:]
    return json.loads(done.stdout.splitlines()[-1])


def check_same(out: Path, other: Path) -> None:
    mine, theirs = pq.read_table(out), pq.read_table(other)
    for axis in ("sensibility", "rationality"):
        np.testing.assert_allclose(mine[axis].to_numpy(), theirs[axis].to_numpy(), atol=1e-4)
    kept = [name for name in mine.column_names if name not in ("sensibility", "rationality", "quadrant")]
    assert mine.select(kept).equals(theirs.select(kept))


@pytest.mark.slow
def test_two_processes_and_ray_give_what_one_gives(tmp_path: Path, judge: Path, data: Path) -> None:
    def score(name: str, launcher: list[str], *options: str) -> dict[str, Any]:
        place = ["-o", str(tmp_path / f"{name}.parquet"), "--store", str(tmp_path / f"{name}.sqlite")]
        module = [*launcher, "ee_trl.cli.main", "score", str(data), "--scorer", str(judge)]
        return by_command(*module, *place, "-q", *options)["coverage"]

    one = score("one", ["-m"])
    two = score("two", ["-m", "torch.distributed.run", "--nproc_per_node", "2", "-m"])
    ray = score("ray", ["-m"], "--engine", "ray", "--ray-actors", "2")
    for name in ("two", "ray"):
        check_same(tmp_path / f"{name}.parquet", tmp_path / "one.parquet")
    unique = one["asked"]
    assert one["samples"] == one["scored"] > unique
    for coverage in (two, ray):
        assert coverage["asked"] == unique, "each sample is scored once"
        assert coverage["scored"] == one["scored"]
        assert coverage["forward_tokens"] > coverage["tokens"] > 0
        assert coverage["cache_hits"] + coverage["duplicates"] == one["samples"] - unique
    again = score("again", ["-m"], "--overwrite")
    assert again["asked"] == unique
    rerun = score("two", ["-m", "torch.distributed.run", "--nproc_per_node", "2", "-m"], "--overwrite")
    assert (rerun["asked"], rerun["cache_hits"]) == (0, one["samples"])


KILLED_ACTOR = """
import os, signal, sys, threading, time
import numpy as np
import psutil
from ee_trl import EmpathyDataSelector
from ee_trl.scoring.parallel import RayOptions
from ee_trl.scoring.store import ScoreStore

class Slow:
    fingerprint = "slow-1"
    def score(self, dialogues):
        time.sleep(0.01 * len(dialogues))
        return np.array([[min(10, len(d.response.split())), min(10, len(d.response) / 10)] for d in dialogues])

def kill_an_actor():
    while selector.coverage is None or selector.coverage.asked < 100:
        time.sleep(0.05)
    workers = [p for p in psutil.process_iter(["cmdline"]) if "".join(p.info["cmdline"] or ()).startswith("ray::Map")]
    workers[0].kill()
    print("killed 1 of", len(workers), flush=True)

selector = EmpathyDataSelector(
    Slow(), store=sys.argv[1], ray=RayOptions(actors=2, batch_size=16), show_progress=False
)
threading.Thread(target=kill_an_actor, daemon=True).start()
selector.score(sys.argv[2]).to_parquet(sys.argv[3])
"""


@pytest.mark.slow
def test_a_killed_actor_loses_nothing(tmp_path: Path) -> None:
    n = 1_500
    rows = [{"context": ["I lost my job."], "response": f"Oh no{' no' * (i % 7)}! Number {i}?"} for i in range(n)]
    Dataset.from_list(rows).to_parquet(tmp_path / "data.parquet")
    args = [str(tmp_path / name) for name in ("s.sqlite", "data.parquet", "out.parquet")]
    done = subprocess.run([sys.executable, "-c", KILLED_ACTOR, *args], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3_000:]
    assert "killed 1 of 2" in done.stdout
    found = pq.read_table(tmp_path / "out.parquet")
    assert found["score_status"].to_pylist() == ["scored"] * n
    assert found["sensibility"].to_pylist() == [min(10, len(row["response"].split())) for row in rows]
    [entry] = ScoreStore(tmp_path / "s.sqlite").scorers()
    assert entry.scored == n


# ---- workers


def test_workers_write_what_one_process_writes(tmp_path: Path) -> None:
    selector = EmpathyDataSelector("linear", batch_rows=20, show_progress=False)
    rows = load_sample().select(range(70)).add_column("note", [None, "a"] * 35)
    features, tables = selector.score_tables(rows)
    alone, coverage = pa.concat_tables(tables), selector.coverage
    _, tables = selector.score_tables(rows, workers=2)
    assert pa.concat_tables(tables).equals(alone)
    assert {**selector.coverage.to_dict(), "seconds": 0, "samples_per_second": 0} == {
        **coverage.to_dict(),
        "seconds": 0,
        "samples_per_second": 0,
    }
    assert alone.schema.equals(features.arrow_schema)
    with pytest.raises(ScorerError, match="2 workers go with a scorer that is cheaper"):
        EmpathyDataSelector(WordScorer(), store=False).score_tables(rows, workers=2)


def test_a_worker_that_is_killed_is_said_as_such() -> None:
    rows = load_sample().select([i % 50 for i in range(400)])
    _, tables = EmpathyDataSelector("linear", batch_rows=5, show_progress=False).score_tables(rows, workers=2)
    next(tables)
    for worker in multiprocessing.active_children():
        worker.kill()
    with pytest.raises(ScorerError, match="a worker process ended before its work was done"):
        list(tables)
