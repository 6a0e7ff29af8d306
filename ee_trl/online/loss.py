"""SFTTrainer with sample ids in its batches and weights in its loss: four methods around the stock ones."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import TrainingError
from . import refusals
from .weighting import (
    IDS,
    Marks,
    NumberedRows,
    SampleIdCollator,
    aligned,
    dft_gap,
    lift,
    losses_by_sample,
    take_marks,
    weight_sum,
    weighted,
)


if TYPE_CHECKING:
    from .callback import EmpathyCallback

logger = logging.getLogger(__name__)


class LossWeights:
    """
    The weights that a trainer's loss looks up, and what it saw of each sample.

    Args:
        device (`torch.device`): Where the loss is computed.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.table: torch.Tensor | None = None
        """The weight of each sample; None where all are 1 and nothing is multiplied."""
        self.step = 0
        """The step that is next, or is being taken, counted from 0."""
        self._lift: torch.Tensor | None = None
        self._seen: list[torch.Tensor] = []

    def reset(self, step: int = 0) -> None:
        """Forgets everything: all weights are 1, nothing was seen."""
        self.table, self.step, self._lift, self._seen = None, step, None, []

    def set(self, weights: np.ndarray | None) -> None:
        """Sets the weights from the next step on; to be called between steps alone."""
        self.table = None if weights is None else torch.as_tensor(weights, dtype=torch.float32, device=self.device)

    def normaliser(self, trainer: Any, batches: list[Any], stock: Any) -> Any:
        """What a step's loss is divided by: in place of the stock number of tokens the sum of their weights."""
        if self.table is None or stock is None:
            self._lift = None
            return stock
        for batch in batches:
            if IDS not in batch:
                raise TrainingError(_NO_IDS)
        total = weight_sum(batches, self.table, shifted=trainer._loss_shifts_labels)
        if trainer.args.average_tokens_across_devices and trainer.args.world_size > 1:
            total = trainer.accelerator.gather(total).sum()
        total = total / trainer.get_tp_size()
        self._lift = lift(total, torch.as_tensor(stock, device=total.device))
        return (total * self._lift).to(torch.get_default_dtype())

    def weights_of(self, ids: torch.Tensor) -> torch.Tensor | None:
        """The weights of the tokens in this step, as its loss is to be multiplied with."""
        if self.table is None or self._lift is None:
            return None
        return self.table[ids] * self._lift.to(torch.float32)

    def note(self, outputs: Any, marks: Marks, ids: torch.Tensor) -> None:
        """Takes down the losses of the samples in a batch; nothing is moved off the device."""
        sums, tokens = losses_by_sample(outputs.log_probs, outputs.label_mask, ids, marks.drawn)
        weights = torch.ones_like(sums) if self.table is None else self.table[marks.drawn]
        columns = [torch.full_like(sums, self.step), marks.drawn, marks.draws, sums, tokens, weights]
        wide = torch.float32 if sums.device.type == "mps" else torch.float64
        self._seen.append(torch.stack([column.to(wide) for column in columns], dim=1))

    def take(self) -> np.ndarray:
        """What this process saw since the last call, as observations (see [`~ee_trl.online.records`])."""
        seen, self._seen = self._seen, []
        return torch.cat(seen).cpu().numpy().astype(np.float64) if seen else np.empty((0, 6))


_NO_IDS = "the training batches carry no sample ids; was the trainer's data loader replaced after attaching?"


class _WeightedModel:
    """Stands for the model in one call of the stock `compute_loss`, and weights the log-probabilities it returns."""

    def __init__(self, model: Any, weights: LossWeights, marks: Marks, inputs: Any, loss_type: str) -> None:
        self.model, self.weights, self.marks, self.loss_type = model, weights, marks, loss_type
        self.shifted = "shift_labels" not in inputs
        self.calls = 0
        self.gap: torch.Tensor | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        outputs = self.model(*args, **kwargs)
        if getattr(outputs, "log_probs", None) is None:
            return outputs
        self.calls += 1
        ids = aligned(self.marks.ids, outputs.log_probs, shifted=self.shifted)
        self.weights.note(outputs, self.marks, ids)
        weights = self.weights.weights_of(ids)
        if weights is None:
            return outputs
        if self.loss_type == "dft":
            self.gap = dft_gap(outputs.log_probs, weights)
        return weighted(outputs, weights, self.loss_type)


