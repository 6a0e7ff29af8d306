"""What the processes of one training agree on. With one process each function is the identity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather, gather_object

from ..errors import EmpathyError


def place() -> tuple[int, int]:
    """The number of this process, and how many there are."""
    state = PartialState()
    return state.process_index, state.num_processes


def share(count: int) -> slice:
    """The contiguous part of `count` rows that this process takes."""
    rank, processes = place()
    bounds = np.linspace(0, count, processes + 1).astype(int)
    return slice(int(bounds[rank]), int(bounds[rank + 1]))


def every(value: Any) -> list[Any]:
    """The value of each process, in the order of the processes, on all of them."""
    return gather_object([value]) if PartialState().num_processes > 1 else [value]


def greatest(value: int) -> int:
    """The greatest of a number that may differ between the processes."""
    state = PartialState()
    if state.num_processes == 1:
        return value
    return int(gather(torch.tensor([value], device=state.device)).max())


def from_the_first(make: Callable[[], Any]) -> Any:
    """
    What a function gives on the first process, on all of them; what it raises there is raised on all of them.

    Args:
        make (`Callable`): Called on the first process alone, so that it may be random or keep a state.
    """
    state = PartialState()
    if state.num_processes == 1:
        return make()
    box: list[Any] = [None, None]
    failure: Exception | None = None
    if state.is_main_process:
        try:
            box = [make(), None]
        except Exception as error:  # the other processes wait for an answer
            failure, box = error, [None, f"{type(error).__name__}: {error}"]
    box = broadcast_object_list(box)
    if failure is not None:
        raise failure
    if box[1] is not None:
        raise EmpathyError(f"the first process failed: {box[1]}")
    return box[0]
