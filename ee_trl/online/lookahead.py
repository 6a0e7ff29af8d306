"""Scoring while the trainer trains: rows are scored in another process, in the order in which they will be drawn.

[`LookAhead`] runs that process; [`ScoringAhead`] decides which rows to request and when their scores count. Where a
policy gives sampling weights, the plan puts rows that await a score after all others; otherwise it keeps the stock
order. A window holds the next rows to draw; when less than half of it is scored or requested, the rest is requested in
chunks. The chunks count at one refresh after another, once the rows
scored before are used up, or as soon as one of their rows is needed. Training waits for a chunk that is due. So
neither the scorer's speed nor a resume changes what is drawn. With `behind="draw"` it waits only for the first scores:
scores count when they arrive, and other rows are drawn without.
"""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

import dill
import numpy as np

from ..data.dialogue import Dialogue
from ..errors import TrainingError
from ..scoring.base import ScoringSpec
from . import ranks
from .policies.weights import Weights
from .worker import FLAGGED, Answer, send


logger = logging.getLogger(__name__)

DialoguesOf = Callable[[Sequence[int]], list[list[Dialogue]]]

LAG = 2  # refreshes: the scorer has at least so many for a chunk before training waits for it
_INTERVALS = 2 * LAG  # between refreshes; the window holds the rows drawn in them
_LEAST = 64  # fewest rows in the window, so that a scorer has batches
_LEAST_KEPT = 1 / 16  # share of the scored rows that are drawn; a smaller share makes the window no longer
_AT_ONCE = 64  # rows in one message: a scorer's batch, and how many scores come back together


class LookAhead:
    """
    Scores rows in another process. A process that dies is started once more with the rows it had not answered.

    A scorer object must be picklable. When the process dies twice, training stops with its error
    (`on_failure="stop"`), or goes on without new scores (`"continue"`).
    """

    def __init__(self, spec: ScoringSpec, dialogues_of: DialoguesOf, *, on_failure: str = "stop") -> None:
        self.on_failure = on_failure
        self.waited = 0.0  # seconds, in all
        self.failure: str | None = None  # why there are no new scores any more
        self._dialogues_of = dialogues_of
        try:
            self._spec = dill.dumps(spec, recurse=True)  # with what the scorer's class needs from a script
        except Exception as error:  # whatever the scorer holds may raise
            raise TrainingError(
                f"the scorer {spec.scorer!r} cannot be sent to the process that scores ahead ({error}). Give a name, "
                "folder or hub id, or score the data set before training: selector.score(dataset)"
            ) from error
        self.outstanding: dict[int, list[Dialogue]] = {}  # asked for, without an answer yet
        self._answered: set[int] = set()
        self._restarts = 0
        self._process: _Process | None = None

    def ask(self, rows: Iterable[int]) -> None:
        """Requests the scores of rows, in this order; skips rows that were requested before."""
        new = [row for row in rows if row not in self.outstanding and row not in self._answered]
        if not new or self.failure is not None:
            return
        asked = dict(zip(new, self._dialogues_of(new), strict=True))
        process = self._started()  # a new one is asked again for what is outstanding
        self.outstanding |= asked
        process.ask(asked)

    def take(self, wait_for: Iterable[int] = ()) -> list[Answer]:
        """Waits for the rows `wait_for`; returns the answers since the last call. Raises [`TrainingError`] to stop."""
        found: list[Answer] = []
        start = time.perf_counter()
        wanted = self.outstanding.keys() & set(wait_for)
        wait = bool(wanted)
        while self.outstanding and self.failure is None:
            wanted &= self.outstanding.keys()
            message = self._started().next(wait=bool(wanted))
            if message is None:
                break
            kind, content = message
            if kind == "died":
                self._restart_or_fail(content)
                continue
            found += content
            for row, _, _ in content:
                self.outstanding.pop(row, None)
                self._answered.add(row)
        if wait:
            self.waited += time.perf_counter() - start
        return found

    def _started(self) -> _Process:
        if self._process is None:
            self._process = _Process(self._spec)
            self._process.ask(self.outstanding)
        return self._process

    def _restart_or_fail(self, error: str) -> None:
        self.close()
        if not self._restarts:
            self._restarts += 1
            logger.warning("the scorer's process died and is started once more: %s", error)
            self._started()
            return
        self.failure = error
        if self.on_failure == "stop":
            raise TrainingError(
                f"the scorer's process died twice; {len(self.outstanding)} rows were not scored. Its error:\n"
                f"{error}\nThe store keeps the scores made so far. To train on without new scores, set "
                "on_failure='continue'."
            )
        logger.error("the scorer's process died twice; training goes on without new scores. Its error:\n%s", error)
        self.outstanding.clear()

    def forget(self) -> None:
        """Ends the process and forgets all requests, so that rows can be requested again."""
        self.close()
        self.outstanding.clear()
        self._answered.clear()

    def close(self) -> None:
        """Ends the process; the next one gets the unanswered requests."""
        if self._process is not None:
            self._process.close()
            self._process = None


