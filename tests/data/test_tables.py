"""Tables: streams of rows, data sets and files out, and what is read back."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, IterableDataset, Json, List, Value
from datasets.distributed import split_dataset_by_node
from same_dialogues import messages

from ee_trl.cli.main import main
from ee_trl.data.dialogue import SOURCE_ERROR
from ee_trl.data.reading import open_dataset, row_count
from ee_trl.data.tables import (
    columns_of,
    conform,
    only_columns,
    read_metadata,
    rows_of,
    tables_of,
    to_dataset,
    write_file,
)
from ee_trl.errors import FormatError
from ee_trl.files import WRITABLE


ROWS = [{"messages": messages("I lost my job.", "Oh no."), "id": i} for i in range(5)]


# ---- tables and rows -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 1000])
def test_tables_hold_all_rows_in_order(size: int) -> None:
    data = Dataset.from_list(ROWS)
    for source in (data, data.to_iterable_dataset(), data.with_format("torch"), data.with_format("numpy")):
        tables = list(tables_of(source, size))
        assert max(table.num_rows for table in tables) <= size
        assert [row for table in tables for row in table.to_pylist()] == ROWS


def test_tables_follow_an_indices_mapping() -> None:
    data = Dataset.from_list(ROWS).select([4, 0, 0, 2])
    assert [row["id"] for table in tables_of(data, 3) for row in table.to_pylist()] == [4, 0, 0, 2]


def test_a_part_of_a_stream_of_tables_is_that_part(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": range(10), "text": ["a"] * 10}), tmp_path / "a.parquet")
    stream = open_dataset(tmp_path / "a.parquet", streaming=True)
    for number in range(2):
        part = only_columns(split_dataset_by_node(stream, number, 2), ["id"])
        assert [n for table in tables_of(part, 3) for n in table.column("id").to_pylist()] == [*range(number, 10, 2)]


def test_keys_that_are_null_in_every_message_survive(tmp_path: Path) -> None:
    rows = [{"messages": [{**m, "name": None} for m in row["messages"]]} for row in ROWS]
    data = Dataset.from_list(rows)
    assert to_dataset(tables_of(data, 2), data.features).to_list() == rows
    path = tmp_path / "a.parquet"
    write_file(tables_of(data, 2), data.features, path, metadata={})
    assert open_dataset(path).to_list() == rows


def test_conform_casts_and_orders() -> None:
    table = pa.table({"b": ["x"], "a": [1]})
    schema = pa.schema({"a": pa.float64(), "b": pa.large_string()})
    assert conform(table, schema).schema.equals(schema)
    assert conform(table, schema).to_pylist() == [{"a": 1.0, "b": "x"}]


def test_rows_are_decoded() -> None:
    features = Features({"label": ClassLabel(names=["joy", "sad"]), "any": Json(), "list": List(Value("string"))})
    rows = [
        {"label": 1, "any": [1, "a"], "list": ["a"]},
        {"label": 0, "any": {"a": None}, "list": []},
        {"label": None, "any": None, "list": None},
    ]
    [table] = tables_of(Dataset.from_list(rows, features=features))
    assert [row["label"] for row in rows_of(table, features, ["label", "nothing"])] == ["sad", "joy", None]
    assert [row["any"] for row in rows_of(table, features, ["any"])] == [[1, "a"], {"a": None}, None]


def test_bytes_that_are_no_text_are_a_bad_row() -> None:
    bad = pa.array([b"fine", b"\xed\xa0\xbd", b"fine too"]).view(pa.string())
    features = Features({"response": Value("string")})
    rows = rows_of(pa.table({"response": bad}), features, ["response"])
    assert [row["response"] for row in rows] == ["fine", None, "fine too"]
    assert [row.get(SOURCE_ERROR) for row in rows] == [None, "invalid_text", None]


def test_columns_of_streams_that_declare_none() -> None:
    assert columns_of(IterableDataset.from_generator(lambda: iter(ROWS))) == ["messages", "id"]
    with pytest.raises(FormatError, match="no rows"):
        columns_of(IterableDataset.from_generator(lambda: iter([])))


# ---- data sets and files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", WRITABLE)
def test_written_file_is_read_back(ending: str, tmp_path: Path) -> None:
    data = Dataset.from_list(ROWS)
    path = tmp_path / "new" / "folders" / f"a{ending}"
    assert write_file(tables_of(data, 2), data.features, path, metadata={"scorer": "words-1"}) == 5
    assert open_dataset(path).to_list() == ROWS
    assert read_metadata(path) == {"scorer": "words-1"}
    assert row_count(path) == (5 if ending == ".parquet" else None)
    assert [name for name in os.listdir(path.parent) if "partial" in name] == []


def test_jsonl_is_text_that_people_can_read(tmp_path: Path) -> None:
    data = Dataset.from_list([{"text": "ça va 😀", "emotion": 1}]).cast_column(
        "emotion", ClassLabel(names=["joy", "sad"])
    )
    write_file(tables_of(data), data.features, tmp_path / "a.jsonl", metadata={})
    assert (tmp_path / "a.jsonl").read_text(encoding="utf-8") == '{"text": "ça va 😀", "emotion": "sad"}\n'


def test_metadata_of_files_of_another_origin(tmp_path: Path) -> None:
    Dataset.from_list(ROWS).to_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    assert read_metadata(tmp_path / "a.parquet") is read_metadata(tmp_path / "a.jsonl") is None


@pytest.mark.parametrize("ending", WRITABLE)
def test_nothing_is_left_of_a_file_that_failed(ending: str, tmp_path: Path) -> None:
    data = Dataset.from_list(ROWS)
    path = tmp_path / f"a{ending}"
    path.write_text("what was there before", encoding="utf-8")

    def tables() -> Any:
        yield from tables_of(data, 2)
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_file(tables(), data.features, path, metadata={})
    assert path.read_text(encoding="utf-8") == "what was there before"
    assert os.listdir(tmp_path) == [path.name]


def test_data_set_of_tables_without_rows() -> None:
    features = Features({"a": Value("string"), "b": List(Value("int64"))})
    data = to_dataset(iter([]), features)
    assert (len(data), data.features) == (0, features)


def test_features_of_a_file_survive(tmp_path: Path) -> None:
    features = Features({"emotion": ClassLabel(names=["joy", "sad"]), "text": Value("large_string")})
    data = Dataset.from_list([{"emotion": 0, "text": "a"}], features=features)
    write_file(tables_of(data), features, tmp_path / "a.parquet", metadata={})
    assert open_dataset(tmp_path / "a.parquet").features == features
    assert pq.read_schema(tmp_path / "a.parquet").metadata[b"ee_trl"] == b"{}"


def test_lines_of_json_hold_no_nan(tmp_path: Path) -> None:
    given = [float("nan"), float("inf"), float("-inf"), 1.5]
    data = Dataset.from_dict({"x": given, "deep": [[{"y": value}] for value in given]})
    write_file(tables_of(data), data.features, tmp_path / "a.jsonl", metadata={"x": float("nan")})
    for path in tmp_path.iterdir():
        assert "NaN" not in path.read_text()
        assert "Infinity" not in path.read_text()
    assert open_dataset(tmp_path / "a.jsonl", split="train")["x"][:] == [None, None, None, 1.5]


@pytest.mark.parametrize(
    "raw", [b"[]", b"5", b"null", b"{", b"\xff", b'"x"', b"[" * 100_000, b'{"rubric": 5, "source": []}']
)
@pytest.mark.parametrize("ending", WRITABLE)
def test_metadata_that_ee_trl_did_not_write_is_none(raw: bytes, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    row = {"context": "Hi.", "response": "Hello.", "sensibility": 8.0, "rationality": 2.0}
    table = pa.Table.from_pylist([row])
    if ending == ".parquet":
        pq.write_table(table.replace_schema_metadata({b"ee_trl": raw}), path)
    else:
        path.write_text(json.dumps(row))
        path.with_name("a.jsonl.meta.json").write_bytes(raw)
    assert not read_metadata(path)
    for command in (["summary", "--json"], ["select", "-o", str(tmp_path / "out.jsonl"), "--card"]):
        assert main([command[0], str(path), *command[1:]]) == 0


@pytest.mark.parametrize("taken", [("drop_reason",), ("drop_reason", "source_drop_reason")])
def test_dropped_rows_keep_their_own_reasons(taken: tuple[str, ...], tmp_path: Path) -> None:
    row = {
        "context": "Hi.",
        "response": "Hello.",
        "sensibility": 2.0,
        "rationality": 2.0,
        **dict.fromkeys(taken, "own"),
    }
    pq.write_table(pa.Table.from_pylist([row, {**row, "sensibility": 8.0}]), tmp_path / "a.parquet")
    for ending in WRITABLE:
        out = tmp_path / f"dropped{ending}"
        given = [str(tmp_path / "a.parquet"), "-o", str(tmp_path / f"out{ending}"), "--dropped", str(out)]
        assert main(["select", *given]) == 0
        [dropped] = open_dataset(out, split="train")
        assert dropped["drop_reason"] == "quadrant_low"
        assert [value for name, value in dropped.items() if name.startswith("source_drop")] == ["own"] * len(taken)
