"""What cannot be composed is refused by name, before anything is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_moe as tiny
import torch
from safetensors.torch import load_file, save_file
from tiny_moe import EXPERTS, experts_of
from transformers import Qwen3Config

from ee_trl import compose_moe
from ee_trl.errors import CompositionError


@pytest.fixture
def llama() -> dict[str, Path]:
    """Without a tokenizer."""
    return tiny.family("llama")


def edited(folder: Path, to: Path, file: str, **changes: Any) -> Path:
    tiny.copy_of(folder, to)
    content = json.loads((to / file).read_text())
    (to / file).write_text(json.dumps(content | changes))
    return to


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"use_dora": True}, "uses DoRA"),
        ({"bias": "all"}, "uses bias='all'"),
        ({"lora_bias": True}, "uses lora_bias=True"),
        ({"modules_to_save": ["lm_head"]}, r"uses modules_to_save=\['lm_head'\]"),
        ({"trainable_token_indices": [1]}, "uses trainable_token_indices"),
        ({"layer_replication": [[0, 1]]}, "uses layer_replication"),
        ({"target_parameters": ["x"]}, "uses target_parameters"),
        ({"init_lora_weights": "pissa_niter_4"}, "initialised with 'pissa_niter_4'"),
        ({"init_lora_weights": "olora"}, "initialised with 'olora'"),
        ({"peft_type": "IA3"}, "adapter of type 'IA3'"),
        ({"base_model_name_or_path": "other/model"}, "trained on 'other/model'.*trust_base"),
    ],
)
def test_an_adapter_that_cannot_be_folded_in_is_refused_by_name(
    llama: dict[str, Path], tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    odd = edited(llama["rationality"], tmp_path / "odd", "adapter_config.json", **changes)
    with pytest.raises(CompositionError, match=said):
        compose_moe(llama["base"], {"sensibility": llama["sensibility"], "odd": odd}, tmp_path / "moe")
    assert [path.name for path in tmp_path.iterdir()] == ["odd"]


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")  # older PEFT, of the adapter
def test_real_dora_and_lora_on_embeddings_are_refused(llama: dict[str, Path], tmp_path: Path) -> None:
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (tiny.LAYERS, {"use_dora": True}, "DoRA"),
        ([*tiny.LAYERS, "embed_tokens"], {}, "embed_tokens.*no factor of a linear"),
    ]
    for i, (targets, settings, said) in enumerate(cases):
        odd = tiny.build_lora(llama["base"], tmp_path / f"odd{i}", 3, targets, r=2, **settings)
        with pytest.raises(CompositionError, match=said):
            compose_moe(llama["base"], {"a": llama["sensibility"], "b": odd}, tmp_path / "moe")
        assert not (tmp_path / "moe").exists()


def test_a_base_that_moved_is_the_same_base(llama: dict[str, Path], tmp_path: Path) -> None:
    moved = tiny.copy_of(llama["base"], tmp_path / "moved")
    compose_moe(moved, experts_of(llama), tmp_path / "moe")  # the LoRAs name the old folder, which has the same bytes
    other = tiny.build(tiny.config_of("llama"), tmp_path / "other", seed=9)
    with pytest.raises(CompositionError, match="says that it was trained on"):
        compose_moe(other, experts_of(llama), tmp_path / "moe2")
    compose_moe(other, experts_of(llama), tmp_path / "moe2", trust_base=True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rms_norm_eps": 1e-3}, "rms_norm_eps is 0.001, the base has 1e-06"),
        ({"rope_parameters": tiny.SCALED}, "rope_parameters"),
        ({"model_type": "mistral"}, "model_type is 'mistral', the base has 'llama'"),
        ({"num_hidden_layers": 3}, "num_hidden_layers is 3"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "is quantized"),
    ],
)
def test_unlike_bases_are_refused(llama: dict[str, Path], tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    odd = edited(llama["base"], tmp_path / "odd", "config.json", **changes)
    with pytest.raises(CompositionError, match=said):
        compose_moe(llama["base"], {"a": llama["sensibility"], "b": odd}, tmp_path / "moe")
    assert not (tmp_path / "moe").exists()


def test_a_lora_of_other_shapes_or_layers_is_refused(llama: dict[str, Path], tmp_path: Path) -> None:
    file = "adapter_model.safetensors"
    tensors = load_file(llama["sensibility"] / file)
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"
    for change, said in (
        ({name: torch.zeros(4, 33)}, r"up_proj.*is for shape \(48, 33\), the base has \(48, 32\)"),
        ({name.replace("layers.0", "layers.7"): torch.zeros(4, 32)}, "holds only one factor"),
        ({name.replace("lora_A", "lora_magnitude"): torch.zeros(4, 32)}, "which is no factor"),
    ):
        odd = tiny.copy_of(llama["sensibility"], tmp_path / f"odd{len(said)}")
        save_file(tensors | change, odd / file)
        with pytest.raises(CompositionError, match=said):
            compose_moe(llama["base"], {"a": llama["sensibility"], "b": odd}, tmp_path / "moe")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"words": 60}, "different tokenizers .*'w60' is 63 in one and None in the other"),
        ({"eos_token": "<s>"}, "different tokenizers: eos_token is '</s>' and '<s>'"),
        ({"template": "other"}, "different chat templates"),
    ],
)
def test_unlike_tokenizers_are_refused(
    llama: dict[str, Path], tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    experts = {name: tiny.copy_of(llama[name], tmp_path / name) for name in EXPERTS}
    tiny.build_tokenizer(experts["sensibility"])
    tiny.build_tokenizer(experts["rationality"], **settings)
    with pytest.raises(CompositionError, match=said):
        compose_moe(llama["base"], experts, tmp_path / "moe")
    assert not (tmp_path / "moe").exists()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"mlp_bias": True}, "mlp_bias=True"),
        ({"model_type": "gpt2"}, "unknown model_type of the base 'gpt2'; valid: llama, mistral, qwen2, qwen3"),
        ({"model_type": "mixtral"}, "is a mixture already"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "is quantized"),
        ({"tie_word_embeddings": False, "num_hidden_layers": 3}, "lacks model.layers.2.mlp.down_proj.weight"),
    ],
)
def test_bases_without_a_native_target_are_refused(
    llama: dict[str, Path], tmp_path: Path, config: dict[str, Any], said: str
) -> None:
    base = edited(llama["base"], tmp_path / "base", "config.json", **config)
    with pytest.raises(CompositionError, match=said):
        compose_moe(base, experts_of(llama), tmp_path / "moe", trust_base=True)
    assert not (tmp_path / "moe").exists()


def test_qwen3_with_two_kinds_of_attention_is_refused(tmp_path: Path) -> None:
    sliding = {"use_sliding_window": True, "sliding_window": 8}
    base = tiny.build(Qwen3Config(**tiny.SIZES, **sliding, max_window_layers=1), tmp_path / "base")
    with pytest.raises(CompositionError, match="mixes full_attention and sliding_attention"):
        compose_moe(base, {"a": base, "b": base}, tmp_path / "moe")
    all_sliding = tiny.build(Qwen3Config(**tiny.SIZES, **sliding, max_window_layers=0), tmp_path / "sliding")
    out = compose_moe(all_sliding, {"a": all_sliding, "b": all_sliding}, tmp_path / "moe")
    ids = tiny.tokens()
    torch.testing.assert_close(tiny.logits(tiny.load(out), ids), tiny.logits(tiny.load(all_sliding), ids))
