"""The weighted loss of SFTTrainer: the sample of each token, the sum of a step's weights, the loss that a sample had.

A batch carries integers alone (sample ids), and the weights are looked up when the loss is computed. So a weight
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

from ..errors import SelectionError, TrainingError
from .policies.weights import Weights


ROW = "empathy_row"  # in an example: the number of its sample
IDS, DRAWN, DRAWS = "empathy_ids", "empathy_drawn", "empathy_draws"  # in a batch; the ids also in packed examples
NO_IDS = "the training batches carry no sample ids; was the trainer's data loader replaced after attaching?"


class Marks(NamedTuple):
    """Which samples a batch holds."""

    ids: torch.Tensor  # of the shape of the labels: the sample of each token
    drawn: torch.Tensor  # of shape (k,): the samples, ascending
    draws: torch.Tensor  # of shape (k,): how many times each was drawn


class NumberedRows(Dataset):
    """The rows of a `datasets.Dataset`, each with its own number; nothing is copied."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.rows[index], ROW: index}

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        rows = self.rows.__getitems__(list(indices))
        return [{**row, ROW: index} for row, index in zip(rows, indices, strict=True)]


class SampleIdCollator:
    """Adds [`Marks`] to another collator's batches, which have a row for each example or one row for all."""

    def __init__(self, collator: Callable[[list[dict[str, Any]]], Any]) -> None:
        self.collator = collator

    def __call__(self, examples: list[dict[str, Any]]) -> Any:
        """The other collator's batch, with the marks."""
        marks: list[Any] = [example.get(IDS, example.get(ROW)) for example in examples]
        plain = [{name: value for name, value in row.items() if name not in (IDS, ROW)} for row in examples]
        lengths = [len(row.get("input_ids", ())) for row in plain]  # before the collator changes a row
        batch = self.collator(plain)
        if "labels" not in batch:
            raise TrainingError("the data collator gives no labels, so there is no loss to weight")
        batch[IDS] = _spread(marks, lengths, tuple(batch["labels"].shape))
        each = [np.unique(np.asarray(mark)) for mark in marks]
        drawn, draws = np.unique(np.concatenate(each), return_counts=True)
        batch[DRAWN], batch[DRAWS] = torch.from_numpy(drawn), torch.from_numpy(draws)
        return batch


def _spread(marks: Sequence[Any], lengths: Sequence[int], shape: tuple[int, ...]) -> torch.Tensor:
    """
    Sample ids in the shape of a batch's labels: `(examples, tokens)`, or `(1, tokens)` without padding.

    An example has one mark, or one for each of its tokens. Padding gets the id of a neighbour, which counts nowhere.
    """
    single = [isinstance(mark, (int, np.integer)) for mark in marks]
    by_row = len(shape) == 2 and shape[0] == len(marks)
    if by_row and all(single):
        return torch.tensor([int(mark) for mark in marks])[:, None].expand(shape).clone()
    lines = [
        torch.full((length,), mark) if one else torch.as_tensor(mark)
        for mark, length, one in zip(marks, lengths, single, strict=True)
    ]
    if not by_row:
        lines = [torch.cat(lines)] if len(shape) == 2 and shape[0] == 1 else []
    if not lines or any(len(line) > shape[1] for line in lines):
        raise TrainingError(
            f"the data collator made labels of shape {shape} from {len(marks)} examples, and the tokens of an example "
            "cannot be told apart in them; use TRL's own collator, or one that makes each example a row"
        )
    return torch.stack([torch.cat([line, line[-1:].expand(shape[1] - len(line))]) for line in lines])


def take_marks(batch: Any) -> Marks | None:
    """Takes the marks out of a batch, and leaves the model's inputs; None if it has none."""
    if IDS not in batch:
        return None
    return Marks(batch.pop(IDS), batch.pop(DRAWN), batch.pop(DRAWS))


def loss_weights(weights: Weights) -> np.ndarray | None:
    """
    The weights of the loss, 0 for samples that are not drawn any more: a data loader may have fetched them already,
    and a packed row may hold them beside others. Raises [`SelectionError`] where all are 0.
    """
    if weights.sampling is None or weights.sampling.all():
        return weights.loss
    out = np.where(weights.sampling > 0, 1.0 if weights.loss is None else weights.loss, 0.0)
    if not out.any():
        raise SelectionError("every sample that is drawn has loss weight 0, so nothing is left to train on")
    return out


def weight_sum(batches: Iterable[Mapping[str, Any]], table: torch.Tensor, *, shifted: bool) -> torch.Tensor:
    """
    The sum of the weights (`table`, of shape `(n,)`) over all tokens of a step's batches that count in the loss.

    Where the loss is `shifted`, it predicts the next token, and the first label does not count.
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
    The power of two that brings the mean weight of `count` tokens into [1, 2).

    TRL divides by at least 1, and small weights may add up to less. The same power of two on weights and sum leaves
    their quotient as it is, without rounding.
    """
    _, exponent = torch.frexp(total / count.clamp(min=1))
    return torch.where(total > 0, torch.ldexp(torch.ones_like(total), 1 - exponent), 1)


