"""Exchange between the processes of one training; with one process, values stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

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


def from_the_first(make: Callable[[], Any]) -> Any:
    """Calls a function on the first process; all processes return its result, or raise its error."""
    state = PartialState()
    if state.num_processes == 1:
        return make()
    answer, told, failure = None, None, None
    if state.is_main_process:
        try:
            answer = make()
        except Exception as error:  # the other processes wait for an answer
            told, failure = f"{type(error).__name__}: {error}", error
    answer, told = broadcast_object_list([answer, told])
    if failure is not None:
        raise failure
    if told is not None:
        raise EmpathyError(f"the first process failed: {told}")
    return answer
