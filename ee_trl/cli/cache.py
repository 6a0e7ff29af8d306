"""`ee-trl cache`: what the score store holds, how large it is, and how to make it smaller."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
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
            action.add_argument("--scorer", metavar="FINGERPRINT", help="of this scorer (as `list` prints it)")
            action.add_argument("--unused-days", type=float, metavar="N", help="of scorers not used for N days")
            action.add_argument("--failures", action="store_true", help="failures alone, so that they are tried anew")
            action.add_argument("--all", action="store_true", help="everything")


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
    from ..scoring.store import FILE_NAME, cache_folder

    store = _open(args.store)
    path = str(store.path) if store else args.store or str(cache_folder() / FILE_NAME)
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
    store = _open(args.store)
    deleted, before = 0, store.size() if store else 0
    if store:
        known = [entry.fingerprint for entry in store.scorers()]
        if args.scorer is not None and args.scorer not in known:
            raise StoreError(unknown("scorer", args.scorer, known or ["(the store is empty)"]))
        deleted = store.prune(fingerprint=args.scorer, unused_days=args.unused_days, failures=args.failures)
    freed = before - (store.size() if store else 0)
    if args.json:
        common.print_json({"deleted": deleted, "freed_bytes": freed})
    else:
        print(f"deleted {deleted:,} entries, freed {readable(freed)}")
    return 0


def _open(path: str | None) -> ScoreStore | None:
    """The store, unless there is none: looking makes no file."""
    from pathlib import Path

    from ..scoring.store import FILE_NAME, ScoreStore, cache_folder

    file = Path(path).expanduser() if path else cache_folder() / FILE_NAME
    if path and not file.exists():
        raise StoreError(f"there is no score store {path!r}")
    return ScoreStore(file) if file.exists() else None


def readable(size: float) -> str:
    """Bytes in a unit that reads well."""
    for unit in ("bytes", "KiB", "MiB"):
        if abs(size) < 1024:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} GiB"


def _day(when: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(when))
