"""Fits the part of the scorer "linear" that says whether a reply fits its context, to true and to made replies.

The true replies are of EmpatheticDialogues' training part, and the good ones of the embedded sample, whose style is
another. `ee_trl.distillation.negatives` makes the bad ones. The metrics are of conversations that it has not seen.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
from scipy.optimize import minimize
from scipy.sparse.linalg import LinearOperator, svds
from sklearn.metrics import roc_auc_score

from ee_trl.data.dialogue import Dialogue
from ee_trl.data.sample import load_sample
from ee_trl.data.samples import read_samples
from ee_trl.distillation.fit import DECIMALS
from ee_trl.distillation.negatives import KINDS, Negative, negatives
from ee_trl.scoring import features as ft
from ee_trl.scoring import fitness


PER_SAMPLE = 1.25  # made replies for each true one
COMMON = 3  # a pair of words in so many texts is common
FEWEST = 8  # texts with a word or pair that gets a weight
RIDGE, DENSE_RIDGE = 1.0, 0.1
STEPS = 120
OF_SAMPLE = 4.0  # weight of a reply of the embedded sample, and of those made from it
FALSE_FLAGS = {"hostile": 0.017, "dismissive": 0.011, "off_topic": 0.005, "repetitive": 0.001, "salad": 0.005}
"""Class -> share of the true replies that this class alone may flag; chosen for at most 5 % in all."""


def good_sample() -> list[Dialogue]:
    """The replies of the embedded sample that were not written to be bad."""
    rows = load_sample()
    found = [(rows[sample.row]["intended"], sample) for sample in read_samples(rows) if sample.dialogue]
    return [s.dialogue for kinds, s in found if kinds[sum(r == "assistant" for r in s.dialogue.roles)] != "low"]


def class_of(kind: str) -> int:
    """Position in [`~ee_trl.scoring.fitness.CLASSES`] of a kind of made reply."""
    return fitness.CLASSES.index(kind if kind in fitness.CLASSES else KINDS[kind])


def common_pairs(true: ft.Features) -> tuple[np.ndarray, np.ndarray]:
    """In how many replies and last turns each pair of words is, and which pairs of a reply are common elsewhere."""
    counts, mask = np.zeros(1 << ft.WORD_BITS, np.int64), (1 << ft.WORD_BITS) - 1
    pairs = fitness.pairs_of(true)
    turns = ft.to_grams(true.words[ft.TURN], 2)
    alone = int(true.words[ft.TURN].lengths.sum())
    for rows, buckets in ((pairs.rows, pairs.buckets), (turns.rows[alone:], turns.buckets[alone:])):
        keys = np.unique((rows.astype(np.int64) << ft.WORD_BITS) | buckets)
        counts += np.bincount(keys & mask, minlength=len(counts))
    return counts, counts[pairs.buckets] - 1 >= COMMON


def topics_of(true: ft.Features) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of words, `int8` of shape `(2, buckets, TOPICS)`, and their scale: contexts and replies go together."""
    n, mask = len(true.replies), (1 << fitness.TOPIC_BITS) - 1

    def bag(*blocks: str) -> tuple[sp.csr_matrix, np.ndarray, np.ndarray]:
        lengths = [true.words[block].lengths for block in blocks]
        rows = np.concatenate([np.repeat(np.arange(n), own) for own in lengths])
        used = [true.grams[b].buckets[: own.sum()] & mask for b, own in zip(blocks, lengths, strict=True)]
        counts = sp.csr_matrix((np.ones(len(rows)), (rows, np.concatenate(used))), (n, mask + 1))
        counts.data = np.minimum(counts.data, 1.0)
        documents = np.asarray(counts.sum(axis=0)).ravel()
        weight = np.where(documents >= FEWEST, 1 / np.sqrt(documents + 30), 0.0)
        return counts @ sp.diags_array(weight), weight, weight * documents / np.sqrt(n)

    (a, weight_a, mean_a), (b, weight_b, mean_b) = bag(ft.TURN, ft.EARLIER), bag(ft.REPLY)
    together = (a.T @ b).tocsr()
    centred = LinearOperator(
        together.shape,
        matvec=lambda x: together @ x.ravel() - mean_a * (mean_b @ x.ravel()),
        rmatvec=lambda y: together.T @ y.ravel() - mean_b * (mean_a @ y.ravel()),
    )
    left, size, right = svds(centred, k=fitness.TOPICS, v0=np.ones(mask + 1), random_state=0)
    both = np.stack([weight_a[:, None] * left, weight_b[:, None] * right.T]) * np.sqrt(size)
    scale = np.abs(both).max(axis=1) / 127
    return np.round(both / scale[:, None]).astype(np.int8), scale


