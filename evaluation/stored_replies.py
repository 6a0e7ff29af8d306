"""Replies kept in a file as they are made, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any


class StoredReplies:
    """
    The replies of one model under one way of decoding, in a JSON-lines file whose name and first line say which.

    Args:
        folder (`Path`): Where such files are.
        name (`str`): The model's.
        made_by (`dict`): Everything that determines a reply but its prompt: the model's content, the decoding.
    """

    def __init__(self, folder: Path, name: str, made_by: dict[str, Any]) -> None:
        text = json.dumps(made_by, sort_keys=True)
        short = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:60] or "model"
        self.path = folder / f"{short}-{sha256(text.encode()).hexdigest()[:12]}.jsonl"
        self.made_by = made_by
        self._known = self._read()

    def find(self, keys: Sequence[str]) -> list[str | None]:
        """The reply to each prompt, by its key, `None` where there is none yet."""
        return [self._known.get(key) for key in keys]

    def add(self, keys: Sequence[str], replies: Sequence[str]) -> None:
        """Keeps a batch of replies; they are on the disk when this returns."""
        new = dict(zip(keys, replies, strict=True))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = [] if self.path.exists() else [json.dumps({"made_by": self.made_by})]
        lines += [json.dumps({"key": key, "reply": reply}) for key, reply in new.items()]
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(line + "\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())
        self._known |= new

    def _read(self) -> dict[str, str]:
        """What the file holds; a line that a killed run left half written is dropped from it."""
        if not self.path.exists():
            return {}
        whole = self.path.read_bytes()
        end = whole.rfind(b"\n") + 1
        if end < len(whole):
            os.truncate(self.path, end)
        if not end:
            self.path.unlink()
            return {}
        rows = [json.loads(line) for line in whole[:end].decode("utf-8").splitlines()[1:]]
        return {row["key"]: row["reply"] for row in rows}


def prompt_keys(prompts: Sequence[Any]) -> list[str]:
    """Names each prompt's content; the second prompt of the same content has a key of its own, and so on."""
    seen: Counter[str] = Counter()
    keys = []
    for prompt in prompts:
        content = sha256(json.dumps(prompt, sort_keys=True).encode()).hexdigest()[:24]
        seen[content] += 1
        keys.append(f"{content}-{seen[content]}")
    return keys
