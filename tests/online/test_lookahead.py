"""Scoring ahead: the same numbers from another process, what comes when, and what happens when the scorer dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from sent_scorers import Odd

from ee_trl import Dialogue, EmpathyDataSelector
from ee_trl.errors import TrainingError
from ee_trl.online.lookahead import LookAhead, ScoringAhead
from ee_trl.scoring.store import ScoreStore


def dialogues_of(rows: Sequence[int]) -> list[list[Dialogue]]:
    """Row n has n % 3 replies; row 1 one that cannot be scored."""
    return [
        [
            Dialogue((f"I lost {row} keys.",), "?" if row == 1 else f"Oh no{'!' * (row + n)}", ("user",))
            for n in range(row % 3)
        ]
        for row in rows
    ]


@pytest.fixture
def ahead(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LookAhead]:
    options = dict(getattr(request, "param", {}))
    on_failure = options.pop("on_failure", "stop")
    look = LookAhead(EmpathyDataSelector(Odd(tmp_path, **options)).spec, dialogues_of, on_failure=on_failure)
    yield look
    look.close()


def expected(row: int) -> tuple[float, float]:
    replies = [d.response for d in dialogues_of([row])[0] if d.response != "?"]
    return (float(np.mean([len(r) % 10 for r in replies])), 1.0) if replies else (np.nan, np.nan)


def check(answers: list[tuple[int, float, float]], rows: Sequence[int]) -> None:
    assert sorted(row for row, _, _ in answers) == sorted(rows)
    for row, s, r in answers:
        np.testing.assert_equal((s, r), expected(row))


def test_answers_are_the_means_of_the_rows_whatever_the_scorer_prints(ahead: LookAhead) -> None:
    ahead.ask(range(100))
    check(ahead.take(range(1000)), range(100))
    assert not ahead.outstanding
    assert ahead.waited > 0
    ahead.ask([3, 100])  # 3 is known
    check(ahead.take(range(1000)), [100])


def test_scores_are_the_linear_scorer_s_and_need_no_store() -> None:
    selector = EmpathyDataSelector("linear")
    look = LookAhead(selector.spec, dialogues_of)
    look.ask([2, 5])
    found = {row: (s, r) for row, s, r in look.take(range(1000))}
    look.close()
    for row in (2, 5):
        np.testing.assert_allclose(found[row], selector.scorer.score(dialogues_of([row])[0]).mean(axis=0))


def test_flagged_rows_have_no_scores_and_are_known_after_a_resume() -> None:
    replies = ["I am so sorry, that must hurt.", "Das tut mir wirklich sehr leid für dich, mein Freund."]

    def of(rows: Sequence[int]) -> list[list[Dialogue]]:
        return [[Dialogue(("I lost my keys.",), replies[row], ("user",))] for row in rows]

    look = LookAhead(EmpathyDataSelector("linear").spec, of)
    scores = np.full((2, 2), np.nan)
    found = ScoringAhead(look, scores, np.ones(2, dtype=bool))
    found.need([0, 1])
    look.close()
    assert found.flagged.tolist() == np.isnan(scores).all(axis=1).tolist() == [False, True]
    again = ScoringAhead(look, scores.copy(), np.ones(2, dtype=bool))
    again.load_state_dict(found.state_dict())
    assert again.flagged.tolist() == [False, True]


def test_what_is_scored_ahead_is_in_the_store(ahead: LookAhead, tmp_path: Path) -> None:
    ahead.ask([2, 5])
    ahead.take(range(1000))
    assert [(e.fingerprint, e.scored) for e in ScoreStore().scorers()] == [("odd-1", 4)]
    again = Odd(tmp_path, dies=10)  # it would die if it were asked
    look = LookAhead(EmpathyDataSelector(again).spec, dialogues_of)
    look.ask([2, 5])
    check(look.take(range(1000)), [2, 5])
    look.close()


@pytest.mark.parametrize("ahead", [{"seconds": 0.3}], indirect=True)
def test_without_waiting_nobody_waits(ahead: LookAhead) -> None:
    ahead.ask(range(200))
    start = time.perf_counter()
    assert ahead.take() == []
    assert time.perf_counter() - start < 0.1
    assert ahead.waited == 0
    found: list[tuple[int, float, float]] = []
    while ahead.outstanding:
        found += ahead.take()
        time.sleep(0.01)
    check(found, range(200))


@pytest.mark.parametrize("ahead", [{"dies": 1}], indirect=True)
def test_a_scorer_that_fails_is_started_once_more(ahead: LookAhead, caplog: pytest.LogCaptureFixture) -> None:
    ahead.ask(range(10))
    check(ahead.take(range(1000)), range(10))
    assert "started once more: RuntimeError: the scorer is odd" in caplog.text


@pytest.mark.parametrize("ahead", [{"seconds": 0.2}], indirect=True)
def test_a_killed_scorer_is_started_once_more(ahead: LookAhead, tmp_path: Path) -> None:
    ahead.ask(range(150))

    def kill() -> None:
        while not (tmp_path / "pid").exists():
            time.sleep(0.01)
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)

    threading.Thread(target=kill).start()
    check(ahead.take(range(1000)), range(150))
    assert ahead._restarts == 1


@pytest.mark.parametrize("ahead", [{"dies": 2}], indirect=True)
def test_a_scorer_that_fails_twice_stops_the_training_with_its_error(ahead: LookAhead) -> None:
    ahead.ask(range(10))
    with pytest.raises(TrainingError, match="(?s)died twice; 10 rows .*the scorer is odd.*on_failure='continue'"):
        ahead.take(range(1000))


@pytest.mark.parametrize("ahead", [{"dies": 2, "on_failure": "continue"}], indirect=True)
def test_or_training_goes_on_and_it_is_said(ahead: LookAhead, caplog: pytest.LogCaptureFixture) -> None:
    ahead.ask(range(10))
    assert ahead.take(range(1000)) == []
    assert "goes on without new scores" in caplog.text
    assert ahead.failure
    assert "the scorer is odd" in ahead.failure
    ahead.ask([11])
    assert (ahead.outstanding, ahead.take(range(1000))) == ({}, [])


@pytest.mark.parametrize("ahead", [{"seconds": 0.2}], indirect=True)
def test_what_a_closed_one_had_not_answered_the_next_one_is_asked(ahead: LookAhead) -> None:
    ahead.ask(range(150))
    ahead.close()
    check(ahead.take(range(1000)), range(150))
    ahead.forget()
    ahead.ask([5])  # again: it is of a training before
    check(ahead.take(range(1000)), [5])


def test_a_scorer_of_the_script_itself_takes_its_imports_along() -> None:
    script = """
