"""The rubric as a judge reads it, and the strict parsers of its answers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ee_trl.cli.main import main
from ee_trl.errors import EmpathyError, ScorerError
from ee_trl.scoring.judge.rubric import (
    ANSWER_HEADER,
    RUBRIC,
    SLOTS,
    Rubric,
    load_rubric,
    parse_form,
    parse_slot,
    render_form,
)


EXAMPLES = re.findall(r"Dialogue:\n(.*?)\n\n(Evaluation.*?)(?:\n\n|\Z)", load_rubric().text, flags=re.DOTALL)


def test_the_bundled_rubric_says_what_it_must_and_is_short() -> None:
    text = load_rubric().text
    assert 330 <= len(text.split()) <= 430
    for said in ("last reply", "independently", "never an instruction", "either order", "from 0 to 10"):
        assert said in text
    for axis in ("Sensibility is emotional grounding", "Rationality is cognitive coherence"):
        anchors = text.split(axis)[1].split("\n\n")[0].splitlines()[1:]
        assert [line.split(":")[0] for line in anchors] == ["0", "2", "5", "8", "10"]
    assert text.isascii()  # one byte a character: no tokenizer makes much of it


def test_examples_are_dialogues_and_forms_as_the_engine_writes_them() -> None:
    assert len(EXAMPLES) == load_rubric().text.count(ANSWER_HEADER) == 3
    for dialogue, form in EXAMPLES:
        lines = dialogue.splitlines()
        assert all(re.fullmatch(r"(Speaker|Listener): \S.*", line) for line in lines)
        assert lines[-1].startswith("Listener: ")
        assert form.startswith(f"{ANSWER_HEADER}\n")
        assert parse_form(form) is not None
    first = {form.splitlines()[1].split(":")[0] for _, form in EXAMPLES}
    assert first == {"- Rationality", "- Sensibility"}  # each axis is asked right after the header
    scores = [parse_form(form) for _, form in EXAMPLES]
    assert any(s > r for s, r in scores if (s, r))
    assert any(s < r for s, r in scores if (s, r))


def test_fingerprint_is_of_the_text_alone(tmp_path: Path) -> None:
    bundled = load_rubric()
    assert bundled.name == RUBRIC
    assert re.fullmatch(r"rubric-1/sha256:[0-9a-f]{12}", bundled.fingerprint)
    (tmp_path / "rubric-1.md").write_bytes(b"\xef\xbb\xbf" + bundled.text.replace("\n", "\r\n").encode() + b"\r\n\n")
    assert load_rubric(tmp_path / "rubric-1.md") == bundled
    assert Rubric(RUBRIC, bundled.text + "!").fingerprint != bundled.fingerprint


def test_a_users_rubric_is_named_by_its_file_on_one_line(tmp_path: Path) -> None:
    (tmp_path / "my rubric\n2.txt").write_text("Rate it. Größe zählt nicht.", encoding="utf-8")
    rubric = load_rubric(str(tmp_path / "my rubric\n2.txt"))
    assert rubric.name == "my-rubric-2"
    assert rubric.text == "Rate it. Größe zählt nicht."


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "no rubric"), (b" \n\t", "is empty"), (b"\xff\xfe\x00", "not text"), (b"a\0b", "null characters")],
)
def test_a_file_that_is_no_rubric_is_refused(content: bytes | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "rubric.md"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ScorerError, match=f"{said}.*bundled") as error:
        load_rubric(path)
    assert "rubric.md" in str(error.value)


def test_a_folder_is_no_rubric(tmp_path: Path) -> None:
    with pytest.raises(ScorerError, match="is a folder"):
        load_rubric(tmp_path)


def test_the_form_is_the_published_one_and_is_read_back() -> None:
    assert render_form(8, 2) == "Evaluation Form (scores ONLY):\n- Rationality: 2\n- Sensibility: 8"
    assert all(parse_form(render_form(s, r)) == (s, r) for s in range(11) for r in range(11))


@pytest.mark.parametrize("wrong", [-1, 11, 5.5, float("nan")])
def test_a_form_holds_whole_numbers_in_range(wrong: float) -> None:
    with pytest.raises(EmpathyError, match="whole number"):
        render_form(5, wrong)  # type: ignore[arg-type]


S, R = "- Sensibility: 8", "- Rationality: 2"


@pytest.mark.parametrize(
    "text",
    [
        f"{R}\n{S}",
        f"{S}\n{R}",
        f"{S}\r\n{R}\r\n",
        f"\n\n{S}  \n\n{R}\t\n",
        f"Here it is.\n{ANSWER_HEADER}\n{S}\n{R}\nI hope that helps.",
        "- Sensibility:8\n- Rationality:   2",
        f"{S}\n**Rationality:** 2",
        "### Evaluation Form (scores ONLY):\n\n- **Sensibility**: 8\n- **Rationality**: 2",
        "* **Sensibility: 8**\n* **Rationality: 2**",
        "```\n- Sensibility: **8**\n- __Rationality:__ 2\n```",
        "| Axis | Score |\n|---|---|\n| Sensibility | 8 |\n| **Rationality** | **2** |",
        "## Sensibility: 8\n## Rationality: 2",
    ],
)
def test_forms_that_are_read(text: str) -> None:
    assert parse_form(text) == (8, 2)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ANSWER_HEADER,
        S,
        f"{S}\n{S}",
        f"{S}\n{R}\n{R}",
        f"{S}\n{R}\nSensibility: 10",
        f"{S}\nRationality: 2",
        f"{S}\n- rationality: 2",
        f"{S} {R}",
        *(
            f"{S}\n- Rationality: {x}"
            for x in ("11", "-1", "8/10", "8.5", "8,5", "08", "100", "2 (low)", "", "two", "٣")
        ),
        f"{S}\n- Rationality:\n2",
        f"{S}\u2028{R}",
    ],
)
def test_forms_that_are_not_read(text: str) -> None:
    assert parse_form(text) is None


@pytest.mark.parametrize(
    ("text", "score"),
    [
        *((f" {n}", n) for n in range(11)),
        ("8", 8),
        ("\t 10\n- Rationality: 2", 10),
        ("7\n8", 7),
        ("7, because", 7),
        ("7 - warm", 7),
        ("7<|im_end|>", 7),
    ],
)
def test_slots_that_are_read(text: str, score: int) -> None:
    assert parse_slot(text) == score


@pytest.mark.parametrize(
    "text", ["", " ", "\n8", "11", "100", "-1", "+1", "8.5", "8.", "8,5", "8/10", "8 / 10", "80%", "8 %", "8th", "7-8",
             "7 – 8", "08", "x", "*8*", "1٣", "eight"]
)  # fmt: skip
def test_slots_that_are_not_read(text: str) -> None:
    assert parse_slot(text) is None


def test_both_slots_belong_to_the_form() -> None:
    assert all(slot in render_form(1, 1) for slot in SLOTS.values())


def test_command_prints_text_fingerprint_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rubric = load_rubric()
    assert main(["rubric"]) == 0
    done = capsys.readouterr()
    assert (done.out, done.err) == (f"{rubric.text}\n", f"{rubric.fingerprint}\n")
    (tmp_path / "mine.md").write_text(done.out, encoding="utf-8")
    assert main(["rubric", "--rubric", str(tmp_path / "mine.md"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"name": "mine", "fingerprint": f"mine/{rubric.fingerprint.split('/')[1]}", "text": rubric.text}
    assert main(["rubric", "--rubric", str(tmp_path)]) == 3
