"""The composed model computes what its experts compute, for every family, and comes with all that belongs to it."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_moe as tiny
import torch
from conftest import ROOT
from small_disk import files_of_at_most
from tiny_moe import EXPERTS, compose, experts_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from ee_trl import compose_moe
from ee_trl.cli.main import main
from ee_trl.errors import CompositionError, FormatError
from ee_trl.moe import checkpoint
from ee_trl.moe.checkpoint import Checkpoint
from ee_trl.moe.compose import average_experts
from ee_trl.moe.families import TARGETS, family_of
from ee_trl.moe.routing import routers


@pytest.fixture
def llama() -> dict[str, Path]:
    """Without a tokenizer."""
    return tiny.family("llama")


@pytest.fixture(scope="module", params=tiny.ALL)
def family(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """Base, two LoRA experts, and what was composed of them in each way."""
    root, found = tmp_path_factory.mktemp(request.param), dict(tiny.mixture(request.param))
    found["moe average"] = found["moe"]
    for shared in ("base", "rationality"):
        found[f"moe {shared}"] = compose(found, root / f"moe_{shared}", shared=shared)
    found["same"] = compose(found | {"rationality": found["sensibility"]}, root / "same")
    return found


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


def test_the_card_names_what_was_given(
    llama: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model of the hub by its name, not by the cache of this machine; a folder is no model of the hub."""
    from huggingface_hub import ModelCard

    from ee_trl.moe import sources

    hub = {"me/base": llama["base"], "me/feels": llama["sensibility"]}
    monkeypatch.setattr(sources, "resolve_folder", lambda name, revision=None: hub.get(str(name), Path(name)))
    experts = {"sensibility": "me/feels", "rationality": llama["rationality"]}
    out = compose_moe("me/base", experts, tmp_path / "moe", trust_base=True)
    assert json.loads((out / "composition.json").read_text())["experts"]["sensibility"]["source"] == "me/feels"
    assert "LoRA `me/feels`" in (out / "README.md").read_text()
    assert str(llama["sensibility"]) not in (out / "README.md").read_text()
    assert ModelCard.load(out / "README.md").data.base_model == "me/base"

    monkeypatch.chdir(llama["base"].parents[1])
    given = Path(llama["base"].parent.name) / "base"  # a folder whose name looks like one of the hub
    card = ModelCard.load(compose_moe(given, experts_of(llama), tmp_path / "other", trust_base=True) / "README.md")
    assert card.data.base_model is None
    assert card.data.tags == ["ee-trl", "moe"]


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
    killed = tmp_path / f".moe.partial-{platform.node()}-{2**22 + 1}"  # no process has so high a number
    killed.mkdir()
    (killed / "0.part").write_bytes(b"half")
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


def test_a_full_disk_is_said_with_the_folder_and_the_fix(
    llama: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experts = [f"--expert={name}={path}" for name, path in experts_of(llama).items()]
    with files_of_at_most(5_000):
        assert main(["compose", str(llama["base"]), *experts, "-o", str(tmp_path / "moe")]) == 5
    assert f"{tmp_path / 'moe'}. Free some space" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_another_process_composed_meanwhile_is_not_replaced(
    llama: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = checkpoint.ShardWriter.close

    def and_another(self: Any) -> None:
        close(self)
        monkeypatch.undo()
        compose_moe(llama["base"], experts_of(llama), tmp_path / "moe", shared="base")

    monkeypatch.setattr(checkpoint.ShardWriter, "close", and_another)
    with pytest.raises(FormatError, match="is there already"):
        compose_moe(llama["base"], experts_of(llama), tmp_path / "moe")
    assert json.loads((tmp_path / "moe" / "composition.json").read_text())["settings"]["shared"] == "base"
    assert [path.name for path in tmp_path.iterdir()] == ["moe"]


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"shared": "averag"}, "unknown shared 'averag'; valid: average, base, sensibility, rationality"),
        ({"top_k": 3}, "top_k=3 is not valid; valid: 1 to 2"),
        ({"gate_init": "hidden"}, "unknown gate_init 'hidden'; valid: zeros, prototype, probe"),
        ({"gate_init": "probe"}, "is made from data; give gate_data"),
        ({"gate_samples": 0}, "gate_samples 0 is not a whole number of at least 1"),
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
