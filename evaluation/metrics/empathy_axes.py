"""Sensibility and rationality of replies, by any scorer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ee_trl.axes import AXES, DEFAULT_THRESHOLD, QUADRANTS, TIE, Threshold, quadrants
from ee_trl.data.dialogue import dialogue_of
from ee_trl.scoring.kinds import DEFAULT_SCORER
from ee_trl.scoring.load import load_scorer
from ee_trl.scoring.run import ScoringRun

from ..bootstrap import Sums, means, with_intervals
from ..texts import check_columns


def empathy_axes_scores(
    predictions: Sequence[str],
    contexts: Sequence[Any],
    references: Sequence[str] | None = None,
    scorer: Any = DEFAULT_SCORER,
    threshold: Threshold = DEFAULT_THRESHOLD,
    ties: str = "drop",
    **bootstrap: Any,
) -> dict[str, Any]:
    """Mean scores, quadrant shares and differences to references; card: `evaluation/empathy_axes/README.md`."""
    columns = {"predictions": predictions, "contexts": contexts}
    if references is not None:
        columns["references"] = references
    predictions, contexts, *others = check_columns(columns)
    run = scorer if isinstance(scorer, ScoringRun) else ScoringRun(load_scorer(scorer))
    scores = reply_scores(run, contexts, predictions)
    of_references = reply_scores(run, contexts, others[0]) if others else None
    resampler = axes_resampler(scores, of_references, threshold, ties)
    counts = {"unscored": int(np.isnan(scores).any(axis=1).sum()), "n": len(scores)}
    found = {**resampler.point(), **counts, "scorer": run.scorer.fingerprint}
    return with_intervals(found, lambda: resampler, **bootstrap)


def reply_scores(run: ScoringRun, contexts: Sequence[Any], replies: Sequence[str]) -> np.ndarray:
    """Sensibility and rationality of each reply, `(n, 2)`; NaN where it is blank or the scorer gave none."""
    scores = np.full((len(replies), len(AXES)), np.nan)
    asked = [i for i, reply in enumerate(replies) if reply.strip()]
    dialogues = [dialogue_of(contexts[i], replies[i]) for i in asked]
    if asked:
        scores[asked] = run.score(dialogues).scores
    return scores


def axes_resampler(scores: np.ndarray, references: np.ndarray | None, threshold: Threshold, ties: str) -> Sums:
    """The numbers of [`empathy_axes_scores`] for resamples, from scores of shape `(n, 2)`."""
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
