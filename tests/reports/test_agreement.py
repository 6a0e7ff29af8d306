"""Agreement of two scorers: numbers by hand, the report's files, the command."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, WordScorer
from scipy.stats import spearmanr
from sklearn.metrics import cohen_kappa_score

from ee_trl import LinearScorer
from ee_trl.axes import quadrants
from ee_trl.cli.main import main
from ee_trl.cli.options import scorer_options as parse_options
from ee_trl.data.reading import open_dataset
from ee_trl.data.sample import load_sample
from ee_trl.data.tables import spread, tables_of, write_file
from ee_trl.errors import EmpathyError, SelectionError
from ee_trl.reports.agreement import CELLS, _kappas, _resampled_spearman, agree
from ee_trl.reports.agreement_page import Side, markdown, write_agreement
from ee_trl.scoring.judge.rubric import Rubric


# sensibility, rationality, balanced, low, tie, unscored by B
A = np.array([[8, 2], [2, 8], [7, 7], [3, 3], [5, 2], [9, 9]], dtype=float)
B = np.array([[7, 3], [3, 7], [7, 4], [2, 2], [6, 2], [np.nan, np.nan]], dtype=float)


def random_scores(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 11, (n, 2)).astype(float)


# ---- numbers -------------------------------------------------------------------------------------------------------


def test_numbers_by_hand() -> None:
    found = agree(A, B, 5.0)
    assert (found.samples, found.compared, found.unscored) == (6, 5, {"a": 0, "b": 1})
    sensibility, rationality = found.axes["sensibility"], found.axes["rationality"]
    # ranks of A 5 1 4 2 3, of B 4.5 2 4.5 1 3: products 8.5, sums of squares 10 and 9.5
    assert sensibility["spearman"] == pytest.approx(8.5 / np.sqrt(95))
    # deviations of A 3 -3 2 -2 0, of B 2 -2 2 -3 1: products 22, sums of squares 26 and 22
    assert sensibility["pearson"] == pytest.approx(22 / np.sqrt(26 * 22))
    assert sensibility["mean_shift"] == pytest.approx(0.0)
    assert sensibility["mean_absolute_difference"] == pytest.approx(4 / 5)
    assert rationality["mean_shift"] == pytest.approx(-4 / 5)
    assert rationality["mean_absolute_difference"] == pytest.approx(6 / 5)
    assert found.quadrants["balanced"] == dict.fromkeys(CELLS, 0) | {"sensibility": 1}
    assert found.quadrants["tie"] == dict.fromkeys(CELLS, 0) | {"sensibility": 1}
    assert sum(n for row in found.quadrants.values() for n in row.values()) == 5
    assert found.changed == pytest.approx(2 / 5)
    assert found.entered == {"count": 2, "share": 2 / 5}
    assert found.left == {"count": 0, "share": 0.0}
    # three classes: A 1 1 3, B 3 1 1, agreed 3 of 5; by chance (3 + 1 + 3) / 25
    assert found.three_way["agreement"] == pytest.approx(3 / 5)
    assert found.three_way["kappa"] == pytest.approx((3 / 5 - 7 / 25) / (1 - 7 / 25))


def test_exchanging_the_sides_exchanges_the_numbers() -> None:
    one, other = agree(A, B), agree(B, A)
    assert one.three_way["kappa"] == pytest.approx(other.three_way["kappa"], abs=1e-15)
    assert one.entered == other.left
    assert one.axes["rationality"]["mean_shift"] == -other.axes["rationality"]["mean_shift"]
    assert all(one.quadrants[p][q] == other.quadrants[q][p] for p in CELLS for q in CELLS)


def test_a_scorer_agrees_with_itself() -> None:
    scores = random_scores(200, 1)
    found = agree(scores, scores)
    for row in found.axes.values():
        assert row["spearman"] == pytest.approx(1)
        assert row["pearson"] == pytest.approx(1)
        assert row["spearman_interval"] == pytest.approx([1, 1])
        assert row["mean_shift"] == row["mean_absolute_difference"] == 0
    assert found.changed == found.entered["count"] == found.left["count"] == 0
    assert found.three_way == {"agreement": 1.0, "kappa": 1.0, "kappa_interval": [1.0, 1.0]}


def test_threshold_and_ties_are_those_of_the_selection() -> None:
    assert agree(A, B, ties="high").quadrants["sensibility"]["sensibility"] == 2  # 5, 2 is of it for A as well
    assert agree(A, B, (7.5, 5)).quadrants["sensibility"]["low"] == 1
    assert agree(A, B, {"rationality": 7.5}).threshold == [5.0, 7.5]
    with pytest.raises(SelectionError, match="threshold"):
        agree(A, B, 11)


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_samples_give_null_without_a_warning(n: int) -> None:
    found = agree(A[:n], B[:n])
    assert found.axes["sensibility"]["spearman"] is None
    assert found.axes["sensibility"]["pearson"] is None
    assert found.three_way["kappa"] is None
    assert (found.changed is None) == (n == 0)
    assert "n/a" in str(found)
    json.dumps(found.to_dict(), allow_nan=False)


def test_two_samples_and_constant_scores_give_no_warning() -> None:
    constant = agree(np.full((9, 2), 8.0), random_scores(9, 2))
    for row in constant.axes.values():
        assert row["spearman"] is row["pearson"] is row["spearman_interval"] is None
        assert row["mean_shift"] is not None
    assert constant.three_way["kappa"] == 0
    same = agree(np.full((9, 2), 8.0), np.full((9, 2), 9.0))
    assert same.three_way == {"agreement": 1.0, "kappa": None, "kappa_interval": None}
    two = agree(A[:2], B[:2])
    assert two.axes["sensibility"]["spearman"] == pytest.approx(1)
    assert two.axes["sensibility"]["spearman_interval"] == pytest.approx([1, 1])
    nothing = agree(np.full((3, 2), np.nan), A[:3])
    assert (nothing.compared, nothing.unscored) == (0, {"a": 3, "b": 0})


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [(A, B[:3], "6 samples, B of 3"), (A[:, 0], B, r"\(n, 2\)"), (A, 2 * B, r"outside \[0, 10\]")],
)
def test_what_cannot_be_compared_is_refused(a: np.ndarray, b: np.ndarray, said: str) -> None:
    with pytest.raises(EmpathyError, match=said):
        agree(a, b)


def test_resampled_correlations_are_those_of_scipy() -> None:
    a, b = random_scores(40, 3), np.round(random_scores(40, 4) / 2 + random_scores(40, 3) / 2)
    found = _resampled_spearman(a, b, 20, np.random.default_rng(5))
    draw = np.random.default_rng(5)
    for row in found:
        drawn = draw.integers(0, 40, 40)
        assert row == pytest.approx([spearmanr(a[drawn, i], b[drawn, i]).statistic for i in range(2)])
    for i, row in enumerate(agree(a, b).axes.values()):
        assert row["spearman"] == pytest.approx(spearmanr(a[:, i], b[:, i]).statistic, abs=1e-14)


def test_kappas_of_tables_are_those_of_sklearn() -> None:
    tables = np.random.default_rng(6).integers(0, 9, (20, 3, 3))
    for table, kappa in zip(tables, _kappas(tables), strict=True):
        first, second = (np.repeat(place.ravel(), table.ravel()) for place in np.indices((3, 3)))
        assert kappa == pytest.approx(cohen_kappa_score(first, second))
    a, b = random_scores(200, 3), random_scores(200, 4)
    found, classes = agree(a, b), ("sensibility", "rationality")
    first, second = ([q if q in classes else "" for q in quadrants(s[:, 0], s[:, 1])] for s in (a, b))
    assert found.three_way["kappa"] == pytest.approx(cohen_kappa_score(first, second), abs=1e-14)
    assert np.isnan(_kappas(np.array([np.diag([7, 0, 0])]))).all()


def test_intervals_hold_the_estimate_are_seeded_and_shrink_with_n() -> None:
    def pair(n: int) -> tuple[np.ndarray, np.ndarray]:
        base = random_scores(n, 7)
        return base, np.clip(base + np.random.default_rng(8).integers(-3, 4, (n, 2)), 0, 10)

    small, large = agree(*pair(100)), agree(*pair(1600))
    for found in (small, large):
        low, high = found.axes["sensibility"]["spearman_interval"]
        assert low < found.axes["sensibility"]["spearman"] < high
        low, high = found.three_way["kappa_interval"]
        assert low < found.three_way["kappa"] < high
    wide, narrow = (np.ptp(found.three_way["kappa_interval"]) for found in (small, large))
    assert 2.5 < wide / narrow < 6  # a sixteenth of the samples: four times as wide
    assert agree(*pair(100)) == small
    assert agree(*pair(100), seed=1).three_way["kappa_interval"] != small.three_way["kappa_interval"]


# ---- report --------------------------------------------------------------------------------------------------------


def sides(**more: Any) -> tuple[Side, Side]:
    status = ["scored"] * 5 + ["scorer_gave_none"]
    return Side("first", "a-1", A, ["scored"] * 6), Side("second", "b-1", B, status, **more)


def test_report_holds_numbers_rubric_fingerprints_and_picture(tmp_path: Path) -> None:
    rubric = Rubric("mine", "Rate it.\n```\n# not a heading\n```")
    a, b = sides(rubric=rubric)
    page = write_agreement(tmp_path / "deep" / "er", "data", a, b, agree(A, B), versions={"x": "1"})
    text = page.read_text(encoding="utf-8")
    for said in ("`a-1`", "`b-1`", "5 of 6 samples", "1 scorer_gave_none", "40.0% (2)", "agreement.png",
                 rubric.fingerprint, f"````text\n{rubric.text}\n````"):  # fmt: skip
        assert said in text
    assert page.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    found = json.loads(page.with_suffix(".json").read_text())
    assert found["agreement"] == agree(A, B).to_dict()
    assert found["b"]["rubric"] == {"name": "mine", "fingerprint": rubric.fingerprint, "text": rubric.text}
    assert found["b"]["unscored"] == {"scorer_gave_none": 1}
    assert found["versions"] == {"x": "1"}


def test_one_rubric_of_both_is_printed_once() -> None:
    rubric = Rubric("mine", "Rate it.")
    a = Side("first", "a-1", A, ["scored"] * 6, rubric)
    text = markdown("data", a, sides(rubric=rubric)[1], agree(A, B))
    assert text.count("Rate it.") == 1
    assert "The rubric of A and B" in text


def test_nothing_compared_is_reported_all_the_same(tmp_path: Path) -> None:
    a, b = (Side(name, "x", np.full((2, 2), np.nan), ["empty_response"] * 2) for name in ("$a", "b" * 200))
    text = write_agreement(tmp_path, "data", a, b, agree(a.scores, b.scores)).read_text()
    assert "0 of 2 samples" in text
    assert "n/a" in text


# ---- command -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dialogues, their scores by the linear scorer as parquet and jsonl, and a file that brings scores of its own."""
    folder = tmp_path_factory.mktemp("agreement")
    dialogues = load_sample("test")
    dialogues.to_parquet(folder / "dialogues.parquet")
    for name in ("scored.parquet", "scored.jsonl"):
        assert (
            main(["score", str(folder / "dialogues.parquet"), "-o", str(folder / name), "--scorer", "linear", "-q"])
            == 0
        )
    rows = [
        {
            "context": [row["messages"][0]["content"]],
            "response": row["messages"][1]["content"] if i else "",
            "sensibility": 2 + i % 7,
            "rationality": 8 - i % 5,
        }
        for i, row in enumerate(dialogues)
    ]
    (folder / "judged.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def run_json(capsys: pytest.CaptureFixture[str], *args: object) -> dict[str, Any]:
    assert main([*map(str, args), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", ["scored.parquet", "scored.jsonl"])
def test_a_scorer_agrees_with_its_own_file(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run_json(capsys, "agreement", folder / "dialogues.parquet", folder / name, "linear", "--no-injection")
    assert found["agreement"]["compared"] == found["agreement"]["samples"] > 60  # each turn of each conversation
    assert found["agreement"]["changed"] == 0
    assert found["agreement"]["axes"]["sensibility"]["mean_absolute_difference"] == 0
    assert found["a"]["fingerprint"] == found["b"]["fingerprint"] == LinearScorer().fingerprint
    assert found["a"]["injection"] is found["b"]["injection"] is None


@pytest.mark.parametrize("ending", [".parquet", ".jsonl"])
def test_the_rubric_of_a_judged_file_is_in_reports(ending: str, folder: Path, tmp_path: Path, capsys: Any) -> None:
    rubric = Rubric("mine", "Rate it.\n\n0 to 10.")
    scored, path = open_dataset(folder / "scored.parquet"), tmp_path / f"judged{ending}"
    scored = scored.remove_columns("scorer").add_column("scorer", [f"judge/{rubric.fingerprint}/nf4"] * len(scored))
    write_file(tables_of(scored), scored.features, path, metadata={"rubric": rubric.text})
    data = str(folder / "dialogues.parquet")
    for i, command in enumerate(([data, str(path), "linear"], [str(path), "given", "linear"])):
        assert main(["agreement", *command, "--no-injection", "-o", str(tmp_path / str(i))]) == 0
        report = json.loads((tmp_path / str(i) / "agreement.json").read_text())
        assert report["a"]["rubric"] == {"name": "mine", "fingerprint": rubric.fingerprint, "text": rubric.text}
        assert rubric.text in (tmp_path / str(i) / "agreement.md").read_text()
    capsys.readouterr()
    assert main(["summary", str(path)]) == 0
    assert rubric.text in capsys.readouterr().out
    assert main(["explore", str(path), "-o", str(tmp_path / "page.html")]) == 0
    assert json.dumps(rubric.text) in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_given_scores_against_a_scorer_with_a_report(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["agreement", str(folder / "judged.jsonl"), "given", "linear", "-o", str(folder / "report")]
    assert main(args) == 0
    out = capsys.readouterr().out
    assert "Cohen's kappa" in out
    assert "1 empty_response (" in out
    report = json.loads((folder / "report/agreement.json").read_text())
    assert (report["a"]["name"], report["a"]["fingerprint"], report["a"]["injection"]) == ("given", "given", None)
    assert report["a"]["unscored"] == report["b"]["unscored"] == {"empty_response": 1}
    assert report["b"]["injection"]["families"]["all"]["scored"] == 300
    page = (folder / "report/agreement.md").read_text()
    assert "## Prompt injection: B" in page
    assert report["a"]["check"] is None
    assert list(report["b"]["check"]) == ["linear", "length", "random"]
    assert "## Behavioural check: B" in page
    assert main(args) == 3
    assert "--overwrite" in capsys.readouterr().err
    assert main([*args, "--overwrite", "--no-injection", "--no-check"]) == 0
    assert "Behavioural" not in (folder / "report/agreement.md").read_text()


def test_a_limit_takes_an_evenly_spaced_subset(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = folder / "judged.jsonl"
    found = run_json(capsys, "agreement", data, "given", data, "--limit", 20)
    assert found["agreement"]["samples"] == 20
    assert found["agreement"]["changed"] == 0
    assert spread(10, 4) == [0, 2, 5, 7]
    assert spread(3, None) == spread(3, 9) == [0, 1, 2]


def test_given_scores_of_conversations_are_of_their_last_reply(tmp_path: Path, capsys: Any) -> None:
    rows = load_sample("test").to_list()
    lines = [json.dumps({"messages": row["messages"], "sensibility": 8, "rationality": 2}) for row in rows]
    (tmp_path / "data.jsonl").write_text("\n".join(lines), encoding="utf-8")
    found = run_json(capsys, "agreement", tmp_path / "data.jsonl", "given", "linear", "--no-injection")
    assert found["agreement"]["compared"] == len(rows)


def test_raw_conversations_are_compared_with_their_scored_file(tmp_path: Path, capsys: Any) -> None:
    rows = [
        {"conv_id": conv, "utterance_idx": i + 1, "speaker_idx": i % 2, "utterance": f"{text} {conv}"}
        for conv in ("x", "y")
        for i, text in enumerate(["I am sad.", "Why is that?", "My dog died.", "I am so sorry."])
    ]
    rows = rows[::2] + rows[1::2]  # neighbours need not belong together
    (tmp_path / "raw.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert (
        main(
            ["score", str(tmp_path / "raw.jsonl"), "-o", str(tmp_path / "scored.parquet"), "--scorer", "linear", "-q"]
        )
        == 0
    )
    capsys.readouterr()
    found = run_json(
        capsys, "agreement", tmp_path / "raw.jsonl", tmp_path / "scored.parquet", "linear", "--no-injection"
    )
    assert (found["agreement"]["compared"], found["agreement"]["changed"]) == (4, 0)


def test_misaligned_files_are_refused_and_the_place_is_shown(folder: Path, capsys: Any, tmp_path: Path) -> None:
    lines = (folder / "judged.jsonl").read_text(encoding="utf-8").splitlines()
    cases = {
        "shorter": (lines[:-1], f"59 samples, the data set {len(lines)}; the first difference is at sample 59"),
        "swapped": ([*lines[:3], lines[4], lines[3], *lines[5:]], "in 2 of 60 samples; the first difference is at"),
        "edited": ([*lines[:7], lines[7].replace('"response": "', '"response": "X '), *lines[8:]], "at sample 7 "),
    }
    assert len(lines) == 60
    for name, (changed, said) in cases.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(changed), encoding="utf-8")
        assert main(["agreement", str(folder / "judged.jsonl"), "given", str(tmp_path / f"{name}.jsonl")]) == 3
        err = capsys.readouterr().err
        assert said in err
        assert "data set:" in err
        assert "file:" in err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["{judged}", "given", "linaer"], "Did you mean 'linear'?"),
        (["{judged}", "given", "nope.parquet"], "no such file: 'nope.parquet'"),
        (["{dialogues}", "given", "linear"], "ee-trl score"),
        (["{judged}", "{dialogues}", "linear"], "no column 'sensibility'"),
        (["{judged}", "given", "linear", "-t", "11"], "[0, 10]"),
        (["{judged}", "given", "linear", "--limit", "0"], "at least 1"),
        (["{judged}", "given", "linear", "--option-a", "k=1"], "A is 'given'"),
        (["{judged}", "given", "linear", "--option-b", "k=1"], "unknown option of the linear scorer 'k'"),
        (["{judged}", "given", "linear", "--option-b", "k"], "key=value"),
        (["{judged}", "given", "linear", "--rubric", "{judged}"], "goes with an LLM judge"),
        (["{judged}", "given", "linear", "--rubric", "nope.md"], "no rubric 'nope.md'"),
        (["{judged}", "given", "linear", "-o", "{judged}"], "is a file"),
    ],
)
def test_errors_say_what_is_wrong(args: list[str], said: str, folder: Path, capsys: Any) -> None:
    names = {name.split(".")[0]: folder / name for name in ("judged.jsonl", "dialogues.parquet")}
    assert main(["agreement", *(arg.format(**names) for arg in args)]) == 3
    assert said in capsys.readouterr().err


def test_options_and_rubric_reach_the_judge_alone(
    folder: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.md").write_text("Rate it, my way.", encoding="utf-8")
    asked: dict[str, dict[str, Any]] = {}

    def load(spec: str, **options: Any) -> WordScorer:
        asked[spec] = options
        scorer = WordScorer()
        if "rubric" in options:
            scorer.rubric = Rubric("mine", Path(options["rubric"]).read_text())  # type: ignore[attr-defined]
        return scorer

    monkeypatch.setattr("ee_trl.scoring.load.load_scorer", load)
    options = ["--option-b", "quantization=nf4", "--option-b", "batch=8", "--rubric", str(tmp_path / "mine.md")]
    args = ["agreement", str(folder / "judged.jsonl"), "linear", "some/judge", *options, "-o", str(tmp_path / "out")]
    assert main(args) == 0
    assert asked == {
        "linear": {},
        "some/judge": {"quantization": "nf4", "batch": 8, "rubric": str(tmp_path / "mine.md")},
    }
    assert "```text\nRate it, my way.\n```" in (tmp_path / "out/agreement.md").read_text()


def test_options_are_numbers_booleans_null_or_text() -> None:
    pairs = ["a=1", "b=0.5", "c=true", "d=null", "e=nf4", "f=x=y", 'g="1"', "h=[1]", "i="]
    assert parse_options(pairs) == {
        "a": 1, "b": 0.5, "c": True, "d": None, "e": "nf4", "f": "x=y", "g": '"1"', "h": "[1]", "i": "",
    }  # fmt: skip
    for wrong in (["a=1", "a=2"], ["=1"], ["a b=1"]):
        with pytest.raises(EmpathyError):
            parse_options(wrong)


def test_a_missing_library_is_explained_before_anything_is_scored(
    folder: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    command = ["agreement", str(folder / "judged.jsonl"), "given", "linear", "--no-injection"]
    assert main([*command, "-o", str(tmp_path / "report")]) == 3
    err = capsys.readouterr().err
    assert "pip install 'ee-trl[report]'" in err
    assert "scoring" not in err
    assert main(command) == 0  # the numbers need no other library


# ---- real data -----------------------------------------------------------------------------------------------------


@pytest.mark.data
def test_the_judge_against_the_bundled_scorer_on_what_it_was_fitted_to(real_data: Path, capsys: Any) -> None:
    data = real_data / "ed_validation_scored.parquet"
    found = run_json(capsys, "agreement", data, "given", "linear", "--no-injection")["agreement"]
    assert found["compared"] == 5734
    by_judge = {name: sum(row.values()) for name, row in found["quadrants"].items()}
    assert (by_judge["sensibility"], by_judge["rationality"]) == (3473, 393)
    assert f"{found['three_way']['kappa']:.2f}" in (ROOT / "docs/agreement.md").read_text(encoding="utf-8")


@pytest.mark.data
@pytest.mark.slow
def test_the_judge_against_a_scorer_that_has_not_seen_the_fold(
    real_data: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recorded cross-validation, its first fold, by way of files and the command line."""
    import pyarrow.parquet as pq

    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import train_linear_scorer as script

    data = real_data / "ed_validation_scored.parquet"
    recorded = json.loads((ROOT / "benchmarks/results/linear_scorer_cv.json").read_text())
    dialogues, scores = script.read(str(data))
    groups = script.conversations(dialogues)
    fold = script.folds_of(groups, recorded["folds"], recorded["seed"])
    assert all(len(set(fold[groups == group])) == 1 for group in range(0, groups.max() + 1, 50))
    inside, outside = np.flatnonzero(fold != 0), np.flatnonzero(fold == 0)
    weights = script.train([dialogues[i] for i in inside], scores[inside], groups[inside])
    (tmp_path / "scorer").mkdir()
    np.savez_compressed(tmp_path / "scorer" / "weights.npz", **weights)
    pq.write_table(pq.read_table(data).take(outside), tmp_path / "fold.parquet")
    found = run_json(
        capsys, "agreement", tmp_path / "fold.parquet", "given", tmp_path / "scorer", "--no-injection"
    )["agreement"]  # fmt: skip
    expected = recorded["by_fold"][0]
    assert found["compared"] == expected["rows"]
    assert 0.35 <= found["three_way"]["kappa"] <= 0.45
    assert found["three_way"]["kappa"] == pytest.approx(expected["at_5"]["kappa"], abs=0.01)
    for axis, row in found["axes"].items():
        assert row["spearman"] == pytest.approx(expected["spearman"][axis], abs=0.01)
