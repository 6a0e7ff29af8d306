"""The human evaluation kit: blinded sheets out, made answers in, and numbers that are known beforehand."""

from __future__ import annotations

import csv
import io
import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest
from datasets import Dataset

from ee_trl import load_sample
from ee_trl.cli.main import main
from ee_trl.errors import EmpathyError, FormatError
from ee_trl.evaluation import read_eval_set
from ee_trl.human.results import agreement, results_markdown, study_results
from ee_trl.human.sheets import (
    ASPECTS,
    Answers,
    Key,
    make_sheets,
    read_answers,
    read_key,
    sheet_csv,
    sheet_html,
    write_sheets,
)


CONTEXTS = [[["Speaker", f"this happened: {i}"]] for i in range(12)]
REPLIES = {"base": [f"base says {i}" for i in range(12)], "expert": [f"expert says {i}" for i in range(12)]}


def answer_sheets(folder: Path, key: Key, judge, suffix: str = ".csv") -> list[Path]:
    """Fills in every sheet by `judge(rater, dialogue, aspect)`, which names the candidate that is better, or `tie`."""
    paths = []
    for rater, (sheet, items) in enumerate(key.sheets.items()):
        given = {}
        for item, entry in items.items():
            given[item] = {}
            for aspect in key.aspects:
                choice = judge(rater, entry["dialogue"], aspect)
                given[item][aspect] = "AB"[entry["shown"].index(choice)] if choice in entry["shown"] else choice
        path = folder / f"answers-{rater}{suffix}"
        if suffix == ".json":
            path.write_text(
                json.dumps({"study": key.study, "sheet": sheet, "aspects": key.aspects, "answers": given}),
                encoding="utf-8",
            )
        else:
            rows = list(csv.DictReader(io.StringIO((folder / f"{sheet}.csv").read_text(encoding="utf-8-sig"), "")))
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]), delimiter=";")  # as some spreadsheets save it
                writer.writeheader()
                writer.writerows({**row, **given[row["item"]]} for row in rows)
        paths.append(path)
    return paths


# ---------------------------------------------------------------------------------------------- sheets


def test_sheets_are_blinded_balanced_and_in_orders_of_their_own() -> None:
    replies = {"zeta": REPLIES["base"], "omega": REPLIES["expert"]}
    sheets, key = make_sheets(CONTEXTS, replies, raters=4, seed=1)
    orders = [[item.dialogue for item in sheet.items] for sheet in sheets]
    assert all(sorted(order) == list(range(12)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    sides = []
    for sheet in sheets:
        shown = {item.id: key.sheets[sheet.name][item.id]["shown"] for item in sheet.items}
        assert Counter(names[0] for names in shown.values()) == {"zeta": 6, "omega": 6}
        for item in sheet.items:
            assert item.replies == [replies[name][item.dialogue] for name in shown[item.id]]
        sides.append({item.dialogue: shown[item.id][0] for item in sheet.items})
        for text in (sheet_csv(sheet), sheet_html(sheet)):
            assert not re.search("zeta|omega", text)
    assert sides[0] != sides[1]
    again, same = make_sheets(CONTEXTS, replies, raters=4, seed=1)
    assert (again, same) == (sheets, key)
    other, _ = make_sheets(CONTEXTS, replies, raters=4, seed=2)
    assert [item.dialogue for item in other[0].items] != orders[0]


def test_a_study_is_named_by_all_that_it_is_made_of(tmp_path, capsys) -> None:
    study = {"contexts": CONTEXTS, "replies": REPLIES, "aspects": ["empathy"], "dialogues": [0, 1, 2]}
    others = [
        {"replies": {**REPLIES, "expert": REPLIES["base"]}},
        {"replies": {"base": REPLIES["base"], "second": REPLIES["expert"]}},
        {"contexts": [[["Speaker", "else"]]] * 12},
        {"dialogues": [0, 1, 3]},
        {"aspects": ["coherence"]},
        {"kind": "rating"},
        {"raters": 2},
        {"seed": 1},
    ]
    keys = [make_sheets(**(study | other))[1] for other in ({}, *others)]
    assert len({key.study for key in keys}) == len(keys)
    assert make_sheets(**study)[1] == keys[0]
    for folder, options in (("one", study), ("other", study | others[0])):
        write_sheets(tmp_path / folder, *make_sheets(**options))
    assert main(["human", "import", str(tmp_path / "one"), str(tmp_path / "other" / "sheet-1.csv")]) == 3
    assert f"is of study '{keys[1].study}', the key of study '{keys[0].study}'" in capsys.readouterr().err


def test_rating_sheets_hold_every_reply_once() -> None:
    sheets, key = make_sheets(CONTEXTS, {**REPLIES, "people": ["p"] * 12}, kind="rating", raters=2)
    for sheet in sheets:
        found = [(item.dialogue, *key.sheets[sheet.name][item.id]["shown"]) for item in sheet.items]
        assert len(found) == len(set(found)) == 36


def test_what_makes_no_sheet_is_refused() -> None:
    for options, message in (
        ({"kind": "abc"}, "unknown kind of sheet 'abc'; valid: ab, rating"),
        ({"aspects": ["kindness"]}, "unknown aspect 'kindness'"),
        ({"aspects": []}, "no aspect"),
        ({"raters": 0}, "raters 0"),
        ({"dialogues": []}, "no dialogue"),
    ):
        with pytest.raises(EmpathyError, match=re.escape(message)):
            make_sheets(CONTEXTS, REPLIES, **options)
    with pytest.raises(EmpathyError, match="compares two candidates, got 1: base"):
        make_sheets(CONTEXTS, {"base": REPLIES["base"]})


def test_hostile_text_stays_text() -> None:
    hostile = [
        "<script>alert(1)</script>", "</p></fieldset><img src=x onerror=alert(2)>", "=HYPERLINK(\"http://x\")",
        "+1", "-1", "@SUM(A1)", "\ttab", "a\nb, \"c\"; d", "</script><script>alert(3)//", "\x00\x07bell", "{{ 7*7 }}",
        "fine",
    ]  # fmt: skip
    sheets, _ = make_sheets([[["Speaker", text]] for text in hostile], {"a": hostile, "b": ["-"] * 12}, raters=1)
    page = sheet_html(sheets[0])
    assert page.count("<script>") == 1
    assert page.count("</script>") == 1
    assert "<img" not in page
    assert "49" not in re.findall(r"\{\{[^}]*\}\}|\b49\b", page)
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/=]+'", page)  # no other script than the page's own may run
    rows = list(csv.reader(io.StringIO(sheet_csv(sheets[0]).lstrip("\ufeff"), newline="")))
    assert len(rows) == 13
    for row in rows[1:]:
        assert not any(cell.startswith(("=", "+", "-", "@", "\t")) for cell in row)
        assert "\x00" not in "".join(row)


def test_the_script_is_the_one_that_is_allowed() -> None:
    from base64 import b64encode
    from hashlib import sha256

    sheets, _ = make_sheets(CONTEXTS, REPLIES, raters=1)
    page = sheet_html(sheets[0])
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL).group(1)
    assert b64encode(sha256(script.encode()).digest()).decode() in page


