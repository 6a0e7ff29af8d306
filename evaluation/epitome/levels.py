"""Levels of the three EPITOME mechanisms in replies, and how far they are from the references: without `evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .bootstrap import Sums, means, with_intervals
from .classifier import MECHANISMS, load_classifier, predicted_levels
from .texts import check_contexts, check_same_length, check_texts


DIFFERENCES = {"emotional_reactions": "diff_er", "interpretations": "diff_ip", "explorations": "diff_ex"}
"""What the mean squared difference of each mechanism is called."""


def epitome_scores(
    predictions: Sequence[str],
    contexts: Sequence[Any],
    references: Sequence[str] | None = None,
    classifier: Any = None,
    resamples: int = 0,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """
    The mean level of emotional reactions, interpretations and explorations (Sharma et al. 2020) in replies.

    diff-ER, diff-IP and diff-EX are the mean squared differences between the levels of a reply and of its reference,
    both by the same classifier: 0 where every reply communicates a mechanism as its reference does, 4 at most.

    Args:
        predictions (`Sequence[str]`):
            The generated replies.
        contexts (`Sequence[list]`):
            What came before each, utterances or messages; the classifier is given the last turn as the seeker's post.
        references (`Sequence[str]`, *optional*):
            The reference of each.
        classifier (`str`, `os.PathLike` or object):
            The folder that `ee-trl train-epitome` wrote, or an object with `predict(seekers, responses)` that gives
            levels of shape `(n, 3)`.
        resamples (`int`, *optional*, defaults to `0`):
            How many bootstrap resamples to draw for an interval of each number; 0 for no intervals.
        confidence (`float`, *optional*, defaults to `0.95`):
            Of the intervals.
        seed (`int`, *optional*, defaults to `0`):
            Of the resamples.

    Returns:
        `dict`: `emotional_reactions`, `interpretations`, `explorations` (mean level, 0 to 2), with references also
        `reference_<mechanism>` and `diff_er`, `diff_ip`, `diff_ex` (0 to 4), and `n`; with `resamples` also
        `<name>_interval`.

    Raises:
        ValueError: no samples, columns of different lengths, no classifier, or one that gives something else than
            levels.
        TypeError: something is not of the form asked for.

    Example:

    >>> class Words:
    ...     def predict(self, seekers, responses):
    ...         return [["sorry" in text, "must feel" in text, 2 * ("?" in text)] for text in responses]
    >>> found = epitome_scores(["oh , i am sorry", "why ?"], ["my dog died"] * 2, ["i am sorry"] * 2, Words())
    >>> found["emotional_reactions"], found["explorations"], found["diff_er"], found["diff_ex"]
    (0.5, 1.0, 0.5, 2.0)
    """
    predictions = check_texts("predictions", predictions)
    contexts = check_contexts("contexts", contexts)
    check_same_length(predictions=predictions, contexts=contexts)
    if references is not None:
        references = check_texts("references", references)
        check_same_length(predictions=predictions, references=references)
    loaded = load_classifier(classifier)
    seekers = [last_turn(context) for context in contexts]
    levels = predicted_levels(loaded, seekers, predictions)
    others = None if references is None else predicted_levels(loaded, seekers, references)
    resampler = level_resampler(levels, others)
    found = {**resampler.point(), "n": len(levels)}
    return with_intervals(found, lambda: resampler, resamples, confidence, seed)


def last_turn(context: Sequence[Any]) -> str:
    """The text of a dialogue's last turn, which is what a reply answers."""
    turn = context[-1]
    return turn if isinstance(turn, str) else str(turn["content"])


def level_resampler(levels: np.ndarray, references: np.ndarray | None = None) -> Sums:
    """The numbers of [`epitome_scores`] for resamples, from levels of shape `(n, 3)`."""
    columns = {name: levels[:, i] for i, name in enumerate(MECHANISMS)}
    if references is not None:
        columns |= {f"reference_{name}": references[:, i] for i, name in enumerate(MECHANISMS)}
        squared = (levels.astype(float) - references) ** 2
        columns |= {DIFFERENCES[name]: squared[:, i] for i, name in enumerate(MECHANISMS)}
    return means(columns)
