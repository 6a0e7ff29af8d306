"""Training routers: only they learn, they do learn, and what cannot learn is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_moe as tiny
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from tiny_moe import compose, experts_of, rows, settings
from transformers import AutoModelForCausalLM, MixtralConfig, Qwen3MoeConfig

from ee_trl import compose_moe
from ee_trl.errors import CompositionError
from ee_trl.moe.routing import routers
from ee_trl.moe.training import ROUTERS, RouterSFTTrainer, check_config
from ee_trl.online.trl_internals import load_checkpoint


pytestmark = [pytest.mark.filterwarnings("ignore")]  # of the libraries that train

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


@pytest.fixture(scope="module", params=tiny.ALL)
def moe(request: pytest.FixtureRequest) -> Path:
    return tiny.mixture(request.param)["moe"]


@pytest.fixture
def llama() -> Path:
    return tiny.mixture("llama-tied-scaled")["moe"]


def train(model: Any, folder: Path, *, resume: str | None = None, **changes: Any) -> RouterSFTTrainer:
    kwargs = {"peft_config": changes.pop("peft_config")} if "peft_config" in changes else {}
    trainer = RouterSFTTrainer(str(model), settings(folder, **changes), train_dataset=rows(), **kwargs)
    trainer.train(resume_from_checkpoint=resume)
    trainer.merge()
    trainer.save_model()
    return trainer


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").state_dict()


def differing(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> set[str]:
    assert a.keys() == b.keys()
    return {name for name, tensor in a.items() if not torch.equal(tensor, b[name])}


def test_training_leaves_every_other_tensor_bit_equal(moe: Path, tmp_path: Path) -> None:
    before = tensors(moe)
    trainer = train(moe, tmp_path)
    assert differing(before, tensors(tmp_path)) == {f"{name}.weight" for name in trainer.routers}
    assert len(trainer.routers) == 2
    written, composed = (json.loads((f / "config.json").read_text()) for f in (tmp_path, moe))
    for name in ("rope_theta", "rope_scaling", "architectures", "ee_trl_experts", "dtype", "use_cache"):
        assert written.get(name) == composed.get(name), name


def test_nothing_named_like_a_gate_learns_but_the_routers(tmp_path: Path) -> None:
    """Qwen2-MoE has a shared expert with a gate_proj, and a gate for it."""
    trainer = RouterSFTTrainer(str(tiny.mixture("qwen2")["moe"]), settings(tmp_path), train_dataset=rows())
    learning = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert learning == {f"model.layers.{i}.mlp.gate.weight" for i in (0, 1)}
    assert any("gate" in name and name not in learning for name, _ in trainer.model.named_parameters())


def test_a_lora_on_the_attention_learns_beside_them_and_is_folded_in(llama: Path, tmp_path: Path) -> None:
    lora = LoraConfig(r=2, target_modules=ATTENTION, task_type="CAUSAL_LM")
    unmerged = RouterSFTTrainer(str(llama), settings(tmp_path), train_dataset=rows(), peft_config=lora)
    with pytest.raises(CompositionError, match=r"call trainer.merge\(\) before"):
        unmerged.save_model()
    trainer = train(llama, tmp_path, peft_config=lora)
    changed = differing(tensors(llama), tensors(tmp_path))
    attention = {f"model.layers.{i}.self_attn.{name}.weight" for i in (0, 1) for name in ATTENTION}
    assert changed == attention | {f"model.layers.{i}.mlp.gate.weight" for i in (0, 1)}
    assert not (tmp_path / "adapter_config.json").exists()
    ids = tiny.tokens()
    torch.testing.assert_close(tiny.logits(tiny.load(tmp_path), ids), tiny.logits(trainer.model.eval(), ids))


def test_the_hub_gets_the_model_as_it_is_saved(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A push saves again, without naming a folder, and the configuration is the mended one by then."""
    trainer, pushed = train(llama, tmp_path), []

    def push(**options: Any) -> None:
        trainer.save_model(_internal_call=True)  # as Trainer.push_to_hub does first
        pushed.append(json.loads((tmp_path / "config.json").read_text()))

    monkeypatch.setattr(trainer.args, "push_to_hub", True)
    monkeypatch.setattr(trainer, "push_to_hub", push)
    (tmp_path / "config.json").unlink()
    (tmp_path / "model.safetensors").unlink()
    trainer.save_model()
    assert pushed == [json.loads((tmp_path / "config.json").read_text())]
    assert pushed[0]["rope_theta"] == json.loads((llama / "config.json").read_text())["rope_theta"]
    assert (tmp_path / "model.safetensors").exists()
    assert not (tmp_path / ROUTERS).exists()


