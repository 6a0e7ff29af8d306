"""Scores counted batch by batch: a summary of ten million rows takes the memory of one of a hundred thousand."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from math import ceil, floor

import numpy as np

from ..axes import AXES, DEFAULT_THRESHOLD, QUADRANT_NAMES, Threshold, quadrant_codes, thresholds
from .columns import Coded
from .samples import Scores


_MOST = 1 << 18  # numbers that wait until they are counted together


class Distribution:
    """How often each of many numbers occurs; scores are rounded, so there are few different ones."""

    def __init__(self) -> None:
        self._values, self._times = np.empty(0), np.empty(0, np.int64)
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, numbers: np.ndarray) -> None:
        """Counts numbers, without NaN."""
        self._waiting.append(np.unique(numbers[~np.isnan(numbers)], return_counts=True))
        if sum(len(values) for values, _ in self._waiting) > max(_MOST, len(self._values)):
            self._count()

    def _count(self) -> tuple[np.ndarray, np.ndarray]:
        """The different numbers, increasing, and how often each occurs."""
        if self._waiting:
            values, times = map(np.concatenate, zip((self._values, self._times), *self._waiting, strict=True))
            self._values, places = np.unique(values, return_inverse=True)
            self._times, self._waiting = np.bincount(places, times).astype(np.int64), []
        return self._values, self._times

    def __len__(self) -> int:
        return int(self._count()[1].sum())

    @property
    def mean(self) -> float:
        """The mean."""
        values, times = self._count()
        return float(np.average(values, weights=times))

    @property
    def std(self) -> float:
        """The standard deviation."""
        values, times = self._count()
        return float(np.sqrt(np.average((values - self.mean) ** 2, weights=times)))

    def percentile(self, q: float) -> float:
        """The percentile `q` in [0, 100], between two numbers as NumPy does it."""
        values, times = self._count()
        place = (len(self) - 1) * q / 100
        low, high = values[np.searchsorted(np.cumsum(times), [floor(place), ceil(place)], side="right")]
        return float(np.quantile([low, high], place % 1))

    def share_near(self, middle: float, distance: float) -> float:
        """The share of the numbers that lie within a distance of `middle`; in [0, 1]."""
        values, times = self._count()
        return float(times[np.abs(values - middle) <= distance].sum() / len(self))


class Tally:
    """
    What is counted of the scores of a data set.

    Args:
        parts (`Iterable[Scores]`): All scores, in one part or batch by batch.
        threshold, ties: See [`~ee_trl.axes.quadrants`].
    """

    def __init__(self, parts: Iterable[Scores], threshold: Threshold = DEFAULT_THRESHOLD, ties: str = "drop") -> None:
        self.threshold = thresholds(threshold)
        self.statuses, self.quadrants, self.flags = Counter[str](), Counter[str](), Counter[str]()
        self.emotions: dict[str, Counter[str]] | None = None
        self.axes = {axis: Distribution() for axis in AXES}
        self.scorers: set[str] = set()
        for scores in parts:
            codes = quadrant_codes(scores.sensibility, scores.rationality, self.threshold, ties)
            where = Coded(codes, QUADRANT_NAMES)
            self.statuses.update(scores.statuses.counts())
            self.quadrants.update(where.counts())
            self.scorers.update(scores.scorers)
            for axis, distribution in self.axes.items():
                distribution.add(getattr(scores, axis)[codes != QUADRANT_NAMES.index("")])
            if scores.flags is not None:
                self.flags.update(scores.flags.counts())
            if scores.emotions is not None:
                self.emotions = defaultdict(Counter) if self.emotions is None else self.emotions
                for emotion, found in scores.emotions.counts_with(where).items():
                    self.emotions[emotion].update(found)

    @property
    def rows(self) -> int:
        """All samples."""
        return self.statuses.total()

    @property
    def scored(self) -> int:
        """The samples in a quadrant, or on the threshold."""
        return self.rows - self.quadrants[""]
