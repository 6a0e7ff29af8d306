"""The score store: every score goes to disk at once, under the dialogue's content and the scorer's fingerprint.

One SQLite file. Saved scores survive a killed process, several processes may write at once, and a second run asks only
for what is missing. Failures are kept with their reason, so that they can be looked at and retried.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import sqlite3
import struct
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from hashlib import blake2b
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from ..axes import FLAG, FLAGS, MAX_SCORE, MIN_SCORE
from ..data.dialogue import REASONS, SCORED, Dialogue
from ..errors import StoreError
from ..files import temporary_folder


logger = logging.getLogger(__name__)

CACHE_VARIABLE = "EE_TRL_CACHE"
FILE_NAME = "scores.sqlite"

_VERSION = 1  # of the tables below
_TABLES = """
CREATE TABLE scorers (
    id INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL UNIQUE, details TEXT NOT NULL, created REAL NOT NULL,
    used REAL NOT NULL
);
CREATE TABLE scores (
    scorer INTEGER NOT NULL REFERENCES scorers(id), dialogue BLOB NOT NULL, status TEXT NOT NULL, sensibility REAL,
    rationality REAL, details BLOB, made REAL NOT NULL, PRIMARY KEY (scorer, dialogue)
) WITHOUT ROWID;
"""
_AT_ONCE = 500  # keys in one query
_PATIENCE = 60.0  # seconds to wait for another process that is writing
_TOUCH_EVERY = 3_600.0  # seconds after which a scorer's use is noted again
_REFUSED = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)


def cache_folder() -> Path:
    """Where the store is by default: `$EE_TRL_CACHE`, or `ee_trl` in `$XDG_CACHE_HOME` (by default `~/.cache`)."""
    beside = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "ee_trl"
    return Path(os.environ.get(CACHE_VARIABLE) or beside).expanduser()


def dialogue_key(dialogue: Dialogue) -> bytes:
    """16 bytes that name a dialogue's content: roles, texts, reply and system message."""
    content = json.dumps([dialogue.system, dialogue.roles, dialogue.context, dialogue.response])
    return blake2b(content.encode("ascii"), digest_size=16).digest()


class StoredScore(NamedTuple):
    """What is known of one dialogue; the scores are `None` where it is unscored."""

    status: str  # "scored", or the reason why there is no score
    sensibility: float | None = None
    rationality: float | None = None
    details: Mapping[str, float] = {}  # further columns of the scorer, NaN for null


@dataclass(frozen=True)
class StoredScorer:
    """A scorer with scores in the store: counts, bytes (about), first and last use (Unix time)."""

    fingerprint: str
    scored: int
    failed: dict[str, int]
    size: int
    created: float
    used: float


