"""Training the routers of a mixture, and nothing else, with TRL: [`RouterSFTTrainer`].

The routers are float32 while they learn: in bfloat16 most steps are smaller than the distance to the next number.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, PreTrainedConfig
from trl import SFTConfig, SFTTrainer

from ..errors import CompositionError
from ..online.trl_internals import LoadingHook
from .checkpoint import write_config
from .families import TARGETS, number_of_experts
from .routing import routers


logger = logging.getLogger(__name__)

ROUTERS = "routers.safetensors"
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


def check_config(config: PreTrainedConfig) -> None:
    """Raises [`CompositionError`] for a model whose router cannot learn: dense, quantized, or without a gradient."""
    if config.model_type not in TARGETS:
        raise CompositionError(
            f"model_type {config.model_type!r} has no router to train; valid: {', '.join(TARGETS)}. Compose "
            "the experts first: ee_trl.compose_moe, or ee-trl compose"
        )
    if getattr(config, "quantization_config", None):
        raise CompositionError(
            "the router of a quantized model is not trained: it would learn to route between rounded experts, and "
            "could not be saved with the others. Train it in bfloat16 first, then quantize the trained model"
        )
    if config.num_experts_per_tok == 1 and getattr(config, "norm_topk_prob", True):
        raise CompositionError(
            "with one active expert (num_experts_per_tok=1) and normalised weights, that expert counts 1 whatever its "
            "gate says: the gate has no gradient and learns nothing, although the loss curve looks normal. Compose "
            "with top_k=2 or more"
        )


def check_arguments(args: SFTConfig, config: PreTrainedConfig, lora_targets: Iterable[str] | None) -> None:
    """
    Raises [`CompositionError`] for settings under which the routers would not learn, or not be kept.

    Sets `router_aux_loss_coef` to 0 where all experts are active.
    """
    checkpointing: dict[str, Any] = {}
    for name in ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"):  # its old and its new name
        checkpointing |= getattr(args, name, None) or {}
    if checkpointing.get("use_reentrant"):
        raise CompositionError(
            "activation_checkpointing_kwargs={'use_reentrant': True} cuts the gradient off where the embeddings are "
            "frozen; set use_reentrant=False"
        )
    if args.load_best_model_at_end:
        raise CompositionError("load_best_model_at_end is not supported, because checkpoints hold the routers alone")
    if lora_targets is not None:
        other = sorted(set([lora_targets] if isinstance(lora_targets, str) else lora_targets) - set(ATTENTION))
        if other:
            raise CompositionError(
                f"a LoRA beside the routers goes on attention alone ({', '.join(ATTENTION)}); PEFT would silently "
                f"leave out {', '.join(other)}, because the experts are not linear layers"
            )
    if config.num_experts_per_tok == number_of_experts(config) and args.router_aux_loss_coef != 0.0:
        if args.router_aux_loss_coef is not None:
            logger.warning("router_aux_loss_coef is set to 0: where all experts are active that loss is constant")
        args.router_aux_loss_coef = 0.0


def unfreeze_routers(model: torch.nn.Module, *, lora: bool = False) -> dict[str, Any]:
    """Lets the routers learn in float32, freezes the rest (except a LoRA), and returns the routers by name."""
    found = routers(model)
    if not lora:  # with one, PEFT has frozen the rest already
        model.requires_grad_(False)
    for router in found.values():
        router.weight.data = router.weight.data.float()
        router.weight.requires_grad_(True)
        _compute_in_float32(router)
    return found


def _compute_in_float32(router: Any) -> None:
    """Computes the router's logits in its own type, whatever type the hidden states or autocast have."""
    own = router.forward

    def forward(hidden: torch.Tensor) -> Any:
        with torch.autocast(hidden.device.type, enabled=False):
            logits, weights, chosen = own(hidden.to(router.weight.dtype))
        return logits, weights.to(hidden.dtype), chosen

    router.forward = forward


