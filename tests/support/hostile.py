"""Hostile rows, files and names for the siege, and what must hold of everything that a command writes."""

from __future__ import annotations

import csv
import json
import random
import re
import unicodedata
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from markdown_it import MarkdownIt


EVIL = "evil.example"
TEXTS = (
    *(
        "\x1b[2J\x1b]0;owned\x07",
        "\x9b31mred",
        "\x1b]52;c;cm0gLXJm\x07",
        "\u202egnirts",
        "a\rb",
        "\x08\x7f\x00",
        "\u2028\x85",
    ),
    *(
        f"![x](https://{EVIL}/p.png)",
        "[x](javascript:alert(1))",
        f"[x]: https://{EVIL}",
        f"<https://{EVIL}>",
        "***",
        "---",
    ),
    *(
        "```\n<script>alert(1)</script>",
        "````\n",
        "~~~\n</code>",
        "# Heading",
        "> quoted",
        "a | b | c",
        "| --- |\n| x |",
    ),
    *(
        "<script>alert(1)</script>",
        f"<img src=https://{EVIL}/p onerror=alert(1)>",
        "</td></table><b>",
        "&lt;b&gt;&#60;i>",
    ),
    *(
        "</script><script>alert(2)//",
        '" onmouseover="alert(1)',
        "]]>",
        "-->",
        "<!--",
        "\\",
        "`",
        "a`<b>`",
        "$\\frac{$",
        "_x_",
    ),
    *(
        '=HYPERLINK("http://x")',
        "\n=1+1",
        "\uff1d1+1",
        "\t@SUM(A1)",
        "a\n+cmd|' /C calc'!A0",
        "x;=1",
        "\u200b=1",
        "-1",
        "\uff20x",
    ),
    *(
        "{{ 7*7 }}",
        "{% raw %}",
        "%s %d %n",
        "{0}{name}",
        "${HOME}",
        "$(id)",
        "`id`",
        "'; DROP TABLE scores;--",
        "../../etc/passwd",
    ),
    *(
        "\ud83d",
        "half \udc00",
        "NaN",
        "null",
        "[]",
        "[{",
        '{"role": "user"}',
        "7",
        "",
        " ",
        "\ufeff",
        "\U000e0041",
        "👩‍👩‍👧",
        "e\u0301" * 40,
    ),
    *("<|im_end|>", "</s>", "<think>", "[INST]", "x" * 5_000, "I lost my job today.", "I am so sorry to hear that!"),
)
SAID = ("I lost my job today.", "My dog died and I feel awful.", "I passed my exam!", "Nobody came to my party.")
ANSWERS = ("I am so sorry, that must hurt.", "That is great news!", "Have you tried to talk to them?", "Why?")
NUMBERS = (0, 1, -1, 2**53 + 1, 10**30, 1e308, float("nan"), float("inf"), float("-inf"), 7.5, True, None)
COLUMNS = (
    *("emotion", "note", "id", "drop_reason", "source_drop_reason", "quadrant", "score_flag", "source_error", "turn"),
    *("row_index", "scorer", "score_status", "system", "given_sensibility", "label", "text", "input_ids", "images"),
    *(
        "\x1b[31mred",
        "=cmd",
        "a\0b",
        "![x](http://evil.example)",
        "<b>",
        "a|b",
        "\u202ex",
        "x" * 300,
        "é",
        "a.b",
        "{x}",
    ),
)
SEPARATE = ("", "no metadata")
ENDINGS = (".jsonl", ".parquet", ".csv", ".tsv", ".json")
METADATA = (
    b"[]",
    b"5",
    b"null",
    b"{",
    b"\xff",
    b'{"rubric": 5, "source": []}',
    b'{"rubric": "```\\n<script>alert(1)</script>"}',
)


def rows(draw: random.Random, n: int) -> list[dict[str, Any]]:
    """Dialogues, of which any text may be hostile, with some further columns."""
    names = draw.sample(COLUMNS, draw.randrange(4))
    made = []
    for _ in range(n):
        row: dict[str, Any] = {
            "context": [draw.choice(SAID if draw.random() < 0.6 else TEXTS)],
            "response": draw.choice(ANSWERS if draw.random() < 0.6 else TEXTS),
        }
        row |= {name: draw.choice(TEXTS if draw.random() < 0.7 else NUMBERS) for name in names}
        if draw.random() < 0.05:
            row[draw.choice(("context", "response"))] = draw.choice((None, 5, [None], {"a": 1}, [[]], True))
        made.append(row)
    return made


