"""Batches within the memory that there is: where it runs out, the budget is halved, and a single text given up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

import torch


logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Made = TypeVar("Made")


class HasBudget(Protocol):
    """What works under a budget of tokens in one forward pass."""

    token_budget: int


def within_memory(
    worker: HasBudget,
    batches: Callable[[int], Iterable[list[Item]]],
    forward: Callable[[list[Item]], tuple[dict[int, Made], int]],
    give_up: Callable[[Item], dict[int, Made]],
) -> Iterator[tuple[dict[int, Made], int]]:
    """
    Runs all batches.

    Args:
        worker ([`HasBudget`]): Its budget is halved where a batch needs more memory than there is.
        batches (`Callable`): The batches under a budget; asked again after each change.
        forward (`Callable`): Runs a batch: what it made, by the number of the sample, and the tokens that it took.
        give_up (`Callable`): Told of an item that is too large alone, after which the budget is what it was before;
            gives what stands for it, or lets `batches` give it in smaller items.

    Yields:
        `tuple`: what was made, and the tokens that it took.
    """
    done: set[int] = set()
    tokens, before = 0, None  # the budget before halvings of which none has helped yet
    while True:
        tried: list[Item] = []
        try:
            for batch in batches(worker.token_budget):
                tried = [item for item in batch if id(item) not in done]
                if not tried:
                    continue
                made, size = forward(tried)
                if before is not None:
                    logger.warning("out of memory; the token budget is halved to %d", worker.token_budget)
                    before = None
                done.update(id(item) for item in tried)
                tokens += size
                if made:
                    yield made, tokens
                    tokens = 0
            return
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not tried or not _out_of_memory(error):
                raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(tried) > 1:
            before = before or worker.token_budget
            worker.token_budget = max(1, worker.token_budget // 2)
            continue
        worker.token_budget, before = before or worker.token_budget, None
        done.add(id(tried[0]))
        made = give_up(tried[0])
        if made:
            yield made, tokens
            tokens = 0


def _out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "can't allocate memory" in text
