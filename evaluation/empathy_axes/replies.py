"""Sensibility and rationality of replies, by any scorer of `ee_trl`: without `evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ee_trl.axes import AXES, DEFAULT_THRESHOLD, QUADRANTS, TIE, Threshold, quadrants
from ee_trl.data.dialogue import dialogue_of
from ee_trl.scoring.load import load_scorer
from ee_trl.scoring.run import ScoringRun

from .bootstrap import Sums, means, with_intervals
from .texts import check_contexts, check_same_length, check_texts


def empathy_axes_scores(
    predictions: Sequence[str],
    contexts: Sequence[Any],
    references: Sequence[str] | None = None,
    scorer: Any = "linear",
    threshold: Threshold = DEFAULT_THRESHOLD,
    ties: str = "drop",
    resamples: int = 0,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """
    The mean sensibility and rationality of replies, their shares per quadrant, and how they differ from references.

    Args:
        predictions (`Sequence[str]`):
            The generated replies. A blank one is unscored.
        contexts (`Sequence[list]`):
            What came before each: utterances of which the last is the speaker's, or messages.
        references (`Sequence[str]`, *optional*):
            The reference of each, scored by the same scorer.
        scorer (`str`, `os.PathLike`, [`~ee_trl.Scorer`] or [`~ee_trl.scoring.run.ScoringRun`], *optional*):
            What [`~ee_trl.load_scorer`] takes; by default the bundled `"linear"`. A run brings its score store along.
        threshold, ties (*optional*):
            Of the quadrants, as in [`~ee_trl.axes.quadrants`].
        resamples (`int`, *optional*, defaults to `0`):
            How many bootstrap resamples to draw for an interval of each number; 0 for no intervals.
        confidence (`float`, *optional*, defaults to `0.95`):
            Of the intervals.
        seed (`int`, *optional*, defaults to `0`):
            Of the resamples.

    Returns:
        `dict`: `sensibility`, `rationality` (means over the scored replies, 0 to 10); `<quadrant>_share` and
        `tie_share` (0 to 1, of the scored replies); with references the same of them as `reference_...`, and
        `sensibility_difference`, `rationality_difference` (mean of reply minus reference, where both are scored);
        `unscored` and `n` (replies), `scorer` (its fingerprint); with `resamples` also `<name>_interval`. NaN where
        nothing is scored.

    Raises:
        ValueError: no samples, columns of different lengths, no such scorer, or a threshold outside [0, 10].
        TypeError: something is not of the form asked for.

    Example:

    >>> class Words:
    ...     fingerprint = "words"
    ...     def score(self, dialogues):
    ...         return np.array([[len(d.response.split()), 2.0] for d in dialogues])
    >>> found = empathy_axes_scores(["i am so sorry to hear", "oh"], ["my dog died"] * 2, scorer=Words())
    >>> found["sensibility"], found["sensibility_share"], found["low_share"], found["n"]
    (3.5, 0.5, 0.5, 2)
    """
    predictions = check_texts("predictions", predictions)
    contexts = check_contexts("contexts", contexts)
    check_same_length(predictions=predictions, contexts=contexts)
    run = scorer if isinstance(scorer, ScoringRun) else ScoringRun(load_scorer(scorer))
    others = None
    if references is not None:
        references = check_texts("references", references)
        check_same_length(predictions=predictions, references=references)
        others = reply_scores(run, contexts, references)
    scores = reply_scores(run, contexts, predictions)
    resampler = axes_resampler(scores, others, threshold, ties)
    found = {
        **resampler.point(),
        "unscored": int(np.isnan(scores).any(axis=1).sum()),
        "n": len(scores),
        "scorer": run.scorer.fingerprint,
    }
    return with_intervals(found, lambda: resampler, resamples, confidence, seed)


def reply_scores(run: ScoringRun, contexts: Sequence[Any], replies: Sequence[str]) -> np.ndarray:
    """
    Sensibility and rationality of each reply, shape `(n, 2)`; NaN where it is blank or the scorer gave none.

    Raises:
        ValueError: a context holds something that is no turn of a dialogue.
    """
    scores = np.full((len(replies), len(AXES)), np.nan)
    asked = [i for i, reply in enumerate(replies) if reply.strip()]
    dialogues = [dialogue_of(contexts[i], replies[i]) for i in asked]
    if asked:
        scores[asked] = run.score(dialogues).scores
    return scores


def axes_resampler(
    scores: np.ndarray,
    references: np.ndarray | None = None,
    threshold: Threshold = DEFAULT_THRESHOLD,
    ties: str = "drop",
) -> Sums:
    """
    The numbers of [`empathy_axes_scores`] for resamples.

    Args:
        scores, references (`np.ndarray` of shape `(n, 2)`): Of the replies, and of the references if there are any.
        threshold, ties (*optional*): Of the quadrants.
    """
    columns = _columns(scores, threshold, ties, "")
    if references is not None:
        columns |= _columns(references, threshold, ties, "reference_")
        columns |= {f"{axis}_difference": scores[:, i] - references[:, i] for i, axis in enumerate(AXES)}
    return means(columns)


def _columns(scores: np.ndarray, threshold: Threshold, ties: str, prefix: str) -> dict[str, np.ndarray]:
    missing = np.isnan(scores).any(axis=1)
    where = quadrants(scores[:, 0], scores[:, 1], threshold, ties)
    columns = {f"{prefix}{axis}": np.where(missing, np.nan, scores[:, i]) for i, axis in enumerate(AXES)}
    for name in (*QUADRANTS, TIE):
        columns[f"{prefix}{name}_share"] = np.where(missing, np.nan, (where == name).astype(float))
    return columns
