"""From a dense base and its experts to one native mixture, shard by shard, with its model card."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from huggingface_hub import ModelCardData
from transformers import PreTrainedConfig

from ..display import Code, Markup, Table, Title, as_markdown, markdown_text
from ..errors import CompositionError, check_choice, check_count
from ..files import atomic_folder, package_versions, write_json
from ..reports.licence import shared_licence
from .checkpoint import ShardWriter, rewrite, size_of, write_config
from .families import PROJECTIONS, SHARED_WIDTH, Family, family_of, mixture_config, mlp_part
from .gates import RULES, gate_batches, gate_sets, init_gates, load_for_gates, readable
from .sources import Sources, check_experts


logger = logging.getLogger(__name__)

_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja", "chat_template.json",
)  # fmt: skip


def compose_moe(
    base: str | os.PathLike[str],
    experts: Mapping[str, str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    top_k: int | None = None,
    shared: str = "average",
    gate_init: str | None = None,
    gate_data: Mapping[str, Dataset | DatasetDict | str | os.PathLike[str]] | None = None,
    gate_samples: int = 256,
    dtype: str | None = None,
    max_shard_size: str | int = "1GB",
    trust_base: bool = False,
    revision: str | None = None,
    seed: int = 0,
) -> Path:
    """
    Composes a base and its experts into one mixture that `AutoModelForCausalLM.from_pretrained` loads.

    The MLPs of the experts stand side by side in each layer, behind a gate; the experts share all other weights.
    Tensors pass through memory one shard at a time, with LoRA folded in on the way. The folder appears whole or not at
    all.

    Args:
        base (`str` or `os.PathLike`):
            The dense model that the experts were trained from: Llama, Mistral, Qwen2 or Qwen3, a folder or hub name.
        experts (`Mapping[str, str | os.PathLike]`):
            Name -> LoRA folder or full model's folder (or hub name); two or more.
        output (`str` or `os.PathLike`): The folder to write; it must not exist, or be empty.
        top_k (`int`, *optional*): How many experts are active for each token; by default all.
        shared (`str`, *optional*, defaults to `"average"`):
            What the weights outside the MLPs are: the mean of the experts' (`"average"`), the base's (`"base"`: the
            experts then differ in their MLPs alone), or one expert's (its name).
        gate_init (`str`, *optional*):
            `"probe"`, `"prototype"` or `"zeros"`, see [`~ee_trl.moe.gates.init_gates`]; by default the probe if there
            is `gate_data`, and zeros otherwise.
        gate_data (`Mapping[str, Dataset]`, *optional*):
            Expert's name -> its training set, or the set's path or hub name, in any dialogue format or with a column
            `input_ids`. For dialogues without a tokenizer, a warning says that the gates start at zero.
        gate_samples (`int`, *optional*, defaults to `256`):
            Rows of each set that the gates are made from, drawn at random.
        dtype (`str`, *optional*):
            Type of the weights: `"float32"`, `"bfloat16"` or `"float16"`; by default they stay as they are.
        max_shard_size (`str` or `int`, *optional*, defaults to `"1GB"`):
            Most bytes in a file; memory holds about twice as much.
        trust_base (`bool`, *optional*, defaults to `False`):
            Accept a LoRA that names another base, e.g. because the base was moved.
        revision (`str`, *optional*): Branch, tag or commit of a base on the hub.
        seed (`int`, *optional*, defaults to `0`): Seed of the draw of rows.

    Returns:
        `Path` of the folder, with tokenizer, generation config and a model card.

    Raises:
        [`CompositionError`]: Base and experts cannot be composed; nothing was written.
    """
    check_experts(tuple(experts), shared, top_k)
    check_count("gate_samples", gate_samples, error=CompositionError)
    how = _gate_init(gate_init, gate_data, tuple(experts))
    limit, target = size_of(max_shard_size), _free(output)
    sources = Sources.open(str(base), experts, dtype=dtype, trust_base=trust_base, revision=revision)
    config = mixture_config(sources.config, tuple(experts), top_k or len(experts))
    sets = gate_sets(gate_data) if gate_data is not None and how != "zeros" else {}
    if not readable(sets, sources.tokenizer):
        sets, how = {}, "zeros"
    batches = gate_batches(sets, sources.tokenizer, gate_samples, seed)
    with atomic_folder(target, overwrite=False) as partial:
        kind = _write(partial, mixture_tensors(sources, family_of(sources.config), shared), config, sources, limit)
        if batches:
            gates = init_gates(load_for_gates(partial), batches, how)
            rewrite(partial, {name: gate.to(kind) for name, gate in gates.items()})
        drawn = {"gate_samples": gate_samples, "seed": seed} if batches else {}
        settings = {"shared": shared, "gate_init": how, "top_k": config.num_experts_per_tok, **drawn}
        _write_card(partial, target.name, str(base), experts, sources, settings)
    return target


def average_experts(
    base: str | os.PathLike[str],
    experts: Mapping[str, str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    max_shard_size: str | int = "1GB",
    trust_base: bool = False,
    revision: str | None = None,
) -> Path:
    """Writes the dense mean of the experts, the baseline that a mixture must beat; arguments as in [`compose_moe`]."""
    check_experts(tuple(experts), "average", None)
    limit, target = size_of(max_shard_size), _free(output)
    sources = Sources.open(str(base), experts, dtype=dtype, trust_base=trust_base, revision=revision)
    with atomic_folder(target, overwrite=False) as partial:
        tensors = ((name, sources.shared(name, "average")) for name in sources.names)
        _write(partial, tensors, sources.config, sources, limit)
        settings = {"every weight": "the mean of the experts'"}
        _write_card(partial, target.name, str(base), experts, sources, settings)
    return target


def _gate_init(how: str | None, data: Mapping[str, Any] | None, experts: tuple[str, ...]) -> str:
    if how is not None:
        check_choice("gate_init", how, ("zeros", *RULES), CompositionError)
    if data is None:
        if how not in (None, "zeros"):
            raise CompositionError(f"gate_init={how!r} is made from data; give gate_data, the set of each expert")
        if how is None:
            logger.warning(
                "there is no gate_data, so the gates start at zero, where all active experts count alike; train the "
                "router"
            )
        return "zeros"
    if set(data) != set(experts):
        raise CompositionError(f"gate_data is for {sorted(data)}; it needs one set for each of {sorted(experts)}")
    return how or "probe"


def _free(output: str | os.PathLike[str]) -> Path:
    target = Path(output)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CompositionError(f"{str(target)!r} exists and is not overwritten; give another output folder")
    return target


def mixture_tensors(sources: Sources, family: Family, shared: str) -> Iterator[tuple[str, Any]]:
    """Every tensor of the mixture's checkpoint; `None` ends a shard, and the last shard holds the gates."""
    layers, hidden = sources.config.num_hidden_layers, sources.config.hidden_size
    kind = sources.dtype
    for name in sources.names:
        part = mlp_part(name)
        if part is None:
            yield name, sources.shared(name, shared)
        elif family.stacked:
            if part[1] == "gate_proj":
                yield from _stacked(sources, family, part[0])
        else:
            for i, expert in enumerate(sources.experts):
                tensor = sources.expert(expert, name)
                kind = tensor.dtype
                yield family.expert_name(part[0], i, part[1]), tensor
    if family.target == "qwen2_moe":
        for layer in range(layers):
            yield from _silent_shared_expert(f"model.layers.{layer}.mlp.shared_expert", hidden, kind)
    kind = kind or sources.base.read("model.norm.weight").dtype
    yield "", None
    for layer in range(layers):
        yield family.gate_name(layer), torch.zeros(len(sources.experts), hidden, dtype=kind)


