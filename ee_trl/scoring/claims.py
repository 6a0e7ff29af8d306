"""What a process has for itself while it lives: dialogues that it asks for, and the folder that it trains in."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from itertools import islice
from pathlib import Path

from .store import cache_folder


try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

_TAKEN = (errno.EACCES, errno.EAGAIN)


@contextmanager
def claimed(store: Path, fingerprint: str, keys: Iterable[bytes], most: int) -> Iterator[set[bytes]]:
    """
    Claims for the block, and gives, the first `most` dialogues that no other process has claimed.

    A claim is a lock on one byte of an empty file in the cache folder, so it ends with its process, however that ends.
    """
    file = _file("claims")
    if file is None:
        yield set(islice(keys, most))
        return
    name = f"{store.resolve()} {fingerprint} ".encode()
    try:
        yield set(islice((key for key in keys if _lock(file, name + key)), most))
    finally:
        os.close(file)


def claim_folder(folder: Path) -> bool:
    """Claims a folder until this process ends; `False` if another process of this machine has claimed it."""
    file = _file("folders")  # stays open: to close it would end every claim in it
    return file is None or _lock(file, str(folder.resolve()).encode())


def _file(name: str) -> int | None:
    """Opens a file of locks; `None` where there is no place for it, so that two processes may do the same work."""
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        return None if fcntl is None else os.open(cache_folder() / name, os.O_WRONLY | os.O_CREAT, 0o600)
    except OSError:
        return None


def _lock(file: int, name: bytes) -> bool:
    place = int.from_bytes(blake2b(name, digest_size=7).digest(), "big")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
    except OSError as error:
        return error.errno not in _TAKEN  # a file system without locks
    return True
