"""What says how far a reply communicates each mechanism: any object with `predict`, or a folder of a trained one."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np


MECHANISMS = ("emotional_reactions", "interpretations", "explorations")
"""Columns of every array of levels, in this order."""

LEVELS = (0, 1, 2)
"""No communication, weak, strong."""

CONFIG = "epitome.json"
"""The file that makes a folder a classifier: its kind, settings, and how well it did in cross-validation."""


class Classifier(Protocol):
    """Anything that gives the levels of replies."""

    def predict(self, seekers: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Levels 0 to 2 of shape `(n, 3)`, in the order of [`MECHANISMS`]."""
        ...


def load_classifier(classifier: Any) -> Classifier:
    """
    A classifier from the folder that it was saved to; an object with `predict` is returned as it is.

    Raises:
        ValueError: there is no classifier there.
    """
    train = "Train one with: ee-trl train-epitome DATA -o FOLDER"
    if classifier is None:
        raise ValueError(f"classifier is needed: a folder, or an object with predict(seekers, responses). {train}")
    if not isinstance(classifier, (str, os.PathLike)):
        if not callable(getattr(classifier, "predict", None)):
            raise ValueError(f"{classifier!r} is not a classifier: it has no method predict(seekers, responses).")
        return classifier
    folder = Path(classifier)
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{str(folder)!r} holds no EPITOME classifier ({CONFIG}). {train}")
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if config["kind"] == "linear":
        from .linear import LinearClassifier

        return LinearClassifier.load(folder)
    if config["kind"] == "encoder":
        from .encoder import EncoderClassifier

        return EncoderClassifier.load(folder)
    raise ValueError(f"{str(folder / CONFIG)!r} is of kind {config['kind']!r}; valid: linear, encoder. {train}")


def predicted_levels(classifier: Classifier, seekers: Sequence[str], responses: Sequence[str]) -> np.ndarray:
    """
    What a classifier gives, held to its contract: levels of shape `(n, 3)`. A blank reply communicates nothing.

    Raises:
        ValueError: it is something else.
    """
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


def save_config(folder: str | os.PathLike[str], config: dict[str, Any]) -> None:
    """Writes what makes a folder a classifier; written last, so that half a classifier is none."""
    path = Path(folder) / CONFIG
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