def losses_by_sample(
    log_probs: torch.Tensor, mask: torch.Tensor, ids: torch.Tensor, drawn: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The negative log-likelihood of each of the samples `drawn` (of shape `(k,)`), and how many of its tokens counted.

    Log-probabilities, mask (whether a token counts) and ids are of the shape of a batch. The sums are made in a fixed
    order, without atomic additions, so every run gives the same numbers.
    """
    losses = -log_probs.detach()
    counts = F.pad(mask.to(torch.float32), (log_probs.size(-1) - mask.size(-1), 0))
    flat = ids.reshape(-1)
    place = torch.searchsorted(drawn, flat).clamp(max=len(drawn) - 1)
    place = torch.where(drawn[place] == flat, place, len(drawn))  # padding: last, and of no sample
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


class LossWeights:
    """The weights that a trainer's loss looks up, and what it saw of each sample."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.reset()

    def reset(self, step: int = 0) -> None:
        """Forgets everything: all weights are 1, no sample was seen."""
        self.table: torch.Tensor | None = None  # of shape (n,); None where all weights are 1: nothing is multiplied
        self.step = step  # the next or current one, counted from 0
        self._lift: torch.Tensor | None = None
        self._seen: list[torch.Tensor] = []

    def set(self, weights: np.ndarray | None) -> None:
        """Sets the weights from the next step on; call it only between steps."""
        self.table = None if weights is None else torch.as_tensor(weights, dtype=torch.float32, device=self.device)

    def normaliser(self, trainer: Any, batches: list[Any], stock: Any, *, shifted: bool) -> Any:
        """The divisor of a step's loss: the sum of its tokens' weights, instead of their number (`stock`)."""
        if self.table is None or stock is None:
            self._lift = None
            return stock
        if not all(IDS in batch for batch in batches):
            raise TrainingError(NO_IDS)
        total = weight_sum(batches, self.table, shifted=shifted)
        if trainer.args.average_tokens_across_devices and trainer.args.world_size > 1:
            total = trainer.accelerator.gather(total).sum()
        total = total / trainer.get_tp_size()
        self._lift = lift(total, torch.as_tensor(stock, device=total.device))
        return (total * self._lift).to(torch.get_default_dtype())

    def weights_of(self, ids: torch.Tensor) -> torch.Tensor | None:
        """The factors of the tokens in this step's loss."""
        if self.table is None or self._lift is None:
            return None
        return self.table[ids] * self._lift.to(torch.float32)

    def note(self, outputs: Any, marks: Marks, ids: torch.Tensor) -> None:
        """Notes the losses of the samples in a batch; nothing leaves the device."""
        sums, tokens = losses_by_sample(outputs.log_probs, outputs.label_mask, ids, marks.drawn)
        weights = torch.ones_like(sums) if self.table is None else self.table[marks.drawn]
        columns = [torch.full_like(sums, self.step), marks.drawn, marks.draws, sums, tokens, weights]
        wide = torch.float32 if sums.device.type == "mps" else torch.float64
        self._seen.append(torch.stack([column.to(wide) for column in columns], dim=1))

    def take(self) -> np.ndarray:
        """What this process saw since the last call, as observations (see [`~ee_trl.online.records`])."""
        seen, self._seen = self._seen, []
        return torch.cat(seen).cpu().numpy().astype(np.float64) if seen else np.empty((0, 6))


class WeightedModel:
    """Replaces the model in one call of the stock `compute_loss`, and weights the log-probabilities it returns."""

    def __init__(self, model: Any, weights: LossWeights, marks: Marks, inputs: Any, loss_type: str) -> None:
        self.model, self.weights, self.marks, self.loss_type = model, weights, marks, loss_type
        self.shifted = "shift_labels" not in inputs
        self.calls = 0
        self.gap: torch.Tensor | None = None  # summed weighted loss minus the outputs' summed loss

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's outputs; where it gives log-probabilities, their summed loss has the weighted gradient."""
        outputs = self.model(*args, **kwargs)
        log_probs = getattr(outputs, "log_probs", None)
        if log_probs is None:
            return outputs
        self.calls += 1
        ids = self.marks.ids[..., 1:] if self.shifted else self.marks.ids
        ids = F.pad(ids, (log_probs.size(-1) - ids.size(-1), 0))  # virtual tokens come first
        self.weights.note(outputs, self.marks, ids)
        weights = self.weights.weights_of(ids)
        if weights is None:
            return outputs
        if self.loss_type != "dft":
            return replace(outputs, log_probs=log_probs * weights)
        # DFT also takes the probability from them: their value stays, and the weights act on the gradient alone
        value = log_probs.detach()
        self.gap = (-(weights - 1) * value * value.exp()).sum()
        return replace(outputs, log_probs=value + (log_probs - value) * weights)
