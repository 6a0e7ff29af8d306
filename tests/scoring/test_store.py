"""The score store: what is saved stays saved, nothing is scored twice, failures keep their reason."""

from __future__ import annotations

import math
import multiprocessing
import os
import random
import select
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import WordScorer
from datasets import Dataset, DatasetDict, IterableDatasetDict
from same_dialogues import WAYS

from ee_trl import Dialogue, EmpathyDataSelector
from ee_trl.cli.main import main
from ee_trl.errors import CoverageError, ScorerError, StoreError
from ee_trl.scoring.base import ScoredBatch
from ee_trl.scoring.coverage import Coverage
from ee_trl.scoring.run import ScoringRun
from ee_trl.scoring.store import ScoreStore, StoredScore, cache_folder, dialogue_key


def said(n: int) -> Dialogue:
    return Dialogue(("I lost my job today.",), f"Oh no{' no' * (n % 7)}! Number {n}?", ("user",))


def rows(numbers: Sequence[int]) -> Dataset:
    return Dataset.from_list([{"context": list(said(n).context), "response": said(n).response} for n in numbers])


class Picky(WordScorer):
    """Hands out batches of two; fails, with a reason, on the numbers that it is told to."""

    fingerprint = "picky-1"
    details = ("words",)

    def __init__(self, failing: Sequence[int] = ()) -> None:
        super().__init__()
        self.failing = [said(n).response for n in failing]

    def score_batches(self, dialogues: Sequence[Dialogue]) -> Iterator[ScoredBatch]:
        for start in range(0, len(dialogues), 2):
            part = dialogues[start : start + 2]
            scores = self.score(part)
            bad = [d.response in self.failing for d in part]
            scores[bad] = np.nan
            words = np.array([float(len(d.response.split())) for d in part])
            words[bad] = np.nan
            reasons = ["too_long_for_scorer" if wrong else None for wrong in bad]
            indices = range(start, start + len(part))
            yield ScoredBatch(indices, scores, reasons, {"words": words}, tokens=len(part), forward_tokens=10)


# ---- the file


def test_what_is_saved_is_found_in_another_process_and_under_its_scorer_alone(tmp_path: Path) -> None:
    made = {
        b"a" * 16: StoredScore("scored", 1.25, 0.1 + 0.2, {"x": math.inf, "y": 0.1}),
        b"b" * 16: StoredScore("scorer_gave_none"),
    }
    ScoreStore(tmp_path / "s.sqlite").save("one", made)
    again = ScoreStore(tmp_path / "s.sqlite")
    assert again.find("one", [b"a" * 16, b"b" * 16, b"c" * 16]) == made
    assert again.find("two", [b"a" * 16]) == {}


def test_details_may_grow(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path / "s.sqlite")
    store.save("one", {b"a": StoredScore("scored", 1, 2, {"x": 1.0})})
    store.save("one", {b"b": StoredScore("scored", 1, 2, {"w": 3.0, "x": 2.0}), b"c": StoredScore("scored", 1, 2)})
    found = ScoreStore(tmp_path / "s.sqlite").find("one", [b"a", b"b", b"c"])
    assert [dict(found[key].details) for key in (b"a", b"b", b"c")] == [{"x": 1.0}, {"x": 2.0, "w": 3.0}, {}]


def test_a_score_takes_the_place_of_a_failure_and_never_the_reverse(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path / "s.sqlite")
    for made in (StoredScore("scorer_gave_none"), StoredScore("scored", 1, 2), StoredScore("scorer_gave_none")):
        store.save("one", {b"a": made})
    assert store.find("one", [b"a"])[b"a"] == StoredScore("scored", 1, 2)


