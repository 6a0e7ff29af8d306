"""Columns of names of which few are distinct: a code a row, so that millions of rows take a few bytes each."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    import numpy as np
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

    def is_(self, name: str) -> np.ndarray:
        """Where that name is: an array of shape `(n,)`, of `bool`."""
        return self.codes == (self.names.index(name) if name in self.names else -1)

    def counts(self) -> dict[str, int]:
        """How often each name is there, most frequent first, those that are not left out."""
        found = zip(self.names, counts(self.codes, len(self.names)), strict=True)
        return dict(sorted(((name, n) for name, n in found if n), key=lambda item: -item[1]))

    def to_array(self) -> np.ndarray:
        """The names themselves, of shape `(n,)`; each is held once, so this takes 8 bytes a row."""
        import numpy as np

        return np.array(self.names, dtype=object)[self.codes]


def counts(codes: np.ndarray, n: int, others: np.ndarray | None = None, m: int = 1) -> list[int]:
    """How often each of the codes 0 to n - 1 is there; with others of 0 to m - 1, how often each of n * m pairs."""
    import numpy as np

    total = np.zeros(n * m, np.int64)
    for start in range(0, len(codes), 1 << 20):  # a part at a time, since 64-bit numbers are made of them
        part = slice(start, start + (1 << 20))
        pairs = codes[part].astype(np.int64) * m + (0 if others is None else others[part])
        total += np.bincount(pairs, minlength=n * m)
    return total.tolist()


class Coder:
    """
    Builds a [`Coded`] column, batch by batch.

    Args:
        names (`Sequence[str]`, *optional*): Names that have the first codes, whether they are there or not.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._known = {name: code for code, name in enumerate(names)}
        self._codes = array("i")

    def code(self, name: str) -> int:
        """The code of a name, a new one where it was not known."""
        return self._known.setdefault(name, len(self._known))

    def codes(self, column: pa.ChunkedArray, null: str) -> np.ndarray:
        """The codes of an Arrow column, in which null is the name `null`."""
        import numpy as np

        names, positions = distinct(column)
        known = np.array([self.code(null if name is None else name) for name in names], np.int32)
        return known[positions]

    def append(self, codes: np.ndarray) -> None:
        """Appends codes to the column."""
        import numpy as np

        self._codes.frombytes(codes.astype(np.int32).tobytes())

    def result(self) -> Coded:
        """The column, in as few bytes a row as there are names for."""
        import numpy as np

        codes = np.frombuffer(self._codes, np.int32) if self._codes else np.empty(0, np.int32)
        return Coded(codes.astype(np.min_scalar_type(max(len(self._known) - 1, 0))), tuple(self._known))


def distinct(column: pa.ChunkedArray) -> tuple[list[str | None], np.ndarray]:
    """The distinct values of an Arrow column as text, and for each row the position of its own."""
    import pyarrow as pa

    try:
        encoded = column.cast(pa.string()).combine_chunks().dictionary_encode("encode")
    except pa.ArrowException:  # lists and the like
        texts = [None if value is None else str(value) for value in column.to_pylist()]
        encoded = pa.array(texts, pa.string()).dictionary_encode("encode")
    names = encoded.dictionary.cast(pa.binary()).to_pylist()  # Arrow's strings may hold bytes that are no text
    return [None if n is None else n.decode("utf-8", "replace") for n in names], encoded.indices.to_numpy()
