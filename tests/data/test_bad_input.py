"""Bad input, made up by hypothesis for every format: never a crash, never a changed row, every reason named."""

from __future__ import annotations

import csv
import datetime
import gzip
import json
import math
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import WordScorer
from datasets import Dataset, Features, Image, IterableDataset, Json, List, Value, concatenate_datasets
from datasets.features.features import generate_from_arrow_type
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from same_dialogues import WAYS, messages

from ee_trl import EmpathyDataSelector
from ee_trl.cli.main import main
from ee_trl.data.dialogue import REASONS, SCORED
from ee_trl.data.formats import FORMATS, recognise
from ee_trl.data.reading import open_dataset
from ee_trl.data.tables import rows_of, tables_of
from ee_trl.errors import EmpathyError, FormatError, ScoresError, SelectionError
from ee_trl.scoring.engine import layout_of
from ee_trl.selection import KEEPABLE


Row = dict[str, Any]
Rows = list[Row]

SETTINGS = settings(
    derandomize=True,
    deadline=None,
    database=None,
    print_blob=False,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],  # shrinking an example takes minutes, and they are small as it is
)
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")  # of an example that failed
EXAMPLES = [pytest.param(1, id="short"), pytest.param(4, id="long", marks=pytest.mark.slow)]

# ---- what to make of the rows of a format --------------------------------------------------------------------------

TEXTS = [
    *(
        "",
        " ",
        "\n\t\u2003",
        "\0\x01\x1b[31m\x7f",
        "\u202eright to left",
        "שלום עליכם",
        "مرحبا؟",
        "👩‍👩‍👧‍👦🏽",
        "\U0010ffff\ufdd0",
    ),
    *(
        "\ud83d",
        "half a \udc00 pair",
        "7",
        "true",
        "null",
        "[]",
        "{}",
        '"',
        "NaN",
        "2020-01-01",
        "2021-02-03T04:05:06Z",
    ),
    *("</s>", " </s> a </s>", "_comma_", '[{"', "\u2028\x85", "e\u0301" * 50, "word " * 20_000, "x" * 100_000),
    json.dumps(messages("I lost my job.", "I am sorry.")),
    '[{"role": "user"',
    "[" * 2_000,
]
DEEP: list[Any] = []
for _ in range(150):
    DEEP = [DEEP]

TOO_DEEP = ["[" * 2_000, '{"note": ' + "[" * 2_000 + "]" * 2_000 + "}", '{"note": ' + "[" * 300 + "]" * 300 + "}"]

texts = st.sampled_from(TEXTS) | st.text(st.characters(exclude_categories=()), max_size=8)
numbers = (
    st.integers(-(2**70), 2**70) | st.floats() | st.sampled_from([0, 1, 7.5, -0.0, 2**53 + 1, 10**30, 10**400, 1e308])
)
scalars = st.none() | st.booleans() | texts | numbers
junk = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "from", "value", "type", "text", "", "é"]), inner)
    ),
    max_leaves=6,
) | st.sampled_from([DEEP, [{"type": "image"}], [{"type": "text", "text": "a"}], {"role": ["user"], "content": ["a"]}])
python_junk = junk | st.sampled_from(
    [b"\xff\xfe", (1, "a"), datetime.date(2020, 1, 1), datetime.datetime(2020, 1, 1), Decimal("7.5"), {1: 2}, 1j]
)


@st.composite
def spoilt(draw: st.DrawFn, value: Any, bad: st.SearchStrategy[Any]) -> Any:
    """A value of which, at any depth, parts are missing, twice there, or something else."""
    if draw(st.integers(0, 7)) == 0:
        return draw(bad)
    if isinstance(value, dict):
        kept = {k: draw(spoilt(v, bad)) for k, v in value.items() if draw(st.integers(0, 15))}
        return kept | ({draw(st.sampled_from(["name", "tool_calls", "from"])): draw(bad)} if not kept else {})
    if isinstance(value, list):
        times = [draw(st.sampled_from([1, 1, 1, 1, 1, 1, 0, 2])) for _ in value]
        return [draw(spoilt(v, bad)) for v, n in zip(value, times, strict=True) for _ in range(n)]
    return value