import numpy as np
from ee_trl import Dialogue, EmpathyDataSelector
from ee_trl.online.lookahead import LookAhead

class Mine:
    fingerprint = "mine-1"
    def score(self, dialogues):
        return np.array([[7.0, 2.0] for _ in dialogues])

spec = EmpathyDataSelector(Mine(), store=False).spec
look = LookAhead(spec, lambda rows: [[Dialogue(("Hi.",), "Oh.", ("user",))]])
look.ask([0])
print(look.take([0]))
look.close()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[(0, 7.0, 2.0)]"


@pytest.mark.parametrize("ahead", [{"dies": 2}], indirect=True)
def test_a_scorer_s_error_is_all_that_is_printed(ahead: LookAhead, capfd: pytest.CaptureFixture[str]) -> None:
    ahead.ask(range(10))
    with pytest.raises(TrainingError):
        ahead.take(range(1000))
    assert "Fatal Python error" not in capfd.readouterr().err


def test_a_scorer_that_cannot_be_sent_is_refused(tmp_path: Path) -> None:
    scorer = Odd(tmp_path)
    scorer.lock = threading.Lock().__enter__.__self__  # type: ignore[attr-defined]
    scorer.file = (tmp_path / "x").open("w")  # type: ignore[attr-defined]
    scorer.frames = (i for i in range(3))  # type: ignore[attr-defined]
    with pytest.raises(TrainingError, match="cannot be sent"):
        LookAhead(EmpathyDataSelector(scorer).spec, dialogues_of)
    scorer.file.close()  # type: ignore[attr-defined]
