"""Stages of a long run: reused as long as their inputs stay the same; otherwise they say why they run.

The inputs of a stage are its settings and the digests of earlier stages. They name its folder: earlier settings find
their results again, and an interrupted stage goes on in its folder.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from ..files import blocks_of, digest, json_digest, read_json, write_json
from .run import differences


KEPT = ("*.safetensors", "*.parquet", "*.json", "*.jinja")
"""The files that the digest of a stage covers: weights, data, records, tokenizers."""

_LEFT_OUT = ("expert_run.json", "trainer_state.json", "composition.json")  # they hold times, paths, versions
_WHOLE = 1 << 28  # of a larger file, the digest covers its size, head and tail
_END = 1 << 20


@dataclass(frozen=True)
class Stage:
    """A finished stage: the folder with its results, and their digest."""

    name: str
    folder: Path
    digest: str


def digest_files(folder: Path) -> str:
    """`sha256:` and 16 digits over the files in a folder that [`KEPT`] names."""

    def blocks() -> Iterator[bytes]:
        for path in sorted({path for pattern in KEPT for path in folder.glob(pattern)}):
            if path.name in _LEFT_OUT:
                continue
            size = path.stat().st_size
            yield f"{path.name} {size} ".encode()
            if size <= _WHOLE:
                yield from blocks_of(path)
                continue
            with path.open("rb") as file:
                yield file.read(_END)
                file.seek(-_END, 2)
                yield file.read()

    return f"sha256:{digest(blocks(), 16)}"


class Stages:
    """The stages of a run, in one folder; the main process writes the records and prints, the others wait for it."""

    def __init__(self, folder: Path, processes: PartialState, say: Callable[[str], Any] = print) -> None:
        self.folder, self.processes, self.say = folder, processes, say
        self.done: dict[str, Stage] = {}

    def run(
        self, name: str, inputs: Mapping[str, Any], work: Callable[[Path], Any], *, together: bool = False
    ) -> Stage:
        """
        Does a stage, unless its results from the same `inputs` are there.

        `work` makes the results in a folder, which may hold files of an interrupted run. The main process calls it, or
        with `together` all processes.
        """
        main = self.processes.is_main_process
        inputs = json.loads(json.dumps(inputs, default=str))
        mark = json_digest(inputs)
        folder, record = self.folder / f"{name}-{mark}", self.folder / ".stages" / f"{name}-{mark}.json"
        latest = self.folder / ".stages" / f"{name}.json"
        why = self._why(inputs, folder, record, latest) if main else None
        if main:
            self.say(f"[{name}] {why or f'reused ({folder.name})'}")
        if main and why:
            record.unlink(missing_ok=True)
        [why] = broadcast_object_list([why])  # the main process decides
        started = time.monotonic()
        if why and (together or main):
            work(folder)
        if why and main:
            seconds = round(time.monotonic() - started, 1)
            write_json(record, {"inputs": inputs, "digest": digest_files(folder), "seconds": seconds})
            self.say(f"[{name}] done in {seconds:,.0f} s")
        while not record.exists():  # a collective would time out
            time.sleep(0.5)
        if main:
            write_json(latest, {"fingerprint": mark, "inputs": inputs})
        self.done[name] = Stage(name, folder, read_json(record)["digest"])
        return self.done[name]

    def _why(self, inputs: Mapping[str, Any], folder: Path, record: Path, latest: Path) -> str | None:
        """Why a stage must run; `None` if its results are there and whole."""
        if record.exists():
            if folder.is_dir() and digest_files(folder) == read_json(record)["digest"]:
                return None
            shutil.rmtree(folder, ignore_errors=True)
            return f"runs again, since its files in {folder.name} were changed or removed"
        changed = differences(read_json(latest)["inputs"], inputs) if latest.exists() else []
        if changed:
            return "runs, since its inputs changed:\n" + "\n".join(f"    {line}" for line in changed)
        if folder.exists():
            return f"was interrupted; goes on in {folder.name}"
        return "runs for the first time"
