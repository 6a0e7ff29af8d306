"""[`EmpathyDataSelector`]: score, select, sweep and summary over any data set, in a few lines of a user's script."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from . import selection as rules
from .axes import DEFAULT_THRESHOLD, QUADRANT, RATIONALITY, SENSIBILITY, TIES, Threshold, quadrants, thresholds
from .data.dialogue import Turns, check_turns
from .data.reading import check_dataset, open_rows, opened
from .data.samples import Batch, iter_samples, read_samples, read_scores, training_features, training_tables
from .data.tables import each_split, features_of, is_stream, progress, progress_bar, tables_of, to_dataset
from .display import BySplit
from .errors import FormatError, ScorerError, SelectionError, unknown
from .reports.summary import summarise
from .scoring import engine
from .scoring.base import Scorer
from .scoring.coverage import Coverage
from .scoring.kinds import check_scorer
from .scoring.load import load_scorer
from .scoring.parallel import Launch, fill_share, fill_with_ray, plan_together, remote_scorer
from .scoring.run import ScoringRun
from .scoring.spec import ScoringSpec
from .scoring.store import FILE_NAME, ScoreStore, cache_folder
from .streams import scored_stream, selected_stream


if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from datasets import Dataset, Features, IterableDataset
    from huggingface_hub import DatasetCard

    from .data.tables import AnyDataset
    from .scoring.parallel import RayOptions

logger = logging.getLogger(__name__)

Part: TypeAlias = tuple[int, str]
"""A call of `score` and one of the splits that it was given."""

RULE_OPTIONS = ("keep", "rule", "n", "fraction", "axis", "seed")


class EmpathyDataSelector:
    """
    Scores dialogues on sensibility and rationality, and selects the ones to train an expert on.

    Args:
        scorer (`str`, `os.PathLike` or [`Scorer`], *optional*, defaults to `"linear"`):
            The bundled scorer, a folder, a hub id, or any object with `fingerprint` and `score`. Loaded at first use.
        threshold (`float`, pair or mapping, *optional*, defaults to `5.0`):
            T of the released rule, in [0, 10], for both axes or for each: `(5, 4)`, `{"rationality": 4}`.
        ties (`str`, *optional*, defaults to `"drop"`):
            What a score equal to T is: of no quadrant (`"drop"`, the released rule), `"high"` or `"low"`.
        turns (`str`, *optional*, defaults to `"each"`):
            Of conversations, whether every listener turn is a sample (`"each"`) or only the last (`"last"`).
        details (`bool`, *optional*, defaults to `False`):
            Whether `score` also adds what the scorer tells beside its scores: for a judge the mode, spread and answer
            mass of each axis.
        store (`bool`, `str`, `os.PathLike` or [`ScoreStore`], *optional*, defaults to `True`):
            Where scores are kept as they are made, so that nothing is scored twice: `True` for the usual cache place
            (`~/.cache/ee_trl`, or `$EE_TRL_CACHE`), a file, or `False` for nowhere. The linear scorer needs none.
        retry_failures (`bool`, *optional*, defaults to `False`):
            Whether dialogues that a scorer failed on in an earlier run are tried again.
        ray ([`RayOptions`], *optional*):
            Score on a Ray cluster (or on a Ray started here) with these actors, rather than in this process.
        batch_rows (`int`, *optional*, defaults to `1000`):
            Rows read at a time. Changes no score.
        show_progress (`bool`, *optional*):
            Progress bars on standard error; by default where that is a terminal.
        scorer_options:
            Passed to the scorer's class.

    Example:
        ```python
        from ee_trl import EmpathyDataSelector, load_sample

        selector = EmpathyDataSelector("linear", threshold=5.0)
        scored = selector.score(load_sample())
        subset = selector.select(scored, keep="sensibility")
        print(selector.summary(scored))
        ```
    """

    def __init__(
        self,
        scorer: str | os.PathLike[str] | Scorer = "linear",
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
        check_turns(turns)
        if ties not in TIES:
            raise SelectionError(unknown("ties", ties, TIES))
        if not isinstance(batch_rows, int) or batch_rows < 1:
            raise SelectionError(f"batch_rows {batch_rows!r} is not a whole number of at least 1")
        self.threshold = thresholds(threshold)
        self.ties = ties
        self.turns = turns
        self.details = details
        self.retry_failures = retry_failures
        self.batch_rows = batch_rows
        self.show_progress = show_progress
        self._spec = scorer
        self._options = scorer_options
        if scorer == "cascade":  # what its two scorers are to agree on
            self._options = {"threshold": self.threshold, "ties": ties, **scorer_options}
        self._store = store
        self._ray = ray
        self._runs: dict[Part | None, ScoringRun] = {}
        self._calls = 0

    @cached_property
    def scorer(self) -> Scorer:
        """The scorer, loaded when it is first needed; with Ray, its name alone."""
        if self._ray is None:
            return load_scorer(self._spec, **self._options)
        return remote_scorer(self._spec, self._options, self._ray)

    @cached_property
    def store(self) -> ScoreStore | None:
        """Where scores are kept; `None` for nowhere, as of a scorer that is cheaper than a look-up."""
        if self._store is False or not getattr(self.scorer, "stored", True):
            return None
        if isinstance(self._store, ScoreStore):
            return self._store
        return ScoreStore(None if self._store is True else self._store)

    def new_run(self, filled: Coverage | None = None, part: Part | None = None) -> ScoringRun:
        """
        The scorer at work, with its store; [`~EmpathyDataSelector.coverage`] is of this run from now on.

        Args:
            filled ([`Coverage`], *optional*): What [`~EmpathyDataSelector.fill_store`] gave, if that went before.
            part (`tuple[int, str]`, *optional*): Call and split, whose run counts beside those of the call's others.
        """
        run = ScoringRun(self.scorer, self.store, retry_failures=self.retry_failures, filled=filled)
        self._runs = {key: r for key, r in self._runs.items() if part and key and key[0] == part[0]}
        self._runs[part] = run
        return run

    @property
    def coverage(self) -> Coverage | None:
        """
        What the last scoring did, all splits together: scored, unscored by reason, from the store, tokens, time;
        `None` before any. Splits that are streams count as far as they have been read.
        """
        return Coverage.of_splits([run.coverage for run in self._runs.values()]) if self._runs else None

    @property
    def detail_columns(self) -> tuple[str, ...]:
        """The columns that `details=True` adds."""
        if not self.details:
            return ()
        names = getattr(self.scorer, "details", ())
        if not names:
            raise ScorerError(f"scorer {self.scorer.fingerprint!r} tells nothing beside its scores; leave out details")
        return tuple(names)

    # ---- score -----------------------------------------------------------------------------------------------------

    def score(self, dataset: AnyDataset | str | os.PathLike[str], *, shared: bool = False) -> Any:
        """
        Adds `sensibility`, `rationality`, `score_status`, `scorer` and `quadrant` to every sample of a data set.

        Source columns and their order survive; a source column whose name is taken is kept under another
        (`given_sensibility`, `source_turn`). Conversations give one row for each listener turn, with `row_index` and
        `turn`. Rows that cannot be scored are kept, with null scores and the reason in `score_status`. Rows that this
        scorer has scored already are not scored again.

        Args:
            dataset (`Dataset`, `IterableDataset`, `DatasetDict`, `str` or `os.PathLike`):
                In any of the formats in [`~ee_trl.data.formats.FORMATS`], or the path or hub name of such.
            shared (`bool`, *optional*, defaults to `False`):
                Under `torchrun` or `accelerate launch`: every process calls this with the same data set, scores its
                share into the store that they have in common, and gets all of it.

        Returns:
            The same kind of data set; a path gives a `Dataset`, or a `DatasetDict` if it has several splits.

        Raises:
            [`FormatError`]: No dialogue format fits the columns, or there are images.
            [`ScoresError`]: The data set has scores of another scorer.
        """
        if isinstance(dataset, (str, os.PathLike)):
            opened = open_rows(dataset)
            return self._score_splits(opened, lambda rows, part: self._score_rows(rows, shared, part))
        check_dataset(dataset)
        return self._score_splits(
            dataset,
            lambda rows, part: (
                scored_stream(self, rows, part) if is_stream(rows) else self._score_rows(rows, shared, part)
            ),
        )

    def _score_splits(self, dataset: Any, score: Callable[[Any, Part | None], Any]) -> Any:
        """What `score` makes of a data set, or of each of its splits."""
        if not hasattr(dataset, "keys"):
            return score(dataset, None)
        for rows in dataset.values():
            check_dataset(rows)
        self._calls += 1
        return type(dataset)({name: score(rows, (self._calls, str(name))) for name, rows in dataset.items()})

    def _score_rows(self, dataset: Dataset | IterableDataset, shared: bool, part: Part | None) -> Dataset:
        filled = self.fill_store(dataset, part=part) if shared or self._ray else None
        features, tables = self.score_tables(dataset, filled=filled, part=part)
        scored = to_dataset(tables, features)
        logger.info("%s", self.coverage)
        return scored

    def fill_store(
        self, dataset: Dataset | IterableDataset, total: int | None = None, part: Part | None = None
    ) -> Coverage | None:
        """
        Scores into the store what it lacks: on a Ray cluster, or each process of a launch its share of it.

        Returns:
            [`Coverage`]: the work of all, once all are done; `None` for a scorer that is cheaper than the store.
        """
        if self.store is None:
            if self._ray is not None:
                raise ScorerError("scores come back from a Ray cluster through the store; leave out --no-store")
            return None
        layout = engine.layout_of(list(features_of(dataset)), self.detail_columns)
        launch = Launch() if self._ray else Launch.from_environment()
        self._plan(dataset, launch)
        bar = self._bar("score", dataset, total, show=False if launch.rank else self.show_progress)
        run = self.new_run(part=part)
        run.after_batch = lambda: bar.set_postfix_str(f"{run.coverage.asked:,} asked of the scorer")
        dialogues = engine.unscored_dialogues(progress(self._batches(dataset, layout), bar), layout, run)
        if self._ray is None:
            return fill_share(run, dialogues, launch)
        return fill_with_ray(run, dialogues, self._ray)

    def _plan(self, dataset: Any, launch: Launch | None = None) -> None:
        """Shows all dialogues to a scorer that must see them before it scores any (a cascade with a budget)."""
        scorer: Any = self.scorer
        if getattr(scorer, "needs_plan", False):
            scorer.use_store(self.store, self.retry_failures)
            dialogues = (s.dialogue for s in read_samples(dataset, self.turns) if s.dialogue is not None)
            plan_together(scorer, dialogues, launch or Launch())

    def _batches(self, dataset: Any, layout: engine.Layout) -> Iterator[Batch]:
        return iter_samples(dataset, self.turns, columns=layout.read, batch_rows=self.batch_rows)

    def _bar(self, label: str, dataset: Any, total: int | None, show: bool | None) -> Any:
        return progress_bar(total=total if is_stream(dataset) else len(dataset), label=label, show=show)

    def score_tables(
        self,
        dataset: Dataset | IterableDataset,
        total: int | None = None,
        filled: Coverage | None = None,
        part: Part | None = None,
    ) -> tuple[Features, Iterator[pa.Table]]:
        """
        The scored data set as features and a stream of Arrow tables, for writing it in flat memory.

        Args:
            dataset (`Dataset` or `IterableDataset`): One split.
            total (`int`, *optional*): Its rows, for the progress bar, where it is a stream.
            filled ([`Coverage`], *optional*): What [`~EmpathyDataSelector.fill_store`] gave, if that went before.
            part (`tuple[int, str]`, *optional*): See [`~EmpathyDataSelector.new_run`].
        """
        from datasets import Features, Value

        features = features_of(dataset)
        layout = engine.layout_of(list(features), self.detail_columns)
        if layout.given_scores:
            kept = " and ".join(layout.renames[name] for name in layout.given_scores)
            logger.warning("the data set's own scores are kept as %s; to use those, select without scoring", kept)
        self._plan(dataset)
        bar = self._bar("write" if filled else "score", dataset, total, self.show_progress)
        run = self.new_run(filled, part)
        run.after_batch = lambda: bar.set_postfix_str(f"{run.coverage.asked:,} asked of the scorer")
        scored = engine.score_tables(progress(self._batches(dataset, layout), bar), layout, run)
        out = engine.scored_features(features, layout)
        return Features({**out, QUADRANT: Value("string")}), (self._with_quadrant(table) for table in scored)

    def _with_quadrant(self, table: pa.Table) -> pa.Table:
        import pyarrow as pa

        s, r = (table.column(a).to_numpy(zero_copy_only=False) for a in (SENSIBILITY, RATIONALITY))
        names = quadrants(s, r, self.threshold, self.ties)
        column = pa.array([name or None for name in names.tolist()], pa.string())
        if QUADRANT in table.column_names:
            return table.set_column(table.schema.get_field_index(QUADRANT), QUADRANT, column)
        return table.append_column(QUADRANT, column)

    # ---- select ----------------------------------------------------------------------------------------------------

    def select(
        self,
        scored: AnyDataset | str | os.PathLike[str],
        keep: str | Iterable[str] = SENSIBILITY,
        rule: str = "threshold",
        *,
        n: int | None = None,
        fraction: float | None = None,
        axis: str | None = None,
        seed: int = 0,
    ) -> Any:
        """
        The samples that a rule keeps, as conversational `prompt` and `completion`, ready for SFTTrainer.

        Args:
            scored (`Dataset`, `IterableDataset`, `DatasetDict`, `str` or `os.PathLike`):
                What [`~EmpathyDataSelector.score`] gave, or any data set that brings its own columns `sensibility` and
                `rationality`. A stream can be selected from by the threshold rule alone.
            keep, rule, n, fraction, axis, seed:
                See [`~ee_trl.selection.select_indices`]; T and ties are the selector's.

        Returns:
            The same kind of data set. Dialogue columns become `prompt` and `completion`; the others survive, and so
            does the order.

        Raises:
            [`ScoresError`]: There are no scores, or they are not numbers.
            [`SelectionError`]: See [`~ee_trl.selection.select_indices`].
        """
        options: dict[str, Any] = {
            "keep": keep,
            "rule": rule,
            "n": n,
            "fraction": fraction,
            "axis": axis,
            "seed": seed,
        }
        scored = opened(scored)
        if hasattr(scored, "keys"):
            return each_split(scored, lambda part: self.select(part, **options))
        if is_stream(scored):
            return selected_stream(self, scored, **options)
        chosen = self.choose(scored, **options)
        features, tables = self.select_tables(scored, chosen)
        return to_dataset(tables, features)

    def choose(self, scored: Dataset | IterableDataset, **options: Any) -> rules.Selection:
        """The [`Selection`] behind [`~EmpathyDataSelector.select`]: indices, and for every sample dropped a reason."""
        scored = opened(scored)
        if hasattr(scored, "keys"):
            raise FormatError(f"there are several splits: {', '.join(scored)}; choose from one of them")
        scores = read_scores(scored, lengths=options.get("rule") == "longest")
        chosen = rules.select_indices(
            scores.sensibility,
            scores.rationality,
            threshold=self.threshold,
            ties=self.ties,
            lengths=scores.lengths,
            **options,
        )
        return replace(chosen, settings={**chosen.settings, "scorer": list(scores.scorers)})

    def select_tables(
        self, scored: Dataset | IterableDataset, chosen: rules.Selection
    ) -> tuple[Features, Iterator[pa.Table]]:
        """The rows chosen, as features and a stream of Arrow tables, for writing them in flat memory."""
        kept = chosen.kept
        features = features_of(scored)
        bar = progress_bar(total=len(kept), label="select", show=self.show_progress)
        tables = progress(tables_of(scored, self.batch_rows), bar)
        return training_features(features), self.kept_tables(tables, features, kept)

    def kept_tables(self, tables: Iterable[pa.Table], features: Features, kept: np.ndarray) -> Iterator[pa.Table]:
        """The rows `kept` of scored tables, as training rows, with their quadrant at the selector's threshold."""
        if QUADRANT in features and "scorer" in features:  # it was written at the threshold of scoring
            tables = (self._with_quadrant(table) for table in tables)
        return training_tables(tables, features, kept)

    # ---- look ------------------------------------------------------------------------------------------------------

    def summary(self, scored: AnyDataset | str | os.PathLike[str]) -> Any:
        """
        Counts, shares of the quadrants, reasons of the unscored, and shares per emotion where there is that column.

        Returns:
            [`~ee_trl.reports.summary.Summary`], which prints as a table; a mapping of split to summary for several.
        """
        scored = opened(scored)
        if hasattr(scored, "keys"):
            return BySplit((name, self.summary(part)) for name, part in scored.items())
        return summarise(read_scores(scored, emotion=True), self.threshold, self.ties)

    def sweep(self, scored: AnyDataset | str | os.PathLike[str], grid: Iterable[float] = range(1, 10)) -> Any:
        """The share of each quadrant at each threshold, by split if several; see [`~ee_trl.selection.sweep`]."""
        scored = opened(scored)
        if hasattr(scored, "keys"):
            grid = list(grid)
            return BySplit((name, self.sweep(part, grid)) for name, part in scored.items())
        scores = read_scores(scored)
        return rules.sweep(scores.sensibility, scores.rationality, grid, self.ties)

    def explore(
        self, scored: AnyDataset | str | os.PathLike[str], output: str | os.PathLike[str], **options: Any
    ) -> Path:
        """
        Writes a page on which to choose thresholds and read the dialogues, starting at the selector's.

        Args:
            scored (`Dataset`, `IterableDataset`, `str` or `os.PathLike`): See [`~EmpathyDataSelector.select`].
            output (`str` or `os.PathLike`): Ends in `.html`.
            options: Of [`write_explorer`].

        Returns:
            `Path` of the page.
        """
        from .reports.explorer import write_explorer

        return write_explorer(scored, output, threshold=self.threshold, ties=self.ties, **options)

    def card(self, scored: AnyDataset | str | os.PathLike[str], **options: Any) -> DatasetCard:
        """
        The dataset card of what [`~EmpathyDataSelector.select`] keeps: thresholds, shares, scorer, what was dropped.

        Args:
            scored (`Dataset`, `IterableDataset`, `str` or `os.PathLike`): See [`~EmpathyDataSelector.select`].
            options:
                Those of `select`, and of the card: `name`, `license` (of the source, by its name on the hub; otherwise
                as the source's own card says, or unknown), `agreement` (the `agreement.json` of `ee-trl agreement`).

        Returns:
            `DatasetCard` of huggingface_hub: `save(path)`, `push_to_hub(repo_id)`.
        """
        from .reports.cards import card_of

        rule = {name: options.pop(name) for name in RULE_OPTIONS if name in options}
        source = os.fspath(scored) if isinstance(scored, (str, os.PathLike)) else None
        dataset = opened(scored)
        scorer = vars(self).get("scorer")  # if it was needed, so that no judge is loaded for its rubric alone
        return card_of(dataset, self.choose(dataset, **rule), source=source, scorer=scorer, **options)

    # ---- train -----------------------------------------------------------------------------------------------------

    def attach(self, trainer: Any, policy: Any = "sensibility", **options: Any) -> Any:
        """
        Lets a policy decide, by these scores, what an SFTTrainer draws and how much each sample counts in its loss.

        Args:
            trainer (`SFTTrainer`): Made already, not trained yet.
            policy (`str` or `Callable`, *optional*, defaults to `"sensibility"`): See [`EmpathyCallback`].
            options: Of [`EmpathyCallback`], e.g. `warmup=0.1`, and of the policy.

        Returns:
            [`EmpathyCallback`], added to the trainer.
        """
        from .online.callback import EmpathyCallback

        callback = EmpathyCallback(self, policy, trainer=trainer, **options)
        trainer.add_callback(callback)
        return callback

    @property
    def spec(self) -> ScoringSpec:
        """What it takes to score in another process as this selector does."""
        store = self._store.path if isinstance(self._store, ScoreStore) else self._store
        place = cache_folder() / FILE_NAME if store is True else store or None
        return ScoringSpec(
            self._spec,
            self._options,
            None if place is None else os.fspath(place),
            self.retry_failures,
            self.threshold,
            self.ties,
            self.turns,
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_runs": {}}  # a run belongs to its process

    def __repr__(self) -> str:
        return f"EmpathyDataSelector({self._spec!r}, threshold={self.threshold}, ties={self.ties!r})"
