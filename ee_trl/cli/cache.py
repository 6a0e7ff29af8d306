"""`ee-trl cache`: what the score store holds, how large it is, and how to make it smaller."""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import StoreError, unknown
from . import common


if TYPE_CHECKING:
    from ..scoring.store import ScoreStore


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = common.new_command(
        commands,
        "cache",
        help="list, size or prune the score store",
        description="Scores are kept in one SQLite file ($EE_TRL_CACHE/scores.sqlite, by default in ~/.cache/ee_trl), "
        "so that nothing is scored twice. This lists its scorers, tells its size, or deletes from it.",
        example="ee-trl cache prune --unused-days 90",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    for name, run, help in (
        ("list", run_list, "the scorers with scores here: counts, failures, size, last use"),
        ("size", run_size, "the file and its size"),
        ("prune", run_prune, "delete scores: all of a scorer, of scorers long unused, failures, or everything"),
    ):
        action = actions.add_parser(name, help=help, description=help)
        action.add_argument("--store", metavar="FILE", help="another store than the usual one")
        common.add_json(action)
        action.set_defaults(run=run)
        if name == "prune":
            whose = action.add_mutually_exclusive_group()
            whose.add_argument("--scorer", metavar="FINGERPRINT", help="of this scorer (as `list` prints it)")
            whose.add_argument("--unused-days", type=_days, metavar="N", help="of scorers not used for N days")
            whose.add_argument("--all", action="store_true", help="everything")
            action.add_argument(
                "--failures", action="store_true", help="failures alone, so that they are tried anew (not with --all)"
            )


def run_list(args: argparse.Namespace) -> int:
    """Runs `cache list`."""
    store = _open(args.store)
    entries = store.scorers() if store else []
    if args.json:
        common.print_json([asdict(entry) for entry in entries])
    elif not entries:
        print("the score store is empty")
    for entry in [] if args.json else entries:
        failed = ", ".join(f"{n:,} {reason}" for reason, n in entry.failed.items()) or "none"
        print(
            f"{entry.fingerprint}\n  {entry.scored:,} scored, failed: {failed}; {readable(entry.size)}; "
            f"first {_day(entry.created)}, last used {_day(entry.used)}"
        )
    return 0


def run_size(args: argparse.Namespace) -> int:
    """Runs `cache size`."""
    store = _open(args.store)
    path = str(_path(args.store))
    size = store.size() if store else 0
    if args.json:
        common.print_json({"path": path, "bytes": size})
    else:
        print(f"{path}: {readable(size)}" if store else f"{path}: not there yet")
    return 0


def run_prune(args: argparse.Namespace) -> int:
    """Runs `cache prune`."""
    if not (args.all or args.scorer or args.unused_days is not None or args.failures):
        raise StoreError("prune what? Give --scorer FINGERPRINT, --unused-days N, --failures, or --all")
    if args.all and args.failures:
        raise StoreError("--all deletes everything, --failures failures alone: give one of them")
    if args.all:
        deleted, freed = _prune_all(args.store)
    else:
        store = _open(args.store)
        before = store.size() if store else 0
        known = [entry.fingerprint for entry in store.scorers()] if store else []
        if store and args.scorer is not None and args.scorer not in known:
            raise StoreError(unknown("scorer", args.scorer, known or ["(the store is empty)"]))
        options = {"fingerprint": args.scorer, "unused_days": args.unused_days, "failures": args.failures}
        deleted = store.prune(**options) if store else 0
        freed = before - (store.size() if store else 0)
    if args.json:
        common.print_json({"deleted": deleted, "freed_bytes": freed})
    else:
        print(f"deleted {'all' if deleted is None else f'{deleted:,}'} entries, freed {readable(freed)}")
    return 0


def _prune_all(given: str | None) -> tuple[int | None, int]:
    """How many entries were deleted, `None` where nobody could count them, and the bytes that this freed."""
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


def _open(path: str | None) -> ScoreStore | None:
    """The store, unless there is none: looking makes no file."""
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
    return time.strftime("%Y-%m-%d", time.localtime(when))
