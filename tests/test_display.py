"""Results in a notebook and in a terminal: the same numbers, and no text of the data as markup."""

from __future__ import annotations

import logging
from html.parser import HTMLParser
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from ee_trl import EmpathyDataSelector, select_indices, sweep
from ee_trl.display import (
    Block,
    BySplit,
    Code,
    Displayed,
    Heading,
    Html,
    Markup,
    PlainFormatter,
    Table,
    Title,
    as_html,
    as_markdown,
    as_text,
    csv_text,
    markdown_text,
    number,
    percent,
    with_interval,
)
from ee_trl.reports.agreement import agree


HOSTILE = "<img src=x onerror=alert(1)> & <b>"


def own(emotion: str = HOSTILE) -> Dataset:
    scores = [(8, 2), (2, 8), (7, 7), (5, 5), (None, None)]
    return Dataset.from_list(
        [
            {"context": ["Hello."], "response": "Hi.", "sensibility": s, "rationality": r, "emotion": emotion}
            for s, r in scores
        ]
    )


def results(word_scorer: Any) -> dict[str, Any]:
    selector = EmpathyDataSelector(word_scorer, show_progress=False)
    data = own()
    selector.score(data.remove_columns(["sensibility", "rationality"]))
    splits = DatasetDict(train=data, test=data.select([0]))
    return {
        "summary": selector.summary(data),
        "summaries": selector.summary(splits),
        "sweep": selector.sweep(data),
        "sweeps": selector.sweep(splits, [5]),
        "selection": selector.choose(data),
        "coverage": selector.coverage,
        "agreement": agree([[8, 2], [2, 8], [7, 7]], [[7, 3], [3, 7], [7, 4]], resamples=10),
    }


NAMES = ("summary", "summaries", "sweep", "sweeps", "selection", "coverage", "agreement")


