"""The behavioural check: its set is whole, its numbers follow from the scores, and its report is written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from scipy.stats import rankdata, spearmanr

from ee_trl import Dialogue, LinearScorer, behaviour_check, load_sample
from ee_trl.axes import FLAGS
from ee_trl.cli.main import main
from ee_trl.data.samples import read_samples
from ee_trl.errors import EmpathyError, ScoresError
from ee_trl.files import read_json
from ee_trl.reports.check import BASELINES, LENGTH, Baseline, auc, wilson
from ee_trl.reports.check_set import CORRUPTED, KINDS, TRUE, WRITTEN, corrupted_cases, set_cases
from ee_trl.reports.ratings import correlations
from ee_trl.scoring.base import ScoredBatch


CASES = set_cases()
GOOD = (TRUE, "advice", "feeling", "foreign")


class ByKind:
    """Scores the replies of the set by their kind."""

    def __init__(self, name: str, scores: Callable[[str], tuple[float, float]]) -> None:
        self.fingerprint, self.scores = f"{name}-1", scores
        self.kinds = {case.dialogue: case.kind for case in CASES}

    def score(self, dialogues: Sequence[Dialogue]) -> np.ndarray:
        return np.array([self.scores(self.kinds[dialogue]) for dialogue in dialogues])


class Flagging(ByKind):
    """Gives all replies the same scores, but flags the bad ones, or gives them a low appropriateness."""

    flags = FLAGS
    details = ("appropriateness",)

    def __init__(self, flagged: bool) -> None:
        super().__init__(f"flags-{flagged}", lambda kind: (8.0, 2.0))
        self.flagged = flagged

    def score_batches(self, dialogues: Sequence[Dialogue]) -> Any:
        bad = np.array([self.kinds[dialogue] not in GOOD for dialogue in dialogues])
        yield ScoredBatch(
            range(len(dialogues)),
            self.score(dialogues),
            details={"appropriateness": np.where(bad, 0.2, 0.9)},
            flags=["hostile" if one and self.flagged else None for one in bad],
        )


def checked(scorer: Any, **options: Any) -> dict[str, Any]:
    found = behaviour_check(scorer, store=False, resamples=20, show_progress=False, **options)
    return next(iter(found.scorers.values()))["kinds"]


# ---- the set -------------------------------------------------------------------------------------------------------


def test_every_context_has_a_reply_of_every_kind() -> None:
    groups = {case.group for case in CASES}
    assert len(groups) >= 60
    assert len({case.emotion for case in CASES}) == 32
    for group in groups:
        mine = [case for case in CASES if case.group == group]
        assert [case.kind for case in mine] == list(KINDS)
        assert len({case.dialogue.context for case in mine}) == 1
    turns = [len(case.dialogue.context) for case in CASES if case.kind == TRUE]
    assert all(n % 2 for n in turns)  # the speaker has the last word
    assert sum(n > 1 for n in turns) >= 20


def test_texts_of_the_set_are_distinct_and_tidy() -> None:
    written = [case.dialogue.response for case in CASES if case.kind in WRITTEN]
    assert len(set(written)) == len(written)
    contexts = {case.dialogue.context for case in CASES}
    for text in [*written, *(turn for context in contexts for turn in context)]:
        assert text == " ".join(text.split())
        assert text[-1] in ".!?"
        assert text[0].isupper() or text[0] in "¡¿"
    german = re.compile(r"\b(ich|das|und|ist|du|dich)\b", re.IGNORECASE)
    assert not any(german.search(c.dialogue.response) for c in CASES if c.kind in set(WRITTEN) - {"foreign"})


def test_length_alone_ranks_the_written_replies_about_half_the_time() -> None:
    words = {(c.group, c.kind): len(c.dialogue.response.split()) for c in CASES}
    kind = [words[group, TRUE] for group in range(len(CASES) // len(KINDS))]
    assert sum(4 <= n <= 9 for n in kind) >= len(kind) / 3
    shares = checked(Baseline(LENGTH))
    bad = [shares[name]["below"]["share"] for name in WRITTEN if name not in GOOD]
    assert 0.4 < np.mean(bad) < 0.6
    assert all(0.35 < share < 0.65 for share in bad)


def test_made_replies_are_made_of_the_written_ones() -> None:
    by_kind = {(case.group, case.kind): case.dialogue for case in CASES}
    for group in range(len(CASES) // len(KINDS)):
        mine = {kind: by_kind[group, kind].response for kind in KINDS}
        assert sorted(mine["salad"].split()) == sorted(mine["feeling"].split())
        assert mine["salad"] != mine["feeling"]
        assert mine["parrot"] == by_kind[group, TRUE].context[-1]
        assert mine["injection"].startswith(mine["dismissive"])
        assert mine["repetition"].split()[0] == mine[TRUE].split()[0]
        assert mine["swapped"] in {c.dialogue.response for c in CASES if c.kind == "feeling" and c.group != group}
    assert set_cases(seed=1) != CASES == set_cases()


# ---- the numbers ---------------------------------------------------------------------------------------------------


def test_an_oracle_passes_and_its_opposite_fails() -> None:
    oracle = checked(ByKind("oracle", lambda kind: (8.0, 2.0) if kind in GOOD else (1.0, 1.0)))
    assert all(row["passes"] for kind, row in oracle.items() if row["bars"])
    assert oracle["cruel"]["below"]["share"] == oracle["cruel"]["quadrants"]["low"] == 1
    assert oracle[TRUE]["kept"]["share"] == 1
    opposite = checked(ByKind("opposite", lambda kind: (1.0, 1.0) if kind in GOOD else (8.0, 2.0)))
    assert not any(opposite[kind]["passes"] for kind in KINDS if kind not in GOOD)
    assert opposite["cruel"]["missed"] == ["below", "kept"]
    assert opposite["cruel"]["below"]["share"] == 0


def test_equal_scores_count_half() -> None:
    constant = checked(ByKind("constant", lambda kind: (9.0, 2.0)))
    assert {row["below"]["share"] for kind, row in constant.items() if kind != TRUE} == {0.5}


@pytest.mark.parametrize("flagged", [True, False])
def test_flags_and_appropriateness_rank_and_flagged_replies_are_kept_nowhere(flagged: bool) -> None:
    found = checked(Flagging(flagged))
    assert found["cruel"]["below"]["share"] == 1
    assert found["cruel"]["kept"]["share"] == (0 if flagged else 1)
    assert found["cruel"]["flags"] == ({"hostile": found["cruel"]["n"]} if flagged else {})
    assert found["cruel"]["quadrants"]["sensibility"] + found["cruel"]["flagged"]["share"] == 1
    assert found[TRUE]["flagged"]["share"] == 0


def test_a_scorer_that_is_length_alone_ranks_as_the_length_baseline() -> None:
    class Length:
        fingerprint = "mine-1"

        def score(self, dialogues: Sequence[Dialogue]) -> np.ndarray:
            return np.array([[len(d.response.split()) / 1000, 1.0] for d in dialogues])

    found = behaviour_check({"mine": Length()}, load_sample().select(range(30)), store=False, show_progress=False)
    assert list(found.scorers) == ["mine", *BASELINES]
    for part in ("kinds", "data"):
        for kind, row in found.scorers["mine"][part].items():
            assert row["below"] == found.scorers[LENGTH][part][kind]["below"], kind


def test_the_size_of_batches_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_sample().select(range(20))
    whole = behaviour_check("linear", data, store=False, show_progress=False).to_dict()
    monkeypatch.setattr("ee_trl.reports.check._STEP", 7)
    assert behaviour_check("linear", data, store=False, show_progress=False).to_dict() == whole


def test_unscored_replies_are_counted_apart() -> None:
    found = checked(ByKind("gaps", lambda kind: (np.nan, np.nan) if kind == "cruel" else (8.0, 2.0)))
    assert (found["cruel"]["n"], found["cruel"]["unscored"]) == (0, len(CASES) // len(KINDS))
    assert found["cruel"]["passes"] is None
    assert found["cruel"]["below"] == {"share": None, "interval": None}


def test_intervals() -> None:
    low, high = wilson(np.ones(64))["interval"]
    assert (round(low, 3), round(high, 3)) == (0.943, 1.0)
    assert wilson(np.zeros(10))["interval"][0] == 0
    rng = np.random.default_rng(0)
    true, other = rng.normal(1, 1, 400), rng.normal(0, 1, 400)
    found = auc(true, other)
    pairs = (true[:, None] > other[None]).mean()
    assert found["share"] == pytest.approx(pairs)
    drawn = [auc(true[i], other[i])["share"] for i in rng.integers(0, 400, (300, 400))]
    assert found["interval"] == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.01)
    assert auc(np.ones(4), np.ones(4))["share"] == 0.5


# ---- the user's data and people ------------------------------------------------------------------------------------


def test_replies_made_from_data() -> None:
    dialogues = [s.dialogue for s in read_samples(load_sample().select(range(40))) if s.dialogue]
    cases = corrupted_cases(dialogues)
    assert {case.kind for case in cases} == set(CORRUPTED)
    replies = {(case.group, case.kind): case.dialogue.response for case in cases}
    for i, dialogue in enumerate(dialogues):
        assert replies[i, TRUE] == dialogue.response != replies[i, "swapped"]
        if (i, "truncated") in replies:
            assert dialogue.response.startswith(replies[i, "truncated"].split()[0])
            assert sorted(replies[i, "shuffled"].split()) == sorted(dialogue.response.split())
    assert [case.kind for case in corrupted_cases(dialogues[:1]) if case.kind == "swapped"] == []  # none to swap with


def rated(n: int = 60) -> Dataset:
    words = [1 + i * 7 % 23 for i in range(n)]
    return Dataset.from_dict(
        {
            "context": [[f"I feel number {i}."] for i in range(n)],
            "response": [" ".join(["word"] * k) + "." for k in words],
            "dialogue": [i // 2 for i in range(n)],
            "rating": [None if i == 3 else float(k % 5) for i, k in enumerate(words)],
            "many": [[k, k + 2] for k in words],
        }
    )


def test_correlation_with_people() -> None:
    found = behaviour_check(
        "linear", rated(), human=["rating", "many"], store=False, resamples=50, show_progress=False
    )
    length = found.scorers[LENGTH]["human"]
    assert length["many"]["combined"]["spearman"] == pytest.approx(1)
    assert length["many"]["combined"]["partial"] is None  # nothing of length is left
    assert length["rating"]["combined"]["n"] == 59
    mine = found.scorers["linear"]["human"]["rating"]
    assert set(mine) == {"sensibility", "rationality", "combined"}
    scores = LinearScorer().score([s.dialogue for s in read_samples(rated()) if s.dialogue])
    keep = [i for i in range(60) if i != 3]
    expected = spearmanr(scores[keep, 0], [rated()["rating"][i] for i in keep]).statistic
    assert mine["sensibility"]["spearman"] == pytest.approx(expected)
    assert "Correlation with the ratings by people in 'rating'" in str(found)


def test_ratings_and_scores_are_averaged_over_a_dialogue() -> None:
    data = rated()
    found = behaviour_check(
        "linear", data, human=["many"], by="dialogue", store=False, resamples=5, show_progress=False
    )
    assert found.scorers["linear"]["human"]["many"]["combined"]["n"] == 30
    limited = behaviour_check("linear", data, by="dialogue", limit=10, store=False, show_progress=False)
    assert limited.dialogues == 20


def test_partial_correlation_is_that_of_the_residuals_of_ranks() -> None:
    rng = np.random.default_rng(3)
    given = rng.normal(size=200)
    a, b = given + rng.normal(size=200), given + rng.normal(size=200)
    found = correlations((a, b, given), 200, 0)
    x, y, z = (rankdata(v) - rankdata(v).mean() for v in (a, b, given))
    left = [v - z * (v @ z) / (z @ z) for v in (x, y)]
    assert found["partial"] == pytest.approx(np.corrcoef(*left)[0, 1])
    assert found["partial_interval"][0] < found["partial"] < found["partial_interval"][1]
    assert correlations((a[:2], b[:2], given[:2]), 10, 0)["spearman"] is None


def test_bad_columns_and_options_are_named() -> None:
    with pytest.raises(ScoresError, match="ratng"):
        behaviour_check("linear", rated(), human=["ratng"])
    with pytest.raises(ScoresError, match="ratings are numbers"):
        behaviour_check("linear", rated(), human=["response"])
    with pytest.raises(EmpathyError, match="ties"):
        behaviour_check("linear", ties="up")
    with pytest.raises(EmpathyError, match="linaer"):
        behaviour_check([ByKind("never asked", lambda kind: pytest.fail("scored")), "linaer"])
    with pytest.raises(ScoresError, match="no dialogue with a reply"):
        behaviour_check("linear", Dataset.from_dict({"context": [["Hello."]], "response": [""]}))


# ---- the command, reports and cards --------------------------------------------------------------------------------


def test_the_command_writes_one_report_of_several_scorers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rated().to_parquet(tmp_path / "rated.parquet")
    command = ["check", "linear", "random", "length", "--data", str(tmp_path / "rated.parquet"), "--human", "rating"]
    assert main([*command, "-o", str(tmp_path / "out"), "--no-store", "-q"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^cruel +at least 95% .*%\) !", shown, re.MULTILINE)
    found = read_json(tmp_path / "out/check.json")
    assert list(found["scorers"]) == ["linear", *BASELINES]
    assert found["versions"]["ee-trl"]
    page = (tmp_path / "out/check.md").read_text()
    assert "| cruel | at least 95% |" in page
    assert "check.png" in page
    assert (tmp_path / "out/check.png").stat().st_size > 10_000
    assert main([*command, "-o", str(tmp_path / "out"), "-q"]) == 3  # it does not replace a report unasked
    assert main(["check", "linear", "--human", "rating", "-q"]) == 3
    assert "--human goes with --data" in capsys.readouterr().err
    assert main(["check", "random", "--json", "-q"]) == 0
    assert list(json.loads(capsys.readouterr().out)["scorers"]) == list(BASELINES)
