"""The composed model computes what its experts compute, for every family; what cannot be composed is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_moe as tiny
import torch
from conftest import ROOT
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config

from ee_trl import compose_moe
from ee_trl.errors import CompositionError
from ee_trl.moe.checkpoint import Checkpoint
from ee_trl.moe.compose import average_experts
from ee_trl.moe.families import TARGETS, family_of
from ee_trl.moe.router import routers


EXPERTS = ("sensibility", "rationality")


@pytest.fixture(scope="module", params=tiny.ALL)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Base, two LoRA experts, and what was composed of them in each way."""
    root = tmp_path_factory.mktemp(request.param)
    found = tiny.family_folder(request.param, root)
    experts = {name: found[name] for name in EXPERTS}
    for shared in ("average", "base", "rationality"):
        found[f"moe {shared}"] = compose_moe(found["base"], experts, root / f"moe_{shared}", shared=shared)
    same = {"sensibility": found["sensibility"], "rationality": found["sensibility"]}
    found["same"] = compose_moe(found["base"], same, root / "same")
    return found


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return tiny.family_folder("llama", tmp_path_factory.mktemp("llama"))


def experts_of(folders: dict[str, Path]) -> dict[str, Path]:
    return {name: folders[name] for name in EXPERTS}


def state(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_every_target_is_tested() -> None:
    assert {family_of(tiny.config_of(name)).target for name in tiny.ALL} == set(TARGETS)


def test_it_loads_with_no_key_missing_or_left_over(family: dict[str, Path]) -> None:
    _, report = AutoModelForCausalLM.from_pretrained(family["moe average"], output_loading_info=True)
    assert {name: keys for name, keys in report.items() if keys} == {}


def test_identical_experts_equal_the_dense_model_whatever_the_gate(family: dict[str, Path]) -> None:
    dense, moe, ids = tiny.merged(family["base"], family["sensibility"]), tiny.load(family["same"]), tiny.tokens()
    expected = tiny.logits(dense, ids)
    torch.testing.assert_close(tiny.logits(moe, ids), expected, atol=2e-6, rtol=0)
    for router in routers(moe).values():
        torch.nn.init.normal_(router.weight)
    torch.testing.assert_close(tiny.logits(moe, ids), expected, atol=1e-5, rtol=0)
    assert not torch.allclose(tiny.logits(tiny.load(family["moe average"]), ids), expected, atol=1e-3)


def test_routing_forced_to_one_expert_equals_it(family: dict[str, Path]) -> None:
    moe, ids = tiny.load(family["moe rationality"]), tiny.tokens()
    expected = tiny.logits(tiny.merged(family["base"], family["rationality"]), ids)
    with tiny.only(moe, 1):
        torch.testing.assert_close(tiny.logits(moe, ids), expected, atol=1e-6, rtol=0)
    with tiny.only(moe, 0):
        assert not torch.allclose(tiny.logits(moe, ids), expected, atol=1e-3)


def test_zero_gates_give_the_mean_of_the_ffns(family: dict[str, Path]) -> None:
    moe = tiny.load(family["moe average"])
    dense = [tiny.merged(family["base"], family[name]) for name in EXPERTS]
    hidden = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    for layer, *others in zip(moe.model.layers, *(model.model.layers for model in dense), strict=True):
        block = getattr(layer, "block_sparse_moe", None) or layer.mlp
        mean = torch.stack([other.mlp(hidden) for other in others]).mean(0)
        # To a millionth of the largest output: the sums are of terms of that size, and in float32 their order shows
        torch.testing.assert_close(block(hidden), mean, atol=1e-6 * mean.abs().max().item(), rtol=0)


def test_expert_weights_are_those_of_merge_and_unload_to_the_last_bit(family: dict[str, Path]) -> None:
    composed = tiny.load(family["moe average"])
    for number, name in enumerate(EXPERTS):
        dense = tiny.merged(family["base"], family[name])
        for ours, theirs in zip(composed.model.layers, dense.model.layers, strict=True):
            experts = (getattr(ours, "block_sparse_moe", None) or ours.mlp).experts
            up = torch.cat([theirs.mlp.gate_proj.weight, theirs.mlp.up_proj.weight])
            assert torch.equal(experts.gate_up_proj[number], up)
            assert torch.equal(experts.down_proj[number], theirs.mlp.down_proj.weight)


@pytest.mark.parametrize("shared", ["average", "base", "rationality"])
def test_all_else_is_shared_as_asked(family: dict[str, Path], shared: str) -> None:
    composed = dict(tiny.load(family[f"moe {shared}"]).named_parameters())
    dense = [dict(tiny.merged(family["base"], family[name]).named_parameters()) for name in EXPERTS]
    base = dict(tiny.load(family["base"]).named_parameters())
    names = [name for name in base if ".mlp." not in name]
    assert any("q_proj" in name for name in names)
    for name in names:
        mean = ((dense[0][name].double() + dense[1][name].double()) / 2).float()
        expected = {"average": mean, "base": base[name], "rationality": dense[1][name]}[shared]
        assert torch.equal(composed[name], expected), name
    assert not torch.equal(
        dense[0]["model.layers.0.self_attn.q_proj.weight"], base["model.layers.0.self_attn.q_proj.weight"]
    )


def test_saved_by_transformers_it_is_the_same_again(family: dict[str, Path], tmp_path: Path) -> None:
    first = tiny.load(family["moe average"])
    first.save_pretrained(tmp_path)
    assert set(Checkpoint(tmp_path).names) == set(Checkpoint(family["moe average"]).names)
    again = state(tiny.load(tmp_path))
    assert again.keys() == state(first).keys()
    assert all(torch.equal(tensor, again[name]) for name, tensor in state(first).items())


def test_every_way_to_compute_experts_agrees(family: dict[str, Path]) -> None:
    ids, found = tiny.tokens(), []
    for way in ("eager", "grouped_mm", "batched_mm"):
        model = AutoModelForCausalLM.from_pretrained(family["moe average"], experts_implementation=way).eval()
        assert model.config._experts_implementation == way
        found.append(tiny.logits(model, ids))
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(found[2], found[0], atol=1e-5, rtol=0)


def test_the_configuration_reads_the_same_in_transformers_4_and_5(family: dict[str, Path]) -> None:
    written = json.loads((family["moe average"] / "config.json").read_text())
    rope = dict(written["rope_parameters"])
    assert written["rope_theta"] == rope.pop("rope_theta")
    assert written.get("rope_scaling") == (rope if rope["rope_type"] != "default" else None)
    config = tiny.load(family["moe average"]).config
    assert config.rope_parameters == tiny.load(family["base"]).config.rope_parameters
    assert written["architectures"] == [TARGETS[written["model_type"]].architecture]
    assert written["ee_trl_experts"] == list(EXPERTS)


def test_the_layout_on_disk_is_that_of_the_hub(family: dict[str, Path]) -> None:
    """Experts one by one, as vLLM's loaders read them; GraniteMoE's hub layout alone stacks them."""
    names = Checkpoint(family["moe average"]).names
    target = json.loads((family["moe average"] / "config.json").read_text())["model_type"]
    wanted = {
        "mixtral": {f"block_sparse_moe.experts.{e}.{w}.weight" for e in (0, 1) for w in ("w1", "w2", "w3")}
        | {"block_sparse_moe.gate.weight"},
        "granitemoe": {f"block_sparse_moe.{w}.weight" for w in ("input_linear", "output_linear", "router.layer")},
    }
    qwen = {f"mlp.experts.{e}.{p}_proj.weight" for e in (0, 1) for p in ("gate", "up", "down")} | {"mlp.gate.weight"}
    wanted |= {
        "qwen3_moe": qwen,
        "qwen2_moe": qwen | {f"mlp.shared_expert.{p}_proj.weight" for p in ("gate", "up", "down")},
    }
    wanted["qwen2_moe"] |= {"mlp.shared_expert_gate.weight"}
    prefix = "model.layers.1."
    found = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
    assert {name for name in found if "norm" not in name and "self_attn" not in name} == wanted[target]


def test_the_delta_average_is_the_mean_of_the_merged_experts(family: dict[str, Path], tmp_path: Path) -> None:
    average = state(tiny.load(average_experts(family["base"], experts_of(family), tmp_path / "average")))
    dense = [state(tiny.merged(family["base"], family[name])) for name in EXPERTS]
    for name, tensor in average.items():
        mean = ((dense[0][name].double() + dense[1][name].double()) / 2).to(tensor.dtype)
        assert torch.equal(tensor, mean), name


# ---- other experts --------------------------------------------------------------------------------------------------


def test_three_experts_one_of_them_a_full_model(llama: dict[str, Path], tmp_path: Path) -> None:
    full = tiny.build(tiny.config_of("llama"), tmp_path / "full", seed=7)
    out = compose_moe(llama["base"], {**experts_of(llama), "full": full}, tmp_path / "moe", shared="full", top_k=2)
    moe, ids = tiny.load(out), tiny.tokens()
    assert (moe.config.num_local_experts, moe.config.num_experts_per_tok) == (3, 2)

    def force(module: Any, args: Any, output: Any) -> Any:
        scores, weights, chosen = output
        return scores, torch.tensor([1.0, 0.0]).expand_as(weights), torch.tensor([2, 0]).expand_as(chosen)

    for router in routers(moe).values():
        router.register_forward_hook(force)
    torch.testing.assert_close(tiny.logits(moe, ids), tiny.logits(tiny.load(full), ids), atol=1e-6, rtol=0)


def test_bfloat16_experts_are_bit_equal_too(tmp_path: Path) -> None:
    base = tiny.build(tiny.config_of("llama"), tmp_path / "base", dtype=torch.bfloat16)
    experts = {n: tiny.build_lora(base, tmp_path / n, i, **tiny.LORAS[n]) for i, n in enumerate(EXPERTS)}
    moe = AutoModelForCausalLM.from_pretrained(compose_moe(base, experts, tmp_path / "moe"), dtype="auto")
    assert {parameter.dtype for parameter in moe.parameters()} == {torch.bfloat16}
    from peft import PeftModel

    for number, name in enumerate(EXPERTS):
        loaded = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
        dense = PeftModel.from_pretrained(loaded, experts[name]).merge_and_unload()
        for ours, theirs in zip(moe.model.layers, dense.model.layers, strict=True):
            assert torch.equal(ours.mlp.experts.down_proj[number], theirs.mlp.down_proj.weight)


def test_dtype_casts_everything(llama: dict[str, Path], tmp_path: Path) -> None:
    out = compose_moe(llama["base"], experts_of(llama), tmp_path / "moe", dtype="bfloat16")
    assert {Checkpoint(out).read(name).dtype for name in Checkpoint(out).names} == {torch.bfloat16}
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"


def test_shards_are_small_and_make_no_difference(llama: dict[str, Path], tmp_path: Path) -> None:
    one = compose_moe(llama["base"], experts_of(llama), tmp_path / "one")
    many = compose_moe(llama["base"], experts_of(llama), tmp_path / "many", max_shard_size="20KB")
    files = list(many.glob("*.safetensors"))
    assert len(files) > 5
    assert max(file.stat().st_size for file in files) < 22_000
    first, second = state(tiny.load(one)), state(tiny.load(many))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_stays_well_under_the_models_size(llama: dict[str, Path], tmp_path: Path) -> None:
    """What compose takes of memory of its own (mapped files are the system's) is less than a third of the base."""
    from transformers import LlamaConfig

    sizes = tiny.SIZES | {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 16}
    base = tiny.build(LlamaConfig(**sizes | {"num_attention_heads": 8}), tmp_path / "base")
    for i, name in enumerate(EXPERTS):
        tiny.build_lora(base, tmp_path / name, i, **tiny.LORAS[name])
    code = (
        "import re, sys, threading, time, torch, transformers, peft, safetensors.torch\n"
        "from ee_trl import compose_moe\n"
        "own = lambda: int(re.search(r'RssAnon:\\s+(\\d+)', open('/proc/self/status').read())[1]) / 1024\n"
        "def run(root, to):\n"
        "    experts = {n: f'{root}/{n}' for n in ('sensibility', 'rationality')}\n"
        "    compose_moe(f'{root}/base', experts, to, max_shard_size='10MB')\n"
        "run(sys.argv[2], sys.argv[1] + '/first')  # which imports what is imported late\n"
        "start, peak, over = own(), [0.0], threading.Event()\n"
        "def watch():\n"
        "    while not over.wait(0.002):\n"
        "        peak[0] = max(peak[0], own())\n"
        "watcher = threading.Thread(target=watch)\n"
        "watcher.start()\n"
        "run(sys.argv[1], sys.argv[1] + '/moe')\n"
        "over.set()\n"
        "watcher.join()\n"
        "print(start, peak[0])\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path), str(llama["base"].parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    start, peak = map(float, done.stdout.split())
    size = sum(file.stat().st_size for file in base.glob("*.safetensors")) / 2**20
    assert size > 200
    assert peak - start < size / 3, (start, peak, size)


# ---- what comes along -----------------------------------------------------------------------------------------------


def test_tokenizer_template_generation_config_and_card_come_along(llama: dict[str, Path], tmp_path: Path) -> None:
    base = tiny.copy_of(llama["base"], tmp_path / "base")
    tiny.build_tokenizer(base, template="of the base")
    experts = {name: tiny.copy_of(llama[name], tmp_path / name) for name in EXPERTS}
    for folder in experts.values():
        tiny.build_tokenizer(folder, template="of the experts")
    (base / "generation_config.json").write_text(json.dumps({"temperature": 0.125, "eos_token_id": 2}))
    out = compose_moe(base, experts, tmp_path / "moe", trust_base=True)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.chat_template == "of the experts"
    assert tokenizer("w1 w60")["input_ids"] == [4, 63]
    assert tiny.load(out).generation_config.temperature == 0.125
    card = (out / "README.md").read_text()
    for text in (str(base), *map(str, experts.values()), "shared: `average`", "gate_init: `zeros`", "LoRA", "sha256:"):
        assert text in card
    record = json.loads((out / "composition.json").read_text())
    assert list(record["experts"]) == list(EXPERTS)


def test_a_missing_tokenizer_is_warned_about(
    llama: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    compose_moe(llama["base"], experts_of(llama), tmp_path / "moe")
    assert "neither the base nor an expert has a tokenizer" in caplog.text
    assert "the gates start at zero" in caplog.text


@pytest.mark.parametrize("when", ["before", "while"])
def test_interrupted_it_leaves_no_half_model(
    llama: dict[str, Path], tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ee_trl.moe import checkpoint

    (tmp_path / ".moe.partial").mkdir()  # of a run that was killed
    (tmp_path / ".moe.partial" / "0.part").write_bytes(b"half")
    written = []

    def fail(self: Any) -> None:
        written.append(self)
        if when == "before" or len(written) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if when == "before":
            patch.setattr(checkpoint.ShardWriter, "flush", fail)
        else:
            own = checkpoint.ShardWriter.flush
            patch.setattr(checkpoint.ShardWriter, "flush", lambda self: (own(self), fail(self))[1])
        with pytest.raises(KeyboardInterrupt):
            compose_moe(llama["base"], experts_of(llama), tmp_path / "moe", max_shard_size="20KB")
    assert list(tmp_path.iterdir()) == []
    compose_moe(llama["base"], experts_of(llama), tmp_path / "moe")
    assert [path.name for path in tmp_path.iterdir()] == ["moe"]


# ---- what is refused ------------------------------------------------------------------------------------------------


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
        ({"words": 60}, "unlike tokenizers .*'w60' is 63 in one and None in the other"),
        ({"eos_token": "<s>"}, "unlike tokenizers: eos_token is '</s>' and '<s>'"),
        ({"template": "other"}, "unlike chat templates"),
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


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"shared": "averag"}, "unknown shared 'averag'; valid: average, base, sensibility, rationality"),
        ({"top_k": 3}, "top_k=3 is not valid; valid: 1 to 2"),
        ({"gate_init": "hidden"}, "unknown gate_init 'hidden'; valid: zeros, prototype, probe"),
        ({"gate_init": "probe"}, "is made from data; give gate_data"),
        ({"gate_data": {"sensibility": None}}, "needs one set for each"),
        ({"dtype": "fp8"}, "unknown dtype 'fp8'; valid: float32, bfloat16, float16"),
        ({"max_shard_size": "much"}, "size 'much' is not valid"),
    ],
)
def test_options_are_checked_before_anything_is_written(
    llama: dict[str, Path], tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(CompositionError, match=said):
        compose_moe(llama["base"], experts_of(llama), tmp_path / "moe", **options)
    assert list(tmp_path.iterdir()) == []


def test_experts_and_folders_are_checked(llama: dict[str, Path], tmp_path: Path) -> None:
    one, both = {"sensibility": llama["sensibility"]}, experts_of(llama)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "empty").mkdir()
    cases: list[tuple[Any, Any, Path, str]] = [
        (llama["base"], one, tmp_path / "moe", "two experts or more"),
        (llama["base"], one | {"base": llama["base"]}, tmp_path / "moe", "'base' is not a name for an expert"),
        (llama["base"], one | {"a b": llama["base"]}, tmp_path / "moe", "'a b' is not a name"),
        (llama["base"], both, tmp_path / "full", "is not overwritten"),
        (tmp_path / "nowhere", both, tmp_path / "moe", "neither a folder nor a name on the hub"),
        (tmp_path / "empty", both, tmp_path / "moe", "no config.json"),
        (llama["base"], one | {"b": tmp_path / "empty"}, tmp_path / "moe", "holds no model.safetensors"),
    ]
    for base, experts, output, said in cases:
        with pytest.raises(CompositionError, match=said):
            compose_moe(base, experts, output)
    assert not (tmp_path / "moe").exists()
