"""Trainers that take turns in one process, and a meter of the time in some of their functions.

`online_overhead.py` uses them; this file measures nothing by itself.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback


class Meter:
    """Seconds in our functions, without the functions of others that they call; one thread at a time."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._inner: list[float] = []

    def timed(self, function: Callable[..., Any], *, ours: bool = True) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            self._inner.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                whole, inner = time.perf_counter() - start, self._inner.pop()
                self.seconds += whole - inner if ours else 0.0
                if self._inner:
                    self._inner[-1] += whole

        return wrapper

    def wrap(self, owner: Any, *names: str) -> None:
        for name in names:
            setattr(owner, name, self.timed(getattr(owner, name)))


class Turn(TrainerCallback):
    """Lets a trainer take some steps whenever it is its turn, and times each step, by clock and CPU."""

    def __init__(self, trainer: Any, meter: Meter) -> None:
        self.meter = meter
        self.seconds, self.cpu_seconds, self.plugin = list[float](), list[float](), list[float]()
        self._left, self._go, self._done = 0, threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self._workers: set[int] = set()
        trainer.add_callback(self)  # last, so that the step includes the other callbacks' work
        self._thread = threading.Thread(target=self._train, args=(trainer,), daemon=True)

    def _train(self, trainer: Any) -> None:
        try:
            trainer.train()
        except BaseException as error:
            self._error = error
        self._done.set()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        synchronise()
        self.seconds.append(time.perf_counter() - self._started)
        self.cpu_seconds.append(time.process_time() - self._cpu_started)
        self.plugin.append(self.meter.seconds)
        self._left -= 1
        if not self._left:
            self._done.set()
            self._go.wait()
            self._go.clear()
        self._start()

    def _start(self) -> None:
        self.meter.seconds, self._cpu_started, self._started = 0.0, time.process_time(), time.perf_counter()

    def take(self, steps: int) -> None:
        """Takes steps; the other trainers wait meanwhile. Afterwards this trainer's workers are stopped."""
        before = children()
        self._tell_workers("SIGCONT")
        self._left = steps
        self._done.clear()
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._go.set()
        self._done.wait()
        self._workers |= children() - before
        if self._error is not None:
            raise self._error
        self._tell_workers("SIGSTOP")

    def finish(self) -> None:
        """Lets the training end."""
        self._tell_workers("SIGCONT")
        self._go.set()
        self._thread.join()

    def _tell_workers(self, name: str) -> None:
        for pid in self._workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, getattr(signal, name))


def children() -> set[int]:
    """The child processes of this process, where the system lists them (Linux)."""
    found = set()
    for task in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that has just ended
            found |= {int(pid) for pid in task.read_text().split()}
    return found


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
