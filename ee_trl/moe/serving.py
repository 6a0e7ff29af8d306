"""Base and LoRA experts as one folder to serve: the layout of vLLM's multi-LoRA, and the same with PEFT here."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CompositionError
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
        output (`str` or `os.PathLike`): The folder to write; it must not be there.

    Raises:
        [`CompositionError`]: An expert is no plain LoRA, the ranks are too large for vLLM, or the names do not fit.
    """
    folder = Path(output)
    if folder.exists():
        raise CompositionError(f"{str(folder)!r} is there already and is not overwritten; give another output folder")
    if set(experts) != set(router.experts):
        raise CompositionError(f"the router is for {sorted(router.experts)}, the experts are {sorted(experts)}")
    sources = {name: resolve_folder(path) for name, path in experts.items()}
    ranks = {name: _rank(name, path) for name, path in sources.items()}
    rank = next((size for size in VLLM_RANKS if size >= max(ranks.values())), None)
    if rank is None:
        raise CompositionError(f"LoRA ranks {ranks} exceed {VLLM_RANKS[-1]}, the most that vLLM serves")
    name = str(Path(base).resolve()) if Path(base).is_dir() else str(base)
    for expert, path in sources.items():
        (folder / ADAPTERS / expert).mkdir(parents=True)
        shutil.copyfile(path / ADAPTER_WEIGHTS, folder / ADAPTERS / expert / ADAPTER_WEIGHTS)
        config = json.loads((path / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        content = json.dumps(config | {"base_model_name_or_path": name}, indent=2)
        (folder / ADAPTERS / expert / ADAPTER_CONFIG).write_text(content + "\n", encoding="utf-8")
    router.save(folder / ROUTER)
    record = {"base": name, "experts": list(sources), "ranks": ranks, "max_lora_rank": rank}
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (folder / SCRIPT).write_text(f"#!/bin/sh\n{vllm_command(record)}\n", encoding="utf-8")
    return folder


def _rank(name: str, folder: Path) -> int:
    """The largest rank of a LoRA's layers."""
    if not (folder / ADAPTER_CONFIG).is_file():
        raise CompositionError(f"expert {name!r} is a full model; only LoRA share one base. Compose it instead")
    expert = LoraExpert(folder)
    return max(expert.factors(tensor)[0].shape[0] for tensor in expert.names)


def vllm_command(record: Mapping[str, Any]) -> str:
    """The command that serves the folder, run in it; a request names its expert as the model."""
    modules = " ".join(f"{name}={ADAPTERS}/{name}" for name in record["experts"])
    return (
        f"vllm serve {shlex.quote(record['base'])} --enable-lora --max-loras {len(record['experts'])} "
        f"--max-lora-rank {record['max_lora_rank']} --lora-modules {modules}"
    )


@dataclass
class RoutedModel:
    """
    A base with its LoRA experts in this process, and the router that picks one for each request.

    Args:
        model (`PeftModel`): With one adapter for each expert, by its name.
        tokenizer (`PreTrainedTokenizerBase`): The base's.
        router (`RequestRouter`): Of the same experts.
    """

    model: Any
    tokenizer: Any
    router: RequestRouter

    @classmethod
    def load(cls, folder: str | os.PathLike[str], **model_options: Any) -> RoutedModel:
        """
        Loads what [`write_serving`] wrote.

        Args:
            folder (`str` or `os.PathLike`): The folder.
            **model_options: Passed to `AutoModelForCausalLM.from_pretrained`, such as `dtype` or `device_map`.
        """
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        path = Path(folder)
        if not (path / RECORD).is_file():
            raise CompositionError(f"{str(path)!r} holds no {RECORD}; write it with write_serving")
        record = json.loads((path / RECORD).read_text(encoding="utf-8"))
        base = AutoModelForCausalLM.from_pretrained(record["base"], **model_options)
        first, *others = record["experts"]
        model = PeftModel.from_pretrained(base, path / ADAPTERS / first, adapter_name=first)
        for name in others:
            model.load_adapter(path / ADAPTERS / name, adapter_name=name)
        return cls(model.eval(), AutoTokenizer.from_pretrained(record["base"]), RequestRouter.load(path / ROUTER))

    def reply(self, prompts: Sequence[Prompt], *, max_new_tokens: int = 64) -> list[tuple[str, str]]:
        """
        One greedy reply for each prompt, by the expert that it is routed to.

        Args:
            prompts (`Sequence`): Texts or messages.
            max_new_tokens (`int`, *optional*, defaults to `64`): Where a reply is cut off.

        Returns:
            `list[tuple[str, str]]`: expert and reply, in the order of the prompts.
        """
        from ..evaluation.generation import generate_replies

        chosen = self.router.route(prompts)
        talks: list[Any] = [[{"role": "user", "content": p}] if isinstance(p, str) else list(p) for p in prompts]
        replies = [""] * len(talks)
        for expert in dict.fromkeys(chosen):
            own = [i for i, name in enumerate(chosen) if name == expert]
            self.model.set_adapter(expert)
            found = generate_replies(
                self.model, self.tokenizer, [talks[i] for i in own], max_new_tokens=max_new_tokens, label=expert
            )
            for i, text in zip(own, found, strict=True):
                replies[i] = text
        return list(zip(chosen, replies, strict=True))
