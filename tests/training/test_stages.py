"""Stages are reused while nothing that determines them changed, and resume."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ee_trl.files import json_digest
from ee_trl.training.run import differences
from ee_trl.training.stages import Stages, digest_files


class One:
    is_main_process = True


class Told(list):
    """What a run says, and how often each stage worked."""

    def __init__(self) -> None:
        super().__init__()
        self.worked: list[str] = []


def two_stages(folder: Path, first: dict[str, Any], second: dict[str, Any], fail: str = "") -> Told:
    told = Told()
    stages = Stages(folder, One(), say=told.append)

    def work(name: str, text: str) -> Any:
        def make(place: Path) -> None:
            told.worked.append(name)
            place.mkdir(exist_ok=True)
            (place / "half.json").write_text(text)
            if name == fail:
                raise KeyboardInterrupt
            (place / "whole.json").write_text(text)

        return make

    one = stages.run("one", first, work("one", str(first)))
    stages.run("two", {"one": one.digest, **second}, work("two", str(second)))
    return told


def test_stages_are_reused_while_nothing_changed(tmp_path: Path) -> None:
    told = two_stages(tmp_path, {"a": 1}, {"b": 1})
    assert told.worked == ["one", "two"]
    assert told[0] == "[one] runs for the first time"
    told = two_stages(tmp_path, {"a": 1}, {"b": 1})
    assert told.worked == []
    assert [line.split(" (")[0] for line in told] == ["[one] reused", "[two] reused"]


def test_a_stage_says_what_changed_and_going_back_finds_what_was_made(tmp_path: Path) -> None:
    two_stages(tmp_path, {"a": 1}, {"b": 1})
    told = two_stages(tmp_path, {"a": 1}, {"b": 2, "c": "new"})
    assert told.worked == ["two"]
    assert "[two] runs, since its inputs changed:\n    b: 1 -> 2\n    c: None -> 'new'" in told
    told = two_stages(tmp_path, {"a": 5}, {"b": 1})
    assert told.worked == ["one", "two"]  # what came out of the first is another
    assert re.search(
        r"\[two\] runs, since its inputs changed:\n    one: 'sha256:\w+' -> 'sha256:\w+'", "\n".join(told)
    )
    assert two_stages(tmp_path, {"a": 1}, {"b": 1}).worked == []


def test_an_interrupted_stage_goes_on_in_its_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        two_stages(tmp_path, {"a": 1}, {"b": 1}, fail="two")
    [left] = [path for path in tmp_path.glob("two-*") if path.is_dir()]
    told = two_stages(tmp_path, {"a": 1}, {"b": 1})
    assert told.worked == ["two"]
    assert f"[two] was interrupted; goes on in {left.name}" in told
    assert (left / "whole.json").exists()


@pytest.mark.parametrize("how", ["changed", "removed", "gone"])
def test_files_that_were_changed_or_removed_are_made_anew(tmp_path: Path, how: str) -> None:
    two_stages(tmp_path, {"a": 1}, {"b": 1})
    [folder] = tmp_path.glob("one-*")
    if how == "changed":
        (folder / "whole.json").write_text("other")
    elif how == "removed":
        (folder / "whole.json").unlink()
    else:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    told = two_stages(tmp_path, {"a": 1}, {"b": 1})
    assert told.worked == ["one"]  # the second's input is what it was
    assert f"[one] runs again, since its files in {folder.name} were changed or removed" in told


def test_fingerprints_and_digests_see_what_matters(tmp_path: Path) -> None:
    assert json_digest({"a": 1, "b": 2}) == json_digest({"b": 2, "a": 1}) != json_digest({"a": 1, "b": 3})
    assert differences({"a": 1, "b": 2}, {"a": 1, "c": 3}) == ["b: 2 -> None", "c: None -> 3"]
    (tmp_path / "model.safetensors").write_bytes(b"x" * 100)
    before = digest_files(tmp_path)
    (tmp_path / "trainer_state.json").write_text("times")
    (tmp_path / "notes.txt").write_text("notes")
    assert digest_files(tmp_path) == before
    (tmp_path / "model.safetensors").write_bytes(b"x" * 99 + b"y")
    assert digest_files(tmp_path) != before
