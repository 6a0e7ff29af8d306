"""The explorer in a headless Chromium: its numbers at every position, mouse, keys, phone, light and dark, speed."""

from __future__ import annotations

import itertools
import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import chromium
from datasets import Dataset
from test_explorer import HOSTILE, scored_rows

from ee_trl import EmpathyDataSelector, load_sample, write_explorer
from ee_trl.axes import TIES
from ee_trl.cli.main import main
from ee_trl.selection import KEEPABLE, coded_quadrants


pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default::ResourceWarning")]
POINTS = (-0.5, 10.5)  # where the axes of the picture begin and end

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """Opens a page's file; at the end it must have loaded nothing else and have met no error."""
    loaded: list[str] = []
    errors: list[str] = []
    contexts = []

    def opened(path: Path, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: loaded.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: message.type in ("error", "warning") and errors.append(message.text))
        page.goto(path.as_uri())
        page.locator("#page").filter(has_text="page").wait_for()
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not errors
    assert not [url for url in loaded if not url.startswith(("file:", "data:", "blob:"))]


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return [*scored_rows(400), *({**row, "sensibility": None} for row in scored_rows(3))]


@pytest.fixture(scope="module")
def path(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of 400 scored samples and 3 unscored ones, whose source has a name that needs care in a shell."""
    source = tmp_path_factory.mktemp("explorer") / "it's `id`, two words.parquet"
    Dataset.from_list(rows).to_parquet(source)
    return write_explorer(source, source.with_name("page.html"))


def settle(page: Any) -> None:
    """Waits until the page has drawn what it was told."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def move(page: Any, sensibility: float, rationality: float, ties: str = "drop") -> None:
    page.locator("#t-sensibility").fill(f"{10 * sensibility:g}")
    page.locator("#t-rationality").fill(f"{10 * rationality:g}")
    page.locator("#ties").select_option(ties)
    settle(page)


def whole(text: str) -> int:
    return int(text.replace(",", ""))


def quadrant_table(page: Any) -> dict[str, tuple[int, str]]:
    """Quadrant -> its count and share, as they are read."""
    found = {}
    for row in page.locator("#quadrants tbody tr").all():
        _, name, count, share = row.locator("td").all_inner_texts()
        found[name.strip()] = (whole(count), share)
    return found


def texts_of(page: Any) -> list[list[str]]:
    """The cells of the table of dialogues."""
    return [row.locator("td").all_inner_texts() for row in page.locator("#texts tbody tr").all()]


def click_cell(page: Any, sensibility: float, rationality: float) -> None:
    box = page.locator("#plot .nsewdrag").first.bounding_box()
    share = [(score - POINTS[0]) / (POINTS[1] - POINTS[0]) for score in (sensibility, rationality)]
    page.mouse.click(box["x"] + share[0] * box["width"], box["y"] + (1 - share[1]) * box["height"])
    settle(page)


# ---- numbers -------------------------------------------------------------------------------------------------------


def test_counts_are_those_of_the_selection_at_every_position(
    open_page: Open, path: Path, rows: list[dict[str, Any]]
) -> None:
    page = open_page(path)
    scores = np.array([[row["sensibility"], row["rationality"]] for row in rows], float).T
    asked = """([s, ties]) => [...Array(101).keys()].map(r => {
        const { all } = countsAt([s, r], ties); return QUADRANTS.map(name => all[name]); })"""
    for ties, place in itertools.product(TIES, range(101)):
        found = page.evaluate(asked, [place, ties])
        for other, counted in enumerate(found):
            expected = coded_quadrants(*scores, (place / 10, other / 10), ties).counts()
            assert counted == [expected.get(name, 0) for name in KEEPABLE], (place / 10, other / 10, ties)


@pytest.mark.parametrize("ties", TIES)
def test_what_is_read_is_what_the_summary_says(
    ties: str, open_page: Open, path: Path, rows: list[dict[str, Any]]
) -> None:
    page = open_page(path)
    data = Dataset.from_list(rows)
    for threshold in ((5.0, 5.0), (0.3, 9.9), (7.1, 2.8), (0.0, 10.0)):
        move(page, *threshold, ties)
        summary = EmpathyDataSelector("linear", threshold=threshold, ties=ties, show_progress=False).summary(data)
        table = quadrant_table(page)
        assert table.pop("unscored")[0] == 3 == sum(summary.unscored.values())
        assert {name: n for name, (n, _) in table.items()} == {
            name: entry["count"] for name, entry in summary.quadrants.items()
        }
        for name, (_, share) in table.items():
            assert float(share.rstrip("%")) / 100 == pytest.approx(summary.quadrants[name]["share"], abs=5.1e-4)
        assert summary.emotions is not None
        for row in page.locator("#emotions tbody tr").all():
            [emotion] = row.locator("th").all_inner_texts()
            scored, _, *shares = row.locator("td").all_inner_texts()
            expected = summary.emotions[emotion]
            assert whole(scored) == expected["scored"]
            for name, share in zip(KEEPABLE, shares, strict=True):
                assert float(share.rstrip("%")) / 100 == pytest.approx(expected[f"{name}_share"], abs=5.1e-4)


def test_the_command_selects_as_many_as_the_page_says(
    open_page: Open, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    page = open_page(path)
    for ties, threshold, keep in (
        ("drop", (5.0, 5.0), ["sensibility"]),
        ("high", (0.3, 7.0), ["rationality", "low"]),
        ("low", (6.1, 4.9), ["balanced", "tie", "sensibility"]),
    ):
        move(page, *threshold, ties)
        for name in KEEPABLE:
            page.get_by_label(f"keep {name}").set_checked(name in keep)
        said = page.locator("#kept").inner_text()
        words = shlex.split(page.locator("#command").inner_text())
        assert words[0] == "ee-trl"
        assert main([*words[1:], "--json"]) == 0
        counts = json.loads(capsys.readouterr().out)["counts"]
        assert f"Keeps {counts['kept']:,} of {sum(counts.values()):,} " in said
        assert Path(words[-1]).exists()
        namespace: dict[str, Any] = {
            "EmpathyDataSelector": EmpathyDataSelector,
            "scored": path.parent / "it's `id`, two words.parquet",
        }
        assert len(eval(page.locator("#python").inner_text(), namespace)) == counts["kept"]


def test_nothing_ticked_gives_no_command(open_page: Open, path: Path) -> None:
    page = open_page(path)
    page.get_by_label("keep sensibility").uncheck()
    assert page.locator("#kept").inner_text() == "Tick what to keep."
    assert page.locator("#command").inner_text() == ""
    assert page.locator("#copy").is_disabled()


# ---- looking -------------------------------------------------------------------------------------------------------


def test_a_cell_clicked_shows_its_dialogues(open_page: Open, path: Path, rows: list[dict[str, Any]]) -> None:
    page = open_page(path)
    inside = [
        i for i, row in enumerate(rows) if row["sensibility"] is not None
        and 8.5 <= row["sensibility"] < 9 and 6 <= row["rationality"] < 6.5
    ]  # fmt: skip
    assert inside, "the rows of the test have some in that cell"
    click_cell(page, 8.75, 6.25)
    assert page.locator("#chosen").inner_text().startswith(f"S 8.5 to 9.0, R 6.0 to 6.5: {len(inside)} dialogue")
    shown = texts_of(page)
    assert [whole(cells[0]) for cells in shown] == inside
    assert all(
        f"speaker {i}" in cells[-1] and f"reply {i}" in cells[-1] for i, cells in zip(inside, shown, strict=True)
    )
    click_cell(page, 9.9, 9.9)  # the last cell holds the highest score, too
    last = [i for i, row in enumerate(rows[:400]) if row["sensibility"] >= 9.5 and row["rationality"] >= 9.5]
    assert [whole(cells[0]) for cells in texts_of(page)] == last


def test_whole_scores_have_a_cell_each(open_page: Open, tmp_path: Path) -> None:
    rows = [{**row, "sensibility": i % 11, "rationality": i // 11} for i, row in enumerate(scored_rows(121))]
    page = open_page(write_explorer(Dataset.from_list(rows), tmp_path / "page.html"))
    for s, r in ((0, 0), (10, 10), (5, 3)):
        click_cell(page, s, r)
        assert page.locator("#chosen").inner_text() == f"S {s}, R {r}: 1 dialogue"
        assert [cells[1:4] for cells in texts_of(page)] == [[str(s), str(r), "tie" if s == 5 else page_name(s, r)]]


def page_name(s: float, r: float) -> str:
    return str(coded_quadrants([s], [r]).to_array()[0])


def test_a_quadrant_is_searched_and_paged(open_page: Open, path: Path, rows: list[dict[str, Any]]) -> None:
    page = open_page(path)
    where = coded_quadrants([row["sensibility"] for row in rows], [row["rationality"] for row in rows]).to_array()
    inside = np.flatnonzero(where == "rationality").tolist()
    page.get_by_role("button", name="rationality").click()
    settle(page)
    assert page.locator("#chosen").inner_text() == f"rationality: {len(inside)} dialogues"
    seen = []
    while True:
        seen += [whole(cells[0]) for cells in texts_of(page)]
        if page.locator("#next").is_disabled():
            break
        page.locator("#next").click()
    assert seen == inside
    assert page.locator("#page").inner_text().startswith(f"page {-(-len(inside) // 25)} of")
    page.locator("#search").fill(f"REPLY {inside[0]}")
    expected = [i for i in inside if f"reply {inside[0]}" in f"reply {i}"]
    assert [whole(cells[0]) for cells in texts_of(page)] == expected
    assert page.locator("#chosen").inner_text().endswith(f"{len(expected)} found")
    page.locator("#search").fill("")
    page.locator("#emotion").select_option("emotion 2")
    expected = [i for i in inside if i % 5 == 2]
    assert page.locator("#chosen").inner_text() == f"rationality: {len(expected)} dialogues"
    assert [whole(cells[0]) for cells in texts_of(page)] == expected[:25]


def test_unscored_rows_are_shown_with_their_reason(open_page: Open, path: Path) -> None:
    page = open_page(path)
    assert "3 scorer_gave_none (the scorer gave no number)" in page.locator("#about").inner_text()
    page.get_by_role("button", name="unscored").click()
    settle(page)
    assert page.locator("#chosen").inner_text() == "unscored: 3 dialogues"
    page.locator("#emotion").select_option("emotion 1")
    assert page.locator("#chosen").inner_text() == "unscored: 1 dialogue"
    page.locator("#emotion").select_option("")
    assert [cells[1:4] for cells in texts_of(page)] == [["–", "–", "scorer_gave_none"]] * 3


@pytest.mark.parametrize("scores", [None, (), (8.0,)])
def test_pages_with_next_to_nothing_work(scores: Any, open_page: Open, tmp_path: Path) -> None:
    """All unscored; no row at all; one row."""
    values = [None, None] if scores is None else scores
    rows = [{**scored_rows(1)[0], "sensibility": s, "rationality": 2.0} for s in values]
    data = Dataset.from_list([*rows, scored_rows(1)[0]]).select(range(len(rows)))
    page = open_page(write_explorer(data, tmp_path / "page.html"))
    move(page, 3, 3)
    table = quadrant_table(page)
    assert table["sensibility"] == ((1, "100.0%") if scores else (0, "none"))
    assert "unscored" not in table or table["unscored"] == (2, "–")
    click_cell(page, 5, 5)
    assert page.locator("#chosen").inner_text().endswith(": 0 dialogues")


def test_a_sample_of_texts_is_said_to_be_one(open_page: Open, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    page = open_page(write_explorer(Dataset.from_list(rows), tmp_path / "page.html", limit=100))
    assert "all 403 samples. The text of 100 of them" in page.locator("#sampled").inner_text()
    expected = (
        EmpathyDataSelector("linear", show_progress=False)
        .summary(Dataset.from_list(rows))
        .quadrants["sensibility"]["count"]
    )
    found = re.match(r"sensibility: (\d+) dialogues; the text of (\d+) is", page.locator("#chosen").inner_text())
    assert found is not None
    assert int(found[1]) == expected > int(found[2]) > 0


def test_hostile_text_is_only_text(open_page: Open, tmp_path: Path) -> None:
    rows = [
        {**row, "context": [text], "response": text, "emotion": text, "sensibility": 8.0, "rationality": 2.0}
        for row, text in zip(scored_rows(len(HOSTILE)), HOSTILE, strict=True)
    ]
    broken = {**rows[0], "response": None}
    data = Dataset.from_list([*rows, broken])
    page = open_page(write_explorer(data, tmp_path / "page.html", source="<img src=x onerror='window.hacked=3'>"))
    click_cell(page, 8, 2)
    page.locator("#emotion").select_option(HOSTILE[1])
    page.get_by_role("button", name="unscored").click()
    page.locator("#emotion").select_option("")
    page.get_by_role("button", name="sensibility").click()
    settle(page)
    replies = page.locator("#texts .reply").evaluate_all("all => all.map(one => one.textContent)")
    assert replies == HOSTILE
    emotions = page.locator("#emotions tbody th").evaluate_all("all => all.map(one => one.textContent)")
    assert sorted(emotions) == sorted(HOSTILE)
    assert page.evaluate("() => window.hacked") is None
    assert page.locator("img, iframe, object").count() == 0
    assert page.locator("script").count() == 3


# ---- hands and eyes ------------------------------------------------------------------------------------------------


def test_everything_goes_by_keyboard(open_page: Open, path: Path) -> None:
    page = open_page(path)
    page.locator("#t-sensibility").focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft"):
        page.keyboard.press(key)
    assert page.locator("#at-sensibility").inner_text() == "5.1"
    reached = []
    for _ in range(14):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("() => document.activeElement.id || document.activeElement.textContent"))
    assert reached[:3] == ["t-rationality", "linked", "ties"]
    assert {"sensibility", "rationality", "balanced", "low", "tie", "unscored"} <= set(reached)
    page.get_by_role("button", name="low").focus()
    page.keyboard.press("Enter")
    settle(page)
    assert page.locator("#chosen").inner_text().startswith("low:")
    page.locator("#plot").focus()
    page.keyboard.press("ArrowRight")  # the first key shows the cell at the thresholds
    settle(page)
    assert page.locator("#chosen").inner_text().startswith("S 5.0 to 5.5, R 5.0 to 5.5:")
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    settle(page)
    assert page.locator("#chosen").inner_text().startswith("S 6.0 to 6.5, R 4.5 to 5.0:")
    for _ in range(30):
        page.keyboard.press("ArrowLeft")
    settle(page)
    assert page.locator("#chosen").inner_text().startswith("S 0.0 to 0.5,")
    page.get_by_label("one T for both").focus()
    page.keyboard.press("Space")
    page.locator("#t-rationality").focus()
    page.keyboard.press("End")
    assert [page.locator(f"#at-{axis}").inner_text() for axis in ("sensibility", "rationality")] == ["10.0", "10.0"]


CONTRAST = """(places) => {
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => [r, g, b].map(v => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = element => { const c = rgb(getComputedStyle(element).backgroundColor);
    return c.length === 4 && c[3] === 0 ? behind(element.parentElement) : c; };
  return places.map(place => { const element = document.querySelector(place);
    const [a, b] = [light(rgb(getComputedStyle(element).color)), light(behind(element))];
    return (Math.max(a, b) + .05) / (Math.min(a, b) + .05); }); }"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(scheme: str, open_page: Open, path: Path) -> None:
    page = open_page(path, color_scheme=scheme)
    places = ["h1", "#about", ".hint", "th", "td.number", "#quadrants button[aria-pressed=true]", "#command", ".turn"]
    assert min(page.evaluate(CONTRAST, places)) > 4.5
    body = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", body)[:3])) > 600) == (scheme == "light")
    ink = page.locator("#plot .xtick text").first.evaluate("one => getComputedStyle(one).fill")
    assert (sum(map(int, re.findall(r"\d+", ink)[:3])) < 300) == (scheme == "light")


def test_the_picture_follows_the_scheme_while_it_is_open(open_page: Open, path: Path) -> None:
    page = open_page(path, color_scheme="light")
    before = page.locator("#plot .xtick text").first.evaluate("one => getComputedStyle(one).fill")
    page.emulate_media(color_scheme="dark")
    settle(page)
    assert page.locator("#plot .xtick text").first.evaluate("one => getComputedStyle(one).fill") != before


@pytest.mark.parametrize("width", [320, 390])
def test_it_fits_a_phone(width: int, open_page: Open, path: Path) -> None:
    page = open_page(path, viewport={"width": width, "height": 780}, has_touch=True, is_mobile=True)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    for place in ("#t-sensibility", "#quadrants", "#plot", "#command", "#search", "#texts tbody tr"):
        box = page.locator(place).first.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width, place
    page.get_by_role("button", name="balanced").tap()
    settle(page)
    assert page.locator("#chosen").inner_text().startswith("balanced:")


MOVES = """async (places) => {
  const slider = document.getElementById("t-sensibility"), times = [];
  for (const place of places) {
    slider.value = place;
    const start = performance.now();
    slider.dispatchEvent(new Event("input"));
    const counted = performance.now() - start;
    await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
    times.push([counted, performance.now() - start]);
  }
  return times; }"""


def test_a_slider_moves_at_once_with_forty_thousand_dialogues(
    open_page: Open, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    words = load_sample()["messages"][0][0]["content"]
    rows = [{**row, "context": [words, f"{words} {i}"]} for i, row in enumerate(scored_rows(40_000, emotions=32))]
    path = write_explorer(Dataset.from_list(rows), tmp_path / "page.html")
    page = open_page(path)
    assert quadrant_table(page)["sensibility"][0] > 5_000
    times = np.array(page.evaluate(MOVES, list(range(20, 80))))
    counted, drawn = np.median(times, axis=0).tolist()
    print(f"40,000 dialogues: counts after {counted:.1f} ms, all drawn after {drawn:.1f} ms (median of {len(times)})")
    record_property("slider_ms", {"counted": counted, "drawn": drawn})
    assert counted < 50
    assert drawn < 250
    assert path.stat().st_size < 40e6
