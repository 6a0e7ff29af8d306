"""The bundled scorer: one linear model per axis over hashed words of the reply and its context.

It was fitted to an LLM judge's scores and agrees with them moderately; `ee_trl/assets/linear/README.md` says how well.
"""

from __future__ import annotations

import logging
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from ..axes import AXES, FLAGS, MAX_SCORE, MIN_SCORE
from ..data.dialogue import Dialogue
from ..errors import ScorerError
from ..files import digest
from . import features as ft
from . import fitness
from .base import BatchedScorer, ScoredBatch
from .flags import RULE_FLAGS, RuleFlags, check_other_language


WEIGHTS_FILE = "weights.npz"
BUNDLED = Path(__file__).resolve().parents[1] / "assets" / "linear"
LICENCE_NOTICE = (
    "The bundled weights of the scorer 'linear' are learnt from CC BY-NC 4.0 data (EmpatheticDialogues): "
    "non-commercial use only."
)

Weights = Mapping[str, np.ndarray]  # the arrays of the weights file; see `shapes`
THRESHOLDS = (3, 4, 5, 6, 7)  # the scores at which `knots_of` matches the share of the sensibility set

_CHUNK = 2048  # dialogues at a time: bounds the memory, changes no number

logger = logging.getLogger("ee_trl")


def shapes() -> dict[str, tuple[int, ...]]:
    """Name and shape of every array of a weights file; `knots` are the raw predictions that become 0, 1, ..., 10."""
    words = dict.fromkeys(ft.WORD_BLOCKS, (1 << ft.WORD_BITS, len(AXES)))
    return words | {
        ft.CHARS: (1 << ft.CHAR_BITS, len(AXES)),
        "surface": (ft.SURFACE, len(AXES)),
        "bias": (len(AXES),),
        "knots": (len(AXES), int(MAX_SCORE - MIN_SCORE) + 1),
        "feature_version": (),
    }


def load_weights(folder: str | os.PathLike, name: str = WEIGHTS_FILE) -> dict[str, np.ndarray]:
    """Reads a weights file; raises [`ScorerError`] if it is missing, damaged or made for other features."""
    path = Path(folder) / name
    remedy = "Give a folder written by scripts/train_linear_scorer.py, or no path for the bundled weights."
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            weights = {key: stored[key] for key in stored.files}
    except FileNotFoundError:
        raise ScorerError(f"no weights of the scorer 'linear' at {path}. {remedy}") from None
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise ScorerError(f"{path} cannot be read as a weights file ({error}). {remedy}") from error
    wanted = shapes() | (fitness.shapes() if "fit_grams" in weights else {})
    for key, shape in wanted.items():
        if key not in weights:
            raise ScorerError(f"{path} lacks the array {key!r}. {remedy}")
        array = weights[key]
        if array.shape != shape or array.dtype.kind not in "fiu":
            found = f"shape {array.shape}, type {array.dtype}"
            raise ScorerError(f"{path}: array {key!r} has {found}; expected numbers of shape {shape}. {remedy}")
        if not np.isfinite(array).all():
            raise ScorerError(f"{path}: array {key!r} holds numbers that are not finite. {remedy}")
    if int(weights["feature_version"]) != ft.FEATURE_VERSION:
        raise ScorerError(
            f"{path} was made for feature version {int(weights['feature_version'])}; this version of ee-trl computes "
            f"{ft.FEATURE_VERSION}. Train the weights again with scripts/train_linear_scorer.py."
        )
    if not (np.diff(weights["knots"], axis=1) > 0).all():
        raise ScorerError(f"{path}: array 'knots' does not increase. {remedy}")
    return weights


def fingerprint_of(weights: Weights) -> str:
    """`linear-1/sha256:` and 12 digits of a hash over names, types, shapes and bytes of the arrays."""

    def blocks() -> Iterator[bytes]:
        yield f"features {ft.FEATURE_VERSION}".encode()
        names = list(shapes())
        if "fit_grams" in weights:
            yield f"fitness {fitness.VERSION}".encode()
            names += fitness.shapes()
        for name in sorted(names):
            array = np.ascontiguousarray(weights[name], weights[name].dtype.newbyteorder("<"))
            yield f"{name} {array.dtype.str} {array.shape}".encode()
            yield array.tobytes()

    return f"linear-1/sha256:{digest(blocks())}"


