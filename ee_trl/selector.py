"""[`EmpathyDataSelector`]: scores, selects and summarises dialogues, and lets their scores guide a training."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import selection as rules
from .axes import AXES, FLAG, QUADRANT, SENSIBILITY
from .data.dialogue import samples_of
from .data.formats import recognise
from .data.reading import opened
from .data.samples import (
    check_scored,
    iter_samples,
    iter_scores,
    read_scores,
    refuse_utterances,
    training_features,
    training_row,
    training_tables,
)
from .data.tables import (
    chosen_rows,
    columns_of,
    each_split,
    features_of,
    is_stream,
    only_columns,
    progress,
    progress_bar,
    stream_of_rows,
    stream_of_tables,
    tables_of,
    to_dataset,
)
from .data.tally import Tally
from .display import BySplit
from .errors import FormatError, SelectionError, check_choice, options_named
from .reports.summary import summarise
from .scoring.dataset import DatasetScorer


if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, Features, IterableDataset
    from huggingface_hub import DatasetCard

    from .data.tables import AnyDataset

RULE_OPTIONS = ("keep", "rule", "n", "fraction", "axis", "seed", "control", "exclude")


class EmpathyDataSelector(DatasetScorer):
    """
    Scores dialogues on sensibility and rationality, and selects the ones to train an expert on.

    Args:
        scorer (`str`, `os.PathLike` or [`Scorer`], *optional*, defaults to [`~ee_trl.scoring.kinds.DEFAULT_SCORER`]):
            A bundled scorer's name, a folder, a hub id, or any object with `fingerprint` and `score`. Loaded at first
            use.
        threshold (`float`, pair or mapping, *optional*, defaults to `5.0`):
            T of the released rule, in [0, 10], for both axes or for each: `(5, 4)`, `{"rationality": 4}`.
        ties (`str`, *optional*, defaults to `"drop"`):
            How a score equal to T counts: in no quadrant (`"drop"`, the released rule), as `"high"` or as `"low"`.
        turns (`str`, *optional*, defaults to `"each"`):
            The samples of a conversation: every listener turn (`"each"`) or the last one (`"last"`).
        details (`bool`, *optional*, defaults to `False`):
            Whether `score` adds the scorer's other columns; for a judge: mode, spread and answer mass of each axis.
        store (`bool`, `str`, `os.PathLike` or [`ScoreStore`], *optional*, defaults to `True`):
            Where scores are stored as they are made, so that nothing is scored twice: `True` for the cache folder
            (`~/.cache/ee_trl`, or `$EE_TRL_CACHE`), a file, or `False` for no store. The linear scorer needs none.
        retry_failures (`bool`, *optional*, defaults to `False`):
            Whether dialogues on which the scorer failed in an earlier run are tried again.
        ray ([`RayOptions`], *optional*):
            Actors of a Ray cluster that score, instead of this process.
        batch_rows (`int`, *optional*, defaults to `1000`):
            Rows read at a time; does not change the scores.
        show_progress (`bool`, *optional*):
            Whether to show progress bars on standard error; by default if that is a terminal.
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

    @options_named
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
        control: str | None = None,
        exclude: str | Iterable[str] = "all",
    ) -> Any:
        """
        The samples that a rule keeps, as conversational `prompt` and `completion`, ready for SFTTrainer.

        Args:
            scored (`Dataset`, `IterableDataset`, `DatasetDict`, `str` or `os.PathLike`):
                What [`~EmpathyDataSelector.score`] returned, or any data set with columns `sensibility` and
                `rationality`. A stream takes only the threshold rule, without control.
            keep, rule, n, fraction, axis, seed, control, exclude:
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
            "control": control,
            "exclude": exclude,
        }
        scored = opened(scored)
        if hasattr(scored, "keys"):
            return each_split(scored, lambda part: self.select(part, **options))
        if is_stream(scored):
            return self._select_stream(scored, **options)
        chosen = self.choose(scored, **options)
        features, tables = self.select_tables(scored, chosen)
        return to_dataset(tables, features)

    def _select_stream(self, stream: IterableDataset, **options: Any) -> IterableDataset:
        """What the threshold rule keeps of a stream; nothing is read yet, but bad options are refused at once."""
        if options["rule"] != "threshold" or options["control"] is not None:
            what = f"rule {options['rule']!r}" if options["rule"] != "threshold" else f"control={options['control']!r}"
            raise SelectionError(
                f"{what} needs all the scores at once, and a stream does not give them; use rule='threshold' without "
                "control, or a datasets.Dataset"
            )
        stream = stream.with_format(None)
        columns = columns_of(stream)
        check_scored(columns)
        fmt = recognise(columns)
        refuse_utterances(fmt)

        def chosen(batch: list[dict[str, Any]]) -> list[int]:
            scores: list[list[Any]] = [[row.get(axis) for row in batch] for axis in AXES]
            rule = {"threshold": self.threshold, "ties": self.ties, **options}
            found = rules.select_indices(*scores, flags=[row.get(FLAG) for row in batch], **rule)
            return found.indices.tolist()

        chosen([])  # refuses bad options now, not when the first row is read
        if stream.features is not None:
            make = partial(self._kept_of_stream, options=options)
            return stream_of_tables(make, stream, training_features(stream.features))

        def rows() -> Iterator[dict[str, Any]]:
            source = iter(stream)
            while batch := list(islice(source, self.batch_rows)):
                for i in chosen(batch):
                    [sample] = samples_of(fmt, [batch[i]], "last")
                    if sample.dialogue:
                        yield training_row(batch[i], sample.dialogue)

        return stream_of_rows(rows)

    def _kept_of_stream(self, stream: IterableDataset, options: dict[str, Any]) -> tuple[Features, Iterator[pa.Table]]:
        from datasets import Dataset

        features = features_of(stream)

        def tables() -> Iterator[pa.Table]:
            for table in tables_of(stream, self.batch_rows):
                chosen = self.choose(Dataset(table), **options)
                yield from self.kept_tables([table], features, chosen.kept)

        return training_features(features), tables()

    def choose(self, scored: Dataset | IterableDataset, **options: Any) -> rules.Selection:
        """The [`Selection`] behind [`~EmpathyDataSelector.select`]: indices, and why the others are dropped."""
        scored = opened(scored)
        if hasattr(scored, "keys"):
            raise FormatError(f"there are several splits: {', '.join(scored)}; choose from one of them")
        needed = options.get("rule") == "longest" or options.get("control") == "length"
        scores, axis = read_scores(scored, lengths=needed), options.get("axis")
        chosen = rules.select_indices(
            scores.sensibility,
            scores.rationality,
            threshold=self.threshold,
            ties=self.ties,
            lengths=scores.lengths,
            flags=scores.flags,
            vectors=_vectors(scored, self.show_progress) if options.get("control") == "clusters" else None,
            column=None if axis in (None, *rules.RANKINGS) else _numbers(scored, axis),
            **options,
        )
        return replace(chosen, settings={**chosen.settings, "scorer": list(scores.scorers)})

    def select_tables(
        self, scored: Dataset | IterableDataset, chosen: rules.Selection
    ) -> tuple[Features, Iterator[pa.Table]]:
        """The chosen rows as features and a stream of Arrow tables, so that writing needs little memory."""
        kept = chosen.kept
        features = features_of(scored)
        bar = progress_bar(total=len(kept), label="select", show=self.show_progress)
        tables = progress(tables_of(scored, 10 * self.batch_rows), bar)
        return training_features(features), self.kept_tables(tables, features, kept)

    def kept_tables(self, tables: Iterable[pa.Table], features: Features, kept: np.ndarray) -> Iterator[pa.Table]:
        """The `kept` rows of scored tables as training rows, with their quadrant at the selector's threshold."""
        tables = chosen_rows(tables, kept)
        if QUADRANT in features and "scorer" in features:  # the column was written at the threshold of scoring
            tables = (self.with_quadrant(table) for table in tables)
        return training_tables(tables, features)

    @options_named
    def summary(self, scored: AnyDataset | str | os.PathLike[str]) -> Any:
        """
        Counts, shares of the quadrants, why samples are unscored, and shares by emotion (if known).

        Returns:
            [`~ee_trl.reports.summary.Summary`], which prints as a table; for several splits a mapping by split.
        """
        scored = opened(scored)
        if hasattr(scored, "keys"):
            return BySplit((name, self.summary(part)) for name, part in scored.items())
        return summarise(Tally(iter_scores(scored, emotion=True), self.threshold, self.ties))

    @options_named
    def sweep(self, scored: AnyDataset | str | os.PathLike[str], grid: Iterable[float] = range(1, 10)) -> Any:
        """The share of each quadrant at each threshold, for each split; see [`~ee_trl.selection.sweep`]."""
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
        Writes a page on which to choose thresholds and read the dialogues, starting at the selector's thresholds.

        Args:
            scored (`Dataset`, `IterableDataset`, `str` or `os.PathLike`): See [`~EmpathyDataSelector.select`].
            output (`str` or `os.PathLike`): Ends in `.html`.
            options: See [`write_explorer`].

        Returns:
            `Path` of the page.
        """
        from .reports.explorer import write_explorer

        return write_explorer(scored, output, threshold=self.threshold, ties=self.ties, **options)

    def card(self, scored: AnyDataset | str | os.PathLike[str], **options: Any) -> DatasetCard:
        """
        The dataset card of what [`~EmpathyDataSelector.select`] keeps: thresholds, shares, scorer, dropped samples.

        Args:
            scored (`Dataset`, `IterableDataset`, `str` or `os.PathLike`): See [`~EmpathyDataSelector.select`].
            options:
                Options of `select`, and of the card: `name`, `license` (the hub's name for the source's licence; by
                default from the source's own card), `agreement` (the `agreement.json` of `ee-trl agreement`).

        Returns:
            `DatasetCard` of huggingface_hub: `save(path)`, `push_to_hub(repo_id)`.
        """
        from .reports.cards import card_of

        rule = {name: options.pop(name) for name in RULE_OPTIONS if name in options}
        source = os.fspath(scored) if isinstance(scored, (str, os.PathLike)) else None
        dataset = opened(scored)
        scorer = vars(self).get("scorer")  # only if loaded: its rubric alone is not worth loading a judge
        return card_of(dataset, self.choose(dataset, **rule), source=source, scorer=scorer, **options)

    def attach(self, trainer: Any, policy: Any = "sensibility", **options: Any) -> Any:
        """
        Attaches a policy: by these scores it decides what an SFTTrainer draws, and how much each sample counts.

        Args:
            trainer (`SFTTrainer`): A trainer that has not trained yet.
            policy (`str` or `Callable`, *optional*, defaults to `"sensibility"`): See [`EmpathyCallback`].
            options: Options of [`EmpathyCallback`], e.g. `warmup=0.1`, and of the policy.

        Returns:
            [`EmpathyCallback`], added to the trainer.
        """
        from .online.callback import EmpathyCallback

        callback = EmpathyCallback(self, policy, trainer=trainer, **options)
        trainer.add_callback(callback)
        return callback

    def __repr__(self) -> str:
        return f"EmpathyDataSelector({self._spec!r}, threshold={self.threshold}, ties={self.ties!r})"


def _numbers(scored: Any, name: str) -> np.ndarray:
    """A column of numbers, NaN where it is null."""
    kinds = {column: str(getattr(kind, "dtype", "")) for column, kind in features_of(scored).items()}
    numbers = [column for column, kind in kinds.items() if re.fullmatch(r"u?int\d+|float\d+|bool", kind)]
    check_choice("axis", name, dict.fromkeys((*rules.RANKINGS, *numbers)), SelectionError)
    tables = tables_of(only_columns(scored, [name]))
    parts = [table.column(name).cast("float64").to_numpy() for table in tables]
    return np.concatenate([np.zeros(0), *parts])


def _vectors(scored: Any, show: bool | None) -> np.ndarray:
    """The bundled encoder's vectors of each row's context and reply, of unit length each; zeros without a dialogue."""
    from .scoring.biencoder import dialogue_vectors

    found = []
    bar = progress_bar(total=None if is_stream(scored) else len(scored), label="clusters", show=show)
    for batch in progress(iter_samples(scored, "last"), bar):
        dialogues = {sample.row: sample.dialogue for sample in batch.samples if sample.dialogue}
        vectors = dialogue_vectors([*dialogues.values()])
        part = np.zeros((batch.num_rows, vectors.shape[1]), np.float32)
        part[[*dialogues]] = vectors
        found.append(part)
    return np.concatenate(found) if found else np.zeros((0, 1), np.float32)
