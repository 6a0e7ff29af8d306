"""A judge that was trained to answer the rubric's form, through every path that a user takes."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import ROOT
from datasets import Dataset

from ee_trl import CausalLMScorer, EmpathyDataSelector, load_sample, load_scorer
from ee_trl.cli.main import main
from ee_trl.data.dialogue import Dialogue, samples_of
from ee_trl.data.formats import FORMATS
from ee_trl.data.tables import read_metadata
from ee_trl.scoring.judge.answers import DETAILS


sys.path.insert(0, str(ROOT / "scripts"))
import train_tiny_judge


pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning")]  # bitsandbytes, of its fallbacks on a CPU

RUBRIC = "Rate the listener's last reply: sensibility (feeling) and rationality (thought), 0 to 10."
LEARNT = 120  # samples
SCORES = {"sensibility": (8, 2), "rationality": (2, 8), "balanced": (7, 10), "low": (1, 2)}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded sample with scores as its replies were meant, as a judge's scores come."""
    path = tmp_path_factory.mktemp("judge") / "scored.parquet"
    rows = []
    for row in load_sample():
        for sample, intended in zip(samples_of(FORMATS["messages"], [row]), row["intended"], strict=True):
            assert sample.dialogue is not None
            s, r = SCORES[intended]
            rows.append({"context": list(sample.dialogue.context), "response": sample.dialogue.response})
            rows[-1] |= {"sensibility": s, "rationality": r}
    Dataset.from_list(rows).to_parquet(path)
    return path


