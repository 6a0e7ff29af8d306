"""BERTScore by the library bert-score, with a model of the user's choice."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ee_trl.errors import require

from ..bootstrap import means, with_intervals
from ..texts import check_columns


NAMES = ("bertscore_precision", "bertscore_recall", "bertscore_f1")


def bertscore_scores(
    predictions: Sequence[str],
    references: Sequence[str],
    model: str | os.PathLike[str] | None = None,
    num_layers: int | None = None,
    batch_size: int = 32,
    device: str | None = None,
    **bootstrap: Any,
) -> dict[str, Any]:
    """BERTScore (Zhang et al. 2020) with an encoder of the user's choice; card: `evaluation/bertscore/README.md`."""
    scored = sample_similarities(predictions, references, model, num_layers, batch_size, device)
    resampler = means({name: scored[name] for name in NAMES})
    counts = {"blank": int(scored["blank"].sum()), "n": resampler.n, "num_layers": int(scored["num_layers"])}
    return with_intervals({**resampler.point(), **counts}, lambda: resampler, **bootstrap)


def sample_similarities(
    predictions: Sequence[str],
    references: Sequence[str],
    model: str | os.PathLike[str] | None,
    num_layers: int | None = None,
    batch_size: int = 32,
    device: str | None = None,
) -> dict[str, np.ndarray]:
    """Each sample's precision, recall and F1, x100, of shape `(n,)`, and `blank`; see [`bertscore_scores`]."""
    predictions, references = check_columns({"predictions": predictions, "references": references})
    for i, text in enumerate(references):
        if not text.strip():
            raise ValueError(f"references[{i}] is blank; give a text to compare with.")
    if model is None:
        raise ValueError("model is needed: the folder or hub id of an encoder, e.g. microsoft/deberta-xlarge-mnli.")
    scorer = _scorer(os.fspath(model), num_layers, batch_size, device)
    blank = np.array([not text.strip() for text in predictions])
    asked = np.flatnonzero(~blank)
    table = np.zeros((len(predictions), len(NAMES)))
    if len(asked):
        parts = scorer.score([predictions[i] for i in asked], [references[i] for i in asked])
        table[asked] = 100.0 * np.stack([np.asarray(part, float) for part in parts], axis=1)
    columns = {name: table[:, i] for i, name in enumerate(NAMES)}
    return {**columns, "blank": blank, "num_layers": np.array(scorer.num_layers)}


def _scorer(model: str, num_layers: int | None, batch_size: int, device: str | None) -> Any:
    bert_score = require("bert_score", extra="bertscore", purpose="metric 'bertscore'")
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model)
    there = int(config.num_hidden_layers)
    known = bert_score.utils.model2layers.get(model, bert_score.utils.model2layers.get(Path(model).name))
    layers = num_layers if num_layers is not None else min(known, there) if known else there
    if not isinstance(layers, int) or not 1 <= layers <= there:
        raise ValueError(f"num_layers must be from 1 to {there}, the layers of this model, got {num_layers!r}.")
    scorer = bert_score.BERTScorer(
        model_type=model, num_layers=layers, batch_size=batch_size, device=device, use_fast_tokenizer=True
    )
    limit = getattr(config, "max_position_embeddings", None) or 512
    # the library has no option for the length of its inputs
    scorer._tokenizer.model_max_length = min(scorer._tokenizer.model_max_length, limit)
    return scorer