def _stacked(sources: Sources, family: Family, layer: int) -> Iterator[tuple[str, torch.Tensor]]:
    prefix = f"model.layers.{layer}.{family.block}."
    gate, up, down = (f"model.layers.{layer}.mlp.{part}.weight" for part in PROJECTIONS)
    both = [torch.cat([sources.expert(expert, gate), sources.expert(expert, up)]) for expert in sources.experts]
    yield f"{prefix}{family.projections['gate_proj']}.weight", torch.stack(both)
    del both
    one = [sources.expert(expert, down) for expert in sources.experts]
    yield f"{prefix}{family.projections['down_proj']}.weight", torch.stack(one)


def _silent_shared_expert(prefix: str, hidden: int, dtype: torch.dtype | None) -> Iterator[tuple[str, torch.Tensor]]:
    """The shared expert that Qwen2-MoE always has: all zeros, so that it adds nothing."""
    wide = (SHARED_WIDTH, hidden)
    for name, shape in zip(PROJECTIONS, (wide, wide, wide[::-1]), strict=True):
        yield f"{prefix}.{name}.weight", torch.zeros(shape, dtype=dtype)
    yield f"{prefix}_gate.weight", torch.zeros(1, hidden, dtype=dtype)


def _write(
    folder: Path, tensors: Iterable[tuple[str, Any]], config: PreTrainedConfig, sources: Sources, limit: int
) -> torch.dtype:
    """Writes a model's files; returns the type of its weights."""
    writer, kind = ShardWriter(folder, limit), None
    for name, tensor in tensors:
        if tensor is None:
            writer.flush()
            continue
        kind = kind or tensor.dtype
        writer.add(name, tensor)
        del tensor
    writer.close()
    assert kind is not None
    write_config(folder, config, kind)
    copied = [sources.base.folder / "generation_config.json"]
    copied += [sources.tokenizer / name for name in _TOKENIZER_FILES] if sources.tokenizer else []
    for path in copied:
        if path.is_file():
            shutil.copyfile(path, folder / path.name)
    return kind


