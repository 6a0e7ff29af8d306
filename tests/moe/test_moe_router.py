"""Gates and their training: only the routers learn, they do learn, and what cannot learn is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_moe as tiny
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, MixtralConfig
from trl import SFTConfig

from ee_trl import compose_moe
from ee_trl.errors import CompositionError
from ee_trl.moe.gates import GateBatch, gate_batches, init_gates, probe, prototype
from ee_trl.moe.router import logits_of, routers, routing_weights
from ee_trl.moe.routing import measure_routing
from ee_trl.moe.training import ROUTERS, RouterSFTTrainer, check_config


pytestmark = [pytest.mark.filterwarnings("ignore")]  # of the libraries that train

EXPERTS = ("sensibility", "rationality")
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


def rows(number: int = 16, low: int = 3, high: int = 64, seed: int = 0) -> Dataset:
    """Random token ids; the fewer the numbers, the more alike the rows."""
    found = np.random.default_rng(seed).integers(low, high, (number, 12)).tolist()
    return Dataset.from_dict({"input_ids": found, "labels": found})


@pytest.fixture(scope="module", params=tiny.ALL)
def moe(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compose(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compose("llama-tied-scaled", tmp_path_factory.mktemp("llama"))


def compose(name: str, root: Path, **options: Any) -> Path:
    folders = tiny.family_folder(name, root)
    tiny.build_tokenizer(folders["base"])
    return compose_moe(folders["base"], {name: folders[name] for name in EXPERTS}, root / "moe", **options)


def settings(folder: Path, **changes: Any) -> SFTConfig:
    own: dict[str, Any] = {
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_strategy": "no",
        "model_init_kwargs": {"dtype": "auto"},
    }
    return SFTConfig(str(folder), **(own | changes))


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


# ---- the gates ------------------------------------------------------------------------------------------------------


def two_sets(number: int = 400) -> list[torch.Tensor]:
    """Two clouds that differ in one direction."""
    generator = torch.Generator().manual_seed(0)
    clouds = torch.randn(2, number, 8, generator=generator)
    clouds[0, :, 2] += 2.0
    clouds[1, :, 2] -= 2.0
    return list(clouds)


@pytest.mark.parametrize("rule", [probe, prototype])
def test_the_rules_tell_the_sets_apart(rule: Any) -> None:
    sets = two_sets()
    weights = rule(sets)
    assert weights.shape == (2, 8)
    torch.testing.assert_close(weights.sum(0), torch.zeros(8), atol=1e-5, rtol=0)
    right = [((part @ weights.T).argmax(1) == i).float().mean() for i, part in enumerate(sets)]
    assert min(right) > 0.95


def test_the_probe_is_the_logistic_regression_of_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression

    sets = two_sets()
    sets[1] = sets[1][:100]  # sets of unequal size count alike
    x = torch.cat(sets).double().numpy()
    scale = np.sqrt((x**2).mean())
    labels = np.repeat([0, 1], [len(part) for part in sets])
    weights = np.where(labels == 0, 1 / len(sets[0]), 1 / len(sets[1])) / 2
    # loss + l2 * |W|^2 of two rows w and -w is loss(2w) + 2 l2 |w|^2 = loss(v) + l2 / 2 |v|^2
    judge = LogisticRegression(C=1 / (1e-3), fit_intercept=False, tol=1e-10, max_iter=1000)
    judge.fit(x / scale, labels, sample_weight=weights)
    found = probe(sets, l2=1e-3, steps=1000).numpy()
    np.testing.assert_allclose((found[1] - found[0]) * scale, judge.coef_[0], rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(("how", "bar"), [("probe", 0.95), ("prototype", 0.6)])
def test_gates_from_data_know_whose_data_it_is(how: str, bar: float, tmp_path: Path) -> None:
    data = {"sensibility": rows(32, 3, 9, 1), "rationality": rows(32, 58, 64, 2)}
    moe = compose("qwen2", tmp_path, gate_data=data, gate_init=how)
    model = tiny.load(moe)
    assert json.loads((moe / "composition.json").read_text())["settings"]["gate_init"] == how
    held_out = (rows(8, 3, 9, 3), rows(8, 58, 64, 4))
    shares = [weights_of(model, torch.tensor(own["input_ids"])) for own in held_out]
    right = [(share.argmax(-1) == i).float().mean() for i, share in enumerate(shares)]
    assert sum(right) / 2 > bar
    assert min(right) > 0.5


def weights_of(model: Any, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """`(layers, tokens, experts)`."""
    found: list[torch.Tensor] = []

    def note(router: Any, args: Any) -> None:
        found.append(logits_of(router, *args))

    handles = [router.register_forward_pre_hook(note) for router in routers(model).values()]
    tiny.logits(model, ids) if mask is None else model(ids, attention_mask=mask)
    for handle in handles:
        handle.remove()
    return torch.stack([routing_weights(logits, 2) for logits in found]).detach()


def test_the_probe_is_the_default_where_there_is_data(tmp_path: Path) -> None:
    moe = compose("llama", tmp_path, gate_data={name: rows(8, seed=i) for i, name in enumerate(EXPERTS)})
    assert json.loads((moe / "composition.json").read_text())["settings"]["gate_init"] == "probe"
    assert all(router.weight.abs().max() > 0 for router in routers(tiny.load(moe)).values())


def test_gates_are_made_layer_by_layer_on_what_reaches_them(llama: Path) -> None:
    """A gate is the rule applied to its input with the gates before it in place, and padding counts nothing."""
    batches = gate_batches({name: rows(6, seed=i) for i, name in enumerate(EXPERTS)}, None, 6)
    padded = [
        GateBatch(
            b.expert, torch.nn.functional.pad(b.input_ids, (0, 5), value=9), torch.nn.functional.pad(b.mask, (0, 5))
        )
        for b in batches
    ]
    found = init_gates(tiny.load(llama), batches, "prototype")
    for name, weight in init_gates(tiny.load(llama), padded, "prototype").items():
        torch.testing.assert_close(weight, found[name], atol=1e-5, rtol=1e-4)
    model = tiny.load(llama)
    for (_, router), weight in zip(routers(model).items(), found.values(), strict=True):
        seen: list[list[torch.Tensor]] = [[], []]
        for batch in batches:
            handle = router.register_forward_pre_hook(
                lambda m, args, i=batch.expert: seen[i].append(args[0].reshape(-1, 32))  # noqa: B023
            )
            with torch.no_grad():
                model(batch.input_ids, attention_mask=batch.mask)
            handle.remove()
        torch.testing.assert_close(prototype([torch.cat(part) for part in seen]), weight, atol=1e-5, rtol=1e-4)
        router.weight.data.copy_(weight)


def test_gates_of_dialogues_start_at_zero_without_a_tokenizer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from ee_trl import load_sample

    folders = tiny.family_folder("llama", tmp_path)
    experts = {name: folders[name] for name in EXPERTS}
    data = dict.fromkeys(EXPERTS, load_sample("train").select(range(4)))
    moe = compose_moe(folders["base"], experts, tmp_path / "zero", gate_data=data)
    assert "there is no tokenizer to read them with: the gates start at zero" in caplog.text
    assert json.loads((moe / "composition.json").read_text())["settings"]["gate_init"] == "zeros"
    assert not any(gate.weight.any() for gate in routers(tiny.load(moe)).values())


def test_sets_for_the_gates_are_found_or_refused(tmp_path: Path) -> None:
    from datasets import DatasetDict

    folders = tiny.family_folder("llama", tmp_path)
    experts = {name: folders[name] for name in EXPERTS}
    made, other = rows(4), rows(4, seed=1)
    other.to_parquet(tmp_path / "rows.parquet")
    nulls = Dataset.from_list([*other.to_list(), {"input_ids": None}])
    splits = DatasetDict({"train": other, "test": made})
    for i, one in enumerate((splits, DatasetDict({"test": other}), str(tmp_path / "rows.parquet"), nulls)):
        moe = compose_moe(
            folders["base"], experts, tmp_path / f"{i}", gate_data=dict(zip(EXPERTS, (one, made), strict=True))
        )
        assert any(gate.weight.any() for gate in routers(tiny.load(moe)).values())
    two = DatasetDict({"a": made, "b": made})
    for one, said in ((two, "has the splits a, b; give one"), (made.to_iterable_dataset(), "is of type IterableData")):
        with pytest.raises(CompositionError, match=said):
            compose_moe(folders["base"], experts, tmp_path / "moe", gate_data=dict.fromkeys(EXPERTS, one))
    empty = dict.fromkeys(EXPERTS, rows(4).select([]))
    with pytest.raises(CompositionError, match="holds no sample"):
        compose_moe(folders["base"], experts, tmp_path / "moe", gate_data=empty)
    assert not (tmp_path / "moe").exists()


# ---- what learns ----------------------------------------------------------------------------------------------------


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
    trainer = RouterSFTTrainer(str(compose("qwen2", tmp_path)), settings(tmp_path), train_dataset=rows())
    learning = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert learning == {f"model.layers.{i}.mlp.gate.weight" for i in (0, 1)}
    assert any("gate" in name and name not in learning for name, _ in trainer.model.named_parameters())


def test_a_lora_on_the_attention_learns_beside_them_and_is_folded_in(llama: Path, tmp_path: Path) -> None:
    from peft import LoraConfig

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


def test_gates_are_float32_under_bfloat16_and_cast_back(tmp_path: Path) -> None:
    """At the paper's learning rate a gate in bfloat16 would hardly move."""
    data = {"sensibility": rows(8, 3, 30, 1), "rationality": rows(8, 34, 64, 2)}
    moe = compose("llama", tmp_path / "made", dtype="bfloat16", gate_data=data)
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
        from peft import LoraConfig

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
    folders = tiny.family_folder("llama", tmp_path)
    three = {**{name: folders[name] for name in EXPERTS}, "base-like": folders["base"]}
    tiny.build_tokenizer(folders["base"])
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
    from transformers import Qwen3MoeConfig

    check_config(Qwen3MoeConfig(num_experts_per_tok=1, norm_topk_prob=False))
    with pytest.raises(CompositionError, match="has no gradient"):
        check_config(Qwen3MoeConfig(num_experts_per_tok=1, norm_topk_prob=True))
    with pytest.raises(CompositionError, match="has no gradient"):
        check_config(MixtralConfig(num_experts_per_tok=1))


