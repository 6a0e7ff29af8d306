"""Distillation: what is learnt, held out, calibrated and reported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, concatenate_datasets
from huggingface_hub import ModelCard
from scipy.stats import spearmanr
from small_disk import files_of_at_most
from tiny_encoder import sample_dialogues, tiny_encoder
from transformers import AutoModelForSequenceClassification, BertConfig, RobertaConfig, XLNetConfig

from ee_trl import Dialogue, EmpathyDataSelector, EncoderScorer, distill, load_sample
from ee_trl.cli.main import main
from ee_trl.distillation.fit import FitOptions, arguments_of, fit, longest_of
from ee_trl.distillation.run import cross_calibrated, moved
from ee_trl.errors import EmpathyError, ScorerError, ScoresError, SelectionError, TrainingError
from ee_trl.reports.cards import selection_section
from ee_trl.scoring.features import extract
from ee_trl.scoring.judged import (
    calibration_of,
    conversation_numbers,
    folds_of,
    held_out_of,
    open_judged,
    targets,
)
from ee_trl.scoring.linear import calibrate, knots_of


SMALL: dict[str, Any] = {
    "vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "max_position_embeddings": 130,
}  # fmt: skip


class LengthJudge:
    """Scores by the length of the reply: what an encoder that knows no language can learn in seconds."""

    fingerprint = "length-1"

    def score(self, dialogues: Sequence[Dialogue]) -> np.ndarray:
        words = np.array([len(d.response.split()) for d in dialogues])
        return np.stack([np.minimum(words // 3, 10), np.minimum(60 // np.maximum(words, 1), 10)], axis=1).astype(float)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("tiny") / "encoder")


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample, judged by length."""
    path = tmp_path_factory.mktemp("judged") / "judged.parquet"
    EmpathyDataSelector(LengthJudge(), store=False, show_progress=False).score(
        load_sample().select(range(200))
    ).to_parquet(path)
    return path


RUBRIC = "Rate the reply.\n\nEvaluation Form (scores ONLY):"


