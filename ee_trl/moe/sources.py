"""Where an expert's tensors come from: a full model's folder, or a LoRA folder folded into the base on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import CompositionError
from .checkpoint import Checkpoint, digest


if TYPE_CHECKING:
    import torch

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

# settings of a LoRA that change more than two factors can say -> their value where they are off
_PLAIN = {
    "use_dora": False,
    "lora_bias": False,
    "use_qalora": False,
    "use_bdlora": None,
    "fan_in_fan_out": False,
    "bias": "none",
    "modules_to_save": None,
    "trainable_token_indices": None,
    "layer_replication": None,
    "alora_invocation_tokens": None,
    "target_parameters": None,
    "arrow_config": None,
    "kasa_config": None,
    "velora_config": None,
    "monteclora_config": None,
}
_CHANGES_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_PREFIX = "base_model.model."


class Expert(Protocol):
    """An expert as compose reads it, tensor by tensor."""

    folder: Path
    kind: str

    def changes(self, name: str) -> bool:
        """Whether a tensor may differ from the base's."""

    def tensor(self, name: str, base: Checkpoint, dtype: torch.dtype | None) -> torch.Tensor:
        """The expert's tensor of that name."""

    def fingerprint(self) -> str:
        """A digest of the weights."""


class FullExpert:
    """An expert that is a model of its own."""

    kind = "full model"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoint = Checkpoint(folder)

    def changes(self, name: str) -> bool:
        """All of its tensors may."""
        return True

    def tensor(self, name: str, base: Checkpoint, dtype: torch.dtype | None) -> torch.Tensor:
        """As it is in the folder."""
        return self.checkpoint.read(name, dtype)

    def fingerprint(self) -> str:
        """Of all its weights."""
        return digest(self.folder)


class LoraExpert:
    """
    An expert that is a LoRA folder; each tensor is what PEFT's `merge_and_unload` would make of it, to the last bit.

    Args:
        folder (`Path`): With `adapter_config.json` and `adapter_model.safetensors`.

    Raises:
        [`CompositionError`]: It is no plain LoRA (DoRA, a bias, modules saved whole, ...); the message says which.
    """

    kind = "LoRA"

    def __init__(self, folder: Path) -> None:
        from safetensors.torch import load_file

        self.folder = folder
        self.config: dict[str, Any] = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        check_plain_lora(self.config, folder)
        if not (folder / ADAPTER_WEIGHTS).is_file():
            raise CompositionError(f"{str(folder)!r} has no {ADAPTER_WEIGHTS}; save the adapter with save_pretrained")
        self._factors = self._by_name(load_file(folder / ADAPTER_WEIGHTS))

    def _by_name(self, tensors: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
        factors: dict[str, dict[str, torch.Tensor]] = {}
        for key, tensor in tensors.items():
            module, dot, side = key.removesuffix(".weight").rpartition(".")
            if not key.startswith(_PREFIX) or side not in ("lora_A", "lora_B") or not key.endswith(".weight"):
                raise CompositionError(
                    f"{str(self.folder)!r} holds {key!r}, which is no factor of a linear layer's LoRA; only plain "
                    "LoRA on linear layers can be folded in. Give the full model, merged by PEFT"
                )
            factors.setdefault(module.removeprefix(_PREFIX) + ".weight", {})[side] = tensor.float()
        for name, sides in factors.items():
            if set(sides) != {"lora_A", "lora_B"}:
                raise CompositionError(f"{str(self.folder)!r} holds only one factor of {name!r}; the file is damaged")
        return factors

    @property
    def names(self) -> list[str]:
        """The tensors that it changes."""
        return list(self._factors)

    def factors(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """A of shape `(r, in)` and B of shape `(out, r)`, in float32."""
        return self._factors[name]["lora_A"], self._factors[name]["lora_B"]

    def scaling(self, name: str) -> float:
        """`alpha / r`, or `alpha / sqrt(r)` with rsLoRA, of the layer that the tensor belongs to."""
        from peft.utils.other import get_pattern_key

        module = name.removesuffix(".weight")
        alphas: dict[str, float] = self.config.get("alpha_pattern") or {}
        ranks: dict[str, int] = self.config.get("rank_pattern") or {}
        alpha = float(alphas.get(get_pattern_key(list(alphas), module), self.config["lora_alpha"]))
        rank = int(ranks.get(get_pattern_key(list(ranks), module), self.config["r"]))
        return alpha / (rank**0.5 if self.config.get("use_rslora") else rank)

    def changes(self, name: str) -> bool:
        """Whether a LoRA is on it."""
        return name in self._factors

    def tensor(self, name: str, base: Checkpoint, dtype: torch.dtype | None) -> torch.Tensor:
        """The base's tensor, with the LoRA folded in where there is one."""
        merged = base.read(name, dtype)
        if name in self._factors:
            a, b = self.factors(name)
            merged += (b @ a) * self.scaling(name)
        return merged

    def fingerprint(self) -> str:
        """Of the adapter's weights and settings."""
        return digest(self.folder, (ADAPTER_WEIGHTS, ADAPTER_CONFIG))


def check_plain_lora(config: dict[str, Any], folder: Path) -> None:
    """Raises [`CompositionError`] for an adapter that is more than a plain LoRA, naming the setting."""
    kind = config.get("peft_type")
    if kind != "LORA":
        raise CompositionError(
            f"{str(folder)!r} is an adapter of type {kind!r}; only LORA can be composed. Merge it into its base with "
            "PEFT's merge_and_unload and give the full model"
        )
    for name, plain in _PLAIN.items():
        value = config.get(name, plain)
        if value != plain and not (plain is None and not value):
            named = "DoRA" if name == "use_dora" else f"{name}={value!r}"
            raise CompositionError(
                f"{str(folder)!r} uses {named}, which cannot be folded in exactly; merge it into its base with PEFT's "
                "merge_and_unload and give the full model, or train with plain LoRA"
            )
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.startswith(_CHANGES_THE_BASE):
        raise CompositionError(
            f"{str(folder)!r} was initialised with {start!r}, which changes the base's weights; convert it with "
            "save_pretrained(path_initial_model_for_weight_conversion=...), or give the merged full model"
        )


def open_expert(folder: Path) -> LoraExpert | FullExpert:
    """The expert in a folder; a LoRA where there is an `adapter_config.json`."""
    return LoraExpert(folder) if (folder / ADAPTER_CONFIG).is_file() else FullExpert(folder)
