"""
Several processes score: into one store as processes of one launch (`torchrun`, `accelerate launch`) or Ray actors; or
without a store, as workers that are handed tables.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from itertools import count
from multiprocessing import get_context, parent_process
from typing import Any, TypeVar
from zlib import crc32

import numpy as np
import pyarrow as pa

from ..data.dialogue import Dialogue
from ..data.samples import Batch
from ..errors import ScorerError, check_count, require
from . import engine
from .base import Scorer
from .cascade import CascadeScorer
from .coverage import Coverage
from .judge.rubric import Rubric
from .load import load_scorer
from .run import ScoringRun, checked_batches, stored_scores
from .store import StoredScore


_PATIENCE = timedelta(days=7)  # how long a process waits for slower ones
_exchanges = count()
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Launch:
    """The place of this process, `rank`, among the `count` that were launched together (1 without a launcher)."""

    rank: int = 0
    count: int = 1

    @classmethod
    def from_environment(cls) -> Launch:
        """Reads the launcher's variables; several machines cannot share one store."""
        rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        if int(os.environ.get("LOCAL_WORLD_SIZE", processes)) != processes:
            raise ScorerError(
                f"{processes} processes on several machines cannot share one score store; start processes on one "
                "machine only, or score with --engine ray"
            )
        return cls(rank, processes)

    def owns(self, dialogue: Dialogue) -> bool:
        """Whether this process scores a dialogue. All turns of a conversation, and its copies, have one owner."""
        first = dialogue.context[0] if dialogue.context else dialogue.response
        return crc32(first.encode("utf-8", "surrogatepass")) % self.count == self.rank

    def gather(self, value: _Value) -> list[_Value]:
        """The values of all processes, by rank; leaves no process group behind, so that a trainer makes its own."""
        if self.count == 1:
            return [value]
        import torch.distributed as dist

        if dist.is_initialized():
            found: list[Any] = [None] * self.count
            group = dist.new_group(backend="gloo", timeout=_PATIENCE)
            dist.all_gather_object(found, value, group=group)
            dist.destroy_process_group(group)
            return found
        store, number = _launch_store(), next(_exchanges)
        keys = [f"{number}/{rank}" for rank in range(self.count)]
        store.set(keys[self.rank], pickle.dumps(value))
        found = [pickle.loads(store.get(key)) for key in keys]
        store.set(f"{keys[self.rank]}/read", "")
        if self.rank == 0:  # this process may hold the values, so it stays until all have read them
            store.wait([f"{key}/read" for key in keys])
        return found


@cache
def _launch_store() -> Any:
    from torch.distributed import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(rendezvous("env://", timeout=_PATIENCE))
    return PrefixStore("ee_trl", store)


def plan_together(cascade: CascadeScorer, dialogues: Iterable[Dialogue], launch: Launch) -> None:
    """Plans a cascade on the first process, so that the judge is asked once; all processes score by its plan."""
    plan = launch.gather(cascade.plan(dialogues) if launch.rank == 0 else None)[0]
    if launch.rank > 0 and plan is not None:
        cascade.use_plan(plan)


def fill_share(run: ScoringRun, batches: Iterable[list[Dialogue]], launch: Launch) -> Coverage:
    """Scores this process' share of the dialogues into the store, waits for the others; returns the work of all."""
    for dialogues in batches:
        run.fill([dialogue for dialogue in dialogues if launch.owns(dialogue)])
    shares = launch.gather(run.coverage)
    return run.coverage.merged(shares[: launch.rank] + shares[launch.rank + 1 :])


@dataclass(frozen=True)
class RayOptions:
    """
    How many actors score, and what each reserves.

    Args:
        actors (`int` or `tuple[int, int]`, *optional*, defaults to `1`): How many, or fewest and most: Ray then starts
            and stops actors by need.
        cpus (`float`, *optional*, defaults to `0.5`): CPU cores that an actor reserves.
        gpus (`float`, *optional*, defaults to `0.0`): GPUs that an actor reserves; may be a fraction.
        batch_size (`int`, *optional*, defaults to `64`): Dialogues that an actor is given at once.
        address (`str`, *optional*): Address of a cluster (`"auto"`, `"ray://..."`); by default Ray is started here.
    """

    actors: int | tuple[int, int] = 1
    cpus: float = 0.5
    gpus: float = 0.0
    batch_size: int = 64
    address: str | None = None

    def __post_init__(self) -> None:
        for name, number in {"cpus": self.cpus, "gpus": self.gpus}.items():
            if not 0 <= number < math.inf:
                raise ScorerError(f"an actor cannot reserve {number!r} {name}; valid: 0 or more, e.g. 0.5")
        check_count("batch_size", self.batch_size, error=ScorerError)
        for most in self.pool:
            check_count("actors", most, error=ScorerError)
        if self.pool[0] > self.pool[1]:
            raise ScorerError(f"actors {self.actors!r} has the larger number first; valid: (fewest, most)")

    @property
    def pool(self) -> tuple[int, int]:
        """The fewest and the most actors."""
        return self.actors if isinstance(self.actors, tuple) else (self.actors, self.actors)