class _Process:
    """The process, with two threads that keep its streams flowing, so that the trainer never blocks on them."""

    def __init__(self, spec: bytes) -> None:
        env = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")}
        env |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # the trainer has the others
        env |= {"TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-m", "ee_trl.online.worker"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
        self._outbox: SimpleQueue[Any] = SimpleQueue()
        self._inbox: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        self._outbox.put(spec)
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._write, self._read)]
        for thread in self._threads:
            thread.start()

    def ask(self, rows: dict[int, list[Dialogue]]) -> None:
        """Queues rows, in messages of a batch."""
        items = list(rows.items())
        for start in range(0, len(items), _AT_ONCE):
            self._outbox.put(items[start : start + _AT_ONCE])

    def next(self, *, wait: bool) -> tuple[str, Any] | None:
        """The next `("scores", answers)`; None where there is none yet. `("died", error)` comes last."""
        try:
            return self._inbox.get(block=wait)
        except Empty:
            return None

    def _write(self) -> None:
        assert self._process.stdin is not None
        with suppress(OSError, ValueError):  # the process died; the other thread reports it
            while (message := self._outbox.get()) is not None:
                send(self._process.stdin, message)

    def _read(self) -> None:
        assert self._process.stdout is not None
        error = ""
        try:
            while True:
                kind, content = dill.load(self._process.stdout)
                if kind == "error":
                    error = content
                else:
                    self._inbox.put((kind, content))
        except Exception:  # the stream ended, perhaps in the middle of a message
            code = self._process.wait()
            self._inbox.put(("died", error or f"it ended with exit code {code}" + (" (killed)" if code < 0 else "")))

    def close(self) -> None:
        """Ends the process at once: the scores it saved are in the store."""
        self._outbox.put(None)
        self._process.kill()
        self._process.wait()
        for thread in self._threads:
            thread.join(timeout=5)
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(OSError):  # a message that was still to be written
                if stream is not None:
                    stream.close()


