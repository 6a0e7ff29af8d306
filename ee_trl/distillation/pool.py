"""The samples of a data set that a judge could be given, and those chosen as a data set of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.dialogue import Dialogue, Sample
from ..data.formats import DialogueFormat, recognise
from ..data.samples import read_samples
from ..data.tables import features_of, tables_of
from ..errors import FormatError
from ..scoring.store import dialogue_key


if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Features

ORDER = "label_order"
"""Column of the samples chosen: 0 for the most wanted."""


@dataclass(frozen=True)
class Pool:
    """
    What there is to choose from.

    Args:
        dataset (`Dataset` or `IterableDataset`): The source.
        fmt (`DialogueFormat`): Of its rows.
        found (`list[Sample]`): Distinct samples with a reply, their `row` counted over the whole source.
        samples (`int`): All samples, with repetitions and those that cannot be scored.
        labelled (`list[Dialogue]`): Those left out, since they have labels.
    """

    dataset: Any
    fmt: DialogueFormat
    found: list[Sample]
    samples: int
    labelled: list[Dialogue]

    @property
    def dialogues(self) -> list[Dialogue]:
        """Of the samples."""
        return [sample.dialogue for sample in self.found if sample.dialogue is not None]


def open_pool(dataset: Any, labelled: str | os.PathLike[str] | None = None) -> Pool:
    """
    Reads the samples of a data set, each content once.

    Args:
        dataset (`Dataset` or `IterableDataset`): One split, in any format but that of one utterance a row.
        labelled (`str` or `os.PathLike`, *optional*): Dialogues to leave out, since they have labels.
    """
    known = [] if labelled is None else _dialogues(labelled)
    seen = set(map(dialogue_key, known))
    fmt = _format(dataset)
    found: list[Sample] = []
    count = 0
    for sample in read_samples(dataset):
        count += 1
        if sample.dialogue is not None and (key := dialogue_key(sample.dialogue)) not in seen:
            seen.add(key)
            found.append(sample)
    return Pool(dataset, fmt, found, count, known)


def pool_tables(pool: Pool, chosen: np.ndarray) -> tuple[Features, Iterator[pa.Table]]:
    """
    The samples chosen, as rows of the source in the order in which they are wanted.

    Of a conversation of several turns, `row_index` and `turn` name the reply, as in what `ee-trl score` writes:
    scoring the file scores these replies alone.
    """
    import pyarrow as pa
    from datasets import Features, Value

    features = features_of(pool.dataset)
    added = [ORDER, *(("row_index", "turn") if pool.fmt.multi_turn else ())]
    out = Features({**{k: v for k, v in features.items() if k not in added}, **{k: Value("int64") for k in added}})
    wanted = [pool.found[i] for i in chosen]
    values = {
        ORDER: list(range(len(wanted))),
        "row_index": [sample.row for sample in wanted],
        "turn": [sample.turn for sample in wanted],
    }

    def tables() -> Iterator[pa.Table]:
        rows = sorted({sample.row for sample in wanted})
        place = {row: n for n, row in enumerate(rows)}
        table = pa.concat_tables(list(_taken(pool.dataset, rows)))
        table = table.take(pa.array([place[sample.row] for sample in wanted], pa.int64()))
        table = table.select([name for name in table.column_names if name not in added])
        for name in added:
            table = table.append_column(name, pa.array(values[name], pa.int64()))
        yield table

    return out, tables()


def _taken(dataset: Any, rows: list[int]) -> Iterator[pa.Table]:
    import pyarrow as pa

    first = 0
    for table in tables_of(dataset):
        inside = [row - first for row in rows if first <= row < first + table.num_rows]
        if inside:
            yield table.take(pa.array(inside, pa.int64()))
        first += table.num_rows


def _format(dataset: Any) -> DialogueFormat:
    fmt = recognise(list(features_of(dataset)))
    if fmt.utterance_rows:
        raise FormatError(
            "samples of one utterance a row cannot be chosen from; write each reply with its context first: "
            "ee-trl score DIALOGUES -o scored.parquet"
        )
    return fmt


def _dialogues(labelled: str | os.PathLike[str]) -> list[Dialogue]:
    from ..data.reading import open_rows

    dataset = open_rows(labelled)
    _format(dataset)
    return [sample.dialogue for sample in read_samples(dataset) if sample.dialogue]
