"""The weighted loss: which sample each token is of, the sum of a step's weights, the loss that a sample had.

A batch carries integers alone (sample ids), and the weights are looked up when the loss is computed, so that a weight
counts from the moment it is set, however far ahead the data loader has run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import Dataset

from ..errors import TrainingError


ROW = "empathy_row"
"""In an example: the sample that it is."""

IDS = "empathy_ids"
"""In a packed example and in every batch: the sample of each token."""

DRAWN, DRAWS = "empathy_drawn", "empathy_draws"
"""In a batch: the samples in it, ascending, and how many times each was drawn."""


class Marks(NamedTuple):
    """
    Which samples a batch holds.

    Args:
        ids (`torch.Tensor` of the shape of the labels): The sample of each token.
        drawn (`torch.Tensor` of shape `(k,)`): The samples, ascending.
        draws (`torch.Tensor` of shape `(k,)`): How many times each was drawn.
    """

    ids: torch.Tensor
    drawn: torch.Tensor
    draws: torch.Tensor


# ---- the way of the ids --------------------------------------------------------------------------------------------


class NumberedRows(Dataset):
    """
    The rows of a data set, each with its own number; nothing is copied.

    Args:
        rows (`datasets.Dataset`): The data set.
    """

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.rows[index], ROW: index}

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        rows = [self.rows[i] for i in indices] if not hasattr(self.rows, "__getitems__") else None
        rows = self.rows.__getitems__(list(indices)) if rows is None else rows
        return [{**row, ROW: index} for row, index in zip(rows, indices, strict=True)]


class SampleIdCollator:
    """
    Collates with another collator, and adds to its batch which sample each token is of.

    Args:
        collator (`Callable`): Gives a batch with `labels`, in which an example is a row, or all are one row in a line.
    """

    def __init__(self, collator: Callable[[list[dict[str, Any]]], Any]) -> None:
        self.collator = collator

    def __call__(self, examples: list[dict[str, Any]]) -> Any:
        """The other collator's batch, and [`Marks`]."""
        marks: list[Any] = [example.get(IDS, example.get(ROW)) for example in examples]
        plain = [{name: value for name, value in row.items() if name not in (IDS, ROW)} for row in examples]
        lengths = [len(row["input_ids"]) if "input_ids" in row else 0 for row in plain]
        batch = self.collator(plain)
        if "labels" not in batch:
            raise TrainingError("the data collator gives no labels, so that there is no loss to weight")
        ids = [
            torch.as_tensor(mark)
            if isinstance(mark, (list, np.ndarray, torch.Tensor))
            else torch.full((length,), mark)
            for mark, length in zip(marks, lengths, strict=True)
        ]
        batch[IDS] = spread(ids, marks, tuple(batch["labels"].shape))
        each = [np.unique(np.asarray(mark)) for mark in marks]
        drawn, draws = np.unique(np.concatenate(each), return_counts=True)
        batch[DRAWN], batch[DRAWS] = torch.from_numpy(drawn), torch.from_numpy(draws)
        return batch


def spread(ids: Sequence[torch.Tensor], marks: Sequence[Any], shape: tuple[int, ...]) -> torch.Tensor:
    """
    Sample ids in the shape of a batch's labels; positions of padding get the id of a neighbour, and count nowhere.

    Args:
        ids (`Sequence[torch.Tensor]`): For each example the sample of each token.
        marks (`Sequence[Any]`): For each example the number of its sample, if all tokens are of one.
        shape (`tuple[int, ...]`): Of the labels: `(examples, tokens)`, or `(1, tokens)` without padding.
    """
    if len(shape) == 2 and shape[0] == len(ids):
        if all(isinstance(mark, (int, np.integer)) for mark in marks):
            return torch.tensor([int(mark) for mark in marks])[:, None].expand(shape).clone()
        lines = list(ids)
    elif len(shape) == 2 and shape[0] == 1:
        lines = [torch.cat(list(ids))]
    else:
        lines = []
    if not lines or any(len(line) > shape[1] for line in lines):
        raise TrainingError(
            f"the data collator made labels of shape {shape} of {len(ids)} examples, in which their tokens cannot be "
            "told apart; use TRL's own collator, or one that makes each example a row"
        )
    return torch.stack([torch.cat([line, line[-1:].expand(shape[1] - len(line))]) for line in lines])


def take_marks(batch: Any) -> Marks | None:
    """Takes the marks out of a batch, whose other entries are the model's; None if it has none."""
    if IDS not in batch:
        return None
    return Marks(batch.pop(IDS), batch.pop(DRAWN), batch.pop(DRAWS))


