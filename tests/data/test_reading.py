"""Files and folders in: the same rows from every kind of file, and damaged files cost their damaged lines."""

from __future__ import annotations

import bz2
import errno
import gzip
import json
import lzma
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, Features, IterableDataset, Value
from same_dialogues import messages

from ee_trl.data.dialogue import SOURCE_ERROR
from ee_trl.data.reading import open_dataset
from ee_trl.data.tables import (
    features_of,
    tables_of,
    write_file,
)
from ee_trl.errors import FormatError


ROWS = [{"messages": messages("I lost my job.", "Oh no."), "id": i} for i in range(5)]
LINES = "\n".join(map(json.dumps, ROWS)) + "\n"


def reasons(dataset: Any) -> list[str | None]:
    """What each row's `source_error` says; the column is missing where the file was read as it is."""
    return dataset[SOURCE_ERROR][:] if SOURCE_ERROR in dataset.column_names else [None] * len(dataset)


# ---- files and folders ---------------------------------------------------------------------------------------------


def _parquet(path: Path) -> None:
    Dataset.from_list(ROWS).to_parquet(path)


def _lines(opener: Callable[..., Any]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with opener(path, "wt", encoding="utf-8") as out:
            out.write(LINES)

    return write


def _array(indent: int | None) -> Callable[[Path], None]:
    return lambda path: path.write_text(json.dumps(ROWS, indent=indent), encoding="utf-8") and None


def _bytes(text: str, encoding: str) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(text.encode(encoding)) and None


FILES: dict[str, Callable[[Path], None]] = {
    "a.parquet": _parquet,
    "a.jsonl": _lines(open),
    "a.ndjson": _lines(open),
    "A.JSONL": _lines(open),
    "a.jsonl.gz": _lines(gzip.open),
    "a.jsonl.bz2": _lines(bz2.open),
    "a.jsonl.xz": _lines(lzma.open),
    "one line.json": _array(None),
    "indented.json": _array(2),
    "blank lines before an array.json": _bytes("\n  \n" + json.dumps(ROWS, indent=2), "utf-8"),
    "windows.jsonl": _bytes(LINES.replace("\n", "\r\n"), "utf-8"),
    "byte order mark.jsonl": _bytes(LINES, "utf-8-sig"),
    "blank lines.jsonl": _bytes("\n\n" + LINES.replace("\n", "\n  \n\n"), "utf-8"),
    "no last newline.jsonl": _bytes(LINES.rstrip(), "utf-8"),
    "with.several.dots and [brackets].jsonl": _lines(open),
}


@pytest.mark.parametrize("name", FILES)
def test_same_rows_from_every_file(name: str, tmp_path: Path) -> None:
    FILES[name](tmp_path / name)
    for source in (tmp_path / name, str(tmp_path / name)):
        assert [row["id"] for row in open_dataset(source)] == [0, 1, 2, 3, 4]
    assert open_dataset(tmp_path / name).to_list() == ROWS


def test_parquet_as_a_stream(tmp_path: Path) -> None:
    _parquet(tmp_path / "a.parquet")
    stream = open_dataset(tmp_path / "a.parquet", streaming=True)
    assert isinstance(stream, IterableDataset)
    assert list(stream) == ROWS


@pytest.mark.parametrize("row_group_size", [1, 700, 10_000])
def test_parquet_stream_of_several_files_and_row_groups(row_group_size: int, tmp_path: Path) -> None:
    for number in range(2):
        table = pa.table({"response": [f"{number} {i}" for i in range(2_500)]})
        pq.write_table(table, tmp_path / f"{number}.parquet", row_group_size=row_group_size)
    stream = open_dataset(tmp_path / "*.parquet", streaming=True)
    expected = [f"{number} {i}" for number in range(2) for i in range(2_500)]
    assert [row["response"] for row in stream] == expected
    tables = list(tables_of(stream, 900))
    assert [name for table in tables for name in table.column("response").to_pylist()] == expected
    assert max(table.num_rows for table in tables) == 900


def test_small_tables_are_written_together(tmp_path: Path) -> None:
    tables = [pa.table({"id": [i] * 100}) for i in range(450)]
    write_file(tables, Features({"id": Value("int64")}), tmp_path / "a.parquet", metadata={})
    assert pq.read_metadata(tmp_path / "a.parquet").num_row_groups == 3
    assert pq.read_table(tmp_path / "a.parquet").column("id").to_pylist() == [
        i for i in range(450) for _ in range(100)
    ]


def test_several_files_by_asterisk(tmp_path: Path) -> None:
    for name in ("a-1.parquet", "a-2.parquet"):
        _parquet(tmp_path / name)
    assert len(open_dataset(f"{tmp_path}/a-*.parquet")) == 10


def test_folder_of_save_to_disk(tmp_path: Path) -> None:
    data = Dataset.from_list(ROWS)
    data.save_to_disk(tmp_path / "one")
    DatasetDict(train=data, test=data.select([0])).save_to_disk(tmp_path / "two")
    assert open_dataset(tmp_path / "one").to_list() == ROWS
    assert {name: len(part) for name, part in open_dataset(tmp_path / "two").items()} == {"train": 5, "test": 1}
    assert len(open_dataset(tmp_path / "two", split="test")) == 1


@pytest.mark.parametrize("ending", [".parquet", ".jsonl"])
def test_folder_of_files_has_the_splits_of_their_names(ending: str, tmp_path: Path) -> None:
    for name in ("train", "test"):
        FILES[f"a{ending}"](tmp_path / f"{name}{ending}")
    assert {name: part.to_list() for name, part in open_dataset(tmp_path).items()} == {"train": ROWS, "test": ROWS}
    assert open_dataset(tmp_path, split="test").to_list() == ROWS


def test_unknown_split_of_a_folder(tmp_path: Path) -> None:
    _lines(open)(tmp_path / "train.jsonl")
    with pytest.raises(FormatError, match="train"):
        open_dataset(tmp_path, split="trian")


def test_only_an_empty_field_of_a_csv_is_missing(tmp_path: Path) -> None:
    replies = ["none", "NA", "null", "NaN", "n/a", "None", "nan", "-"]
    text = "context,response\n" + "".join(f'"Well, {i}",{reply}\n' for i, reply in enumerate(replies)) + "empty,\n"
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "train.csv").write_text(text, encoding="utf-8")
    with gzip.open(tmp_path / "a.csv.gz", "wt", encoding="utf-8") as out:
        out.write(text)
    for source in ("a.csv", "a.csv.gz"):
        data = open_dataset(tmp_path / source)
        assert data["response"][:] == [*replies, None]
        assert data["context"][0] == "Well, 0"
    assert open_dataset(tmp_path / "folder")["train"]["response"][:] == [*replies, None]


