"""All private parts of TRL's and transformers' trainers that this package reads or overrides.

A new release of TRL is checked against this file first: its test asserts that every private name is still there.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from ..errors import TrainingError
from .checkpoints import newest
from .dialogues import ListenerTurns, text_tokenizer
from .loss import IDS, NO_IDS, LossWeights, NumberedRows, SampleIdCollator, WeightedModel, take_marks


if TYPE_CHECKING:
    from datasets import Dataset
    from trl import SFTTrainer as Stock
else:
    Stock = object

logger = logging.getLogger(__name__)

TRL_VERSIONS = ">=1.16,<2"  # the versions that this file is written for


def running_figures(trainer: Any) -> dict[str, list[float]] | None:
    """The lists of numbers whose means TRL logs next in training; None for a trainer that is not TRL's."""
    return trainer._metrics["train"] if hasattr(trainer, "_metrics") else None


def has_images(trainer: Any) -> bool:
    """Whether SFTTrainer found images in its rows."""
    return trainer._is_vision_dataset


def prepares_rows(trainer: Any) -> bool:
    """Whether SFTTrainer tokenized and cut the rows that it was given."""
    return not trainer._skip_prepare_dataset


def load_checkpoint(trainer: Any, folder: str) -> None:
    """Loads a checkpoint's weights into the trainer's model."""
    trainer._load_from_checkpoint(folder)