class Cells(HTMLParser):
    """The texts of a page's cells and paragraphs, and its tags, all of which must be closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.texts: list[str] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)
        self.tags.add(tag)
        self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts[-1] += data


@pytest.mark.parametrize("name", NAMES)
def test_every_result_shows_itself_in_a_notebook_and_in_a_terminal(name: str, word_scorer: Any) -> None:
    result = results(word_scorer)[name]
    assert isinstance(result, Displayed)
    found = Cells(result._repr_html_())
    assert found.tags <= {"p", "table", "caption", "thead", "tbody", "tr", "th", "td"}
    text = str(result)
    assert "object at 0x" not in text
    assert text.strip()

    class Printer:
        said = ""

        def text(self, text: str) -> None:
            self.said += text

    printer = Printer()
    result._repr_pretty_(printer, False)
    assert printer.said == text


def test_text_of_the_data_is_shown_as_text(word_scorer: Any) -> None:
    html = results(word_scorer)["summary"]._repr_html_()
    assert "<img" not in html
    assert HOSTILE in Cells(html).texts


def test_summary_has_the_same_numbers_in_both(word_scorer: Any) -> None:
    summary = results(word_scorer)["summary"]
    texts = Cells(summary._repr_html_()).texts
    assert texts[0] == str(summary).splitlines()[0] == "5 samples, 4 scored (80.0%) by given"
    at = texts.index("balanced", texts.index("samples"))
    assert texts[at + 1 : at + 3] == ["1", "25.0%"]


def test_selection_prints_what_was_kept_and_dropped() -> None:
    chosen = select_indices([8, 2, 7, 5, None], [2, 8, 7, 5, None], keep="sensibility")
    lines = [line.split() for line in str(chosen).splitlines()]
    assert lines[0] == ["5", "samples"]
    assert lines[2:7] == [
        [name, "1", "20.0%"] for name in ("kept", "unscored", "quadrant_rationality", "quadrant_balanced", "tie")
    ]
    assert "20.0%" in chosen._repr_html_()
    assert ["kept", "0", "n/a"] in [line.split() for line in str(select_indices([], [])).splitlines()]


def test_sweep_is_a_list_that_prints_as_a_table() -> None:
    found = sweep([8, 2], [2, 8], [4, 5])
    assert [row["threshold"] for row in found] == [4.0, 5.0]
    assert found == list(found)
    assert str(found).splitlines()[0] == "2 scored samples; share (count)"
    assert str(found).splitlines()[2].split()[:3] == ["4", "50.0%", "(1)"]
    assert "50.0% (1)" in Cells(found._repr_html_()).texts
    assert str(sweep([], [], [5])).startswith("0 scored samples")


def test_splits_stand_under_their_names() -> None:
    both = BySplit(train=sweep([8], [2], [5]), test=sweep([], [], [5]))
    assert str(both).startswith("train:\n\n1 scored samples")
    assert [text for text in Cells(both._repr_html_()).texts if text.endswith(":")] == ["train:", "test:"]


def test_a_table_without_rows() -> None:
    class Empty(Displayed):
        def parts(self) -> list[Table]:
            return [Table(("a", "b"), [])]

    assert Cells(Empty()._repr_html_()).texts[-2:] == ["b", ""]


def test_a_page_has_headings_code_and_markup_in_every_output() -> None:
    parts = [
        Title("A page"),
        Heading("of *parts*"),
        Markup("**bold**"),
        Table(("", "made by"), [("x", Code("a|`b<c"))]),
    ]
    assert as_text(parts).split("\n\n")[:2] == ["A page", "of *parts*"]
    assert "a|`b<c" in as_text(parts)
    assert Table(("a",), [("b",)], "a\x1b[2Jtitle").text() == "a [2Jtitle\na\nb"
    assert as_markdown(parts).startswith("# A page\n\n## of \\*parts\\*\n\n**bold**\n\n|  | made by |")
    assert "| x | `a/'b&lt;c` |" in as_markdown(parts)
    html = as_html(parts)
    assert html.startswith("<h1>A page</h1><h2>of *parts*</h2><p>**bold**</p><table>")
    assert "<code>a|`b&lt;c</code>" in html


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("x | y\n\n# z", "x \\| y # z"),
        ("| --- |\n| a |", "\\| --- \\| \\| a \\|"),
        ("<img src=x> `c` *d*", "&lt;img src=x> \\`c\\` \\*d\\*"),
        ("![x](javascript:1)", "\\!\\[x\\]\\(javascript:1)"),
        ("empty_response", "empty_response"),
        ("_x_ __init__", "\\_x\\_ \\_\\_init\\_\\_"),
        ("~~gone~~", "\\~~gone\\~~"),
        ("a & b &lt;b> &#60;", "a & b \\&lt;b> \\&#60;"),
        ("\x1b[31mred\u202e", "\\[31mred"),
    ],
)
def test_text_is_no_markdown(text: str, escaped: str) -> None:
    assert markdown_text(text) == escaped


def test_numbers_that_are_not_there_are_said_so() -> None:
    assert [number(1234.5), number(0.5, "+.2f"), number(None), number(float("nan"))] == ["1,234.50", "+0.50"] + 2 * [
        "n/a"
    ]
    assert [percent(1, 8), percent(0.125), percent(None), percent(0, 0)] == ["12.5%", "12.5%", "n/a", "n/a"]
    assert with_interval(0.38, [0.31, 0.45]) == "0.38 (0.31 to 0.45)"
    assert with_interval(0.38, None) == with_interval(0.38, [float("nan")] * 2) == "0.38"
    assert with_interval(None, [1, 2]) == "n/a"


def test_texts_stand_to_the_left_and_numbers_to_the_right() -> None:
    table = Table(("who", "said", "n"), [("a", "hello", "1"), ("bob", "hi", "22")], texts=2)
    assert table.text() == "who  said    n\na    hello   1\nbob  hi     22"
    assert "| --- | --- | ---: |" in table.markdown()
    assert [table.html().count(f"text-align:{side}") for side in ("left", "right")] == [6, 3]


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1", "'=1"),
        ("\n=1", "'\n'=1"),
        ("\uff1d1", "'\uff1d1"),
        ("\u200b @x", "'\u200b @x"),
        ("a\n-cmd|x", "a\n'-cmd|x"),
        ("a;=1", "a;'=1"),
        ("\tx", "'\tx"),
        ("Try this:\n- breathe\n- rest", "Try this:\n- breathe\n- rest"),
        ("I see ;-) x = 1, a-b", "I see ;-) x = 1, a-b"),
        ("\x07a\x9b1m\ud83d", "a1m"),
    ],
)
def test_no_cell_of_a_sheet_is_a_formula(text: str, cell: str) -> None:
    assert csv_text(text) == cell


def test_a_block_of_text_ends_where_it_should() -> None:
    text = "```\n<script>alert(1)</script>\n`````\n\x1b[2J"
    assert as_markdown([Block(text)]) == f"``````text\n{text[:-4]} [2J\n``````"
    assert as_html([Block(text)]) == "<pre>" + text.replace("<", "&lt;").replace(">", "&gt;") + "</pre>"
    assert as_text([Block("a\n\x1bb")]) == "a\n b"


def test_markdown_is_no_html_and_html_no_markdown() -> None:
    assert as_html([Markup("<b>"), Html("<i>x</i>")]) == "<p>&lt;b></p><p><i>x</i></p>".replace("b>", "b&gt;")
    assert as_markdown([Html("<i>x</i>"), "# x", Markup("# x")]) == "&lt;i>x&lt;/i>\n\n\\# x\n\n# x"


def test_a_log_line_does_not_act_on_a_terminal() -> None:
    record = logging.LogRecord("ee_trl", logging.WARNING, "", 0, "row %s", ("\x1b[2J\u202e\ud83d",), None)
    assert PlainFormatter("%(message)s").format(record) == "row  [2J  "
