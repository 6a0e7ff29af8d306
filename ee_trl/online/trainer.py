"""[`EmpathySFTTrainer`]: SFTTrainer with scores from the start, so that packed rows know their samples."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from trl import SFTTrainer, pack_dataset

from .callback import EmpathyCallback
from .loss import IDS, OnlineMixin
from .policies.named import Policy


if TYPE_CHECKING:
    from datasets import Dataset

    from ..scoring.spec import Scores


class EmpathySFTTrainer(OnlineMixin, SFTTrainer):
    """
    [`~trl.SFTTrainer`] that draws and weights its samples by their empathy scores, packed or not.

    With packing, scores, losses and weights are those of the samples, in the order in which they are packed. A packed
    row is drawn with the mean sampling weight of its tokens' samples, and samples in it that have a sampling weight of
    0 do not count in the loss.

    Args:
        args:
            As SFTTrainer's.
        selector, policy:
            See [`EmpathyCallback`].
        online (`Mapping`, *optional*):
            The other arguments of [`EmpathyCallback`], e.g. `{"warmup": 0.1}`.
        kwargs:
            As SFTTrainer's.
    """

    def __init__(
        self,
        *args: Any,
        selector: Scores,
        policy: str | Policy = "sensibility",
        online: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self._training_rows_prepared = False
        super().__init__(*args, **kwargs)
        self.add_callback(EmpathyCallback(selector, policy, trainer=self, **(online or {})))

    def prepare_rows(self, rows: Any, args: Any, packing: bool, stock: Callable[[Any, Any, bool], Any]) -> Any:
        """With packing, prepares the training rows unpacked and packs them with the numbers of their samples."""
        training, self._training_rows_prepared = (
            not self._training_rows_prepared,
            True,
        )  # SFTTrainer prepares the training rows first
        if not (packing and training and hasattr(rows, "__len__") and args.max_length is not None):
            return stock(rows, args, packing)
        whole = copy.copy(args)
        whole.max_length = None  # packing cuts: nothing is truncated or dropped before
        self.empathy_samples = stock(rows, whole, False)
        return pack_with_ids(self.empathy_samples, args)


def pack_with_ids(rows: Dataset, args: Any) -> Dataset:
    """
    Packs prepared rows as SFTTrainer does, with the number of its row beside each token.

    Args:
        rows (`Dataset`): With `input_ids` and `labels`, in the order in which they are packed.
        args (`SFTConfig`): The trainer's.
    """
    from accelerate import PartialState

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
