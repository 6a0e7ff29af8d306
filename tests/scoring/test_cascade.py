"""The cascade: who decides what, the budget and the promise, the store that all three scorers share, the report."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_encoder import sample_dialogues

from ee_trl import CascadeScorer, Dialogue, EmpathyDataSelector, load_sample, load_scorer
from ee_trl.cli.main import main
from ee_trl.errors import ScorerError
from ee_trl.online.lookahead import LookAhead
from ee_trl.scoring.base import ScoredBatch
from ee_trl.scoring.cascade import AUDIT, DOUBT, JUDGED, Plan
from ee_trl.scoring.conformal import classes_of
from ee_trl.scoring.run import ScoringRun
from ee_trl.scoring.store import ScoreStore, dialogue_key


class Drawn:
    """Scores drawn by the content; a cheap scorer is a judge with noise on top."""

    def __init__(self, name: str = "judge", noise: float = 0.0, fails: str = "\0") -> None:
        self.fingerprint = f"drawn-{name}"
        self.noise, self.fails, self.asked = noise, fails, 0

    def score(self, dialogues: Sequence[Dialogue]) -> np.ndarray:
        self.asked += len(dialogues)
        found = np.empty((len(dialogues), 2))
        for i, d in enumerate(dialogues):
            draw = np.random.default_rng(list(dialogue_key(d)))
            found[i] = np.clip(draw.random(2) * 10 + self.noise * draw.normal(size=2), 0, 10)
            if self.fails in d.response:
                found[i] = np.nan
        return found


def made_up(n: int, first: int = 0) -> list[Dialogue]:
    return [
        Dialogue((f"this is number {i}",), f"and this is the reply to {i}", ("user",)) for i in range(first, first + n)
    ]


def cascade(cheap: Any = None, judge: Any = None, **options: Any) -> CascadeScorer:
    return CascadeScorer(cheap or Drawn("cheap", 1.5), judge or Drawn(), **options)


def agreement(scores: np.ndarray, dialogues: Sequence[Dialogue]) -> float:
    return float(np.mean(classes_of(scores, 5.0) == classes_of(Drawn().score(dialogues), 5.0)))


# ---- who decides ---------------------------------------------------------------------------------------------------


def test_the_doubtful_ones_are_the_judges_and_the_others_are_not() -> None:
    cheap, judge, dialogues = Drawn("cheap", 1.5), Drawn(), made_up(500)
    scorer = cascade(cheap, judge, budget=0.4)
    scores = scorer.score(dialogues)
    by_judge = (scores == judge.score(dialogues)).all(axis=1)
    by_cheap = (scores == cheap.score(dialogues)).all(axis=1)
    assert (by_judge ^ by_cheap).all()
    near = np.abs(cheap.score(dialogues) - 5).min(axis=1)
    assert near[by_judge].max() <= near[by_cheap].min()


@pytest.mark.parametrize("budget", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("calibration", [None, 60])
def test_a_budget_is_kept_with_audit_and_calibration(budget: float, calibration: int | None) -> None:
    judge, dialogues = Drawn(), made_up(1_200)
    scorer = cascade(judge=judge, budget=budget, calibration=calibration)
    selector = EmpathyDataSelector(scorer, show_progress=False)
    rows = [{"context": list(d.context), "response": d.response} for d in dialogues]
    selector.score(_dataset(rows))
    assert judge.asked <= budget * 1_200
    assert judge.asked >= budget * 1_200 - 1, "and used up: calibration samples are asked for once"
    report = scorer.report()
    assert report.calls == judge.asked
    assert report.samples == 1_200
    assert report.saved >= (1 - budget) * 1_200
    assert report._repr_html_() == "".join(f"<p>{line}</p>" for line in str(report).split("\n\n"))


def _dataset(rows: list[dict[str, Any]]) -> Any:
    from datasets import Dataset

    return Dataset.from_list(rows)


def test_a_budget_buys_agreement() -> None:
    dialogues = made_up(2_000)
    found = []
    for budget in (0.0, 0.2, 0.5, 1.0):
        audit = 0.0
        found.append(agreement(cascade(budget=budget, audit=audit).score(dialogues), dialogues))
    assert found == sorted(found)
    assert found[0] < 0.85
    assert found[-1] == 1.0


@pytest.mark.parametrize("confidence", [None, 0.9])
def test_a_promise_is_kept_on_new_samples(confidence: float | None) -> None:
    agreements, shares = [], []
    for seed in range(20):
        calibration, new = made_up(400, 10_000 * seed), made_up(1_000, 10_000 * seed + 5_000)
        judge = Drawn()
        options = {"promise": 0.95, "confidence": confidence, "audit": 0.0}
        scorer = cascade(judge=judge, calibration=(calibration, Drawn().score(calibration)), **options)
        agreements.append(agreement(scorer.score(new), new))
        shares.append(judge.asked / 1_000)
    error = 2 * float(np.std(agreements)) / np.sqrt(20)
    assert np.mean(agreements) >= 0.95 - error
    assert np.mean(np.array(agreements) >= 0.95 - 0.007) >= (0.85 if confidence else 0.4)
    assert np.mean(shares) < 0.75, "and the judge is spared"


def test_samples_to_calibrate_on_are_drawn_and_judged_once(tmp_path: Path) -> None:
    judge, dialogues = Drawn(), made_up(800)
    scorer = cascade(judge=judge, promise=0.95, calibration=200, audit=0.0)
    scorer.plan(dialogues)
    assert judge.asked == 200
    found = ScoringRun(scorer).score(dialogues)
    report = scorer.report()
    assert report.calls == judge.asked == report.needed < 800, "each sample is asked for once, and counted once"
    assert report.judged == (found.details[JUDGED] == 1).sum() > judge.asked - 200
    few = cascade(judge=judge, promise=0.95, calibration=400)
    for _ in range(2):
        ScoringRun(few, ScoreStore(tmp_path / "s.sqlite")).score(dialogues[:100])
    assert few.report().share <= 1


def test_the_judges_tokens_are_counted_with_those_of_planning() -> None:
    class Counting(Drawn):
        def score_batches(self, dialogues: Sequence[Dialogue]) -> Iterator[ScoredBatch]:
            yield ScoredBatch(range(len(dialogues)), self.score(dialogues), tokens=len(dialogues), forward_tokens=9)

    judges = [Counting(), Counting()]
    others = [cascade(judge=judge, promise=0.9, calibration=100) for judge in judges]
    for scorer in others:
        scorer.plan(made_up(400))
    for scorer, judge in zip(others, judges, strict=True):
        run = ScoringRun(scorer)
        run.score(made_up(400))
        assert run.coverage.tokens == judge.asked > 100
        assert run.coverage.forward_tokens == 2 * 9, "two calls of the judge: to calibrate, and to decide"
    trusting = cascade(judge=Counting(), budget=1.0, audit=0.0, calibration=100)
    trusting.plan(made_up(400))
    trusting.use_plan(Plan(math.inf, None, 100))
    run = ScoringRun(trusting)
    run.score(made_up(10))
    assert run.coverage.tokens == 100, "even where nothing more is asked of the judge"


def test_sixty_samples_are_enough_to_calibrate_on() -> None:
    for seed in range(4):
        scorer = cascade(promise=0.9, calibration=60, seed=seed)
        assert scorer.plan(made_up(200)).calibrated_on == 60


def test_without_dialogues_there_is_no_limit_yet() -> None:
    scorer = cascade(budget=0.3)
    empty = _dataset([{"context": ["a"], "response": "b"}]).select([])
    assert len(EmpathyDataSelector(scorer, show_progress=False).score(empty)) == 0
    assert scorer.needs_plan


def test_a_score_does_not_depend_on_its_batch() -> None:
    dialogues = made_up(300)
    scorer = cascade(budget=0.3)
    together = scorer.score(dialogues)
    np.testing.assert_array_equal(np.concatenate([scorer.score([d]) for d in dialogues]), together)
    np.testing.assert_array_equal(scorer.score(dialogues[::-1])[::-1], together)


def test_where_the_cheap_scorer_has_none_the_judge_decides_and_its_failures_are_kept() -> None:
    dialogues = made_up(200)
    cheap_fails = cascade(Drawn("cheap", 1.0, fails="7"), budget=0.6, audit=0.0)
    scores = cheap_fails.score(dialogues)
    assert not np.isnan(scores).any()
    judge_fails = cascade(judge=Drawn(fails="7"), budget=0.6, audit=0.0)
    run = ScoringRun(judge_fails)
    found = run.score(dialogues)
    asked = found.details[JUDGED] == 1
    failed = np.array([status == "scorer_gave_none" for status in found.statuses])
    assert failed.any()
    assert (failed == (asked & np.array(["7" in d.response for d in dialogues]))).all(), (
        "never the cheap score instead"
    )


# ---- the store -----------------------------------------------------------------------------------------------------


def test_all_three_scorers_share_the_store(tmp_path: Path) -> None:
    store, dialogues = ScoreStore(tmp_path / "s.sqlite"), made_up(300)
    judge = Drawn()
    ScoringRun(judge, store).score(dialogues[:100])
    assert judge.asked == 100
    scorer = cascade(judge=judge, budget=0.5)
    scorer.plan(dialogues)
    first = ScoringRun(scorer, store).score(dialogues)
    needed = scorer.report().needed
    known = sum(first.details[JUDGED][:100] == 1) + sum(~np.isnan(first.details[AUDIT][:100]))
    assert judge.asked == 100 + needed - known, "what the judge has scored before costs nothing"
    assert {s.fingerprint for s in store.scorers()} == {judge.fingerprint, "drawn-cheap", scorer.fingerprint}

    again = cascade(judge=judge, budget=0.5)
    again.plan(dialogues)
    before = judge.asked
    second = ScoringRun(again, store).score(dialogues)
    np.testing.assert_array_equal(second.scores, first.scores)
    np.testing.assert_array_equal(second.details[DOUBT], first.details[DOUBT])
    assert judge.asked == before
    assert again.report().samples == 0
    told = again.report(store).to_dict()
    assert told == scorer.report().to_dict() | {"calls": 0}


def test_the_report_by_hand() -> None:
    dialogues = made_up(1_000)
    scorer = cascade(budget=0.5, audit=0.2)
    found = ScoringRun(scorer).score(dialogues)
    report = scorer.report()
    cheap, judge = (classes_of(s.score(dialogues), 5.0) for s in (Drawn("cheap", 1.5), Drawn()))
    audited = ~np.isnan(found.details[AUDIT])
    assert report.judged == (found.details[JUDGED] == 1).sum()
    assert report.audited == audited.sum() > 50
    np.testing.assert_array_equal(found.details[AUDIT][audited] == 1, (cheap == judge)[audited])
    assert report.agreement == pytest.approx(agreement(found.scores, dialogues), abs=0.05)
    low, high = report.interval
    assert low < agreement(found.scores, dialogues) < high
    assert report.saved == 1_000 - report.needed
    assert f"{report.saved:,} calls saved" in str(report)


def test_the_fingerprint_names_what_decides() -> None:
    dialogues = made_up(200)
    settings: list[dict[str, Any]] = [
        {"budget": 0.3},
        {"budget": 0.4},
        {"budget": 0.3, "threshold": 4.0},
        {"budget": 0.3, "ties": "high"},
        {"budget": 0.3, "seed": 1},
        {"promise": 0.9, "calibration": (dialogues, Drawn().score(dialogues))},
    ]
    made = [cascade(**options) for options in settings]
    for scorer in made[:5]:
        assert scorer.needs_plan
        assert "unplanned" in scorer.fingerprint
        scorer.plan(dialogues)
    assert len({scorer.fingerprint for scorer in made}) == len(made)
    assert cascade(**settings[5]).fingerprint == made[5].fingerprint


def test_it_goes_to_another_process() -> None:
    scorer = CascadeScorer("linear", "linear", budget=0.5)
    scorer.plan(sample_dialogues(100))
    copy = pickle.loads(pickle.dumps(scorer))
    assert copy.fingerprint == scorer.fingerprint
    dialogues = sample_dialogues(20)
    np.testing.assert_array_equal(copy.score(dialogues), scorer.score(dialogues))


def test_while_training_it_scores_as_before_and_its_report_is_in_the_store(tmp_path: Path) -> None:
    dialogues = made_up(150)
    scorer = cascade(budget=0.4)
    scorer.plan(dialogues)
    selector = EmpathyDataSelector(scorer, store=tmp_path / "s.sqlite")
    look = LookAhead(selector.spec, lambda rows: [[dialogues[row]] for row in rows])
    try:
        look.ask(range(150))
        answers = {row: scores for row, *scores in look.take(range(150))}
    finally:
        look.close()
    np.testing.assert_array_equal([answers[row] for row in range(150)], cascade_like(scorer).score(dialogues))
    report = scorer.report(ScoreStore(tmp_path / "s.sqlite"))
    assert report.samples == 150
    assert report.needed <= 60
    assert scorer.report().samples == 0, "the work was done in another process"


def cascade_like(scorer: CascadeScorer) -> CascadeScorer:
    return pickle.loads(pickle.dumps(scorer))


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs a budget .* or a promise"),
        ({"budget": 0.3, "promise": 0.9}, "and not both"),
        ({"budget": 30}, "budget 30 is not a number in"),
        ({"promise": 1.0, "calibration": 100}, "promise 1.0 is not between 0 and 1"),
        ({"promise": 0.95}, "a promise needs calibration samples"),
        ({"promise": 0.95, "calibration": 10}, "neither a number of at least 60"),
        ({"budget": 0.3, "confidence": 0.9}, "confidence goes with a promise"),
        ({"budget": 0.3, "ties": "even"}, "unknown ties 'even'"),
    ],
)
def test_what_makes_no_cascade_says_so(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ScorerError, match=message):
        cascade(**options)


def test_by_name_it_needs_both_scorers_and_known_options() -> None:
    with pytest.raises(ScorerError, match="needs judge="):
        load_scorer("cascade", cheap="linear", budget=0.3)
    with pytest.raises(ScorerError, match="unknown option of the scorer 'cascade' 'buget'.*budget"):
        load_scorer("cascade", cheap="linear", judge="linear", buget=0.3)


def test_too_few_calibration_samples_say_so() -> None:
    dialogues = made_up(70)
    judged = Drawn().score(dialogues)
    judged[:40] = np.nan
    with pytest.raises(ScorerError, match="30 calibration samples have scores of both; at least 60"):
        _ = cascade(promise=0.9, calibration=(dialogues, judged)).fingerprint


# ---- the command ---------------------------------------------------------------------------------------------------


def test_the_command_scores_and_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "dialogues.parquet"
    load_sample().to_parquet(data)
    command = [
        "score",
        str(data),
        "-o",
        str(tmp_path / "out.parquet"),
        "--scorer",
        "cascade",
        "--judge",
        "linear",
        "--cheap",
        "linear",
    ]
    assert main([*command, "--judge-budget", "30%", "--json", "-q"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])["cascade"]
    assert told["samples"] == 533
    assert 0.25 < told["judge_share"] <= 0.3
    assert told["agreement"] == 1.0, "a scorer agrees with itself"
    assert told["calls_saved"] == 533 - told["judged"] - told["audited"]

    judged = tmp_path / "judged.parquet"
    assert main(["score", str(data), "--scorer", "linear", "-o", str(judged), "-q"]) == 0
    command[3] = str(tmp_path / "promised.parquet")
    assert main([*command, "--promise", "95%", "--calibration", str(judged), "-q"]) == 0
    assert "calls saved" in capsys.readouterr().out
    table = pq.read_table(judged)
    others = pa.array(["linear-1/sha256:0"] * len(table))
    pq.write_table(table.set_column(table.column_names.index("scorer"), "scorer", others), judged)
    assert main([*command, "--overwrite", "--promise", "95%", "--calibration", str(judged), "-q"]) == 3
    assert "were scored by linear-1/sha256:0, and the judge is" in capsys.readouterr().err
    pq.write_table(table.drop_columns("scorer"), judged)
    with caplog.at_level("WARNING"):
        load_scorer("cascade", cheap="linear", judge="linear", promise=0.95, calibration=judged)
    assert "does not say who scored it" in caplog.text
    assert main(["score", str(data), "-o", str(tmp_path / "x.parquet"), "--promise", "95%"]) == 3
    assert "--promise goes with --scorer cascade" in capsys.readouterr().err
