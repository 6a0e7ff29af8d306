"""Accuracy over the 32 emotions of EmpatheticDialogues."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ee_trl.errors import unknown

from ..bootstrap import Sums, Values, divided, with_intervals
from ..texts import check_columns, check_texts


EMOTIONS = (
    "afraid", "angry", "annoyed", "anticipating", "anxious", "apprehensive", "ashamed", "caring", "confident",
    "content", "devastated", "disappointed", "disgusted", "embarrassed", "excited", "faithful", "furious", "grateful",
    "guilty", "hopeful", "impressed", "jealous", "joyful", "lonely", "nostalgic", "prepared", "proud", "sad",
    "sentimental", "surprised", "terrified", "trusting",
)  # fmt: skip
"""The labels of EmpatheticDialogues (Rashkin et al. 2019)."""


def emotion_scores(predictions: Sequence[str], references: Sequence[str], **bootstrap: Any) -> dict[str, Any]:
    """How often a model names a dialogue's emotion; card: `evaluation/emotion_accuracy/README.md`."""
    columns = {"predictions": predictions, "references": references}
    predictions, references = check_columns(columns, dict.fromkeys(columns, check_labels))
    resampler = emotion_resampler(predictions, references)
    counts = Counter(references)
    hits = Counter(ref for pred, ref in zip(predictions, references, strict=True) if pred == ref)
    found = {
        **resampler.point(),
        "majority": 100.0 * max(counts.values()) / len(references),
        "recall": {name: 100.0 * hits[name] / counts[name] for name in EMOTIONS if counts[name]},
        "n": len(references),
    }
    return with_intervals(found, lambda: resampler, **bootstrap)


def emotion_resampler(predictions: Sequence[str], references: Sequence[str]) -> Sums:
    """`accuracy` and `macro_f1` of resamples."""
    k = len(EMOTIONS)
    place = {name: i for i, name in enumerate(EMOTIONS)}
    table = np.zeros((len(references), 3 * k))  # for each emotion: hits, times given, times wanted
    for row, (pred, ref) in zip(table, zip(predictions, references, strict=True), strict=True):
        row[place[pred]] += pred == ref
        row[k + place[pred]] += 1
        row[2 * k + place[ref]] += 1

    def finish(sums: np.ndarray) -> Values:
        hits, given, wanted = sums[:, :k], sums[:, k : 2 * k], sums[:, 2 * k :]
        f1 = np.where(wanted > 0, divided(2 * hits, given + wanted, 0.0), 0.0)
        return {
            "accuracy": divided(100.0 * hits.sum(axis=1), wanted.sum(axis=1)),
            "macro_f1": divided(100.0 * f1.sum(axis=1), (wanted > 0).sum(axis=1)),
        }

    return Sums(table, finish)


def check_labels(name: str, labels: Any, start: int = 0) -> list[str]:
    """The labels in lower case; raises `ValueError` for one that is not among [`EMOTIONS`]."""
    texts = [text.strip().lower() for text in check_texts(name, labels, start)]
    for i, text in enumerate(texts, start):
        if text not in EMOTIONS:
            raise ValueError(f"{name}[{i}]: {unknown('emotion', text, EMOTIONS)}")
    return texts