@st.composite
def rows_of_format(draw: st.DrawFn, name: str, bad: st.SearchStrategy[Any] = junk, columns: bool = True) -> Rows:
    """Good and bad rows of a format, numbered, with further columns of any kind: the same columns in every row."""
    good = [row for rows in WAYS.values() if recognise(rows[0]).name == name for row in rows]
    chosen = draw(st.lists(st.sampled_from(good), min_size=1, max_size=6))
    more = draw(st.lists(st.sampled_from(["note", "turn", "quadrant", "sensibility", "source_error"]), unique=True))
    rows = []
    for i, row in enumerate(chosen):
        cells = {k: draw(spoilt(v, bad)) if draw(st.booleans()) else v for k, v in row.items()}
        rows.append({"id": i, **cells, **({k: draw(bad) for k in more} if columns else {})})
    return rows


# ---- what is asked of the outcome ----------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """For comparison: NaN is NaN, and a key that a column's type has is no more than null where a row lacks it."""
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value


def check_scored(name: str, source: Rows, scored: Rows, columns: list[str]) -> None:
    """Every row is there, in order and as it was, with scores or with a reason."""
    renames = layout_of(columns).renames
    for row in scored:
        s, r, status = row["sensibility"], row["rationality"], row["score_status"]
        if status == SCORED:
            assert 0 <= s <= 10
            assert 0 <= r <= 10
            assert row["quadrant"] in KEEPABLE
        else:
            assert status in REASONS
            assert s is r is row["quadrant"] is None
    fmt = FORMATS[name]
    places = [row["row_index"] for row in scored] if fmt.multi_turn else list(range(len(scored)))
    if fmt.utterance_rows:
        ids = [source[place].get("conv_id") for place in places]
        for i, row in enumerate(source):
            assert (
                i in places
                if row.get("conv_id") is None
                else row["conv_id"] in ids or row["conv_id"] != row["conv_id"]
            )
    else:
        assert sorted(set(places)) == list(range(len(source)))
        assert places == sorted(places)
    for place, row in zip(places, scored, strict=True):
        for column, value in source[place].items():
            assert plain(row[renames.get(column, column)]) == plain(value), column


def selector(batch_rows: int = 1_000) -> EmpathyDataSelector:
    return EmpathyDataSelector(WordScorer(), batch_rows=batch_rows, show_progress=False)


def python_rows(dataset: Any) -> Rows:
    """The rows as they are, without the `datasets` library's own reading of JSON, which rounds numbers."""
    if dataset.features is None:
        return list(dataset)
    return [row for table in tables_of(dataset) for row in rows_of(table, dataset.features, dataset.column_names)]


def check(name: str, source: Any, rows: Rows, columns: list[str], batch_rows: int = 2) -> Any:
    """Scores a source of these rows and selects from it; gives what was scored."""
    scored = selector().score(source)
    found = python_rows(scored)
    check_scored(name, rows, found, columns)
    assert plain(python_rows(selector(batch_rows).score(source))) == plain(found)
    kept = python_rows(selector().select(scored, keep=KEEPABLE))
    wanted = [row for row in found if row["score_status"] == SCORED]
    assert [row["id"] for row in kept] == [row["id"] for row in wanted]
    assert all(row["completion"][0]["content"].strip() and row["prompt"] for row in kept)
    return scored


