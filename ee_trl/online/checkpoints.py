"""Checkpoints of a training: which of them are whole, and which of them a kill has left half written."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..files import read_json


TRAINER_STATE = "trainer_state.json"  # the trainer writes it last
_RANDOM = "rng_state_{}.pth"  # each of several processes writes its own


def fault_of(folder: str | os.PathLike[str], processes: int = 1, needed: Iterable[str] = ()) -> str | None:
    """What is missing or cut in a checkpoint of so many processes; `None` for a whole one, which has the `needed`."""
    folder = Path(folder)
    wanted = [TRAINER_STATE, *needed]
    if next(folder.glob(_RANDOM.format("*")), None):
        wanted += map(_RANDOM.format, range(processes))
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        return f"it has no {missing[0]}"
    return next((f"its {path.name} is damaged" for path in sorted(folder.iterdir()) if not _is_readable(path)), None)


def newest(
    folder: str | os.PathLike[str], processes: int = 1, needed: Iterable[str] = ()
) -> tuple[str | None, dict[Path, str]]:
    """The newest whole checkpoint in a folder, and those that are not whole, each with what it lacks."""
    found = {int(path.name.removeprefix("checkpoint-")): path for path in Path(folder).glob("checkpoint-*")
             if re.fullmatch(r"checkpoint-\d+", path.name) and path.is_dir()}  # fmt: skip
    faults = {path: fault_of(path, processes, needed) for _, path in sorted(found.items(), reverse=True)}
    whole = next((str(path) for path, fault in faults.items() if fault is None), None)
    return whole, {path: fault for path, fault in faults.items() if fault is not None}


def _is_readable(path: Path) -> bool:
    """Whether a file of a known kind has its end; the tensors in it are not read."""
    try:
        if path.suffix in (".pt", ".pth", ".bin"):
            return zipfile.is_zipfile(path)
        if path.suffix == ".safetensors":
            with safe_open(path, "np"):
                return True
        return path.suffix != ".json" or isinstance(read_json(path), (dict, list))
    except (SafetensorError, ValueError, OSError):
        return False
