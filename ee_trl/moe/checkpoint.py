"""Checkpoints tensor by tensor: read without loading the model, written shard by shard."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import AutoConfig, PreTrainedConfig

from ..errors import CompositionError
from ..files import files_digest, read_json, write_json
from .families import TARGETS, mirror_rope


CONFIG = "config.json"
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
    try:
        return Path(snapshot_download(str(source), revision=revision, allow_patterns=list(_FILES)))
    except (OSError, ValueError) as error:
        raise CompositionError(f"{str(source)!r} is not a folder, and the hub download failed: {error}") from error


class Checkpoint:
    """The tensors of a folder with `model.safetensors` or shards and their index, each read on demand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / INDEX).is_file() and not (folder / SINGLE).is_file():
            raise CompositionError(
                f"{str(folder)!r} holds no {SINGLE} and no {INDEX}; save the model with save_pretrained first"
            )
        try:
            if (folder / INDEX).is_file():
                found: dict[str, str] = dict(read_json(folder / INDEX)["weight_map"])
            else:
                with safe_open(folder / SINGLE, "pt") as file:
                    found = dict.fromkeys(file.keys(), SINGLE)
            files = {name: Path(file).name for name, file in found.items()}  # of this folder alone
        except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CompositionError(f"the weights in {str(folder)!r} are damaged or cut short: {error}") from error
        self.files = {name: file for name, file in files.items() if not name.endswith("rotary_emb.inv_freq")}
        missing = sorted({file for file in self.files.values() if not (folder / file).is_file()})
        if missing:
            raise CompositionError(f"{str(folder)!r} is incomplete; missing: {', '.join(missing)}")

    @property
    def names(self) -> list[str]:
        """The names of its tensors."""
        return list(self.files)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, from the head of its file."""
        with safe_open(self.folder / self.files[name], "pt") as file:
            return tuple(file.get_slice(name).get_shape())

    def read(self, name: str, dtype: torch.dtype | None = None) -> torch.Tensor:
        """A copy of a tensor, which keeps no file in memory."""
        with safe_open(self.folder / self.files[name], "pt") as file:
            tensor = file.get_tensor(name)
            return tensor.clone() if dtype is None or tensor.dtype == dtype else tensor.to(dtype)


def read_config(folder: Path) -> PreTrainedConfig:
    """A model's configuration, read without the network."""
    if not (folder / CONFIG).is_file():
        raise CompositionError(f"{str(folder)!r} has no {CONFIG}, so it is not the folder of a model")
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # a damaged folder can raise anything
        raise CompositionError(f"{str(folder)!r}: {CONFIG} cannot be read: {error}") from error


def digest(folder: Path, patterns: tuple[str, ...] = ("*.safetensors",)) -> str:
    """`sha256:` and 16 digits over the names and bytes of a folder's files."""
    return f"sha256:{files_digest(sorted({path for pattern in patterns for path in folder.glob(pattern)}))}"


def size_of(text: str | int) -> int:
    """Bytes, from a number or a text such as `"500MB"` or `"2GiB"`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?I?B?)", str(text).strip().upper())
    if not match or match[2] not in _UNITS or float(match[1]) <= 0:
        raise CompositionError(f"size {text!r} is not valid; e.g. '500MB' or '2GiB'")
    return int(float(match[1]) * _UNITS[match[2]])


class ShardWriter:
    """Writes tensors into shards of at most `limit` bytes (or one larger tensor), and keeps one shard in memory."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._shard: dict[str, torch.Tensor] = {}
        self._shards: list[list[str]] = []
        self._size = self._total = 0

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Adds a tensor, and first writes the shard if it is full."""
        if self._shard and self._size + tensor.nbytes > self.limit:
            self.flush()
        self._shard[name] = tensor.contiguous()
        self._size += tensor.nbytes
        self._total += tensor.nbytes

    def flush(self) -> None:
        """Writes the shard."""
        if self._shard:
            save_file(self._shard, self.folder / f"{len(self._shards)}.part", metadata={"format": "pt"})
            self._shards.append(list(self._shard))
        self._shard, self._size = {}, 0

    def close(self) -> None:
        """Names the shards and writes their index."""
        self.flush()
        files: dict[str, str] = {}
        for i, names in enumerate(self._shards):
            file = f"model-{i + 1:05d}-of-{len(self._shards):05d}.safetensors"
            (self.folder / f"{i}.part").rename(self.folder / file)
            files |= dict.fromkeys(names, file)
        write_json(self.folder / INDEX, {"metadata": {"total_size": self._total}, "weight_map": files})


def rewrite(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Replaces the shard that holds exactly these tensors."""
    files = Checkpoint(folder).files
    [file] = {files[name] for name in tensors}
    assert {name for name, other in files.items() if other == file} == set(tensors)
    save_file(tensors, folder / f"{file}.part", metadata={"format": "pt"})
    os.replace(folder / f"{file}.part", folder / file)


def write_config(folder: Path, config: PreTrainedConfig, dtype: torch.dtype) -> None:
    """Writes a `config.json` that transformers 4 and 5 and vLLM read alike."""
    content = json.loads(config.to_json_string(use_diff=False))
    if config.model_type in TARGETS:
        content["architectures"] = [TARGETS[config.model_type].architecture]
    content["dtype"] = str(dtype).removeprefix("torch.")
    content.pop("_name_or_path", None)  # where the base lies on this machine
    write_json(folder / CONFIG, mirror_rope(content))
