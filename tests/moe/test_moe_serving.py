"""One routing decision a request: the classifier learns, the folder is vLLM's, the expert chosen replies."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_moe as tiny
import torch
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from ee_trl import RequestRouter, build_tiny_causal_lm
from ee_trl.errors import CompositionError
from ee_trl.evaluation.generation import generate_replies
from ee_trl.moe.request_router import prompt_buckets
from ee_trl.moe.serving import RoutedModel, write_serving


pytestmark = [pytest.mark.filterwarnings("ignore")]  # of generation

SAD = ["i feel so lonely", "my dog died and i cry", "she left me and it hurts", "i am heartbroken and alone"]
FACTS = [
    "how do i fix the router",
    "which train goes to the city",
    "what does the invoice cost",
    "how to file a tax form",
]


def dialogues(texts: list[str], copies: int = 1) -> Dataset:
    return Dataset.from_list([{"context": [text], "response": "ok"} for text in texts * copies])


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


def test_it_learns_which_set_a_prompt_is_of(router: RequestRouter) -> None:
    assert router.route(["i cry and feel alone", "what does the train cost"]) == ["sensibility", "rationality"]
    assert router.route([[{"role": "user", "content": "how to fix the invoice"}]]) == ["rationality"]
    shares = router.probabilities([*SAD, *FACTS])
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-6)
    accuracy = router.accuracy({"sensibility": dialogues(SAD), "rationality": dialogues(FACTS)})
    assert accuracy == {"sensibility": 1.0, "rationality": 1.0, "balanced": 1.0}
    assert router.probabilities([]).shape == (0, 2)


def test_sets_count_alike_whatever_their_size() -> None:
    """A prompt without a known word is of neither set."""
    one = RequestRouter.fit({"a": dialogues(SAD, 50), "b": dialogues(FACTS)})
    np.testing.assert_allclose(one.probabilities(["zzz qqq"])[0], [0.5, 0.5], atol=0.05)


def test_the_last_message_counts_otherwise_than_those_before() -> None:
    talk = [{"role": "user", "content": "sad news"}, {"role": "assistant", "content": "oh"}]
    assert set(prompt_buckets([*talk, {"role": "user", "content": "why"}])).isdisjoint(prompt_buckets("sad news"))
    system = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "sad news"}]
    assert prompt_buckets(system) == prompt_buckets("sad news")
    with pytest.raises(CompositionError, match="cannot be routed"):
        prompt_buckets(system[:1])


def test_prompts_without_words_in_parts_or_alone(router: RequestRouter) -> None:
    parts = [{"type": "text", "text": SAD[0]}, {"type": "image_url", "image_url": {"url": "x"}}]
    history = [{"role": "assistant", "content": None}, {"role": "user", "content": SAD[0]}]
    assert router.route([SAD[0], [{"role": "user", "content": parts}], history]) == ["sensibility"] * 3
    empty = router.probabilities(["", " ", [{"role": "user", "content": None}]])
    np.testing.assert_allclose(empty, empty[:1].repeat(3, axis=0))
    for alone in ("I cried", history):
        with pytest.raises(CompositionError, match=r"is one prompt; give a list of prompts: route\(\[prompt\]\)"):
            router.route(alone)  # type: ignore[arg-type]
    with pytest.raises(CompositionError, match="the set of expert 'rationality' holds no prompt to measure on"):
        router.accuracy({"sensibility": dialogues(SAD), "rationality": dialogues(FACTS).select([])})


@pytest.mark.parametrize(("rank", "served_as"), [(1, 1), (2, 8), (300, 320), (512, 512)])
def test_the_rank_is_one_that_vllm_accepts(
    rank: int, served_as: int, served: dict[str, Path], router: RequestRouter, tmp_path: Path
) -> None:
    experts = {n: tiny.build_lora(served["base"], tmp_path / n, 0, ["q_proj"], r=rank) for n in tiny.LORAS}
    folder = write_serving(served["base"], experts, router, tmp_path / "serving")
    assert f"--max-lora-rank {served_as} " in (folder / "serve.sh").read_text()


def test_saved_and_loaded_it_is_the_same(router: RequestRouter, tmp_path: Path) -> None:
    again = RequestRouter.load(router.save(tmp_path))
    assert again.experts == router.experts
    assert np.array_equal(again.probabilities(SAD), router.probabilities(SAD))
    record = json.loads((tmp_path / "request_router.json").read_text())
    (tmp_path / "request_router.json").write_text(json.dumps(record | {"feature_version": 0}))
    with pytest.raises(CompositionError, match="another version"):
        RequestRouter.load(tmp_path)
    with pytest.raises(CompositionError, match="holds no request router"):
        RequestRouter.load(tmp_path / "nowhere")


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