def test_the_key_is_of_all_that_a_scorer_sees() -> None:
    base = Dialogue(("a", "b"), "c", ("user", "user"))
    others = [
        Dialogue(("ab",), "c", ("user",)),
        Dialogue(("a",), "b c", ("user",)),
        Dialogue(("a", "b"), "c", ("user", "assistant")),
        Dialogue(("a", "b"), "c", ("user", "user"), system="s"),
        Dialogue(("a", "b"), "c ", ("user", "user")),
        Dialogue(("a", "b", "c"), "", ("user", "user", "user")),
    ]
    assert len({dialogue_key(d) for d in [base, *others]}) == 1 + len(others)
    assert dialogue_key(base) == dialogue_key(Dialogue(("a", "b"), "c", ("user", "user")))
    assert len(dialogue_key(Dialogue(("\x00 😢 \u202e",), "é", ("user",)))) == 16


def test_numbers_of_scorers_that_are_used_anew_after_a_prune_elsewhere(tmp_path: Path) -> None:
    here, elsewhere = ScoreStore(tmp_path / "s.sqlite"), ScoreStore(tmp_path / "s.sqlite")
    here.save("one", {b"a": StoredScore("scored", 1, 2)})
    assert here.find("one", [b"a"])
    elsewhere.prune()
    elsewhere.save("two", {b"a": StoredScore("scored", 9, 9)})
    assert here.find("one", [b"a"]) == {}
    assert list(here.scores_of("one")) == []
    here.save("one", {b"a": StoredScore("scored", 1, 2)})
    assert [next(here.scores_of(name)).sensibility for name in ("one", "two")] == [1, 9]


def test_threads_take_turns_with_one_store(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path / "s.sqlite")

    def work(start: int) -> None:
        for n in range(start, start + 50):
            store.save("one", {n.to_bytes(16, "big"): StoredScore("scored", n % 10, 1)})
            assert store.find("one", [n.to_bytes(16, "big")])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(0, 200, 50)))
    assert len(list(store.scores_of("one"))) == 200


def _write(path: str, numbers: range) -> None:
    store = ScoreStore(path)
    for n in numbers:
        store.save(f"scorer-{n % 3}", {n.to_bytes(16, "big"): StoredScore("scored", n % 10, 1)})


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    path = str(tmp_path / "s.sqlite")
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=_write, args=(path, range(start, start + 600))) for start in (0, 300)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert [entry.scored for entry in ScoreStore(path).scorers()] == [300, 300, 300]
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_fork_and_a_pickle_open_their_own_connection(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path / "s.sqlite")
    store.save("one", {b"a": StoredScore("scored", 1, 2)})
    child = os.fork()
    if child == 0:
        try:
            store.save("one", {b"b": StoredScore("scored", 3, 4)})
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert store.find("one", [b"b"])[b"b"].sensibility == 3


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("{tmp}/a_file/s.sqlite", "cannot be read and written"),
        ("/proc/none/s.sqlite", "--no-store"),
        ("{tmp}", "none"),
    ],
)
def test_a_place_that_cannot_be_written_to_is_refused_at_once(tmp_path: Path, place: str, said: str) -> None:
    (tmp_path / "a_file").write_text("")
    path = place.format(tmp=tmp_path)
    with pytest.raises(StoreError, match="score store") as caught:
        ScoreStore(path)
    assert path in str(caught.value)
    assert said in str(caught.value)
    assert "EE_TRL_CACHE" in str(caught.value)


def test_a_file_that_is_no_store_and_one_of_another_version(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database, " * 100)
    with pytest.raises(StoreError, match="not a score store, or a damaged one"):
        ScoreStore(tmp_path / "text")
    assert (tmp_path / "text").read_text().startswith("not a database")
    ScoreStore(tmp_path / "new").close()
    with closing(sqlite3.connect(tmp_path / "new")) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="version 99"):
        ScoreStore(tmp_path / "new")


