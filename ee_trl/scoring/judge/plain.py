"""Texts through any causal language model, nothing shared; and what a model is not to be asked: branches, padding."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from typing import Any

import torch


logger = logging.getLogger(__name__)


@torch.inference_mode()
def last_logits(model: Any, texts: Sequence[Sequence[int]], keep: int, padded: bool = True) -> torch.Tensor:
    """
    The logits at the end of each text.

    Args:
        model (`PreTrainedModel`): A causal language model.
        texts (`Sequence[Sequence[int]]`): `b` texts as ids.
        keep (`int`): At how many of each text's last tokens.
        padded (`bool`, *optional*, defaults to `True`): In one forward pass, padded on the left; else one by one.

    Returns:
        `torch.Tensor` of shape `(b, keep, vocabulary)`, float32.
    """
    if not padded and len(texts) > 1:
        return torch.cat([last_logits(model, [text], keep) for text in texts])
    width, device = max(map(len, texts)), model.device
    mask = torch.tensor([[0] * (width - len(t)) + [1] * len(t) for t in texts])
    ids = torch.tensor([[0] * (width - len(t)) + list(t) for t in texts])
    arguments = {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    takes = _parameters(model)
    kept = {name: tensor.to(device) for name, tensor in arguments.items() if name in takes}
    extra: dict[str, Any] = {"logits_to_keep": keep} if "logits_to_keep" in takes else {}
    return model(**kept, use_cache=False, **extra).logits[:, -keep:].float()


def takes_padding(model: Any, text: Sequence[int], exact: bool) -> bool:
    """
    Whether a text beside a longer one has the logits that it has alone; where not, says so.

    Args:
        model (`PreTrainedModel`): A causal language model.
        text (`Sequence[int]`): Some ids.
        exact (`bool`): Whether it computes in float32, where a comparison tells. Elsewhere its own rounding hides a
            small difference, and a model that cannot be told positions is taken not to.
    """
    if exact or "position_ids" in _parameters(model):
        beside = last_logits(model, [text, [*text, *text]], keep=1)[0, -1].log_softmax(-1)
        alone = last_logits(model, [text], keep=1)[0, -1].log_softmax(-1)
        likely = alone.topk(min(20, len(alone))).indices
        if bool((beside - alone)[likely].abs().max() <= (1e-2 if exact else 1.0)):
            return True
    logger.warning("this model gives other numbers beside padding; texts are run one by one, which is right but slow")
    return False


def no_branch_mask(model: Any) -> str | None:
    """Why a model, by what it is made of, takes no branches: a comparison in low precision may not tell."""
    config = model.config.get_text_config()
    kinds = {*(getattr(config, "layer_types", None) or ()), *(getattr(config, "attention_layers", None) or ())}
    kinds -= {"full_attention", "global"}
    if kinds:
        return f"this model has layers of {', '.join(sorted(kinds))}, which do not take the branch mask"
    if "position_ids" not in _parameters(model) or getattr(config, "alibi", False):
        return "this model counts positions itself"
    if model.config._attn_implementation not in ("sdpa", "eager"):
        return f"attention {model.config._attn_implementation!r} does not take the branch mask"
    return None


def _parameters(model: Any) -> frozenset[str]:
    """What the model's forward takes by name; of an adapter's, what the model under it takes."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return frozenset(inspect.signature(inner.forward).parameters)