def test_tab_separated(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("context\tresponse\nWell, no\tI see\n", encoding="utf-8")
    assert open_dataset(tmp_path / "a.tsv").to_list() == [{"context": "Well, no", "response": "I see"}]


def test_csv_line_with_a_field_too_many_does_not_shift_the_others(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('context,response\na,b,\nc,"d\n\nd",\n', encoding="utf-8")
    assert open_dataset(tmp_path / "a.csv").to_list() == [
        {"context": "a", "response": "b"},
        {"context": "c", "response": "d\n\nd"},
    ]
    (tmp_path / "b.csv").write_text("context,response,id\na,Oh, no,1\n\nb,c,2\nd\n", encoding="utf-8")
    data = open_dataset(tmp_path / "b.csv")
    assert reasons(data) == ["too_many_fields", None, None]
    assert data["source_line"][:] == ["a,Oh, no,1", None, None]
    assert data.select_columns(["context", "response", "id"])[:] == {
        "context": [None, "b", "d"],
        "response": [None, "c", None],
        "id": [None, 2, None],
    }


CSV_COLUMNS: dict[str, tuple[list[str], list[Any]]] = {
    "id": (["9007199254740993", "", "-3"], [2**53 + 1, None, -3]),
    "code": (["007", "8", "9"], ["007", "8", "9"]),
    "price": (["1.50", "2.0", ""], ["1.50", "2.0", None]),
    "share": (["1.5", "2.0", ""], [1.5, 2.0, None]),
    "long": (["1" * 23, "1", "2"], ["1" * 23, "1", "2"]),
    "flag": (["True", "", "False"], [True, None, False]),
    "word": (["true", "nan", "inf"], ["true", "nan", "inf"]),
    "nothing": (["", "", ""], [None, None, None]),
    "sensibility": (["5", "5.0", "7.25"], [5.0, 5.0, 7.25]),
    "rationality": (["", "1.50", "07"], [None, 1.5, 7.0]),
    "sensibility_std": (["", "", ""], [None, None, None]),
    "context": (["1", "2", "3"], ["1", "2", "3"]),
    "response": (["1.0", "True", ""], ["1.0", "True", None]),
}


def test_csv_values_are_what_the_line_says(tmp_path: Path) -> None:
    fields = zip(*(texts for texts, _ in CSV_COLUMNS.values()), strict=True)
    (tmp_path / "a.csv").write_text("\r\n".join(map(",".join, [CSV_COLUMNS, *fields])), encoding="utf-8-sig")
    data = open_dataset(tmp_path / "a.csv")
    assert data[:] == {name: values for name, (_, values) in CSV_COLUMNS.items()}
    assert data.features["sensibility_std"] == Value("float64")
    assert [type(v) for v in data[0].values()] == [type(values[0]) for _, values in CSV_COLUMNS.values()]


def test_csv_column_that_turns_into_words_late(tmp_path: Path) -> None:
    ids = [*map(str, range(12_000)), "the last"]
    lines = [f"a,b,{name}\n" for name in ids]
    (tmp_path / "a.csv").write_text("context,response,id\n" + "".join(lines), encoding="utf-8")
    assert open_dataset(tmp_path / "a.csv")["id"][:] == ids


@pytest.mark.parametrize("end", ["", "\n", "\nmore\n"])
def test_csv_that_ends_within_quotes(end: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f'context,response\na,b\na,"b{end}', encoding="utf-8")
    with pytest.raises(FormatError, match=r"a\.csv.*close the quotes"):
        open_dataset(tmp_path / "a.csv")


def test_parquet_without_rows(tmp_path: Path) -> None:
    data = Dataset.from_list(ROWS).select([])
    data.to_parquet(tmp_path / "a.parquet")
    for streaming in (False, True):
        opened = open_dataset(tmp_path / "a.parquet", streaming=streaming)
        assert (list(opened), features_of(opened)) == ([], data.features)


# ---- damaged files -------------------------------------------------------------------------------------------------

SURROGATE = json.dumps({"messages": messages("\ud83d", "Oh no."), "id": 9})
DAMAGED = {
    "truncated last line": (LINES + LINES[:30], [None] * 5 + ["invalid_json"]),
    "lone surrogates": (LINES + SURROGATE, [None] * 5 + ["invalid_text"]),
    "mixed types": (LINES + '{"messages": "text"}\n{"messages": 5}\n{"messages": [1]}\n{}\n', [None] * 9),
    "lone surrogates after mixed types": (
        LINES + '{"messages": "text"}\n' + SURROGATE + "\n",
        [None] * 6 + ["invalid_text"],
    ),
    "no objects": (LINES + '[1]\n"text"\n3\nnull\n', [None] * 5 + ["invalid_json"] * 4),
    "too deep": (LINES + '{"messages": ' + "[" * 5000 + "]" * 5000 + "}\n", [None] * 5 + ["invalid_json"]),
    "twice the same key": (LINES + '{"messages": [], "messages": []}\n', [None] * 5 + ["invalid_json"]),
    "first line": ("{\n" + LINES, ["invalid_json"] + [None] * 5),
}


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz"])
@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_lines_are_kept_with_their_reason(name: str, ending: str, tmp_path: Path) -> None:
    text, expected = DAMAGED[name]
    path = tmp_path / f"a{ending}"
    with (gzip.open if ending.endswith(".gz") else open)(path, "wt", encoding="utf-8") as out:
        out.write(text)
    data = open_dataset(path)
    assert reasons(data) == expected
    sound = [i for i, reason in enumerate(expected) if reason is None][:5]
    assert [data[i]["messages"] for i in sound] == [row["messages"] for row in ROWS]


def test_damaged_file_in_a_folder(tmp_path: Path) -> None:
    text, expected = DAMAGED["truncated last line"]
    (tmp_path / "train.jsonl").write_text(text, encoding="utf-8")
    _lines(open)(tmp_path / "test.jsonl")
    data = open_dataset(tmp_path)
    assert (reasons(data["train"]), len(data["test"])) == (expected, 5)


def test_damaged_file_among_others_of_a_split(tmp_path: Path) -> None:
    text, expected = DAMAGED["lone surrogates"]
    (tmp_path / "train-1.jsonl").write_text(text, encoding="utf-8")
    _lines(open)(tmp_path / "train-2.jsonl")
    for source in (tmp_path, tmp_path / "train-*.jsonl"):
        data = open_dataset(source)
        assert reasons(data["train"] if isinstance(data, DatasetDict) else data) == [*expected, *[None] * 5]


def test_files_of_a_split_may_differ_in_types_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "train-1.jsonl").write_text('{"context": ["a"], "response": "b", "emotion": null}\n', encoding="utf-8")
    (tmp_path / "train-2.jsonl").write_text('{"context": [], "response": "b", "emotion": "sad"}\n', encoding="utf-8")
    assert open_dataset(tmp_path)["train"]["emotion"][:] == [None, "sad"]


@pytest.mark.parametrize(
    ("first", "later"), [(None, "sad"), (1, 1.5), (1, "a"), ([], ["a"]), ({"a": 1}, {"a": 1, "b": [2]})]
)
def test_type_that_is_known_late_in_a_long_file(first: Any, later: Any, tmp_path: Path) -> None:
    filler = "x" * 100_000  # the library settles on types after ten megabytes
    rows = [{"response": filler, "more": first}] * 110 + [{"response": "b", "more": later}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    data = open_dataset(tmp_path / "a.jsonl")
    assert (len(data), data[110]["more"]) == (111, later)
    assert data[0]["more"] == ({"a": 1, "b": None} if first == {"a": 1} else first)
    assert data.column_names == ["response", "more"]


def test_line_in_another_encoding(tmp_path: Path) -> None:
    line = json.dumps({"messages": messages("Qué?", "Ça va."), "id": 9}, ensure_ascii=False)
    (tmp_path / "a.jsonl").write_bytes(LINES.encode() + line.encode("latin-1"))
    data = open_dataset(tmp_path / "a.jsonl")
    assert reasons(data) == [None] * 5 + ["invalid_text"]
    assert len(data.to_list()) == 6


@pytest.mark.parametrize("indent", [None, 2])
def test_array_with_lone_surrogates(indent: int | None, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([*ROWS, json.loads(SURROGATE)], indent=indent), encoding="utf-8")
    data = open_dataset(tmp_path / "a.json")
    assert reasons(data) == [None] * 5 + ["invalid_text"]
    assert data.select(range(5)).remove_columns(SOURCE_ERROR).to_list() == ROWS


def test_line_separators_inside_of_text_end_no_line(tmp_path: Path) -> None:
    rows = [*ROWS, {"messages": messages("a\u2028b\x85c", "Oh no."), "id": 5}]
    lines = ["[1]", *(json.dumps(row, ensure_ascii=False) for row in rows)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    data = open_dataset(tmp_path / "a.jsonl")
    assert reasons(data) == ["invalid_json"] + [None] * 6
    assert data[6]["messages"] == rows[5]["messages"]


def test_damaged_line_is_kept_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(LINES + '{"messages": [{"ro', encoding="utf-8")
    assert open_dataset(tmp_path / "a.jsonl")[5]["source_line"] == '{"messages": [{"ro'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "empty"),
        ("a.jsonl", b"\n \n", "empty"),
        ("a.jsonl", b"no\njson\n", "none of its 2 lines"),
        ("a.json", b"3", "JSON object"),
        ("a.json", b'[{"a": 1}, {"b"', "JSON object"),
        ("a.parquet", b"PAR1", "a.parquet"),
        ("a.jsonl.gz", b"no gzip", "a.jsonl.gz"),
        ("a.csv", b'context,response\na,"b', "a.csv"),
        ("a.csv", "context,response\né,ça".encode("latin-1"), "a.csv"),
        ("a.txt", b"text", r"\.parquet, \.jsonl"),
        ("nothing", b"text", r"\.parquet, \.jsonl"),
    ],
)
def test_file_that_cannot_be_read_is_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FormatError, match=message):
        open_dataset(tmp_path / name)