def rubric(data: Path) -> Path:
    """A short rubric: what the judge is to learn is the form."""
    path = data.parent / "short.txt"
    path.write_text(RUBRIC, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def judge(data: Path) -> Path:
    """A folder with a judge that learnt the first of them."""
    folder = data.parent / "judge"
    argv = [str(data), "-o", str(folder), "--limit", str(LEARNT), "--epochs", "20", "--layers", "1"]
    argv += ["--hidden-size", "64", "--vocab-size", "1500", "--token-budget", "400", "--learning-rate", "4e-3"]
    argv += ["--rubric", str(rubric(data))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train_tiny_judge.py", *argv])
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the same sums in the same order, whatever else the machine does
        train_tiny_judge.main()
        torch.set_num_threads(threads)
    return folder


@pytest.fixture(scope="module")
def dialogues(data: Path) -> list[Dialogue]:
    return train_tiny_judge.read(str(data))[0]


def test_it_answers_in_the_form_and_its_modes_are_what_it_generates(judge: Path, dialogues: list[Dialogue]) -> None:
    scorer = CausalLMScorer(judge, rubric=rubric(judge), dtype="float32")
    scores, details = scorer.score_with_details(dialogues[:30])
    modes = np.stack([details["sensibility_mode"], details["rationality_mode"]], axis=1)
    assert min(details["sensibility_mass"].min(), details["rationality_mass"].min()) > 0.8
    np.testing.assert_array_equal(scorer.generate_modes(dialogues[:30]), modes)
    assert scorer.takes_tree
    assert scores.std() > 0.1


def test_it_ranks_what_it_learnt(judge: Path, dialogues: list[Dialogue], data: Path) -> None:
    from scipy.stats import spearmanr

    _, given = train_tiny_judge.read(str(data))
    predicted = CausalLMScorer(judge, rubric=rubric(judge)).score(dialogues[:LEARNT])
    for axis in range(2):
        assert spearmanr(predicted[:, axis], given[:LEARNT, axis]).statistic > 0.3


@pytest.mark.parametrize(
    ("options", "shift"),
    [({"dtype": "bfloat16"}, 0.1), ({"quantization": "int8"}, 0.3), ({"quantization": "nf4"}, 0.8)],
)
def test_lower_precision_agrees_with_full(
    options: dict[str, str], shift: float, judge: Path, dialogues: list[Dialogue]
) -> None:
    full = CausalLMScorer(judge, rubric=rubric(judge), dtype="float32").score(dialogues[:60])
    low = CausalLMScorer(judge, rubric=rubric(judge), **options).score(dialogues[:60])  # type: ignore[arg-type]
    assert np.abs(low - full).mean() < shift


def test_command_line_scores_with_the_judge_and_keeps_the_given_scores(
    judge: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scored.parquet"
    command = ["score", str(data), "-o", str(out), "--scorer", str(judge), "--details", "--dtype", "float32", "-q"]
    command += ["--rubric", str(rubric(data))]
    assert main(command) == 0
    table = pq.read_table(out)
    assert {"given_sensibility", "given_rationality", *DETAILS} <= set(table.column_names)
    assert set(table.column("scorer").to_pylist()) == {
        load_scorer(judge, rubric=rubric(data), dtype="float32").fingerprint
    }
    made_by = read_metadata(out)
    assert made_by is not None
    assert made_by["rubric"] == RUBRIC
    again = EmpathyDataSelector(judge, rubric=rubric(data), dtype="float32", details=True).score(str(out))
    assert again["sensibility"][:] == table.column("sensibility").to_pylist()


def test_agreement_report_of_the_judge_has_its_rubric_and_injection_shift(
    judge: Path, data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "agreement"
    command = ["agreement", str(data), "given", str(judge), "-o", str(folder), "--limit", "60"]
    command += ["--rubric", str(rubric(data))]
    assert main(command) == 0
    page = (folder / "agreement.md").read_text(encoding="utf-8")
    assert RUBRIC in page
    assert "fake_form" in page
    assert json.loads((folder / "agreement.json").read_text())
    assert (folder / "agreement.png").stat().st_size > 1_000


@pytest.mark.filterwarnings("ignore")
def test_a_recipe_selects_by_the_judge_and_its_card_prints_the_rubric(judge: Path, data: Path, tmp_path: Path) -> None:
    from ee_trl.recipes import sft_sensibility
    from ee_trl.training.command_line import parse_recipe_args

    load_sample().select(range(60)).to_parquet(tmp_path / "dialogues.parquet")
    argv = ["--dataset", str(tmp_path / "dialogues.parquet"), "--empathy_scorer", str(judge), "--max_steps", "2"]
    argv += ["--empathy_rubric", str(rubric(data)), "--empathy_threshold", "3", "--empathy_rule", "top"]
    argv += ["--empathy_n", "20", "--output_dir", str(tmp_path / "expert")]
    sft_sensibility.main(*parse_recipe_args(sft_sensibility.make_parser(), argv))
    card = (tmp_path / "expert" / "README.md").read_text(encoding="utf-8")
    assert RUBRIC in card
    assert "judge-1/local@" in card


def test_wrong_options_of_a_judge_are_refused(
    judge: Path, data: Path, word_scorer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from ee_trl.errors import ScorerError

    with pytest.raises(ScorerError, match="Did you mean 'quantization'"):
        load_scorer(judge, quantisation="nf4")
    with pytest.raises(ScorerError, match="unknown option of the linear scorer 'quantization'"):
        load_scorer("linear", quantization="nf4")
    with pytest.raises(ScorerError, match="neither a linear scorer"):
        load_scorer(judge.parent)
    with pytest.raises(ScorerError, match="leave out details"):
        EmpathyDataSelector(word_scorer, details=True).score(load_sample())


@pytest.mark.slow
@pytest.mark.data
def test_cross_validated_it_ranks_better_than_chance_on_the_authors_scores(real_data: Path) -> None:
    """One fold of what benchmarks/results/tiny_judge_cv.json records."""
    dialogues, scores = train_tiny_judge.read(str(real_data / "ed_validation_scored.parquet"))
    settings = {
        "folds": 5,
        "only_folds": 1,
        "epochs": 3,
        "hidden_size": 128,
        "layers": 2,
        "vocab_size": 4_000,
        "rubric": None,
    }
    args = argparse.Namespace(**settings, learning_rate=2e-3, token_budget=3_000, seed=0)
    found = train_tiny_judge.cross_validate(dialogues, scores, args)
    assert found["sensibility"]["low"] > 0.05
    assert found["rationality"]["low"] > 0.05
