"""Bi-encoders that learn from made bad replies: what they tell apart and flag; batches change nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_encoder import sample_dialogues, tiny_encoder

from ee_trl import Dialogue, EmpathyDataSelector, distill, load_sample, load_scorer
from ee_trl.distillation.contrast import learn_to_compare
from ee_trl.distillation.fit import FitOptions
from ee_trl.distillation.negatives import KINDS, Negative, negatives
from ee_trl.errors import ScorerError, TrainingError
from ee_trl.scoring.biencoder import BUNDLED, BiEncoderScorer
from ee_trl.scoring.encoder import EncoderInputs


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("tiny") / "encoder")


@pytest.fixture(scope="module")
def distilled(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("distilled") / "scorer"
    scored = EmpathyDataSelector("linear", store=False, show_progress=False).score(load_sample())
    settings: dict[str, Any] = {"epochs": 1, "learning_rate": 3e-3, "held_out": 0.2, "bf16": False, "max_length": 64}
    return distill(scored, encoder, folder, negatives="all", **settings)


def test_it_learns_to_tell_made_replies_from_true_ones(encoder: Path) -> None:
    dialogues = sample_dialogues(120)
    rude = [Negative(replace(d, response="No. No. No. No."), "hostile", i) for i, d in enumerate(dialogues)]
    options = FitOptions(epochs=3, learning_rate=3e-3, batch_size=8, negatives="hostile", bf16=False, words=0)
    found = learn_to_compare(dialogues[:80], rude[:80], encoder, options)
    fitted = found.with_axes(dialogues, np.stack([[len(d.response) % 11, 5 + i % 3] for i, d in enumerate(dialogues)]))
    true, made = (fitted.raw(some)[:, 2] for some in (dialogues[80:], [n.dialogue for n in rude[80:]]))
    assert found.flags[0] == "hostile"
    assert np.mean(made[:, None] > true) > 0.9
    assert fitted.raw([]).shape == (0, 2 + len(found.flags))  # no reply could be made


def test_the_report_says_what_is_told_apart(distilled: Any) -> None:
    told = distilled.report["appropriateness"]
    assert set(told["kinds"]) <= set(KINDS)
    assert told["false_flags"] <= 0.08
    page = (distilled.folder / "report.md").read_text()
    assert "## Replies that do not fit their context" in page
    assert json.loads((distilled.folder / "report.json").read_text())["appropriateness"] == told


def test_it_flags_and_the_selection_drops(distilled: Any) -> None:
    scorer = load_scorer(distilled.folder, dtype="float32")
    assert isinstance(scorer, BiEncoderScorer)
    assert scorer.flags == ("hostile", "dismissive", "off_topic", "repetitive", "not_english")
    selector = EmpathyDataSelector(str(distilled.folder), store=False, show_progress=False)
    scored = selector.score(load_sample())
    flags, fits = scored["score_flag"], np.array(scored["appropriateness"], float)
    assert all(flag in scorer.flags for flag, fit in zip(flags, fits, strict=True) if fit < 0.5)
    by_rule = {flag for flag, fit in zip(flags, fits, strict=True) if fit >= 0.5}
    assert by_rule <= {None, "repetitive", "not_english"}
    kept = selector.select(scored)
    assert not any(kept["score_flag"])


def test_batches_change_no_bit(distilled: Any) -> None:
    scorer, dialogues = BiEncoderScorer(distilled.folder, dtype="float32"), sample_dialogues(40)
    whole = scorer.score(dialogues)
    np.testing.assert_array_equal(whole[::-1], scorer.score(dialogues[::-1]))
    np.testing.assert_array_equal(whole[7:8], scorer.score(dialogues[7:8]))
    np.testing.assert_array_equal(whole, BiEncoderScorer(distilled.folder, dtype="float32").score(dialogues))


def test_neighbours_change_no_bit_before_scores_are_rounded() -> None:
    scorer, dialogues = BiEncoderScorer(BUNDLED), sample_dialogues(100)
    whole = scorer.raw(dialogues)
    for i in range(0, 100, 14):
        np.testing.assert_array_equal(scorer.raw([dialogues[i]])[0], whole[i])


def test_a_length_beyond_the_encoders_is_refused(encoder: Path) -> None:
    options = FitOptions(negatives="echo", inputs=EncoderInputs(512))
    with pytest.raises(TrainingError, match="max_length 512"):
        learn_to_compare(sample_dialogues(4), [], encoder, options)


def test_the_same_seed_gives_the_same_model(encoder: Path) -> None:
    dialogues = sample_dialogues(60)
    options = FitOptions(epochs=1, negatives="hostile", bf16=False, inputs=EncoderInputs(64))
    made = list(negatives(dialogues, "hostile"))
    one, other = (learn_to_compare(dialogues, made, encoder, options) for _ in range(2))
    assert one.flags == ("hostile", "off_topic")
    for left, right in zip(one.vectors(dialogues), other.vectors(dialogues), strict=True):
        np.testing.assert_array_equal(left, right)


def test_the_axes_learn_from_the_scores_alone(encoder: Path) -> None:
    """Other made replies change what is flagged, but with the same vectors both axes are the same regression."""
    dialogues = sample_dialogues(80)
    scores = np.stack([[len(d.response) % 11, len(d.context[0]) % 11] for d in dialogues]).astype(float)
    options = FitOptions(epochs=1, negatives="echo", bf16=False, inputs=EncoderInputs(64), words=0)
    found = learn_to_compare(dialogues, list(negatives(dialogues, "echo")), encoder, options)
    first, again = (found.with_axes(dialogues, scores).raw(dialogues) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other = found.with_axes(dialogues, scores[::-1]).raw(dialogues)
    np.testing.assert_array_equal(first[:, 2:], other[:, 2:])
    assert not np.allclose(first[:, :2], other[:, :2])


def test_a_damaged_head_is_an_error(distilled: Any, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(distilled.folder, tmp_path / "damaged"))
    (folder / "head.safetensors").write_bytes(b"no weights")
    with pytest.raises(ScorerError, match=r"head\.safetensors.*distill"):
        BiEncoderScorer(folder)


def test_wrong_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="hostil"):
        FitOptions(negatives="hostil")
    with pytest.raises(TrainingError, match="'lora' does not go with negatives"):
        FitOptions("lora", negatives="all")
    with pytest.raises(TrainingError, match="false_flags"):
        FitOptions(false_flags=2)


def test_an_empty_context_is_scored(distilled: Any) -> None:
    scores = BiEncoderScorer(distilled.folder, dtype="float32").score([Dialogue((), "Hello there, my friend.", ())])
    assert np.isfinite(scores).all()
