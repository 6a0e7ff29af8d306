"""Whether a reply fits its context: what may be wrong with it, by its words and by how it relates to the context.

The scorer "linear" gives its flags by this linear model. `scripts/linear_flags.py` fits it to true and made replies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..axes import FLAGS
from . import features as ft


VERSION = 1
"""Part of the fingerprint: increase it with any change in this file that changes a number."""

CLASSES = ("hostile", "dismissive", "off_topic", "repetitive", "salad")
"""What a reply may be instead of fitting; words in random order ("salad") get the flag "off_topic"."""

TOPIC_BITS, TOPICS = 13, 16
_KEY_BITS = 12
_EARLIER = 0.5  # weight of the words before the last turn in the topics of a context
_RELATION, _KNOWN = 24, 3
DENSE = ft.SURFACE + _RELATION + _KNOWN + TOPICS + 3

_LOW = np.uint32((1 << 16) - 1)


def _membership(words: str) -> Callable[[np.ndarray], np.ndarray]:
    """A function that says which hashes are those of the words; a look at their low bits rules out most."""
    hashes = np.array([ft.word_hash(word) for word in words.split()], np.uint32)
    table = np.zeros(1 << 16, bool)
    table[hashes & _LOW] = True

    def which(given: np.ndarray) -> np.ndarray:
        found = np.zeros(len(given), bool)
        maybe = np.flatnonzero(table[given & _LOW])
        found[maybe] = np.isin(given[maybe], hashes)
        return found

    return which


_IS_GLAD, _IS_SAD = _membership(ft.GLAD), _membership(ft.SAD)
_ENDS = np.array([ft.word_hash(mark) for mark in (".", "..", "!", "?")], np.uint32)


def shapes() -> dict[str, tuple[int, ...]]:
    """Name and shape of every array that a weights file with flags has beside those of the axes."""
    return {
        "fit_grams": (1 << ft.WORD_BITS, len(CLASSES)),  # of the reply's words and pairs of words
        "fit_scale": (len(CLASSES),),
        "fit_dense": (DENSE, len(CLASSES)),
        "fit_bias": (len(CLASSES),),
        "fit_known": (1 << (ft.WORD_BITS - 3),),  # one bit for each pair of words that is common
        "fit_topics": (2, 1 << TOPIC_BITS, TOPICS),  # of the words of a context, and of a reply
        "fit_topic_scale": (2, TOPICS),
    }


def pairs_of(features: ft.Features) -> ft.Grams:
    """The reply's pairs of neighbouring words."""
    grams, lengths = features.grams[ft.REPLY], features.words[ft.REPLY].lengths
    counts = np.maximum(lengths - 1, 0)
    where = slice(int(lengths.sum()), int(lengths.sum() + counts.sum()))
    return ft.Grams(grams.rows[where], grams.buckets[where], counts)


def words_and_pairs(features: ft.Features) -> ft.Grams:
    """The reply's words and pairs of neighbouring words."""
    grams, lengths = features.grams[ft.REPLY], features.words[ft.REPLY].lengths
    counts = lengths + np.maximum(lengths - 1, 0)
    return ft.Grams(grams.rows[: counts.sum()], grams.buckets[: counts.sum()], counts)


def dense(features: ft.Features, known: np.ndarray, topics: np.ndarray) -> np.ndarray:
    """
    The features that are not words, `(n, DENSE)`.

    `known` says for each of [`pairs_of`] whether it is common; `topics` are of [`topic_vectors`].
    """
    pairs, n = pairs_of(features), len(features.replies)
    hits, long = np.bincount(pairs.rows[known], minlength=n), features.surface[:, 0]
    root = np.sqrt(pairs.counts + 1)
    columns = [*features.surface.T, *_relation(features)]
    columns += [(hits + 1) / (pairs.counts + 2), (pairs.counts - hits) / root, hits / root]
    return np.stack([*columns, *_topics(features, topics, long)]).T  # each feature is one stretch of memory


def _relation(features: ft.Features) -> list[np.ndarray]:
    """What a reply repeats, of itself and of the turns before it, and the feelings of both sides."""
    words, grams, n = features.words, words_and_pairs(features), len(features.replies)
    keys, lengths = _keys(grams), words[ft.REPLY].lengths
    alone = int(lengths.sum())
    single, pairs = (slice(alone), lengths), (slice(alone, None), lengths - 1)  # where they are, how many in each text

    def again(part: tuple[slice, np.ndarray]) -> np.ndarray:
        found = np.sort(keys[part[0]])
        return share(found[1:][found[1:] == found[:-1]] >> _KEY_BITS, part)

    def shared(hit: np.ndarray, part: tuple[slice, np.ndarray]) -> np.ndarray:
        return share(grams.rows[part[0]][hit[part[0]]], part)

    def share(rows: np.ndarray, part: tuple[slice, np.ndarray]) -> np.ndarray:
        return np.bincount(rows, minlength=n) / np.maximum(part[1], 1)

    def also_in(others: ft.Grams) -> np.ndarray:
        there = np.zeros(n << _KEY_BITS, bool)
        there[_keys(others)] = True
        return there[keys]

    word_again, pair_again = again(single), again(pairs)
    of_turn, of_earlier = also_in(features.grams[ft.TURN]), also_in(ft.to_grams(words[ft.EARLIER], 2))
    turn, earlier = shared(of_turn, pairs), shared(of_earlier, pairs)
    glad, sad = _feelings(words[ft.REPLY])
    context_glad, context_sad = (
        now + before / 2 for now, before in zip(_feelings(words[ft.TURN]), _feelings(words[ft.EARLIER]), strict=True)
    )
    ends = np.zeros(n, bool)
    some = lengths > 0
    ends[some] = np.isin(words[ft.REPLY].hashes[np.cumsum(lengths)[some] - 1], _ENDS)
    return [
        word_again, word_again > 0.4, pair_again, pair_again > 0.15, pair_again > 0.4,
        shared(of_turn, single), turn, turn > 0.3, turn > 0.6,
        shared(of_earlier, single), earlier, earlier > 0.3, earlier > 0.6,
        glad, sad, context_glad, context_sad,
        glad * context_glad, sad * context_sad, glad * context_sad, sad * context_glad,
        np.minimum(glad, 1) * (context_sad > context_glad), np.minimum(sad, 1) * (context_glad > context_sad),
        ends,
    ]  # fmt: skip


