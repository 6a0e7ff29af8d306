"""A judge behind a server of the tests, and the dialogues that it is asked about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from fake_server import FakeServer, Reply, by_words, conforming

from ee_trl import ServerScorer
from ee_trl.data.dialogue import REASONS, Dialogue
from ee_trl.scoring.judge.rubric import Rubric


RUBRIC = Rubric("short", "Rate the last reply for sensibility and rationality, 0 to 10.")
KEY = "sk-secret-0123456789abcdef"
AT_ONCE = {"Retry-After": "0.01"}
PROBE_REPLY = "Oh no! Where did you last see them?"


def scorer_of(server: FakeServer, **options: Any) -> ServerScorer:
    return ServerScorer("tiny", **{"base_url": server.base_url, "rubric": RUBRIC, "timeout": 10.0, **options})


def said(*replies: str) -> list[Dialogue]:
    return [Dialogue(("I lost my job today.",), reply, ("user",)) for reply in replies]


def numbered(n: int) -> list[Dialogue]:
    """Dialogues whose scores by words differ: sample i has i % 11 words (at least one) and a number of its own."""
    return said(*(" ".join(["oh"] * max(1, i % 11 - 1) + [f"n{i}"] * (i % 11 > 1)) + "?" * (i % 3) for i in range(n)))


def expected(dialogues: list[Dialogue]) -> np.ndarray:
    return np.array([by_words(d.response) for d in dialogues], float)


def reasons_of(scorer: ServerScorer, dialogues: list[Dialogue]) -> tuple[np.ndarray, list[str | None]]:
    """Scores and reasons, each sample exactly once."""
    scores, reasons, seen = np.full((len(dialogues), 2), -1.0), [None] * len(dialogues), []
    for batch in scorer.score_batches(dialogues):
        assert batch.reasons is not None
        for i, row, reason in zip(batch.indices, batch.scores, batch.reasons, strict=True):
            scores[i], reasons[i] = row, reason
            seen.append(i)
            assert np.isnan(row).all() == (reason is not None)
    assert sorted(seen) == list(range(len(dialogues))), "every sample comes once, none is lost"
    assert all(reason is None or reason in REASONS for reason in reasons)
    return scores, reasons


def status(code: int, message: str = "no", after: int = 0) -> Callable[[dict[str, Any], int], Reply]:
    count = iter(range(10_000))
    body = {"error": {"message": message}}
    return lambda request, before: conforming(request) if next(count) < after else Reply(body, code, AT_ONCE)
