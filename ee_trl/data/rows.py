"""Arrow tables as rows of Python values."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from .dialogue import SOURCE_ERROR


if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Features

Decoder: TypeAlias = Callable[[Any], Any] | None


def rows_of(table: pa.Table, features: Features, columns: Sequence[str]) -> list[dict[str, Any]]:
    """
    The rows of some columns as Python values, decoded: JSON as what it stands for, class labels as their names.

    Images and sounds stay the bytes that they are. Strings that are no text are null, and `source_error` says so.
    """
    chosen = table.select([name for name in columns if name in table.column_names])
    decoders = {name: _decoder(features[name]) for name in chosen.column_names}
    try:
        values = [_values(column, decoders[name]) for name, column in zip(decoders, chosen.columns, strict=True)]
    except UnicodeDecodeError:  # Arrow holds bytes as strings without a look at them
        return [_readable(chosen.slice(i, 1), decoders) for i in range(chosen.num_rows)]
    return [dict(zip(decoders, row, strict=True)) for row in zip(*values, strict=True)]


def label_names(feature: Any, values: Iterable[int | None]) -> list[str | None]:
    """The names of the class labels, `None` where there is none."""
    known = dict(enumerate(feature.names))
    return [None if value is None else known.get(value) for value in values]


def _values(column: pa.ChunkedArray, decode: Decoder) -> list[Any]:
    values = column.to_pylist()
    return values if decode is None else [None if value is None else decode(value) for value in values]


def _readable(row: pa.Table, decoders: Mapping[str, Decoder]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, decode in decoders.items():
        try:
            [values[name]] = _values(row.column(name), decode)
        except UnicodeDecodeError:
            values |= {name: None, SOURCE_ERROR: "invalid_text"}
    return values


def _decoder(feature: Any) -> Decoder:
    """What decodes a value of this feature other than null; `None` where there is nothing to decode."""
    from datasets import ClassLabel, Json, LargeList, List

    if isinstance(feature, Json):
        return _from_json
    if isinstance(feature, ClassLabel):
        known = dict(enumerate(feature.names))
        return known.get
    if isinstance(feature, (List, LargeList)):
        inner = _decoder(feature.feature)
        return inner and (lambda values: [None if value is None else inner(value) for value in values])
    if isinstance(feature, dict):
        fields = {name: decode for name, field in feature.items() if (decode := _decoder(field))}
        return (lambda value: _decoded_fields(value, fields)) if fields else None
    return None


def _decoded_fields(value: dict[str, Any], fields: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
    return {k: v if v is None or k not in fields else fields[k](v) for k, v in value.items()}


def _from_json(text: str) -> Any:
    """The value; the text itself where that is no JSON, or nested too deeply to be read."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
