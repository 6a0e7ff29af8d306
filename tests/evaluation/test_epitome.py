"""EPITOME classifiers: they learn, come back from their folder the same, and are measured on what they did not see."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset

from ee_trl import load_metric
from ee_trl.cli.main import main
from ee_trl.errors import EmpathyError, FormatError
from ee_trl.evaluation.metrics.epitome_classifier import MECHANISMS, load_classifier
from ee_trl.evaluation.metrics.epitome_training import cross_validate, level_report, read_posts, train_epitome


WARM = ["", "i am sorry", "i am so deeply sorry my heart aches"]
KNOWS = ["", "you must be sad", "i understand how sad you are after all of that"]
ASKS = ["", "and ?", "what happened then and how do you feel about it ?"]
FILLER = ("the", "bus", "comes", "at", "nine", "and", "shop", "is", "by", "road", "with", "trees", "a", "red", "door")


def posts(n: int = 150, seed: int = 0) -> Dataset:
    """Made posts whose words give their levels away."""
    draw = random.Random(seed)
    rows = []
    for i in range(n):
        levels = [draw.choices((0, 1, 2), (5, 2, 2))[0] for _ in MECHANISMS]
        parts = [part[level] for part, level in zip((WARM, KNOWS, ASKS), levels, strict=True)]
        parts.append(" ".join(draw.choices(FILLER, k=6)))
        draw.shuffle(parts)
        rows.append(
            {
                "sp_id": f"s{i // 2}",
                "seeker_post": f"it is number {i // 2}",
                "response_post": " ".join(part for part in parts if part),
                **dict(zip(MECHANISMS, levels, strict=True)),
            }
        )
    return Dataset.from_list(rows)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of random weights, and its tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    texts = " ".join([*WARM, *KNOWS, *ASKS, *FILLER, "it is number"])
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted(set(texts.split()))]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, **special).save_pretrained(folder)
    size = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(vocab_size=len(words), max_position_embeddings=64, initializer_range=0.3, **size)
        BertModel(config).save_pretrained(folder)
    return folder


def test_the_linear_classifier_learns_and_comes_back_the_same(tmp_path) -> None:
    data = read_posts(posts())
    record = train_epitome(data, tmp_path / "linear", folds=3)
    for row in record["cross_validation"]["mechanisms"].values():
        assert row["macro_f1"] > 0.8
        assert row["majority"]["macro_f1"] < 0.4
        assert row["majority"]["recall"] == {"0": 1.0, "1": 0.0, "2": 0.0}
    assert (
        json.loads((tmp_path / "linear" / "epitome.json").read_text())["cross_validation"]
        == (record["cross_validation"])
    )
    first, again = train_epitome(data, tmp_path / "again", folds=0), load_classifier(tmp_path / "linear")
    assert first["cross_validation"] is None
    fresh = read_posts(posts(40, seed=9))
    levels = again.predict(fresh.seekers, fresh.responses)
    assert (levels == fresh.levels).mean() > 0.9
    assert (load_classifier(tmp_path / "again").predict(fresh.seekers, fresh.responses) == levels).all()
    alone = np.concatenate([again.predict([s], [r]) for s, r in zip(fresh.seekers, fresh.responses, strict=True)])
    assert (alone == levels).all()
    stored = b"".join(path.read_bytes() for path in (tmp_path / "linear").iterdir())
    assert b"deeply" not in stored  # nothing of the data's text is kept


def test_the_metric_takes_the_folder(tmp_path) -> None:
    train_epitome(read_posts(posts()), tmp_path, folds=0)
    found = load_metric("epitome").compute(
        predictions=["i am so deeply sorry my heart aches", "the bus", " "],
        references=["the bus comes", "the bus comes", "and ?"],
        contexts=["x", ["a", "b"], [{"role": "user", "content": "y"}]],
        classifier=str(tmp_path),
    )
    assert found["emotional_reactions"] == pytest.approx(2 / 3)
    assert found["diff_er"] == pytest.approx(4 / 3)
    assert found["diff_ex"] == pytest.approx(1 / 3)  # a blank reply asks nothing


@pytest.mark.slow
def test_the_encoder_learns_and_comes_back_the_same(encoder, tmp_path) -> None:
    data = read_posts(posts(300))
    options = {"epochs": 30, "learning_rate": 5e-3, "batch_size": 32}
    before = torch.get_rng_state()
    record = train_epitome(data, tmp_path / "encoder", encoder=str(encoder), folds=2, **options)
    for name, row in record["cross_validation"]["mechanisms"].items():
        assert row["macro_f1"] > row["majority"]["macro_f1"] + 0.3, name
    assert torch.equal(before, torch.get_rng_state())
    loaded = load_classifier(tmp_path / "encoder")
    fresh = read_posts(posts(60, seed=9))
    levels = loaded.predict(fresh.seekers, fresh.responses)
    assert (levels == fresh.levels).mean() > 0.75
    loaded.batch_size = 1
    assert (loaded.predict(fresh.seekers, fresh.responses) == levels).all()
    again = train_epitome(data, tmp_path / "again", encoder=str(encoder), folds=0, **options)
    assert again["settings"]["epochs"] == 30
    weights = [load_classifier(tmp_path / name).model.state_dict() for name in ("encoder", "again")]
    assert all(torch.equal(a, b) for a, b in zip(*(w.values() for w in weights), strict=True))


def test_what_it_is_measured_on_it_did_not_see() -> None:
    data = read_posts(posts(60))
    seen: list[tuple[set[str], set[str]]] = []

    class Spy:
        def __init__(self, trained: set[str]) -> None:
            self.trained = trained

        def predict(self, seekers, responses):
            seen.append((self.trained, set(seekers)))
            return np.zeros((len(responses), 3), int)

    found = cross_validate(lambda seekers, responses, levels: Spy(set(seekers)), data, folds=3)
    assert len(seen) == 3
    assert all(not trained & tested for trained, tested in seen)  # both replies to one seeker are on one side
    for i, name in enumerate(MECHANISMS):
        assert found[name]["recall"]["0"] == 1.0
        assert found[name]["accuracy"] == pytest.approx((data.levels[:, i] == 0).mean())
    with pytest.raises(ValueError, match="31 folds need at least 31 different seekers, got 30"):
        cross_validate(lambda *args: Spy(set()), data, folds=31)


def test_report_by_hand() -> None:
    found = level_report(np.array([0, 0, 0, 1]), np.array([0, 0, 2, 0]))
    # level 0: precision 2/3, recall 2/3; level 1: nothing found
    assert found["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)
    assert (found["accuracy"], found["recall"], found["samples"]) == (0.5, {"0": 2 / 3, "1": 0.0}, {"0": 3, "1": 1})


def test_data_of_another_form_are_refused(tmp_path) -> None:
    good = posts(4)
    for wrong, message in (
        (good.remove_columns("seeker_post"), "have no column 'seeker_post'"),
        (good.map(lambda row: {"explorations": 3}), "row 0: explorations is 3; valid: 0, 1, 2"),
        (good.map(lambda row: {"response_post": " "}), "row 0: response_post is ' '"),
        (good.select([]), "hold no row"),
    ):
        with pytest.raises(FormatError, match=re.escape(message)):
            read_posts(wrong)
    with pytest.raises(EmpathyError, match="no classifier was trained: 5 folds need"):
        train_epitome(read_posts(good), None)
    with pytest.raises(EmpathyError, match="no classifier was trained"):
        train_epitome(read_posts(posts(20)), tmp_path, encoder="/no/such/folder", folds=0)


def test_a_classifier_that_breaks_its_contract_is_refused(tmp_path) -> None:
    metric = load_metric("epitome")
    columns = {"predictions": ["a"], "references": ["b"], "contexts": ["c"]}
    for levels in ([[0, 1]], [[0, 1, 3]], [[0.5, 0, 0]]):
        bad = type("Bad", (), {"predict": lambda self, s, r, levels=levels: levels})()
        with pytest.raises(ValueError, match="expected levels 0, 1 or 2 of shape"):
            metric.compute(**columns, classifier=bad)
    with pytest.raises(ValueError, match="has no method predict"):
        metric.compute(**columns, classifier=3)
    with pytest.raises(ValueError, match="classifier is needed.*ee-trl train-epitome"):
        metric.compute(**columns)
    with pytest.raises(ValueError, match="holds no EPITOME classifier"):
        metric.compute(**columns, classifier=str(tmp_path))


def test_the_command(tmp_path, capsys) -> None:
    posts().to_parquet(tmp_path / "posts.parquet")
    command = ["train-epitome", str(tmp_path / "posts.parquet"), "-o", str(tmp_path / "out")]
    assert main([*command, "--folds", "2"]) == 0
    out = capsys.readouterr().out
    assert "macro F1" in out
    assert out.count("majority class") == 3
    assert main(command) == 3
    assert "epitome.json' already there" in capsys.readouterr().err
    assert main([*command, "--overwrite", "--folds", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cross_validation"] is None
    assert main([*command, "--overwrite", "--folds", "1"]) == 3


def test_nothing_trained_is_shipped() -> None:
    from importlib.resources import files

    assets = Path(str(files("ee_trl"))) / "assets"
    assert not [path for path in assets.rglob("*") if "epitome" in path.name]


def test_the_page_quotes_the_recorded_cross_validation() -> None:
    root = Path(__file__).parents[2]
    page = (root / "docs/evaluation.md").read_text(encoding="utf-8")
    found = json.loads((root / "benchmarks/results/epitome.json").read_text())["classifiers"]["linear"]
    for name in MECHANISMS:
        row, majority = found[name], found[name]["majority"]
        recalls = ", ".join(f"{row['recall'][level]:.2f}" for level in "012")
        assert (
            f"| {name.replace('_', ' ')} | {row['macro_f1']:.2f} | {row['accuracy']:.0%} | {recalls} | "
            f"{majority['macro_f1']:.2f}, {majority['accuracy']:.0%} |"
        ).replace("%", " %") in page
