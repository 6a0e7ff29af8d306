"""Which samples a judge should score first, so that a scorer distilled from them needs fewer."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from .._optional import require
from ..axes import DEFAULT_THRESHOLD
from ..dialogue import Dialogue
from ..errors import SelectionError, unknown
from ..score_plane import Threshold
from ..scoring.base import Scorer
from ..scoring.conformal import distance_doubt
from ..scoring.load import load_scorer
from . import STRATEGIES
from .features import encoder_features, hashed_features


_POOL = 3  # of "mixed": how many times as many uncertain samples as are wanted the diverse ones are taken from


def choose_to_label(
    dialogues: Sequence[Dialogue],
    n: int,
    *,
    strategy: str = "mixed",
    scorer: str | os.PathLike[str] | Scorer = "linear",
    encoder: str | os.PathLike[str] | None = None,
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
            `"random"` (the baseline); `"diverse"` (one near the centre of each of `n` clusters); `"uncertain"` (those
            that `scorer` puts nearest to T); `"mixed"`: diverse ones among the more uncertain.
        scorer (`str`, `os.PathLike` or [`Scorer`], *optional*, defaults to `"linear"`):
            Whose doubt counts; after a first round, the scorer distilled from it.
        encoder (`str` or `os.PathLike`, *optional*):
            Hub id or folder of a frozen encoder whose vectors tell how alike samples are; by default hashed words.
        threshold (`float`, pair or mapping, *optional*, defaults to `5.0`): T.
        seed (`int`, *optional*, defaults to `0`): Of the draw and the clusters.

    Returns:
        `np.ndarray` of shape `(n,)`: indices, the first the most wanted.

    Raises:
        [`SelectionError`]: There are fewer dialogues, or the strategy is unknown.
    """
    if strategy not in STRATEGIES:
        raise SelectionError(unknown("strategy", strategy, STRATEGIES))
    if not isinstance(n, (int, np.integer)) or not 1 <= n <= len(dialogues):
        raise SelectionError(f"n {n!r} is not a whole number from 1 to {len(dialogues)}, the samples to choose from")
    if strategy == "random":
        return np.random.default_rng(seed).permutation(len(dialogues))[:n]
    doubt = np.zeros(len(dialogues))
    if strategy != "diverse":
        doubt = distance_doubt(np.asarray(load_scorer(scorer).score(dialogues), float), threshold)
    if strategy == "uncertain":
        return np.argsort(-doubt, kind="stable")[:n]
    vectors = encoder_features(dialogues, encoder) if encoder else hashed_features(dialogues, seed=seed)
    return diverse(vectors, n, doubt, seed=seed)


def diverse(vectors: np.ndarray, n: int, doubt: np.ndarray, *, pool: int = _POOL, seed: int = 0) -> np.ndarray:
    """
    One sample of each of `n` clusters, the clusters made of the `pool * n` samples of the greatest doubt.

    Args:
        vectors (`np.ndarray` of shape `(m, d)`): What tells how alike samples are.
        n (`int`): How many.
        doubt (`np.ndarray` of shape `(m,)`): All the same where diversity alone counts.
        pool (`int`, *optional*, defaults to `3`): How many times `n` are looked at, if doubts differ.
        seed (`int`, *optional*, defaults to `0`): Of the clusters.

    Returns:
        `np.ndarray` of shape `(n,)`: indices, those of the largest clusters first.
    """
    cluster = require("sklearn.cluster", extra="report", purpose="choosing what to label")
    among = np.arange(len(doubt))
    if not (doubt == doubt[0]).all():
        among = np.sort(np.argsort(-doubt, kind="stable")[: pool * n])
    points = vectors[among]
    if n >= len(points):
        return among
    means = cluster.MiniBatchKMeans(n, random_state=seed, n_init=1, batch_size=max(1024, 3 * n), max_iter=20)
    labels = means.fit_predict(points)
    apart = ((points - means.cluster_centers_[labels]) ** 2).sum(axis=1)
    order = np.lexsort((apart, labels))
    first = order[np.append(True, np.diff(labels[order]) > 0)]  # the nearest to each centre
    sizes = np.bincount(labels, minlength=n)
    first = first[np.argsort(-sizes[labels[first]], kind="stable")]
    left = np.setdiff1d(np.arange(len(points)), first)  # where a cluster stayed empty, some more at random
    more = np.random.default_rng(seed).permutation(left)[: n - len(first)]
    return among[np.concatenate([first, more])]