def table_of(rows: Rows) -> pa.Table:
    """A table of the rows; columns whose values have no type in common are JSON."""
    columns: dict[str, Any] = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        try:
            columns[name] = pa.array(values)
            if not _is_flat_enough(columns[name].type):
                raise TypeError
        except (pa.ArrowException, OverflowError, TypeError, UnicodeEncodeError, RecursionError):
            stored = [None if value is None else json.dumps(value, default=str) for value in values]
            columns[name] = pa.ExtensionArray.from_storage(pa.json_(), pa.array(stored, pa.string()))
    features = Features(
        {
            name: Json() if isinstance(column.type, pa.JsonType) else generate_from_arrow_type(column.type)
            for name, column in columns.items()
        }
    )
    return pa.table(columns).replace_schema_metadata(features.arrow_schema.metadata)


def _is_flat_enough(kind: pa.DataType) -> bool:
    """Whether parquet can hold it: no struct without fields, not too deep."""
    text = str(kind)
    return "struct<>" not in text and text.count("<") < 20


@pytest.fixture
def files(tmp_path: Path) -> Callable[[str], Path]:
    """New names for files."""
    numbers = count()
    return lambda ending: tmp_path / f"{next(numbers)}{ending}"


# ---- properties ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", EXAMPLES)
@pytest.mark.parametrize("name", FORMATS)
def test_data_sets_and_streams_of_known_types(name: str, times: int) -> None:
    @settings(SETTINGS, max_examples=12 * times)
    @given(rows_of_format(name, python_junk), st.integers(1, 4))
    def property(rows: Rows, batch_rows: int) -> None:
        data = Dataset(table_of(rows))
        truth = python_rows(data)
        check(name, data, truth, data.column_names, batch_rows)
        check(name, data.to_iterable_dataset(), truth, data.column_names, batch_rows)

    property()


@pytest.mark.parametrize("times", EXAMPLES)
@pytest.mark.parametrize("name", FORMATS)
def test_streams_of_python_rows(name: str, times: int) -> None:
    @settings(SETTINGS, max_examples=20 * times)
    @given(rows_of_format(name, python_junk), st.integers(1, 4))
    def property(rows: Rows, batch_rows: int) -> None:
        def generate() -> Iterator[Row]:
            yield from rows

        check(name, IterableDataset.from_generator(generate), rows, list(rows[0]), batch_rows)

    property()


@pytest.mark.parametrize("times", EXAMPLES)
@pytest.mark.parametrize("name", FORMATS)
def test_parquet_files(name: str, times: int, files: Callable[[str], Path]) -> None:
    @settings(SETTINGS, max_examples=6 * times)
    @given(rows_of_format(name, python_junk))
    def property(rows: Rows) -> None:
        table, path = table_of(rows), files(".parquet")
        pq.write_table(table, path)
        data = Dataset(table, fingerprint="made")
        check(name, path, python_rows(data), data.column_names)
        check_command(name, path, python_rows(data), data.column_names, files)

    property()


