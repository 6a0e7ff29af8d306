"""The process that scores ahead of a trainer: `python -m ee_trl.online.worker`; [`LookAhead`] feeds and reads it.

It is neither a fork nor a spawned copy of the script. So it shares neither the interpreter's lock nor the CUDA context
with the trainer's steps, and a script without a `__main__` guard does not run twice. Messages are dill pickles on the
standard streams, one after the other. What the scorer prints goes to standard error.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import IO, Any

import dill
import numpy as np

from ..scoring.load import load_scorer
from ..scoring.run import ScoringRun
from ..scoring.store import ScoreStore


Answer = tuple[int, float, float]
"""Row, sensibility, rationality; NaN where the row could not be scored, [`FLAGGED`] where its replies have flags."""
FLAGGED = float("-inf")
"""In place of both scores of a reply with a flag, until it is known which rows are flagged."""


def send(stream: IO[bytes], message: Any) -> None:
    """Writes one message."""
    stream.write(dill.dumps(message))
    stream.flush()


def work(requests: IO[bytes], answers: IO[bytes]) -> None:
    """
    Loads the scorer that the first message describes (a pickled [`ScoringSpec`]), and scores the rows of the others.

    Every other message is a list of `(row, dialogues)`. The answer to it is `("scores", list[Answer])`, with the mean
    over the scored dialogues without a flag of each row.
    """
    spec = dill.loads(dill.load(requests))
    scorer = load_scorer(spec.scorer, **spec.options)
    store = ScoreStore(spec.store) if spec.store is not None and getattr(scorer, "stored", True) else None
    run = ScoringRun(scorer, store, retry_failures=spec.retry_failures)
    while True:
        try:
            asked = dill.load(requests)
        except EOFError:
            return
        places = np.repeat(np.arange(len(asked)), [len(dialogues) for _, dialogues in asked])
        found = run.score([dialogue for _, dialogues in asked for dialogue in dialogues])
        found.scores[[flag is not None for flag in found.flags or ()]] = FLAGGED
        means = mean_by_row(places, found.scores, len(asked)).tolist()
        send(answers, ("scores", [(row, *pair) for (row, _), pair in zip(asked, means, strict=True)]))


def mean_by_row(row_index: np.ndarray, scores: np.ndarray, n: int) -> np.ndarray:
    """The mean of the scored samples of each of `n` rows; [`FLAGGED`] or NaN for a row that has none."""
    valid = np.isfinite(scores).all(axis=1)
    counts = np.bincount(row_index[valid], minlength=n)
    sums = np.stack([np.bincount(row_index[valid], scores[valid, axis], n) for axis in range(2)], axis=1)
    means = np.full((n, 2), np.nan)
    means[row_index[(scores == FLAGGED).any(axis=1)]] = FLAGGED
    means[counts > 0] = sums[counts > 0] / counts[counts > 0, None]
    return means


def main() -> int:
    """Works until the requests end; the last message reports an error."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a scorer prints must not mix with the messages
    try:
        work(sys.stdin.buffer, answers)
    except BaseException as error:
        send(answers, ("error", f"{type(error).__name__}: {error}\n{traceback.format_exc()}"))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
