"""Scoring whole data sets: a scorer with its store, its coverage, and the columns that it adds."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa

from ..axes import (
    APPROPRIATENESS,
    AXES,
    DEFAULT_THRESHOLD,
    FLAG,
    QUADRANT,
    QUADRANT_NAMES,
    RATIONALITY,
    SENSIBILITY,
    TIES,
    Threshold,
    quadrant_codes,
    quadrants,
    thresholds,
)
from ..data.dialogue import Turns, check_turns
from ..data.formats import recognise
from ..data.mapping import mapped
from ..data.reading import check_dataset, open_rows
from ..data.samples import Batch, iter_row_samples, iter_samples, iter_scores, read_samples
from ..data.tables import (
    AnyDataset,
    columns_of,
    features_of,
    is_stream,
    progress,
    progress_bar,
    stream_of_rows,
    stream_of_tables,
    to_dataset,
)
from ..data.tally import Tally
from ..errors import ScorerError, SelectionError, check_choice, check_count, options_named
from . import engine
from .base import Scorer, ScoringSpec
from .coverage import Coverage
from .kinds import DEFAULT_SCORER, arguments_of, check_scorer
from .load import check_scorer_options, load_scorer
from .parallel import (
    Launch,
    RayOptions,
    cores,
    fill_share,
    fill_with_ray,
    plan_together,
    remote_scorer,
    score_in_workers,
)
from .run import ScoringRun
from .store import FILE_NAME, ScoreStore, cache_folder
from .warnings import score_warnings


if TYPE_CHECKING:
    from datasets import Dataset, Features, IterableDataset

logger = logging.getLogger(__name__)

_MANY_ROWS = 100_000  # from here on further processes are worth the seconds that they take to start

Part: TypeAlias = tuple[int, str] | None
"""The number of a call of `score`, and the name of a split; `None` without splits."""


class DatasetScorer:
    """Scores the dialogues of data sets; the arguments are those of [`~ee_trl.EmpathyDataSelector`]."""

    def __init__(
        self,
        scorer: str | os.PathLike[str] | Scorer = DEFAULT_SCORER,
        *,
        threshold: Threshold = DEFAULT_THRESHOLD,
        ties: str = "drop",
        turns: Turns = "each",
        details: bool = False,
        store: bool | str | os.PathLike[str] | ScoreStore = True,
        retry_failures: bool = False,
        ray: RayOptions | None = None,
        batch_rows: int = 1_000,
        show_progress: bool | None = None,
        **scorer_options: Any,
    ) -> None:
        check_scorer(scorer)
        own = [name for name in arguments_of(type(self)) if name != "scorer_options"]
        check_scorer_options(scorer, scorer_options, type(self).__name__, own)
        check_turns(turns)
        check_choice("ties", ties, TIES, SelectionError)
        check_count("batch_rows", batch_rows, error=SelectionError)
        self.threshold = thresholds(threshold)
        self.ties = ties
        self.turns = turns
        self.details = details
        self.retry_failures = retry_failures
        self.batch_rows = batch_rows
        self.show_progress = show_progress
        self._spec = scorer
        self._options = scorer_options
        if scorer == "cascade":  # its two scorers must agree on the selection
            self._options = {"threshold": self.threshold, "ties": ties, **scorer_options}
        self._store = store
        self._ray = ray
        self._runs: dict[Part, ScoringRun] = {}
        self._calls = 0

    @cached_property
    def scorer(self) -> Scorer:
        """The scorer, loaded at first use; with Ray a stand-in for the actors' scorer."""
        if self._ray is None:
            return load_scorer(self._spec, **self._options)
        return remote_scorer(self._spec, self._options, self._ray)

    @cached_property
    def store(self) -> ScoreStore | None:
        """The score store; `None` without one, and for a scorer that is cheaper than a look-up."""
        if self._store is False or not getattr(self.scorer, "stored", True):
            return None
        if isinstance(self._store, ScoreStore):
            return self._store
        return ScoreStore(None if self._store is True else self._store)

    def new_run(self, filled: Coverage | None = None, part: Part = None) -> ScoringRun:
        """A new run of the scorer with its store; from now on `coverage` counts this call of `score` only."""
        run = ScoringRun(self.scorer, self.store, retry_failures=self.retry_failures, filled=filled)
        self._runs = {key: r for key, r in self._runs.items() if part and key and key[0] == part[0]}
        self._runs[part] = run
        return run

    @property
    def coverage(self) -> Coverage | None:
        """What the last scoring did, over all splits; `None` before it. A stream counts as far as it has been read."""
        return Coverage.of_splits([run.coverage for run in self._runs.values()]) if self._runs else None

    @property
    def detail_columns(self) -> tuple[str, ...]:
        """The columns that `details=True` adds; without it, only how well a reply fits its context."""
        names = tuple(getattr(self.scorer, "details", ()))
        if self.details and not names:
            raise ScorerError(f"scorer {self.scorer.fingerprint!r} has no further columns; leave out details")
        return names if self.details else tuple(name for name in names if name == APPROPRIATENESS)

    def _layout(self, columns: list[str]) -> engine.Layout:
        recognise(columns)  # a data set of no known format is refused before a scorer is loaded
        flags = (FLAG,) if getattr(self.scorer, "flags", ()) else ()
        return engine.layout_of(columns, (*flags, *self.detail_columns))

    @options_named
    def score(
        self,
        dataset: AnyDataset | str | os.PathLike[str],
        *,
        shared: bool = False,
        mapping: Mapping[str, str] | None = None,
        encoding: str | None = None,
    ) -> Any:
        """
        Adds `sensibility`, `rationality`, `score_status`, `scorer` and `quadrant` to every sample of a data set.

        A scorer that gives flags adds `score_flag`: what is wrong with a reply, one of [`~ee_trl.axes.FLAGS`] or null.
        Source columns and their order survive; a source column with one of these names is renamed
        (`given_sensibility`, `source_turn`). A conversation gives one row for each listener turn, with `row_index` and
        `turn`. A row that cannot be scored stays, with null scores and the reason in `score_status`. A row that this
        scorer has scored already is not scored again.

        Args:
            dataset (`Dataset`, `IterableDataset`, `DatasetDict`, `str` or `os.PathLike`):
                In one of the [`~ee_trl.data.formats.FORMATS`], or its path or hub name.
            shared (`bool`, *optional*, defaults to `False`):
                Under `torchrun` or `accelerate launch`: every process calls this with the same data set, scores its
                share into the common store, and gets the whole result.
            mapping (`dict[str, str]`, *optional*):
                What names in the data mean, such as `{"chosen": "response"}`; see [`~ee_trl.data.mapping.mapped`].
            encoding (`str`, *optional*, defaults to UTF-8): Of a CSV or JSON file.

        Returns:
            The same kind of data set; a path gives a `Dataset`, or a `DatasetDict` if it has several splits.

        Raises:
            [`FormatError`]: No dialogue format fits the columns, or there are images.
            [`ScoresError`]: The data set has scores of another scorer.
        """
        named = isinstance(dataset, (str, os.PathLike))
        found: Any = open_rows(dataset, encoding=encoding, mapping=mapping) if named else dataset

        def score(rows: Any, part: Part = None) -> Any:
            if is_stream(rows) and not named:  # a path always becomes a `Dataset`
                return self._score_stream(rows, part)
            return self._score_rows(rows, shared, part)

        check_dataset(found)
        found = found if named else mapped(found, mapping)
        if not hasattr(found, "keys"):
            return score(found)
        for rows in found.values():
            check_dataset(rows)
        self._calls += 1
        return type(found)({name: score(rows, (self._calls, str(name))) for name, rows in found.items()})

    def _score_rows(self, dataset: Dataset | IterableDataset, shared: bool, part: Part) -> Dataset:
        filled = self.fill_store(dataset, part=part) if shared or self._ray else None
        features, tables = self.score_tables(dataset, filled=filled, part=part)
        scored = to_dataset(tables, features)
        logger.info("%s", self.coverage)
        for warning in score_warnings(Tally(iter_scores(scored), self.threshold, self.ties)):
            logger.warning(warning)
        return scored

    def _score_stream(self, stream: IterableDataset, part: Part) -> IterableDataset:
        """The stream's tables with scores, or its rows where its columns are unknown; nothing is read yet."""
        stream = stream.with_format(None)
        if stream.features is not None:  # as tables: the library changes JSON values of rows
            make = partial(self.score_tables, part=part)
            return stream_of_tables(make, stream, make(stream)[0])
        layout = self._layout(columns_of(stream))

        def rows() -> Iterator[dict[str, Any]]:
            batches = iter_row_samples(stream, layout.fmt, self.turns, batch_rows=self.batch_rows)
            for row in engine.score_rows(batches, layout, self.new_run(part=part)):
                name = quadrants([row[SENSIBILITY]], [row[RATIONALITY]], self.threshold, self.ties)[0]
                yield row | {QUADRANT: str(name) or None}

        return stream_of_rows(rows)

    def fill_store(
        self, dataset: Dataset | IterableDataset, total: int | None = None, part: Part = None
    ) -> Coverage | None:
        """Scores what the store lacks, by Ray or by this launch; gives the coverage of all, `None` without a store."""
        if self.store is None:
            if self._ray is not None:
                raise ScorerError("a Ray cluster returns scores through the store; leave out --no-store")
            return None
        layout = self._layout(list(features_of(dataset)))
        launch = Launch() if self._ray else Launch.from_environment()
        self._plan(dataset, launch)
        run = self.new_run(part=part)
        show = False if launch.rank else self.show_progress
        dialogues = engine.unscored_dialogues(self._batches(dataset, layout, run, "score", total, show), layout, run)
        if self._ray is None:
            return fill_share(run, dialogues, launch)
        return fill_with_ray(run, dialogues, self._ray)

    def _plan(self, dataset: Any, launch: Launch) -> None:
        """Shows all dialogues to a scorer that plans before it scores (a cascade with a budget)."""
        scorer: Any = self.scorer
        if getattr(scorer, "needs_plan", False):
            scorer.use_store(self.store, self.retry_failures)
            dialogues = (s.dialogue for s in read_samples(dataset, self.turns) if s.dialogue is not None)
            plan_together(scorer, dialogues, launch)

    def _batches(
        self, dataset: Any, layout: engine.Layout, run: ScoringRun, label: str, total: int | None, show: bool | None
    ) -> Iterator[Batch]:
        """The samples to be scored, behind a progress bar; `total` is the rows of a stream."""
        bar = progress_bar(total=total if is_stream(dataset) else len(dataset), label=label, show=show)
        run.after_batch = lambda: bar.set_postfix_str(f"{run.coverage.asked:,} asked of the scorer")
        rows = self.batch_rows * (1 if getattr(self.scorer, "stored", True) else 4)  # small batches would slow it down
        return progress(iter_samples(dataset, self.turns, columns=layout.read, batch_rows=rows), bar)

    def score_tables(
        self,
        dataset: Dataset | IterableDataset,
        total: int | None = None,
        filled: Coverage | None = None,
        part: Part = None,
        workers: int | None = 1,
    ) -> tuple[Features, Iterator[pa.Table]]:
        """
        The scored split as features and a stream of tables, for flat memory; `filled` is what `fill_store` gave.

        With several `workers`, as many processes score; `None` takes one for each core where it is worth it.
        """
        from datasets import Features, Value

        features = features_of(dataset)
        layout = self._layout(list(features))
        if kept := " and ".join(layout.renames[name] for name in AXES if name in layout.renames):
            logger.warning("the data set's own scores are kept as %s; to use those, select without scoring", kept)
        self._plan(dataset, Launch())
        run = self.new_run(filled, part)
        batches = self._batches(dataset, layout, run, "write" if filled else "score", total, self.show_progress)
        if (workers := self._workers(workers, total or 0)) > 1:
            scored = score_in_workers(batches, layout, run, workers, self._spec, self._options)
        else:
            scored = engine.score_tables(batches, layout, run)
        out = engine.scored_features(features, layout)
        return Features({**out, QUADRANT: Value("string")}), (self.with_quadrant(table) for table in scored)

    def _workers(self, workers: int | None, rows: int) -> int:
        """How many processes score; several only with a named scorer that keeps no scores."""
        able = self.store is None and self._ray is None and isinstance(self._spec, (str, os.PathLike))
        able = able and not getattr(self.scorer, "stored", True)
        if workers is None:
            return cores() if able and rows >= _MANY_ROWS else 1
        check_count("workers", workers, error=ScorerError)
        if workers > 1 and not able:
            raise ScorerError(
                f"{workers} workers go with a scorer that is cheaper than the score store, such as linear; other "
                "scorers share the work under torchrun, or with --engine ray"
            )
        return workers

    def with_quadrant(self, table: pa.Table) -> pa.Table:
        """The scored table with each row's quadrant at the thresholds of this scorer."""
        s, r = (table.column(a).to_numpy(zero_copy_only=False) for a in (SENSIBILITY, RATIONALITY))
        names = pa.array([name or None for name in QUADRANT_NAMES], pa.string())
        column = names.take(pa.array(quadrant_codes(s, r, self.threshold, self.ties)))
        place = table.schema.get_field_index(QUADRANT)
        return table.append_column(QUADRANT, column) if place < 0 else table.set_column(place, QUADRANT, column)

    @property
    def spec(self) -> ScoringSpec:
        """What it takes to score in another process as this selector does."""
        store = self._store.path if isinstance(self._store, ScoreStore) else self._store
        place = os.fspath(cache_folder() / FILE_NAME if store is True else store) if store else None
        rule = self.threshold, self.ties, self.turns
        return ScoringSpec(self._spec, self._options, place, self.retry_failures, *rule)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_runs": {}}  # a run belongs to its process