class OnlineMixin(Stock):
    """What an attached SFTTrainer does differently; with weights of 1 it equals the stock one to the last bit."""

    empathy_weights: LossWeights | None = None  # None until a policy is attached
    empathy_callback: Any = None  # likewise
    empathy_checkpoint: str | None = None  # the checkpoint that this training resumed from
    empathy_samples: Dataset | None = None  # with packing, the rows before they were packed
    empathy_granularity = "sample"  # with packing, what gets a number: each sample, or each listener turn
    _numbering = False
    _training_rows_prepared = False

    def _send_telemetry(self) -> None:
        """Sends nothing. SFTTrainer reports the model's architecture, the GPU and the world size to the hub."""

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As in SFTTrainer, but `True` is the newest whole checkpoint; remembers where it is."""
        found: Any = resume_from_checkpoint
        if found is True:
            found, half = newest(str(self.args.output_dir), self.args.world_size)
            for folder, fault in half.items():
                logger.warning("%s is not whole (%s): it is passed over", folder, fault)
        self.empathy_checkpoint = found or None
        return super().train(found or resume_from_checkpoint, *args, **kwargs)

    def get_train_dataloader(self) -> Any:
        """As in SFTTrainer; its batches say which samples they hold."""
        if self.empathy_callback is not None and self.empathy_callback not in self.callback_handler.callbacks:
            raise TrainingError(
                "an EmpathyCallback was made for this trainer, but is not among its callbacks; call "
                "trainer.add_callback(callback)"
            )
        collator = self.data_collator
        self.data_collator, self._numbering = SampleIdCollator(collator), True
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator, self._numbering = collator, False

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """As in SFTTrainer, with each token's log-probability times the weight of its sample while training."""
        trainer: Any = self
        marks, plain = take_marks(inputs), super().compute_loss
        if self.empathy_weights is None or not trainer.model.training:
            return plain(model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch)
        if marks is None:
            raise TrainingError(NO_IDS)
        stand_in = WeightedModel(model, self.empathy_weights, marks, inputs, trainer.args.loss_type)
        result = plain(stand_in, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch)
        if not stand_in.calls:
            raise TrainingError(
                f"{type(self).__name__}.compute_loss does not use the log-probabilities of TRL's fused LM head, on "
                "which the weights act; call super().compute_loss in it"
            )
        if stand_in.gap is None:
            return result
        gap = stand_in.gap / torch.as_tensor(num_items_in_batch).clamp(min=1)
        if self.args.average_tokens_across_devices:
            gap = gap * (self.accelerator.num_processes // self.get_tp_size())
        return (result[0] + gap, result[1]) if return_outputs else result + gap

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self.empathy_callback is not None:  # first: a checkpoint that the trainer has finished has the state, too
            self.empathy_callback.save(self.args, self.state)
        super()._save_checkpoint(model, trial)

    def _remove_unused_columns(self, dataset: Any, description: str | None = None) -> Any:
        rows = super()._remove_unused_columns(dataset, description)
        return NumberedRows(rows) if self._numbering and self.empathy_samples is None else rows

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        rows = train_dataset.rows if isinstance(train_dataset, NumberedRows) else train_dataset
        return super()._get_train_sampler(rows)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        trainer: Any = self
        if IDS not in trainer._signature_columns:
            trainer._signature_columns = [*trainer._signature_columns, IDS]

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        stock = super()._get_num_items_in_batch(batch_samples, device)
        if self.empathy_weights is None:
            return stock
        return self.empathy_weights.normaliser(self, batch_samples, stock, shifted=self._loss_shifts_labels)

    def _prepare_dataset(
        self, dataset: Any, processing_class: Any, args: Any, packing: bool, formatting_func: Any, dataset_name: str
    ) -> Any:
        training, self._training_rows_prepared = not self._training_rows_prepared, True  # first: training rows
        with_ids = packing and training and hasattr(dataset, "__len__") and args.max_length is not None
        settings = copy.copy(args)
        if with_ids:
            settings.max_length = None  # packing cuts: nothing is truncated or dropped before
        rows = super()._prepare_dataset(
            dataset, processing_class, settings, packing and not with_ids, formatting_func, dataset_name
        )
        if not with_ids:
            return rows
        if self.empathy_granularity == "turn":
            rows = number_tokens(self, rows, ListenerTurns(rows), processing_class, args)
        self.empathy_samples = rows
        return pack_with_ids(rows, args)


def hold(trainer: Any, callback: Any) -> LossWeights:
    """Gives a free SFTTrainer the methods of [`OnlineMixin`], in place, and a callback that sets its weights."""
    if not isinstance(trainer, OnlineMixin):
        own = type(trainer)
        trainer.__class__ = type(f"Empathy{own.__name__}", (OnlineMixin, own), {"__doc__": own.__doc__})
    trainer.empathy_weights, trainer.empathy_callback = LossWeights(trainer.args.device), callback
    if trainer._signature_columns is not None:
        trainer._set_signature_columns_if_needed()
    return trainer.empathy_weights


def number_tokens(trainer: Any, rows: Dataset, turns: ListenerTurns, processing_class: Any, args: Any) -> Dataset:
    """A trainer's prepared rows, with the number of its listener turn beside each token."""
    from accelerate import PartialState

    with PartialState().main_process_first():
        return turns.number_tokens(
            rows, text_tokenizer(processing_class), trainer.chat_template, args.dataset_num_proc
        )


def pack_with_ids(rows: Dataset, args: Any) -> Dataset:
    """
    Packs prepared rows as SFTTrainer does by its `SFTConfig`, with a number beside each token: the one that is there,
    or the row's.
    """
    from accelerate import PartialState
    from trl import pack_dataset

    processes, numbered = args.dataset_num_proc, IDS in rows.column_names
    rows = rows.select_columns(["input_ids", "labels", *([IDS] if numbered else [])])
    with PartialState().main_process_first():
        if not numbered:
            rows = rows.map(_number_tokens, with_indices=True, num_proc=processes, desc="Numbering samples")
        options = {"num_proc": processes, "desc": "Packing train dataset"}
        packed = pack_dataset(rows, args.max_length, args.packing_strategy, options)
        return packed.shuffle(seed=args.seed) if args.shuffle_dataset else packed


def _number_tokens(row: dict[str, Any], number: int) -> dict[str, Any]:
    return {IDS: [number] * len(row["input_ids"])}


class LoadingHook(Stock):
    """A public hook in place of Trainer's private method that reads a checkpoint's weights, for a class in front."""

    def load_weights(self, folder: str, stock: Callable[[], None]) -> None:
        """Reads the weights of a checkpoint; `stock()` reads them as Trainer does."""
        stock()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load = super()._load_from_checkpoint
        self.load_weights(resume_from_checkpoint, lambda: load(resume_from_checkpoint, model))