class OnlineMixin:
    """What an attached SFTTrainer does differently; where all weights are 1, it is the stock one to the last bit."""

    # of SFTTrainer
    data_collator: Any
    _signature_columns: Any

    _empathy: LossWeights | None = None
    _empathy_callback: EmpathyCallback | None = None
    _empathy_numbering = False
    _empathy_checkpoint: str | None = None
    _empathy_samples: Any = None
    """With packing: the rows before they were packed."""

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As in SFTTrainer; remembers where the checkpoint is."""
        found: Any = resume_from_checkpoint
        if found is True:
            from transformers.trainer_utils import get_last_checkpoint

            found = get_last_checkpoint(self.args.output_dir)  # type: ignore[attr-defined]
        self._empathy_checkpoint = found or None
        return super().train(resume_from_checkpoint, *args, **kwargs)  # type: ignore[misc]

    def get_train_dataloader(self) -> Any:
        """As in SFTTrainer; its batches say which samples they hold."""
        if self._empathy_callback is not None and self._empathy_callback not in self.callback_handler.callbacks:  # type: ignore[attr-defined]
            raise TrainingError(
                "an EmpathyCallback was made for this trainer, but is not among its callbacks: "
                "trainer.add_callback(callback)"
            )
        collator = self.data_collator
        self.data_collator, self._empathy_numbering = SampleIdCollator(collator), True
        try:
            return super().get_train_dataloader()  # type: ignore[misc]
        finally:
            self.data_collator, self._empathy_numbering = collator, False

    def _remove_unused_columns(self, dataset: Any, description: str | None = None) -> Any:
        rows = super()._remove_unused_columns(dataset, description)  # type: ignore[misc]
        return NumberedRows(rows) if self._empathy_numbering and self._empathy_samples is None else rows

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        rows = train_dataset.rows if isinstance(train_dataset, NumberedRows) else train_dataset
        return super()._get_train_sampler(rows)  # type: ignore[misc]

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()  # type: ignore[misc]
        if IDS not in self._signature_columns:
            self._signature_columns = [*self._signature_columns, IDS]

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        stock = super()._get_num_items_in_batch(batch_samples, device)  # type: ignore[misc]
        return stock if self._empathy is None else self._empathy.normaliser(self, batch_samples, stock)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """As in SFTTrainer, with each token's log-probability times the weight of its sample while training."""
        marks = take_marks(inputs)
        plain = super().compute_loss  # type: ignore[misc]
        if self._empathy is None or not self.model.training:  # type: ignore[attr-defined]
            return plain(model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch)
        if marks is None:
            raise TrainingError(_NO_IDS)
        args = self.args  # type: ignore[attr-defined]
        stand_in = _WeightedModel(model, self._empathy, marks, inputs, args.loss_type)
        result = plain(stand_in, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch)
        if not stand_in.calls:
            raise TrainingError(
                f"{type(self).__name__}.compute_loss does not use the log-probabilities of TRL's fused LM head, which "
                "the weights act on; call super().compute_loss in it"
            )
        if stand_in.gap is None:
            return result
        scale = self.accelerator.num_processes // self.get_tp_size() if args.average_tokens_across_devices else 1  # type: ignore[attr-defined]
        gap = stand_in.gap / torch.as_tensor(num_items_in_batch).clamp(min=1) * scale
        return (result[0] + gap, result[1]) if return_outputs else result + gap


def check_free(trainer: Any) -> None:
    """Raises [`TrainingError`] where a trainer cannot be guided by scores, or is already."""
    refusals.check_trainer(trainer)
    if getattr(trainer, "_empathy", None) is not None:
        raise TrainingError("the trainer is attached to already; make another trainer for another policy")
    if getattr(trainer, "_empathy_samples", None) is None:
        refusals.check_packing(trainer)


def hold(trainer: Any, callback: EmpathyCallback) -> LossWeights:
    """
    Gives a trainer the methods of [`OnlineMixin`], in place.

    Args:
        trainer (`SFTTrainer`): That is free; it stays an instance of its own class.
        callback ([`EmpathyCallback`]): Which sets the weights.
    """
    if not isinstance(trainer, OnlineMixin):
        own = type(trainer)
        trainer.__class__ = type(f"Empathy{own.__name__}", (OnlineMixin, own), {"__doc__": own.__doc__})
    trainer._empathy, trainer._empathy_callback = LossWeights(trainer.args.device), callback
    if trainer._signature_columns is not None:
        trainer._set_signature_columns_if_needed()
    return trainer._empathy