class ScoreStore:
    """
    Scores on disk.

    Args:
        path (`str` or `os.PathLike`, *optional*):
            The SQLite file, by default `scores.sqlite` in [`cache_folder`]. If it is not there, it is made, for its
            owner alone to read (mode 0600).

    `read_only` is whether the file can be read, but not written to.

    Raises:
        [`StoreError`]: The file is not a store of this version, or there is none and it cannot be made.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = Path(path).expanduser() if path is not None else cache_folder() / FILE_NAME
        self._warned = False
        self._owner = 0  # the process that has the lock and the connection
        self._touched: dict[str, float] = {}
        with self._errors():
            self.read_only = self.path.is_file() and not os.access(self.path, os.W_OK)
            try:
                version = 0 if self.read_only else self._made()
            except sqlite3.OperationalError as error:
                self.read_only = self.path.is_file() and error.sqlite_errorcode & 0xFF in _REFUSED
                if not self.read_only:
                    raise
                self.close()
            if self.read_only:
                with self._locked():
                    version = int(self._db.execute("PRAGMA user_version").fetchone()[0])
        if version not in (0, _VERSION):
            raise StoreError(
                f"{str(self.path)!r} is a score store of version {version}, this ee-trl writes version {_VERSION}; "
                f"give another with --store (or ${CACHE_VARIABLE}), or move it away"
            )

    def _made(self) -> int:
        """Makes the file and its tables where there are none; returns the version of what was there."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite gives its side files the same mode
        with self._writing() as db:
            version = int(db.execute("PRAGMA user_version").fetchone()[0])
            if version == 0:
                for statement in _TABLES.split(";\n"):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {_VERSION}")
        return version

    def check_writable(self) -> None:
        """Raises [`StoreError`] if new scores could not be saved."""
        with self._errors(), self._writing():
            pass

    def find(self, fingerprint: str, keys: Iterable[bytes]) -> dict[bytes, StoredScore]:
        """What the store knows of dialogues under a scorer's fingerprint, by key."""
        keys = list(dict.fromkeys(keys))
        found: dict[bytes, StoredScore] = {}
        with self._errors():
            self._touch(fingerprint)
            for start in range(0, len(keys), _AT_ONCE):
                part = keys[start : start + _AT_ONCE]
                rows = self._rows(fingerprint, f" AND dialogue IN ({','.join('?' * len(part))})", part)
                found |= {key: stored for key, stored in rows if stored is not None}
        return found

    def scores_of(self, fingerprint: str) -> Iterator[StoredScore]:
        """Everything that the store knows under a scorer's fingerprint, failures included."""
        last = b""
        with self._errors():
            self._touch(fingerprint)
            while rows := self._rows(fingerprint, " AND dialogue > ? ORDER BY dialogue LIMIT ?", (last, _AT_ONCE)):
                last = rows[-1][0]
                yield from (stored for _, stored in rows if stored is not None)

    def save(self, fingerprint: str, scores: Mapping[bytes, StoredScore]) -> None:
        """Writes scores in one transaction: all of them or none. A score is never replaced by a failure."""
        if not scores:
            return
        names = sorted({name for stored in scores.values() for name in stored.details})
        now = time.time()
        with self._errors(), self._writing() as db:
            number, known = self._added_scorer(db, fingerprint, names, now)
            db.executemany(
                "INSERT INTO scores VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET status = excluded.status, "
                "sensibility = excluded.sensibility, rationality = excluded.rationality, details = excluded.details, "
                f"made = excluded.made WHERE scores.status != '{SCORED}' OR excluded.status = '{SCORED}'",
                [
                    (number, key, s.status, s.sensibility, s.rationality, _packed(s.details, known), now)
                    for key, s in scores.items()
                ],
            )

    def _rows(
        self, fingerprint: str, condition: str, arguments: Sequence[Any]
    ) -> list[tuple[bytes, StoredScore | None]]:
        """Keys and scores; `None` for a row that is damaged, which counts as one that is not there."""
        # looks up the scorer's number each time: after another process pruned the store, it may be another scorer's
        with self._locked():
            rows = self._db.execute(
                "SELECT dialogue, status, sensibility, rationality, scorers.details, scores.details "
                f"FROM scorers JOIN scores ON scorer = id WHERE fingerprint = ?{condition}",
                (fingerprint, *arguments),
            ).fetchall()
        found = [(bytes(key), _checked(*row)) for key, *row in rows]
        if not self._warned and (damaged := sum(stored is None for _, stored in found)):
            self._warned = True
            logger.warning(
                "score store %r: %d of %d rows that were read are damaged; they are ignored, and their dialogues are "
                "scored again",
                *(str(self.path), damaged, len(found)),
            )
        return found

    def _touch(self, fingerprint: str) -> None:
        """Notes that a scorer is in use."""
        now = time.time()
        if now - self._touched.get(fingerprint, 0.0) >= _TOUCH_EVERY:
            self._touched[fingerprint] = now
            with suppress(sqlite3.OperationalError), self._writing() as db:  # a run does not fail for this
                db.execute("UPDATE scorers SET used = ? WHERE fingerprint = ?", (now, fingerprint))

    def _added_scorer(
        self, db: sqlite3.Connection, fingerprint: str, names: Sequence[str], now: float
    ) -> tuple[int, list[str]]:
        """A scorer's number and details, read again since others write too; new details are added at the end."""
        row = db.execute("SELECT id, details FROM scorers WHERE fingerprint = ?", (fingerprint,)).fetchone()
        number, known = (row[0], list(_names(row[1]))) if row else (None, [])
        grown = [*known, *(name for name in names if name not in known)]
        if number is None:
            number = db.execute(
                "INSERT INTO scorers (fingerprint, details, created, used) VALUES (?, ?, ?, ?)",
                (fingerprint, json.dumps(grown), now, now),
            ).lastrowid
        elif grown != known:
            db.execute("UPDATE scorers SET details = ? WHERE id = ?", (json.dumps(grown), number))
        return int(number or 0), grown

    def scorers(self) -> list[StoredScorer]:
        """Every scorer that has scores here, the one used last first."""
        with self._errors(), self._locked():
            rows = self._db.execute(
                "SELECT fingerprint, created, used, status, COUNT(status) AS n, "
                "COALESCE(SUM(48 + LENGTH(status) + COALESCE(LENGTH(scores.details), 0)), 0) "
                "FROM scorers LEFT JOIN scores ON scorer = id GROUP BY id, status ORDER BY used DESC, id, n DESC"
            )
            found = []
            for (fingerprint, created, used), group in groupby(rows, key=itemgetter(0, 1, 2)):
                scored, total, failed = 0, 0, Counter[str]()
                for *_, status, n, size in group:
                    total += size
                    if status == SCORED:
                        scored += n
                    elif n:
                        failed[status if status in REASONS else "damaged"] += n
                found.append(StoredScorer(fingerprint, scored, dict(failed), total, created, used))
            return found

    def size(self) -> int:
        """Bytes on disk, with SQLite's side files."""
        return store_size(self.path)

    def prune(
        self, *, fingerprint: str | None = None, unused_days: float | None = None, failures: bool = False
    ) -> int:
        """
        Deletes scores, gives their room back, and returns how many were deleted.

        Args:
            fingerprint (`str`, *optional*): Only scores of this scorer.
            unused_days (`float`, *optional*): Only scores of scorers that were not used for this many days, 0 or more.
            failures (`bool`, *optional*): Only failures, so that the next run tries them again.
        """
        if unused_days is not None and not 0 <= unused_days < math.inf:
            raise StoreError(f"unused days {unused_days!r} is not a finite number of at least 0, e.g. 90")
        chosen = "SELECT id FROM scorers WHERE (?1 IS NULL OR fingerprint = ?1) AND (?2 IS NULL OR used < ?2)"
        limit = None if unused_days is None else time.time() - 86_400 * unused_days
        with self._errors():
            with self._writing() as db:
                deleted = db.execute(
                    f"DELETE FROM scores WHERE scorer IN ({chosen}) AND NOT (?3 AND status = ?4)",
                    (fingerprint, limit, failures, SCORED),
                ).rowcount
                db.execute("DELETE FROM scorers WHERE id NOT IN (SELECT DISTINCT scorer FROM scores)")
            with self._locked():
                self._db.execute("VACUUM")
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return deleted

    def _locked(self) -> threading.RLock:
        """The lock by which threads take turns with the connection; a forked process has both of its own."""
        if self._owner != os.getpid():
            self._owner, self._lock = os.getpid(), threading.RLock()
            self._connection: sqlite3.Connection | None = None
        return self._lock

    @property
    def _db(self) -> sqlite3.Connection:
        with self._locked():
            if self._connection is None:
                self._connection = self._opened(self.path, "mode=ro" if self.read_only else "mode=rwc")
                weakref.finalize(self, self._connection.close).atexit = False
            return self._connection

    def _opened(self, path: Path, mode: str) -> sqlite3.Connection:
        place = f"{path.absolute().as_uri()}?{mode}"
        db = sqlite3.connect(place, timeout=_PATIENCE, isolation_level=None, check_same_thread=False, uri=True)
        db.text_factory = partial(str, encoding="utf-8", errors="replace")  # a damaged row costs only itself
        try:
            if self.read_only:
                db.execute("SELECT COUNT(*) FROM sqlite_master")
            else:
                db.execute("PRAGMA journal_mode = WAL")  # readers and a writer at once; safe when killed
                db.execute("PRAGMA synchronous = NORMAL")
        except sqlite3.Error as error:
            db.close()
            if mode != "mode=ro" or not isinstance(error, sqlite3.OperationalError):
                raise
            # SQLite cannot make its side files here; those of a killed process have the newest scores
            if not _files(path)[1].exists():
                return self._opened(path, "immutable=1")
            copy = temporary_folder() / path.name
            for part, to in zip(_files(path)[:2], _files(copy), strict=False):
                shutil.copyfile(part, to)
            return self._opened(copy, "mode=rw")
        return db

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        if self.read_only:
            raise sqlite3.OperationalError("attempt to write a readonly database")  # as SQLite says it
        with self._locked():
            db = self._db
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # a full disk has rolled back already
                    db.execute("ROLLBACK")
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Errors of the file system and of SQLite, in words that help."""
        try:
            yield
        except (sqlite3.Error, OSError, UnicodeDecodeError) as error:  # the last: SQLite's message of a damaged file
            remedy = f"give another place with --store FILE (store=...) or ${CACHE_VARIABLE}, or none with --no-store"
            said = str(error).lower()
            if _is_full(error):
                problem = f"the disk is full, or cannot be written to ({error})"
                remedy = f"make room (`ee-trl cache prune`) and run the same command again, or {remedy}"
            elif "not a database" in said or "malformed" in said:
                problem = f"it is not a score store, or a damaged one ({error})"
                remedy = f"move it away, or {remedy}"
            elif "readonly" in said:
                problem = f"it can be read, but new scores cannot be saved in it ({error})"
            elif "locked" in said:
                problem = f"another process has been writing for more than {_PATIENCE:.0f} seconds ({error})"
            else:
                problem = f"it cannot be read and written ({error})"
            raise StoreError(
                f"score store {str(self.path)!r}: {problem}. Scores saved before are kept. Remedy: {remedy}."
            ) from error

    def close(self) -> None:
        """Ends the connection; the next use opens another."""
        with self._locked():
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "read_only": self.read_only, "_warned": self._warned, "_owner": 0, "_touched": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._locked()  # makes the lock before there are threads

    def __repr__(self) -> str:
        return f"ScoreStore({str(self.path)!r})"


def store_size(path: Path) -> int:
    """Bytes on disk of a store, with SQLite's side files."""
    return sum(part.stat().st_size for part in _files(path) if part.exists())


