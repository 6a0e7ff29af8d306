"""Models side by side on held-out dialogues: perplexity by quadrant, and metrics of greedy replies.

[`evaluate_folder`] is the seam: a folder in, a table of numbers out. Whatever evaluates more can take its place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


ALL = "all"
METRICS = {
    "dialogue_bleu": ("bleu1", "bleu4"),
    "dialogue_rouge": ("rougeL",),
    "word_f1": ("word_f1",),
    "distinct": ("dist1", "dist2"),
}
"""Metric -> what of it is shown."""


def evaluate_folder(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    quadrants: Sequence[str],
    *,
    replies: int,
    max_new_tokens: int = 40,
    batch_size: int = 8,
    label: str = "evaluate",
) -> dict[str, Any]:
    """
    Evaluates what a folder holds.

    Args:
        folder (`Path`): A model, or a LoRA that names its base.
        rows (`Sequence[Mapping]`): Held-out `prompt` and `completion`, lists of messages.
        quadrants (`Sequence[str]`): The quadrant of each.
        replies (`int`): For how many of the rows, from the first on, a reply is generated.
        max_new_tokens (`int`, *optional*, defaults to `40`): Where a reply is cut off.
        batch_size (`int`, *optional*, defaults to `8`): Changes nothing but speed.
        label (`str`, *optional*, defaults to `"evaluate"`): Of the progress bar.

    Returns:
        `dict`: `perplexity` and `loss` (quadrant, and `"all"` -> number), `samples` (likewise), `metrics` of the
        replies (each x100) and `replies`.
    """
    model, tokenizer = load_folder(folder)
    losses = _losses(model, tokenizer, rows, quadrants, batch_size)
    found: dict[str, Any] = {
        "loss": {name: nll for name, (nll, _, _) in losses.items()},
        "perplexity": {name: math.exp(nll) for name, (nll, _, _) in losses.items()},
        "samples": {name: n for name, (_, _, n) in losses.items()},
    }
    return found | _replies(model, tokenizer, rows[:replies], max_new_tokens, label)


def load_folder(folder: Path) -> tuple[Any, Any]:
    """Model and tokenizer of a folder, on a GPU where there is one."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    return model.to(device).eval(), AutoTokenizer.from_pretrained(folder)


def _losses(
    model: Any, tokenizer: Any, rows: Sequence[Mapping[str, Any]], quadrants: Sequence[str], batch_size: int
) -> dict[str, tuple[float, int, int]]:
    """Quadrant -> nats per token, tokens and samples; `"all"` is of all tokens together."""
    from ..evaluation.load import load_metric

    metric = load_metric("completion_perplexity")
    found: dict[str, tuple[float, int, int]] = {}
    for name in dict.fromkeys(quadrants):
        own = [row for row, quadrant in zip(rows, quadrants, strict=True) if quadrant == name]
        scores: Any = metric.compute(
            prompts=[list(row["prompt"]) for row in own],
            completions=[list(row["completion"]) for row in own],
            model=model,
            tokenizer=tokenizer,
            batch_size=batch_size,
            progress=False,
        )
        found[name] = (scores["nll"], scores["tokens"], scores["n"])
    tokens = sum(n for _, n, _ in found.values())
    total = sum(nll * n for nll, n, _ in found.values()) / tokens
    return {ALL: (total, tokens, len(rows)), **found}


def _replies(
    model: Any, tokenizer: Any, rows: Sequence[Mapping[str, Any]], max_new_tokens: int, label: str
) -> dict[str, Any]:
    from ..evaluation.generation import generate_replies
    from ..evaluation.load import load_metric

    if not rows:
        return {"metrics": {}, "replies": []}
    prompts = [list(row["prompt"]) for row in rows]
    replies = generate_replies(model, tokenizer, prompts, max_new_tokens=max_new_tokens, label=label)
    pairs: dict[str, Any] = {"predictions": replies, "references": [row["completion"][-1]["content"] for row in rows]}
    found: dict[str, float] = {}
    for metric, names in (
        ("dialogue_bleu", ("bleu1", "bleu4")),
        ("dialogue_rouge", ("rougeL",)),
        ("word_f1", ("word_f1",)),
    ):
        scores: Any = load_metric(metric).compute(**pairs)
        found |= {name: scores[name] for name in names}
    scores = load_metric("distinct").compute(predictions=replies)
    return {
        "metrics": {**found, "dist1": scores["dist1"], "dist2": scores["dist2"], "n": len(replies)},
        "replies": replies,
    }
