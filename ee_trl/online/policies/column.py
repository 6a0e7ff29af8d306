"""A policy whose weights are in the data set: a column of numbers, whatever made them."""

from __future__ import annotations

from dataclasses import dataclass, field
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from ...errors import SelectionError
from .score import WEIGH, ScorePolicy
from .weights import Weights, check_weights, one_of


@dataclass(kw_only=True, eq=False)
class Column(ScorePolicy):
    """
    Weights from a column of the data set. Nothing is scored; scores that the rows have are in the figures.

        w_i = the number in the column

    Args:
        column (`str`): The name of the column, e.g. `"weight"`. Its numbers are finite and at least 0; 0 leaves a
            sample out.
        weigh (`str`, *optional*, defaults to `"loss"`): What the weights act on: the loss, or `"sampling"`.
    """

    column: str = ""
    weigh: str = one_of("loss", WEIGH)
    unscored: str = field(default="drop", init=False)
    needs_scores: ClassVar[bool] = False
    _values: np.ndarray | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.column, str) or not self.column:
            raise SelectionError("policy 'column' needs the name of a column: policy='column', column='weight'")

    def bind(self, rows: Any) -> None:
        """Reads the weights from the rows (`rows.column(name)`); raises [`SelectionError`] for a wrong value."""
        values = rows.column(self.column)
        wrong = [i for i, value in enumerate(values) if not _is_weight(value)]
        if wrong:
            raise SelectionError(
                f"{len(wrong)} of {len(values)} values in column {self.column!r} are not finite numbers of at least "
                f"0; the first is {values[wrong[0]]!r} of sample {wrong[0]}. A weight of 0 leaves a sample out"
            )
        self._values = check_weights(values, len(values), f"weights in column {self.column!r}")

    def __call__(self, scores: ArrayLike, losses: ArrayLike, progress: float) -> Weights:
        """The column, as it is."""
        if self._values is None:
            raise SelectionError("policy 'column' has not read its data set; attach it to a trainer")
        return Weights(None, self._values) if self.needs_weights else Weights(self._values)


def _is_weight(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 <= float(value) < float("inf")