@pytest.mark.parametrize("source", ["no.jsonl", "./no/such", "/no/such/folder", "~/no/such.csv", "no/*.parquet"])
def test_no_such_file(source: str) -> None:
    with pytest.raises(FormatError, match="no"):
        open_dataset(source)


def test_name_that_the_hub_does_not_give() -> None:
    with pytest.raises(FormatError, match="the hub gives no data set of this name"):
        open_dataset("nobody/nothing")


def test_file_has_no_splits(tmp_path: Path) -> None:
    _parquet(tmp_path / "a.parquet")
    with pytest.raises(FormatError, match="'test'"):
        open_dataset(tmp_path / "a.parquet", split="test")


def test_folder_without_files(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=tmp_path.name):
        open_dataset(tmp_path)


# ---- what a folder says of itself ----------------------------------------------------------------------------------

CARD = "---\nconfigs:\n- config_name: default\n  {}\n---\n"
OUTSIDE = {
    "root": "data_files: {secret}",
    "out": "data_files: ../secret.jsonl",
    "out and in": "data_files: data/../../secret.jsonl",
    "list": "data_files: [train.jsonl, ../secret.jsonl]",
    "splits": "data_files: [{{split: train, path: [train.jsonl, ../*.jsonl]}}]",
    "home": "data_files: ~/secret.jsonl",
    "file": "data_files: file://{secret}",
    "address": "data_files: http://127.0.0.1:{port}/a.jsonl",
    "hub": "data_files: hf://datasets/somebody/data/a.jsonl",
    "archive": "data_files: zip://a.jsonl::http://127.0.0.1:{port}/a.zip",
    "folder": "data_dir: ../",
    "other folder": "data_dir: {folder}",
}