def delete_store(path: Path, error: StoreError) -> None:
    """Unlinks a store's files, since SQLite cannot delete on a full disk; raises `error` again if it is not full."""
    with path.open("rb") as file:
        if not (_is_full(error.__cause__) and file.read(16) == b"SQLite format 3\0"):  # how every database begins
            raise error
    for part in _files(path):
        part.unlink(missing_ok=True)


def _files(path: Path) -> list[Path]:
    return [path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))]


def _is_full(error: BaseException | None) -> bool:
    said = str(error).lower()
    return "full" in said or "no space" in said or "disk i/o" in said


def _packed(details: Mapping[str, float], names: Sequence[str]) -> bytes | None:
    """The details in the order of `names`, as 8-byte floats; NaN for one that is not there."""
    if not details:
        return None
    return struct.pack(f"<{len(names)}d", *(details.get(name, float("nan")) for name in names))


def _checked(status: Any, s: Any, r: Any, names: str, details: Any) -> StoredScore | None:
    """A row as a score; `None` if it holds what is never saved: it is damaged."""
    try:
        values = struct.unpack(f"<{len(details) // 8}d", details) if details else ()
        told = dict(zip(_names(names), values, strict=False))  # names may have been added since
        flag = told.get(FLAG, math.nan)
        if status == SCORED:
            fine = all(MIN_SCORE <= score <= MAX_SCORE for score in (s, r))
        else:
            fine = status in REASONS and s is None and r is None
        return StoredScore(status, s, r, told) if fine and (flag != flag or flag in range(len(FLAGS))) else None
    except (TypeError, struct.error, sqlite3.DatabaseError):
        return None


@lru_cache(maxsize=64)
def _names(text: str) -> tuple[str, ...]:
    """The names of a scorer's details."""
    try:
        return tuple(json.loads(text))
    except (ValueError, TypeError):
        raise sqlite3.DatabaseError(f"malformed list of details: {text[:60]!r}") from None
