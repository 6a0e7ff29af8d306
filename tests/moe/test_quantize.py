"""A composed model in 4 bits: the experts really are, and it computes what its rounded weights say."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import tiny_moe as tiny
import torch
from bitsandbytes.functional import dequantize_4bit
from tiny_moe import compose, rows, settings
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from ee_trl.errors import CompositionError
from ee_trl.moe.quantize import EXPERT_PARAMETERS, experts_of, load_in_4bit, memory_of
from ee_trl.moe.training import RouterSFTTrainer


pytestmark = [pytest.mark.filterwarnings("ignore")]  # of bitsandbytes

WIDE = {"hidden_size": 128, "intermediate_size": 256}


@pytest.fixture(scope="module", params=["llama", "llama_bias", "qwen2"])
def moe(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "SIZES", tiny.SIZES | WIDE)
        folders = tiny.family_folder(request.param, root)
    return compose(folders, root / "moe")


def test_bitsandbytes_alone_skips_the_experts(moe: Path) -> None:
    """What this module is for; when it fails, bitsandbytes may do it by itself."""
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    alone = AutoModelForCausalLM.from_pretrained(moe, quantization_config=config, device_map={"": "cpu"})
    for layer in alone.model.layers:
        assert all(getattr(experts_of(layer), name).dtype.is_floating_point for name in EXPERT_PARAMETERS)


@pytest.mark.parametrize("double", [False, True])
def test_the_experts_are_in_4_bits_and_the_memory_says_so(
    moe: Path, double: bool, caplog: pytest.LogCaptureFixture
) -> None:
    full = tiny.load(moe)
    with caplog.at_level(logging.INFO, logger="ee_trl"):
        model = load_in_4bit(moe, device="cpu", double_quant=double)
    before, after = memory_of(full), memory_of(model)
    weights = sum(experts_of(layer).get_parameter(n).numel() for layer in full.model.layers for n in EXPERT_PARAMETERS)
    assert before.experts == 4 * weights
    scale = 1 + 4 / 256 if double else 4  # bytes of a scale, one for each block of 64
    assert after.experts == pytest.approx(weights / 2 + weights / 64 * scale, rel=0.15 if double else 0.01)
    assert before.total == sum(p.numel() * p.element_size() for p in full.parameters()) + sum(
        b.numel() * b.element_size() for b in full.buffers()
    )
    assert str(after) in caplog.text
    assert str(before) in caplog.text
    for layer in model.model.layers:
        for name in EXPERT_PARAMETERS:
            assert experts_of(layer).parametrizations[name].original.dtype == torch.uint8


def test_it_computes_what_its_rounded_weights_say_and_generates(moe: Path) -> None:
    full, model, ids = tiny.load(moe), load_in_4bit(moe, device="cpu"), tiny.tokens()
    exact = tiny.logits(full, ids)
    for ours, theirs in zip(full.model.layers, model.model.layers, strict=True):
        for name in EXPERT_PARAMETERS:
            experts_of(ours).get_parameter(name).data = getattr(experts_of(theirs), name).clone()
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            weight = getattr(theirs.self_attn, name).weight
            assert weight.dtype == torch.uint8
            getattr(ours.self_attn, name).weight.data = dequantize_4bit(weight.data, weight.quant_state)
    rounded = tiny.logits(full, ids)
    torch.testing.assert_close(tiny.logits(model, ids), rounded, atol=0.05 * float(rounded.std()), rtol=0)
    assert (rounded - exact).std() > 0.05 * exact.std()
    assert model.generate(ids[:, :4], max_new_tokens=3, min_new_tokens=3, do_sample=False).shape == (3, 7)


def test_each_expert_is_its_own_rounded_self(moe: Path) -> None:
    full, model = tiny.load(moe), load_in_4bit(moe, device="cpu")
    for ours, theirs in zip(model.model.layers, full.model.layers, strict=True):
        for name in EXPERT_PARAMETERS:
            rounded, exact = getattr(experts_of(ours), name), getattr(experts_of(theirs), name)
            assert rounded.shape == exact.shape
            assert (rounded - exact).std() < 0.12 * exact.std()
            assert torch.equal(ours.input_layernorm.weight, theirs.input_layernorm.weight)


def test_it_is_neither_saved_nor_trained(moe: Path, tmp_path: Path) -> None:
    model: Any = load_in_4bit(moe, device="cpu")
    with pytest.raises(CompositionError, match="quantize at each load"):
        model.save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(CompositionError, match="quantize after training"):
        RouterSFTTrainer(model, settings(tmp_path), train_dataset=rows())


def test_what_cannot_be_loaded_so_is_refused(moe: Path, tmp_path: Path) -> None:
    with pytest.raises(CompositionError, match="unknown quant_type 'int8'; valid: nf4, fp4"):
        load_in_4bit(moe, quant_type="int8")
    dense = tiny.build(tiny.config_of("llama"), tmp_path / "dense")
    with pytest.raises(CompositionError, match="'llama' is no composed mixture"):
        load_in_4bit(dense)
