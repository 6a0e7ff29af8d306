"""The siege by hostile rows: every command on them ends with a code that it documents, and writes nothing that acts.

The fast tests run two cases, the slow ones more: `EE_TRL_SIEGE=300 pytest tests/siege` runs so many.
"""

from __future__ import annotations

import json
import logging
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import hostile
import pyarrow.parquet as pq
import pytest

from ee_trl.cli.main import main


FEW, MANY = 2, int(os.environ.get("EE_TRL_SIEGE", "20"))
CASES = [pytest.param(range(FEW), id="few"), pytest.param(range(FEW, MANY), id="many", marks=pytest.mark.slow)]
CODES = (0, 2, 3, 4, 5, 6)


class Siege:
    """Runs commands on one case's files, checks what they print and write, and counts."""

    def __init__(self, folder: Path, capsys: Any, counts: Counter[str]) -> None:
        self.folder, self.capsys, self.counts = folder, capsys, counts

    def run(self, *args: Any, rows: int = 0) -> int:
        """The command's exit code."""
        given = [str(arg) for arg in args]
        before = {path for path in self.folder.rglob("*") if path.is_file()}
        try:
            code = main(given)
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        except BaseException as error:
            raise AssertionError(f"a traceback from {given}: {error!r}") from error
        out, err = self.capsys.readouterr()
        assert code in CODES, (given, code)
        try:
            if "--json" not in given:
                hostile.check_terminal(out)
            elif out:
                hostile.check_json(out)
            hostile.check_terminal(err)
            for path in {path for path in self.folder.rglob("*") if path.is_file()} - before:
                hostile.check_file(path)
                self.counts["files"] += 1
        except AssertionError as error:
            raise AssertionError(f"{given}: {error}") from error
        assert code != 5, (given, err)
        assert code in (0, 4) or "ee-trl" in err, (given, err)
        self.counts["commands"] += 1
        self.counts[f"exit {code}"] += 1
        self.counts["rows"] += rows
        return code


