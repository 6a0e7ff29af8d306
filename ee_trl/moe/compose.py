"""From a dense base and its experts to one native mixture, shard by shard."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CompositionError, unknown
from .card import write_card
from .checkpoint import ShardWriter, rewrite, size_of
from .checks import check_experts
from .families import TARGETS, family_of, mirror_rope, mixture_config
from .tensors import Sources, mixture_tensors


if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from transformers import PreTrainedConfig


logger = logging.getLogger(__name__)

GATE_INITS = ("zeros", "prototype", "probe")
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

    The MLPs of the experts stand side by side in each layer, behind a gate; all other weights are shared. Tensors go
    through memory one shard at a time, with LoRA folded in on the way. The folder appears whole or not at all.

    Args:
        base (`str` or `os.PathLike`):
            The dense model that the experts were trained from: Llama, Mistral, Qwen2 or Qwen3, a folder or hub name.
        experts (`Mapping[str, str | os.PathLike]`):
            Name -> LoRA folder or full model's folder (or hub name); two or more.
        output (`str` or `os.PathLike`):
            The folder to write; it must not be there, or be empty.
        top_k (`int`, *optional*):
            How many experts are active for each token; by default all.
        shared (`str`, *optional*, defaults to `"average"`):
            What the weights outside the MLPs are: the mean of the experts' (`"average"`), the base's (`"base"`: then
            the experts differ in their MLPs alone), or one expert's (its name).
        gate_init (`str`, *optional*):
            `"probe"`, `"prototype"` or `"zeros"`, see [`~ee_trl.moe.gates.init_gates`]; by default the probe where
            there is `gate_data`, zeros otherwise.
        gate_data (`Mapping[str, Dataset]`, *optional*):
            Expert's name -> what it was trained on, in any dialogue format or with a column `input_ids`; also its path
            or hub name. Dialogues without a tokenizer are warned of, and the gates start at zero.
        gate_samples (`int`, *optional*, defaults to `256`):
            Rows of each set that the gates are made from, drawn at random.
        dtype (`str`, *optional*):
            Of the weights, e.g. `"bfloat16"`; by default as they are.
        max_shard_size (`str` or `int`, *optional*, defaults to `"1GB"`):
            Bytes in a file, and about half of what is held in memory at most.
        trust_base (`bool`, *optional*, defaults to `False`):
            Accept a LoRA that names another base, as a model that was moved.
        revision (`str`, *optional*):
            Of a base on the hub: a branch, a tag or a commit.
        seed (`int`, *optional*, defaults to `0`):
            Of the rows drawn.

    Returns:
        `Path` of the folder, with tokenizer, generation config and a model card.

    Raises:
        [`CompositionError`]: What is given cannot be composed; nothing was written.
    """
    check_experts(tuple(experts), shared, top_k)
    how = _gate_init(gate_init, gate_data, tuple(experts))
    limit, target = size_of(max_shard_size), _free(output)
    sources = Sources.open(str(base), experts, dtype, trust_base, revision)
    config = mixture_config(sources.config, tuple(experts), top_k or len(experts))
    batches = None
    if how != "zeros":
        from .gates import can_be_read, gate_batches, gate_sets

        assert gate_data is not None
        sets = gate_sets(gate_data)
        if can_be_read(sets, sources.tokenizer):
            batches = gate_batches(sets, sources.tokenizer, gate_samples, seed)
        else:
            how = "zeros"
    with _whole_or_not_at_all(target) as partial:
        _write(partial, mixture_tensors(sources, family_of(sources.config), shared), config, sources, limit)
        if batches is not None:
            from .gates import init_gates, load_for_gates

            rewrite(partial, init_gates(load_for_gates(partial), batches, how))
        settings: dict[str, Any] = {"shared": shared, "gate_init": how, "top_k": config.num_experts_per_tok}
        if batches is not None:
            settings |= {"gate_samples": gate_samples, "seed": seed}
        write_card(partial, target.name, str(base), sources, settings)
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
    """
    Writes the dense model whose every weight is the mean of the experts': the baseline that a mixture must beat.

    Args:
        base, experts, output, dtype, max_shard_size, trust_base, revision: See [`compose_moe`].
    """
    check_experts(tuple(experts), "average", None)
    limit, target = size_of(max_shard_size), _free(output)
    sources = Sources.open(str(base), experts, dtype, trust_base, revision)
    with _whole_or_not_at_all(target) as partial:
        tensors = ((name, sources.shared(name, "average")) for name in sources.names)
        _write(partial, tensors, sources.config, sources, limit)
        write_card(partial, target.name, str(base), sources, {"every weight": "the mean of the experts'"})
    return target


# ---- the folder -----------------------------------------------------------------------------------------------------


def _gate_init(how: str | None, data: Mapping[str, Any] | None, experts: tuple[str, ...]) -> str:
    if how is not None and how not in GATE_INITS:
        raise CompositionError(unknown("gate_init", how, GATE_INITS))
    if data is None:
        if how not in (None, "zeros"):
            raise CompositionError(f"gate_init={how!r} is made from data; give gate_data, the set of each expert")
        if how is None:
            logger.warning(
                "no gate_data: the gates start at zero, which weighs all active experts alike; train the router"
            )
        return "zeros"
    if set(data) != set(experts):
        raise CompositionError(f"gate_data is for {sorted(data)}; it needs one set for each of {sorted(experts)}")
    return how or "probe"


def _free(output: str | os.PathLike[str]) -> Path:
    target = Path(output)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CompositionError(f"{str(target)!r} is there already and is not overwritten; give another output folder")
    return target


@contextmanager
def _whole_or_not_at_all(target: Path) -> Iterator[Path]:
    """A folder to write to; it becomes `target` when the block ends well and vanishes when it does not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    partial.mkdir()
    try:
        yield partial
        if target.exists():
            target.rmdir()
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(
    folder: Path, tensors: Iterator[tuple[str, Any]], config: PreTrainedConfig, sources: Sources, limit: int
) -> None:
    writer = ShardWriter(folder, limit)
    kind = None
    for name, tensor in tensors:
        if tensor is None:
            writer.flush()
            continue
        kind = kind or tensor.dtype
        writer.add(name, tensor)
        del tensor
    writer.close()
    write_config(folder, config, str(kind).removeprefix("torch."))
    source = sources.base.folder / "generation_config.json"
    if source.is_file():
        shutil.copyfile(source, folder / source.name)
    tokenizer = sources.tokenizer
    for name in _TOKENIZER_FILES:
        if tokenizer is not None and (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, folder / name)


def write_config(folder: Path, config: PreTrainedConfig, dtype: str) -> None:
    """Writes a `config.json` that transformers 4 and 5 and vLLM read alike."""
    content = json.loads(config.to_json_string(use_diff=False))
    if config.model_type in TARGETS:
        content["architectures"] = [TARGETS[config.model_type].architecture]
    content["dtype"] = dtype
    (folder / "config.json").write_text(json.dumps(mirror_rope(content), indent=2) + "\n", encoding="utf-8")