@cache  # once per process
def _log_notice() -> None:
    logger.warning(LICENCE_NOTICE)


class LinearScorer(BatchedScorer):
    """
    Scores a reply with two linear models over hashed features of the reply and the utterances before it.

    Weights may hold a third model, of whether the reply fits its context: it gives the detail `appropriateness` and
    the flags "hostile", "dismissive", "off_topic" and "repetitive". It counts words and knows no meaning: it misses
    much that people see, such as irony or blame in polite words, and flags some good replies.

    Deterministic; a row's numbers do not depend on its batch mates, to the last bit. English only. A reply that is
    empty or white space gets NaN.

    Args:
        path (`str` or `os.PathLike`, *optional*):
            Folder of other weights, as written by `scripts/train_linear_scorer.py`. Defaults to the bundled weights,
            which are for non-commercial use only; that is logged once per process.
        other_language (`str`, *optional*, defaults to `"flag"`): See [`~ee_trl.scoring.flags.check_other_language`].

    Example:

    ```python
    >>> from ee_trl import Dialogue, LinearScorer
    >>> scorer = LinearScorer()
    >>> reply = Dialogue(context=("My dog died.",), response="I'm so sorry for your loss.", roles=("user",))
    >>> sensibility, rationality = scorer.score([reply])[0]
    >>> bool(sensibility > rationality)
    True
    ```
    """

    licence_notice = LICENCE_NOTICE
    stored = False  # it is cheaper than looking a score up

    def __init__(self, path: str | os.PathLike | None = None, *, other_language: str = "flag"):
        weights = load_weights(BUNDLED if path is None else path)
        self.fingerprint: str = fingerprint_of(weights) + check_other_language(other_language)
        self._rules = RuleFlags(other_language)
        self._model = RawModel(weights)
        self._knots = weights["knots"].astype(np.float64)
        self._fit = fitness.FitModel(weights) if "fit_grams" in weights else None
        own = [flag for flag in fitness.CLASSES if flag in FLAGS] if self._fit else []
        self.flags: tuple[str, ...] = tuple(dict.fromkeys((*own, *RULE_FLAGS)))
        self.details: tuple[str, ...] = ("appropriateness",) if self._fit else ()
        if path is None:
            _log_notice()

    def score_batches(self, dialogues: Sequence[Dialogue]) -> Iterator[ScoredBatch]:
        """A batch for every few thousand dialogues, in their order; NaN where the reply is blank."""
        for start in range(0, len(dialogues), _CHUNK):
            chunk = dialogues[start : start + _CHUNK]
            features = ft.extract(chunk)
            scores = calibrate(self._model.predict(features), self._knots)
            empty = np.flatnonzero(features.replies.lengths == 0).tolist()
            scores[[i for i in empty if not chunk[i].response.strip()]] = np.nan
            details, flags = {}, None
            if self._fit:
                odds = self._fit.log_odds(features)
                details, flags = {"appropriateness": fitness.appropriateness(odds)}, fitness.flags_of(odds)
            batch = ScoredBatch(range(start, start + len(chunk)), scores, None, details, flags=flags)
            yield self._rules.applied(batch, chunk, features.replies)