def test_gates_are_float32_under_bfloat16_and_cast_back(tmp_path: Path) -> None:
    """At the paper's learning rate a gate in bfloat16 would hardly move."""
    data = {"sensibility": rows(8, 3, 30, 1), "rationality": rows(8, 34, 64, 2)}
    moe = compose(tiny.mixture("llama"), tmp_path / "moe", dtype="bfloat16", gate_data=data)
    trainer = RouterSFTTrainer(
        str(moe), settings(tmp_path / "out", bf16=True, learning_rate=1e-4, max_steps=3), train_dataset=rows()
    )
    kinds = {name: parameter.dtype for name, parameter in trainer.model.named_parameters()}
    assert {kind for name, kind in kinds.items() if name.removesuffix(".weight") in trainer.routers} == {torch.float32}
    assert list(kinds.values()).count(torch.bfloat16) == len(kinds) - 2
    before = [router.weight.detach().clone() for router in trainer.routers.values()]
    trainer.train()
    moved = [(new.weight != old).float().mean() for new, old in zip(trainer.routers.values(), before, strict=True)]
    in_bf16 = [
        (new.weight.bfloat16() != old.bfloat16()).float().mean()
        for new, old in zip(trainer.routers.values(), before, strict=True)
    ]
    assert min(moved) > 0.99
    assert max(in_bf16) < 0.5
    trainer.model.eval()(tiny.tokens())  # without autocast too
    trainer.merge()
    trainer.save_model()
    assert {tensor.dtype for tensor in tensors(tmp_path / "out").values()} == {torch.bfloat16}


@pytest.mark.parametrize("lora", [False, True])
def test_checkpoints_hold_what_learns_alone_and_resume_bit_equal(llama: Path, tmp_path: Path, lora: bool) -> None:
    def options() -> dict[str, Any]:
        own: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
        if lora:
            own["peft_config"] = LoraConfig(r=2, target_modules=ATTENTION, task_type="CAUSAL_LM")
        return own

    train(llama, tmp_path / "whole", **options())
    checkpoint = tmp_path / "whole" / "checkpoint-2"
    assert not (checkpoint / "model.safetensors").exists()
    assert {tensor.dtype for tensor in load_file(checkpoint / ROUTERS).values()} == {torch.float32}
    train(llama, tmp_path / "resumed", resume=str(checkpoint), **options())
    assert not differing(tensors(tmp_path / "whole"), tensors(tmp_path / "resumed"))
    shorter = train(llama, tmp_path / "shorter", **(options() | {"max_steps": 2}))
    assert shorter.state.global_step == 2
    assert differing(tensors(tmp_path / "whole"), tensors(tmp_path / "shorter"))


