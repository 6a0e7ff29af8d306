"""Scoring and selecting from a stream (`datasets.IterableDataset`): nothing is read before the result is."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from . import selection as rules
from .axes import AXES, QUADRANT, RATIONALITY, SENSIBILITY, quadrants
from .data.dialogue import samples_of
from .data.formats import recognise
from .data.samples import check_scored, iter_row_samples, refuse_utterances, training_features, training_row
from .data.tables import columns_of, conform, features_of, tables_of
from .errors import SelectionError
from .scoring import engine


if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Features, IterableDataset

    from .selector import EmpathyDataSelector, Part


def scored_stream(selector: EmpathyDataSelector, stream: IterableDataset, part: Part | None = None) -> IterableDataset:
    """
    [`EmpathyDataSelector.score`] of a stream: its tables, or rows where it does not know its columns; `part` as of
    [`EmpathyDataSelector.new_run`].
    """
    from datasets import DatasetInfo, IterableDataset
    from datasets.iterable_dataset import ArrowExamplesIterable

    stream = stream.with_format(None)
    if stream.features is not None:  # tables, since the library's way back from rows changes values that are JSON
        make = partial(selector.score_tables, part=part)
        features, _ = make(stream)
        tables = ArrowExamplesIterable(_keyed_tables, {"make": make, "stream": stream})
        return IterableDataset(tables, info=DatasetInfo(features=features))
    layout = engine.layout_of(columns_of(stream), selector.detail_columns)

    def rows() -> Iterator[dict[str, Any]]:
        batches = iter_row_samples(stream, layout.fmt, selector.turns, batch_rows=selector.batch_rows)
        for row in engine.score_rows(batches, layout, selector.new_run(part=part)):
            name = quadrants([row[SENSIBILITY]], [row[RATIONALITY]], selector.threshold, selector.ties)[0]
            yield row | {QUADRANT: str(name) or None}

    return IterableDataset.from_generator(rows)


def selected_stream(selector: EmpathyDataSelector, stream: IterableDataset, **options: Any) -> IterableDataset:
    """[`EmpathyDataSelector.select`] from a stream, by the threshold rule; bad options are refused at once."""
    from datasets import DatasetInfo, IterableDataset
    from datasets.iterable_dataset import ArrowExamplesIterable

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
        chosen = rules.select_indices(*scores, threshold=selector.threshold, ties=selector.ties, **options)
        return chosen.indices.tolist()

    choose([])  # what is wrong with the options is said now, not when the first row is read
    if stream.features is not None:
        kept = {"make": partial(_kept_tables, selector=selector, options=options), "stream": stream}
        info = DatasetInfo(features=training_features(stream.features))
        return IterableDataset(ArrowExamplesIterable(_keyed_tables, kept), info=info)

    def rows() -> Iterator[dict[str, Any]]:
        source = iter(stream)
        while batch := list(islice(source, selector.batch_rows)):
            for i in choose(batch):
                [sample] = samples_of(fmt, [batch[i]], "last")
                if sample.dialogue:
                    yield training_row(batch[i], sample.dialogue)

    return IterableDataset.from_generator(rows)


def _kept_tables(
    stream: IterableDataset, selector: EmpathyDataSelector, options: dict[str, Any]
) -> tuple[Features, Iterator[pa.Table]]:
    """The rows chosen from a stream, table by table, as [`~EmpathyDataSelector.select_tables`] gives them."""
    from datasets import Dataset

    features = features_of(stream)

    def tables() -> Iterator[pa.Table]:
        for table in tables_of(stream, selector.batch_rows):
            chosen = selector.choose(Dataset(table), **options)
            yield from selector.kept_tables([table], features, chosen.kept)

    return training_features(features), tables()


def _keyed_tables(make: Any, stream: IterableDataset) -> Iterator[tuple[tuple[int, int], pa.Table]]:
    """The tables that `make` gives of a stream, numbered; made anew whenever the stream is read."""
    features, tables = make(stream)
    for number, table in enumerate(tables):
        yield (0, number), conform(table, features.arrow_schema)