# ---------------------------------------------------------------------------------------------- the round trip


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_round_trip_with_known_answers(suffix, tmp_path) -> None:
    sheets, key = make_sheets(CONTEXTS, REPLIES, raters=3, seed=5)
    write_sheets(tmp_path, sheets, key)
    assert read_key(tmp_path) == key

    def judge(rater: int, dialogue: int, aspect: str) -> str:
        if aspect == "coherence":
            return "tie"
        if aspect == "continuity":  # the raters disagree as far as they can
            return ("expert", "base", "tie")[(rater + dialogue) % 3]
        return "expert" if dialogue < 9 else "base"

    answers = [read_answers(path, key) for path in answer_sheets(tmp_path, key, judge, suffix)]
    found = study_results(key, answers)
    assert (found["raters"], found["answered"], found["open"]) == (3, 3 * 12 * 4, 0)
    empathy = found["aspects"]["empathy"]
    assert {name: empathy[name]["count"] for name in ("win", "tie", "lose")} == {"win": 9, "tie": 0, "lose": 27}
    assert empathy["dialogues"] == {"base": 3, "neither": 0, "expert": 9}
    assert empathy["net"] == pytest.approx(-0.5)
    # exact sign test of 3 against 9: 2 * (C(12,0) + C(12,1) + C(12,2) + C(12,3)) / 2^12
    assert empathy["p"] == pytest.approx(2 * (1 + 12 + 66 + 220) / 4096)
    assert empathy["agreement"]["fleiss_kappa"] == pytest.approx(1.0)
    assert empathy["agreement"]["krippendorff_alpha"] == pytest.approx(1.0)
    coherence = found["aspects"]["coherence"]
    assert (coherence["tie"]["share"], coherence["p"], coherence["agreement"]["fleiss_kappa"]) == (1.0, None, None)
    # every dialogue has one answer of each kind: observed agreement 0, by chance 1/3
    assert found["aspects"]["continuity"]["agreement"]["fleiss_kappa"] == pytest.approx(-0.5)
    assert "| empathy | 25.0% (9) | 0.0% (0) | 75.0% (27) |" in results_markdown(found)


