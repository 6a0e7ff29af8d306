"""A linear model over hashed words, fitted to a judge's scores: the bundled scorer, and an encoder's companion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..data.dialogue import Dialogue
from ..errors import require
from ..scoring import features as ft
from ..scoring.judged import targets


MOST = 8_000
"""Samples that a companion is fitted to, evenly spaced where there are more."""

RIDGE = 3.0
# How much each block may say: the prior variance of its part of the prediction, relative to the others. The optimum
# is flat; halving or doubling any of them moves Spearman by less than 0.01.
BLOCK_VARIANCE = {ft.REPLY: 1.0, ft.CHARS: 1.0, ft.TURN: 0.4, ft.EARLIER: 0.2, "surface": 0.7}
MIN_DOCUMENTS = 2  # an n-gram must occur in so many replies (or contexts) to get a weight
DECIMALS = 6  # of the stored numbers that are not float16: the same arrays whatever the number of threads
_PURPOSE = "fitting a linear model over words"


def designs(features: ft.Features) -> dict[str, Any]:
    """The features as one sparse matrix for each block, scaled as [`~ee_trl.scoring.linear.RawModel`] scales them."""
    sp = require("scipy.sparse", extra="report", purpose=_PURPOSE)
    n = len(features.replies)
    blocks = {}
    for name, grams in features.grams.items():
        values = 1 / np.sqrt(np.maximum(grams.counts, 1))[grams.rows]
        blocks[name] = sp.csr_matrix((values, (grams.rows, grams.buckets)), (n, 1 << ft.WORD_BITS))
    ids: dict[str, int] = {}
    rows = [i for i, reply in enumerate(features.replies) for _ in reply]
    columns = [ids.setdefault(token, len(ids)) for reply in features.replies for token in reply]
    scale = np.array([1 / np.sqrt(len(reply)) for reply in features.replies for _ in reply])
    of_token = [ft.char_buckets(token) for token in ids]
    sizes = np.array([len(buckets) for buckets in of_token])
    chars = sp.csr_matrix(
        (1 / np.sqrt(np.repeat(sizes, sizes)), (np.repeat(np.arange(len(ids)), sizes), np.concatenate(of_token))),
        (len(ids), 1 << ft.CHAR_BITS),
    )
    blocks[ft.CHARS] = sp.csr_matrix((scale, (rows, columns)), (n, len(ids))) @ chars
    return blocks


def fit(dialogues: Sequence[Dialogue], scores: np.ndarray) -> dict[str, np.ndarray]:
    """
    Ridge regression in its dual form on the features of [`~ee_trl.scoring.features`].

    Args:
        dialogues (`Sequence[Dialogue]`): `n` samples; memory and time grow with `n` squared.
        scores (`np.ndarray` of shape `(n, 2)`): The judge's.

    Returns:
        `dict[str, np.ndarray]`: all arrays of [`~ee_trl.scoring.linear.shapes`] but `knots`.
    """
    linalg = require("scipy.linalg", extra="report", purpose=_PURPOSE)
    sp = require("scipy.sparse", extra="report", purpose=_PURPOSE)
    features = ft.extract(dialogues)
    blocks, scales = designs(features), {}
    for name, block in blocks.items():
        documents = np.bincount(block.indices, minlength=block.shape[1])
        rarity = np.log((1 + len(dialogues)) / (1 + documents)) + 1
        scales[name] = np.where(documents >= MIN_DOCUMENTS, rarity, 0.0)
        blocks[name] = block @ sp.diags_array(scales[name])
    centre, spread = features.surface.mean(axis=0), np.maximum(features.surface.std(axis=0), 1e-9)
    blocks["surface"] = sp.csr_matrix((features.surface - centre) / spread)
    scales["surface"] = 1 / spread
    kernel = np.zeros((len(dialogues), len(dialogues)))
    for name, block in blocks.items():
        factor = np.sqrt(BLOCK_VARIANCE[name] / max(block.multiply(block).sum(axis=1).mean(), 1e-12))
        blocks[name] = block * factor
        scales[name] = scales[name] * factor
        kernel += (blocks[name] @ blocks[name].T).toarray()
    wanted = targets(scores)
    kernel[np.diag_indices_from(kernel)] += RIDGE
    dual = linalg.cho_solve(linalg.cho_factor(kernel, overwrite_a=True), wanted - wanted.mean(axis=0))
    weights = {name: scales[name][:, None] * (block.T @ dual) for name, block in blocks.items()}
    arrays = {name: weight.astype(np.float16) for name, weight in weights.items() if name != "surface"}
    arrays["surface"] = weights["surface"].round(DECIMALS)
    arrays["bias"] = (wanted.mean(axis=0) - centre @ arrays["surface"]).round(DECIMALS)
    arrays["feature_version"] = np.array(ft.FEATURE_VERSION, np.int64)
    return arrays
