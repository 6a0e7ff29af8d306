"""Which rows are scored ahead, and when their scores count.

The plan puts rows whose score is awaited after all others. Before a step, rows at the front of those are asked for, a
chunk at a time; a chunk counts at a fixed number of refreshes after it was asked for, or as soon as it is needed, and
is waited for if it must be. So what is drawn does not depend on how fast the scorer is, and a resumed training goes
the same way. With `behind="draw"` nothing is waited for: what has come in counts, what has not is drawn unscored.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..errors import TrainingError, unknown
from . import ranks
from .lookahead import LookAhead


logger = logging.getLogger(__name__)

BEHIND = ("wait", "draw")
LAG = 2  # refreshes that the scorer has for a chunk before it is waited for
_LEAST = 64  # rows in a chunk, so that a scorer has batches


class ScoringAhead:
    """
    The scores of a training that begins before they are there.

    Args:
        look ([`LookAhead`]): The process that scores.
        scores (`np.ndarray` of shape `(n, 2)`): Filled here, NaN where a sample has no score (yet).
        pending (`np.ndarray` of shape `(n,)`, of `bool`): Samples that are to be scored.
        behind (`str`, *optional*, defaults to `"wait"`): What happens where the scorer falls behind: `"wait"` for it,
            or `"draw"` what is scored first, and then what is not.

    Attributes:
        pending (`np.ndarray` of shape `(n,)`, of `bool`): Samples that have no answer yet.
    """

    def __init__(self, look: LookAhead, scores: np.ndarray, pending: np.ndarray, *, behind: str = "wait") -> None:
        if behind not in BEHIND:
            raise TrainingError(unknown("behind", behind, BEHIND))
        self.look, self.scores, self.behind = look, scores, behind
        self.pending = pending
        self._asked = np.zeros(len(scores), dtype=bool)
        self._chunks: deque[tuple[int, list[int]]] = deque()  # (refresh at which it counts, rows)
        self._refreshes = 0
        self._arrived: dict[int, tuple[float, float]] = {}
        self._waited = 0.0

    # ---- asking

    def request(self, order: np.ndarray, rows: int) -> None:
        """Asks for the next rows of an order that were not asked for; so many, or a batch."""
        waiting = order[self.pending[order] & ~self._asked[order]]
        chunk = list(dict.fromkeys(waiting[: 4 * max(rows, _LEAST)].tolist()))[: max(rows, _LEAST)]
        if chunk:
            self._ask(chunk, self._refreshes + LAG)

    def _ask(self, chunk: list[int], due: int) -> None:
        self._asked[chunk] = True
        self._chunks.append((due, chunk))
        self.look.ask(self._own(chunk))

    def _own(self, rows: Iterable[int]) -> list[int]:
        """This process' share of the work."""
        rank, count = ranks.place()
        return [row for row in rows if row % count == rank]

    # ---- taking

    def refresh(self) -> None:
        """Lets the scores count that are due by now."""
        self._refreshes += 1
        due: list[int] = []
        if self.behind == "wait":
            while self._chunks and self._chunks[0][0] <= self._refreshes:
                due += self._chunks.popleft()[1]
        self._take(due)

    def need(self, rows: Iterable[int]) -> None:
        """Asks for rows if that is still to be done, waits for them, and lets their scores count."""
        wanted = [row for row in dict.fromkeys(rows) if self.pending[row]]
        new = [row for row in wanted if not self._asked[row]]
        if new:
            self._ask(new, self._refreshes)
        chosen = set(wanted)
        kept = [(due, chunk) for due, chunk in self._chunks if not chosen & set(chunk)]
        taken = [row for _, chunk in self._chunks if chosen & set(chunk) for row in chunk]
        self._chunks = deque(kept)
        self._take(taken, at_once=True)

    def _take(self, due: list[int], *, at_once: bool = False) -> None:
        wait = self.behind == "wait" or at_once
        for row, sensibility, rationality in self.look.take(self._own(due) if wait else ()):
            self._arrived[row] = sensibility, rationality
        if self.look.failure is not None:  # it goes on without: what was not answered never will be
            due = np.flatnonzero(self.pending).tolist()
        counting = self._own(due) if wait or self.look.failure is not None else list(self._arrived)
        nothing = (float("nan"), float("nan"))
        mine = {row: self._arrived.pop(row, nothing) for row in counting}
        for part in ranks.every(mine):
            for row, pair in part.items():
                self.scores[row] = pair
                self.pending[row] = False

    def waited_since(self) -> float:
        """Seconds waited for the scorer since this was last asked."""
        waited, self._waited = self.look.waited - self._waited, self.look.waited
        return waited

    # ---- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """What was asked for and when it counts."""
        return {
            "pending": self.pending,
            "chunks": [[due, list(rows)] for due, rows in self._chunks],
            "refreshes": self._refreshes,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from [`~ScoringAhead.state_dict`]: what was on its way is asked for again."""
        self.pending = np.asarray(state["pending"], dtype=bool)
        self._refreshes = int(state["refreshes"])
        self._asked[:] = ~self.pending
        self._chunks.clear()
        for due, rows in state["chunks"]:
            self._ask([int(row) for row in rows], int(due))