@dataclass(frozen=True)
class RemoteScorer:
    """Stands for a scorer that each actor loads; its scores are in the store."""

    fingerprint: str
    details: tuple[str, ...]
    flags: tuple[str, ...]
    rubric: Rubric | None
    spec: Any
    options: dict[str, Any]

    def score(self, dialogues: Any) -> np.ndarray:
        """Never called: the actors have scored all dialogues before."""
        raise ScorerError(f"{len(dialogues)} dialogues were not scored by the actors of {self.fingerprint!r}")


def start_ray(options: RayOptions) -> None:
    """Connects to the cluster, or starts Ray on this machine, once."""
    require("ray", extra="ray", purpose="scoring on a Ray cluster")
    import ray
    import ray.data

    if not ray.is_initialized():
        ray.init(address=options.address, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False  # the selector shows its own


def remote_scorer(spec: Any, options: dict[str, Any], resources: RayOptions) -> RemoteScorer:
    """Loads a scorer in the cluster once, to learn its fingerprint."""
    start_ray(resources)
    import ray

    def describe() -> tuple[str, tuple[str, ...], tuple[str, ...], Rubric | None] | ScorerError:
        try:
            scorer = load_scorer(spec, **options)
        except ScorerError as error:
            return ScorerError(str(error))
        if getattr(scorer, "needs_plan", False):
            return ScorerError(
                "a cascade on a Ray cluster needs its limit beforehand: give a promise with judged samples "
                "(calibration=FILE), or a CascadeScorer object after cascade.plan(dialogues)"
            )
        rubric = getattr(scorer, "rubric", None)
        details, flags = (tuple(getattr(scorer, name, ())) for name in ("details", "flags"))
        return scorer.fingerprint, details, flags, rubric if isinstance(rubric, Rubric) else None

    task = ray.remote(num_cpus=resources.cpus, num_gpus=resources.gpus)(describe)
    found = ray.get(task.remote())
    if isinstance(found, ScorerError):
        raise found
    return RemoteScorer(*found, spec, options)


class _Actor:
    """A scorer in its own process: takes a table of dialogues, returns its scores in a table of one row."""

    def __init__(self, spec: Any, options: dict[str, Any], fingerprint: str) -> None:
        self.scorer: Scorer = load_scorer(spec, **options)
        if self.scorer.fingerprint != fingerprint:
            raise ScorerError(
                f"the scorer {spec!r} is {fingerprint!r} on one machine of the cluster and "
                f"{self.scorer.fingerprint!r} on another; give all machines the same files"
            )

    def __call__(self, table: pa.Table) -> pa.Table:
        keys = table.column("key").to_pylist()
        dialogues = [pickle.loads(dialogue) for dialogue in table.column("dialogue").to_pylist()]
        made: dict[bytes, StoredScore] = {}
        tokens = forward_tokens = 0
        for batch, statuses in checked_batches(self.scorer, dialogues):
            made |= stored_scores(batch, statuses, keys)
            tokens, forward_tokens = tokens + batch.tokens, forward_tokens + batch.forward_tokens
        return pa.table({"made": [pickle.dumps((made, tokens, forward_tokens))]})


def fill_with_ray(run: ScoringRun, batches: Iterable[list[Dialogue]], options: RayOptions) -> Coverage:
    """
    Actors score what the store lacks, and their scores are saved as they come; the `run` has a [`RemoteScorer`].

    Ray replaces an actor that dies, and gives its dialogues to another.
    """
    scorer = run.scorer
    assert isinstance(scorer, RemoteScorer)
    start_ray(options)
    import ray.data

    fewest, most = options.pool
    pieces = _pieces(_missing(run, batches), options.batch_size, most)
    if not pieces:
        return run.coverage
    scored = ray.data.from_arrow(pieces).map_batches(
        _Actor,
        fn_constructor_args=(scorer.spec, scorer.options, scorer.fingerprint),
        batch_format="pyarrow",
        batch_size=min(options.batch_size, pieces[0].num_rows),
        compute=ray.data.ActorPoolStrategy(min_size=fewest, max_size=most),
        num_cpus=options.cpus,
        num_gpus=options.gpus,
    )
    for table in scored.iter_batches(batch_format="pyarrow", batch_size=None, prefetch_batches=0):
        for answer in table.column("made").to_pylist():  # type: ignore[union-attr]
            run.save(*pickle.loads(answer))
    return run.coverage


def _missing(run: ScoringRun, batches: Iterable[list[Dialogue]]) -> dict[bytes, bytes]:
    """The pickled dialogues that the store lacks, by key, each content once."""
    found: dict[bytes, bytes] = {}
    for dialogues in batches:
        new = run.missing(dialogues)
        run.coverage.duplicates += sum(key in found for key in new)
        found |= {key: pickle.dumps(dialogue) for key, dialogue in new.items() if key not in found}
    return found


def _pieces(missing: dict[bytes, bytes], batch_size: int, actors: int) -> list[pa.Table]:
    """Tables of dialogues that give each actor some of them, and are no smaller than a batch."""
    size = max(batch_size, min(1_000, len(missing) // (4 * actors)))
    size = max(1, min(size, -(-len(missing) // actors)))
    whole = pa.table({"key": list(missing), "dialogue": list(missing.values())})
    return [whole.slice(start, size) for start in range(0, len(missing), size)]


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def score_in_workers(
    batches: Iterable[Batch],
    layout: engine.Layout,
    run: ScoringRun,
    workers: int,
    spec: Any,
    options: dict[str, Any],
) -> Iterator[pa.Table]:
    """[`~ee_trl.scoring.engine.score_tables`] by several processes, each of which loads the scorer."""
    asked = deque[tuple[pa.Table, Any]]()

    def answer() -> pa.Table:
        table, future = asked.popleft()
        rows, added, coverage = future.result()
        run.coverage = Coverage.of_splits([run.coverage, coverage])
        run.coverage.count(())
        return engine.joined(table, layout, rows, pa.ipc.open_stream(added).read_all())

    start = (spec, options, layout.columns, layout.details, run.retry_failures)
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _begin, start)  # a fork would copy threads' locks
    try:
        for batch in batches:
            values = pickle.dumps(batch.values)
            told = _packed(batch.table.select(layout.read)), batch.numbers, values, batch.turns
            asked.append((batch.table, pool.submit(_scored, *told)))
            if len(asked) > 2 * workers:
                yield answer()
        while asked:
            yield answer()
    except BrokenProcessPool as error:
        raise ScorerError(
            "a worker process ended before its work was done; it was killed, or there is too little memory. Start "
            "again, with fewer --workers"
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _begin(spec: Any, options: dict[str, Any], columns: Any, details: tuple[str, ...], retry: bool) -> None:
    """Prepares a worker, which ends when the process that asks does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asks ends this one
    os.dup2(2, 1)  # what is printed must not mix with a command's output
    threading.Thread(target=_end_with_the_asking_process, daemon=True).start()
    logger = logging.getLogger("ee_trl")
    logger.setLevel(logging.ERROR)  # the first process says the same
    _worker.update(scorer=load_scorer(spec, **options), layout=engine.layout_of(columns, details), retry=retry)
    logger.setLevel(logging.NOTSET)


_worker: dict[str, Any] = {"unknown": set()}
"""What a worker keeps from table to table."""


def _end_with_the_asking_process() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def _scored(table: bytes, numbers: Any, values: bytes, turns: Any) -> tuple[list[int] | None, bytes, Coverage]:
    """A worker's answer: what [`~ee_trl.scoring.engine.added_columns`] made, and what was counted."""

    def rows_of(part: pa.Table) -> Any:
        return pickle.loads(values)(part)  # only now: this imports `datasets`, and few rows need it

    layout, run = _worker["layout"], ScoringRun(_worker["scorer"], retry_failures=_worker["retry"])
    batch = Batch(pa.ipc.open_stream(table).read_all(), rows_of, numbers, layout.fmt, turns, _worker["unknown"])
    rows, added = engine.added_columns(batch, layout, run)
    return rows, _packed(added), run.coverage


def _packed(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()
