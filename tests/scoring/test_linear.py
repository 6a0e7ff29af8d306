"""The bundled scorer: exactness, robustness, and agreement with the judge it imitates."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ee_trl.data.dialogue import Dialogue
from ee_trl.errors import ScorerError
from ee_trl.scoring import features as ft
from ee_trl.scoring import fitness, linear
from ee_trl.scoring.base import Scorer
from ee_trl.scoring.linear import BUNDLED, WEIGHTS_FILE, LinearScorer


SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
DATA = os.environ.get("EE_TRL_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="EE_TRL_DATA does not name the folder of the real data")

TURNS = (
    "My dog died this morning, I can't stop crying.",
    "I got the job! I start on Monday!!",
    "I'm so angry at my brother, he broke my phone again.",
    "I have an exam tomorrow and I haven't slept...",
)
REPLIES = (
    "I'm so sorry to hear that, that's awful.",
    "How old was he?",
    "You should talk to him about it and set some rules.",
    "Congratulations! You must be so proud of yourself.",
    "ok",
    "Why don't you try a short nap, and what is it about?",
)


def dialogue(context: str | tuple[str, ...], response: str) -> Dialogue:
    context = (context,) if isinstance(context, str) else context
    return Dialogue(context=context, response=response, roles=("user",) * len(context))


def made_up() -> list[Dialogue]:
    short = [dialogue(turn, reply) for turn in TURNS for reply in REPLIES]
    return short + [dialogue((TURNS[0], REPLIES[0], turn), reply) for turn in TURNS for reply in REPLIES]


@pytest.fixture(scope="module")
def scorer() -> LinearScorer:
    return LinearScorer()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(BUNDLED / WEIGHTS_FILE, tmp_path)
    return tmp_path


# ---- text ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("natural", "tokenised"),
    [
        ("I'm so sorry, that's awful!", "i 'm so sorry , that 's awful !"),
        ("I don't know. Can't you ask?", "i do n't know . ca n't you ask ?"),
        ("I don't know. Can't you ask?", "i do not know . can not you ask ?"),
        ("They won't, we've seen; you'll see… she'd go", "they wo n't , we 've seen ; you 'll see ... she 'd go"),
        ("It’s Bob’s “house” (really)!!!", "it is bob 's house ( really ) ! ! !"),
        ("dont worry, im here", "do not worry , i am here"),
        ("Wow_comma_ great.. what?!", "wow , great . . what ? !"),
        ("  Two\tspaces \u00a0 and\nlines ", "two spaces and lines"),
        ("Sooooo goooood, 12 times", "soo good , 7 times"),
    ],
)
def test_natural_and_tokenised_text_agree(scorer: LinearScorer, natural: str, tokenised: str):
    assert ft.tokenise(natural) == ft.tokenise(tokenised)
    assert ft.tokenise(natural) == ft.tokenise(natural.upper())
    a, b = scorer.score([dialogue(TURNS[0], natural), dialogue(TURNS[0], tokenised)])
    np.testing.assert_array_equal(a, b)
    a, b = scorer.score([dialogue(natural, REPLIES[1]), dialogue(tokenised, REPLIES[1])])
    np.testing.assert_array_equal(a, b)


def test_words_that_only_look_like_contractions_are_kept():
    assert ft.tokenise("We were well, its id is Bob's") == ["we", "were", "well", ",", "its", "id", "is", "bob", "'s"]


def test_hashes_are_the_same_everywhere():
    """The weights are worth nothing if these numbers differ on some platform."""
    assert ft.word_hash("sorry") == 2024858757
    words = ft.to_words([["i", "am", "sorry"], [], ["sorry"]])
    grams = ft.to_grams(words, 3)
    assert grams.rows.tolist() == [0, 0, 0, 2, 0, 0, 0]
    assert grams.counts.tolist() == [6, 0, 1]
    assert grams.buckets.tolist() == [241222, 67003, 4763, 4763, 58292, 40587, 71279]
    assert ft.char_buckets("ok").tolist() == [8092, 63327, 10101, 36977, 46896, 20595]


# ---- exactness -----------------------------------------------------------------------------------------------------


def test_fulfils_the_protocol(scorer: LinearScorer):
    assert isinstance(scorer, Scorer)
    scores = scorer.score(made_up())
    assert scores.shape == (len(made_up()), 2)
    assert scores.dtype == np.float64
    assert ((scores >= 0) & (scores <= 10)).all()
    assert scorer.score([]).shape == (0, 2)


@pytest.mark.parametrize("size", [1, 2, 7, 31])
def test_a_row_does_not_depend_on_its_batch(scorer: LinearScorer, size: int):
    dialogues = made_up()
    whole = scorer.score(dialogues)
    parts = [LinearScorer(BUNDLED).score(dialogues[i : i + size]) for i in range(0, len(dialogues), size)]
    assert np.concatenate(parts).tobytes() == whole.tobytes()
    order = np.random.default_rng(0).permutation(len(dialogues))
    assert scorer.score([dialogues[i] for i in order]).tobytes() == whole[order].tobytes()


def test_raw_predictions_are_exact_too(scorer: LinearScorer):
    """Rounding must not be what makes batches agree."""
    dialogues = made_up()
    whole = scorer._model.predict(ft.extract(dialogues))
    single = np.concatenate([scorer._model.predict(ft.extract([d])) for d in dialogues])
    assert single.tobytes() == whole.tobytes()


def test_chunks_and_forgetting_change_nothing(scorer: LinearScorer, monkeypatch: pytest.MonkeyPatch):
    whole = scorer.score(made_up())
    monkeypatch.setattr(linear, "_CHUNK", 5)
    monkeypatch.setattr(ft, "_MOST_WORDS", 3)
    assert LinearScorer(BUNDLED).score(made_up()).tobytes() == whole.tobytes()


def test_calibration_is_monotone_and_hits_the_knots(scorer: LinearScorer):
    knots = scorer._knots
    np.testing.assert_allclose(linear.calibrate(knots.T, knots), np.tile(np.arange(11.0)[:, None], 2), atol=1e-4)
    line = np.linspace(knots.min() - 1, knots.max() + 1, 1000)
    scores = linear.calibrate(np.stack([line, line], axis=1), knots)
    assert (np.diff(scores, axis=0) >= 0).all()
    assert scores.min() == 0
    assert scores.max() == 10


# ---- robustness ----------------------------------------------------------------------------------------------------

HOSTILE = [
    "😊",
    "❤️‍🔥👨‍👩‍👧",
    "我很难过",
    "أنا حزين",
    "\ud800",
    "\udc00\ud800 ok",
    "\x00\x01\x7f",
    "\u200b",
    "'",
    '""',
    "_",
    "?" * 5000,
    "a" * 100_000,
    "' " * 50_000,
    "! " * 50_000,
    "n't" * 20_000,
    "word " * 50_000,
    "ﷺ" * 5000,
    "-1e308",
    "NaN",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_gets_a_score_soon(scorer: LinearScorer, text: str):
    start = time.perf_counter()
    scores = scorer.score([dialogue(TURNS[0], text), dialogue(text, REPLIES[0]), dialogue((text,) * 50, text)])
    assert np.isfinite(scores).all()
    assert ((scores >= 0) & (scores <= 10)).all()
    assert time.perf_counter() - start < 2


def test_blank_replies_are_unscored(scorer: LinearScorer):
    scores = scorer.score([dialogue(TURNS[0], ""), dialogue(TURNS[0], REPLIES[0]), dialogue(TURNS[0], " \n")])
    assert np.isnan(scores).all(axis=1).tolist() == [True, False, True]
    alone = scorer.score([dialogue(TURNS[0], REPLIES[0])])
    np.testing.assert_array_equal(scores[1:2], alone)


def test_no_context_is_no_error(scorer: LinearScorer):
    assert np.isfinite(scorer.score([Dialogue(context=(), response=REPLIES[0], roles=())])).all()


# ---- weights -------------------------------------------------------------------------------------------------------


def test_weights_are_small_plain_numbers():
    assert (BUNDLED / WEIGHTS_FILE).stat().st_size <= 600_000
    with np.load(BUNDLED / WEIGHTS_FILE, allow_pickle=False) as stored:
        assert {name: stored[name].shape for name in stored.files} in (
            linear.shapes(),
            linear.shapes() | fitness.shapes(),
        )
        assert all(stored[name].dtype.kind in "fiu" for name in stored.files)


def test_fingerprint_names_the_weights(scorer: LinearScorer, folder: Path):
    assert scorer.fingerprint == LinearScorer(folder).fingerprint
    assert scorer.fingerprint == json.loads((BUNDLED / "metrics.json").read_text())["fingerprint"]
    assert scorer.fingerprint.startswith("linear-1/sha256:")
    weights = linear.load_weights(folder)
    weights["bias"] = weights["bias"] + 1e-6
    np.savez(folder / WEIGHTS_FILE, **weights)
    assert LinearScorer(folder).fingerprint != scorer.fingerprint


def test_folder_without_weights(tmp_path: Path):
    with pytest.raises(ScorerError, match="no weights of the scorer 'linear' at .*train_linear_scorer.py"):
        LinearScorer(tmp_path / "nowhere")


@pytest.mark.parametrize("keep", [0, 1, 100, 20_000, -10])
def test_truncated_file(folder: Path, keep: int):
    path = folder / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ScorerError, match="cannot be read as a weights file"):
        LinearScorer(folder)


def test_file_that_is_one_array(folder: Path):
    with (folder / WEIGHTS_FILE).open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ScorerError, match="cannot be read as a weights file"):
        LinearScorer(folder)


def test_flipped_bytes(folder: Path):
    path = folder / WEIGHTS_FILE
    content = bytearray(path.read_bytes())
    content[5000:5100] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(ScorerError, match="cannot be read as a weights file"):
        LinearScorer(folder)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("bias", None, "lacks the array 'bias'"),
        ("bias", np.zeros(3), r"array 'bias' has shape \(3,\)"),
        ("bias", np.array(["a", "b"]), "array 'bias' has .* type <U1"),
        ("bias", np.array([0, np.nan]), "array 'bias' holds numbers that are not finite"),
        ("bias", np.array([object(), None]), "cannot be read as a weights file"),
        ("knots", np.zeros((2, 11)), "'knots' does not increase"),
        ("feature_version", np.array(ft.FEATURE_VERSION + 1), "was made for feature version 2"),
    ],
)
def test_wrong_arrays(folder: Path, name: str, array: np.ndarray | None, message: str):
    weights = linear.load_weights(folder)
    weights.pop(name)
    np.savez(folder / WEIGHTS_FILE, **weights, **({} if array is None else {name: array}))
    with pytest.raises(ScorerError, match=message):
        LinearScorer(folder)


def test_licence_is_said_once(caplog: pytest.LogCaptureFixture):
    linear._log_notice.cache_clear()
    with caplog.at_level(logging.WARNING, logger="ee_trl"):
        LinearScorer(BUNDLED)
        assert not caplog.records
        LinearScorer()
        LinearScorer()
    assert [record.getMessage() for record in caplog.records] == [LinearScorer.licence_notice]


# ---- meaning -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("turn", "feeling", "reasoning"),
    [
        (TURNS[0], "I'm so sorry for your loss. I know how much it hurts.", "Did you take him to the vet?"),
        (TURNS[1], "Congratulations! That is wonderful, you must be so happy.", "What kind of job is it?"),
        (TURNS[2], "Oh no, that's awful! I would be so mad.", "You should ask him to pay for the repair."),
        (TURNS[3], "I am sorry, I know how stressful that feels.", "Maybe you could study in the morning instead?"),
    ],
)
def test_feeling_and_reasoning_are_told_apart(scorer: LinearScorer, turn: str, feeling: str, reasoning: str):
    warm, cool = scorer.score([dialogue(turn, feeling), dialogue(turn, reasoning)])
    assert warm[0] > cool[0] + 0.5
    assert cool[1] > warm[1] + 1


def test_cross_validated_figures_clear_the_bars():
    metrics = json.loads((BUNDLED / "metrics.json").read_text())
    for figures in (metrics["spearman_mean_over_folds"], metrics["spearman_pooled"]):
        assert figures["sensibility"] >= 0.47
        assert figures["rationality"] >= 0.54
    at5 = metrics["by_threshold_pooled"]["5"]
    assert at5["kappa"] >= 0.35
    assert at5["agreement"] > at5["majority_agreement"]
    for row in metrics["by_threshold_pooled"].values():
        assert abs(row["sensibility_share"] - row["judge_sensibility_share"]) <= 0.05
        assert abs(row["rationality_share"] - row["judge_rationality_share"]) <= 0.05


def test_card_is_up_to_date(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from linear_scorer_card import render

    metrics = json.loads((BUNDLED / "metrics.json").read_text())
    speed = json.loads((SCRIPTS.parent / "benchmarks" / "results" / "linear_scorer.json").read_text())
    assert speed["fingerprint"] == metrics["fingerprint"]
    assert (BUNDLED / "README.md").read_text(encoding="utf-8") == render(metrics, speed)


def test_speed(scorer: LinearScorer):
    dialogues = made_up() * 40
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        scorer.score(dialogues)
        seconds.append(time.perf_counter() - start)
    assert len(dialogues) / min(seconds) >= 5000


# ---- real data -----------------------------------------------------------------------------------------------------


@pytest.mark.data
@needs_data
def test_share_on_natural_training_text(scorer: LinearScorer):
    """The judge puts 60.6 % of validation into the sensibility set, the paper 59 % of train."""
    pq = pytest.importorskip("pyarrow.parquet")
    rows = pq.read_table(Path(DATA) / "ed_train.parquet", columns=["context", "response"]).to_pylist()[::4]
    scores = scorer.score([dialogue(tuple(row["context"]), row["response"]) for row in rows])
    assert np.isfinite(scores).all()
    share = np.mean((scores[:, 0] > 5) & (scores[:, 1] < 5))
    assert abs(share - 0.606) <= 0.05


PARTS = [
    "i'm",
    " 'm",
    "n't",
    "ca n't",
    "can n't",
    "wo n't",
    "ai n't",
    ". .",
    "! ?",
    "?!",
    "it's",
    " 's",
    "'",
    '"',
    "word",
    "\u03a3",
    "\u0130",
]
PARTS += [
    "\u2019s",
    "\0",
    "\ud83d",
    "\t",
    "\x1c",
    "_comma_",
    "`",
    "7",
    "1990's",
    "3.5",
    "12st",
    "x_7_y",
    "cannot",
    "soooo",
    "...",
    "he'd",
    "_",
    " ",
]


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    st.lists(st.lists(st.sampled_from([*PARTS, " ", " "]), max_size=8).map("".join) | st.text(max_size=9), max_size=6)
)
def test_many_texts_at_once_have_the_tokens_that_each_has_alone(texts: list[str]):
    assert list(ft.Vocabulary().read(texts)) == [ft.tokenise(text) for text in texts]
