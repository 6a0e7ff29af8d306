"""Scoring ahead of the trainer: rows go to a worker process in the order in which they will be drawn.

Nothing here waits unless it is told to, and what it waited is counted. A worker that dies is started once more with
what it had not answered; if that dies too, training stops or goes on without new scores, as was asked, with its error.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from ..errors import TrainingError, unknown
from .worker import receive, send


if TYPE_CHECKING:
    from ..data.dialogue import Dialogue
    from ..selector import EmpathyDataSelector

logger = logging.getLogger(__name__)

ON_FAILURE = ("stop", "continue")
_AT_ONCE = 64  # rows in one message: a scorer's batch, and the grain in which scores come back

Answer = tuple[int, float, float]  # row, sensibility, rationality; NaN where it could not be scored


class LookAhead:
    """
    Scores rows in another process while the trainer trains.

    Args:
        selector ([`EmpathyDataSelector`]):
            Its scorer (a name, folder, hub id, or an object that can be pickled), store and options. A judge takes its
            device from the scorer's options (`device_map`), in a CUDA context of its own.
        dialogues_of (`Callable`):
            Rows of the data set, by number, to the dialogues in each.
        on_failure (`str`, *optional*, defaults to `"stop"`):
            What becomes of the training when the worker died twice: `"stop"`, or `"continue"` without new scores.
        threads (`int`, *optional*, defaults to `1`):
            CPU threads of the worker, so that it leaves the others to the trainer.

    Attributes:
        waited (`float`): Seconds that [`~LookAhead.take`] has waited, in all.
        failure (`str`, *optional*): Why there are no new scores any more.
    """

    def __init__(
        self,
        selector: EmpathyDataSelector,
        dialogues_of: Callable[[Sequence[int]], list[list[Dialogue]]],
        *,
        on_failure: str = "stop",
        threads: int = 1,
    ) -> None:
        if on_failure not in ON_FAILURE:
            raise TrainingError(unknown("on_failure", on_failure, ON_FAILURE))
        self.on_failure = on_failure
        self.waited = 0.0
        self.failure: str | None = None
        self._dialogues_of = dialogues_of
        self._threads = threads
        self._settings = _packed(selector.worker_settings())
        self._outstanding: dict[int, list[Dialogue]] = {}
        self._answered: set[int] = set()
        self._restarts = 0
        self._worker: _Worker | None = None

    # ---- asking and taking

    @property
    def outstanding(self) -> int:
        """Rows that were asked for and have no answer yet."""
        return len(self._outstanding)

    def ask(self, rows: Iterable[int]) -> None:
        """Has rows scored, in this order; those asked for before are left out."""
        new = [row for row in rows if row not in self._outstanding and row not in self._answered]
        if not new or self.failure is not None:
            return
        asked = dict(zip(new, self._dialogues_of(new), strict=True))
        worker = self._started()  # a new one is asked again what is outstanding
        self._outstanding |= asked
        worker.ask(asked)

    def take(self, wait_for: Iterable[int] = ()) -> list[Answer]:
        """
        The answers that have come in.

        Args:
            wait_for (`Iterable[int]`, *optional*): Rows, asked for before, that are waited for if need be.

        Raises:
            [`TrainingError`]: The worker died twice, and `on_failure` is `"stop"`.
        """
        found: list[Answer] = []
        start = time.perf_counter()
        wanted = self._outstanding.keys() & set(wait_for)
        wait = bool(wanted)
        while self._outstanding and self.failure is None:
            wanted &= self._outstanding.keys()
            message = self._started().next(wait=bool(wanted))
            if message is None:
                break
            if message[0] == "scores":
                found += message[1]
                for row, _, _ in message[1]:
                    self._outstanding.pop(row, None)
                    self._answered.add(row)
            elif message[0] == "died":
                self._restart_or_fail(message[1])
        if wait:
            self.waited += time.perf_counter() - start
        return found

    def _started(self) -> _Worker:
        if self._worker is None:
            self._worker = _Worker(self._settings, self._threads)
            self._worker.ask(self._outstanding)
        return self._worker

    def _restart_or_fail(self, error: str) -> None:
        assert self._worker is not None
        self._worker.close()
        self._worker = None
        if not self._restarts:
            self._restarts += 1
            logger.warning("the scorer's process died and is started once more: %s", error)
            self._started()
            return
        self.failure = error
        if self.on_failure == "stop":
            raise TrainingError(
                f"the scorer's process died twice; {len(self._outstanding)} rows were not scored. Its error:\n"
                f"{error}\nWhat was scored is in the store. To train on without new scores: on_failure='continue'."
            )
        logger.error("the scorer's process died twice; training goes on without new scores. Its error:\n%s", error)
        self._outstanding.clear()

    def forget(self) -> None:
        """Ends the worker and takes back what was asked for, so that it can be asked for again."""
        self.close()
        self._outstanding.clear()
        self._answered.clear()

    def close(self) -> None:
        """Ends the worker; what it has not answered is asked for again when there is a next one."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None


def _packed(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings, with the scorer packed for another process; raises [`TrainingError`] where it cannot be."""
    import dill

    try:
        return {**settings, "spec": dill.dumps(settings["spec"], recurse=True)}
    except Exception as error:  # of whatever the scorer holds
        raise TrainingError(
            f"the scorer {settings['spec']!r} cannot be sent to the process that scores ahead ({error}); give it by "
            "name, folder or hub id, or score the data set before training: selector.score(dataset)"
        ) from error


class _Worker:
    """The process and the two threads that keep its streams flowing, so that the trainer never blocks on them."""

    def __init__(self, settings: dict[str, Any], threads: int) -> None:
        more = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        more |= {"TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        own = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ee_trl.online.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**own, **more},
        )
        self._outbox: SimpleQueue[Any] = SimpleQueue()
        self._inbox: SimpleQueue[tuple[Any, ...]] = SimpleQueue()
        self._outbox.put(settings)
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._write, self._read)]
        for thread in self._threads:
            thread.start()

    def ask(self, rows: dict[int, list[Dialogue]]) -> None:
        """Queues rows, in messages of a batch."""
        items = list(rows.items())
        for start in range(0, len(items), _AT_ONCE):
            self._outbox.put(items[start : start + _AT_ONCE])

    def next(self, *, wait: bool) -> tuple[Any, ...] | None:
        """The next answer; `None` where there is none yet. `("died", error)` is the last one."""
        try:
            return self._inbox.get(block=wait)
        except Empty:
            return None

    def _write(self) -> None:
        assert self._process.stdin is not None
        with suppress(OSError, ValueError):  # it died: the reader says so
            while (message := self._outbox.get()) is not None:
                send(self._process.stdin, message)

    def _read(self) -> None:
        assert self._process.stdout is not None
        error = ""
        try:
            while True:
                message = receive(self._process.stdout)
                if message[0] == "error":
                    error = f"{message[1]}\n{message[2]}"
                else:
                    self._inbox.put(message)
        except (EOFError, OSError, ValueError):
            code = self._process.wait()
            self._inbox.put(("died", error or f"it ended with exit code {code}" + (" (killed)" if code < 0 else "")))

    def close(self) -> None:
        """Ends the process at once: what it saved is in the store."""
        self._outbox.put(None)
        self._process.kill()
        self._process.wait()
        for thread in self._threads:
            thread.join(timeout=5)
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(OSError):  # what was still to be written to a process that is gone
                if stream is not None:
                    stream.close()
