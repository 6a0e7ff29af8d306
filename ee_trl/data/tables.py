"""Data sets as streams of Arrow tables, so that work on a million rows takes no more memory than on a batch.

The way in is [`~ee_trl.data.reading`], the way out [`~ee_trl.data.writing`].
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

from ..errors import EmpathyError, FormatError, root_cause
from .dialogue import utterance_number
from .rows import rows_of


if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict
    from tqdm import tqdm

    AnyDataset: TypeAlias = Dataset | DatasetDict | IterableDataset | IterableDatasetDict

BATCH_ROWS = 1_000


def is_stream(dataset: Any) -> bool:
    """Whether it is a `datasets.IterableDataset`, whose length nobody knows."""
    return not hasattr(dataset, "__len__")


def each_split(splits: Any, function: Any) -> Any:
    """The same mapping of splits with what `function` gives of each."""
    return type(splits)({name: function(part) for name, part in splits.items()})


def features_of(dataset: Dataset | IterableDataset) -> Features:
    """The features of a data set; a stream that does not know them is asked for its first rows."""
    features = dataset.features
    if features is None:
        features = dataset._resolve_features().features
    if features is None:
        raise FormatError("the data set has no columns: it is empty")
    return features


def columns_of(dataset: Dataset | IterableDataset) -> list[str]:
    """The columns of a data set; of a stream that does not declare them, those of its first row."""
    if dataset.column_names:
        return list(dataset.column_names)
    if hasattr(dataset, "__len__"):
        return []
    for row in dataset.with_format(None):
        return list(row)
    raise FormatError("the stream has no rows")


def tables_of(dataset: Dataset | IterableDataset, batch_rows: int = BATCH_ROWS) -> Iterator[pa.Table]:
    """The rows as Arrow tables of `batch_rows` rows."""
    import pyarrow as pa
    from datasets.table import CastError

    features = features_of(dataset)
    try:
        for table in _raw_tables(dataset, features, batch_rows):
            yield conform(table, features.arrow_schema)
    except (pa.ArrowException, CastError, OSError) as error:
        if getattr(error, "errno", None):  # of the file system
            raise
        raise FormatError(f"the rows cannot be read, the file may be damaged: {root_cause(error)}") from error


def _raw_tables(dataset: Dataset | IterableDataset, features: Features, batch_rows: int) -> Iterator[pa.Table]:
    from datasets import Dataset

    if isinstance(dataset, Dataset) or getattr(dataset._ex_iterable, "iter_arrow", None):
        yield from dataset.with_format("arrow").iter(batch_size=batch_rows)
        return
    # a stream of Python rows, whose types the library would guess for each row anew
    for batch in dataset.with_format(None).iter(batch_size=batch_rows):
        yield Dataset.from_dict(batch, features=features).with_format("arrow")[:]


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the columns, types and metadata of a schema."""
    from datasets.table import table_cast

    # Arrow's own cast fails on lists of structs with a field of nulls, which messages with unused keys are
    return table_cast(table.select(schema.names), schema)


def conversation_order(dataset: Dataset) -> list[int]:
    """Row numbers by conversation (in order of first appearance), and within one by `utterance_idx`."""
    import numpy as np

    first: dict[str, int] = {}
    start, numbers = array("q"), array("d")
    wanted = ["conv_id", "utterance_idx"]
    for table in tables_of(dataset.select_columns(wanted), 10_000):
        for row in rows_of(table, features_of(dataset), wanted):
            i = len(start)
            start.append(i if row["conv_id"] is None else first.setdefault(str(row["conv_id"]), i))
            numbers.append(utterance_number(row["utterance_idx"]))
    return np.lexsort((numbers, start)).tolist()


def spread(n: int, limit: int | None) -> list[int]:
    """Indices of `limit` of `n` samples, evenly spaced; of all of them without a limit."""
    if limit is None or limit >= n:
        return list(range(n))
    if limit < 1:
        raise EmpathyError(f"limit {limit} is not a whole number of at least 1")
    return [i * n // limit for i in range(limit)]


def progress_bar(*, total: int | None, label: str, show: bool | None, unit: str = "rows") -> tqdm[Any]:
    """A progress bar on standard error; `show=None` is where that is a terminal."""
    from tqdm.auto import tqdm

    return tqdm(total=total, desc=label, unit=f" {unit}", disable=None if show is None else not show, smoothing=0.05)


def progress(tables: Iterable[pa.Table], bar: tqdm[Any]) -> Iterator[pa.Table]:
    """The same tables; the bar counts their rows as they have been dealt with."""
    with bar:
        for table in tables:
            yield table
            bar.update(table.num_rows)