@pytest.fixture(scope="module")
def distilled(encoder: Path, judged: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("distilled") / "scorer"
    options = {
        "epochs": 4,
        "learning_rate": 3e-3,
        "batch_size": 16,
        "held_out": 0.2,
        "price_per_hour": 36.0,
        "bf16": False,
    }
    return distill(judged, encoder, folder, curve=[60], rubric=RUBRIC, **options)


def test_it_shows_itself_in_a_notebook(distilled: Any) -> None:
    html = distilled._repr_html_()
    found = distilled.report["agreement"]
    assert f'<td style="text-align:right">{found["three_way"]["agreement"]:.1%}</td>' in html
    assert f"{found['axes']['sensibility']['spearman']:.2f} (" in html
    assert html.count("<table>") == 7, "what was fitted, agreement, shares, two of the behavioural check, curve, cost"


# ---- the whole of it -----------------------------------------------------------------------------------------------


def test_the_judges_rubric_is_in_report_and_card(distilled: Any) -> None:
    assert distilled.report["rubric"] == RUBRIC
    for name in ("report.md", "README.md"):
        assert f"text\n{RUBRIC}\n" in (distilled.folder / name).read_text(encoding="utf-8")


def test_the_behavioural_check_is_in_report_card_and_the_cards_of_recipes(distilled: Any) -> None:
    assert distilled.report["check"]["distilled"]["kinds"]["cruel"]["n"] == 64
    for name in ("report.md", "README.md"):
        assert "| cruel | at least 95% |" in (distilled.folder / name).read_text(encoding="utf-8")
    record = {
        "dataset": "dialogues.parquet",
        "settings": {"keep": ["sensibility"], "scorer": ["encoder-1"]},
        "counts": {"kept": 1},
        "summary": {"quadrants": {}},
    }
    assert "| cruel | at least 95% |" in selection_section(record, str(distilled.folder))
    assert "cruel" not in selection_section(record)


def test_it_learns_the_judge(distilled: Any) -> None:
    report = distilled.report
    assert report["samples"] == 299
    assert 60 <= report["split"]["samples"] <= 65
    assert report["agreement"]["compared"] == report["split"]["samples"]
    assert all(row["spearman"] > 0.8 for row in report["agreement"]["axes"].values())
    assert all(value > 0.4 for value in report["encoder_alone"]["spearman"].values()), "the words do not do it all"
    assert [point["labels"] for point in report["curve"]] == [60]
    assert report["agreement"]["three_way"]["kappa"] > 0.1


def test_what_was_saved_scores_as_reported(distilled: Any) -> None:
    """On samples that the final fit has seen it agrees at least as well as the first did on those it had not."""
    dialogues = sample_dialogues(299)
    scores, judge = EncoderScorer(distilled.folder, dtype="float32").score(dialogues), LengthJudge().score(dialogues)
    for axis in range(2):
        reported = list(distilled.report["agreement"]["axes"].values())[axis]["spearman"]
        assert spearmanr(scores[:, axis], judge[:, axis]).statistic > reported - 0.05
    kept = [np.mean((s[:, 0] > 5) & (s[:, 1] < 5)) for s in (scores, judge)]
    assert kept[0] == pytest.approx(kept[1], abs=0.12), "calibrated: a threshold keeps about what the judge's would"


def test_the_folder_is_a_scorer_with_report_and_card(distilled: Any, tmp_path: Path) -> None:
    names = {path.name for path in distilled.folder.iterdir()}
    wanted = {"config.json", "model.safetensors", "tokenizer.json", "empathy_scorer.json", "words.npz"}
    assert wanted | {"report.md", "report.json", "report.png", "README.md"} <= names
    selector = EmpathyDataSelector(str(distilled.folder), store=False, show_progress=False)
    assert selector.score(load_sample().select(range(5)))["score_status"][0] == "scored"
    report = json.loads((distilled.folder / "report.json").read_text())
    assert report == json.loads(json.dumps(distilled.report))
    cost = report["cost"]
    assert cost["cost"] == pytest.approx(cost["seconds"] / 100, abs=1e-3)
    assert cost["judge_labels"] == 299
    card = (distilled.folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    page = (distilled.folder / "report.md").read_text()
    for heading in ("## Agreement with the judge", "## What a threshold keeps", "## Agreement by number", "## Time"):
        assert heading in page
        assert heading in card
    assert "length-1" in card
    assert str(tmp_path.parent.parent) not in card + page + (distilled.folder / "config.json").read_text()


def test_the_card_has_front_matter_that_the_hub_reads(distilled: Any) -> None:
    card = ModelCard.load(distilled.folder / "README.md")
    assert card.data.pipeline_tag == "text-classification"
    assert "ee-trl" in card.data.tags


def test_words_are_a_share_of_the_prediction(distilled: Any, tmp_path: Path) -> None:
    from ee_trl.scoring.linear import RawModel, load_weights

    scorer, dialogues = EncoderScorer(distilled.folder, dtype="float32"), sample_dialogues(40)
    by_words = RawModel(load_weights(distilled.folder, "words.npz")).predict(extract(dialogues))
    alone = Path(shutil.copytree(distilled.folder, tmp_path / "alone"))
    settings = json.loads((alone / "empathy_scorer.json").read_text())
    (alone / "empathy_scorer.json").write_text(json.dumps({**settings, "words": 0.0}))
    encoder = EncoderScorer(alone, dtype="float32")
    np.testing.assert_allclose(scorer.raw(dialogues), 0.6 * encoder.raw(dialogues) + 0.4 * by_words, atol=1e-9)
    assert scorer.fingerprint != encoder.fingerprint
    (alone / "empathy_scorer.json").write_text(json.dumps(settings))
    (alone / "words.npz").unlink()
    with pytest.raises(ScorerError, match=r"words\.npz"):
        EncoderScorer(alone)


@pytest.mark.parametrize("method", ["lora", "frozen"])
def test_other_methods_train_what_they_say(encoder: Path, method: str) -> None:
    dialogues = sample_dialogues(150)
    scores = LengthJudge().score(dialogues)
    made = fit(dialogues, scores, encoder, FitOptions(method, epochs=2, learning_rate=1e-2, batch_size=16, bf16=False))
    before = AutoModelForSequenceClassification.from_pretrained(encoder).state_dict()
    after = made.model.state_dict()
    assert set(before) == set(after), "low-rank updates are merged"
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    layers = {name for name in changed if ".layer." in name}
    assert "classifier.weight" in changed
    assert not any("embeddings" in name for name in changed)
    assert (layers != set()) == (method == "lora")


@pytest.mark.parametrize(("terminal", "quiet"), [(True, False), (True, True), (False, False)])
def test_training_shows_its_progress_in_a_terminal(terminal: bool, quiet: bool, monkeypatch: Any) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    monkeypatch.setattr("ee_trl.distillation.fit.is_progress_bar_enabled", lambda: not quiet)
    assert arguments_of(FitOptions(bf16=False)).disable_tqdm == (quiet or not terminal)


def test_a_fit_is_repeated_to_the_last_bit(encoder: Path) -> None:
    dialogues = sample_dialogues(80)
    scores = LengthJudge().score(dialogues)
    one, other = (fit(dialogues, scores, encoder, FitOptions(epochs=1, seed=3)).raw(dialogues) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    another = fit(dialogues, scores, encoder, FitOptions(epochs=1, seed=4)).raw(dialogues)
    assert (another != one).any()


@pytest.mark.slow
def test_cross_validation_measures_every_sample(encoder: Path, judged: Path, tmp_path: Path) -> None:
    made = distill(judged, encoder, tmp_path, folds=3, epochs=1, curve=[100], bf16=False)
    assert made.report["agreement"]["compared"] == 299
    assert len(made.report["by_fold"]) == 3
    assert "Cross-validated in 3 folds" in str(made)
    assert len(made.report["cost"]["fit_seconds"]) == 5


# ---- splits and calibration ----------------------------------------------------------------------------------------


def test_no_conversation_is_on_both_sides(judged: Path) -> None:
    found = open_judged(judged)
    assert len(set(found.conversations)) < len(found)
    where = held_out_of(found.conversations, 0.1, 0)
    assert 0.1 <= where.mean() <= 0.12
    assert not set(found.conversations[where]) & set(found.conversations[~where])
    fold = folds_of(found.conversations, 5, 0)
    assert all(len(set(fold[found.conversations == c])) == 1 for c in found.conversations[:50])
    again = [Dialogue(("Hello  there",), "a", ("user",)), Dialogue(("hello there", "b", "c"), "d", ("user",) * 3)]
    assert conversation_numbers(again).tolist() == [0, 0]


def test_predictions_are_calibrated_on_others() -> None:
    draw = np.random.default_rng(0)
    judge = draw.integers(0, 11, (400, 2)).astype(float)
    raw = judge / 10 + draw.normal(0, 0.2, judge.shape)
    part = np.arange(400) % 2
    found = cross_calibrated(raw, judge, part)
    changed = judge.copy()
    changed[part == 0] = 10 - changed[part == 0]
    np.testing.assert_array_equal(cross_calibrated(raw, changed, part)[part == 0], found[part == 0])
    assert (cross_calibrated(raw, changed, part)[part == 1] != found[part == 1]).any()


def test_knots_move_with_the_predictions() -> None:
    draw = np.random.default_rng(0)
    judge = draw.integers(0, 11, (500, 2)).astype(float)
    first = judge / 10 + draw.normal(0, 0.2, judge.shape)
    last = first * [2.0, 0.5] + [1.0, -3.0]  # another fit: elsewhere, wider
    knots = knots_of(first, judge)
    np.testing.assert_allclose(calibrate(last, moved(knots, first, last)), calibrate(first, knots), atol=2e-4)


def test_targets_keep_order_and_distance() -> None:
    scores = np.array([[0, 8], [8, 8], [8, 8], [9, 2]], float)
    found = targets(scores)
    assert found[1, 0] == found[2, 0]
    assert (np.diff(found[[0, 1, 3], 0]) > 0).all()
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-12)


def test_calibration_samples_are_distinct(judged: Path, tmp_path: Path) -> None:
    twice = Dataset.from_parquet(str(judged)).select(range(100))
    concatenate_datasets([twice, twice]).to_parquet(tmp_path / "twice.parquet")
    found = calibration_of(tmp_path / "twice.parquet")
    dialogues, scores, judges = found.dialogues, found.scores, found.judges
    assert len(dialogues) == len(scores) == len(set(dialogues)) <= 100
    np.testing.assert_array_equal(scores, LengthJudge().score(dialogues))
    assert judges == (LengthJudge.fingerprint,)


@pytest.mark.parametrize("width", [1.0, 1e-3, 1e-6])
def test_narrow_outputs_come_out_as_the_judges_scores(width: float) -> None:
    draw = np.random.default_rng(0)
    scores = draw.integers([4, 2], [10, 8], (600, 2)).astype(float)
    raw = 0.3 + width * (scores + draw.normal(size=(600, 2)))
    calibrated = calibrate(raw, knots_of(raw, scores))
    np.testing.assert_allclose(calibrated.mean(axis=0), scores.mean(axis=0), atol=0.6)
    np.testing.assert_allclose(calibrated, calibrate(raw / width, knots_of(raw / width, scores)), atol=1e-3)


@pytest.mark.parametrize(
    ("config", "longest"),
    [
        (BertConfig(**SMALL), 130),
        (RobertaConfig(**SMALL, pad_token_id=1), 128),
        (XLNetConfig(vocab_size=32, d_model=16, n_layer=1, n_head=2, d_inner=16), None),
    ],
    ids=["bert", "roberta", "xlnet"],
)
def test_an_encoder_has_as_many_positions_as_it_says(config: Any, longest: int | None) -> None:
    model = AutoModelForSequenceClassification.from_config(config)
    assert longest_of(model) == longest
    model(input_ids=torch.full((1, longest or 200), 5))
    if longest is not None:
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, longest + 1), 5))


