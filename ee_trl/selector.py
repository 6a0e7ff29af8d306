"""[`EmpathyDataSelector`]: score, select, sweep and summary over any data set, in a few lines of a user's script."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

from . import selection as rules
from .axes import AXES, DEFAULT_THRESHOLD, RATIONALITY, SENSIBILITY
from .data import columns_of, features_of, open_dataset, progress, rows_of, tables_of, to_dataset
from .dialogue import Turns, check_turns, recognise, samples_of, utterance_number
from .errors import FormatError, ScorerError, SelectionError, unknown
from .reports.summary import summarise
from .scoring import engine
from .scoring.base import Scorer
from .scoring.load import check_scorer, load_scorer
from .subset import (
    check_scored,
    read_scores,
    refuse_utterances,
    training_features,
    training_row,
    training_tables,
)


if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, Features, IterableDataset

    from .data import AnyDataset

logger = logging.getLogger(__name__)

QUADRANT = "quadrant"


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
        threshold: rules.Threshold = DEFAULT_THRESHOLD,
        ties: str = "drop",
        turns: Turns = "each",
        details: bool = False,
        batch_rows: int = 1_000,
        show_progress: bool | None = None,
        **scorer_options: Any,
    ) -> None:
        check_scorer(scorer)
        check_turns(turns)
        if ties not in rules.TIES:
            raise SelectionError(unknown("ties", ties, rules.TIES))
        if not isinstance(batch_rows, int) or batch_rows < 1:
            raise SelectionError(f"batch_rows {batch_rows!r} is not a whole number of at least 1")
        self.threshold = rules.thresholds(threshold)
        self.ties = ties
        self.turns = turns
        self.details = details
        self.batch_rows = batch_rows
        self.show_progress = show_progress
        self._spec = scorer
        self._options = scorer_options

    @cached_property
    def scorer(self) -> Scorer:
        """The scorer, loaded when it is first needed."""
        return load_scorer(self._spec, **self._options)

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

    def score(self, dataset: AnyDataset | str | os.PathLike[str]) -> Any:
        """
        Adds `sensibility`, `rationality`, `score_status`, `scorer` and `quadrant` to every sample of a data set.

        Source columns and their order survive; a source column whose name is taken is kept under another
        (`given_sensibility`, `source_turn`). Conversations give one row for each listener turn, with `row_index` and
        `turn`. Rows that cannot be scored are kept, with null scores and the reason in `score_status`. Rows that this
        scorer has scored already are not scored again.

        Args:
            dataset (`Dataset`, `IterableDataset`, `DatasetDict`, `str` or `os.PathLike`):
                In any of the formats in [`~ee_trl.dialogue.FORMATS`], or the path or hub name of such.

        Returns:
            The same kind of data set; a path gives a `Dataset`, or a `DatasetDict` if it has several splits.

        Raises:
            [`FormatError`]: No dialogue format fits the columns, or there are images.
            [`ScoresError`]: The data set has scores of another scorer.
        """
        if isinstance(dataset, (str, os.PathLike)):
            opened = open_rows(dataset)
            return _each_split(opened, self._score_rows) if hasattr(opened, "keys") else self._score_rows(opened)
        _check_dataset(dataset)
        if hasattr(dataset, "keys"):
            return _each_split(dataset, self.score)
        return self._score_stream(dataset) if _is_stream(dataset) else self._score_rows(dataset)

    def _score_rows(self, dataset: Dataset | IterableDataset) -> Dataset:
        features, tables = self.score_tables(dataset)
        return to_dataset(tables, features)

    def score_tables(
        self, dataset: Dataset | IterableDataset, total: int | None = None
    ) -> tuple[Features, Iterator[pa.Table]]:
        """The scored data set as features and a stream of Arrow tables, for writing it in flat memory."""
        from datasets import Features, Value

        features = features_of(dataset)
        layout = engine.layout_of(list(features), self.detail_columns)
        if layout.given_scores:
            kept = " and ".join(layout.renames[name] for name in layout.given_scores)
            logger.warning("the data set's own scores are kept as %s; to use those, select without scoring", kept)
        order = None
        if layout.fmt.utterance_rows and not _is_stream(dataset):
            order = _conversation_order(dataset)
            dataset = dataset.select(order)
        total = total if _is_stream(dataset) else len(dataset)
        tables = progress(tables_of(dataset, self.batch_rows), total=total, label="score", show=self.show_progress)
        scored = engine.score_tables(tables, features, layout, self.scorer, self.turns, order)
        out = engine.scored_features(features, layout)
        return Features({**out, QUADRANT: Value("string")}), (self._with_quadrant(table) for table in scored)

    def _with_quadrant(self, table: pa.Table) -> pa.Table:
        import pyarrow as pa

        s, r = (table.column(a).to_numpy(zero_copy_only=False) for a in (SENSIBILITY, RATIONALITY))
        names = rules.quadrants(s, r, self.threshold, self.ties)
        column = pa.array([name or None for name in names.tolist()], pa.string())
        if QUADRANT in table.column_names:
            return table.set_column(table.schema.get_field_index(QUADRANT), QUADRANT, column)
        return table.append_column(QUADRANT, column)

    def _score_stream(self, stream: IterableDataset) -> IterableDataset:
        from datasets import IterableDataset

        stream = stream.with_format(None)
        if stream.features is not None:
            features, _ = self.score_tables(stream)
            return IterableDataset.from_generator(
                _rows_of_tables, features=features, gen_kwargs={"make": self.score_tables, "stream": stream}
            )
        layout = engine.layout_of(columns_of(stream), self.detail_columns)

        def rows() -> Iterator[dict[str, Any]]:
            batches = engine.batched_rows(stream, layout, self.batch_rows)
            for row in engine.score_rows(batches, layout, self.scorer, self.turns):
                name = rules.quadrants([row[SENSIBILITY]], [row[RATIONALITY]], self.threshold, self.ties)[0]
                yield row | {QUADRANT: str(name) or None}

        return IterableDataset.from_generator(rows)

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
        scored = _opened(scored)
        if hasattr(scored, "keys"):
            return _each_split(scored, lambda part: self.select(part, **options))
        if _is_stream(scored):
            return self._select_stream(scored, **options)
        chosen = self.choose(scored, **options)
        features, tables = self.select_tables(scored, chosen)
        return to_dataset(tables, features)

    def choose(self, scored: Dataset | IterableDataset, **options: Any) -> rules.Selection:
        """The [`Selection`] behind [`~EmpathyDataSelector.select`]: indices, and for every sample dropped a reason."""
        scored = _opened(scored)
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
        kept = chosen.reasons == ""
        features = features_of(scored)
        tables: Iterable[pa.Table] = tables_of(scored, self.batch_rows)
        if QUADRANT in features and "scorer" in features:  # it was written at the threshold of scoring
            tables = (self._with_quadrant(table) for table in tables)
        tables = progress(tables, total=len(kept), label="select", show=self.show_progress)
        return training_features(features), training_tables(tables, features, kept)

    def _select_stream(self, stream: IterableDataset, **options: Any) -> IterableDataset:
        from datasets import IterableDataset

        if options["rule"] != "threshold":
            raise SelectionError(
                f"rule {options['rule']!r} needs all the scores at once, which a stream does not give; use "
                "rule='threshold', or a datasets.Dataset"
            )
        stream = stream.with_format(None)
        columns = columns_of(stream)
        check_scored(columns)
        fmt = recognise(columns)
        refuse_utterances(fmt)

        def choose(batch: list[dict[str, Any]]) -> list[int]:
            scores: list[list[Any]] = [[row.get(axis) for row in batch] for axis in AXES]
            chosen = rules.select_indices(*scores, threshold=self.threshold, ties=self.ties, **options)
            return chosen.indices.tolist()

        choose([])  # what is wrong with the options is said now, not when the first row is read

        def rows() -> Iterator[dict[str, Any]]:
            source = iter(stream)
            while batch := list(islice(source, self.batch_rows)):
                for i in choose(batch):
                    [sample] = samples_of(fmt, [batch[i]], "last")
                    if sample.dialogue:
                        yield training_row(batch[i], sample.dialogue)

        features = training_features(stream.features) if stream.features is not None else None
        return IterableDataset.from_generator(rows, features=features)

    # ---- look ------------------------------------------------------------------------------------------------------

    def summary(self, scored: AnyDataset | str | os.PathLike[str]) -> Any:
        """
        Counts, shares of the quadrants, reasons of the unscored, and shares per emotion where there is that column.

        Returns:
            [`~ee_trl.reports.summary.Summary`], which prints as a table; a mapping of split to summary for several.
        """
        scored = _opened(scored)
        if hasattr(scored, "keys"):
            return {name: self.summary(part) for name, part in scored.items()}
        return summarise(read_scores(scored, emotion=True), self.threshold, self.ties)

    def sweep(self, scored: AnyDataset | str | os.PathLike[str], grid: Iterable[float] = range(1, 10)) -> Any:
        """The share of each quadrant at each threshold, by split if several; see [`~ee_trl.selection.sweep`]."""
        scored = _opened(scored)
        if hasattr(scored, "keys"):
            grid = list(grid)
            return {name: self.sweep(part, grid) for name, part in scored.items()}
        scores = read_scores(scored)
        return rules.sweep(scores.sensibility, scores.rationality, grid, self.ties)

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

    def __repr__(self) -> str:
        return f"EmpathyDataSelector({self._spec!r}, threshold={self.threshold}, ties={self.ties!r})"


def _opened(dataset: Any) -> Any:
    """The data set itself, or what is found under a path or name; the only split of a mapping with one split."""
    if isinstance(dataset, (str, os.PathLike)):
        found: Any = open_dataset(dataset)
        return next(iter(found.values())) if hasattr(found, "keys") and len(found) == 1 else found
    _check_dataset(dataset)
    return dataset


def open_rows(source: str | os.PathLike[str], *, config: str | None = None, split: str | None = None) -> Any:
    """The rows of a path or name, to read once: parquet as a stream, unless neighbouring rows must be found."""
    found: Any = open_dataset(source, config=config, split=split, streaming=True)
    if hasattr(found, "keys"):
        return next(iter(found.values())) if len(found) == 1 else found
    if _is_stream(found) and recognise(features_of(found)).utterance_rows:
        return open_dataset(source, config=config, split=split)
    return found


def _check_dataset(dataset: Any) -> None:
    if not hasattr(dataset, "keys") and not hasattr(dataset, "iter"):
        raise FormatError(
            f"{type(dataset).__name__} is not a data set; give a datasets.Dataset, IterableDataset or DatasetDict, or "
            "a path or hub name. datasets.Dataset.from_list makes one from a list of dicts."
        )


def _each_split(splits: Any, function: Any) -> Any:
    return type(splits)({name: function(part) for name, part in splits.items()})


def _is_stream(dataset: Any) -> bool:
    return not hasattr(dataset, "__len__")


def _rows_of_tables(make: Any, stream: IterableDataset) -> Iterator[dict[str, Any]]:
    """The rows of the tables that `make` gives of a stream; made anew whenever the stream is read."""
    features, tables = make(stream)
    for table in tables:
        yield from rows_of(table, features, list(features))


def _conversation_order(dataset: Dataset) -> list[int]:
    """Row numbers by conversation (in order of first appearance), and within one by `utterance_idx`."""
    first: dict[Any, int] = {}
    columns = dataset.select_columns(["conv_id", "utterance_idx"]).with_format(None)[:]
    names, numbers = columns["conv_id"], columns["utterance_idx"]
    for i, name in enumerate(names):
        first.setdefault(name, i)
    return sorted(range(len(names)), key=lambda i: (first[names[i]], utterance_number(numbers[i]), i))
