"""What happened to each sample: how often it was drawn, at which weight, and what its loss was then."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..axes import RATIONALITY, SENSIBILITY, UNSCORED, quadrants
from ..files import atomic, write_json
from ..reports.draws import DRAWS, GROUPS, HISTORY, write_draws_report
from ..scoring.base import ScoringSpec
from .dialogues import ListenerTurns


STEP, SAMPLE, TIMES, LOSS_SUM, TOKENS, WEIGHT = range(6)  # columns of an observation: a sample in a batch


def merged(observations: Sequence[np.ndarray]) -> np.ndarray:
    """Merges observations (arrays `(k, 6)`) in any order into one for each sample and step, ordered by step."""
    rows = np.concatenate([np.empty((0, 6)), *observations])
    rows = rows[np.lexsort((rows[:, WEIGHT], rows[:, TOKENS], rows[:, LOSS_SUM], rows[:, SAMPLE], rows[:, STEP]))]
    if not len(rows):
        return rows
    new = np.ones(len(rows), dtype=bool)
    new[1:] = (rows[1:, STEP] != rows[:-1, STEP]) | (rows[1:, SAMPLE] != rows[:-1, SAMPLE])
    starts = np.flatnonzero(new)
    out = rows[starts].copy()
    for column in (TIMES, LOSS_SUM, TOKENS):
        out[:, column] = np.add.reduceat(rows[:, column], starts)
    return out


def unseen(step: int, samples: np.ndarray) -> np.ndarray:
    """Observations of the samples in a step, without known losses."""
    rows = np.zeros((len(samples), 6))
    rows[:, STEP], rows[:, SAMPLE], rows[:, TIMES], rows[:, WEIGHT] = step, samples, 1, 1
    return rows


class Records:
    """Running figures of each of `n` samples."""

    def __init__(self, n: int) -> None:
        self.draws = np.zeros(n, dtype=np.int64)
        self.weight_sum = np.zeros(n)
        self.first_loss, self.last_loss = np.full(n, np.nan), np.full(n, np.nan)
        self.loss_sum = np.zeros(n)
        self.loss_count = np.zeros(n, dtype=np.int64)

    def add(self, rows: np.ndarray) -> None:
        """Adds [`merged`] observations of steps that are later than those added before."""
        samples, times = rows[:, SAMPLE].astype(np.int64), rows[:, TIMES].astype(np.int64)
        np.add.at(self.draws, samples, times)
        np.add.at(self.weight_sum, samples, rows[:, WEIGHT] * times)
        seen = rows[:, TOKENS] > 0
        samples, losses = samples[seen], rows[seen, LOSS_SUM] / rows[seen, TOKENS]
        self.last_loss[samples] = losses  # of several, the last stays
        new = np.isnan(self.first_loss[samples])[::-1]
        self.first_loss[samples[::-1][new]] = losses[::-1][new]  # of several, the first stays
        np.add.at(self.loss_sum, samples, losses)
        np.add.at(self.loss_count, samples, 1)

    def mean_weight(self) -> np.ndarray:
        """The mean loss weight that each sample was trained with, NaN where it was not drawn."""
        return _ratio(self.weight_sum, self.draws)

    def mean_loss(self) -> np.ndarray:
        """The mean over the steps of the mean loss per token, NaN where there was none."""
        return _ratio(self.loss_sum, self.loss_count)

    def state_dict(self) -> dict[str, np.ndarray]:
        """The figures, by name."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Goes on from [`~Records.state_dict`]."""
        vars(self).update(state)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)


