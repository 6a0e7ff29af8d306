"""Checkpoints tensor by tensor: read without loading the model, written shard by shard."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CompositionError


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_FILES = ("*.json", "*.safetensors", "*.model", "*.jinja", "*.txt")
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def resolve_folder(source: str | os.PathLike[str], revision: str | None = None) -> Path:
    """A local folder as it is; any other name is downloaded from the hub (weights, configuration, tokenizer)."""
    folder = Path(source)
    if folder.is_dir():
        return folder
    if folder.is_absolute() or str(source).startswith(".") or str(source).count("/") != 1:
        raise CompositionError(f"{str(source)!r} is neither a folder nor a name on the hub (owner/model)")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(source), revision=revision, allow_patterns=list(_FILES)))
    except (OSError, ValueError) as error:
        raise CompositionError(f"{str(source)!r} is no folder, and the hub does not give it: {error}") from error


class Checkpoint:
    """
    The tensors of a model's folder, each read when it is asked for.

    Args:
        folder (`Path`): With `model.safetensors`, or shards and their index.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if (folder / INDEX).is_file():
            self.files: dict[str, str] = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        elif (folder / SINGLE).is_file():
            from safetensors import safe_open

            with safe_open(folder / SINGLE, "pt") as file:
                self.files = dict.fromkeys(file.keys(), SINGLE)
        else:
            raise CompositionError(
                f"{str(folder)!r} holds no {SINGLE} and no {INDEX}; save the model with save_pretrained first"
            )
        self.files = {name: file for name, file in self.files.items() if not name.endswith("rotary_emb.inv_freq")}
        missing = sorted({file for file in self.files.values() if not (folder / file).is_file()})
        if missing:
            raise CompositionError(f"{str(folder)!r} is incomplete; missing: {', '.join(missing)}")

    @property
    def names(self) -> list[str]:
        """The names of its tensors."""
        return list(self.files)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, from the file's head alone."""
        from safetensors import safe_open

        with safe_open(self.folder / self.files[name], "pt") as file:
            return tuple(file.get_slice(name).get_shape())

    def read(self, name: str, dtype: torch.dtype | None = None) -> torch.Tensor:
        """A copy of a tensor, that keeps no file in memory."""
        from safetensors import safe_open

        with safe_open(self.folder / self.files[name], "pt") as file:
            tensor = file.get_tensor(name)
            return tensor.clone() if dtype is None or tensor.dtype == dtype else tensor.to(dtype)


def read_config(folder: Path) -> PreTrainedConfig:
    """A model's configuration, read without the network."""
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise CompositionError(f"{str(folder)!r} has no config.json; it is not a model's folder")
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise CompositionError(f"{str(folder)!r}: config.json cannot be read: {error}") from error


def size_of(text: str | int) -> int:
    """Bytes, from a number or a text like `"500MB"` or `"2GiB"`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?I?B?)", str(text).strip().upper())
    if not match or match[2] not in _UNITS or float(match[1]) <= 0:
        raise CompositionError(f"size {text!r} is not valid; e.g. '500MB' or '2GiB'")
    return int(float(match[1]) * _UNITS[match[2]])


class ShardWriter:
    """
    Writes tensors into shards as they come; what is in memory is one shard.

    Args:
        folder (`Path`): Where to.
        limit (`int`): Bytes in a shard at most, unless one tensor is larger.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._shard: dict[str, torch.Tensor] = {}
        self._size = 0
        self._shards: list[list[str]] = []
        self.total = 0

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """One more tensor."""
        size = tensor.numel() * tensor.element_size()
        if self._shard and self._size + size > self.limit:
            self.flush()
        self._shard[name] = tensor.contiguous()
        self._size += size
        self.total += size

    def flush(self) -> None:
        """Ends the shard."""
        from safetensors.torch import save_file

        if self._shard:
            save_file(self._shard, self.folder / f"{len(self._shards)}.part", metadata={"format": "pt"})
            self._shards.append(list(self._shard))
        self._shard, self._size = {}, 0

    def close(self) -> dict[str, str]:
        """Names the shards, writes their index and gives it: tensor -> file."""
        self.flush()
        files: dict[str, str] = {}
        for i, names in enumerate(self._shards):
            file = f"model-{i + 1:05d}-of-{len(self._shards):05d}.safetensors"
            (self.folder / f"{i}.part").rename(self.folder / file)
            files |= dict.fromkeys(names, file)
        index = {"metadata": {"total_size": self.total}, "weight_map": files}
        (self.folder / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")
        return files


def rewrite(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Replaces the shard that holds exactly these tensors."""
    from safetensors.torch import save_file

    checkpoint = Checkpoint(folder)
    [file] = {checkpoint.files[name] for name in tensors}
    assert {name for name, other in checkpoint.files.items() if other == file} == set(tensors)
    save_file(tensors, folder / f"{file}.part", metadata={"format": "pt"})
    os.replace(folder / f"{file}.part", folder / file)


def digest(folder: Path, patterns: tuple[str, ...] = ("*.safetensors",)) -> str:
    """`sha256:` and 16 digits over the names and bytes of a folder's files."""
    from hashlib import sha256

    found = sha256()
    for path in _matching(folder, patterns):
        found.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                found.update(block)
    return f"sha256:{found.hexdigest()[:16]}"


def _matching(folder: Path, patterns: tuple[str, ...]) -> Iterator[Path]:
    yield from sorted({path for pattern in patterns for path in folder.glob(pattern)})
