"""A data set's own names of columns, keys and roles become those of the known formats."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..errors import FormatError
from .formats import KEYS, ROLE_KEYS, ROLES, BadRow, listed, recognise
from .tables import columns_of, each_split, features_of, is_stream, rows_of, stream_of_tables, tables_of, to_dataset


if TYPE_CHECKING:
    from datasets import Features


def mapped(dataset: Any, mapping: Mapping[str, str] | None) -> Any:
    """
    The data set with known names in place of its own.

    Args:
        dataset (`Dataset`, `IterableDataset` or `DatasetDict`): Rows of any columns.
        mapping (`dict[str, str]`, *optional*): Name in the data -> its meaning. A column's new name, such as
            `{"chosen": "response"}`; a column that has the new name becomes `source_<name>`. For the turns of a
            conversation `"role"` or `"content"` for a key, and `"user"`, `"assistant"` or `"system"` for a role, such
            as `{"who": "role", "client": "user"}`.

    Raises [`FormatError`] for a name that is no column and has no such meaning.
    """
    if not mapping:
        return dataset
    if hasattr(dataset, "keys"):
        return each_split(dataset, lambda part: mapped(part, mapping))
    columns = columns_of(dataset)
    of_turns = {name: new for name, new in mapping.items() if new in (*KEYS, "user", "assistant")}
    of_turns |= {name: new for name, new in mapping.items() if new == "system" and name not in columns}
    renames = {name: new for name, new in mapping.items() if name not in of_turns}
    for name, new in renames.items():
        if name not in columns:
            raise FormatError(
                f"the mapping {name}={new} does not fit: there is no column {name!r} (columns: {sorted(columns)}), "
                f"and {new!r} is neither a key of a turn ({', '.join(KEYS)}) nor a role ({', '.join(ROLES)})"
            )
    taken = {new for name, new in renames.items() if name != new}
    moved = {name: f"source_{name}" for name in columns if name in taken and name not in renames}
    dataset = _renamed_columns(dataset, {**moved, **renames}) if renames else dataset
    return _with_turns(dataset, of_turns) if of_turns else dataset


def _renamed_columns(dataset: Any, names: Mapping[str, str]) -> Any:
    if is_stream(dataset) and dataset.features is not None:  # as tables: the library changes JSON values of rows
        make = partial(_renamed_tables, names=names)
        return stream_of_tables(make, dataset, make(dataset)[0])
    return dataset.rename_columns(dict(names))


def _renamed_tables(dataset: Any, names: Mapping[str, str]) -> tuple[Features, Iterator[pa.Table]]:
    features = {names.get(name, name): feature for name, feature in features_of(dataset).items()}
    return type(features_of(dataset))(features), (table.rename_columns(list(features)) for table in tables_of(dataset))


def _with_turns(dataset: Any, names: Mapping[str, str]) -> Any:
    """The data set with other keys and roles in the turns of its conversations."""
    fmt = recognise(columns_of(dataset))
    columns = ["speaker_idx"] if fmt.utterance_rows else list(fmt.columns)
    renamed = partial(_role if fmt.utterance_rows else _turns, names=names)
    make = partial(_mapped_tables, columns=columns, renamed=renamed)
    if is_stream(dataset) and dataset.features is None:
        return dataset.map(lambda row: {name: renamed(row.get(name)) for name in columns})
    if is_stream(dataset):
        return stream_of_tables(make, dataset, make(dataset)[0])
    features, tables = make(dataset)
    return to_dataset(tables, features)


def _mapped_tables(
    dataset: Any, columns: list[str], renamed: Callable[[Any], Any]
) -> tuple[Features, Iterator[pa.Table]]:
    from datasets import Features, Json

    given = features_of(dataset)

    def tables() -> Iterator[pa.Table]:
        for table in tables_of(dataset):
            for name in columns:
                values = [renamed(row[name]) for row in rows_of(table, given, [name])]
                texts = [None if v is None else json.dumps(v, ensure_ascii=False, default=str) for v in values]
                array = pa.ExtensionArray.from_storage(pa.json_(), pa.array(texts, pa.string()))
                table = table.set_column(table.schema.get_field_index(name), name, array)
            yield table

    return Features({name: Json() if name in columns else feature for name, feature in given.items()}), tables()


def _turns(value: Any, names: Mapping[str, str]) -> Any:
    """A value of a dialogue column, with the known names in its turns."""
    if isinstance(value, str):
        try:
            found = listed(value)
        except BadRow:
            found = None
        return value if found is None else _turns(found, names)
    if isinstance(value, (list, tuple)):
        return [_turns(turn, names) if isinstance(turn, Mapping) else turn for turn in value]
    if not isinstance(value, Mapping):
        return value
    keys = {names[key]: key for key in value if names.get(key) in KEYS}
    turn = {key: part for key, part in value.items() if key not in keys and key not in keys.values()}
    turn |= {new: value[key] for new, key in keys.items()}
    return {key: _role(part, names) if key in ROLE_KEYS else part for key, part in turn.items()}


def _role(name: Any, names: Mapping[str, str]) -> Any:
    """A role, or a list of roles, by its known name."""
    if isinstance(name, list):
        return [_role(inner, names) for inner in name]
    roles = {key.strip().lower(): new for key, new in names.items() if new in ROLES}
    return roles.get(str(name).strip().lower(), name)