def _keys(grams: ft.Grams) -> np.ndarray:
    """Numbers that are equal for equal n-grams of one row, and by chance for one in 4,096 others."""
    small: Any = np.uint32 if len(grams.counts) <= 1 << (32 - _KEY_BITS) else np.int64  # such are sorted faster
    return (grams.rows.astype(small) << _KEY_BITS) | (grams.buckets & np.uint32((1 << _KEY_BITS) - 1))


def _feelings(words: ft.Words) -> tuple[np.ndarray, np.ndarray]:
    """How many glad and sad words each text has, at most 3; a word after "not" counts for nothing."""
    row, counts = np.repeat(np.arange(len(words.lengths)), words.lengths), np.ones(len(words.hashes), bool)
    counts[1:] = words.hashes[:-1] != ft.word_hash("not")
    hits = (row[is_in(words.hashes) & counts] for is_in in (_IS_GLAD, _IS_SAD))
    glad, sad = (np.minimum(np.bincount(hit, minlength=len(words.lengths)), 3) for hit in hits)
    return glad, sad


def _topics(features: ft.Features, topics: np.ndarray, long: np.ndarray) -> list[np.ndarray]:
    """For each topic the product of both sides, then their cosine, the reply's strength, and the cosine by length."""
    mask = (1 << TOPIC_BITS) - 1

    def vector(block: str, side: int) -> np.ndarray:
        lengths = features.words[block].lengths
        return _sums_in_order(topics[side], features.grams[block].buckets[: lengths.sum()] & mask, lengths)

    context = vector(ft.TURN, 0) + _EARLIER * vector(ft.EARLIER, 0)
    reply = vector(ft.REPLY, 1)
    strength = np.sqrt(np.add.reduce(reply**2))
    products = context * reply / np.maximum(np.sqrt(np.add.reduce(context**2)) * strength, 1e-12)
    cosine = np.add.reduce(products)
    return [*products, cosine, strength / np.sqrt(np.maximum(features.words[ft.REPLY].lengths, 1)), cosine * long]


def _sums_in_order(vectors: np.ndarray, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """
    The sum of each text's vectors, `(k, n)`, one after the other, so that it does not depend on other texts.

    `vectors` has shape `(tokens known, k)`, and `tokens` holds those of all texts. The texts take their next token
    together, the longest ones first.
    """
    order = np.argsort(-lengths, kind="stable")
    starts, found = (np.cumsum(lengths) - lengths)[order], np.zeros((len(lengths), vectors.shape[1]))
    for place, texts in enumerate(len(lengths) - np.cumsum(np.bincount(lengths))):  # how many texts are longer
        found[:texts] += vectors[tokens[starts[:texts] + place]]
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return np.ascontiguousarray(found[back].T)


def topic_vectors(topics: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The vectors of the words of a context and of a reply, `(2, buckets, TOPICS)`, from their stored form."""
    return np.ascontiguousarray(topics * scale.astype(np.float64)[:, None, :])


class FitModel:
    """The model of [`CLASSES`] in the arrays of [`shapes`]."""

    def __init__(self, weights: Mapping[str, np.ndarray]):
        scale = weights["fit_scale"].astype(np.float64)
        self._grams = [np.ascontiguousarray(weights["fit_grams"][:, i] * s, np.float32) for i, s in enumerate(scale)]
        self._dense = weights["fit_dense"].astype(np.float64)
        self._bias = weights["fit_bias"].astype(np.float64)
        self._known = np.unpackbits(weights["fit_known"].astype(np.uint8)).astype(bool)
        self._topics = topic_vectors(weights["fit_topics"], weights["fit_topic_scale"])

    def log_odds(self, features: ft.Features) -> np.ndarray:
        """Log odds of each class against a reply that fits, `(n, classes)`; sums run in a fixed order within a row."""
        n, grams = len(features.replies), words_and_pairs(features)
        odds = np.repeat(self._bias[:, None], n, axis=1)
        known = self._known[pairs_of(features).buckets]
        for column, weight in zip(dense(features, known, self._topics).T, self._dense, strict=True):
            odds += weight[:, None] * column
        root = np.sqrt(np.maximum(grams.counts, 1))
        for i, weight in enumerate(self._grams):
            odds[i] += np.bincount(grams.rows, weight[grams.buckets], minlength=n) / root
        return odds.T


def appropriateness(log_odds: np.ndarray) -> np.ndarray:
    """How sure it is that each reply fits its context, in [0, 1]; below 0.5 it is flagged."""
    return np.round(1 / (1 + np.exp(np.clip(log_odds, -50, 50)).sum(axis=1)), 4)


def flags_of(log_odds: np.ndarray) -> list[str | None]:
    """The likeliest flag of each reply that does not fit, `None` for the others."""
    names = [name if name in FLAGS else "off_topic" for name in CLASSES]
    fits = (appropriateness(log_odds) >= 0.5).tolist()
    return [None if fine else names[i] for fine, i in zip(fits, log_odds.argmax(axis=1).tolist(), strict=True)]