@pytest.mark.parametrize("cases", CASES)
@pytest.mark.filterwarnings("ignore:Glyph .* missing from", "ignore:Matplotlib currently does not support")
def test_hostile_rows_never_end_in_a_traceback_and_nothing_that_is_written_acts(
    cases: range, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ee_trl.reports.explorer.plotting_library", lambda: "plot()")  # the real one takes a second
    monkeypatch.setattr(logging.root, "handlers", [])  # so that the command's own log lines are printed
    counts: Counter[str] = Counter()
    for seed in cases:
        folder = tmp_path / str(seed)
        folder.mkdir()
        siege = Siege(folder, capsys, counts)
        try:
            besiege(siege, random.Random(seed), pictures=seed % 5 == FEW)
        except AssertionError as error:
            raise AssertionError(f"case {seed}: {error}") from error
    with capsys.disabled():
        print("\n", ", ".join(f"{name}: {n:,}" for name, n in sorted(counts.items())))
    assert counts["exit 0"] > counts["commands"] / 3


def besiege(siege: Siege, draw: random.Random, pictures: bool) -> None:
    """Every command, on one set of rows in one format, and on what describes them."""
    folder, n = siege.folder, draw.randrange(3, 40)
    made = hostile.rows(draw, n)
    ending = draw.choice(hostile.ENDINGS)
    source = hostile.write(draw, made, folder / f"in{ending}")
    scored = folder / f"scored{draw.choice(('.parquet', '.jsonl'))}"
    told = ["--json"] if draw.random() < 0.5 else []
    if siege.run("score", source, "-o", scored, *LINEAR, *told, rows=n) in (0, 6) and ending not in (".csv", ".tsv"):
        assert rows_of(scored) == n
    siege.run("label", source, "-o", folder / "label.jsonl", "--budget", "3", "--scorer", "linear", rows=n)
    given = hostile.write(draw, hostile.scores(draw, made), folder / f"given{draw.choice(hostile.ENDINGS)}")
    for data in (scored, given):
        if data.exists():
            besiege_scored(siege, draw, data, n, told)
    plot = ["-o", folder / "agreement"] if pictures else []
    siege.run("agreement", given, "given", "linear", "--no-injection", "--no-check", "--no-store", "-q", *plot, rows=n)
    besiege_people(siege, draw, source, n)
    besiege_folder(siege, draw, made)
    if pictures:
        siege.run("check", "linear", "--data", given, "--human", "sensibility", "-q", "--no-store", *told, rows=n)
        replies = folder / "replies.jsonl"
        texts = [{"prediction": draw.choice((*hostile.TEXTS, *hostile.ANSWERS))} for _ in made]
        hostile.write(draw, hostile.spoilt(draw, texts, 0.02), replies)
        metrics = ["--metrics", "empathy_axes,distinct", "--resamples", "20"]
        names = ["--predictions", f"a={replies}", "--predictions", f"{draw.choice(hostile.COLUMNS)[:50]}={replies}"]
        siege.run("evaluate", source, *names, "-o", folder / "evaluation", *LINEAR, *metrics, rows=n)


LINEAR = ("--scorer", "linear", "--no-store", "-q")


def besiege_scored(siege: Siege, draw: random.Random, data: Path, n: int, told: list[str]) -> None:
    """The commands on scored rows, and the reports that a card takes numbers from."""
    out = siege.folder / data.stem
    out.mkdir()
    siege.run("summary", data, *told, rows=n)
    siege.run("sweep", data, *told, rows=n)
    keep = ["--keep", "sensibility,rationality,balanced,low", "--ties", "high"]
    more: list[Any] = ["--dropped", out / f"dropped{draw.choice(('.parquet', '.jsonl'))}", "--card"]
    (out / "report").mkdir()
    report = out / "report" / "report.json.txt"  # not strict JSON itself
    report.write_text(json.dumps(hostile.spoilt(draw, REPORT, 0.05)), encoding="utf-8")
    siege.run("select", data, "-o", out / "selected.jsonl", *keep, *more, *told, rows=n)
    about = draw.choice(("--agreement", "--check"))
    siege.run("select", data, "-o", out / "x.jsonl", *keep, "--card", about, report, "--overwrite", rows=n)
    siege.run("select", data, "-o", out / "some.parquet", "--rule", "random", "--n", "2", rows=n)
    siege.run("select", data, "-o", out / "pairs.jsonl", "--format", "dpo", rows=n)
    siege.run("select", data, "-o", out / "argilla.json", "--format", "argilla", *keep, rows=n)
    siege.run("explore", data, "-o", out / "explorer.html", *told, rows=n)


SIDE = {"fingerprint": "given", "name": "x", "check": {}}
REPORT = {
    "a": SIDE,
    "b": {**SIDE, "fingerprint": "linear"},
    "dataset": "d",
    "agreement": {
        "compared": 5,
        "axes": {"sensibility": {"spearman": 0.5}, "rationality": {"spearman": None}},
        "three_way": {"kappa": 0.4},
    },
    "scorers": {"x": {"fingerprint": "given", "kinds": {}, "data": {}}, "random": {}, "length": {}},
}


def besiege_people(siege: Siege, draw: random.Random, source: Path, n: int) -> None:
    """Sheets for raters, and answers and keys that came back spoilt."""
    study = siege.folder / "study"
    export = ["--references", "--kind", "rating", "--n", "2", "--raters", "2", "-o", study]
    if siege.run("human", "export", source, *export, rows=n):
        return
    sheet = study / "sheet-1.csv"
    text = sheet.read_text(encoding="utf-8")
    sheet.write_text(text[: draw.randrange(len(text))] + draw.choice(("", "=1\n", "\0", '"')), encoding="utf-8")
    siege.run("human", "import", study, sheet, study / "sheet-2.csv")
    key = json.loads((study / "key.json").read_text(encoding="utf-8"))
    (study / "key.json").write_text(json.dumps(hostile.spoilt(draw, key, 0.03)), encoding="utf-8")
    items = {item: {"empathy": "3", "coherence": "4"} for item in key["sheets"]["sheet-2"]}
    answers = {"study": key["study"], "sheet": "sheet-2", "aspects": key["aspects"], "answers": items}
    (study / "answers.json").write_text(json.dumps(hostile.spoilt(draw, answers, 0.03)), encoding="utf-8")
    siege.run("human", "import", study, study / "answers.json", "-o", study / "results")


CARD = {
    "license": "mit",
    "license_name": "x",
    "language": ["en"],
    "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "train.jsonl"}]}],
    "dataset_info": {"features": [{"name": "context", "dtype": "string"}], "splits": [{"name": "train"}]},
}


def besiege_folder(siege: Siege, draw: random.Random, made: list[dict[str, Any]]) -> None:
    """A folder of data whose card is hostile, or no YAML."""
    data = siege.folder / "set"
    data.mkdir()
    hostile.write(draw, hostile.scores(draw, made), data / "train.jsonl")
    head = json.dumps(hostile.spoilt(draw, CARD))  # JSON is YAML
    head = draw.choice((head, head, head[: draw.randrange(len(head))], "a: [", "a: *b"))
    (data / "README.md.txt").write_text(f"---\n{head}\n---\n{draw.choice(hostile.TEXTS)}", "utf-8", "replace")
    (data / "README.md.txt").rename(data / "README.md")
    more = ["-o", siege.folder / "set.jsonl", "--card", "--keep", "low,sensibility", "--ties", "low"]
    siege.run("summary", data, "--split", "train", rows=len(made))
    siege.run("select", data, *more, rows=len(made))


def rows_of(path: Path) -> int:
    """The rows of a file."""
    if path.suffix == ".parquet":
        return pq.read_metadata(path).num_rows
    return path.read_text(encoding="utf-8").count("\n")