def fit_flags(true: Sequence[Dialogue], calibration: Sequence[Dialogue], seed: int) -> dict[str, np.ndarray]:
    """
    The arrays of [`~ee_trl.scoring.fitness.shapes`].

    Each class alone flags its share in [`FALSE_FLAGS`] of the `calibration`.
    """
    sample = good_sample()
    every = [*true, *sample]
    made = list(negatives(true, per_sample=PER_SAMPLE, seed=seed))
    of_true = len(made)
    made += negatives(sample, per_sample=PER_SAMPLE, seed=seed)
    good, bad = ft.extract(every), ft.extract([one.dialogue for one in made])
    counts, known = common_pairs(good)
    topics, scale = topics_of(good)
    vectors = fitness.topic_vectors(topics, scale)
    dense = [fitness.dense(good, known, vectors), fitness.dense(bad, _known(bad, counts), vectors)]
    x = np.concatenate(dense)
    centre, spread = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-9)
    x = (x - centre) / spread
    grams = sp.vstack([_matrix(good), _matrix(bad)]).tocsr()
    documents = np.bincount(grams.indices, minlength=grams.shape[1])
    kept = np.flatnonzero(documents >= FEWEST)
    rarity = (np.log((1 + grams.shape[0]) / (1 + documents[kept])) + 1) / 4
    wanted = np.zeros((len(x), len(fitness.CLASSES)))
    wanted[np.arange(len(every), len(x)), [class_of(one.kind) for one in made]] = 1
    weight = np.ones(len(x))
    weight[len(true) : len(every)] = OF_SAMPLE
    weight[len(every) + of_true :] = OF_SAMPLE
    by_gram, by_dense, bias = _solve(grams[:, kept] @ sp.diags_array(rarity), x, wanted, weight)
    full = np.zeros((1 << ft.WORD_BITS, len(fitness.CLASSES)))
    full[kept] = by_gram * rarity[:, None]
    unit = np.abs(full).max(axis=0) / 127
    arrays = {
        "fit_grams": np.round(full / unit).astype(np.int8),
        "fit_scale": unit,
        "fit_dense": (by_dense / spread[:, None]).round(DECIMALS),
        "fit_known": np.packbits(counts >= COMMON),
        "fit_topics": topics,
        "fit_topic_scale": scale,
    }
    arrays["fit_bias"] = bias - centre @ arrays["fit_dense"]
    odds = fitness.FitModel(arrays).log_odds(ft.extract(calibration))
    cuts = [np.quantile(odds[:, i], 1 - FALSE_FLAGS[name]) for i, name in enumerate(fitness.CLASSES)]
    arrays["fit_bias"] = (arrays["fit_bias"] - cuts).round(DECIMALS)
    return arrays


def _known(features: ft.Features, counts: np.ndarray) -> np.ndarray:
    return counts[fitness.pairs_of(features).buckets] >= COMMON


def _matrix(features: ft.Features) -> sp.csr_matrix:
    grams = fitness.words_and_pairs(features)
    values = 1 / np.sqrt(np.maximum(grams.counts, 1))[grams.rows]
    return sp.csr_matrix((values, (grams.rows, grams.buckets)), (len(features.replies), 1 << ft.WORD_BITS))


def _solve(grams: sp.csr_matrix, x: np.ndarray, wanted: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, ...]:
    """Multinomial logistic regression; a reply of no class fits."""
    classes, fine = wanted.shape[1], 1 - wanted.sum(axis=1)
    sizes = np.cumsum([grams.shape[1] * classes, x.shape[1] * classes])
    transposed = grams.T.tocsr()

    def parts(values: np.ndarray) -> tuple[np.ndarray, ...]:
        a, b, c = np.split(values, sizes)
        return a.reshape(-1, classes), b.reshape(-1, classes), c

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        a, b, c = parts(values)
        odds = np.column_stack([grams @ a + x @ b + c, np.zeros(len(x))])
        odds -= odds.max(axis=1, keepdims=True)
        shares = np.exp(odds)
        shares /= shares.sum(axis=1, keepdims=True)
        right = (shares * np.column_stack([wanted, fine])).sum(axis=1)
        apart = (shares[:, :-1] - wanted) * weight[:, None]
        value = -(np.log(right + 1e-12) * weight).sum() + RIDGE * (a**2).sum() + DENSE_RIDGE * (b**2).sum()
        slopes = (transposed @ apart + 2 * RIDGE * a, x.T @ apart + 2 * DENSE_RIDGE * b, apart.sum(axis=0))
        return float(value), np.concatenate([slope.ravel() for slope in slopes])

    start = np.zeros(sizes[-1] + classes)
    return parts(minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": STEPS}).x)


def measure_flags(weights: dict[str, np.ndarray], true: Sequence[Dialogue], seed: int) -> dict:
    """How well true replies of conversations that the fit has not seen are told from replies made to them."""
    model, made = fitness.FitModel(weights), list(negatives(true, seed=seed))
    odds = model.log_odds(ft.extract(true)), model.log_odds(ft.extract([one.dialogue for one in made]))
    fits = [-np.logaddexp.reduce(found, axis=1) for found in odds]
    curve = []
    for share in (0.01, 0.02, 0.03, 0.05, 0.08):
        cut = np.quantile(fits[0], share)
        curve.append({"false_flags": share, "flagged": _by_kind(made, fits[1] < cut)})
    areas = {}
    for kind in KINDS:
        of_kind = fits[1][[one.kind == kind for one in made]]
        labels = np.repeat([1, 0], [len(fits[0]), len(of_kind)])
        areas[kind] = float(roc_auc_score(labels, np.concatenate([fits[0], of_kind])))
    flagged = [fitness.appropriateness(found) < 0.5 for found in odds]
    return {
        "true_replies": len(true),
        "false_flags": float(flagged[0].mean()),
        "flagged": _by_kind(made, flagged[1]),
        "auc": areas,
        "curve": curve,
    }


def _by_kind(made: Sequence[Negative], flagged: np.ndarray) -> dict[str, float]:
    return {kind: float(flagged[[one.kind == kind for one in made]].mean()) for kind in KINDS}