def scores(draw: random.Random, made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same rows with scores of their own, some of them none."""
    given = (0.0, 2.5, 5.0, 5.5, 8.0, 10.0)
    axes = ("sensibility", "rationality")
    return [{**row, **{a: draw.choice((*given, None)) for a in axes}, "emotion": draw.choice(TEXTS)} for row in made]


def write(draw: random.Random, made: list[dict[str, Any]], path: Path) -> Path:
    """The rows as a file of the path's kind, as a careless program writes it."""
    clean = json.loads(json.dumps(made).encode().decode())
    if path.suffix in (".csv", ".tsv"):
        with path.open("w", encoding="utf-8", errors="surrogatepass", newline="") as out:
            writer = csv.writer(out, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerow(made[0])
            writer.writerows([" / ".join(map(str, v)) if isinstance(v, list) else v for v in r.values()] for r in made)
    elif path.suffix == ".parquet":
        columns = {name: [_for_arrow(row[name]) for row in clean] for name in clean[0]}
        table = pa.table({name: _array(values) for name, values in columns.items()})
        if draw.random() < 0.5:
            table = table.replace_schema_metadata({"ee_trl": draw.choice(METADATA)})
        pq.write_table(table, path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(clean), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in clean), encoding="utf-8")
        if draw.random() < 0.3:
            (path.parent / f"{path.name}.meta.json").write_bytes(draw.choice(METADATA))
    return path


def _for_arrow(value: Any) -> Any:
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _array(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        return pa.array([None if value is None else json.dumps(value) for value in values])


def spoilt(draw: random.Random, value: Any, share: float = 0.1) -> Any:
    """A value of JSON of which any part may be something else, or gone."""
    if draw.random() < share:
        return draw.choice((*TEXTS, *NUMBERS, [], {}, [None], {"a": []}, [[1]]))
    if isinstance(value, dict):
        return {k: spoilt(draw, v, share) for k, v in value.items() if draw.random() > share / 3}
    if isinstance(value, list):
        return [spoilt(draw, v, share) for v in value if draw.random() > share / 3]
    return value


# ---- what must hold ------------------------------------------------------------------------------------------------


def check_terminal(text: str) -> None:
    """No character acts on the terminal."""
    bad = {c for c in text if c not in "\n\t" and unicodedata.category(c) in ("Cc", "Cf", "Cs")}
    assert not bad, f"acts on a terminal: {bad} in {text[:2000]!r}"


def check_json(text: str) -> Any:
    """Strict JSON in UTF-8; gives its value."""
    text.encode("utf-8")

    def refused(name: str) -> None:
        raise AssertionError(f"{name} is not JSON: {text[:300]!r}")

    return json.loads(text, parse_constant=refused)


MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
OURS = ("https://arxiv.org", "https://hf.co", "https://huggingface.co")


def check_markdown(text: str) -> None:
    """Rendered, it holds no HTML, no picture but its own, and no link elsewhere."""
    todo = MARKDOWN.parse(re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL))
    while todo:
        token = todo.pop()
        todo += token.children or []
        assert token.type not in ("html_block", "html_inline"), f"HTML: {token.content[:200]!r}"
        if token.type == "image":
            assert re.fullmatch(r"[\w-]+\.png", str(token.attrs["src"])), token.attrs
        if token.type == "link_open":
            assert str(token.attrs["href"]).startswith(OURS), token.attrs


class _Page(HTMLParser):
    """The tags of a page, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found.append((tag, dict(attrs)))


def check_html(text: str, scripts: int) -> None:
    """Exactly so many scripts, no handler, nothing loaded from elsewhere, and a policy that would forbid it."""
    page = _Page(text)
    assert sum(tag == "script" for tag, _ in page.found) == scripts
    for tag, attrs in page.found:
        assert not any(name.startswith("on") for name in attrs), (tag, attrs)
        for name in ("src", "href", "action", "data"):
            assert (attrs.get(name) or "").split(":")[0] in ("", "data", "blob"), (tag, attrs)
    assert "default-src 'none'" in text


def check_csv(text: str) -> None:
    """No cell, and no line of a cell, is a formula to a spreadsheet."""
    for record in csv.reader(text.removeprefix("\ufeff").splitlines(keepends=True)):
        for cell in record:
            for line in (cell, *cell.split("\n")):
                begin = unicodedata.normalize("NFKC", line).lstrip(
                    "".join(map(chr, range(33))) + '"\u200b\u200e\u200f\ufeff'
                )
                bullet = re.fullmatch(r"[+-] [^|!(]*", begin) and line is not cell
                assert bullet or not begin.startswith(("=", "+", "-", "@")), f"a formula: {cell!r}"


def check_file(path: Path) -> None:
    """What holds of a file of its kind."""
    if path.suffix == ".parquet":
        pq.read_table(path)
    elif path.suffix in (".jsonl", ".json", ".md", ".csv", ".html"):
        text = path.read_bytes().decode("utf-8")
        if path.suffix == ".jsonl":
            assert text.count("\n") == len([check_json(line) for line in text.split("\n") if line])
        elif path.suffix == ".json":
            check_json(text)
        elif path.suffix == ".md":
            check_markdown(text)
        elif path.suffix == ".csv":
            check_csv(text)
        else:
            check_html(text, {"report.html": 0}.get(path.name, 1 if path.name.startswith("sheet") else SCRIPTS))


SCRIPTS = 3
"""Of the explorer's page: the block of data, the library and its own script."""
