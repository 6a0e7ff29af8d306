"""What the explorer's page holds: exact counts, inert text, honest samples (test_explorer_browser.py: how it acts)."""

from __future__ import annotations

import base64
import json
import shlex
import sys
import zlib
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Value

from ee_trl import EmpathyDataSelector, load_sample, write_explorer
from ee_trl.cli.main import main
from ee_trl.errors import EmpathyError, MissingExtraError, SelectionError
from ee_trl.reports import explorer
from ee_trl.reports.explorer import explorer_page, inert_json, on_grid, score_bins


HOSTILE = [
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 2'>",
    "<!-- <script>",
    "line\u2028and paragraph\u2029separators, \x00 and \u202etxt.exe",
    "{{script}} ${'x'} \\u003c &lt;b&gt;",
]


def scored_rows(n: int, seed: int = 0, emotions: int = 5) -> list[dict[str, Any]]:
    """Scores of which a third are on the grid of tenths, a third next to it and a third anywhere."""
    draw = np.random.default_rng(seed)
    grid = draw.integers(0, 101, (n, 2)) / 10
    near = np.clip(np.nextafter(grid, draw.choice([-np.inf, np.inf], (n, 2))), 0, 10)
    scores = np.where(
        draw.random((n, 2)) < 1 / 3, draw.random((n, 2)) * 10, np.where(draw.random((n, 2)) < 0.5, grid, near)
    )
    return [
        {"context": [f"speaker {i}"], "response": f"reply {i}", "sensibility": s, "rationality": r,
         "emotion": f"emotion {i % emotions}"}
        for i, (s, r) in enumerate(scores.tolist())
    ]  # fmt: skip