def test_a_full_disk_is_said_and_keeps_what_was_scored(tmp_path: Path, capsys: Any) -> None:
    store = ScoreStore(tmp_path / "s.sqlite")
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages + 8}")  # SQLite then says what it says of a full disk
    scorer = Picky()
    with pytest.raises(StoreError, match="disk is full.*cache prune.*same command again"):
        EmpathyDataSelector(scorer, store=store).score(rows(range(2_000)))
    kept = ScoreStore(tmp_path / "s.sqlite").scorers()[0].scored
    assert scorer.asked - 2 <= kept < scorer.asked
    again = Picky()
    EmpathyDataSelector(again, store=tmp_path / "s.sqlite").score(rows(range(2_000)))
    assert again.asked == 2_000 - kept


def test_the_usual_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EE_TRL_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("EE_TRL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "ee_trl"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "ee_trl"


# ---- scoring with it


def test_a_store_changes_no_column(word_scorer: WordScorer, tmp_path: Path) -> None:
    data = rows([1, 2, 3, 2, 1, 9])
    plain = EmpathyDataSelector(Picky([3]), details=True, store=False).score(data).to_list()
    for _ in range(2):
        kept = EmpathyDataSelector(Picky([3]), details=True, store=tmp_path / "s.sqlite").score(data)
        assert kept.to_list() == plain
    assert [row["score_status"] for row in plain].count("too_long_for_scorer") == 1


def test_each_content_is_scored_once_and_a_rerun_scores_what_is_missing() -> None:
    first = Picky()
    selector = EmpathyDataSelector(first, batch_rows=3)
    selector.score(rows([1, 2, 1, 1, 2, 3]))
    assert first.asked == 3
    found = selector.coverage
    assert found
    assert (found.samples, found.scored, found.asked, found.duplicates, found.cache_hits) == (6, 6, 3, 1, 2)
    assert (found.tokens, found.forward_tokens) == (3, 20)
    second = Picky()
    EmpathyDataSelector(second).score(rows([3, 4, 1]))
    assert second.asked == 1
    other = Picky()
    other.fingerprint = "picky-2"
    EmpathyDataSelector(other).score(rows([1]))
    assert other.asked == 1


def test_failures_keep_their_reason_and_are_retried_on_request() -> None:
    data = rows([1, 2, 3])
    scored = EmpathyDataSelector(Picky([2])).score(data)
    assert scored["score_status"] == ["scored", "too_long_for_scorer", "scored"]
    mended = Picky()
    assert EmpathyDataSelector(mended).score(data)["score_status"][1] == "too_long_for_scorer"
    assert mended.asked == 0
    again = EmpathyDataSelector(mended, retry_failures=True).score(data)
    assert (mended.asked, again["score_status"]) == (1, ["scored"] * 3)
    assert EmpathyDataSelector(Picky()).score(data)["score_status"] == ["scored"] * 3


def test_failures_in_a_scored_data_set_are_retried_on_request() -> None:
    scored = EmpathyDataSelector(Picky([2])).score(rows([1, 2, 3]))
    mended = Picky()
    assert EmpathyDataSelector(mended).score(scored)["score_status"][1] == "too_long_for_scorer"
    assert EmpathyDataSelector(mended, retry_failures=True).score(scored)["score_status"] == ["scored"] * 3
    assert mended.asked == 1


@pytest.mark.parametrize("way", WAYS)
def test_details_of_what_was_scored_without_them_come_from_the_store(way: str) -> None:
    data = Dataset.from_list(WAYS[way])
    scored = EmpathyDataSelector(Picky()).score(data)
    again = Picky()
    selector = EmpathyDataSelector(again, details=True)
    found = selector.score(scored).to_list()
    assert found == selector.score(data).select_columns(list(found[0])).to_list()
    assert again.asked == 0
    assert [row["words"] is None for row in found] == [row["score_status"] != "scored" for row in found]


def test_a_failure_that_fails_again_is_tried_once_a_run() -> None:
    data = rows([2, 2, 2])
    EmpathyDataSelector(Picky([2])).score(data)
    again = Picky([2])
    EmpathyDataSelector(again, retry_failures=True, batch_rows=1).score(data)
    assert again.asked == 1


def test_the_linear_scorer_makes_no_store() -> None:
    selector = EmpathyDataSelector("linear")
    selector.score(rows([1, 2]))
    assert selector.store is None
    assert not list(cache_folder().iterdir())


def test_what_came_before_an_error_is_kept() -> None:
    class Dying(Picky):
        def score(self, dialogues: Sequence[Dialogue]) -> np.ndarray:
            if self.asked >= 4:
                raise RuntimeError("the power went")
            return super().score(dialogues)

    with pytest.raises(RuntimeError, match="the power went"):
        EmpathyDataSelector(Dying()).score(rows(range(10)))
    rest = Picky()
    EmpathyDataSelector(rest).score(rows(range(10)))
    assert rest.asked == 6


@pytest.mark.parametrize(
    ("batches", "why"),
    [
        ([([0], 1), ([0], 1)], "twice"),
        ([([0], 1)], "left 1 of 2 dialogues out"),
        ([([0, 5], 2)], "not given"),
        ([([0, 1], 1)], "shape"),
    ],
)
def test_batches_are_held_to_the_contract(batches: list[tuple[list[int], int]], why: str) -> None:
    class Wrong(WordScorer):
        def score_batches(self, dialogues: Sequence[Dialogue]) -> Iterator[ScoredBatch]:
            yield from (ScoredBatch(indices, np.ones((n, 2))) for indices, n in batches)

    with pytest.raises(ScorerError, match=why):
        ScoringRun(Wrong()).score([said(0), said(1)])


def test_an_unknown_reason_is_refused() -> None:
    class Wrong(WordScorer):
        def score_batches(self, dialogues: Sequence[Dialogue]) -> Iterator[ScoredBatch]:
            yield ScoredBatch([0], np.full((1, 2), np.nan), ["just because"])

    with pytest.raises(ScorerError, match="just because"):
        ScoringRun(Wrong()).score([said(0)])


# ---- killed


KILLED = """
import os, sys, time
import numpy as np
from ee_trl import EmpathyDataSelector
from ee_trl.scoring.base import ScoredBatch

class Slow:
    fingerprint = "slow-1"
    def score(self, dialogues):
        return np.array([[min(10, len(d.response.split())), min(10, len(d.response) / 10)] for d in dialogues])
    def score_batches(self, dialogues):
        print("scoring", flush=True)
        for start in range(0, len(dialogues), 8):
            part = dialogues[start : start + 8]
            time.sleep(0.005)
            yield ScoredBatch(range(start, start + len(part)), self.score(part))
            with open(sys.argv[2], "a") as log:  # the store has the batch by now, since the next one is asked for
                log.write(f"{len(part)}\\n")

EmpathyDataSelector(Slow(), store=sys.argv[1], batch_rows=100, show_progress=False).score(sys.argv[3])
print("done", flush=True)
"""


@pytest.mark.slow
def test_killed_at_twenty_random_moments_nothing_that_was_saved_is_lost(tmp_path: Path) -> None:
    n, kills, chance = 16_000, 20, random.Random(0)
    data = rows(range(n))
    data.to_parquet(tmp_path / "data.parquet")
    store, log = tmp_path / "s.sqlite", tmp_path / "log"
    for path in (store, log):
        path.touch()
    args = [sys.executable, "-c", KILLED, str(store), str(log), str(tmp_path / "data.parquet")]
    kept, moments = 0, []
    for _ in range(kills):
        with subprocess.Popen(args, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            assert process.stdout.readline() == "scoring\n"
            time.sleep(chance.uniform(0, 0.6))
            os.kill(process.pid, signal.SIGKILL)
        db = sqlite3.connect(store)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        before, kept = kept, db.execute("SELECT COUNT(*) FROM scores").fetchone()[0]
        db.close()
        handed_out = sum(map(int, log.read_text().split()))
        log.write_text("")
        assert handed_out <= kept - before <= handed_out + 8, "what was handed out is kept, but for a batch in flight"
        moments.append(kept)
    assert len(set(moments)) > kills / 2, f"the kills should fall into the run: {moments}"
    assert kept < n
    done = subprocess.run(args, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.endswith("done\n")
    assert sum(map(int, log.read_text().split())) == n - kept, "the last run scores what is missing, and no more"
    db = sqlite3.connect(store)
    assert db.execute("SELECT COUNT(*) FROM scores").fetchone()[0] == n
    found = ScoreStore(store).find("slow-1", [dialogue_key(said(i)) for i in range(n)])
    assert all(
        s.sensibility == min(10, len(said(i).response.split()))
        for i in range(n)
        for s in [found[dialogue_key(said(i))]]
    )


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_two_processes_that_nobody_launched_together_ask_once(tmp_path: Path, killed: bool) -> None:
    """Each asks for what the other has not claimed; the claims of a killed process end with it."""
    n, store, log = 2_000, tmp_path / "s.sqlite", tmp_path / "log"
    rows(range(n)).to_parquet(tmp_path / "data.parquet")
    args = [sys.executable, "-c", KILLED, str(store), str(log), str(tmp_path / "data.parquet")]
    both = [subprocess.Popen(args, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    if killed:  # the one that begins first: under load the other may begin when all is done
        begun = select.select([process.stdout for process in both], [], [])[0][0]
        both.sort(key=lambda process: process.stdout is not begun)
        assert begun.readline() == "scoring\n"
        time.sleep(0.2)
        both[0].kill()
    said_last = [process.communicate()[0].splitlines()[-1:] for process in both]
    assert said_last[1] == ["done"]
    assert killed or said_last[0] == ["done"]
    assert n - 8 * killed <= sum(map(int, log.read_text().split())) <= n
    db = sqlite3.connect(store)
    assert db.execute("SELECT COUNT(*) FROM scores").fetchone()[0] == n
    db.close()


# ---- coverage, and the command line


def test_the_share_of_unscored_leaves_out_where_there_is_no_reply() -> None:
    coverage = Coverage("x")
    coverage.count(["scored"] * 98 + ["null_dialogue"] * 2 + ["ends_with_speaker"] * 900)
    assert coverage.unscored_share == pytest.approx(0.02)
    coverage.check(0.02)
    with pytest.raises(CoverageError, match=r"2\.00% .* 2 null_dialogue.* in out\.parquet"):
        coverage.check(0.01, "out.parquet")
    assert Coverage("x").unscored_share == 0


@pytest.fixture
def gaps(tmp_path: Path) -> Path:
    """100 rows, 3 of them without a reply."""
    table = rows(range(100)).to_list()
    for row in table[10:13]:
        row["response"] = None
    Dataset.from_list(table).to_parquet(tmp_path / "gaps.parquet")
    return tmp_path / "gaps.parquet"


def test_too_many_unscored_fail_the_run_after_all_is_written(gaps: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out.parquet"
    assert main(["score", str(gaps), "-o", str(out), "--scorer", "linear", "-q"]) == 6
    err = capsys.readouterr().err
    assert "97 of 100 samples scored" in err
    assert "3.00% of the samples are unscored" in err
    assert "3 null_dialogue" in err
    assert pq.read_table(out).num_rows == 100
    for accepted in ("0.03", "3%", "1"):
        assert (
            main(
                [
                    "score",
                    str(gaps),
                    "-o",
                    str(out),
                    "--scorer",
                    "linear",
                    "-q",
                    "--overwrite",
                    "--max-unscored",
                    accepted,
                ]
            )
            == 0
        )
    with pytest.raises(SystemExit):
        main(["score", str(gaps), "-o", str(out), "--max-unscored", "3"])
    assert "a number from 0 to 1, or 0% to 100%" in capsys.readouterr().err


def test_cache_lists_sizes_and_prunes(capsys: Any, tmp_path: Path) -> None:
    assert main(["cache", "list"]) == 0
    assert "empty" in capsys.readouterr().out
    assert not list(cache_folder().iterdir()), "looking makes no file"
    EmpathyDataSelector(Picky([2])).score(rows(range(500)))
    EmpathyDataSelector(WordScorer()).score(rows(range(10)))
    assert main(["cache", "list"]) == 0
    out = capsys.readouterr().out
    assert "picky-1\n  499 scored, failed: 1 too_long_for_scorer;" in out
    assert "words-1\n  10 scored, failed: none;" in out
    assert main(["cache", "size", "--json"]) == 0
    assert f'"bytes": {ScoreStore().size()}' in capsys.readouterr().out
    assert main(["cache", "prune"]) == 5
    assert "--all" in capsys.readouterr().err
    assert main(["cache", "prune", "--scorer", "piky-1"]) == 5
    assert "Did you mean 'picky-1'?" in capsys.readouterr().err
    for args, deleted in (
        (["--failures"], 1), (["--unused-days", "1"], 0), (["--scorer", "picky-1"], 499), (["--all"], 10),
    ):  # fmt: skip
        assert main(["cache", "prune", *args]) == 0
        assert f"deleted {deleted} entries" in capsys.readouterr().out
    assert ScoreStore().scorers() == []
    assert main(["cache", "list", "--store", str(tmp_path / "none.sqlite")]) == 5


def test_prune_takes_one_kind_of_what_to_delete_and_days_that_are_some(capsys: Any) -> None:
    EmpathyDataSelector(Picky([2])).score(rows(range(5)))
    for args in (["--unused-days", "nan"], ["--unused-days", "-1"], ["--unused-days", "inf"], ["--all", "--scorer=a"]):
        with pytest.raises(SystemExit):
            main(["cache", "prune", *args])
        assert "of at least 0" in (err := capsys.readouterr().err) or "not allowed with argument" in err
    assert main(["cache", "prune", "--all", "--failures"]) == 5
    for days in (math.nan, -1, math.inf):
        with pytest.raises(StoreError, match="of at least 0"):
            ScoreStore().prune(unused_days=days)
    assert [entry.scored for entry in ScoreStore().scorers()] == [4]
    assert main(["cache", "prune", "--scorer", "picky-1", "--failures"]) == 0
    assert "deleted 1 entries" in capsys.readouterr().out


def test_prune_all_makes_room_on_a_full_disk(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path / "s.sqlite")
    store.save("one", {n.to_bytes(16, "big"): StoredScore("scored", 1, 2) for n in range(1_000)})
    full = "import resource, sys; from ee_trl.cli.main import main; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0));"
    prune = ["cache", "prune", "--store", str(store.path)]
    with closing(store):
        for what, code in (("--failures", 5), ("--all", 0)):
            command = [sys.executable, "-c", f"{full} sys.exit(main({[*prune, what]}))"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == code, done.stderr
    assert not list(tmp_path.glob("s.sqlite*"))
    (tmp_path / "text").write_text("no database, and of the user's")
    assert main(["cache", "prune", "--all", "--store", str(tmp_path / "text")]) == 5
    assert (tmp_path / "text").exists()


def test_coverage_of_several_splits_is_of_all_of_them() -> None:
    splits = DatasetDict(a=rows(range(5)), b=rows([7, 8, 8]))
    selector = EmpathyDataSelector(Picky([2]))
    for shared in (False, True):
        selector.score(splits, shared=shared)
        assert selector.coverage
        assert (selector.coverage.samples, selector.coverage.unscored) == (8, {"too_long_for_scorer": 1})
        assert selector.coverage.asked == (0 if shared else 7)
        assert selector.coverage.duplicates + selector.coverage.cache_hits == (8 if shared else 1)
    streams = IterableDatasetDict({name: part.to_iterable_dataset() for name, part in splits.items()})
    for streamed in (streams, streams.map(lambda row: row)):
        scored = selector.score(streamed)
        for read, samples in (("a", 5), ("a", 5), ("b", 8)):
            list(scored[read])
            assert selector.coverage.samples == samples
    selector.score(splits["b"])
    assert selector.coverage.samples == 3


# ---- a store that others can write to, or that nobody can


def test_only_its_owner_reads_a_new_store(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path / "s.sqlite")
    store.save("one", {b"a": StoredScore("scored", 1, 2)})
    assert [file.stat().st_mode & 0o777 for file in sorted(tmp_path.iterdir())] == [0o600] * 3
    store.close()
    (tmp_path / "s.sqlite").chmod(0o640)  # opened for a group by hand: it stays so
    ScoreStore(tmp_path / "s.sqlite")
    assert (tmp_path / "s.sqlite").stat().st_mode & 0o777 == 0o640


DAMAGE = {
    "status": "UPDATE scores SET status = 'sco8ed'",
    "status of a failure": "UPDATE scores SET status = 'scored', sensibility = NULL",
    "score": "UPDATE scores SET sensibility = 77.0",
    "no number": "UPDATE scores SET sensibility = 'x'",
    "infinity": "UPDATE scores SET rationality = 9e999",
    "not text": "UPDATE scores SET status = CAST(x'ff' AS TEXT)",
    "details": "UPDATE scores SET details = x'00'",
    "flag": "UPDATE scores SET details = x'0000000000805640'",
}


@pytest.mark.parametrize("sql", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_row_is_scored_again_and_replaced(sql: str, tmp_path: Path, caplog: Any, capsys: Any) -> None:
    path = tmp_path / "s.sqlite"
    store = ScoreStore(path)
    run = ScoringRun(WordScorer(), store)
    store.save(run.scorer.fingerprint, {b"other": StoredScore("scored", 1, 2, {"score_flag": 0.0})})
    expected = run.score([said(i) for i in range(3)])
    store._db.execute(f"{sql} WHERE dialogue = ?", (dialogue_key(said(1)),))
    store.close()
    found = (again := ScoringRun(WordScorer(), ScoreStore(path))).score([said(i) for i in range(3)])
    assert again.scorer.asked == 1
    assert (found.scores.tolist(), found.statuses) == (expected.scores.tolist(), expected.statuses)
    assert "1 of 3 rows that were read are damaged" in caplog.text
    assert main(["cache", "list", "--store", str(path)]) == 0
    assert "4 scored, failed: none" in capsys.readouterr().out
    assert len([*ScoreStore(path).scores_of(run.scorer.fingerprint)]) == 4


def as_nobody(work: Any) -> int:
    """The exit code of a process without root's rights in which `work` runs."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if os.getuid() == 0:
                os.setuid(65534)
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("killed", [False, True])
def test_a_store_that_cannot_be_written_to_is_read_and_listed(killed: bool, capfd: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:  # where nobody may look in, unlike `tmp_path`
        path = Path(folder) / "s.sqlite"

        def fill() -> None:
            store = ScoreStore(path)
            ScoringRun(WordScorer(), store).score([said(i) for i in range(3)])
            if not killed:
                store.close()
            os._exit(0)

        child = os.fork()
        if child == 0:
            fill()
        os.waitpid(child, 0)
        there = sorted(os.listdir(folder))
        assert (len(there) == 3) == killed
        for name in there:
            (Path(folder) / name).chmod(0o444)
        if killed:  # what is copied without its shared memory
            (Path(folder) / there.pop(1)).unlink()
        Path(folder).chmod(0o555)

        def work() -> None:
            run = ScoringRun(WordScorer(), ScoreStore(path))
            assert run.score([said(i) for i in range(3)]).statuses == ["scored"] * 3
            assert run.scorer.asked == 0
            with pytest.raises(StoreError, match="it can be read, but new scores cannot be saved"):
                run.score([said(7)])
            assert run.scorer.asked == 0
            assert main(["cache", "list", "--store", str(path)]) == 0
            assert main(["cache", "size", "--store", str(path)]) == 0
            assert main(["cache", "prune", "--all", "--store", str(path)]) == 5

        assert as_nobody(work) == 0
        assert "3 scored" in capfd.readouterr().out
        assert sorted(os.listdir(folder)) == there
        Path(folder).chmod(0o755)
