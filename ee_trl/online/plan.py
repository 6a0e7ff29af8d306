"""The order of the samples: one list of indices per epoch, read step by step, so that its rest can still change.

The order of an epoch is the stock sampler's own until a policy gives sampling weights. From then on the part that no
process has drawn yet is drawn by systematic sampling: of `T` draws, sample `i` of share `p_i` gets `T p_i` rounded
down or up, so that equal weights give a permutation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from torch.utils.data import DataLoader, Sampler, SequentialSampler

from ..errors import TrainingError
from .alignment import random_state_kept
from .policies.weights import tamed


def draw(weights: ArrayLike, count: int, seed: Sequence[int], *, shuffled: bool = True) -> np.ndarray:
    """
    Draws `count` indices by systematic sampling: each occurs `floor` or `ceil` of `count * weight / sum` times.

    The weights are finite, at least 0 and not all 0. The order is random, or ascending if not `shuffled`.
    """
    values = tamed(np.asarray(weights, dtype=np.float64))
    rng = np.random.default_rng([abs(int(number)) for number in seed])
    lottery = rng.permutation(len(values))  # so that neighbours in the data are drawn independently
    ends = np.cumsum(values[lottery])
    ends *= count / ends[-1]
    marks = np.arange(count) + rng.random()
    marks = np.minimum(marks, np.nextafter(ends[-1], 0))
    indices = lottery[np.searchsorted(ends, marks, side="right")]
    return rng.permutation(indices) if shuffled else np.sort(indices)


def redraw_tail(
    order: np.ndarray, start: int, weights: ArrayLike, seed: Sequence[int], *, shuffled: bool = True
) -> np.ndarray:
    """The order, with everything from position `start` on drawn again; see [`draw`]."""
    if start >= len(order):
        return order
    return np.concatenate([order[:start], draw(weights, len(order) - start, seed, shuffled=shuffled)])


def still_due(weights: ArrayLike, drawn: np.ndarray, count: int) -> np.ndarray:
    """
    How many of its `count * weight / sum` draws in an epoch each sample has left, after those `drawn` so far.

    These are weights for the rest of the epoch. Where no sample has a draw left, they are the given ones.
    """
    values = tamed(np.asarray(weights, dtype=np.float64))
    rest = np.maximum(values * (count / values.sum()) - np.bincount(drawn, minlength=len(values)), 0)
    rest[rest < 1e-9] = 0
    return rest if rest.any() else values


def put_off(order: np.ndarray, start: int, late: np.ndarray | None) -> np.ndarray:
    """
    The order of an epoch, with its open part from position `start` on in three groups.

    First come new samples, then `late` ones (of shape `(n,)`, of `bool`: their score is awaited), last repetitions:
    how often a sample should return is uncertain while few scores are known. Without `late` the order stays.
    """
    if late is None or start >= len(order):
        return order
    tail = order[start:]
    again = np.ones(len(tail), dtype=bool)
    again[np.unique(tail, return_index=True)[1]] = False
    again |= np.isin(tail, order[:start])
    group = np.where(again, 2, late[tail])
    return np.concatenate([order[:start], tail[np.argsort(group, kind="stable")]])


class SamplingPlan(Sampler[int]):
    """
    A sampler that runs through a materialised order of indices, epoch by epoch.

    The `base` is the stock sampler, whose order stays as long as there are no sampling weights, and `size` the number
    of rows. All processes must iterate the plan alike, as accelerate does before it gives each process its batches.
    """

    def __init__(self, base: Sampler[int], size: int, seed: int = 0) -> None:
        self.base, self.size, self.seed = base, size, seed
        self.shuffled = not isinstance(base, SequentialSampler)
        self.epoch = 0
        self.cursor = 0  # positions of this epoch that this process has drawn
        self.order: np.ndarray | None = None
        self.weights: np.ndarray | None = None
        self.late: np.ndarray | None = None  # of shape (size,), of bool: rows that come after all others
        self._draws = 0
        self._restored: int | None = None  # an epoch with an order that was settled before its iteration

    def __len__(self) -> int:
        return len(self.base)  # type: ignore[arg-type]

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the next iteration, in the base too."""
        self.epoch = epoch
        if hasattr(self.base, "set_epoch"):
            self.base.set_epoch(epoch)

    def open_epoch(self, epoch: int, position: int = 0) -> None:
        """Opens the next epoch, at a position, before it is iterated, so that its order can be settled."""
        self.set_epoch(epoch)
        self.cursor, self.order, self._restored = position, None, None
        if position:
            self.order, self._restored = np.fromiter(iter(self.base), dtype=np.int64), epoch
            self.set_epoch(epoch)  # iterating a base may advance its epoch

    def __iter__(self) -> Iterator[int]:
        self.cursor = 0
        if self._restored == self.epoch and self.order is not None:
            self._restored = None
        else:
            self.order = self._new_order()
        for position in range(len(self.order)):
            self.cursor = position + 1
            yield int(self.order[position])  # the order may have been drawn again meanwhile

    def _new_order(self) -> np.ndarray:
        if self.weights is None:
            return np.fromiter(iter(self.base), dtype=np.int64)
        return put_off(draw(self.weights, len(self), self._next_seed(), shuffled=self.shuffled), 0, self.late)

    def _next_seed(self) -> tuple[int, int, int]:
        self._draws += 1
        return self.seed, self.epoch, self._draws

    def update(self, weights: np.ndarray | None, start: int, *, late: np.ndarray | None = None) -> None:
        """
        Draws by other weights from now on: the rest of this epoch from `start` on, and all later epochs.

        None means the stock order (for the rest: equal weights). With `late` (see [`put_off`]) the draws before
        `start` count too, so that rows scored early do not return again and again.
        """
        if weights is not None and len(weights) != self.size:
            raise TrainingError(f"{len(weights)} sampling weights for {self.size} rows")
        self.weights = None if weights is None else np.asarray(weights, dtype=np.float64)
        self.late = late
        if self.order is None and late is not None:  # of an epoch that has not begun
            self.order, self._restored = self._new_order(), self.epoch
        elif self.order is not None and start < len(self.order):
            tail = np.ones(self.size) if weights is None else weights
            if late is not None:
                tail = still_due(tail, self.order[:start], len(self.order))
            drawn = redraw_tail(self.order, start, tail, self._next_seed(), shuffled=self.shuffled)
            self.order = put_off(drawn, start, late)

    def coming(self, start: int) -> np.ndarray:
        """Rows in the order in which they will be drawn from position `start` on, as far as that is known."""
        if self.order is not None and start < len(self.order):
            return self.order[start:]
        if self.weights is None:
            return self._stock_order(self.epoch + (self.order is not None))
        return draw(np.ones(self.size), self.size, [self.seed])

    def _stock_order(self, epoch: int) -> np.ndarray:
        """The stock sampler's order of an epoch that has not begun; a sampler without a seed of its own may differ."""
        now, generator = self.epoch, getattr(self.base, "generator", None)
        state = None if generator is None else generator.get_state()
        self.set_epoch(epoch)
        with random_state_kept():
            order = np.fromiter(iter(self.base), dtype=np.int64)
        self.set_epoch(now)
        if generator is not None:
            generator.set_state(state)
        return order

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides which samples are still to come."""
        return {
            "size": self.size,
            "length": len(self),
            "seed": self.seed,
            "epoch": self.epoch,
            "order": self.order,
            "weights": self.weights,
            "late": self.late,
            "draws": self._draws,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from [`~SamplingPlan.state_dict`]; an epoch that begins again keeps its order."""
        if (state["size"], state["length"]) != (self.size, len(self)):
            raise TrainingError(
                f"the checkpoint has a data set of {state['size']} rows and {state['length']} draws an epoch; this "
                f"one has {self.size} and {len(self)}. Resume with the data set and the batches it was made with."
            )
        self.seed, self.epoch = state["seed"], state["epoch"]
        self.order, self.weights, self._draws = state["order"], state["weights"], state["draws"]
        self.late = state["late"]
        self._restored = self.epoch if self.order is not None else None