class ScoringAhead:
    """
    Scores for a training that begins before its rows are scored.

    It fills `scores` (of shape `(n, 2)`, NaN where a sample has none), unmarks in `pending` (of shape `(n,)`) the
    samples that have an answer, and marks in `flagged` (likewise) those whose reply has a flag. When the scorer falls
    behind, training waits for it (`behind="wait"`), or draws the rows that are scored first, then the others
    (`"draw"`).
    """

    def __init__(
        self,
        look: LookAhead,
        scores: np.ndarray,
        pending: np.ndarray,
        flagged: np.ndarray | None = None,
        *,
        behind: str = "wait",
    ) -> None:
        self.look, self.scores, self.pending, self.behind = look, scores, pending, behind
        self.flagged = np.zeros(len(scores), dtype=bool) if flagged is None else flagged
        self.failure: str | None = None  # of any process, or of the run that saved a checkpoint
        self._asked = np.zeros(len(scores), dtype=bool)
        self._chunks: deque[tuple[int, list[int]]] = deque()  # (refresh at which it counts, rows)
        self._refreshes = 0
        self._arrived: dict[int, tuple[float, float]] = {}
        self._waited = 0.0

    def request(self, order: np.ndarray, interval: int, kept: float | None = None) -> None:
        """Requests the next samples of an order, if less than half of the window is scored or requested."""
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

    def settle(self, ask: Callable[[], bool], coming: Callable[[int | None], np.ndarray], near: int) -> None:
        """
        Asks the policy and waits for scores, in turns, until the next `near` rows to draw have scores.

        `ask()` draws by the policy's answer; it returns False where the policy leaves nothing so far. `coming(rows)`
        returns the samples in the next `rows` rows (None: in all), in the order of the draws.
        """
        while True:
            answered = bool(not np.isnan(self.scores).all() or not self.pending.any()) and ask()
            first = coming(near)
            waiting = first if answered else coming(None)
            waiting = waiting[self.pending[waiting]]
            if not answered and not len(waiting):  # a draw may lack some rows
                waiting = np.flatnonzero(self.pending)
            if not len(waiting) or (answered and self.behind == "draw"):
                return
            self.need(waiting[: len(first)])

    def filled(self, weights: Weights) -> Weights:
        """Gives samples that await a score the mean of the other weights."""
        return Weights(*(None if w is None else np.where(self.pending, w[~self.pending].mean(), w) for w in weights))

    def kept(self, sampling: np.ndarray | None) -> float:
        """The share of the samples with an answer that are drawn at all, for [`~ScoringAhead.request`]."""
        if sampling is None or self.pending.all():
            return 1.0
        return max(float((sampling[~self.pending] > 0).mean()), _LEAST_KEPT)

    def refresh(self) -> None:
        """Makes the scores count that are due now."""
        self._refreshes += 1
        due: list[int] = []
        while self.behind == "wait" and self._chunks and self._chunks[0][0] <= self._refreshes:
            due += self._chunks.popleft()[1]
        self._take(due)

    def need(self, rows: Iterable[int]) -> None:
        """Requests rows where needed, waits for them, and makes the scores of their chunks count."""
        wanted = {row: None for row in rows if self.pending[row]}
        if new := [row for row in wanted if not self._asked[row]]:
            self._ask([(self._refreshes, new)])
        needed = [chunk for chunk in self._chunks if not wanted.keys().isdisjoint(chunk[1])]
        self._chunks = deque(chunk for chunk in self._chunks if chunk not in needed)
        self._take([row for _, chunk in needed for row in chunk], at_once=True)

    def _ask(self, chunks: list[tuple[int, list[int]]]) -> None:
        rows = [row for _, chunk in chunks for row in chunk]
        self._asked[rows] = True
        self._chunks += chunks
        self.look.ask(_own(rows))

    def _take(self, due: list[int], *, at_once: bool = False) -> None:
        wait = self.behind == "wait" or at_once
        for row, sensibility, rationality in self.look.take(_own(due) if wait else ()):
            self._arrived[row] = sensibility, rationality
        if self.look.failure is not None:  # rows without an answer will never have one
            due = np.flatnonzero(self.pending).tolist()
        counting = _own(due) if wait or self.look.failure is not None else list(self._arrived)
        nothing = (float("nan"), float("nan"))
        mine = {row: self._arrived.pop(row, nothing) for row in counting}
        for part, failure in ranks.every((mine, self.look.failure)):
            self.failure = self.failure or failure
            for row, pair in part.items():
                self.flagged[row] = pair[0] == FLAGGED
                self.scores[row] = nothing if self.flagged[row] else pair
                self.pending[row] = False

    def waited_since(self) -> float:
        """Seconds waited for the scorer since the last call."""
        waited, self._waited = self.look.waited - self._waited, self.look.waited
        return waited

    def state_dict(self) -> dict[str, Any]:
        """Which rows were asked for, and when they count."""
        return {
            "pending": self.pending,
            "chunks": [[due, list(rows)] for due, rows in self._chunks],
            "refreshes": self._refreshes,
            "failure": self.failure,
            **({"flagged": self.flagged} if self.flagged.any() else {}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from [`~ScoringAhead.state_dict`]: rows without an answer are requested again."""
        self.pending = np.asarray(state["pending"], dtype=bool)
        self._refreshes = int(state["refreshes"])
        self.failure = state.get("failure")
        self.flagged[:] = state.get("flagged", self.flagged & ~self.pending)
        self._asked[:] = ~self.pending
        self._chunks.clear()
        self._arrived.clear()
        self.look.forget()  # the rows of an earlier training by the same trainer
        self._ask([(int(due), [int(row) for row in rows]) for due, rows in state["chunks"]])


def _own(rows: Iterable[int]) -> list[int]:
    """This process' share of the rows to score."""
    rank, count = ranks.place()
    return [row for row in rows if row % count == rank]