class RawModel:
    """
    The linear model without its calibration.

    The prediction of an axis is `bias + surface . w + sum over blocks of (sum of the weights of the block's n-grams) /
    sqrt(number of n-grams)`. In the block of characters, each word is such a sum itself.
    """

    def __init__(self, weights: Weights):
        # one contiguous array per block and axis: half the memory traffic of a row-wise look-up
        self._blocks = {
            block: [np.ascontiguousarray(weights[block][:, axis], np.float32) for axis in range(len(AXES))]
            for block in ft.WORD_BLOCKS
        }
        self._surface = weights["surface"].astype(np.float64)
        self._bias = weights["bias"].astype(np.float64)
        self._chars = weights[ft.CHARS].astype(np.float64)
        self._words = ft.TokenValues(self._sum, np.float64, (len(AXES),))

    def predict(self, features: ft.Features) -> np.ndarray:
        """Raw predictions, `(n, 2)`. Every sum runs in an order that is fixed within a row: no matrix product."""
        n = len(features.replies)
        raw = np.repeat(self._bias[:, None], n, axis=1)
        for column, weight in zip(features.surface.T, self._surface, strict=True):
            raw += weight[:, None] * column
        for block, grams in features.grams.items():
            root = np.sqrt(np.maximum(grams.counts, 1))
            for axis, weight in enumerate(self._blocks[block]):
                raw[axis] += np.bincount(grams.rows, weight[grams.buckets], minlength=n) / root
        lengths = features.replies.lengths
        rows = np.repeat(np.arange(n), lengths)
        words = self._words.of(features.replies)
        root = np.sqrt(np.maximum(lengths, 1))
        for axis in range(len(AXES)):
            raw[axis] += np.bincount(rows, words[:, axis], minlength=n) / root
        return raw.T

    def _sum(self, token: str) -> np.ndarray:
        """The sum over a word's character n-grams, `(2,)`."""
        buckets = ft.char_buckets(token)
        return self._chars[buckets].sum(axis=0) / np.sqrt(len(buckets))


def calibrate(raw: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """Raw predictions `(n, 2)` as scores in [0, 10]: linear between the `knots`, `(2, 11)`, which become 0 to 10."""
    scores = np.empty_like(raw)
    for axis, knot in enumerate(knots):
        x = np.clip(raw[:, axis], knot[0], knot[-1])
        low = np.clip(np.searchsorted(knot, x, side="right") - 1, 0, len(knot) - 2)
        scores[:, axis] = MIN_SCORE + low + (x - knot[low]) / (knot[low + 1] - knot[low])
    return np.round(scores, 4)  # hides differences in the last bits between platforms


def knots_of(raw: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """
    The raw predictions that become the scores 0 to 10; `raw` and the judge's `scores`, `(n, 2)`, are held out.

    A regression pulls its predictions to the middle, so a threshold on them would keep far too little or too much.
    So each axis is cut at a quantile: the share of predictions below the cut is the judge's share of scores below T.
    The judge gives whole numbers, so the cut may lie anywhere from its share below T to its share up to T. The place
    in between, the same on both axes, is where the share of the sensibility set is nearest to the judge's. The knots
    increase on each axis.
    """

    def cuts(t: int, place: float) -> list[float]:
        below, at = (scores < t).mean(axis=0), (scores == t).mean(axis=0)
        return [float(np.quantile(raw[:, axis], below[axis] + place * at[axis])) for axis in range(len(AXES))]

    def error(t: int, place: float) -> float:
        s, r = cuts(t, place)
        wanted = np.mean((scores[:, 0] > t) & (scores[:, 1] < t))
        return float(abs(np.mean((raw[:, 0] > s) & (raw[:, 1] < r)) - wanted))

    # below the range of the thresholds the cut is at the lower end, above it at the upper end
    places = np.linspace(0, 1, 11).tolist()
    place = {t: min(places, key=lambda p, t=t: error(t, p)) for t in THRESHOLDS}  # type: ignore[misc]
    inner = [cuts(t, place.get(t, float(t > max(THRESHOLDS)))) for t in range(1, 10)]
    margin = np.ptp(raw, axis=0) / 10  # room for predictions beyond those seen
    knots = np.stack([raw.min(axis=0) - margin, *inner, raw.max(axis=0) + margin], axis=1)
    smallest = 1e-5 * np.where(margin > 0, 10 * margin, 1.0)[:, None]  # of the range, however narrow that is
    steps = np.maximum(np.diff(knots, axis=1), smallest)  # increasing also where the judge never used a number
    return np.concatenate([knots[:, :1], knots[:, :1] + np.cumsum(steps, axis=1)], axis=1)
