"""How sure a cheap scorer must be to decide: rules on arrays, and their guarantees.

A *doubt* is a number for each sample; it grows as the scores come nearer to where the decision changes. The cheap
scorer decides a sample whose doubt is below a *limit*; the judge decides the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from ..axes import MAX_SCORE, RATIONALITY, SENSIBILITY, Threshold, quadrants, thresholds
from ..errors import ScorerError


CLASSES = (SENSIBILITY, RATIONALITY, "discarded")  # of the released rule


def classes_of(scores: np.ndarray, threshold: Threshold, ties: str = "drop") -> np.ndarray:
    """The class of each sample, one of [`CLASSES`], of shape `(n,)`; `""` where a score is missing."""
    found = quadrants(scores[:, 0], scores[:, 1], threshold, ties)
    return np.where(np.isin(found, (*CLASSES[:2], "")), found, CLASSES[2])


def distance_doubt(scores: np.ndarray, threshold: Threshold) -> np.ndarray:
    """How near the scores are to T, by the nearer axis, shape `(n,)`: in [0, 1], 1 at T; infinite where unscored."""
    apart = np.abs(scores - np.array(thresholds(threshold))).min(axis=1)
    return np.where(np.isnan(apart), np.inf, 1 - apart / MAX_SCORE)


@dataclass(frozen=True)
class LearntDoubt:
    """The chance that the judge's class differs, by a softmax regression on the cheap scorer's two numbers."""

    weights: np.ndarray  # (features, 3)
    threshold: Threshold
    ties: str

    @classmethod
    def fit(
        cls, scores: np.ndarray, judged: np.ndarray, threshold: Threshold, ties: str, penalty: float = 1.0
    ) -> LearntDoubt:
        """Fits the weights to the scores of both, `(n, 2)`; `penalty` is the weight of the L2 penalty."""
        x = _features(scores)
        wanted = np.stack([classes_of(judged, threshold, ties) == name for name in CLASSES], axis=1).astype(float)
        weights = np.zeros((x.shape[1], len(CLASSES)))
        shrink = np.full(x.shape[1], penalty)
        shrink[0] = 1e-3
        for _ in range(30):  # Newton's steps with the bound of Böhning (1992), which never overshoots
            slope = x.T @ (wanted - _softmax(x @ weights)) - shrink[:, None] * weights
            step = np.linalg.solve(0.5 * x.T @ x + np.diag(shrink), slope)
            weights = weights + step
            if np.abs(step).max() < 1e-6:
                break
        return cls(weights, threshold, ties)

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """The doubt of each sample, shape `(n,)`; infinite where unscored."""
        missing = np.isnan(scores).any(axis=1)
        chances = _softmax(_features(np.nan_to_num(scores)) @ self.weights)
        ours = classes_of(scores, self.threshold, self.ties)
        right = sum(chances[:, i] * (ours == name) for i, name in enumerate(CLASSES))
        return np.where(missing, np.inf, np.round(1 - right, 9))


def _features(scores: np.ndarray) -> np.ndarray:
    """Both scores, their squares, cubes and products, about the middle of the scale, shape `(n, 10)`."""
    s, r = ((scores - MAX_SCORE / 2) / 2.5).T
    return np.stack([np.ones_like(s), s, r, s * r, s**2, r**2, s**3, r**3, s**2 * r, s * r**2], axis=1)


def _softmax(x: np.ndarray) -> np.ndarray:
    x = np.exp(x - x.max(axis=1, keepdims=True))
    return x / x.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class Plan:
    """For which samples a cascade trusts the cheap scorer."""

    limit: float  # it is trusted where the doubt is smaller
    doubt: LearntDoubt | None  # `None` for the distance of the scores from T
    calibrated_on: int  # how many judged samples it was made from
    calibration_calls: int = 0  # samples that the judge scored only to set the limit

    @property
    def name(self) -> str:
        """One word for a fingerprint."""
        if self.doubt is None:
            return f"doubt:distance<{self.limit:.9g}"
        weights = np.round(self.doubt.weights, 6).tobytes()
        return f"doubt:learnt-{blake2b(weights, digest_size=4).hexdigest()}<{self.limit:.9g}"


def limit_for_promise(
    doubt: np.ndarray, wrong: np.ndarray, agreement: float, confidence: float | None = None
) -> float:
    """
    The largest limit that keeps a promise of agreement, from `n` samples that the judge has scored too.

    **Without `confidence`** (conformal risk control, Angelopoulos et al. 2022): the expected share of new samples on
    which the cascade's class is not the judge's is at most `1 - agreement`. The expectation is over the calibration
    sample and the new one together: for one calibration the share may come out somewhat above or below.

    **With `confidence`** (an exact binomial bound): with at least that probability over the calibration sample, the
    share of *all* samples of the same kind that agree is at least `agreement`. It asks the judge more often.

    Both assume that the calibration samples and the new ones are exchangeable (drawn alike, in no order that matters),
    that the cheap scorer and its doubt were fixed without these samples, and that the judge gives a dialogue the same
    scores again. They hold on average over samples: not for each emotion, and not after the data changes.

    `doubt` and `wrong` (the cheap scorer's class is not the judge's) are of shape `(n,)`. Samples with a doubt
    below the limit are trusted: `inf` trusts all; `-inf` trusts none, because `n` is too small for the promise.
    """
    n, risk = len(doubt), 1 - agreement
    if confidence is None:
        most = math.floor(risk * (n + 1) - 1 + 1e-9)  # (wrong + 1) / (n + 1) <= risk
    else:
        most = most_wrong(n, risk, 1 - confidence)
    if most < 0:
        return -math.inf
    mistaken = np.sort(doubt[wrong])
    return float(mistaken[most]) if len(mistaken) > most else math.inf


def most_wrong(n: int, risk: float, chance: float) -> int:
    """The largest k such that a binomial count of `n` with mean share `risk` is at most k with this chance or less."""
    total, k = 0.0, -1
    for i in range(n + 1):
        log = math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1)
        total += math.exp(log + i * math.log(risk) + (n - i) * math.log1p(-risk))
        if total > chance:
            break
        k = i
    return k


def limit_for_budget(doubt: np.ndarray, audited: np.ndarray, budget: float) -> float:
    """
    The smallest limit for which the judge is asked for at most a share `budget` of these very samples.

    The judge scores the `audited` samples in any case, to audit or to calibrate; raises [`ScorerError`] if these
    alone are more than the budget. Equal doubts are trusted or asked for together.
    """
    order = np.argsort(-doubt, kind="stable")
    ordered, audits = doubt[order], audited[order]
    allowed = math.floor(budget * len(doubt) + 1e-9)
    after = np.append(np.cumsum(audits[::-1])[::-1], 0)  # audits among the trusted, if the first k are asked for
    fits = np.arange(len(doubt) + 1) + after <= allowed
    if not fits[0]:
        raise ScorerError(
            f"audit and calibration ask the judge {int(after[0])} times already, and a budget of {budget:g} "
            f"allows {allowed}; give a smaller audit or calibration, or a larger budget"
        )
    asked = int(np.flatnonzero(fits)[-1])
    if asked == len(doubt):
        return -math.inf
    smaller = ordered[ordered > ordered[asked]]  # the first that is trusted, and its equals
    return float(smaller[-1]) if len(smaller) else math.inf


def agreement_interval(agreed: int, audited: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    if not audited:
        return 0.0, 1.0
    z, share = 1.959964, agreed / audited
    centre, scale = share + z**2 / (2 * audited), 1 + z**2 / audited
    half = z * math.sqrt(share * (1 - share) / audited + z**2 / (4 * audited**2))
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)
