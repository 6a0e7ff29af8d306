"""Dialogues as vectors: by a frozen encoder, or without any model by hashed words."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..data.dialogue import Dialogue
from ..errors import require
from ..scoring import features as ft


_PURPOSE = "choosing what to label"


def hashed_features(dialogues: Sequence[Dialogue], dimensions: int = 64, seed: int = 0) -> np.ndarray:
    """
    Words of the reply and of the turn before it, reduced by a truncated SVD, and what is seen at a glance (lengths,
    punctuation).

    Args:
        dialogues (`Sequence[Dialogue]`): `n` of them.
        dimensions (`int`, *optional*, defaults to `64`): Of the vectors, at most.
        seed (`int`, *optional*, defaults to `0`): Of the SVD.

    Returns:
        `np.ndarray` of shape `(n, d)`.
    """
    decomposition = require("sklearn.decomposition", extra="report", purpose=_PURPOSE)
    sparse = require("scipy.sparse", extra="report", purpose=_PURPOSE)
    found = ft.extract(dialogues)
    parts = []
    for block, weight in ((ft.REPLY, 1.0), (ft.TURN, 0.5)):
        grams = found.grams[block]
        values = weight / np.sqrt(np.maximum(grams.counts, 1))[grams.rows]
        matrix = sparse.csr_matrix((values, (grams.rows, grams.buckets)), (len(dialogues), 1 << ft.WORD_BITS))
        documents = np.bincount(matrix.indices, minlength=matrix.shape[1])
        rarity = np.where(documents > 1, np.log((1 + len(dialogues)) / (1 + documents)), 0.0)
        parts.append(matrix @ sparse.diags_array(rarity))
    joined = sparse.hstack(parts).tocsr()
    joined = joined[:, np.flatnonzero(np.bincount(joined.indices, minlength=joined.shape[1]))]
    if min(joined.shape) <= dimensions + 1:
        words = _unit(joined.toarray())
    else:
        words = _unit(decomposition.TruncatedSVD(dimensions, random_state=seed).fit_transform(joined))
    glance = found.surface - found.surface.mean(axis=0)
    glance /= np.maximum(found.surface.std(axis=0), 1e-9)
    return np.concatenate([words * np.sqrt(words.shape[1]), glance], axis=1)


def encoder_features(
    dialogues: Sequence[Dialogue],
    encoder: str | os.PathLike[str],
    *,
    max_length: int = 128,
    token_budget: int = 2_048,
    trust_remote_code: bool = False,
) -> np.ndarray:
    """
    Mean-pooled embeddings of the context, of the reply, and their product.

    Args:
        dialogues (`Sequence[Dialogue]`): `n` of them.
        encoder (`str` or `os.PathLike`): Hub id or folder, e.g. of a sentence encoder.
        max_length (`int`, *optional*, defaults to `128`): Tokens of a text; of a context the last ones.
        token_budget (`int`, *optional*, defaults to `2048`): Tokens in one forward pass.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether code that comes with it may run.

    Returns:
        `np.ndarray` of shape `(n, 3 d)`.
    """
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(encoder, trust_remote_code=trust_remote_code)
    model = AutoModel.from_pretrained(encoder, trust_remote_code=trust_remote_code).eval()
    read = [" ".join(ft.tokenise(" ".join(d.context))) for d in dialogues]
    contexts = _pooled(model, tokenizer, read, max_length, token_budget, "left")
    replies = [" ".join(ft.tokenise(d.response)) for d in dialogues]
    answers = _pooled(model, tokenizer, replies, max_length, token_budget, "right")
    return np.concatenate([contexts, answers, contexts * answers * np.sqrt(contexts.shape[1])], axis=1)


def _pooled(model: Any, tokenizer: Any, texts: list[str], max_length: int, token_budget: int, side: str) -> np.ndarray:
    import torch

    tokenizer.truncation_side = side
    encoded = tokenizer(texts, truncation=True, max_length=max_length, split_special_tokens=True)["input_ids"]
    order = sorted(range(len(texts)), key=lambda i: -len(encoded[i]))
    found: dict[int, np.ndarray] = {}
    start = 0
    while start < len(order):
        width = len(encoded[order[start]])
        part = order[start : start + max(1, token_budget // max(width, 1))]
        start += len(part)
        mask = torch.tensor([[1] * len(encoded[i]) + [0] * (width - len(encoded[i])) for i in part])
        ids = torch.tensor([encoded[i] + [tokenizer.pad_token_id or 0] * (width - len(encoded[i])) for i in part])
        with torch.inference_mode():
            hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        mean = (hidden * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        found |= dict(zip(part, _unit(mean.double().numpy()), strict=True))
    return np.stack([found[i] for i in range(len(texts))])


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