@pytest.mark.parametrize(
    ("openings", "options", "message"),
    [
        (1, {}, "held_out 0.1 of 1 conversations .* holds 1 out and leaves 0 to fit to"),
        (2, {}, "holds 1 out and leaves 1 to fit to; at least 2 and 1 are needed"),
        (60, {"held_out": 0.001}, "holds 1 out and leaves 59"),
        (60, {"held_out": 0.999}, "holds 60 out and leaves 0"),
        (4, {"folds": 5}, "5 folds are more than the 4 conversations"),
        (60, {"folds": 2.5}, "folds 2.5 is not a whole number"),
        (60, {"seed": -1}, "seed -1 is not a whole number from 0"),
        (60, {"curve": [30, 80]}, "the curve asks for 80 samples, but 54 are not held out"),
    ],
)
def test_too_few_conversations_are_refused_before_anything_is_fitted(
    openings: int, options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"context": [f"hello {i % openings}"], "response": "oh", "sensibility": i % 10, "rationality": i % 7}
        for i in range(60)
    ]
    monkeypatch.setattr("ee_trl.distillation.run.fit", lambda *_: pytest.fail("it was fitted"))
    splits = DatasetDict({"train": Dataset.from_list(rows)})  # whose only split is taken
    with pytest.raises(TrainingError, match=message):
        distill(splits, "nowhere", tmp_path / "out", **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "adapter"}, TrainingError, "unknown method 'adapter'; valid: full, lora, frozen"),
        ({"epochs": 0}, TrainingError, "epochs 0 is not above 0"),
        ({"words": 1.0}, TrainingError, "words 1.0 is not a share of at least 0 and below 1"),
        ({"held_out": 1.5}, TrainingError, "held_out 1.5 is not a share"),
        ({"folds": 1}, TrainingError, "folds 1 is not a whole number of at least 2"),
        ({"curve": [1]}, TrainingError, "of at least 2"),
        ({"max_length": 4}, EmpathyError, "max_length 4"),
        ({"max_length": 512}, TrainingError, "max_length 512 is more than this encoder's 128"),
        ({"threshold": 11}, SelectionError, "threshold 11 is not valid"),
        ({"encoder": "no/such-encoder"}, TrainingError, "the encoder 'no/such-encoder' cannot be loaded"),
    ],
)
def test_options_are_checked(
    options: dict[str, Any], error: type[Exception], message: str, encoder: Path, judged: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        distill(judged, options.pop("encoder", encoder), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_data_that_teach_nothing_are_refused(encoder: Path, tmp_path: Path) -> None:
    rows = [{"context": [f"hello {i}"], "response": "hi", "sensibility": 5, "rationality": i % 10} for i in range(80)]
    with pytest.raises(ScoresError, match=r"every sample the sensibility 5; there is nothing to learn"):
        distill(Dataset.from_list(rows), encoder, tmp_path / "a")
    with pytest.raises(ScoresError, match="only 20 of 20 rows have a dialogue and a judge's scores; at least 50"):
        distill(Dataset.from_list(rows[:20]), encoder, tmp_path / "b")
    with pytest.raises(ScoresError, match="score it first"):
        distill(load_sample(), encoder, tmp_path / "c")
    with pytest.raises(SelectionError, match="outside"):
        distill(
            Dataset.from_list([{**row, "sensibility": 50 + row["rationality"]} for row in rows]), encoder, tmp_path
        )


# ---- the commands --------------------------------------------------------------------------------------------------


def test_the_command_distils_and_scores(
    encoder: Path, judged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path / "scorer")
    command = ["distill", str(judged), "--encoder", str(encoder), "-o", folder, "--epochs", "1", "--no-bf16", "-q"]
    assert main([*command, "--json", "--method", "frozen"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["output"] == folder
    assert told["options"]["method"] == "frozen"
    assert main(command) == 3
    assert "exists already" in capsys.readouterr().err
    scored = str(tmp_path / "scored.parquet")
    assert main(["score", str(judged), "-o", scored, "--scorer", folder, "-q"]) == 3, "it has another scorer's scores"
    load_sample().to_parquet(tmp_path / "dialogues.parquet")
    assert main(["score", str(tmp_path / "dialogues.parquet"), "-o", scored, "--scorer", folder, "-q"]) == 0

    again, before = [*command, "--overwrite", "--method", "frozen"], contents(tmp_path / "scorer")
    with files_of_at_most(20_000):
        assert main(again) == 5
    assert f"{folder}. Free some space" in capsys.readouterr().err
    assert contents(tmp_path / "scorer") == before, "the old scorer is whole"
    (tmp_path / "scorer" / "notes.txt").touch()
    assert main(again) == 3
    assert "notes.txt' is no part of a distilled scorer" in capsys.readouterr().err


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
