"""Files that are written whole or not at all, JSON, and the digest that names content."""

from __future__ import annotations

import atexit
import errno
import glob
import json
import math
import os
import platform
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from .errors import FormatError


WRITABLE = (".parquet", ".jsonl")  # endings of the data files that this package writes
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the file system has no room for the file


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a partial file; it becomes `path` if the block succeeds, and is removed if the block fails."""
    path = Path(path)
    with _partial_of(path) as partial:
        try:
            yield partial
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | os.PathLike[str], *, overwrite: bool = True) -> Iterator[Path]:
    """
    Gives a partial folder; it replaces `path` if the block succeeds, and the old folder stays until then.

    Raises [`FormatError`] if a folder with content is there, also where another process made it meanwhile, unless
    `overwrite` allows to replace it; and for a folder that cannot be renamed.
    """
    path = Path(path).resolve()  # a link stays, and its target is replaced
    if path.is_mount() or Path.cwd().is_relative_to(path):
        raise FormatError(f"{str(path)!r} is the current folder or a mounted disk; name a folder in it")
    with _partial_of(path) as partial:
        partial.mkdir()
        try:
            yield partial
            _put_in_place(partial, path, overwrite)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _put_in_place(partial: Path, path: Path, overwrite: bool) -> None:
    replaced = partial.with_name(f"{partial.name}.replaced")
    while True:
        try:
            os.replace(partial, path)  # over an empty folder, too
            break
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if not overwrite:
                raise FormatError(f"{str(path)!r} is there already; give another folder") from error
        shutil.rmtree(replaced, ignore_errors=True)
        with suppress(FileNotFoundError):  # another process has just moved it
            os.replace(path, replaced)
    shutil.rmtree(replaced, ignore_errors=True)


@contextmanager
def _partial_of(path: Path) -> Iterator[Path]:
    """Removes the partial files of killed processes of this machine, and names a new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = f".{path.name}.partial-{platform.node()}-"
    for left in _left_by_the_dead(path.parent, kind):
        if left.name.endswith(".replaced") and not path.exists():  # the kill came between two renames
            os.replace(left, path)
        else:
            _remove(left)
    with named_when_full(path):
        yield path.with_name(f"{kind}{os.getpid()}-{secrets.token_hex(3)}")


def _left_by_the_dead(folder: Path, kind: str) -> Iterator[Path]:
    """The files and folders named `kind`, the number of a process that has ended, and more."""
    for path in sorted(folder.glob(f"{glob.escape(kind)}*")):
        number = re.match(r"\d+(?=$|[-.])", path.name.removeprefix(kind))
        if number and not psutil.pid_exists(int(number[0])):
            yield path


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def is_partial(path: Path) -> bool:
    """Whether a killed process left this file or folder half written; the next write of the same name removes it."""
    return re.fullmatch(r"\..+\.partial-.+-\d+(-[0-9a-f]+)?(\.replaced)?", path.name) is not None


def full_disk(error: BaseException | None) -> OSError | None:
    """The error of a full disk among an error and its causes, if there is one."""
    while error is not None and not (isinstance(error, OSError) and error.errno in DISK_FULL):
        error = error.__cause__ or error.__context__
    return error


