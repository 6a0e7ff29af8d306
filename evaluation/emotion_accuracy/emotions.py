"""Accuracy over the 32 emotions of EmpatheticDialogues: the arithmetic, without `evaluate`."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from .bootstrap import Sums, Values, divided, with_intervals
from .texts import check_same_length, check_texts


EMOTIONS = (
    "afraid", "angry", "annoyed", "anticipating", "anxious", "apprehensive", "ashamed", "caring", "confident",
    "content", "devastated", "disappointed", "disgusted", "embarrassed", "excited", "faithful", "furious", "grateful",
    "guilty", "hopeful", "impressed", "jealous", "joyful", "lonely", "nostalgic", "prepared", "proud", "sad",
    "sentimental", "surprised", "terrified", "trusting",
)  # fmt: skip
"""The labels of EmpatheticDialogues (Rashkin et al. 2019)."""


def emotion_scores(
    predictions: Sequence[str],
    references: Sequence[str],
    resamples: int = 0,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """
    How often a model names the emotion that a dialogue was written for.

    Args:
        predictions (`Sequence[str]`):
            The emotions that the model gives, one a dialogue.
        references (`Sequence[str]`):
            Those of the data.
        resamples (`int`, *optional*, defaults to `0`):
            How many bootstrap resamples to draw for an interval of each number; 0 for no intervals.
        confidence (`float`, *optional*, defaults to `0.95`):
            Of the intervals.
        seed (`int`, *optional*, defaults to `0`):
            Of the resamples.

    Returns:
        `dict`: `accuracy`, `macro_f1` (over the emotions that the references hold) and `majority` (the accuracy of
        always giving the references' commonest), all 0 to 100; `recall`, emotion -> 0 to 100; `n`; with `resamples`
        also `accuracy_interval` and `macro_f1_interval`.

    Raises:
        ValueError: no samples, different numbers of them, or something that is none of [`EMOTIONS`].
        TypeError: something is not a string.

    Example:

    >>> found = emotion_scores(["sad", "proud", "angry", "sad"], ["sad", "proud", "furious", "sad"])
    >>> found["accuracy"], found["majority"], found["recall"]["furious"], found["n"]
    (75.0, 50.0, 0.0, 4)
    """
    predictions = check_labels("predictions", predictions)
    references = check_labels("references", references)
    check_same_length(predictions=predictions, references=references)
    resampler = emotion_resampler(predictions, references)
    counts = Counter(references)
    hits = Counter(ref for pred, ref in zip(predictions, references, strict=True) if pred == ref)
    found = {
        **resampler.point(),
        "majority": 100.0 * max(counts.values()) / len(references),
        "recall": {name: 100.0 * hits[name] / counts[name] for name in EMOTIONS if counts[name]},
        "n": len(references),
    }
    return with_intervals(found, lambda: resampler, resamples, confidence, seed)


def emotion_resampler(predictions: Sequence[str], references: Sequence[str]) -> Sums:
    """`accuracy` and `macro_f1` of resamples."""
    k = len(EMOTIONS)
    place = {name: i for i, name in enumerate(EMOTIONS)}
    table = np.zeros((len(references), 3 * k))  # of each emotion: hits, times given, times wanted
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


def check_labels(name: str, labels: Any) -> list[str]:
    """The labels in lower case; raises `ValueError` for one that is none of [`EMOTIONS`]."""
    texts = [text.strip().lower() for text in check_texts(name, labels)]
    for i, text in enumerate(texts):
        if text not in EMOTIONS:
            close = difflib.get_close_matches(text, EMOTIONS, n=1)
            valid = ", ".join(EMOTIONS)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"{name}[{i}] {text!r} is no emotion of EmpatheticDialogues; valid: {valid}.{hint}")
    return texts
