"""Arrow reads blocks of JSON and CSV files; what is read is exactly what our own readers read of any file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import Features
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ee_trl.data import csv_files, json_files, text_files
from ee_trl.errors import FormatError


TEXTS = st.text(max_size=12) | st.sampled_from(
    [
        "2020-01-01",
        "2020-01-01T00:00:00Z",
        "12:30",
        "007",
        "1",
        "-0",
        "1.50",
        "1e5",
        "True",
        "nan",
        "",
        " ",
        "\ud83d",
        "\0",
    ]
)
NUMBERS = st.sampled_from([0, 1, -1, 2**53 + 1, 2**63, 2**64, 10**25, 0.5, 1e300, -0.0, float("nan"), float("inf")])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=4,
)
COLUMNS = {  # mostly of one type, so that Arrow is given a chance
    "id": st.integers(0, 99) | NUMBERS,
    "context": st.lists(TEXTS, max_size=2),
    "response": TEXTS,
    "messages": st.lists(st.fixed_dictionaries({"role": TEXTS}, optional={"content": TEXTS, "n": st.integers()})),
    "any": VALUES,
    "score": st.floats(0, 10) | st.integers(0, 10),
}
ODD_LINES = [
    *(
        b"",
        b"  ",
        b"\xc2\xa0",
        b"{",
        b"{}",
        b"[]",
        b"null",
        b'{"id": 1}{"id": 2}',
        b'{"id": 1, "id": 2}',
        b'{"id": 01}',
    ),
    *(
        b'{"id": 1',
        b',"any": 2}',
        b'{"id": -0}',
        b'{"score": -0}',
        b'{"score": 1e999}',
        b'{"any": Inf}',
        b'{"id": 1},',
    ),
    *(
        b'{"response": "\xff"}',
        b'{"response": "a\tb"}',
        b'{"response": "\\ud83d\\ude00"}',
        b'{"response": "\\\\ud83d"}',
    ),
    *(b'{"a\\u0000": 1}', b'{"any": {"a": 1, "\\u0061": 2}}', b'{"any": ' + b"[" * 300 + b"]" * 300 + b"}"),
    *(
        b'{"response": "a\rb"}',
        b'{"score": 12345678901234567}',
        b'{"id": 1}\r{"id": 2}',
        b'{"response": "\xe2\x80\xa8"}',
    ),
]


def json_line(columns: list[str]) -> st.SearchStrategy[bytes]:
    row = st.fixed_dictionaries({}, optional={name: COLUMNS[name] for name in columns})
    return st.builds(
        lambda row, ascii: json.dumps(row, ensure_ascii=ascii).encode("utf-8", "surrogatepass"), row, st.booleans()
    )


JSON_FILES = st.lists(st.sampled_from(sorted(COLUMNS)), min_size=1, max_size=4).flatmap(
    lambda columns: st.lists(json_line(columns) | json_line(columns) | st.sampled_from(ODD_LINES), max_size=12)
)
ARRAYS = JSON_FILES | st.lists(json_line(sorted(COLUMNS)), min_size=1, max_size=6)
"""Their rows; one row that is no object keeps Arrow from all of them, so that half of the arrays hold none."""
FIELDS = TEXTS.map(lambda text: text.encode("utf-8", "replace")) | st.sampled_from(
    [
        b'"a"',
        b'"a,b"',
        b'"a\nb"',
        b'"a\r\nb"',
        b'"a""b"',
        b'""',
        b'a"b',
        b'"a"b',
        b' "a"',
        b'"',
        b"\t",
        b"\r",
        b"\xff",
        b"5.0",
    ]
)
CSV_LINES = st.lists(FIELDS, min_size=3, max_size=3) | st.lists(
    st.integers(0, 99).map(lambda n: b"%d" % n), min_size=3
)
CSV_FILES = st.lists(CSV_LINES.map(b",".join) | FIELDS | st.lists(FIELDS, max_size=5).map(b",".join), max_size=12).map(
    lambda lines: [b"id,response,score", *lines]
)
ENDS = st.sampled_from([b"\n", b"\n", b"\n", b"\r\n", b"\n\n", b"\r"])


def outcome(read: Callable[[], Any]) -> Any:
    try:
        found = read()
    except FormatError as error:
        return str(error)
    types = [(field.name, ordered(field.type)) for field in found.schema]
    return types, json.loads(found.schema.metadata[b"huggingface"]), repr(ordered(found.to_pylist()))


def ordered(found: Any) -> Any:
    """A type or value with the fields of structs by name: older versions of pyarrow sort those of Python values."""
    if isinstance(found, pa.DataType):
        if pa.types.is_struct(found):
            return pa.struct(
                sorted(((field.name, ordered(field.type)) for field in found), key=lambda field: field[0])
            )
        return pa.list_(ordered(found.value_type)) if pa.types.is_list(found) else found
    if isinstance(found, dict):
        return {name: ordered(found[name]) for name in sorted(found)}
    return [ordered(value) for value in found] if isinstance(found, list) else found


def in_memory(tables: Iterable[pa.Table], features: Features) -> pa.Table:
    return pa.concat_tables([*tables, features.arrow_schema.empty_table()])


@pytest.mark.parametrize(
    "examples", [pytest.param(100, id="short"), pytest.param(1500, id="long", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("kind", ["json", "array", "csv"])
def test_arrow_reads_what_our_reader_reads(
    kind: str, examples: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, column, path = {
        "json": (json_files._json_parts, json_files._JsonColumn, tmp_path / "rows.jsonl"),
        "array": (json_files._json_parts, json_files._JsonColumn, tmp_path / "rows.json"),
        "csv": (partial(csv_files._csv_parts, separator=","), csv_files._CsvColumn, tmp_path / "rows.csv"),
    }[kind]
    by_arrow = 0

    def counted(*args: Any, **options: Any) -> Any:
        nonlocal by_arrow
        found = arrow_table(*args, **options)
        by_arrow += found is not None
        return found

    module = csv_files if kind == "csv" else json_files
    arrow_table = module._arrow_table
    monkeypatch.setattr(module, "_arrow_table", counted)
    monkeypatch.setattr("ee_trl.data.csv_files.SMALL", 20)
    monkeypatch.setattr(text_files, "SMALL", 20)
    monkeypatch.setattr(text_files, "to_dataset", in_memory)

    @settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        derandomize=True,
        phases=[Phase.generate],
    )
    @given({"json": JSON_FILES, "array": ARRAYS, "csv": CSV_FILES}[kind], ENDS, st.booleans(), st.integers(1, 400))
    def check(lines: list[bytes], end: bytes, mark: bool, block: int) -> None:
        text = b"[" + (b"," + end).join(lines) + b"]" if kind == "array" else end.join(lines)
        path.write_bytes(b"\xef\xbb\xbf" * mark + text + end * (block % 2))
        monkeypatch.setattr(text_files, "BLOCK", block)
        read = partial(text_files.read_files, [path], new_column=column, encoding=None)
        ours = outcome(lambda: read(partial(parts, encoding=None, arrow=False)))
        assert outcome(lambda: read(partial(parts, encoding=None))) == ours

    check()
    assert by_arrow > examples // 5


@pytest.mark.parametrize("value", [[1.5, True], [True, 1.5], [[0.5], [True]], [{"a": 1.5}, {"a": False}]])
def test_a_truth_value_among_floats_stays_one(value: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"response": "a", "any": one}) + "\n" for one in value), encoding="utf-8")
    assert repr(json_files.read_json([path])["any"][:]) == repr(value)
