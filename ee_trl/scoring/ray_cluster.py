"""Scoring on a Ray cluster: the same scorers as actors of a Ray Data pipeline, the store with the driver.

What the store lacks goes out as Arrow tables, scores come back batch by batch and are saved as they come. An actor
that dies is replaced, and what it held is asked for again; a driver that dies finds in the store all that came back.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..data.dialogue import Dialogue
from ..errors import ScorerError, require
from .coverage import Coverage
from .judge.rubric import Rubric
from .load import load_scorer
from .run import ScoringRun, checked_batches, stored_scores
from .store import StoredScore


if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from .base import Scorer


@dataclass(frozen=True)
class RayOptions:
    """
    How many actors, and what each takes.

    Args:
        actors (`int` or `tuple[int, int]`, *optional*, defaults to `1`): How many, or fewest and most: Ray then starts
            and stops actors by need.
        cpus (`float`, *optional*, defaults to `0.5`): CPU cores that an actor reserves.
        gpus (`float`, *optional*, defaults to `0.0`): GPUs that an actor reserves; may be a fraction.
        batch_size (`int`, *optional*, defaults to `64`): Dialogues that an actor is given at once.
        address (`str`, *optional*): Of a cluster (`"auto"`, `"ray://..."`); by default Ray is started here.
    """

    actors: int | tuple[int, int] = 1
    cpus: float = 0.5
    gpus: float = 0.0
    batch_size: int = 64
    address: str | None = None

    def __post_init__(self) -> None:
        for name in ("cpus", "gpus"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ScorerError(
                    f"an actor cannot reserve {getattr(self, name)!r} {name}; valid: 0 or more, e.g. 0.5"
                )
        if self.batch_size < 1:
            raise ScorerError(f"batch_size {self.batch_size!r} is not a whole number of at least 1")


@dataclass(frozen=True)
class RemoteScorer:
    """
    A scorer that works elsewhere: it has a name, and its scores are found in the store alone.

    Args:
        fingerprint (`str`): Of the scorer in the actors.
        details (`tuple[str, ...]`): Its further columns.
        rubric (`Rubric`, *optional*): What it asks.
        spec (`str`), options (`dict`): What [`load_scorer`] is given in each actor.
    """

    fingerprint: str
    details: tuple[str, ...]
    rubric: Rubric | None
    spec: Any
    options: dict[str, Any] = field(default_factory=dict)

    def score(self, dialogues: Any) -> np.ndarray:
        """Never called: what is asked for was scored by the actors."""
        raise ScorerError(f"{len(dialogues)} dialogues were not scored by the actors of {self.fingerprint!r}")


def start_ray(options: RayOptions) -> None:
    """Connects to the cluster, or starts Ray on this machine; does nothing where that is done."""
    require("ray", extra="ray", purpose="scoring on a Ray cluster")
    import ray
    import ray.data

    if not ray.is_initialized():
        ray.init(address=options.address, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False  # there is one of our own


def remote_scorer(spec: Any, options: dict[str, Any], resources: RayOptions) -> RemoteScorer:
    """Loads a scorer in the cluster once, and tells its name; raises what loading it raises."""
    start_ray(resources)
    import ray

    def describe() -> tuple[str, tuple[str, ...], Rubric | None] | Exception:
        try:
            scorer = load_scorer(spec, **options)
        except ScorerError as error:
            return ScorerError(str(error))
        if getattr(scorer, "needs_plan", False):
            return ScorerError(
                "a cascade on a Ray cluster needs its limit beforehand: a promise with judged samples "
                "(calibration=FILE), or a CascadeScorer object after cascade.plan(dialogues)"
            )
        rubric = getattr(scorer, "rubric", None)
        details = tuple(getattr(scorer, "details", ()))
        return scorer.fingerprint, details, rubric if isinstance(rubric, Rubric) else None

    task = ray.remote(num_cpus=resources.cpus, num_gpus=resources.gpus)(describe)
    found = ray.get(task.remote())
    if isinstance(found, Exception):
        raise found
    return RemoteScorer(*found, spec, options)


class _Actor:
    """A scorer in a process of its own: a table of dialogues in, a table of scores out."""

    def __init__(self, spec: Any, options: dict[str, Any], fingerprint: str) -> None:
        self.scorer: Scorer = load_scorer(spec, **options)
        if self.scorer.fingerprint != fingerprint:
            raise ScorerError(
                f"the scorer {spec!r} is {fingerprint!r} on one machine of the cluster and "
                f"{self.scorer.fingerprint!r} on another; give all the same files"
            )

    def __call__(self, table: pa.Table) -> pa.Table:
        import pyarrow as pa

        keys, dialogues = table.column("key").to_pylist(), [_dialogue(row) for row in table.to_pylist()]
        rows, tokens, forward_tokens = [], 0, 0
        for batch, statuses in checked_batches(self.scorer, dialogues):
            rows += [_row(key, score) for key, score in stored_scores(batch, statuses, keys).items()]
            tokens, forward_tokens = tokens + batch.tokens, forward_tokens + batch.forward_tokens
        rows[0] |= {"tokens": tokens, "forward_tokens": forward_tokens}
        return pa.Table.from_pylist(rows, _schema(tuple(getattr(self.scorer, "details", ()))))


def fill_with_ray(run: ScoringRun, batches: Iterable[list[Dialogue]], options: RayOptions) -> Coverage:
    """
    Scores into the store, on a cluster, what it lacks.

    Args:
        run (`ScoringRun`): Of a [`RemoteScorer`], with a store.
        batches (`Iterable[list[Dialogue]]`): What is wanted.
        options (`RayOptions`): The actors.

    Returns:
        [`Coverage`] of the work done.
    """
    scorer = run.scorer
    assert isinstance(scorer, RemoteScorer)
    start_ray(options)
    import ray.data
    from ray.data import ActorPoolStrategy

    few, most = options.actors if isinstance(options.actors, tuple) else (options.actors, options.actors)
    pieces = _pieces(list(_missing_tables(run, batches)), options.batch_size, most)
    if not pieces:
        return run.coverage
    scored = ray.data.from_arrow(pieces).map_batches(
        _Actor,
        fn_constructor_args=(scorer.spec, scorer.options, scorer.fingerprint),
        batch_format="pyarrow",
        batch_size=min(options.batch_size, pieces[0].num_rows),
        compute=ActorPoolStrategy(min_size=few, max_size=most),
        num_cpus=options.cpus,
        num_gpus=options.gpus,
    )
    for table in scored.iter_batches(batch_format="pyarrow", batch_size=None, prefetch_batches=0):
        rows: list[dict[str, Any]] = table.to_pylist()  # type: ignore[union-attr]
        run.coverage.asked += len(rows)
        run.coverage.tokens += sum(row["tokens"] for row in rows)
        run.coverage.forward_tokens += sum(row["forward_tokens"] for row in rows)
        run.save({row["key"]: _stored(row, scorer.details) for row in rows})
        if run.after_batch:
            run.after_batch()
    return run.coverage


# ---- dialogues and scores as tables ---------------------------------------------------------------------------------


def _missing_tables(run: ScoringRun, batches: Iterable[list[Dialogue]], rows: int = 1_000) -> Iterator[pa.Table]:
    """What the store lacks, each content once, in tables of so many rows: the pieces that go to the actors."""
    import pyarrow as pa

    texts = pa.list_(pa.string())
    schema = pa.schema(
        {"key": pa.binary(), "context": texts, "roles": texts, "response": pa.string(), "system": pa.string()}
    )
    sent: set[bytes] = set()
    held: list[dict[str, Any]] = []
    for dialogues in batches:
        for key, d in run.missing(dialogues).items():
            if key in sent:
                run.coverage.duplicates += 1
                continue
            sent.add(key)
            row = {name: getattr(d, name) for name in ("context", "roles", "response", "system")}
            held.append({"key": key, **row})
        while len(held) >= rows:
            yield pa.Table.from_pylist(held[:rows], schema)
            held = held[rows:]
    if held:
        yield pa.Table.from_pylist(held, schema)


def _pieces(tables: Sequence[pa.Table], batch_size: int, actors: int) -> list[pa.Table]:
    """The same rows in tables that give each actor some of them, and are no smaller than a batch."""
    import pyarrow as pa

    if not tables:
        return []
    whole = pa.concat_tables(tables)
    size = max(batch_size, min(1_000, whole.num_rows // (4 * actors)))
    size = min(size, -(-whole.num_rows // actors))
    return [whole.slice(start, size) for start in range(0, whole.num_rows, size)]


def _dialogue(row: dict[str, Any]) -> Dialogue:
    return Dialogue(tuple(row["context"]), row["response"], tuple(row["roles"]), row["system"])


def _schema(details: tuple[str, ...]) -> pa.Schema:
    import pyarrow as pa

    numbers = {name: pa.float64() for name in ("sensibility", "rationality", *(f"detail_{d}" for d in details))}
    counts = {"tokens": pa.int64(), "forward_tokens": pa.int64()}
    return pa.schema({"key": pa.binary(), "status": pa.string(), **numbers, **counts})


def _row(key: bytes, score: StoredScore) -> dict[str, Any]:
    details = {f"detail_{name}": value for name, value in score.details.items()}
    numbers = {"sensibility": score.sensibility, "rationality": score.rationality}
    return {"key": key, "status": score.status, **numbers, **details, "tokens": 0, "forward_tokens": 0}


def _stored(row: dict[str, Any], details: tuple[str, ...]) -> StoredScore:
    found = {name: row[f"detail_{name}"] for name in details if row[f"detail_{name}"] is not None}
    return StoredScore(row["status"], row["sensibility"], row["rationality"], found)
