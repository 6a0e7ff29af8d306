"""Levels of the three EPITOME mechanisms in replies, and how far they are from those of the references."""

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
    """
    The mean level of emotional reactions, interpretations and explorations (Sharma et al. 2020) in replies.

    diff-ER, diff-IP and diff-EX are the mean squared differences between the levels of a reply and of its reference,
    both by the same classifier: 0 where every reply communicates a mechanism as its reference does, 4 at most.

    Args:
        predictions (`Sequence[str]`): The generated replies.
        contexts (`Sequence[list]`): What came before each, utterances or messages. The classifier is given the last
            turn as the seeker's post.
        references (`Sequence[str]`, *optional*): The reference of each.
        classifier (`str`, `os.PathLike` or [`Classifier`]): See [`load_classifier`].
        bootstrap (*optional*): See [`~ee_trl.evaluation.bootstrap.Bootstrap`].

    Returns:
        `dict`: `emotional_reactions`, `interpretations`, `explorations` (mean level, 0 to 2), with references also
        `reference_<mechanism>` and `diff_er`, `diff_ip`, `diff_ex` (0 to 4), and `n`; with `resamples` also
        `<name>_interval`.

    Raises:
        ValueError: There is no classifier, or it gives something else than levels.

    Example:

    >>> class Words:
    ...     def predict(self, seekers, responses):
    ...         return [["sorry" in text, "must feel" in text, 2 * ("?" in text)] for text in responses]
    >>> found = epitome_scores(["oh , i am sorry", "why ?"], ["my dog died"] * 2, ["i am sorry"] * 2, Words())
    >>> found["emotional_reactions"], found["explorations"], found["diff_er"], found["diff_ex"]
    (0.5, 1.0, 0.5, 2.0)
    """
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
    """
    The levels of replies, of shape `(n, 3)`. A blank reply communicates nothing.

    Raises:
        ValueError: The classifier gives something else than levels of that shape.
    """
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