def test_the_auxiliary_loss_is_off_where_it_is_constant(
    llama: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    off = RouterSFTTrainer(str(llama), settings(tmp_path, router_aux_loss_coef=0.1), train_dataset=rows())
    assert not off.aux_loss_enabled
    assert not off.model.config.output_router_logits
    assert "that loss is constant" in caplog.text
    folders = tiny.mixture("llama")
    three = {**experts_of(folders), "base-like": folders["base"]}
    moe = compose_moe(folders["base"], three, tmp_path / "three", top_k=2)
    on = RouterSFTTrainer(str(moe), settings(tmp_path, router_aux_loss_coef=0.1), train_dataset=rows())
    assert on.aux_loss_enabled
    assert on.router_aux_loss_coef == 0.1


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_experts_per_tok": 1}, "has no gradient"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "router of a quantized model"),
        ({"model_type": "llama"}, "'llama' has no router to train; valid: mixtral"),
    ],
)
def test_dead_set_ups_are_refused_with_the_reason(
    llama: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    odd = tiny.copy_of(llama, tmp_path / "odd")
    content = json.loads((odd / "config.json").read_text())
    (odd / "config.json").write_text(json.dumps(content | changes))
    with pytest.raises(CompositionError, match=said):
        RouterSFTTrainer(str(odd), settings(tmp_path), train_dataset=rows())


def test_a_top_1_gate_without_normalised_weights_can_learn() -> None:
    check_config(Qwen3MoeConfig(num_experts_per_tok=1, norm_topk_prob=False))
    with pytest.raises(CompositionError, match="has no gradient"):
        check_config(Qwen3MoeConfig(num_experts_per_tok=1, norm_topk_prob=True))
    with pytest.raises(CompositionError, match="has no gradient"):
        check_config(MixtralConfig(num_experts_per_tok=1))


def test_top_1_normalised_has_no_gradient_indeed(tmp_path: Path) -> None:
    model = tiny.load(compose(tiny.mixture("llama"), tmp_path / "moe", top_k=1))
    ids = tiny.tokens()
    for router in routers(model).values():
        torch.nn.init.normal_(router.weight)
    model(ids, labels=ids).loss.backward()
    assert max(router.weight.grad.abs().max() for router in routers(model).values()) < 1e-6


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"gradient_checkpointing_kwargs": {"use_reentrant": True}}, "cuts the gradient off"),
        (
            {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps"},
            "load_best_model_at_end",
        ),
        ({"lora": ["q_proj", "gate_proj"]}, "on attention alone .*; PEFT would silently leave out gate_proj"),
        ({"lora": "all-linear"}, "PEFT would silently leave out all-linear"),
    ],
)
def test_settings_under_which_nothing_would_be_learnt_are_refused(
    llama: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    own = dict(changes)
    lora = LoraConfig(target_modules=own.pop("lora")) if "lora" in own else None
    with pytest.raises(CompositionError, match=said):
        RouterSFTTrainer(str(llama), settings(tmp_path, **own), train_dataset=rows(), peft_config=lora)


def test_a_checkpoint_of_another_kind_is_refused(llama: Path, tmp_path: Path) -> None:
    trainer = RouterSFTTrainer(str(llama), settings(tmp_path), train_dataset=rows())
    with pytest.raises(CompositionError, match="is no checkpoint of a router training"):
        load_checkpoint(trainer, str(llama))


# ---- several processes ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_learn_what_one_does(llama: Path, tmp_path: Path) -> None:
    """DDP with and without the search for unused parameters; the same rows in each step, so the same gates."""
    script = tmp_path / "train.py"
    script.write_text(
        "import sys\n"
        f"sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[1] / 'support')!r}]\n"
        "from test_router_training import train\n"
        "model, out = sys.argv[1:]\n"
        "for name, unused in (('two', False), ('searching', True)):\n"
        "    trainer = train(model, f'{out}/{name}', per_device_train_batch_size=2, max_steps=3,\n"
        "                    ddp_find_unused_parameters=unused, train_sampling_strategy='sequential')\n"
        "trainer.end()\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(script), str(llama), str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    train(llama, tmp_path / "one", per_device_train_batch_size=4, max_steps=3, train_sampling_strategy="sequential")
    one, before = tensors(tmp_path / "one"), tensors(llama)
    names = {f"model.layers.{i}.mlp.gate.weight" for i in (0, 1)}
    for run in ("two", "searching"):
        several = tensors(tmp_path / run)
        assert differing(before, several) == names
        for name in names:
            torch.testing.assert_close(several[name], one[name], atol=1e-4, rtol=0)
            assert (several[name] - before[name]).abs().max() > 1e-2
