"""Several processes of one launch (`torchrun`, `accelerate launch`) on one machine: each scores its share."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from zlib import crc32

from ..data.dialogue import Dialogue
from ..errors import ScorerError


if TYPE_CHECKING:
    from .coverage import Coverage
    from .run import ScoringRun

_PATIENCE = timedelta(days=7)  # shares can take different times; no collective may give up on a slow one


@dataclass(frozen=True)
class Launch:
    """
    The place of this process among those that were launched together.

    Args:
        rank (`int`): Its number, from 0.
        count (`int`): How many there are; 1 without a launcher.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def from_environment(cls) -> Launch:
        """
        What the launcher says (`RANK`, `WORLD_SIZE`).

        Raises:
            [`ScorerError`]: The processes are on several machines, which cannot share one store.
        """
        names = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
        rank, count = int(os.environ.get(names[0], 0)), int(os.environ.get(names[1], 1))
        if int(os.environ.get(names[2], count)) != count:
            raise ScorerError(
                f"{count} processes on several machines cannot share one score store; start one machine's processes "
                "alone, or score with --engine ray"
            )
        return cls(rank, count)

    def owns(self, dialogue: Dialogue) -> bool:
        """Whether a dialogue is of this process' share: told by its first utterance, so that the turns of one
        conversation, and repetitions, go to one process."""
        first = dialogue.context[0] if dialogue.context else dialogue.response
        return crc32(first.encode("utf-8", "surrogatepass")) % self.count == self.rank

    def gather(self, value: Any) -> list[Any]:
        """Everyone's value, by rank; waits until all have got here."""
        if self.count == 1:
            return [value]
        import torch.distributed as dist

        group = None
        if dist.is_initialized():  # by a trainer, with a time-out of its own
            group = dist.new_group(backend="gloo", timeout=_PATIENCE)
        else:
            dist.init_process_group("gloo", timeout=_PATIENCE)
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, value, group=group)
        return found


def fill_share(run: ScoringRun, batches: Iterable[list[Dialogue]], launch: Launch) -> Coverage:
    """
    Scores this process' share of the dialogues into the store, and waits for the others.

    Returns:
        [`Coverage`]: the work of all processes together.
    """
    for dialogues in batches:
        run.fill([dialogue for dialogue in dialogues if launch.owns(dialogue)])
    others = launch.gather(run.coverage)
    return run.coverage.merged([c for rank, c in enumerate(others) if rank != launch.rank])
