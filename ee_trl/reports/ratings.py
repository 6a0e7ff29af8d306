"""Ratings of dialogues by people, and how scores correlate with them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.dialogue import Dialogue, Turns
from ..data.reading import opened
from ..data.samples import iter_samples
from ..data.tables import columns_of, spread
from ..errors import ScoresError, check_choice
from .agreement import correlation, percentiles, places, ranks


if TYPE_CHECKING:
    from ..data.tables import AnyDataset


@dataclass(frozen=True)
class Rated:
    """Dialogues, for each the key of its row or of what `by` names, and column -> rating by people, NaN for none."""

    dialogues: list[Dialogue] = field(default_factory=list)
    keys: list[Any] = field(default_factory=list)
    ratings: dict[str, list[float]] = field(default_factory=dict)


def read_rated(
    data: AnyDataset | str | os.PathLike[str],
    turns: Turns = "each",
    human: Sequence[str] = (),
    by: str | None = None,
    limit: int | None = None,
) -> Rated:
    """The dialogues of `data` with their ratings; see [`~ee_trl.reports.check.behaviour_check`]."""
    dataset = opened(data)
    if hasattr(dataset, "keys"):
        raise ScoresError(f"the data have several splits: {', '.join(dataset)}; give one of them")
    wanted = [*human, *([by] if by else [])]
    for name in wanted:
        check_choice("column", name, columns_of(dataset), ScoresError)
    found = [
        (
            sample.dialogue,
            batch.numbers[sample.row] if by is None or row[by] is None else repr(row[by]),
            [_rating(row[name], name) for name in human],
        )
        for batch in iter_samples(dataset, turns, columns=wanted)
        for sample in batch.samples
        for row in [batch.rows[sample.row]]
        if sample.dialogue is not None
    ]
    if not found:
        raise ScoresError("the data have no dialogue with a reply; give dialogues in a form that `ee-trl score` reads")
    keys = list(dict.fromkeys(key for _, key, _ in found))
    kept = {keys[i] for i in spread(len(keys), limit)}
    found = [one for one in found if one[1] in kept]
    ratings = {name: [values[i] for _, _, values in found] for i, name in enumerate(human)}
    return Rated([dialogue for dialogue, _, _ in found], [key for _, key, _ in found], ratings)


def _rating(value: Any, name: str) -> float:
    """A rating, or the mean of several; NaN where there is none."""
    try:
        given = [float(one) for one in (value if isinstance(value, list) else [value]) if one is not None]
    except (TypeError, ValueError):
        raise ScoresError(f"the column {name!r} holds {value!r}; ratings are numbers, or lists of numbers") from None
    return sum(given) / len(given) if given else float("nan")


def word_counts(dialogues: Iterable[Dialogue]) -> np.ndarray:
    """The number of words of each reply."""
    return np.array([len(dialogue.response.split()) for dialogue in dialogues], float)


def with_people(
    rated: Rated, rankings: Mapping[str, np.ndarray], resamples: int, seed: int
) -> dict[str, dict[str, dict[str, Any]]]:
    """Column of ratings -> ranking -> [`correlations`] of the means over each key."""
    words = word_counts(rated.dialogues)
    numbers: dict[Any, int] = {}
    members = np.array([numbers.setdefault(key, len(numbers)) for key in rated.keys], np.intp)
    return {
        column: {
            name: correlations(_averaged(members, values, np.array(ratings), words), resamples, seed)
            for name, values in rankings.items()
        }
        for column, ratings in rated.ratings.items()
    }


def _averaged(members: np.ndarray, *columns: np.ndarray) -> list[np.ndarray]:
    """The mean of each column over the members of each group, without rows in which a column has no number."""
    known = ~np.isnan(columns).any(axis=0)
    group = np.unique(members[known], return_inverse=True)[1]
    return [np.bincount(group, column[known]) / np.bincount(group) for column in columns]


def correlations(columns: Sequence[np.ndarray], resamples: int, seed: int) -> dict[str, Any]:
    """
    Spearman's correlation of two columns, and the partial one given a third, with bootstrap intervals.

    The three are of shape `(n,)` without NaN. A number that is not defined is `None`.
    """
    columns, n = [places(column) for column in columns], len(columns[0])

    def both(rows: Any) -> tuple[float, float]:
        a, b, c = (ranks(column[rows]) for column in columns)
        ab, ac, bc = correlation(a, b), correlation(a, c), correlation(b, c)
        rest = (1 - ac**2) * (1 - bc**2)
        return ab, (ab - ac * bc) / rest**0.5 if rest > 1e-12 else np.nan

    if n < 3:
        return {"n": n, **dict.fromkeys(("spearman", "interval", "partial", "partial_interval"))}
    draw = np.random.default_rng(seed)
    drawn = np.array([both(draw.integers(0, n, n)) for _ in range(resamples)]).reshape(-1, 2)
    spearman, partial = (float(value) if np.isfinite(value) else None for value in both(slice(None)))
    ends = [None if one is None else percentiles(drawn[:, i]) for i, one in enumerate((spearman, partial))]
    return {"n": n, "spearman": spearman, "interval": ends[0], "partial": partial, "partial_interval": ends[1]}