def test_dialogues_longer_than_the_limit_of_pythons_csv_reader_are_read(tmp_path) -> None:
    before = csv.field_size_limit(131_072)  # Python's default, whatever an earlier test has set
    contexts = [[["Speaker", "word " * (131_072 // 4)]]] * 2
    sheets, key = make_sheets(contexts, {name: texts[:2] for name, texts in REPLIES.items()}, raters=1)
    write_sheets(tmp_path, sheets, key)
    text = (tmp_path / "sheet-1.csv").read_bytes().decode("utf-8-sig").replace(",,,,\r\n", ",A,,,tie\r\n")
    (tmp_path / "answers.csv").write_bytes(text.encode())
    try:
        answers = read_answers(tmp_path / "answers.csv", key)
    finally:
        csv.field_size_limit(before)
    assert len(answers.given) == 2
    assert all(set(said.values()) == {"A", "tie"} for said in answers.given.values())


def test_a_sheet_that_is_no_csv_is_refused(tmp_path, monkeypatch) -> None:
    sheets, key = make_sheets(CONTEXTS, REPLIES, raters=1)
    write_sheets(tmp_path, sheets, key)

    def broken(*args, **kwargs) -> None:
        raise csv.Error("line contains NUL")

    monkeypatch.setattr(csv, "DictReader", broken)
    with pytest.raises(FormatError, match=r"sheet-1\.csv' cannot be read as CSV \(line contains NUL\)"):
        read_answers(tmp_path / "sheet-1.csv", key)


def test_fleiss_kappa_of_the_textbook() -> None:
    # Fleiss (1971) as Wikipedia works it out: 14 raters, 10 subjects, 5 categories, kappa 0.210
    counts = [
        [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
    ]  # fmt: skip
    sheets = [f"sheet-{i}" for i in range(14)]
    draw = random.Random(0)
    table = {}
    for dialogue, row in enumerate(counts):
        answers = [value for value, n in enumerate(row, start=1) for _ in range(n)]
        draw.shuffle(answers)  # which rater said what plays no part
        table[(dialogue, "x")] = dict(zip(sheets, answers, strict=True))
    found = agreement(table, sheets, "nominal")
    assert found["fleiss_kappa"] == pytest.approx(0.210, abs=5e-4)
    assert found["items"] == 10
    # with all answers there, nominal alpha is kappa but for a correction for the size: 1 - (1 - kappa) * (n - 1) / n
    assert found["krippendorff_alpha"] == pytest.approx(1 - (1 - found["fleiss_kappa"]) * 139 / 140)


def test_ratings_and_open_answers(tmp_path) -> None:
    sheets, key = make_sheets(CONTEXTS, REPLIES, kind="rating", aspects=["empathy", "coherence"], raters=3, seed=2)
    answers = []
    for rater, (sheet, items) in enumerate(key.sheets.items()):
        given = {}
        for number, (item, entry) in enumerate(items.items()):
            value = (2 if entry["shown"] == ["base"] else 4) + (rater == 2 and entry["dialogue"] % 2)
            given[item] = {"empathy": str(value)} if not (rater == 1 and number < 6) else {}
        answers.append(Answers(f"{sheet}.csv", sheet, given))
    found = study_results(key, answers)
    assert (found["answered"], found["open"]) == (72 - 6, 72 + 6)
    empathy = found["aspects"]["empathy"]
    assert empathy["means"]["expert"]["mean"] - empathy["means"]["base"]["mean"] == pytest.approx(2, abs=0.2)
    [pair] = empathy["pairs"]
    assert pair["p"] < 0.01
    assert pair["difference"] == pytest.approx(2, abs=0.2)
    assert empathy["agreement"]["level"] == "ordinal"
    assert empathy["agreement"]["items"] == 24 - 6  # those that every rater answered
    assert 0.8 < empathy["agreement"]["krippendorff_alpha"] < 1
    coherence = found["aspects"]["coherence"]
    assert coherence["means"]["base"]["mean"] is None
    assert coherence["agreement"]["krippendorff_alpha"] is None
    results_markdown(found)


def test_answers_that_are_not_of_this_study_are_refused(tmp_path) -> None:
    sheets, key = make_sheets(CONTEXTS, REPLIES, raters=2, aspects=["empathy"])
    write_sheets(tmp_path, sheets, key)
    good = (tmp_path / "sheet-1.csv").read_text(encoding="utf-8")
    item = sheets[0].items[0].id

    def refused(text: str, message: str, name: str = "bad.csv") -> None:
        (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(FormatError, match=message):
            read_answers(tmp_path / name, key)

    refused(good.replace(key.study, "another"), "is of study 'another'")
    refused(good.replace("sheet-1", "sheet-9"), "unknown sheet 'sheet-9'; valid: sheet-1, sheet-2")
    refused(good.replace(f",{item},", ",1-999,"), "has no item '1-999'")
    refused(good + good.split("\n", 1)[1], "is there twice")
    refused(good.replace("empathy", "empathie"), "there is no column 'empathy'")
    refused("", "holds no answer")
    refused("a,b\n1,2\n", "has no column 'study'")
    refused('{"study": 1}', "is not what the form saves", "bad.json")
    answered = json.dumps(
        {"study": key.study, "sheet": "sheet-1", "aspects": ["empathy"], "answers": {item: {"empathy": "C"}}}
    )
    refused(answered, f"item {item}: empathy is 'C'; valid: A, B, tie", "bad.json")
    with pytest.raises(EmpathyError, match="no question was answered"):
        study_results(key, [read_answers(tmp_path / "sheet-1.csv", key)])
    (tmp_path / "one.json").write_text(answered.replace('"C"', '"a"'), encoding="utf-8")
    one = read_answers(tmp_path / "one.json", key)
    assert one.given[item] == {"empathy": "A"}
    with pytest.raises(EmpathyError, match="are all answers to sheet-1"):
        study_results(key, [one, one])
    for wrong in ({"resamples": -1}, {"confidence": 95}, {"seed": -1}):
        with pytest.raises(EmpathyError, match="{} {} is not a".format(*next(iter(wrong.items())))):
            study_results(key, [one], **wrong)
    with pytest.raises(FormatError, match="no such file"):
        read_key(tmp_path / "none")


# ---------------------------------------------------------------------------------------------- the command line


def test_the_commands(tmp_path, capsys) -> None:
    load_sample("test").to_parquet(tmp_path / "test.parquet")
    eval_set = read_eval_set(str(tmp_path / "test.parquet"))
    for name in ("base", "expert"):
        rows = {"prediction": [f"{name} {i}" if i % 2 else "the same" for i in range(len(eval_set))]}
        Dataset.from_dict(rows).to_json(tmp_path / f"{name}.jsonl")
    files = [part for name in ("base", "expert") for part in ("--predictions", str(tmp_path / f"{name}.jsonl"))]
    command = ["human", "export", str(tmp_path / "test.parquet"), *files, "-o", str(tmp_path / "study")]
    assert main([*command, "--n", "10", "--raters", "2", "--seed", "3"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    key = read_key(tmp_path / "study")
    for items in key.sheets.values():
        assert all(entry["dialogue"] % 2 for entry in items.values())  # nobody is asked about two equal replies
    assert main([*command, "--n", "10"]) == 3
    assert "key.json' is there already" in capsys.readouterr().err
    assert main([*command, "--n", "100000", "--overwrite"]) == 3
    assert "to which the candidates reply differently" in capsys.readouterr().err
    taken = ["--predictions", f"references={tmp_path / 'base.jsonl'}", "--kind", "rating", "--references"]
    assert main([*command, *taken, "--overwrite"]) == 3
    assert "a file of replies is called 'references', as the reference replies are" in capsys.readouterr().err
    same = [*command[:3], *files[:2], "--predictions", f"again={tmp_path / 'base.jsonl'}", *command[-2:]]
    assert main([*same, "--overwrite"]) == 3
    assert "there is nothing to rate: base and again reply the same to all" in capsys.readouterr().err
    answers = answer_sheets(tmp_path / "study", key, lambda *args: "expert", ".json")
    results = ["human", "import", str(tmp_path / "study"), *map(str, answers), "-o", str(tmp_path / "results")]
    assert main(results) == 0
    assert "| empathy | 0.0% (0) | 0.0% (0) | 100.0% (20) | -1.00" in capsys.readouterr().out
    found = json.loads((tmp_path / "results" / "results.json").read_text(encoding="utf-8"))
    assert found["aspects"]["empathy"]["p"] == pytest.approx(2 / 2**10)
    assert set(found["aspects"]) == set(ASPECTS)
    assert main(results) == 3
    assert main([*results, "--overwrite", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["raters"] == 2
    (tmp_path / "study" / "notes.csv").write_text("mine", encoding="utf-8")
    assert main([*command, "--n", "4", "--raters", "1", "--aspects", "empathy, coherence", "--overwrite"]) == 0
    left = {path.name for path in (tmp_path / "study").iterdir()} - {path.name for path in answers}
    assert left == {"sheet-1.csv", "sheet-1.html", "key.json", "notes.csv"}
    assert read_key(tmp_path / "study").aspects == ["empathy", "coherence"]
    (tmp_path / "study" / "key.json").write_text("{}", encoding="utf-8")
    assert main([*command, "--n", "4", "--overwrite"]) == 3
    assert "key.json' is not a key of `ee-trl human export`" in capsys.readouterr().err
