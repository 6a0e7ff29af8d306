"""The distilled scorer: a score to the last bit, whoever its batch mates are; text that cannot become control."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_encoder import sample_dialogues, tiny_scorer
from transformers import AutoTokenizer

from ee_trl import Dialogue, EmpathyDataSelector, EncoderScorer, load_sample, load_scorer
from ee_trl.errors import ScorerError
from ee_trl.scoring import encoder
from ee_trl.scoring.base import local_device
from ee_trl.scoring.encoder import SETTINGS_FILE, STEP, EncoderInputs, fixed_batches
from ee_trl.scoring.linear import calibrate, knots_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_scorer(tmp_path_factory.mktemp("encoder") / "scorer")


@pytest.fixture(scope="module")
def dialogues() -> list[Dialogue]:
    """Of many lengths, one of which is cut."""
    long = Dialogue(("so " * 300, "why?", "because " * 90), "oh no " * 80, ("user", "assistant", "user"))
    return [*sample_dialogues(80), long]


# ---- scores --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{"dtype": "float32"}, {"dtype": "bfloat16"}, {"quantization": "int8"}],
    ids=["float32", "bfloat16", "int8"],
)
def test_batch_mates_move_no_bit(folder: Path, dialogues: list[Dialogue], options: dict[str, str]) -> None:
    scorer = EncoderScorer(folder, token_budget=256, **options)
    together = scorer.raw(dialogues)
    assert len(np.unique(together.round(4), axis=0)) > 70, "scores that do not differ would prove nothing"
    order = np.random.default_rng(1).permutation(len(dialogues))
    shuffled = np.empty_like(together)
    shuffled[order] = scorer.raw([dialogues[i] for i in order])
    np.testing.assert_array_equal(shuffled, together)
    np.testing.assert_array_equal(np.concatenate([scorer.raw([d]) for d in dialogues[::7]]), together[::7])
    np.testing.assert_array_equal(
        scorer.score(dialogues)[::7], np.stack([scorer.score([d])[0] for d in dialogues[::7]])
    )


def test_scores_are_those_of_the_plain_model(folder: Path, dialogues: list[Dialogue]) -> None:
    """One text at a time, no padding, no budget: within 1e-5 before calibration."""
    scorer = EncoderScorer(folder, dtype="float32")
    found = scorer.raw(dialogues)
    for i, text in enumerate(scorer.settings.inputs.encode(scorer.tokenizer, dialogues)):
        with torch.no_grad():
            plain = scorer.model(**{k: torch.tensor([v]) for k, v in text.items()}).logits[0]
        np.testing.assert_allclose(found[i], plain.numpy(), atol=1e-5)


def test_lower_precisions_stay_near(folder: Path, dialogues: list[Dialogue]) -> None:
    exact = EncoderScorer(folder, dtype="float32").raw(dialogues)
    for options in ({"dtype": "bfloat16"}, {"quantization": "int8"}):
        apart = np.abs(EncoderScorer(folder, **options).raw(dialogues) - exact)
        assert 0 < apart.mean() < 0.1 * exact.std()


def test_fingerprint_names_content_precision_and_shape(folder: Path, tmp_path: Path) -> None:
    one = EncoderScorer(folder, dtype="float32")
    assert one.fingerprint == EncoderScorer(folder, dtype="float32").fingerprint
    assert one.fingerprint.endswith("/float32/budget:1024")
    others = [EncoderScorer(folder, dtype="bfloat16"), EncoderScorer(folder, dtype="float32", token_budget=64)]
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "check.json").write_text("{}")  # a report on it, beside it
    assert EncoderScorer(copy, dtype="float32").fingerprint == one.fingerprint
    settings = json.loads((copy / SETTINGS_FILE).read_text())
    settings["inputs"]["text"] = "as_is"
    (copy / SETTINGS_FILE).write_text(json.dumps(settings))
    others.append(EncoderScorer(copy, dtype="float32"))
    assert len({one.fingerprint, *(other.fingerprint for other in others)}) == 4


def test_it_is_loaded_by_its_folder(folder: Path) -> None:
    assert isinstance(load_scorer(folder), EncoderScorer)
    selector = EmpathyDataSelector(folder, token_budget=512, show_progress=False)
    scored = selector.score(load_sample().select(range(20)))
    assert selector.coverage is not None
    assert selector.coverage.unscored_share == 0
    assert selector.coverage.forward_tokens >= selector.coverage.tokens > 0
    again = EmpathyDataSelector(folder, token_budget=512, show_progress=False)
    assert again.score(load_sample().select(range(20)))["sensibility"] == scored["sensibility"]
    assert again.coverage is not None
    assert again.coverage.asked == 0, "the second time all comes from the store"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / SETTINGS_FILE).write_text("{}"), "is damaged"),
        (lambda f: (f / "model.safetensors").unlink(), "cannot be loaded"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 300), "cannot be loaded"),
        (lambda f: _headless(f / "model.safetensors"), "lacks the weights classifier"),
        (lambda f: _edit(f, layout="encoder-0"), "layout 'encoder-0'"),
        (lambda f: _edit(f, knots=[[0.0] * 11] * 2), "the knots do not increase"),
        (lambda f: _edit(f, inputs={"max_length": 64, "text": "latin"}), "unknown text 'latin'"),
    ],
)
def test_a_damaged_folder_says_so(folder: Path, tmp_path: Path, change, message: str) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    change(copy)
    with pytest.raises(ScorerError, match=message):
        EncoderScorer(copy)


def _headless(path: Path) -> None:
    save_file({k: v for k, v in load_file(path).items() if "classifier" not in k}, path, {"format": "pt"})


def _edit(folder: Path, **changed: object) -> None:
    path = folder / SETTINGS_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float8"}, "unknown dtype 'float8'"),
        ({"quantization": "nf4"}, "unknown quantization 'nf4'; valid: none, int8"),
        ({"token_budget": 0}, "token_budget 0"),
        ({"rubric": "mine.md"}, "unknown option of a distilled scorer 'rubric'"),
    ],
)
def test_options_are_checked(folder: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ScorerError, match=message):
        load_scorer(folder, **options)


def test_each_process_of_a_launch_has_its_own_gpu(
    folder: Path, monkeypatch: pytest.MonkeyPatch, devices: list[torch.device]
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert local_device() == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert local_device() == "cuda"
    for rank, device in {"0": "cuda:0", "1": "cuda:1", "2": "cuda:0"}.items():
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert local_device() == device
    EncoderScorer(folder)
    EncoderScorer(folder, device="cpu")
    assert devices == [torch.device("cuda:0"), torch.device("cpu")]


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """Where encoders were asked to be; they are loaded on the CPU."""
    seen: list[torch.device] = []
    loaded = encoder.loaded

    def on_the_cpu(kind: Any, folder: Path, device: torch.device, *more: Any) -> Any:
        seen.append(device)
        return loaded(kind, folder, torch.device("cpu"), *more)

    monkeypatch.setattr(encoder, "loaded", on_the_cpu)
    return seen


# ---- what is read --------------------------------------------------------------------------------------------------


def read(folder: Path, dialogue: Dialogue, **options) -> list[str]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    [text] = EncoderInputs(**options).encode(tokenizer, [dialogue])
    assert text["token_type_ids"] == sorted(text["token_type_ids"])
    return tokenizer.convert_ids_to_tokens(text["input_ids"])


def test_turns_and_reply_are_two_segments_and_text_is_no_control(folder: Path) -> None:
    dialogue = Dialogue(("I am sad [SEP] no", "why ?"), "[MASK] oh [CLS]", ("user", "assistant"))
    for text in ("canonical", "as_is"):
        tokens = read(folder, dialogue, text=text)
        assert [t for t in tokens if t in ("[CLS]", "[SEP]", "[MASK]")] == ["[CLS]", "[SEP]", "[SEP]"]
        assert tokens[1] == ">"
        assert "<" in tokens


def test_what_is_too_long_loses_its_oldest_words(folder: Path) -> None:
    words = ("i", "am", "so", "sad", "about", "my", "dog", "now") * 4
    tokens = read(folder, Dialogue((" ".join(words),), "oh no", ("user",)), max_length=16)
    assert len(tokens) == 16
    assert tokens[-3:] == ["oh", "no", "[SEP]"]
    reply = " ".join(words)
    tokens = read(folder, Dialogue((" ".join(words),), reply, ("user",)), max_length=16)
    assert tokens.index("[SEP]") == 8, "half of the room is the reply's"
    assert [token[0] for token in tokens[9:11]] == ["i", "a"], "and keeps its beginning"


def test_natural_and_tokenised_text_have_one_score(folder: Path) -> None:
    scorer = EncoderScorer(folder)
    natural = Dialogue(("I'm sad, my dog died!",), "I'm so sorry, that's awful.", ("user",))
    tokenised = Dialogue(("i 'm sad , my dog died !",), "i 'm so sorry , that 's awful .", ("user",))
    np.testing.assert_array_equal(*scorer.score([natural, tokenised]))


def test_batches_have_one_shape_a_width() -> None:
    lengths = np.random.default_rng(0).integers(1, 90, 500).tolist()
    found = list(fixed_batches(lengths, 256, 72))
    assert sorted(i for _, _, members in found for i in members) == list(range(500))
    assert len({width for _, width, _ in found}) == len({(rows, width) for rows, width, _ in found})
    for rows, width, members in found:
        assert len(members) <= rows
        assert rows * width <= 256
        assert all(width - STEP < min(lengths[i], 72) <= width or width == 72 for i in members)


# ---- calibration ---------------------------------------------------------------------------------------------------


def test_calibration_gives_the_judges_shares() -> None:
    draw = np.random.default_rng(0)
    judge = draw.integers(0, 11, (4_000, 2)).astype(float)
    raw = 0.1 * judge + draw.normal(0, 0.3, judge.shape)  # a regression's predictions: drawn to the middle
    scores = calibrate(raw, knots_of(raw, judge))
    for t in range(1, 10):
        above = (scores > t).mean(axis=0)
        assert ((judge > t).mean(axis=0) - 1e-3 <= above).all()
        assert (above <= (judge >= t).mean(axis=0) + 1e-3).all()
    kept = [np.mean((s[:, 0] > 5) & (s[:, 1] < 5)) for s in (scores, judge, raw)]
    assert kept[0] == pytest.approx(kept[1], abs=0.05)
    assert kept[2] == 0, "uncalibrated, the threshold would keep nothing"
    assert (np.argsort(scores[:, 0], kind="stable") == np.argsort(raw[:, 0], kind="stable")).mean() > 0.9
