"""What a checkpoint needs beside the trainer's own files, to go on with the same samples at the same weights.

One file in the checkpoint's folder, of tensors and plain values alone: it is read without running anything.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import TrainingError


STATE_FILE = "empathy_state.pt"
VERSION = 1
_ARRAY = "__array__"


def write_state(folder: str | os.PathLike[str], state: dict[str, Any]) -> None:
    """Writes a state into a checkpoint: whole or not at all."""
    path = Path(folder) / STATE_FILE
    part = path.with_suffix(f".{os.getpid()}.part")
    torch.save({"version": VERSION, "state": _plain(state)}, part)
    os.replace(part, path)


def read_state(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The state in a checkpoint; None if it was made without one."""
    path = Path(folder) / STATE_FILE
    if not path.exists():
        return None
    found = torch.load(path, map_location="cpu", weights_only=True)
    if found.get("version") != VERSION:
        raise TrainingError(f"{str(path)!r} is of version {found.get('version')!r}; this release reads {VERSION}")
    return _arrays(found["state"])


def _plain(value: Any) -> Any:
    """The value with arrays as tensors and numbers of numpy as Python's; raises where a type is neither."""
    if isinstance(value, dict):
        return {str(key) if isinstance(key, np.str_) else key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return (
            type(value)(_plain(item) for item in value) if type(value) in (list, tuple) else list(map(_plain, value))
        )
    if isinstance(value, np.ndarray):
        return {_ARRAY: torch.from_numpy(np.ascontiguousarray(value))}
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str, bytes, torch.Tensor)):
        return value
    raise TrainingError(
        f"a state holds a {type(value).__name__}, which a checkpoint cannot; a policy's state_dict may hold dicts, "
        "lists, arrays, tensors, numbers and strings"
    )


def _arrays(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {_ARRAY}:
            return value[_ARRAY].numpy()
        return {key: _arrays(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_arrays(item) for item in value)
    return value