@contextmanager
def named_when_full(path: str | os.PathLike[str]) -> Iterator[None]:
    """Makes a full disk an `OSError` with the file's name; the errors of Arrow and safetensors lack it."""
    try:
        yield
    except Exception as error:
        number = getattr(error, "errno", None)
        if number is None:  # safetensors has the number in its text
            number = next((number for number in DISK_FULL if f"(os error {number})" in str(error)), None)
        if number in DISK_FULL and not getattr(error, "filename", None):
            raise OSError(number, os.strerror(number), os.fspath(path)) from error
        raise


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text file atomically, in UTF-8."""
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes a JSON file atomically."""
    write_text(path, json_text(value, indent=2) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """The value of a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def json_text(value: Any, **layout: Any) -> str:
    """
    A value as JSON that every reader takes: NaN and infinity are null, what is not JSON is written as its `str`.

    Lone surrogates, and characters that would act on a terminal, are written as `\\u` and their number. `layout` goes
    to `json.dumps`.
    """
    layout |= {"ensure_ascii": False, "allow_nan": False, "default": str}
    try:
        text = json.dumps(value, **layout)
    except ValueError:  # not finite
        text = json.dumps(json_ready(value), **layout)
    return _ACTING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


_ACTING = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def json_ready(value: Any) -> Any:
    """The same value for JSON: NaN and infinity as null, NumPy's numbers as Python's, tuples as lists."""
    if isinstance(value, Mapping):
        return {str(key): json_ready(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_ready(inner) for inner in value]
    if type(value).__module__ == "numpy":
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def temporary_folder() -> Path:
    """A new folder that is removed when the process ends, or if it is killed, by [`remove_temporary_folders`]."""
    root = _temporary_root(os.getpid(), tempfile.gettempdir())
    root.mkdir(mode=0o700, exist_ok=True)  # what cleans the system's temporary folder may have removed it
    return Path(tempfile.mkdtemp(dir=root))


@cache
def _temporary_root(process: int, folder: str) -> Path:
    """The folder of all temporary folders of a process, so that a search for leftovers sees one of each."""
    remove_temporary_folders()
    root = tempfile.mkdtemp(prefix=f"{_temporary_kind()}{process}-", dir=folder)
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return Path(root)


def remove_temporary_folders() -> None:
    """Removes the folders of [`temporary_folder`] that killed processes of this machine left; every run begins so."""
    with suppress(FileNotFoundError):  # no folder can be written to, as on a full disk
        for left in _left_by_the_dead(Path(tempfile.gettempdir()), _temporary_kind()):
            _remove(left)


def _temporary_kind() -> str:
    return f"ee-trl-{platform.node()}-"


def check_output(path: str | os.PathLike[str], *, overwrite: bool, endings: tuple[str, ...] = WRITABLE) -> Path:
    """Raises [`FormatError`] unless this file can be written and its name has one of the `endings`."""
    path = Path(path)
    if path.suffix.lower() not in endings:
        raise FormatError(
            f"cannot write {str(path)!r}: its ending is {path.suffix or 'missing'}; valid: {', '.join(endings)}."
            + (" A dialogue is a nested value; a flat file such as csv cannot hold it." if endings is WRITABLE else "")
        )
    if path.is_dir():
        raise FormatError(f"{str(path)!r} is a folder; name a file in it, e.g. {str(path / f'out{endings[0]}')!r}")
    return check_free(path, overwrite=overwrite)


def check_free(path: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Raises [`FormatError`] if the path exists and may not be replaced."""
    path = Path(path)
    if path.exists() and not overwrite:
        raise FormatError(f"{str(path)!r} is there already; give another name, or --overwrite to replace it")
    return path


def digest(content: str | bytes | Iterable[bytes], digits: int = 12) -> str:
    """The first `digits` hexadecimal digits of the SHA-256 of a text, of bytes, or of blocks of bytes in order."""
    blocks = [content.encode()] if isinstance(content, str) else [content] if isinstance(content, bytes) else content
    found = sha256()
    for block in blocks:
        found.update(block)
    return found.hexdigest()[:digits]


def json_digest(value: Any, digits: int = 12) -> str:
    """[`digest`] of a value as JSON with sorted keys; values that are not JSON are written as their `str`."""
    return digest(json.dumps(value, sort_keys=True, default=str), digits)


def blocks_of(path: str | os.PathLike[str], size: int = 1 << 22) -> Iterator[bytes]:
    """The bytes of a file in blocks of at most `size` bytes, for [`digest`]."""
    with open(path, "rb") as file:
        while block := file.read(size):
            yield block


def files_digest(paths: Iterable[Path], digits: int = 16) -> str:
    """[`digest`] over the names and bytes of files, in the order given."""

    def blocks() -> Iterator[bytes]:
        for path in paths:
            yield path.name.encode()
            yield from blocks_of(path)

    return digest(blocks(), digits)


def package_versions(*names: str) -> dict[str, str]:
    """The installed version of each package, in order; packages that are not installed are left out."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
