"""The process that scores ahead of a trainer: `python -m ee_trl.online.worker`, fed and read by [`LookAhead`].

A process of its own, and not a fork or a spawned copy of the script: the trainer's steps share neither its interpreter
lock nor its CUDA context, and a script without a `__main__` guard is not run twice. Messages are dill pickles on the
standard streams, each after its length; whatever the scorer prints goes to standard error.
"""

from __future__ import annotations

import os
import struct
import sys
import threading
import traceback
from queue import SimpleQueue
from typing import IO, Any

import dill


_LENGTH = struct.Struct("<Q")


def send(stream: IO[bytes], message: Any) -> None:
    """Writes one message."""
    data = dill.dumps(message)
    stream.write(_LENGTH.pack(len(data)) + data)
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """Reads one message; raises `EOFError` where there is none, whole, any more."""
    head = stream.read(_LENGTH.size)
    data = stream.read(_LENGTH.unpack(head)[0]) if len(head) == _LENGTH.size else b""
    if not data or len(data) < _LENGTH.unpack(head)[0]:
        raise EOFError
    return dill.loads(data)


def work(requests: IO[bytes], answers: IO[bytes]) -> None:
    """
    Loads the scorer that the first message describes, and scores what the others bring, in their order.

    The first message is `{"spec" (pickled), "options", "store", "retry_failures"}`; each other one a list of
    `(row, dialogues)`, and is answered by `("scores", [(row, sensibility, rationality), ...])`, the mean over the
    row's scored dialogues, NaN where it has none.
    """
    settings = receive(requests)
    run = _start(settings)
    inbox: SimpleQueue[Any] = SimpleQueue()

    def drain() -> None:  # so that the trainer is never held up while it hands over
        try:
            while True:
                inbox.put(receive(requests))
        except EOFError:
            inbox.put(None)

    threading.Thread(target=drain, daemon=True).start()
    send(answers, ("ready", run.scorer.fingerprint))
    while (asked := inbox.get()) is not None:
        send(answers, ("scores", score_rows(run, asked)))


def _start(settings: dict[str, Any]) -> Any:
    from ..scoring.load import load_scorer
    from ..scoring.run import ScoringRun
    from ..scoring.store import ScoreStore

    scorer = load_scorer(dill.loads(settings["spec"]), **settings["options"])
    stored = settings["store"] is not None and getattr(scorer, "stored", True)
    return ScoringRun(
        scorer, ScoreStore(settings["store"]) if stored else None, retry_failures=settings["retry_failures"]
    )


def score_rows(run: Any, asked: list[tuple[int, list[Any]]]) -> list[tuple[int, float, float]]:
    """The mean score of each row's dialogues."""
    import numpy as np

    flat = [dialogue for _, dialogues in asked for dialogue in dialogues]
    scores = run.score(flat).scores
    answers, start = [], 0
    for row, dialogues in asked:
        part = scores[start : start + len(dialogues)]
        start += len(dialogues)
        part = part[~np.isnan(part).any(axis=1)]
        s, r = part.mean(axis=0).tolist() if len(part) else (float("nan"), float("nan"))
        answers.append((row, s, r))
    return answers


def main() -> int:
    """Works until the requests end; what goes wrong is the last message."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # prints of a scorer are no messages
    try:
        work(sys.stdin.buffer, answers)
    except BaseException as error:
        send(answers, ("error", f"{type(error).__name__}: {error}", traceback.format_exc()))
        return 1
    return 0


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # at once: a thread still reads, and would be ended while it holds a lock
