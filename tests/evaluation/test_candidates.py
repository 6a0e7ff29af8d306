"""What is evaluated: models by their content, and files of replies."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from tiny_candidates import base_and_adapter

from ee_trl.errors import CompositionError, EmpathyError, FormatError
from ee_trl.evaluation import Decoding, evaluate_models, read_eval_set
from ee_trl.evaluation.candidates import candidates_of, load_candidate, read_replies


SHORT = Decoding(max_new_tokens=8)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return base_and_adapter(tmp_path_factory.mktemp("models"))


def test_a_loaded_pair_is_told_apart_by_its_tokenizer_too(models, tmp_path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(models["base"]),
        AutoTokenizer.from_pretrained(models["base"]),
    )

    def named() -> str:
        return load_candidate((model, tokenizer)).fingerprint

    names = [named()]
    tokenizer(["a", "longer text"], padding=True, truncation=True, max_length=1)
    assert named() == names[0]  # what a call leaves behind is no part of it
    template = tokenizer.chat_template
    tokenizer.chat_template = "hm " + template
    names.append(named())
    tokenizer.chat_template = template
    assert named() == names[0]
    model.generation_config.eos_token_id = [5, 6]
    names.append(named())
    tokenizer.add_tokens(["<other>"])
    names.append(named())
    assert len(set(names)) == 4
    options = {"limit": 2, "decoding": SHORT, "resamples": 0, "store": False, "metrics": ["distinct"], "show": False}
    for changed in (template, "hm " + template):
        tokenizer.chat_template = changed
        evaluate_models({"m": (model, tokenizer)}, **options, output=tmp_path)
    assert len(list((tmp_path / "replies").iterdir())) == 2


def test_a_launched_process_loads_onto_its_own_device(models, monkeypatch) -> None:
    from ee_trl.scoring import base

    monkeypatch.setattr(base, "local_device", lambda: "meta")
    assert load_candidate(models["base"]).model.device == torch.device("meta")


def test_a_file_may_hold_replies_to_all_dialogues_of_which_some_are_chosen(tmp_path) -> None:
    everything, some = read_eval_set(), read_eval_set(limit=4)
    (tmp_path / "all.txt").write_text("\n".join(f"reply {i}" for i in range(len(everything))), encoding="utf-8")
    replies = read_replies(tmp_path / "all.txt", some)
    assert replies.texts == [f"reply {i}" for i in some.rows]
    assert [everything.references[i] for i in some.rows] == some.references


def test_a_line_of_a_text_file_is_a_reply_whatever_it_holds(tmp_path) -> None:
    eval_set, path = read_eval_set(limit=4), tmp_path / "r.txt"
    replies = ["one\u2028still one", "two\x0b\x85\rstill two", "", "four"]
    for text in ("\n".join(replies), "\n".join(replies) + "\n", "\ufeff" + "\r\n".join(replies) + "\r\n"):
        path.write_bytes(text.encode())
        assert read_replies(path, eval_set).texts == replies
    path.write_bytes("größer".encode("latin-1"))
    with pytest.raises(
        FormatError, match="r.txt' is not encoded in UTF-8; it looks like cp1252.*größer.*iconv -f cp1252"
    ):
        read_replies(path, eval_set)


def test_names_of_candidates(tmp_path) -> None:
    (tmp_path / "index.txt").write_text("a\n", encoding="utf-8")
    for given in ({"models": {"index": "org/model"}}, {"predictions": [tmp_path / "index.txt"]}):
        with pytest.raises(EmpathyError, match="a candidate cannot be called 'index'"):
            candidates_of(**given)
    assert [c.name for c in candidates_of(["my-org/model-8b", "x=org/other"])] == ["model-8b", "x"]


def test_weights_that_are_pickles_are_not_read(models, tmp_path) -> None:
    from safetensors.torch import load_file

    for name, weights in (("base", "model"), ("adapter", "adapter_model")):
        folder = tmp_path / name
        shutil.copytree(models[name], folder)
        pickled = folder / ("pytorch_model.bin" if name == "base" else "adapter_model.bin")
        torch.save(load_file(folder / f"{weights}.safetensors"), pickled)
        (folder / f"{weights}.safetensors").unlink()
        with pytest.raises(EmpathyError, match=f"{weights}.safetensors"):
            load_candidate(folder)


DAMAGE = {
    "weights cut short": ("model.safetensors", lambda raw: raw[:5]),
    "weights of noise": ("model.safetensors", lambda raw: b"\xff" * 300),
    "null": ("config.json", lambda raw: b"null"),
    "wrong type": ("config.json", lambda raw: raw.replace(b'"hidden_size": 16', b'"hidden_size": "x"')),
    "no tokenizer": ("tokenizer.json", lambda raw: b"[]"),
}


@pytest.mark.parametrize(("file", "damage"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_model_is_said_to_be_one(file: str, damage, models, tmp_path) -> None:
    from ee_trl import compose_moe

    folder = tmp_path / "model"
    shutil.copytree(models["base"], folder)
    (folder / file).write_bytes(damage((folder / file).read_bytes()))
    with pytest.raises(EmpathyError, match=str(folder)):
        load_candidate(folder)
    with pytest.raises(CompositionError, match=str(folder)):
        compose_moe(models["base"], {"a": folder, "b": models["base"]}, tmp_path / "moe")