def test_top_1_normalised_has_no_gradient_indeed(tmp_path: Path) -> None:
    model = tiny.load(compose("llama", tmp_path, top_k=1))
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
        ({"lora": ["q_proj", "gate_proj"]}, "on attention alone .*; gate_proj would silently be left out"),
        ({"lora": "all-linear"}, "all-linear would silently be left out"),
    ],
)
def test_settings_under_which_nothing_would_be_learnt_are_refused(
    llama: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    from peft import LoraConfig

    own = dict(changes)
    lora = LoraConfig(target_modules=own.pop("lora")) if "lora" in own else None
    with pytest.raises(CompositionError, match=said):
        RouterSFTTrainer(str(llama), settings(tmp_path, **own), train_dataset=rows(), peft_config=lora)


def test_a_checkpoint_of_another_kind_is_refused(llama: Path, tmp_path: Path) -> None:
    trainer = RouterSFTTrainer(str(llama), settings(tmp_path), train_dataset=rows())
    with pytest.raises(CompositionError, match="is no checkpoint of a router training"):
        trainer._load_from_checkpoint(str(llama))


# ---- how it routes --------------------------------------------------------------------------------------------------


def test_routing_is_measured_without_padding_and_in_the_order_given(llama: Path) -> None:
    class Words:
        def apply_chat_template(self, talk: Any, return_dict: bool) -> dict[str, list[int]]:
            return {"input_ids": [int(word) for turn in talk for word in turn["content"].split()]}

    talks = [" ".join(map(str, tiny.tokens(1, length, length)[0].tolist())) for length in (9, 3, 17, 5)]
    data = [{"prompt": [{"content": talk}], "completion": []} for talk in talks]
    model = tiny.load(llama)
    for router in routers(model).values():
        torch.nn.init.normal_(router.weight)
    found = measure_routing(model, Words(), data, batch_size=3)
    assert found.experts == EXPERTS
    for i, talk in enumerate(talks):
        expected = weights_of(model, torch.tensor([[int(word) for word in talk.split()]]))
        np.testing.assert_allclose(found.weights[i], expected.mean(1), atol=1e-5)
        best = torch.nn.functional.one_hot(expected.argmax(-1), 2).float().mean(1)
        np.testing.assert_allclose(found.first[i], best, atol=1e-5)


# ---- several processes ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_learn_what_one_does(llama: Path, tmp_path: Path) -> None:
    """DDP with and without the search for unused parameters; the same rows in each step, so the same gates."""
    script = tmp_path / "train.py"
    script.write_text(
        "import sys\n"
        f"sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[1] / 'support')!r}]\n"
        "from test_moe_router import rows, settings\n"
        "from ee_trl.moe.training import RouterSFTTrainer\n"
        "model, out, size, unused = sys.argv[1:]\n"
        "args = settings(out, per_device_train_batch_size=int(size), max_steps=3,\n"
        "                ddp_find_unused_parameters=unused == 'True', train_sampling_strategy='sequential')\n"
        "trainer = RouterSFTTrainer(model, args, train_dataset=rows())\n"
        "trainer.train(); trainer.merge(); trainer.save_model(); trainer.end()\n"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for name, processes, size, unused in (("one", 1, 4, False), ("two", 2, 2, False), ("searching", 2, 2, True)):
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
        command += ["--master_port", "29637", str(script)]
        command += [str(llama), str(tmp_path / name), str(size), str(unused)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
        assert done.returncode == 0, done.stderr[-3000:]
    one, before = tensors(tmp_path / "one"), tensors(llama)
    names = {f"model.layers.{i}.mlp.gate.weight" for i in (0, 1)}
    for run in ("two", "searching"):
        several = tensors(tmp_path / run)
        assert differing(before, several) == names
        for name in names:
            torch.testing.assert_close(several[name], one[name], atol=1e-4, rtol=0)
            assert (several[name] - before[name]).abs().max() > 1e-2
