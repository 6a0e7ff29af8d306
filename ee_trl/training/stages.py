"""Stages that are reused while nothing that determines them changed, and say why they run where something did.

A stage is known by its inputs: settings, and the digests of what earlier stages made. Its folder is named after them,
so that going back to earlier settings finds what they made, and a stage that was cut off goes on in its folder.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from ..files import write_json


KEPT = ("*.safetensors", "*.parquet", "*.json", "*.jinja")
"""What a stage's digest is of: weights, data, records, tokenizers."""

_LEFT_OUT = ("expert_run.json", "trainer_state.json", "composition.json")  # times, paths, versions
_WHOLE = 1 << 28  # larger files are known by their size, head and tail
_RECORDS = ".stages"


class Processes(Protocol):
    """What of accelerate's `PartialState` stages use."""

    is_main_process: bool


@dataclass(frozen=True)
class Stage:
    """
    A stage that is done.

    Args:
        name (`str`): Its name.
        folder (`Path`): What it made.
        digest (`str`): Of the files that it made.
        reused (`bool`): Whether it was there already.
    """

    name: str
    folder: Path
    digest: str
    reused: bool


def fingerprint(inputs: Mapping[str, Any]) -> str:
    """Twelve digits over a stage's inputs."""
    return sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()[:12]


def digest_files(folder: Path) -> str:
    """`sha256:` and 16 digits over the files of a folder that matter; see [`KEPT`]."""
    found = sha256()
    for path in sorted({path for pattern in KEPT for path in folder.glob(pattern)}):
        if path.name in _LEFT_OUT:
            continue
        found.update(f"{path.name} {path.stat().st_size} ".encode())
        with path.open("rb") as file:
            if path.stat().st_size > _WHOLE:
                found.update(file.read(1 << 20))
                file.seek(-(1 << 20), 2)
            while block := file.read(1 << 22):
                found.update(block)
    return f"sha256:{found.hexdigest()[:16]}"


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two sets of inputs, as lines."""
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return [f"{name}: {_short(old.get(name))} -> {_short(new.get(name))}" for name in names]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


class Stages:
    """
    The stages of a run, in one folder.

    Args:
        folder (`Path`): The run's.
        processes (`Processes`): Of the launch; the main one writes the records, the others wait for them.
        say (`Callable`, *optional*, defaults to `print`): What tells the user; asked of the main process alone.
    """

    def __init__(self, folder: Path, processes: Processes, say: Callable[[str], Any] = print) -> None:
        self.folder, self.processes = folder, processes
        self._say = say
        self.done: dict[str, Stage] = {}

    def run(
        self, name: str, inputs: Mapping[str, Any], work: Callable[[Path], Any], *, together: bool = False
    ) -> Stage:
        """
        Does a stage, unless it is there.

        Args:
            name (`str`): The stage's.
            inputs (`Mapping`): Everything that determines what it makes.
            work (`Callable`): Makes it, in the folder that it is given (which holds what an interrupted run left).
            together (`bool`, *optional*, defaults to `False`): Whether all processes work on it, or the main one.
        """
        inputs = json.loads(json.dumps(inputs, default=str))
        mark = fingerprint(inputs)
        folder, record = self.folder / f"{name}-{mark}", self.folder / _RECORDS / f"{name}-{mark}.json"
        why = self._why(name, inputs, folder, record) if self.processes.is_main_process else None
        if self.processes.is_main_process and why is not None:
            self.say(f"{name}: {why}")
            record.unlink(missing_ok=True)
        turn = self._take_turn(name, mark, why)
        if turn is not None:
            started = time.monotonic()
            if together or self.processes.is_main_process:
                work(folder)
            if self.processes.is_main_process:
                made = {
                    "inputs": inputs,
                    "digest": digest_files(folder),
                    "seconds": round(time.monotonic() - started, 1),
                }
                write_json(record, made)
                self.say(f"{name}: done in {made['seconds']:,.0f} s")
        elif self.processes.is_main_process:
            self.say(f"{name}: reused ({folder.name})")
        _wait_for(record)
        write_latest = self.processes.is_main_process
        if write_latest:
            write_json(self.folder / _RECORDS / f"{name}.json", {"fingerprint": mark, "inputs": inputs})
        digest = json.loads(record.read_text(encoding="utf-8"))["digest"]
        self.done[name] = Stage(name, folder, digest, reused=turn is None)
        return self.done[name]

    def say(self, text: str) -> None:
        """Tells the user, once."""
        if self.processes.is_main_process:
            self._say(f"[{text.split(':', 1)[0]}]{text.split(':', 1)[1]}")

    def _why(self, name: str, inputs: Mapping[str, Any], folder: Path, record: Path) -> str | None:
        """Why a stage must run; `None` where it is there and whole."""
        latest = self.folder / _RECORDS / f"{name}.json"
        before = json.loads(latest.read_text(encoding="utf-8"))["inputs"] if latest.exists() else None
        if record.exists():
            if folder.is_dir() and digest_files(folder) == json.loads(record.read_text(encoding="utf-8"))["digest"]:
                return None
            shutil.rmtree(folder, ignore_errors=True)
            return f"runs again, since its files in {folder.name} were changed or removed"
        changed = differences(before, inputs) if before is not None else []
        if changed:
            return "runs, since its inputs changed:\n" + "\n".join(f"    {line}" for line in changed)
        if folder.exists():
            return f"was interrupted; goes on in {folder.name}"
        return "runs for the first time"

    def _take_turn(self, name: str, mark: str, why: str | None) -> str | None:
        """The main process's decision, for all processes."""
        import torch.distributed as dist

        if not (dist.is_available() and dist.is_initialized()):
            return why
        decision = [why]
        dist.broadcast_object_list(decision, src=0)
        return decision[0]


def _wait_for(record: Path, every: float = 0.5) -> None:
    """Until the main process has written a record; no collective, whose time would run out."""
    while not record.exists():
        time.sleep(every)
