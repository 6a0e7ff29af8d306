"""Base and LoRA experts as one folder to serve: the layout of vLLM's multi-LoRA, which [`RoutedModel`] loads too."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from ..errors import CompositionError
from ..evaluation.generation import generate_replies
from ..files import atomic_folder, read_json, write_json
from .checkpoint import resolve_folder
from .request_router import Prompt, RequestRouter
from .sources import ADAPTER_CONFIG, ADAPTER_WEIGHTS, LoraExpert


ADAPTERS, ROUTER, RECORD, SCRIPT = "adapters", "request_router", "serving.json", "serve.sh"
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM's `--max-lora-rank` accepts."""


def write_serving(
    base: str | os.PathLike[str],
    experts: Mapping[str, str | os.PathLike[str]],
    router: RequestRouter,
    output: str | os.PathLike[str],
) -> Path:
    """
    Writes a folder that vLLM serves as one base with several LoRA, and [`RoutedModel`] loads.

    It holds `adapters/<expert>/` (`adapter_config.json` and `adapter_model.safetensors`, as vLLM and PEFT expect
    them), `request_router/`, `serving.json`, and `serve.sh` with the command for vLLM. The base is named, not copied.

    Args:
        base (`str` or `os.PathLike`): The model that the experts were trained from.
        experts (`Mapping[str, str | os.PathLike]`): Name -> LoRA folder.
        router (`RequestRouter`): Of the same experts.
        output (`str` or `os.PathLike`): The folder to write; it must not exist.

    Raises:
        [`CompositionError`]: An expert is not a plain LoRA, a rank is too large for vLLM, or the names do not match.
    """
    folder = Path(output)
    if folder.exists():
        raise CompositionError(f"{str(folder)!r} exists and is not overwritten; give another output folder")
    if set(experts) != set(router.experts):
        raise CompositionError(f"the router is for {sorted(router.experts)}, the experts are {sorted(experts)}")
    sources = {}
    for name, path in experts.items():
        lora_folder = resolve_folder(path)
        if not (lora_folder / ADAPTER_CONFIG).is_file():
            raise CompositionError(f"expert {name!r} is a full model; only LoRA share one base. Compose it instead")
        sources[name] = LoraExpert(lora_folder)
    ranks = {name: lora.rank for name, lora in sources.items()}
    rank = next((size for size in VLLM_RANKS if size >= max(ranks.values())), None)
    if rank is None:
        raise CompositionError(f"LoRA ranks {ranks} exceed {VLLM_RANKS[-1]}, the most that vLLM serves")
    name = str(Path(base).resolve()) if Path(base).is_dir() else str(base)
    record = {"base": name, "experts": list(sources), "ranks": ranks, "max_lora_rank": rank}
    with atomic_folder(folder) as partial:
        for expert, lora in sources.items():
            adapter = partial / ADAPTERS / expert
            adapter.mkdir(parents=True)
            shutil.copyfile(lora.folder / ADAPTER_WEIGHTS, adapter / ADAPTER_WEIGHTS)
            write_json(adapter / ADAPTER_CONFIG, lora.config | {"base_model_name_or_path": name})
        router.save(partial / ROUTER)
        write_json(partial / RECORD, record)
        (partial / SCRIPT).write_text(f"#!/bin/sh\n{vllm_command(record)}\n", encoding="utf-8")
    return folder


def vllm_command(record: Mapping[str, Any]) -> str:
    """The command that serves the folder, run in it; a request names its expert as the model."""
    modules = " ".join(f"{name}={ADAPTERS}/{name}" for name in record["experts"])
    return (
        f"vllm serve {shlex.quote(record['base'])} --enable-lora --max-loras {len(record['experts'])} "
        f"--max-lora-rank {record['max_lora_rank']} --lora-modules {modules}"
    )


@dataclass
class RoutedModel:
    """A base with its LoRA experts in this process, and the router that picks one for each request."""

    model: Any  # a PeftModel with one adapter for each expert, by its name
    tokenizer: Any
    router: RequestRouter

    @classmethod
    def load(cls, folder: str | os.PathLike[str], **model_options: Any) -> RoutedModel:
        """Loads what [`write_serving`] wrote, with options of `from_pretrained` such as `dtype` or `device_map`."""
        path = Path(folder)
        if not (path / RECORD).is_file():
            raise CompositionError(f"{str(path)!r} holds no {RECORD}; write it with write_serving")
        record = read_json(path / RECORD)
        base = AutoModelForCausalLM.from_pretrained(record["base"], use_safetensors=True, **model_options)
        first, *others = record["experts"]
        model = PeftModel.from_pretrained(base, path / ADAPTERS / first, adapter_name=first)
        for name in others:
            model.load_adapter(path / ADAPTERS / name, adapter_name=name)
        return cls(model.eval(), AutoTokenizer.from_pretrained(record["base"]), RequestRouter.load(path / ROUTER))

    def reply(self, prompts: Sequence[Prompt], *, max_new_tokens: int = 64) -> list[tuple[str, str]]:
        """One greedy reply for each prompt (a text or messages): the expert that it is routed to, and its reply."""
        chosen = self.router.route(prompts)
        talks: list[Any] = [[{"role": "user", "content": p}] if isinstance(p, str) else list(p) for p in prompts]
        replies: dict[int, str] = {}
        for expert in dict.fromkeys(chosen):
            own = [i for i, name in enumerate(chosen) if name == expert]
            self.model.set_adapter(expert)
            found = generate_replies(
                self.model, self.tokenizer, [talks[i] for i in own], max_new_tokens=max_new_tokens, label=expert
            )
            replies |= dict(zip(own, found, strict=True))
        return [(expert, replies[i]) for i, expert in enumerate(chosen)]
