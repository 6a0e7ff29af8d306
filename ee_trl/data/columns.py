"""Columns with few distinct names, stored as one small code a row, which takes a few bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np


if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, eq=False)
class Coded:
    """
    A column of names.

    Args:
        codes (`np.ndarray` of shape `(n,)`, of whole numbers): For each row the position of its name in `names`.
        names (`tuple[str, ...]`): Each name once.
    """

    codes: np.ndarray
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.codes)

    @classmethod
    def joined(cls, parts: Sequence[Coded]) -> Coded:
        """The parts of one [`Coder`] as one column, in as few bytes a row as its names need."""
        names = parts[-1].names
        small = np.min_scalar_type(max(len(names) - 1, 0))
        return cls(np.concatenate([part.codes.astype(small) for part in parts]), names)

    def is_(self, name: str) -> np.ndarray:
        """Which rows have this name: `bool` of shape `(n,)`."""
        return self.codes == (self.names.index(name) if name in self.names else -1)

    def counts(self) -> dict[str, int]:
        """How many rows have each name, most frequent first, without names that no row has."""
        found = zip(self.names, np.bincount(self.codes, minlength=len(self.names)).tolist(), strict=True)
        return dict(sorted(((name, n) for name, n in found if n), key=lambda item: -item[1]))

    def counts_with(self, other: Coded) -> dict[str, dict[str, int]]:
        """For each name in use, how many of its rows have each name of another column."""
        shape = (len(self.names), len(other.names))
        pairs = np.bincount(self.codes.astype(np.intp) * shape[1] + other.codes, minlength=shape[0] * shape[1])
        rows = zip(self.names, pairs.reshape(shape).tolist(), strict=True)
        return {name: dict(zip(other.names, row, strict=True)) for name, row in rows if any(row)}

    def to_array(self) -> np.ndarray:
        """The name of each row, of shape `(n,)`; the names are shared, so this takes 8 bytes a row."""
        return np.array(self.names, dtype=object)[self.codes]


class Coder:
    """
    Gives names their codes, batch by batch; a name keeps its code.

    Args:
        names (`Sequence[str]`, *optional*): Names that get the first codes even if no row has them.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._known = {name: code for code, name in enumerate(names)}

    def code(self, name: str) -> int:
        """The code of a name."""
        return self._known.setdefault(name, len(self._known))

    def codes(self, column: pa.ChunkedArray, null: str) -> np.ndarray:
        """The codes of an Arrow column; null gets the code of the name `null`."""
        names, positions = distinct(column)
        return np.array([self.code(null if name is None else name) for name in names], np.int32)[positions]

    def coded(self, codes: np.ndarray) -> Coded:
        """The names so far with the codes of some rows."""
        return Coded(codes, tuple(self._known))


def distinct(column: pa.ChunkedArray) -> tuple[list[str | None], np.ndarray]:
    """The distinct values of an Arrow column as text, and for each row the position of its value."""
    import pyarrow as pa  # not at the top: `ee-trl --help` imports this module

    try:
        encoded = column.cast(pa.string()).combine_chunks().dictionary_encode("encode")
    except pa.ArrowException:  # lists and the like
        texts = [None if value is None else str(value) for value in column.to_pylist()]
        encoded = pa.array(texts, pa.string()).dictionary_encode("encode")
    names = encoded.dictionary.cast(pa.binary()).to_pylist()  # Arrow's strings may hold bytes that are not text
    return [None if n is None else n.decode("utf-8", "replace") for n in names], encoded.indices.to_numpy()