def settle_routers(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Casts the routers back to the type of the other weights, in which they are saved and served."""
    for router in routers(model).values():
        router.__dict__.pop("forward", None)
        router.weight.data = router.weight.data.to(dtype)
        router.weight.requires_grad_(False)


def save_routers(found: dict[str, Any], folder: Path) -> None:
    """Writes the routers' weights as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {str(i): router.weight.detach().cpu().contiguous() for i, router in enumerate(found.values())}
    save_file(tensors, folder / ROUTERS, metadata={"names": json.dumps(list(found))})


def load_routers(found: dict[str, Any], folder: Path) -> None:
    """Reads what [`save_routers`] wrote into the routers, in their order."""
    if not (folder / ROUTERS).is_file():
        raise CompositionError(f"{str(folder)!r} is no checkpoint of a router training: it has no {ROUTERS}")
    tensors = load_file(folder / ROUTERS)
    if len(tensors) != len(found):
        raise CompositionError(f"{str(folder)!r} holds {len(tensors)} routers, the model has {len(found)}")
    with torch.no_grad():
        for i, router in enumerate(found.values()):
            router.weight.copy_(tensors[str(i)])


class RouterSFTTrainer(LoadingHook, SFTTrainer):
    """
    TRL's SFTTrainer for the routers of a composed mixture.

    Only the routers learn (and a LoRA on the attention, with `peft_config`). Checkpoints hold only what learns, in
    float32; [`~RouterSFTTrainer.merge`] ends the training; after it, `save_model` saves the whole mixture.

    Args:
        model (`str` or `PreTrainedModel`): What [`~ee_trl.compose_moe`] wrote.
        args (`SFTConfig`): TRL's.
        peft_config (`LoraConfig`, *optional*): A LoRA on `q_proj`, `k_proj`, `v_proj`, `o_proj` or some of them.
        **kwargs: SFTTrainer's other arguments.

    Raises:
        [`CompositionError`]: With this model or these settings the routers would not learn; the message says why.
    """

    def __init__(self, model: Any, args: SFTConfig, *, peft_config: LoraConfig | None = None, **kwargs: Any) -> None:
        named = isinstance(model, (str, os.PathLike))
        revision = (args.model_init_kwargs or {}).get("revision")  # type: ignore[union-attr]
        config: Any = AutoConfig.from_pretrained(model, revision=revision or "main") if named else model.config
        check_config(config)
        if kwargs.get("quantization_config") is not None or getattr(model, "is_quantized", False):
            raise CompositionError("the router of a quantized model is not trained; quantize after training")
        check_arguments(args, config, None if peft_config is None else peft_config.target_modules)
        self._use_cache = config.use_cache
        super().__init__(model=str(model) if isinstance(model, os.PathLike) else model, args=args,
                         peft_config=peft_config, **kwargs)  # fmt: skip
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise CompositionError(
                "routers are trained with DDP (recipes/accelerate/ddp.yaml): they are so few that sharding them saves "
                "little, and checkpoints of sharded routers are not supported"
            )
        loaded: Any = self.model
        self._dtype = loaded.get_input_embeddings().weight.dtype
        self.routers = unfreeze_routers(loaded, lora=peft_config is not None)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the whole mixture, or for a checkpoint (the Trainer passes a folder) only what learns."""
        folder, lora = Path(output_dir or str(self.args.output_dir)), isinstance(self.model, PeftModel)
        if _internal_call and output_dir is not None:
            if lora:
                super().save_model(output_dir, _internal_call)
            if self.args.should_save:
                save_routers(self.routers, folder)
            return
        if lora:
            raise CompositionError("call trainer.merge() before save_model(): without it only the LoRA would be saved")
        super().save_model(output_dir, _internal_call=True)
        if self.args.should_save:
            settled: Any = self.model
            write_config(folder, settled.config, self._dtype)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def load_weights(self, folder: str, stock: Callable[[], None]) -> None:
        """Reads only what learns, from a checkpoint."""
        if isinstance(self.model, PeftModel):
            stock()
        load_routers(self.routers, Path(folder))

    def merge(self) -> None:
        """Ends the training: folds a LoRA in, and casts the routers to the type of the other weights."""
        trained: Any = self.model
        if isinstance(trained, PeftModel):
            self.model = trained = trained.merge_and_unload()
        settle_routers(trained, self._dtype)
        trained.config.use_cache = self._use_cache  # which activation checkpointing turns off
