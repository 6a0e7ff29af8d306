"""[`EmpathySFTTrainer`]: SFTTrainer with scores from the start, so that packed rows know their samples."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trl import SFTTrainer

from .callback import EmpathyCallback
from .loss import OnlineMixin
from .packing import pack_with_ids
from .policies.asking import Policy


if TYPE_CHECKING:
    from ..selector import EmpathyDataSelector


class EmpathySFTTrainer(OnlineMixin, SFTTrainer):
    """
    [`~trl.SFTTrainer`] whose samples are drawn and weighted by their empathy scores, packed or not.

    With packing, scores, losses and weights are those of the samples, in the order in which they are packed; a packed
    row is drawn with the mean sampling weight of its tokens' samples, and samples in it that have a sampling weight of
    0 do not count in the loss.

    Args:
        args:
            As SFTTrainer's.
        selector ([`EmpathyDataSelector`]):
            See [`EmpathyCallback`].
        policy (`str` or `Callable`, *optional*, defaults to `"sensibility"`):
            See [`EmpathyCallback`].
        online (`Mapping`, *optional*):
            The other arguments of [`EmpathyCallback`], e.g. `{"warmup": 0.1}`.
        kwargs:
            As SFTTrainer's.
    """

    def __init__(
        self,
        *args: Any,
        selector: EmpathyDataSelector,
        policy: str | Policy = "sensibility",
        online: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.add_callback(EmpathyCallback(selector, policy, trainer=self, **(online or {})))

    _empathy_prepared = False

    def _prepare_dataset(
        self, dataset: Any, processing_class: Any, args: Any, packing: bool, formatting_func: Any, dataset_name: str
    ) -> Any:
        first, self._empathy_prepared = not self._empathy_prepared, True  # the training rows are, before any others
        if not (packing and first and hasattr(dataset, "__len__") and args.max_length is not None):
            return super()._prepare_dataset(dataset, processing_class, args, packing, formatting_func, dataset_name)
        whole = copy.copy(args)
        whole.max_length = None  # packing cuts: nothing is truncated or dropped before
        rows = super()._prepare_dataset(dataset, processing_class, whole, False, formatting_func, dataset_name)
        self._empathy_samples = rows
        return pack_with_ids(rows, args)