class Scripts(HTMLParser):
    """The scripts of a page as a browser delimits them, and all tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.tags: list[str] = []
        self.policy = ""
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._inside = tag == "script"
        if self._inside:
            self.scripts.append("")
        if tag == "meta" and dict(attrs).get("http-equiv"):
            self.policy = dict(attrs)["content"] or ""

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.scripts[-1] += data


def library_of(page: Scripts) -> bytes:
    return zlib.decompress(base64.b64decode(page.scripts[1]))


def page_data(page: str) -> dict[str, Any]:
    return json.loads(Scripts(page).scripts[0])


# ---- counts --------------------------------------------------------------------------------------------------------


def test_bins_compare_with_every_threshold_as_the_scores_do() -> None:
    rows = scored_rows(3_000)
    scores = np.array([row["sensibility"] for row in rows] + [0.1 * k for k in range(101)] + [0.0, 10.0])
    bins = score_bins(scores)
    assert (bins.min(), bins.max()) == (0, 200)
    for k in range(101):
        t = float(f"{k / 10:g}")  # as the command line reads it
        np.testing.assert_array_equal(np.sign(bins - 2 * k), np.sign(scores - t), err_msg=f"T = {t}")


def test_half_precision_and_missing_scores_are_binned_as_they_are_compared() -> None:
    scores = np.array([5.1, 5.0, np.nan], np.float32)  # 5.1 in 32 bits is not 5.1
    assert score_bins(scores).tolist() == [101, 100, -1]
    assert float(scores[0]) < 5.1


def test_histogram_holds_every_sample_once_with_its_emotion() -> None:
    rows = scored_rows(500)
    rows[7]["sensibility"] = None
    data = explorer.explorer_data(Dataset.from_list(rows), 5.0, "drop")
    found = data["histogram"]
    assert sum(found["count"]) == data["rows"] == data["scored"] + 1 == 500
    [unscored] = [i for i, s in enumerate(found["s"]) if s < 0]
    assert (found["r"][unscored], found["count"][unscored]) == (-1, 1)
    assert data["emotions"][found["emotion"][unscored]] == "emotion 2"
    by_name = dict.fromkeys(data["emotions"], 0)
    for code, n in zip(found["emotion"], found["count"], strict=True):
        by_name[data["emotions"][code]] += n
    assert by_name == {f"emotion {i}": 100 for i in range(5)}


def test_the_rarest_of_too_many_emotions_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explorer, "MOST_EMOTIONS", 3)
    data = explorer.explorer_data(Dataset.from_list(scored_rows(101, emotions=7)), 5.0, "drop")
    assert data["emotions"] == ["emotion 0", "emotion 1", "emotion 2", "(the 4 rarest)"]
    assert (
        sum(n for code, n in zip(data["histogram"]["emotion"], data["histogram"]["count"], strict=True) if code == 3)
        == 56
    )


@pytest.mark.parametrize(
    ("threshold", "places"), [(5, (50, 50)), ((0.3, 9.9), (3, 99)), ({"rationality": 0}, (50, 0))]
)
def test_sliders_start_at_the_threshold(threshold: Any, places: tuple[int, int]) -> None:
    assert on_grid(threshold) == places


def test_a_threshold_between_two_positions_is_refused() -> None:
    with pytest.raises(SelectionError, match=r"4.25 is between two positions.*4.2"):
        on_grid(4.25)


# ---- texts ---------------------------------------------------------------------------------------------------------


def test_texts_are_sampled_beyond_the_limit_and_counts_stay_exact() -> None:
    rows = Dataset.from_list(scored_rows(2_000))
    every, some = (explorer.explorer_data(rows, 5.0, "drop", limit=limit) for limit in (2_000, 900))
    assert every["histogram"] == some["histogram"]
    assert (len(every["dialogues"]["row"]), len(some["dialogues"]["row"])) == (2_000, 900)
    assert some["dialogues"]["row"] == sorted(some["dialogues"]["row"])
    for place, row in enumerate(some["dialogues"]["row"]):
        assert some["dialogues"]["turns"][place] == [f"speaker {row}", f"reply {row}"]
    again = explorer.explorer_data(rows, 5.0, "drop", limit=900)
    other = explorer.explorer_data(rows, 5.0, "drop", limit=900, seed=1)
    assert again["dialogues"] == some["dialogues"] != other["dialogues"]


def test_a_sample_of_texts_has_some_of_every_half_point() -> None:
    crowd = [{**row, "sensibility": 8.0, "rationality": 2.0} for row in scored_rows(3_000)]
    lonely = [{**crowd[0], "sensibility": 1.0, "rationality": 9.0, "response": "the only one"}]
    data = explorer.explorer_data(Dataset.from_list(crowd + lonely), 5.0, "drop", limit=12)
    assert len(data["dialogues"]["row"]) == 12
    assert ["speaker 0", "the only one"] in data["dialogues"]["turns"]


def test_long_texts_are_cut_and_fewer_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = scored_rows(100)
    rows[3]["response"] = "x" * 5_000
    data = explorer.explorer_data(Dataset.from_list(rows), 5.0, "drop")
    assert data["dialogues"]["turns"][3][1] == "x" * 1_000 + "… (4,000 more characters)"
    monkeypatch.setattr(explorer, "MOST_TEXT", 500)
    fewer = explorer.explorer_data(Dataset.from_list(rows), 5.0, "drop")
    assert 10 < len(fewer["dialogues"]["row"]) < 100
    assert sum(len("".join(turns)) for turns in fewer["dialogues"]["turns"]) <= 500
    assert fewer["histogram"] == data["histogram"]


def test_of_long_dialogues_the_last_turns_are_shown() -> None:
    rows = scored_rows(1)
    rows[0]["context"] = [f"turn {i}" for i in range(40)]
    dialogues = explorer.explorer_data(Dataset.from_list(rows), 5.0, "drop")["dialogues"]
    assert dialogues["turns"][0] == ["(17 turns)", *(f"turn {i}" for i in range(17, 40)), "reply 0"]
    assert dialogues["roles"][0][:3] + dialogues["roles"][0][-2:] == ".slsl"


def test_a_score_next_to_a_threshold_is_not_rounded_onto_it() -> None:
    rows = [{**scored_rows(1)[0], "sensibility": s} for s in (np.nextafter(5.0, 0), 4.123456789, 5.0)]
    found = explorer.explorer_data(Dataset.from_list(rows), 5.0, "drop")["dialogues"]
    assert found["sensibility"] == [np.nextafter(5.0, 0), 4.123457, 5.0]
    assert found["s"] == [99, 83, 100]


def test_nothing_to_show_is_shown(tmp_path: Path) -> None:
    for i, rows in enumerate((Dataset.from_list(scored_rows(2)).select([]), Dataset.from_list(scored_rows(2)))):
        data = page_data(write_explorer(rows, tmp_path / f"{i}.html", limit=0).read_text(encoding="utf-8"))
        assert (data["rows"], data["dialogues"]["row"]) == (len(rows), [])


def test_unscored_rows_are_counted_and_shown_with_their_reason(word_scorer: Any) -> None:
    rows = [{"context": ["a"], "response": text} for text in ("fine", "", None)]
    scored = EmpathyDataSelector(word_scorer, show_progress=False).score(Dataset.from_list(rows))
    data = explorer.explorer_data(scored, 5.0, "drop")
    assert (data["rows"], data["scored"]) == (3, 1)
    assert {entry["name"]: entry["count"] for entry in data["unscored"]} == {"empty_response": 1, "null_dialogue": 1}
    assert data["dialogues"]["reason"] == ["", "empty_response", "null_dialogue"]
    assert data["dialogues"]["s"] == [20, -1, -1]  # one word is a score of 1
    assert data["dialogues"]["roles"] == ["sl", "?", "?"]
    assert json.loads(data["dialogues"]["turns"][1][0]) == {"context": ["a"], "response": ""}


def test_flagged_replies_count_as_selection_counts_them(word_scorer: Any) -> None:
    rows = scored_rows(40)
    scored = EmpathyDataSelector(word_scorer, show_progress=False).score(Dataset.from_list(rows))
    flags = ["hostile" if i % 5 == 0 else None for i in range(40)]
    scored = scored.add_column("score_flag", flags, feature=Value("string"))
    data = explorer.explorer_data(scored, 5.0, "drop")
    assert data["unscored"] == [
        {"name": "flag_hostile", "meaning": "the reply has this flag, so selection drops it", "count": 8}
    ]
    assert (data["scored"], data["dialogues"]["reason"][:2]) == (32, ["flag_hostile", ""])
    kept = EmpathyDataSelector("linear").choose(scored, keep="sensibility,rationality,balanced,low,tie")
    assert len(kept) == data["scored"]


def test_conversations_show_each_reply_with_what_came_before_it() -> None:
    sample = load_sample("test")
    scored = EmpathyDataSelector("linear", show_progress=False).score(sample)
    data = explorer.explorer_data(scored, 5.0, "drop")
    place = next(i for i, turn in enumerate(scored["turn"]) if turn > 2)
    said = [message["content"] for message in scored[place]["messages"][: scored[place]["turn"] + 1]]
    assert data["dialogues"]["turns"][place] == said
    assert set(data["emotions"]) == set(sample["emotion"])


def test_a_stream_gives_the_same_page_as_a_data_set(tmp_path: Path) -> None:
    rows = Dataset.from_list(scored_rows(50))
    pages = [write_explorer(data, tmp_path / f"{i}.html").read_text(encoding="utf-8") for i, data in enumerate(
        (rows, rows.to_iterable_dataset()))]  # fmt: skip
    assert pages[0] == pages[1]


# ---- the page ------------------------------------------------------------------------------------------------------


def hostile_page(tmp_path: Path) -> str:
    rows = [{**row, "context": [text], "response": text, "emotion": text} for row, text in
            zip(scored_rows(5), HOSTILE, strict=True)]  # fmt: skip
    path = write_explorer(Dataset.from_list(rows), tmp_path / "page.html", source="</script><b>.parquet")
    return path.read_text(encoding="utf-8")


def test_hostile_text_stays_inside_the_data(tmp_path: Path) -> None:
    page = hostile_page(tmp_path)
    found = Scripts(page)
    assert len(found.scripts) == 3
    assert "img" not in found.tags
    assert not set("<>&\u2028\u2029") & set(found.scripts[0])
    data = json.loads(found.scripts[0])
    assert [turns[1] for turns in data["dialogues"]["turns"]] == HOSTILE
    assert set(data["emotions"]) == set(HOSTILE)


def test_only_the_pages_own_scripts_may_run(tmp_path: Path) -> None:
    found = Scripts(hostile_page(tmp_path))
    own = [library_of(found), found.scripts[2].encode()]
    allowed = {f"'sha256-{base64.b64encode(sha256(script).digest()).decode()}'" for script in own}
    policy = dict(part.split(" ", 1) for part in found.policy.split("; "))
    assert set(policy["script-src"].split()) == allowed
    assert policy["default-src"] == "'none'"


def test_json_with_half_of_a_character_is_still_json() -> None:
    assert json.loads(inert_json({"text": "half \ud83d <b>"})) == {"text": "half \ud83d <b>"}
    inert_json("half \ud83d").encode("utf-8")


def test_no_place_of_the_page_is_left_unfilled() -> None:
    page = explorer_page({"text": "{{style}}"}, "library();")
    assert page.count("{{") == 1
    assert library_of(Scripts(page)) == b"library();"


def test_the_page_of_few_dialogues_is_small(tmp_path: Path) -> None:
    """plotly alone is 4.8 MB."""
    scored = EmpathyDataSelector("linear").score(load_sample("test"))
    assert write_explorer(scored, tmp_path / "page.html").stat().st_size < 2_300_000


# ---- the ways in ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["scored.parquet", "two words $HOME `id`.parquet", "it's.parquet", "-dash.parquet"])
def test_the_command_names_the_file_for_a_shell(name: str) -> None:
    data = explorer.explorer_data(Dataset.from_list(scored_rows(3)), 5.0, "drop", source=name, split="a b")
    words = shlex.split(data["command"])
    assert words[:2] == ["ee-trl", "select"]
    assert Path(words[2]) == Path(name)
    assert not words[2].startswith("-")
    assert words[3] == "--split=a b"


def test_the_selectors_settings_are_where_the_page_starts(tmp_path: Path, word_scorer: Any) -> None:
    selector = EmpathyDataSelector(word_scorer, threshold=(4, 6.5), ties="high", show_progress=False)
    rows = Dataset.from_list(scored_rows(20))
    data = page_data(selector.explore(rows, tmp_path / "page.html", keep="low,tie").read_text(encoding="utf-8"))
    assert data["start"] == {"threshold": [40, 65], "ties": "high", "keep": ["low", "tie"]}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ties": "up"}, "unknown ties 'up'"),
        ({"keep": "sensiblity"}, "Did you mean 'sensibility'"),
        ({"limit": -1}, "limit -1"),
        ({"threshold": 11}, r"\[0, 10\]"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(EmpathyError, match=said):
        write_explorer(Dataset.from_list(scored_rows(3)), tmp_path / "page.html", **options)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten_and_one_split_is_explored(tmp_path: Path) -> None:
    rows = Dataset.from_list(scored_rows(3))
    path = write_explorer(rows, tmp_path / "page.html")
    with pytest.raises(EmpathyError, match="there already"):
        write_explorer(rows, path)
    assert write_explorer(rows, path, overwrite=True) == path
    with pytest.raises(EmpathyError, match=r"valid: \.html"):
        write_explorer(rows, tmp_path / "page.pdf")
    with pytest.raises(EmpathyError, match="several splits: train, test"):
        write_explorer(DatasetDict(train=rows, test=rows), tmp_path / "other.html")


def test_without_plotly_the_pip_line_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'ee-trl\[explorer\]'"):
        write_explorer(Dataset.from_list(scored_rows(3)), tmp_path / "page.html")


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "scored.parquet", tmp_path / "page.html"
    Dataset.from_list(scored_rows(30)).to_parquet(source)
    assert main(["explore", str(source), "-o", str(out), "-t", "4", "6", "--limit", "10", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"output": str(out), "bytes": out.stat().st_size}
    data = page_data(out.read_text(encoding="utf-8"))
    assert (data["rows"], len(data["dialogues"]["row"]), data["start"]["threshold"]) == (30, 10, [40, 60])
    assert shlex.split(data["command"]) == ["ee-trl", "select", str(source)]
    assert main(["explore", str(source), "-o", str(out)]) == 3
    assert "--overwrite" in capsys.readouterr().err


def test_published_scores(real_data: Path, tmp_path: Path) -> None:
    page = write_explorer(real_data / "ed_validation_scored.parquet", tmp_path / "page.html")
    data = page_data(page.read_text(encoding="utf-8"))
    found = data["histogram"]
    kept = [n for s, r, n in zip(found["s"], found["r"], found["count"], strict=True) if s > 100 > r]
    assert sum(kept) == 3473
    assert data["whole"]
    assert len(data["emotions"]) == 32
