"""Scorers that tests send to another process. This module imports next to nothing, so that the process starts soon."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ee_trl.data.dialogue import Dialogue


class Odd:
    """Scores by length; prints, waits and dies as it is told, by files, since it lives in another process."""

    fingerprint = "odd-1"

    def __init__(self, folder: Path, *, dies: int = 0, seconds: float = 0.0) -> None:
        self.folder, self.dies, self.seconds = folder, dies, seconds

    def score(self, dialogues: Sequence[Dialogue]) -> np.ndarray:
        print("this is no message")
        (self.folder / "pid").write_text(str(os.getpid()))
        time.sleep(self.seconds)
        deaths = self.folder / "deaths"
        before = int(deaths.read_text()) if deaths.exists() else 0
        if before < self.dies:
            deaths.write_text(str(before + 1))
            raise RuntimeError("the scorer is odd")
        return np.array([[len(d.response) % 10, 1.0] if d.response != "?" else [np.nan] * 2 for d in dialogues])


class Lengths:
    """Sensibility by length; slow if told so, and failing on some rows or on all."""

    def __init__(self, seconds: float = 0.0, *, dies: bool = False, scores_none: bool = False) -> None:
        self.fingerprint = f"lengths-{scores_none}"
        self.seconds, self.dies, self.scores_none = seconds, dies, scores_none

    def score(self, dialogues: Sequence[Dialogue]) -> np.ndarray:
        if self.dies:
            raise RuntimeError("out of luck")
        time.sleep(self.seconds * len(dialogues))
        rows = [[len(d.response) % 10 + 0.5, 2.0] for d in dialogues]
        return np.full((len(rows), 2), np.nan) if self.scores_none else np.array(rows)