# ---- the arithmetic ------------------------------------------------------------------------------------------------


def weight_sum(batches: Iterable[Mapping[str, Any]], table: torch.Tensor, *, shifted: bool) -> torch.Tensor:
    """
    The sum of the weights over all tokens that count in the loss, of this process.

    Args:
        batches (`Iterable[Mapping]`): The micro-batches of a step, with `labels` and the ids.
        table (`torch.Tensor` of shape `(n,)`): The weight of each sample.
        shifted (`bool`): Whether the loss predicts the next token, so that the first label counts for nothing.
    """
    wide = torch.float32 if table.device.type == "mps" else torch.float64
    total = torch.zeros((), dtype=wide, device=table.device)
    for batch in batches:
        labels, ids = batch.get("shift_labels", batch["labels"]), batch[IDS]
        if "shift_labels" not in batch and shifted:
            labels, ids = labels[..., 1:], ids[..., 1:]
        weights = table[ids.to(table.device)]
        total += torch.where(labels.to(table.device) != -100, weights, 0).sum(dtype=wide)
    return total


def lift(total: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """
    The power of two that brings the mean weight of `count` tokens into [1, 2); 1 where it is in there already.

    TRL divides by at least 1, which small weights may not add up to. Weights and sum times the same power of two give
    the same quotient, without rounding.
    """
    _, exponent = torch.frexp(total / count.clamp(min=1))
    return torch.where(total > 0, torch.ldexp(torch.ones_like(total), 1 - exponent), 1)


def aligned(ids: torch.Tensor, log_probs: torch.Tensor, *, shifted: bool) -> torch.Tensor:
    """The ids at the positions of the log-probabilities: of the next token, and after any virtual tokens."""
    ids = ids[..., 1:] if shifted else ids
    missing = log_probs.size(-1) - ids.size(-1)
    return F.pad(ids, (missing, 0)) if missing else ids


def weighted(outputs: Any, weights: torch.Tensor, loss_type: str) -> Any:
    """
    The outputs of a fused LM head whose summed loss has the gradient of the weighted one.

    For `"nll"` the log-probabilities are multiplied. `"dft"` takes the probability from them too, so there they keep
    their value and the weights act on the gradient alone; [`dft_gap`] is what the loss's value then lacks.
    """
    log_probs = outputs.log_probs
    if loss_type == "dft":
        value = log_probs.detach()
        return replace(outputs, log_probs=value + (log_probs - value) * weights)
    return replace(outputs, log_probs=log_probs * weights)


def dft_gap(log_probs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The weighted DFT loss minus the unweighted one, both summed; 0 where all weights are 1."""
    log_probs = log_probs.detach()
    return (-(weights - 1) * log_probs * log_probs.exp()).sum()


def losses_by_sample(
    log_probs: torch.Tensor, mask: torch.Tensor, ids: torch.Tensor, drawn: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The loss of each sample in a batch, before weighting.

    Args:
        log_probs (`torch.Tensor`): Of each token, 0 where it does not count.
        mask (`torch.Tensor`): Whether a token counts.
        ids (`torch.Tensor`): The sample of each token.
        drawn (`torch.Tensor` of shape `(k,)`): The samples.

    Returns:
        `tuple`: for each of the `k` samples the sum of its negative log-likelihood, and how many tokens counted.
        Summed in a fixed order, without atomic additions: the same on every run.
    """
    losses, counts = -log_probs.detach(), mask.to(torch.float32)
    if mask.size(-1) != log_probs.size(-1):
        counts = F.pad(counts, (log_probs.size(-1) - mask.size(-1), 0))
    flat = ids.reshape(-1)
    place = torch.searchsorted(drawn, flat).clamp(max=len(drawn) - 1)
    place = torch.where(drawn[place] == flat, place, len(drawn))  # of padding: last, and of no sample
    place, order = torch.sort(place, stable=True)
    ends = torch.searchsorted(place, torch.arange(len(drawn), device=drawn.device), right=True)
    lengths = torch.diff(ends, prepend=ends.new_zeros(1))
    lengths = torch.cat([lengths, (len(flat) - ends[-1:])])
    sums = [_segment_sums(values.reshape(-1)[order], lengths)[:-1] for values in (losses, counts)]
    return sums[0], sums[1]


def _segment_sums(values: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The sum of each of the segments, in 64 bits where the device has them."""
    if values.device.type not in ("cpu", "cuda"):
        return _segment_sums(values.cpu(), lengths.cpu()).to(values.device)
    return torch.segment_reduce(values.double(), "sum", lengths=lengths, unsafe=True).to(values.dtype)
