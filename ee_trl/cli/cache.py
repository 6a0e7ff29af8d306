"""`ee-trl cache`: lists, sizes and prunes the score store."""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import StoreError, unknown
from . import options


def add_cache(commands: Any) -> None:
    """
    List, size or prune the score store.

    Scores are kept in one SQLite file ($EE_TRL_CACHE/scores.sqlite, by default in ~/.cache/ee_trl), so that nothing is
    scored twice. The actions list its scorers, give its size, or delete from it.
    """
    parser = options.new_command(commands, "cache", add_cache, "prune --unused-days 90")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    for name, run in (("list", run_list), ("size", run_size), ("prune", run_prune)):
        action = options.new_command(actions, name, run)
        action.add_argument("--store", metavar="FILE", help="another store than the default one")
        options.add_shared(action, "json")
    _add_prune(action)


def _add_prune(action: argparse.ArgumentParser) -> None:
    which = action.add_mutually_exclusive_group()
    which.add_argument("--scorer", metavar="FINGERPRINT", help="of this scorer (as `list` prints it)")
    which.add_argument("--unused-days", type=_days, metavar="N", help="of scorers not used for N days")
    which.add_argument("--all", action="store_true", help="everything")
    action.add_argument("--failures", action="store_true", help="only failures, to try them again (not with --all)")


def run_list(args: argparse.Namespace) -> int:
    """The scorers with stored scores: counts, failures, size, last use."""
    store = _open(args.store)
    entries = store.scorers() if store else []
    lines = []
    for entry in entries:
        failed = ", ".join(f"{n:,} {reason}" for reason, n in entry.failed.items()) or "none"
        lines.append(
            f"{entry.fingerprint}\n  {entry.scored:,} scored, failed: {failed}; {readable(entry.size)}; "
            f"first {_day(entry.created)}, last used {_day(entry.used)}"
        )
    return options.show(args, [asdict(entry) for entry in entries], "\n".join(lines) or "the score store is empty")


def run_size(args: argparse.Namespace) -> int:
    """The file and its size."""
    store, path = _open(args.store), str(_path(args.store))
    size = store.size() if store else 0
    return options.show(args, {"path": path, "bytes": size}, f"{path}: {readable(size) if store else 'not there yet'}")


def run_prune(args: argparse.Namespace) -> int:
    """Delete scores: all of a scorer, of scorers long unused, failures, or everything."""
    if not (args.all or args.scorer or args.unused_days is not None or args.failures):
        raise StoreError("say what to delete: --scorer FINGERPRINT, --unused-days N, --failures, or --all")
    if args.all and args.failures:
        raise StoreError("--all deletes everything, --failures only failures; give one of them")
    if args.all:
        deleted, freed = _prune_all(args.store)
    else:
        store = _open(args.store)
        before = store.size() if store else 0
        known = [entry.fingerprint for entry in store.scorers()] if store else []
        if store and args.scorer is not None and args.scorer not in known:
            raise StoreError(unknown("scorer", args.scorer, known or ["(the store is empty)"]))
        chosen = {"fingerprint": args.scorer, "unused_days": args.unused_days, "failures": args.failures}
        deleted = store.prune(**chosen) if store else 0
        freed = before - (store.size() if store else 0)
    text = f"deleted {'all' if deleted is None else f'{deleted:,}'} entries, freed {readable(freed)}"
    return options.show(args, {"deleted": deleted, "freed_bytes": freed}, text)


def _prune_all(given: str | None) -> tuple[int | None, int]:
    """The number of deleted entries, `None` where they could not be counted, and the freed bytes."""
    from ..scoring.store import delete_store, store_size

    path = _path(given)
    before = store_size(path)
    try:
        store = _open(given)
        deleted = store.prune() if store else 0
    except StoreError as error:  # a full disk, most likely
        if not path.exists():
            raise
        delete_store(path, error)
        deleted = None
    return deleted, before - store_size(path)


def _days(text: str) -> float:
    try:
        if 0 <= (days := float(text)) < math.inf:
            return days
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not valid; valid: a finite number of at least 0, e.g. 90")


def _open(path: str | None) -> Any:
    """The [`ScoreStore`] if there is one, else `None`; creates no file."""
    from ..scoring.store import ScoreStore

    file = _path(path)
    if path and not file.exists():
        raise StoreError(f"there is no score store {path!r}")
    return ScoreStore(file) if file.exists() else None


def _path(given: str | None) -> Path:
    from ..scoring.store import FILE_NAME, cache_folder

    return Path(given).expanduser() if given else cache_folder() / FILE_NAME


def readable(size: float) -> str:
    """Bytes in a unit that reads well."""
    for unit in ("bytes", "KiB", "MiB"):
        if abs(size) < 1024:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} GiB"


def _day(when: float) -> str:
    try:
        return time.strftime("%Y-%m-%d", time.localtime(when))
    except (TypeError, ValueError, OverflowError, OSError):  # a damaged row
        return "unknown"
