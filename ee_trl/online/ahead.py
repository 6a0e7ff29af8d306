"""Which rows are scored ahead, and when their scores count.

The plan puts rows whose score is awaited after all others. A window of what comes next is kept scored, or asked for:
when less than half of it is, the rest is asked for, in chunks that count one refresh after the other, not before what
is scored already is used up, or as soon as they are needed; a chunk is waited for if it must be. So what is drawn does
not depend on how fast the scorer is, and a resumed training goes the same way. With `behind="draw"` nothing is waited
for: what has come in counts, what has not is drawn unscored.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..errors import TrainingError, unknown
from . import ranks
from .lookahead import LookAhead


logger = logging.getLogger(__name__)

BEHIND = ("wait", "draw")
LAG = 2  # refreshes that the scorer has for a chunk, at least, before it is waited for
_INTERVALS = 2 * LAG  # between refreshes: what is drawn in them is the window
_LEAST = 64  # rows in the window, so that a scorer has batches


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
        failure (`str`, *optional*): Why a process, or a training before, has no new scores any more.
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
        self.failure: str | None = None

    # ---- asking

    def request(self, order: np.ndarray, interval: int, kept: float | None = None) -> None:
        """
        Asks for the next rows of an order that were not asked for, where less than half of the window is covered.

        Args:
            order (`np.ndarray`): Samples as they are to be drawn.
            interval (`int`): How many of them are drawn until the next refresh.
            kept (`float`, *optional*): The share of them that the policy will keep, when scored. None while it is not
                asked yet: they are drawn whatever their scores, which are known the sooner the better.
        """
        share, waits = kept or 1.0, self.pending[order]
        ready = int(np.argmax(waits)) if waits.any() else len(order)
        covered = ready + share * float((self.pending & self._asked).sum())
        interval = max(interval, 1)
        window = max(_INTERVALS * interval, _LEAST)
        if covered >= window / 2:
            return
        lacking = math.ceil((window - covered) / share)
        rows = list(dict.fromkeys(order[waits & ~self._asked[order]][: 4 * lacking].tolist()))[:lacking]
        if kept is None:
            due, size = self._refreshes + LAG, max(len(rows), 1)
        else:
            due, size = self._refreshes + max(LAG, int(covered) // interval), math.ceil(interval / kept)
        if self._chunks:
            due = max(due, self._chunks[-1][0])
        self._ask([(due + i, rows[i * size : (i + 1) * size]) for i in range(-(-len(rows) // size))])

    def _ask(self, chunks: list[tuple[int, list[int]]]) -> None:
        rows = [row for _, chunk in chunks for row in chunk]
        self._asked[rows] = True
        self._chunks += chunks
        self.look.ask(self._own(rows))

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
            self._ask([(self._refreshes, new)])
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
        for part, failure in ranks.every((mine, self.look.failure)):
            self.failure = self.failure or failure
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
            "failure": self.failure,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from [`~ScoringAhead.state_dict`]: what was on its way is asked for again."""
        self.pending = np.asarray(state["pending"], dtype=bool)
        self._refreshes = int(state["refreshes"])
        self.failure = state.get("failure")
        self._asked[:] = ~self.pending
        self._chunks.clear()
        self._arrived.clear()
        self.look.forget()  # of a training before, by the same trainer
        self._ask([(int(due), [int(row) for row in rows]) for due, rows in state["chunks"]])