def interval_figures(rows: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """
    What a logging interval drew, by its [`merged`] observations and the group of each sample (of shape `(n,)`).

    The effective sample size is the number of draws at equal weights that is worth as much: `(sum w)^2 / sum w^2`.
    """
    times, weights = rows[:, TIMES], rows[:, WEIGHT]
    where = groups[rows[:, SAMPLE].astype(np.int64)]
    draws, total, squares = times.sum(), (times * weights).sum(), (times * weights**2).sum()
    losses = {}
    for name in GROUPS:
        tokens = rows[where == name, TOKENS].sum()
        if tokens > 0:
            losses[name] = float(rows[where == name, LOSS_SUM].sum() / tokens)
    return {
        "draws": int(draws),
        "shares": {name: float(times[where == name].sum() / draws) if draws else 0.0 for name in GROUPS},
        "mean_weight": float(total / draws) if draws else 0.0,
        "effective_sample_size": float(total**2 / squares) if squares else 0.0,
        "quadrant_loss": losses,
    }


class Diary:
    """
    The figures of each sample and of each logging interval, by `scores` (of shape `(n, 2)`) that may still come.

    A sample is a row, or one of the listener `turns`; `flagged` (of shape `(n,)`) marks those with a flag.
    """

    def __init__(
        self,
        spec: ScoringSpec,
        scores: np.ndarray,
        turns: ListenerTurns | None = None,
        flagged: np.ndarray | None = None,
    ) -> None:
        self.spec, self.scores, self.turns, self.flagged = spec, scores, turns, flagged
        self.records = Records(len(scores))
        self.history: list[dict[str, Any]] = []
        self._interval: list[np.ndarray] = []

    def groups(self, samples: np.ndarray | None = None) -> np.ndarray:
        """One of [`GROUPS`] for each sample, of shape `(n,)`; only of some `samples`, if given."""
        found, where = np.full(len(self.scores), UNSCORED, dtype=object), slice(None) if samples is None else samples
        s, r = self.scores[where].T
        found[where] = [name or UNSCORED for name in quadrants(s, r, self.spec.threshold, self.spec.ties).tolist()]
        return found

    def add(self, observations: list[np.ndarray]) -> None:
        """Notes the observations of all processes for steps that are over."""
        rows = merged(observations)
        self.records.add(rows)
        self._interval.append(rows)

    def close_interval(self, step: int, progress: float) -> dict[str, float]:
        """
        The figures to log of everything noted since the last call; none if nothing was.

        Those that cannot differ so far are left out: of quadrants without draws, of weights that were all 1, of scores
        that are all there. The history has all of them.
        """
        rows, self._interval = merged(self._interval), []
        if not len(rows):
            return {}
        figures = interval_figures(rows, self.groups(np.unique(rows[:, SAMPLE]).astype(np.int64)))
        coverage = float((~np.isnan(self.scores).any(axis=1)).mean())
        self.history.append({"step": step, "progress": progress, **figures, "coverage": coverage})
        drawn = [name for name in GROUPS if any(entry["shares"].get(name) for entry in self.history)]
        logged = {f"empathy/share_{name}": figures["shares"][name] for name in drawn}
        if len(drawn) > 1:  # of one quadrant it is the loss
            logged |= {f"empathy/loss_{name}": loss for name, loss in figures["quadrant_loss"].items()}
        plain = {"mean_weight": 1, "coverage": 1}
        for name in ("mean_weight", "effective_sample_size", "coverage"):
            if any(entry[name] != plain.get(name, entry["draws"]) for entry in self.history):
                logged[f"empathy/{name}"] = self.history[-1][name]
        return logged

    def write(self, folder: str | Path) -> None:
        """Writes `empathy_draws.parquet`, `empathy_history.json` and the report on them."""
        folder, records = Path(folder), self.records
        folder.mkdir(parents=True, exist_ok=True)
        columns = {
            "row": np.arange(len(self.scores)) if self.turns is None else self.turns.row,
            **({} if self.turns is None else {"turn": self.turns.turn}),
            SENSIBILITY: self.scores[:, 0],
            RATIONALITY: self.scores[:, 1],
            "quadrant": self.groups(),
            "draws": records.draws,
            "mean_weight": records.mean_weight(),
            "first_loss": records.first_loss,
            "last_loss": records.last_loss,
            "mean_loss": records.mean_loss(),
            **({} if self.flagged is None or not self.flagged.any() else {"flagged": self.flagged}),
        }
        table = pa.table({name: pa.array(values, from_pandas=True) for name, values in columns.items()})
        with atomic(folder / DRAWS) as partial:
            pq.write_table(table, partial)
        write_json(folder / HISTORY, self.history)
        write_draws_report(folder)

    def state_dict(self) -> dict[str, Any]:
        """Everything noted."""
        return {"records": self.records.state_dict(), "history": self.history, "interval": merged(self._interval)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from [`~Diary.state_dict`]."""
        self.records.load_state_dict(state["records"])
        self.history, self._interval = list(state["history"]), [state["interval"]]
