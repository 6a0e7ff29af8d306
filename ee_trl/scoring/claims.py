"""What a process is about to ask a scorer for, so that another process with the same store does not ask for it too."""

from __future__ import annotations

import errno
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
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        file = None if fcntl is None else (cache_folder() / "claims").open("ab")
    except OSError:  # no place for claims: two processes may ask twice
        file = None
    if file is None:
        yield set(islice(keys, most))
        return
    name = f"{store.resolve()} {fingerprint} ".encode()
    with file:
        yield set(islice((key for key in keys if _lock(file.fileno(), name + key)), most))


def _lock(file: int, name: bytes) -> bool:
    place = int.from_bytes(blake2b(name, digest_size=7).digest(), "big")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
    except OSError as error:
        return error.errno not in _TAKEN  # a file system without locks
    return True