@pytest.mark.parametrize("times", EXAMPLES)
@pytest.mark.parametrize("name", FORMATS)
def test_json_lines_of_which_some_are_damaged(name: str, times: int, files: Callable[[str], Path]) -> None:
    @settings(SETTINGS, max_examples=9 * times)
    @given(rows_of_format(name), st.data())
    def property(rows: Rows, data: st.DataObject) -> None:
        lines = [json.dumps(row, ensure_ascii=data.draw(st.booleans()) or "\\ud" in json.dumps(row)) for row in rows]
        damaged = data.draw(st.sets(st.integers(0, len(rows) - 1), max_size=2))
        for i in damaged:
            lines[i] = data.draw(
                st.sampled_from([lines[i][: len(lines[i]) // 2], "[1]", "nonsense", "\0", *TOO_DEEP, lines[i] + "}"])
            )
        path = files(data.draw(st.sampled_from([".jsonl", ".jsonl.gz", ".json"])))
        with (gzip.open if path.suffix == ".gz" else open)(path, "wb") as out:
            out.write("\n".join(lines).encode("utf-8", "surrogatepass"))
        if len(damaged) == len(rows):
            with pytest.raises(FormatError, match="is a JSON object"):
                open_dataset(path)
            return
        opened = open_dataset(path)
        truth = python_rows(opened)
        for i, (row, line) in enumerate(zip(truth, lines, strict=True)):
            if row.get("source_line") is not None:
                assert i in damaged
                assert (row["source_error"], row["source_line"]) == ("invalid_json", line)
            elif row.get("source_error") != "invalid_text":
                assert plain({k: row[k] for k in rows[i]}) == plain(floats(rows[i]))
        check(name, path, truth, opened.column_names)
        check_command(name, path, truth, opened.column_names, files)

    property()


def floats(value: Any) -> Any:
    """With whole numbers of more than 64 bits as floats."""
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return float(str(value))
    if isinstance(value, dict):
        return {k: floats(v) for k, v in value.items()}
    return [floats(v) for v in value] if isinstance(value, list) else value


@pytest.mark.parametrize("times", EXAMPLES)
@pytest.mark.parametrize("name", FORMATS)
def test_csv_files(name: str, times: int, files: Callable[[str], Path]) -> None:
    cells = st.sampled_from(
        [text for text in TEXTS if "\0" not in text and not any("\ud800" <= c < "\ue000" for c in text)]
    )

    @settings(SETTINGS, max_examples=6 * times)
    @given(rows_of_format(name, cells, columns=False), st.data())
    def property(rows: Rows, data: st.DataObject) -> None:
        path = files(data.draw(st.sampled_from([".csv", ".tsv"])))
        with path.open("w", encoding="utf-8", newline="") as out:
            writer = csv.writer(out, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerow(rows[0])
            for row in rows:
                line = [v if isinstance(v, (str, int)) else json.dumps(v) for v in row.values()]
                writer.writerow(line[: data.draw(st.sampled_from([len(line)] * 3 + [1]))])
        try:
            opened = open_dataset(path)
        except FormatError:
            return
        assert len(opened) == len(rows)
        check(name, path, python_rows(opened), opened.column_names)
        check_command(name, path, python_rows(opened), opened.column_names, files)

    property()


def check_command(name: str, path: Path, truth: Rows, columns: list[str], files: Callable[[str], Path]) -> None:
    """The same by `ee-trl score` and `ee-trl select`."""
    scored, kept = files(".parquet"), files(".jsonl")
    assert main(["score", str(path), "-o", str(scored), "--scorer", "linear", "-q"]) not in (2, 3, 5)
    found = python_rows(open_dataset(scored))
    check_scored(name, truth, found, columns)
    wanted = [row["id"] for row in found if row["score_status"] == SCORED]
    code = main(["select", str(scored), "-o", str(kept), "--keep", ",".join(KEEPABLE), "--exclude", "none", "-q"])
    assert code == (0 if wanted else 4)
    if wanted:
        assert [row["id"] for row in python_rows(open_dataset(kept))] == wanted


# ---- files that cannot be read at all ------------------------------------------------------------------------------

GOOD = [{"context": ["I lost my job."], "response": f"I am sorry, {i}. " * 20} for i in range(50)]
LINES = "\n".join(map(json.dumps, GOOD)).encode()
CSV = b"context,response\n" + b"I lost my job.,I am sorry.\n" * 50


def parquet(table: pa.Table) -> bytes:
    out = pa.BufferOutputStream()
    pq.write_table(table, out)
    return out.getvalue().to_pybytes()


PARQUET = parquet(pa.Table.from_pylist(GOOD))
TWICE = pa.table([["a"], ["b"], [1], [2]], names=["context", "response", "id", "id"])
UNREADABLE = {
    "cut.parquet": PARQUET[:-20],
    "cut in half.parquet": PARQUET[: len(PARQUET) // 2],
    "column twice.parquet": parquet(TWICE),
    "column twice, of the dialogue.parquet": parquet(TWICE.rename_columns(["context", "response", "response", "id"])),
    "lines.parquet": LINES,
    "empty.parquet": b"",
    "parquet.jsonl": PARQUET,
    "parquet.csv": PARQUET,
    "parquet.arrow": PARQUET,
    "packed parquet.parquet.gz": gzip.compress(PARQUET),
    "packed.jsonl": gzip.compress(LINES),
    "not packed.jsonl.gz": LINES,
    "not packed.jsonl.zst": LINES,
    "cut.jsonl.gz": gzip.compress(LINES)[:-20],
    "cut.csv.gz": gzip.compress(CSV)[:-20],
    "lines.csv": LINES,
    "csv.jsonl": CSV,
    "other encoding.csv": CSV.decode().encode("utf-16"),
    "other encoding.jsonl": LINES.decode().encode("utf-16"),
    "empty.csv": b"",
    "only a header.csv": b"context,response\n",
    "no rows.json": b"[]",
    "numbers.json": b"[1, 2]",
    "nulls.jsonl": b"null\nnull\n",
    "no columns.jsonl": b"{}",
    "bytes.jsonl": bytes(range(256)),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_file_that_cannot_be_read_is_a_clear_error(name: str, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / name
    path.write_bytes(UNREADABLE[name])
    with pytest.raises(EmpathyError):
        selector().score(path)
    assert main(["score", str(path), "-o", str(tmp_path / "out.parquet"), "--scorer", "linear", "-q"]) == 3
    assert "\nee-trl: " in "\n" + capsys.readouterr().err
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize("start", range(100, len(PARQUET) - 100, 150))
def test_parquet_with_damaged_bytes_is_refused_or_read(start: int, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(PARQUET[:start] + b"\xff" * 40 + PARQUET[start + 40 :])
    code = main(["score", str(path), "-o", str(tmp_path / "out.parquet"), "--scorer", "linear", "-q"])
    if code == 3:
        with pytest.raises(EmpathyError):
            selector().score(path)
    else:
        assert len(selector().score(path)) == 50


def test_folder_that_is_called_like_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "a.parquet"
    folder.mkdir()
    with pytest.raises(FormatError, match=r"a\.parquet"):
        selector().score(folder)
    (folder / "train.parquet").write_bytes(PARQUET)
    assert len(selector().score(folder)) == 50


def test_folder_of_files_of_several_kinds_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(PARQUET)
    (tmp_path / "b.parquet").write_bytes(PARQUET)
    (tmp_path / "c.jsonl").write_bytes(LINES)
    for source in (tmp_path, tmp_path / "*"):
        with pytest.raises(FormatError, match=r"(?s)1 json \(c\.jsonl\) and 2 parquet .*\*\.parquet"):
            selector().score(source)
    (tmp_path / "d.csv").write_bytes(CSV)
    (tmp_path / "e.tsv").write_bytes(CSV.replace(b",", b"\t"))
    with pytest.raises(FormatError, match=r"1 csv \(d\.csv\) and 1 tsv"):
        selector().score(tmp_path / "*sv")
    assert len(selector().score(tmp_path / "*.parquet")) == 100
    assert len(selector().score(tmp_path / "*.jsonl")) == 50


def test_card_of_a_folder_may_name_its_files(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(PARQUET)
    (tmp_path / "b.jsonl").write_bytes(LINES)
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: a.parquet\n---\n", encoding="utf-8"
    )
    assert len(selector().score(tmp_path)) == 50


def test_what_score_writes_beside_a_file_is_no_data(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(LINES)
    out = tmp_path / "scored"
    assert main(["score", str(tmp_path / "in.jsonl"), "-o", str(out / "a.jsonl"), "--scorer", "linear", "-q"]) == 0
    assert len(list(out.iterdir())) == 2
    assert selector().summary(out).rows == 50


# ---- columns that are called like scores ---------------------------------------------------------------------------

NO_SCORES: list[tuple[list[Any], type[EmpathyError]]] = [
    (["7", "8"], ScoresError),
    (["high", "low"], ScoresError),
    ([True, False], ScoresError),
    ([[7.0], [8.0]], ScoresError),
    ([{"a": 7}, {"a": 8}], ScoresError),
    ([b"7", b"8"], ScoresError),
    ([math.inf, 1.0], SelectionError),
    ([-math.inf, 1.0], SelectionError),
    ([10.5, 1.0], SelectionError),
    ([-0.5, 1.0], SelectionError),
]


def ways_in(rows: Rows, tmp_path: Path) -> dict[str, Any]:
    data = Dataset(table_of(rows))
    data.to_parquet(tmp_path / "a.parquet")
    return {
        "data set": data,
        "stream": data.to_iterable_dataset(),
        "stream of rows": IterableDataset.from_generator(lambda: iter(rows)),
        "parquet": tmp_path / "a.parquet",
    }


@pytest.mark.parametrize(("values", "error"), NO_SCORES)
def test_score_columns_that_hold_no_scores(values: list[Any], error: type[EmpathyError], tmp_path: Path) -> None:
    rows = [{**GOOD[0], "sensibility": value, "rationality": 2.0} for value in values]
    for way, source in ways_in(rows, tmp_path).items():
        with pytest.raises((ScoresError, SelectionError) if way == "stream of rows" else error, match="sensibility"):
            list(selector().select(source))
        scored = python_rows(selector().score(source))
        assert [plain(row["given_sensibility"]) for row in scored] == plain(values)
        assert [row["score_status"] for row in scored] == [SCORED] * 2
    assert main(["select", str(tmp_path / "a.parquet"), "-o", str(tmp_path / "out.parquet"), "-q"]) == 3


def test_scores_that_are_missing_are_never_selected(tmp_path: Path) -> None:
    rows = [{**GOOD[i], "sensibility": value, "rationality": 2.0} for i, value in enumerate([8.0, math.nan, None])]
    for source in ways_in(rows, tmp_path).values():
        assert [row["completion"][0]["content"] for row in selector().select(source)] == [GOOD[0]["response"]]


@pytest.mark.parametrize("values", [["7"], [[7.0]], [{"a": 7}], [11.0], [-math.inf], [10**400], [2**70]])
def test_columns_of_an_earlier_run_that_it_did_not_write(values: list[Any], tmp_path: Path) -> None:
    rows = [
        {**GOOD[0], "sensibility": v, "rationality": 2.0, "score_status": SCORED, "scorer": "words-1"} for v in values
    ]
    for source in ways_in(rows, tmp_path).values():
        with pytest.raises(EmpathyError, match="sensibility"):
            list(selector().score(source))


def test_later_rows_of_a_stream_may_bring_columns_of_those_names() -> None:
    rows = [GOOD[0], {**GOOD[1], "sensibility": "mine", "quadrant": 5, "score_status": []}]
    [_, scored] = selector().score(IterableDataset.from_generator(lambda: iter(rows)))
    assert (scored["given_sensibility"], scored["source_quadrant"], scored["source_score_status"]) == ("mine", 5, [])
    assert scored["score_status"] == SCORED


# ---- what was found once -------------------------------------------------------------------------------------------


def test_json_values_are_what_the_line_says(tmp_path: Path) -> None:
    notes = [
        "2020-01-01",
        "7",
        7,
        7.5,
        True,
        None,
        "null",
        [1, "a"],
        {},
        {"a": {}},
        2**53 + 1,
        2**64 - 1,
        0.1234567890123,
    ]
    for i, others in enumerate(([None], ["2021-02-03T04:05:06Z"], notes)):
        for note in notes:
            path = tmp_path / f"{i}-{notes.index(note)}.jsonl"
            rows = [{"prompt": "2020-01-01", "completion": "2020-01-01 10:00:00", "note": n} for n in [note, *others]]
            path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
            found = python_rows(open_dataset(path))
            assert plain(found) == plain(rows)
            assert [type(row["note"]) for row in found] == [
                type(n) if not isinstance(n, int) or isinstance(row["note"], int) else float
                for row, n in zip(found, [note, *others], strict=True)
            ]
            assert [row["score_status"] for row in selector().score(path)] == [SCORED] * len(rows)


def test_numbers_in_a_csv_are_text_where_they_are_said(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("context,response,id\n007,1.50,1\n2020-01-01,true,2\n", encoding="utf-8")
    scored = selector().score(tmp_path / "a.csv")
    assert [(row["context"], row["response"], row["id"], row["score_status"]) for row in scored] == [
        ("007", "1.50", 1, SCORED),
        ("2020-01-01", "true", 2, SCORED),
    ]


@pytest.mark.parametrize("content", [{"path": None, "bytes": b"no image"}, {"path": "gone.png", "bytes": None}])
def test_images_in_messages_are_never_looked_at(content: Any, tmp_path: Path) -> None:
    part = {"type": Value("string"), "text": Value("string"), "image": Image()}
    features = Features({"messages": List({"role": Value("string"), "content": List(part)}), "avatar": Image()})
    said = [{"type": "text", "text": "Look.", "image": None}]
    shown = [{"type": "image", "text": None, "image": content}]
    turns = [("user", said), ("assistant", said), ("user", shown), ("assistant", said)]
    row = {"messages": [{"role": role, "content": parts} for role, parts in turns], "avatar": content}
    data = Dataset(pa.Table.from_pylist([row], schema=features.arrow_schema))
    scored = selector().score(data)
    assert scored["score_status"][:] == [SCORED, "not_text_alone"]
    pq.write_table(data.with_format("arrow")[:], tmp_path / "a.parquet")
    assert main(
        ["score", str(tmp_path / "a.parquet"), "-o", str(tmp_path / "out.jsonl"), "--scorer", "linear", "-q"]
    ) not in (2, 3, 5)


def test_text_in_arrow_that_is_none(tmp_path: Path) -> None:
    bad = pa.array([b"a", b"\xed\xa0\xbd", b"c"]).view(pa.string())
    pq.write_table(pa.table({"context": bad, "response": ["x", "y", "z"], "note": bad}), tmp_path / "a.parquet")
    for ending in (".parquet", ".jsonl"):
        out = tmp_path / f"out{ending}"
        assert main(["score", str(tmp_path / "a.parquet"), "-o", str(out), "--scorer", "linear", "-q"]) not in (
            2,
            3,
            5,
        )
        scored = open_dataset(out)
        assert scored["score_status"][:] == [SCORED, "invalid_text", SCORED]
        assert scored["response"][:] == ["x", "y", "z"]


def test_utterances_without_a_conversation_are_all_there(tmp_path: Path) -> None:
    [first, second, *_] = WAYS["empathetic_dialogues"]
    lines = ["{", json.dumps(first), json.dumps(second), "[]", '{"conv_id": null}', '{"conv_id": [1]}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    scored = selector().score(tmp_path / "a.jsonl")
    assert list(zip(scored["row_index"], scored["score_status"], strict=True)) == [
        (0, "invalid_json"),
        (2, SCORED),
        (3, "invalid_json"),
        (4, "null_dialogue"),
        (5, "null_dialogue"),
    ]


def test_conversations_may_be_called_anything() -> None:
    names = [10**30, [1], {"a": None}, "a", None]
    rows = [{**row, "conv_id": name} for name in names for row in WAYS["empathetic_dialogues"][:2]]
    scored = selector().score(Dataset(table_of(rows)))
    assert scored["row_index"][:] == [1, 3, 5, 7, 8, 9]
    assert scored["score_status"][:] == [*[SCORED] * 4, "ends_with_speaker", "missing_turns"]


def test_new_rows_beside_scored_ones_of_any_kind() -> None:
    scored = selector().score(Dataset.from_list(WAYS["messages"][:1]))
    bad = Dataset.from_list([{"messages": []}, {"messages": None}])
    both = selector().score(concatenate_datasets([scored, bad]))
    assert both["score_status"][:] == [SCORED, "empty_dialogue", "null_dialogue"]