def _write_card(
    folder: Path, name: str, base: str, given: Mapping[str, Any], sources: Sources, settings: Mapping[str, Any]
) -> None:
    """Writes `README.md` and, for machines, `composition.json`."""
    experts = {
        expert: {"source": str(given[expert]), "kind": source.kind, "weights": source.fingerprint()}
        for expert, source in sources.experts.items()
    }
    versions = package_versions("ee-trl", "transformers", "torch")
    record = {"base": base, "experts": experts, "settings": settings, "versions": versions}
    write_json(folder / "composition.json", record)
    mixture = "gate_init" in settings
    head = ModelCardData(
        library_name="transformers",
        base_model=None if Path(base).is_dir() else base,
        license=shared_licence(given.values()),
        pipeline_tag="text-generation",
        tags=["ee-trl", *(["moe"] if mixture else [])],
    )
    what = "A mixture of the experts below, with a gate in each layer" if mixture else "The mean of the experts below"
    rows = [
        (str(i), expert, Markup(f"{made['kind']} {markdown_text(Code(made['source']))}"), Code(made["weights"]))
        for i, (expert, made) in enumerate(experts.items())
    ]
    facts = [f"- {key}: {markdown_text(Code(value))}" for key, value in {"base": base, **settings}.items()]
    facts.append(f"- made with: {', '.join(f'{package} {number}' for package, number in versions.items())}")
    parts = [
        f"---\n{head.to_yaml()}\n---",
        as_markdown([Title(name)]),
        f"{what}, composed by ee-trl after Efficient-Empathy (arXiv:2407.01937).",
        "\n".join(facts),
        Table(("", "expert", "made from", "weights"), rows).markdown(),
        f"Licence: `{head.license}`, by the cards of the experts. The licence of the base model binds this model too.",
        "```python\nfrom transformers import AutoModelForCausalLM\n\n"
        'model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")\n```',
    ]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