def install_plan(dataloader: DataLoader, seed: int = 0) -> SamplingPlan:
    """Wraps the sampler of a prepared data loader (as `on_train_begin` gets it) in a [`SamplingPlan`]."""
    batches: Any = dataloader.batch_sampler
    while hasattr(batches, "batch_sampler"):
        batches = batches.batch_sampler
    base = getattr(batches, "sampler", None)
    if base is None or not hasattr(dataloader, "set_sampler"):
        raise TrainingError(
            "the training data loader has no sampler to replace: the data set is a stream, or the loader has its own "
            "batch sampler. Train on a datasets.Dataset with the trainer's own loader"
        )
    rows: Any = dataloader.dataset
    plan = SamplingPlan(base.base if isinstance(base, SamplingPlan) else base, len(rows), seed)
    dataloader.set_sampler(plan)
    return plan


class Rows:
    """What the plan draws without packing: row i is sample i. With packing, see [`PackedRows`]."""

    def mean(self, weights: np.ndarray) -> np.ndarray:
        """The sampling weight of each row."""
        return weights

    def holding(self, marked: np.ndarray) -> np.ndarray:
        """Which rows hold a marked sample."""
        return marked

    def samples_of(self, rows: np.ndarray) -> np.ndarray:
        """The samples in these rows, in their order."""
        return rows


class PackedRows(Rows):
    """What the plan draws with packing: a row holds several samples; `column` has the sample of each token."""

    def __init__(self, packed: Any, column: str) -> None:
        parts, first = [np.empty((3, 0), dtype=np.int64)], 0
        for batch in packed.select_columns([column]).with_format("arrow").iter(1_000):
            ids = batch.column(column).combine_chunks()
            row = np.repeat(first + np.arange(len(ids)), np.asarray(ids.value_lengths()))
            pairs, tokens = np.unique(np.stack([row, np.asarray(ids.flatten())]), axis=1, return_counts=True)
            parts.append(np.vstack([pairs, tokens]))
            first += len(ids)
        self.rows, self.samples, self.tokens = np.concatenate(parts, axis=1)
        self._starts = np.searchsorted(self.rows, np.arange(first + 1))

    def mean(self, weights: np.ndarray) -> np.ndarray:
        """The mean over a row's tokens of the weights of their samples."""
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
