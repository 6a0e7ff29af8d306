"""What a checkpoint needs beside the trainer's own files: one file of tensors and plain values, which runs no code."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import TrainingError
from ..files import atomic
from . import ranks
from .loss import loss_weights
from .policies.named import name_of
from .policies.weights import Weights


logger = logging.getLogger(__name__)

STATE_FILE = "empathy_state.pt"
VERSION = 1
_ARRAY = "__array__"


def state_of(callback: Any) -> dict[str, Any]:
    """The plan, the weights, the policy's state, the scores known, and the diary of an [`EmpathyCallback`]."""
    state = getattr(callback.policy, "state_dict", None)
    return {
        "policy": name_of(callback.policy),
        "policy_state": state() if callable(state) else None,
        "plan": callback.plan.state_dict(),
        "sampling": callback.current.sampling,
        "loss": callback.current.loss,
        "scores": callback.scores,
        "diary": callback.diary.state_dict(),
        "ahead": None if callback.ahead is None else callback.ahead.state_dict(),
    }


def restore(callback: Any, state: dict[str, Any]) -> None:
    """Lets a callback go on from [`state_of`]; raises [`TrainingError`] if the state is from other data."""
    scores, now = state["scores"], callback.scores
    both = None if scores.shape != now.shape else ~(np.isnan(scores) | np.isnan(now))
    if both is None or not np.array_equal(scores[both], now[both]):
        raise TrainingError(
            f"the checkpoint is of other scores ({len(scores)} rows; {len(now)} now); resume with the data set and "
            "the scorer that it was made with"
        )
    callback.plan.load_state_dict(state["plan"])
    now[:] = np.where(np.isnan(scores), now, scores)
    callback.diary.load_state_dict(state["diary"])
    if callback.ahead is not None and state["ahead"] is not None:
        callback.ahead.load_state_dict(state["ahead"])
        now[callback.ahead.pending] = np.nan  # scores of an earlier training by the same trainer
    callback.current = Weights(state["sampling"], state["loss"])
    if callback.loss is not None:
        callback.loss.set(loss_weights(callback.current))
    if state["policy"] != name_of(callback.policy):
        logger.warning("the checkpoint has policy %r; %r takes over", state["policy"], name_of(callback.policy))
    elif state["policy_state"] is not None:
        callback.policy.load_state_dict(state["policy_state"])


def resume(callback: Any, folders: Iterable[Any], step: int) -> bool:
    """Lets a callback go on from the first of the folders that holds a state; False, with a warning, if none does."""
    names = [str(folder) for folder in folders if isinstance(folder, (str, Path))]
    found = ranks.from_the_first(lambda: next((s for s in map(read_state, names) if s is not None), None))
    if found is None:
        logger.warning(
            "no %s in %s: the checkpoint was made without a policy; the policy takes over from step %d",
            STATE_FILE, " or ".join(names), step,
        )  # fmt: skip
        return False
    restore(callback, found)
    return True


def write_state(folder: str | os.PathLike[str], state: dict[str, Any]) -> None:
    """Writes a state into a checkpoint: whole or not at all."""
    content = {"version": VERSION, "state": _plain(state)}
    with atomic(Path(folder) / STATE_FILE) as partial:
        torch.save(content, partial)


def read_state(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The state in a checkpoint; None if it was made without one."""
    path = Path(folder) / STATE_FILE
    if not path.exists():
        return None
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        found["state"]
    except (RuntimeError, EOFError, LookupError, TypeError, ValueError, pickle.UnpicklingError) as error:
        raise TrainingError(
            f"{str(path)!r} is damaged, so the policy cannot go on from this checkpoint ({error}); resume from an "
            "earlier one, or remove the file to let the policy take over as from a checkpoint without it"
        ) from error
    if found.get("version") != VERSION:
        raise TrainingError(f"{str(path)!r} is of version {found.get('version')!r}; this release reads {VERSION}")
    return _arrays(found["state"])


def _plain(value: Any) -> Any:
    """The value with arrays as tensors and numbers of numpy as Python's; raises for any other type."""
    if isinstance(value, dict):
        return {str(key) if isinstance(key, np.str_) else key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return (tuple if type(value) is tuple else list)(_plain(item) for item in value)
    if isinstance(value, np.ndarray):
        return {_ARRAY: torch.from_numpy(np.ascontiguousarray(value))}
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str, bytes, torch.Tensor)):
        return value
    raise TrainingError(
        f"a state holds a {type(value).__name__}, which a checkpoint cannot keep; a policy's state_dict may hold "
        "dicts, lists, arrays, tensors, numbers and strings"
    )


def _arrays(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {_ARRAY}:
            return value[_ARRAY].numpy()
        return {key: _arrays(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_arrays(item) for item in value)
    return value
