"""The diary of a training: figures of each sample and of each logging interval, written down when it ends."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..axes import RATIONALITY, SENSIBILITY, quadrants
from ..files import write_json
from ..reports.draws import DRAWS, HISTORY, write_draws_report
from .records import GROUPS, Records, interval_figures, merged, named_groups


if TYPE_CHECKING:
    from ..selector import EmpathyDataSelector


class Diary:
    """
    Takes down what was drawn.

    Args:
        selector ([`EmpathyDataSelector`]): Its threshold and ties make the quadrants.
        scores (`np.ndarray` of shape `(n, 2)`): In the trainer's order; may be filled while training.
    """

    def __init__(self, selector: EmpathyDataSelector, scores: np.ndarray) -> None:
        self.selector, self.scores = selector, scores
        self.records = Records(len(scores))
        self.history: list[dict[str, Any]] = []
        self._interval: list[np.ndarray] = []
        self._groups: np.ndarray | None = None

    @property
    def groups(self) -> np.ndarray:
        """The quadrant of each sample, or `"unscored"`."""
        if self._groups is None:
            s, r = self.scores.T
            self._groups = named_groups(quadrants(s, r, self.selector.threshold, self.selector.ties))
        return self._groups

    @property
    def coverage(self) -> float:
        """The share of the samples that are scored."""
        return float((~np.isnan(self.scores).any(axis=1)).mean())

    def scores_changed(self) -> None:
        """Says that scores have come in."""
        self._groups = None

    def add(self, observations: list[np.ndarray]) -> None:
        """Takes down observations, of all processes, of steps that are over."""
        rows = merged(observations)
        self.records.add(rows)
        self._interval.append(rows)

    def close_interval(self, step: int, progress: float) -> dict[str, float]:
        """The figures to log of what was taken down since this was last called; none if nothing was."""
        rows, self._interval = merged(self._interval), []
        if not len(rows):
            return {}
        figures = interval_figures(rows, self.groups)
        coverage = self.coverage
        self.history.append({"step": step, "progress": progress, **figures, "coverage": coverage})
        return {
            **{f"empathy/share_{name}": figures["shares"][name] for name in GROUPS},
            **{f"empathy/loss_{name}": loss for name, loss in figures["quadrant_loss"].items()},
            "empathy/mean_weight": figures["mean_weight"],
            "empathy/effective_sample_size": figures["effective_sample_size"],
            "empathy/coverage": coverage,
        }

    def write(self, folder: str | Path) -> None:
        """Writes `empathy_draws.parquet`, `empathy_history.json`, and a picture where matplotlib is installed."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        folder, records = Path(folder), self.records
        folder.mkdir(parents=True, exist_ok=True)
        columns = {
            "row": np.arange(len(self.scores)),
            SENSIBILITY: self.scores[:, 0],
            RATIONALITY: self.scores[:, 1],
            "quadrant": self.groups,
            "draws": records.draws,
            "mean_weight": records.mean_weight(),
            "first_loss": records.first_loss,
            "last_loss": records.last_loss,
            "mean_loss": records.mean_loss(),
        }
        table = pa.table({name: pa.array(values, from_pandas=True) for name, values in columns.items()})
        pq.write_table(table, folder / DRAWS)
        write_json(folder / HISTORY, self.history)
        write_draws_report(folder)

    def state_dict(self) -> dict[str, Any]:
        """Everything taken down."""
        return {"records": self.records.state_dict(), "history": self.history, "interval": merged(self._interval)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from [`~Diary.state_dict`]."""
        self.records.load_state_dict(state["records"])
        self.history, self._interval = list(state["history"]), [state["interval"]]
