"""Levels of the three EPITOME mechanisms in replies, and how far they are from the references' levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..bootstrap import Sums, means, with_intervals
from ..texts import check_columns
from .epitome_classifier import LEVELS, MECHANISMS, Classifier, load_classifier


DIFFERENCES = {"emotional_reactions": "diff_er", "interpretations": "diff_ip", "explorations": "diff_ex"}
"""The name of each mechanism's mean squared difference."""


def epitome_scores(
    predictions: Sequence[str],
    contexts: Sequence[Any],
    references: Sequence[str] | None = None,
    classifier: Any = None,
    **bootstrap: Any,
) -> dict[str, Any]:
    """Mean levels of the three mechanisms (Sharma et al. 2020); card: `evaluation/epitome/README.md`."""
    columns = {"predictions": predictions, "contexts": contexts}
    if references is not None:
        columns["references"] = references
    predictions, contexts, *others = check_columns(columns)
    loaded = load_classifier(classifier)
    levels = predicted_levels(loaded, contexts, predictions)
    resampler = level_resampler(levels, predicted_levels(loaded, contexts, others[0]) if others else None)
    return with_intervals({**resampler.point(), "n": len(levels)}, lambda: resampler, **bootstrap)


def predicted_levels(
    classifier: Classifier, contexts: Sequence[Sequence[Any]], responses: Sequence[str]
) -> np.ndarray:
    """The levels of replies, of shape `(n, 3)`. A blank reply has level 0."""
    seekers = [_text_of(context[-1]) for context in contexts]
    levels = np.zeros((len(responses), len(MECHANISMS)), int)
    asked = [i for i, response in enumerate(responses) if response.strip()]
    if not asked:
        return levels
    found = np.asarray(classifier.predict([seekers[i] for i in asked], [responses[i] for i in asked]))
    if found.shape != (len(asked), len(MECHANISMS)) or not np.isin(found, LEVELS).all():
        raise ValueError(
            f"the classifier gave {found.dtype} of shape {found.shape} for {len(asked)} replies; expected levels 0, 1 "
            f"or 2 of shape ({len(asked)}, {len(MECHANISMS)}): {', '.join(MECHANISMS)}."
        )
    levels[asked] = found
    return levels


def _text_of(turn: Any) -> str:
    return turn if isinstance(turn, str) else str(turn["content"])


def level_resampler(levels: np.ndarray, references: np.ndarray | None = None) -> Sums:
    """The numbers of [`epitome_scores`] for resamples, from levels of shape `(n, 3)`."""
    columns = {name: levels[:, i] for i, name in enumerate(MECHANISMS)}
    if references is not None:
        columns |= {f"reference_{name}": references[:, i] for i, name in enumerate(MECHANISMS)}
        squared = (levels.astype(float) - references) ** 2
        columns |= {DIFFERENCES[name]: squared[:, i] for i, name in enumerate(MECHANISMS)}
    return means(columns)