@pytest.mark.parametrize("where", ["README.md", ".huggingface.yaml"])
@pytest.mark.parametrize("name", OUTSIDE)
def test_a_card_cannot_name_files_outside_its_folder(
    name: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "set"
    folder.mkdir()
    secret = tmp_path / "secret.jsonl"
    secret.write_text(LINES, encoding="utf-8")
    (folder / "train.jsonl").write_text(LINES, encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        named = OUTSIDE[name].format(secret=secret, folder=tmp_path, port=server.getsockname()[1])
        text = CARD.format(named)
        (folder / where).write_text(text if where == "README.md" else text.strip("-\n"), encoding="utf-8")
        with pytest.raises(FormatError, match="A folder may name only files in it"):
            open_dataset(folder)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_saved_folder_cannot_name_files_outside_it(tmp_path: Path) -> None:
    data = Dataset.from_list(ROWS)
    data.save_to_disk(tmp_path / "secret")
    DatasetDict(train=data).save_to_disk(tmp_path / "set")
    state = tmp_path / "set" / "train" / "state.json"
    kept = state.read_text()
    state.write_text(kept.replace("data-0", "../../secret/data-0"))
    with pytest.raises(FormatError, match="A folder may name only files in it"):
        open_dataset(tmp_path / "set")
    state.write_text(kept)
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train", "../secret"]}')
    with pytest.raises(FormatError, match="A folder may name only files in it"):
        open_dataset(tmp_path / "set")


@pytest.mark.parametrize("head", ["a: [", "a: *b", "a: &a [*a]", "configs: 5", "configs: [5]", "\x01", "- 1"])
def test_a_card_that_is_no_yaml_is_an_error_in_one_line(head: str, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(LINES, encoding="utf-8")
    (tmp_path / "README.md").write_text(f"---\n{head}\n---\n", encoding="utf-8")
    found = said(tmp_path)
    assert found == "5 rows" or str(tmp_path) in found


def said(path: Path) -> str:
    """How many rows the training split has, or why it cannot be read."""
    try:
        return f"{len(open_dataset(path, split='train'))} rows"
    except FormatError as error:
        return str(error)


# ---- names that are there twice, or hold what no name can ----------------------------------------------------------


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".json", ".jsonl", ".parquet"])
def test_a_column_that_is_there_twice_is_refused_in_every_format(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    if ending in (".csv", ".tsv"):
        text = "context,response,response,note,note\nHi.,Hello.,No.,1,2\n"
        path.write_text(text if ending == ".csv" else text.replace(",", "\t"), encoding="utf-8")
    elif ending == ".parquet":
        columns = [pa.array(["Hi."]), pa.array(["Hello."]), pa.array(["No."])]
        pq.write_table(pa.Table.from_arrays(columns, ["context", "response", "response"]), path)
    else:
        row = '{"context": "Hi.", "response": "Hello.", "response": "No."}'
        path.write_text(f"[{row}]" if ending == ".json" else row, encoding="utf-8")
    with pytest.raises(FormatError, match=r"several columns named 'response'|holds no row"):
        open_dataset(path, split="train")


def test_a_null_character_in_a_key_costs_only_its_row(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(LINES + '{"messages": [], "a\\u0000b": 1}\n', encoding="utf-8")
    data = open_dataset(tmp_path / "a.jsonl")
    assert reasons(data) == [None] * 5 + ["invalid_text"]
    assert "a\\x00b" in data.column_names
    (tmp_path / "a.csv").write_text("context,response,a\0b\nHi.,Hello.,1\n", encoding="utf-8")
    data = open_dataset(tmp_path / "a.csv")
    data.to_parquet(tmp_path / "a.parquet")
    assert open_dataset(tmp_path / "a.parquet").column_names == ["context", "response", "a\\x00b"]


def test_a_full_temporary_folder_is_said_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "a.jsonl").write_text(LINES, encoding="utf-8")
    monkeypatch.setattr(pa, "OSFile", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*data\.arrow'"):
        open_dataset(tmp_path / "a.jsonl")
