"""The private parts of TRL's and transformers' trainers that this package touches, all in this one file.

A new release of TRL is checked against this file first: its test asserts that every private name is still there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any


TRL_VERSIONS = ">=1.16,<2"
"""The releases of TRL that this file is written for."""


# ---- what is read --------------------------------------------------------------------------------------------------


def running_figures(trainer: Any) -> dict[str, list[float]] | None:
    """The lists whose means go out with the next training log of TRL; None for a trainer that is not TRL's."""
    return trainer._metrics["train"] if hasattr(trainer, "_metrics") else None


def has_images(trainer: Any) -> bool:
    """Whether SFTTrainer found images in its rows."""
    return trainer._is_vision_dataset


def prepares_rows(trainer: Any) -> bool:
    """Whether SFTTrainer tokenized and cut the rows that it was given."""
    return not trainer._skip_prepare_dataset


def shifts_labels(trainer: Any) -> bool:
    """Whether the loss predicts the next token, so that the first label of a row does not count."""
    return trainer._loss_shifts_labels


def load_checkpoint(trainer: Any, folder: str) -> None:
    """Loads a checkpoint's weights into the trainer's model."""
    trainer._load_from_checkpoint(folder)


# ---- what is overridden --------------------------------------------------------------------------------------------


class RowHooks:
    """Public hooks in place of SFTTrainer's private methods for rows and batches, for a class in front of it."""

    kept_columns: tuple[str, ...] = ()
    """Columns of the rows that reach the collator beside the model's inputs."""
    _signature_columns: Any

    def keep_columns(self) -> None:
        """Lets `kept_columns` count where the trainer has settled its columns already."""
        if self._signature_columns is not None:
            self._set_signature_columns_if_needed()

    def loader_rows(self, rows: Any) -> Any:
        """What the training data loader reads, of rows without their unused columns."""
        return rows

    def sampler_rows(self, rows: Any) -> Any:
        """What the stock sampler is made for, of what the loader reads."""
        return rows

    def loss_divisor(self, batches: list[Any], stock: Any) -> Any:
        """What a step's loss is divided by; `stock` is the number of its tokens."""
        return stock

    def prepare_rows(self, rows: Any, args: Any, packing: bool, stock: Callable[[Any, Any, bool], Any]) -> Any:
        """Rows ready for training; `stock(rows, args, packing)` prepares them as SFTTrainer does."""
        return stock(rows, args, packing)

    def _remove_unused_columns(self, dataset: Any, description: str | None = None) -> Any:
        return self.loader_rows(super()._remove_unused_columns(dataset, description))  # type: ignore[misc]

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return super()._get_train_sampler(self.sampler_rows(train_dataset))  # type: ignore[misc]

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()  # type: ignore[misc]
        columns: list[str] = self._signature_columns or []
        self._signature_columns = [*columns, *(name for name in self.kept_columns if name not in columns)]

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> Any:
        return self.loss_divisor(batch_samples, super()._get_num_items_in_batch(batch_samples, device))  # type: ignore[misc]

    def _prepare_dataset(
        self, dataset: Any, processing_class: Any, args: Any, packing: bool, formatting_func: Any, dataset_name: str
    ) -> Any:
        prepare = super()._prepare_dataset  # type: ignore[misc]
        return self.prepare_rows(
            dataset,
            args,
            packing,
            lambda rows, args, packing: prepare(rows, processing_class, args, packing, formatting_func, dataset_name),
        )


class WeightHooks:
    """Public hooks in place of Trainer's private methods that write and read weights, for a class in front of it."""

    args: Any
    in_checkpoint = False
    """Whether weights are being written into a checkpoint, not to where the user saves the model."""

    def save_weights(self, folder: Path, stock: Callable[[], None]) -> None:
        """Writes the model; `stock()` writes it as Trainer does."""
        stock()

    def load_weights(self, folder: Path, stock: Callable[[], None]) -> None:
        """Reads the model of a checkpoint; `stock()` reads it as Trainer does."""
        stock()

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.in_checkpoint = True
        try:
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
        finally:
            self.in_checkpoint = False

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        save = super()._save  # type: ignore[misc]
        self.save_weights(Path(output_dir or self.args.output_dir), lambda: save(output_dir, state_dict))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load = super()._load_from_checkpoint  # type: ignore[misc]
        self.load_weights(Path(resume_from_checkpoint), lambda: load(resume_from_checkpoint, model))
