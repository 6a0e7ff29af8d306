"""Asynchronous work in a thread of its own, as an ordinary iterator: for scripts and notebooks alike."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import TypeVar


T = TypeVar("T")


class _Ended:
    """What the thread says last: how the work ended."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def in_background(work: Callable[[Callable[[T], None]], Awaitable[None]]) -> Iterator[list[T]]:
    """
    Runs `work(put)` in an event loop in another thread, and hands out what it puts as soon as it is there.

    Closing the iterator, or an interrupt while it waits, cancels the work and what it waits for.

    Args:
        work (`Callable`): Takes `put`, which it calls with each result.

    Yields:
        `list`: the results that have come in since the last, at least one.

    Raises:
        Whatever `work` raises, after the results that came before it.
    """
    results: queue.SimpleQueue[T | _Ended] = queue.SimpleQueue()
    loop = asyncio.new_event_loop()
    task = loop.create_task(_run(work, results.put))

    def run() -> None:
        error: BaseException | None = None
        try:
            loop.run_until_complete(task)
        except BaseException as raised:  # noqa: B036  # handed to the thread that waits for it
            error = raised
        results.put(_Ended(error))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

    thread = threading.Thread(target=run, name="ee-trl requests", daemon=True)
    thread.start()
    try:
        yield from _until_ended(results)
    finally:
        if thread.is_alive():
            with suppress(RuntimeError):  # it has just closed
                loop.call_soon_threadsafe(task.cancel)
            thread.join(timeout=5)


async def _run(work: Callable[[Callable[[T], None]], Awaitable[None]], put: Callable[[T], None]) -> None:
    await work(put)


def _until_ended(results: queue.SimpleQueue[T | _Ended]) -> Iterator[list[T]]:
    while True:
        found: list[T | _Ended] = []
        while not found:  # a wait without an end would not see an interrupt everywhere
            with suppress(queue.Empty):
                found.append(results.get(timeout=0.5))
        with suppress(queue.Empty):
            while True:
                found.append(results.get_nowait())
        batch = [result for result in found if not isinstance(result, _Ended)]
        if batch:
            yield batch
        if isinstance(found[-1], _Ended):
            if found[-1].error is not None:
                raise found[-1].error
            return
