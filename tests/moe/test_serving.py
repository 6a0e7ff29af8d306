"""The folder to serve is vLLM's, and in this process the chosen expert replies."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import tiny_moe as tiny
import torch
from peft import PeftModel
from tiny_moe import FACTS, SAD, dialogues
from transformers import AutoModelForCausalLM, AutoTokenizer

from ee_trl import RequestRouter, build_tiny_causal_lm
from ee_trl.errors import CompositionError
from ee_trl.evaluation.generation import generate_replies
from ee_trl.moe.serving import RoutedModel, write_serving


pytestmark = [pytest.mark.filterwarnings("ignore")]  # of generation


@pytest.fixture(scope="module")
def router() -> RequestRouter:
    return RequestRouter.fit({"sensibility": dialogues(SAD, 5), "rationality": dialogues(FACTS)})


@pytest.fixture(scope="module")
def served(router: RequestRouter, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("served")
    base = build_tiny_causal_lm(root / "base", hidden_size=32, num_hidden_layers=2)
    found = {"base": base}
    for seed, (name, settings) in enumerate(tiny.LORAS.items()):
        found[name] = tiny.build_lora(base, root / name, seed, **settings)
    experts = {name: found[name] for name in tiny.LORAS}
    return found | {"serving": write_serving(base, experts, router, root / "serving")}


@pytest.mark.parametrize(("rank", "served_as"), [(1, 1), (2, 8), (300, 320), (512, 512)])
def test_the_rank_is_one_that_vllm_accepts(
    rank: int, served_as: int, served: dict[str, Path], router: RequestRouter, tmp_path: Path
) -> None:
    experts = {n: tiny.build_lora(served["base"], tmp_path / n, 0, ["q_proj"], r=rank) for n in tiny.LORAS}
    folder = write_serving(served["base"], experts, router, tmp_path / "serving")
    assert f"--max-lora-rank {served_as} " in (folder / "serve.sh").read_text()


def test_replies_are_those_of_the_expert_chosen(served: dict[str, Path], router: RequestRouter) -> None:
    prompts = [FACTS[0], SAD[0], FACTS[2], SAD[3]]
    found = RoutedModel.load(served["serving"]).reply(prompts, max_new_tokens=6)
    assert [expert for expert, _ in found] == ["rationality", "sensibility", "rationality", "sensibility"]
    tokenizer = AutoTokenizer.from_pretrained(served["base"])
    for name in tiny.LORAS:
        alone = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(served["base"]), served[name]).eval()
        own = [i for i, (expert, _) in enumerate(found) if expert == name]
        talks = [[{"role": "user", "content": prompts[i]}] for i in own]
        assert [found[i][1] for i in own] == generate_replies(alone, tokenizer, talks, max_new_tokens=6)


def test_the_folder_is_what_vllm_serves(served: dict[str, Path]) -> None:
    folder = served["serving"]
    script = (folder / "serve.sh").read_text().splitlines()[1]
    words = shlex.split(script)
    assert words[:3] == ["vllm", "serve", str(served["base"])]
    assert "--enable-lora" in words
    assert words[words.index("--max-lora-rank") + 1] == "8"
    modules = dict(word.split("=") for word in words[words.index("--lora-modules") + 1 :])
    assert list(modules) == list(tiny.LORAS)
    for name, place in modules.items():
        adapter = folder / place
        assert {path.name for path in adapter.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
        assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
            served["base"]
        )
        original = served[name] / "adapter_model.safetensors"
        assert (adapter / "adapter_model.safetensors").read_bytes() == original.read_bytes()


def test_what_cannot_be_served_is_refused(served: dict[str, Path], router: RequestRouter, tmp_path: Path) -> None:
    experts: dict[str, Any] = {name: served[name] for name in tiny.LORAS}
    large = tiny.build_lora(served["base"], tmp_path / "large", 0, ["q_proj"], r=600)
    cases = [
        (experts | {"third": served["base"]}, "the router is for"),
        (experts | {"sensibility": served["base"]}, "is a full model"),
        (experts | {"sensibility": large}, "exceed 512"),
    ]
    for given, said in cases:
        with pytest.raises(CompositionError, match=said):
            write_serving(served["base"], given, router, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    with pytest.raises(CompositionError, match="is not overwritten"):
        write_serving(served["base"], experts, router, served["serving"])
    with pytest.raises(CompositionError, match="do not fit 2 experts"):
        RequestRouter(("a", "b"), torch.zeros(3, 2))
    with pytest.raises(CompositionError, match="no prompt to learn from"):
        RequestRouter.fit({"a": dialogues(SAD), "b": dialogues(SAD).select([])})
