"""Packed rows that say which sample each of their tokens is of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .weighting import IDS


if TYPE_CHECKING:
    from datasets import Dataset


def pack_with_ids(rows: Dataset, args: Any) -> Dataset:
    """
    Packs prepared rows as SFTTrainer does, with the number of its row beside each token.

    Args:
        rows (`Dataset`): With `input_ids` and `labels`, in the order in which they are packed.
        args (`SFTConfig`): Of the trainer.
    """
    from accelerate import PartialState
    from trl import pack_dataset

    options = {"num_proc": args.dataset_num_proc}
    with PartialState().main_process_first():
        numbered = rows.select_columns(["input_ids", "labels"]).map(
            _number_tokens, with_indices=True, desc="Numbering the samples of train dataset", **options
        )
        packed = pack_dataset(
            numbered, args.max_length, args.packing_strategy, {**options, "desc": "Packing train dataset"}
        )
        return packed.shuffle(seed=args.seed) if args.shuffle_dataset else packed


def _number_tokens(row: dict[str, Any], number: int) -> dict[str, Any]:
    return {IDS: [number] * len(row["input_ids"])}


class Rows:
    """Rows that hold a sample each, by the same number: what [`TokenShares`] is where nothing is packed."""

    def mean(self, weights: np.ndarray) -> np.ndarray:
        """The sampling weight of each row."""
        return weights

    def holding(self, marked: np.ndarray) -> np.ndarray:
        """Which rows hold a marked sample."""
        return marked

    def samples_of(self, rows: np.ndarray) -> np.ndarray:
        """The samples in these rows, in their order."""
        return rows


class TokenShares(Rows):
    """
    How many tokens of each sample each packed row holds.

    Args:
        packed (`Dataset`): With the ids; read once.
        batch_rows (`int`, *optional*, defaults to `1000`): Rows read at a time. Changes no number.
    """

    def __init__(self, packed: Dataset, batch_rows: int = 1_000) -> None:
        self.rows, self.samples, self.tokens = (np.empty(0, dtype=np.int64) for _ in range(3))
        parts, first = [], 0
        for batch in packed.select_columns([IDS]).with_format("arrow").iter(batch_rows):
            column = batch.column(IDS).combine_chunks()
            row = np.repeat(first + np.arange(len(column)), np.asarray(column.value_lengths()))
            pairs = np.stack([row, np.asarray(column.flatten())])
            parts.append(np.concatenate(np.unique(pairs, axis=1, return_counts=True)[:2], axis=None).reshape(3, -1))
            first += len(column)
        if parts:
            self.rows, self.samples, self.tokens = np.concatenate(parts, axis=1)
        self._starts = np.searchsorted(self.rows, np.arange(first + 1))

    def mean(self, weights: np.ndarray) -> np.ndarray:
        """The mean over a row's tokens of their samples' weights."""
        total = np.bincount(self.rows, self.tokens * weights[self.samples])
        return total / np.bincount(self.rows, self.tokens)

    def holding(self, marked: np.ndarray) -> np.ndarray:
        """Which rows hold a token of a marked sample."""
        return np.bincount(self.rows, marked[self.samples]) > 0

    def samples_of(self, rows: np.ndarray) -> np.ndarray:
        """The samples with a token in these rows, row by row, each as often as it is in one."""
        counts = np.diff(self._starts)[rows]
        first = np.repeat(self._starts[rows] - np.cumsum(counts) + counts, counts)
        return self.samples[first + np.arange(len(first))]
