"""What a scorer is: a batch of dialogues in, an `(n, 2)` array out, and a fingerprint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable


if TYPE_CHECKING:
    import numpy as np

    from ..dialogue import Dialogue


@runtime_checkable
class Scorer(Protocol):
    """
    Anything that has a `fingerprint` and can `score` dialogues; no base class is needed.

    Attributes:
        fingerprint (`str`):
            Names everything that determines the numbers: kind of scorer, weights, rubric, precision. Two scorers with
            the same fingerprint give the same scores. One line, readable, e.g. `linear-1/sha256:4f1c0a9b2d3e`.

    A scorer that has more to tell than its scores also has `details`, the names of further columns, and
    `score_with_details(dialogues)`, which gives the scores and a mapping of each name to an array of shape `(n,)`.
    """

    @property
    def fingerprint(self) -> str:
        """Names everything that determines the numbers."""
        ...

    def score(self, dialogues: Sequence[Dialogue]) -> np.ndarray:
        """
        Scores a batch.

        Args:
            dialogues (`Sequence[Dialogue]`):
                `n` dialogues, each ending in the listener's reply to be judged.

        Returns:
            `np.ndarray` of shape `(n, 2)`, floats in [0, 10]: sensibility, rationality. NaN marks a dialogue that this
            scorer could not score; it is reported as unscored. A row's numbers do not depend on its batch mates.
        """
        ...
