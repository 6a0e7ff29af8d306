"""The linear classifier: TF-IDF of the reply's words and letters, logistic regression. It does not read the seeker."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .classifier import LEVELS, MECHANISMS, save_config


WEIGHTS = "weights.npz"
FEATURES = "epitome-1"
"""Changes with any change below that changes a feature."""

TOKEN = r"\w+|[^\w\s]"


class LinearClassifier:
    """
    One logistic regression for each mechanism, over hashed n-grams: nothing of the data's words is kept.

    Args:
        idf (`np.ndarray` of shape `(f,)`): Inverse document frequency of each feature.
        weights (`np.ndarray` of shape `(f, 9)`): For each mechanism and level.
        bias (`np.ndarray` of shape `(9,)`): Likewise.
    """

    def __init__(self, idf: np.ndarray, weights: np.ndarray, bias: np.ndarray) -> None:
        self.idf, self.weights, self.bias = idf, weights, bias

    @classmethod
    def fit(
        cls, seekers: Sequence[str], responses: Sequence[str], levels: np.ndarray, *, c: float = 0.3
    ) -> LinearClassifier:
        """
        Trains on EPITOME-format data; the classes of each mechanism count alike, however rare.

        Args:
            seekers, responses (`Sequence[str]`): The posts.
            levels (`np.ndarray` of shape `(n, 3)`): 0 to 2 for each of [`MECHANISMS`].
            c (`float`, *optional*, defaults to `0.3`): Inverse of the regularisation.
        """
        from sklearn.feature_extraction.text import TfidfTransformer
        from sklearn.linear_model import LogisticRegression

        counts = _counts(responses)
        idf = np.concatenate([TfidfTransformer().fit(block).idf_ for block in counts])
        features = _features(counts, idf)
        weights = np.zeros((features.shape[1], len(MECHANISMS) * len(LEVELS)))
        bias = np.full(weights.shape[1], -np.inf)  # a level that the data lack is never given
        for i in range(len(MECHANISMS)):
            wanted = levels[:, i]
            there = sorted(set(wanted.tolist()))
            columns = [len(LEVELS) * i + level for level in there]
            bias[columns] = 0.0
            if len(there) == 1:
                continue
            model = LogisticRegression(C=c, class_weight="balanced", max_iter=1000).fit(features, wanted)
            if len(there) == 2:  # one column stands for both
                weights[:, columns[1]], bias[columns[1]] = model.coef_[0], model.intercept_[0]
            else:
                weights[:, columns], bias[columns] = model.coef_.T, model.intercept_
        return cls(idf.astype(np.float32), weights.astype(np.float32), bias.astype(np.float32))

    def predict(self, seekers: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Levels of shape `(n, 3)`."""
        found = _features(_counts(responses), self.idf) @ self.weights.astype(np.float64) + self.bias
        return found.reshape(len(responses), len(MECHANISMS), len(LEVELS)).argmax(axis=2)

    def save(self, folder: str | os.PathLike[str], record: dict[str, Any]) -> None:
        """Writes `weights.npz` and `epitome.json`."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        np.savez_compressed(Path(folder) / WEIGHTS, idf=self.idf, weights=self.weights, bias=self.bias)
        save_config(folder, {"kind": "linear", "features": FEATURES, **record})

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> LinearClassifier:
        """Reads what [`save`] wrote."""
        with np.load(Path(folder) / WEIGHTS, allow_pickle=False) as stored:
            return cls(stored["idf"], stored["weights"], stored["bias"])


def _counts(responses: Sequence[str]) -> list[Any]:
    """Counts of hashed n-grams: words of the replies, and letters within them."""
    try:
        from sklearn.feature_extraction.text import HashingVectorizer
    except ImportError as error:
        raise ImportError(
            "the linear EPITOME classifier needs scikit-learn, which is not installed. Install it with: "
            "pip install scikit-learn"
        ) from error
    plain: dict[str, Any] = {"norm": None, "alternate_sign": False}
    words = HashingVectorizer(n_features=1 << 15, ngram_range=(1, 2), token_pattern=TOKEN, **plain)
    letters = HashingVectorizer(n_features=1 << 15, ngram_range=(2, 5), analyzer="char_wb", **plain)
    return [words.transform(responses), letters.transform(responses)]


def _features(counts: Sequence[Any], idf: np.ndarray) -> Any:
    """Each block weighted by idf and of length 1, side by side: a sparse matrix of shape `(n, f)`."""
    from scipy.sparse import hstack
    from sklearn.preprocessing import normalize

    blocks, start = [], 0
    for block in counts:
        block = block.astype(np.float64)
        block.data = 1.0 + np.log(block.data)
        weighted = block.multiply(idf[start : start + block.shape[1]]).tocsr()
        blocks.append(normalize(weighted))
        start += block.shape[1]
    return hstack(blocks).tocsr()
