"""Which samples a judge should score first, so that a scorer distilled from them needs fewer.

*Diverse* is meant as by transductive experimental design (Yu, Bi and Tresp, 2006): those samples whose labels leave a
linear model over the samples' vectors least unsure of all the others, one after the other. *Mixed* counts the others
by how near they are to where the decision changes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from ..axes import DEFAULT_THRESHOLD, Threshold
from ..data.dialogue import Dialogue
from ..errors import SelectionError, require, unknown
from ..scoring.base import Scorer
from ..scoring.conformal import distance_doubt
from ..scoring.load import load_scorer
from . import STRATEGIES
from .features import encoder_features, hashed_features


MOST = 10_000
"""Samples that are compared with each other; of more, so many are drawn at random."""

_DIMENSIONS = 128
_RIDGE = 10.0


def choose_to_label(
    dialogues: Sequence[Dialogue],
    n: int,
    *,
    strategy: str = "mixed",
    scorer: str | os.PathLike[str] | Scorer = "linear",
    encoder: str | os.PathLike[str] | None = None,
    labelled: Sequence[Dialogue] = (),
    threshold: Threshold = DEFAULT_THRESHOLD,
    seed: int = 0,
) -> np.ndarray:
    """
    Chooses the samples that a judge should score.

    Args:
        dialogues (`Sequence[Dialogue]`):
            The ones to choose from.
        n (`int`):
            How many.
        strategy (`str`, *optional*, defaults to `"mixed"`):
            `"random"` (the baseline); `"diverse"` (whose labels tell most about all the others); `"mixed"` (about
            those that `scorer` puts near T); `"uncertain"` (the ones that it puts nearest to T).
        scorer (`str`, `os.PathLike` or [`Scorer`], *optional*, defaults to `"linear"`):
            Whose doubt counts; after a first round, the scorer distilled from it.
        encoder (`str` or `os.PathLike`, *optional*):
            Hub id or folder of a frozen encoder whose vectors tell how alike samples are; by default hashed words.
        labelled (`Sequence[Dialogue]`, *optional*):
            Those that have labels already: what they tell need not be told again.
        threshold (`float`, pair or mapping, *optional*, defaults to `5.0`): T.
        seed (`int`, *optional*, defaults to `0`): Of what is drawn.

    Returns:
        `np.ndarray` of shape `(n,)`: indices, the first the most wanted.

    Raises:
        [`SelectionError`]: There are fewer dialogues, or the strategy is unknown.
    """
    if strategy not in STRATEGIES:
        raise SelectionError(unknown("strategy", strategy, STRATEGIES))
    if not isinstance(n, (int, np.integer)) or not 1 <= n <= len(dialogues):
        raise SelectionError(f"n {n!r} is not a whole number from 1 to {len(dialogues)}, the samples to choose from")
    drawn = np.random.default_rng(seed).permutation(len(dialogues))
    if strategy == "random":
        return drawn[:n]
    doubt = np.ones(len(dialogues))
    if strategy != "diverse":
        doubt = distance_doubt(np.asarray(load_scorer(scorer).score(dialogues), float), threshold)
    if strategy == "uncertain":
        return np.argsort(-doubt, kind="stable")[:n]
    among = drawn[: max(MOST, n)]
    known = list(labelled)[:MOST]
    both = [*(dialogues[int(i)] for i in among), *known]
    vectors = reduced(encoder_features(both, encoder), seed) if encoder else hashed_features(both, _DIMENSIONS, seed)
    return among[informative(vectors[: len(among)], n, nearness(doubt[among]), vectors[len(among) :])]


def nearness(doubt: np.ndarray) -> np.ndarray:
    """How much a sample counts, by its doubt: 1 at T, about a seventh at a standard deviation from it."""
    away = 1 - np.minimum(doubt, 1)
    spread = away.std()
    return np.exp(-2 * (away / spread) ** 2) if spread > 0 else np.ones(len(doubt))


def informative(vectors: np.ndarray, n: int, weights: np.ndarray, labelled: np.ndarray | None = None) -> np.ndarray:
    """
    One after the other, the sample whose label lowers most the weighted mean variance of a linear model's predictions.

    Args:
        vectors (`np.ndarray` of shape `(m, d)`): Of the samples.
        n (`int`): How many, at most `m`.
        weights (`np.ndarray` of shape `(m,)`): How much each sample's prediction counts.
        labelled (`np.ndarray` of shape `(k, d)`, *optional*): Vectors of samples that are labelled already.

    Returns:
        `np.ndarray` of shape `(n,)`: indices, in the order in which they were chosen.
    """
    x = _scaled(np.concatenate([vectors, vectors[:0] if labelled is None else labelled]))
    m = len(vectors)
    share = weights / weights.sum()
    wanted = (x[:m] * share[:, None].astype(np.float32)).T @ x[:m]  # (d, d): the directions that are asked about
    z = x / np.float32(_RIDGE)  # rows of x times the covariance of the model's weights
    z_wanted = z @ wanted
    variance = (z * x).sum(axis=1)
    free = np.arange(len(x)) < m
    chosen: list[int] = []
    for step in range(n + len(x) - m):
        if step < len(x) - m:
            i = m + step
        else:
            gain = np.where(free, (z_wanted * z).sum(axis=1) / (1 + variance), -np.inf)
            i = int(gain.argmax())
            chosen.append(i)
        along, scale = x @ z[i], 1 + variance[i]
        z_wanted -= np.outer(along, z_wanted[i] / scale)
        z -= np.outer(along, z[i] / scale)
        variance -= along**2 / scale
        free[i] = False
    return np.array(chosen, np.intp)


def _scaled(vectors: np.ndarray) -> np.ndarray:
    """Vectors whose entries have a mean square of 1, and a constant."""
    x = vectors / max(float(np.sqrt((vectors**2).mean())), 1e-12)
    return np.concatenate([x, np.ones((len(x), 1))], axis=1).astype(np.float32)


def reduced(vectors: np.ndarray, seed: int = 0) -> np.ndarray:
    """The vectors' main directions, of shape `(n, 128)` at most."""
    if min(vectors.shape) <= _DIMENSIONS:
        return vectors
    decomposition = require("sklearn.decomposition", extra="report", purpose="choosing what to label")
    return decomposition.PCA(_DIMENSIONS, random_state=seed).fit_transform(vectors)
