"""Files appear whole or not at all, and what is wrong with a place is said before any work."""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ee_trl.cli.main import main
from ee_trl.errors import FormatError
from ee_trl.files import (
    WRITABLE,
    atomic,
    atomic_folder,
    check_output,
    is_partial,
    json_text,
    temporary_folder,
    write_text,
)


def test_atomic_leaves_nothing_on_failure(tmp_path: Path) -> None:
    def write_half() -> None:
        with atomic(tmp_path / "a") as partial:
            partial.write_text("half", encoding="utf-8")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert os.listdir(tmp_path) == []


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path: Path) -> None:
    left = f".a.partial-{platform.node()}-"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    others = {f"{left}{os.getppid()}", f".a.partial-elsewhere-{gone.pid}", f".b.partial-{platform.node()}-{gone.pid}"}
    for name in (f"{left}{gone.pid}", *others):
        (tmp_path / name).touch()
    write_text(tmp_path / "a", "text")
    assert set(os.listdir(tmp_path)) == {"a", *others}


def test_a_folder_is_replaced_whole_and_never_one_that_another_process_made(tmp_path: Path) -> None:
    target = tmp_path / "scorer"

    def write(text: str, *, overwrite: bool = True, fail: bool = False) -> None:
        with atomic_folder(target, overwrite=overwrite) as partial:
            (partial / text).touch()
            if fail:
                raise KeyboardInterrupt

    target.mkdir()
    write("old", overwrite=False)  # over an empty folder
    with pytest.raises(KeyboardInterrupt):
        write("new", fail=True)
    with pytest.raises(FormatError, match="is there already"):
        write("new", overwrite=False)
    assert os.listdir(target) == ["old"]
    with atomic_folder(target) as one, atomic_folder(target) as other:
        assert one != other, "two at once share no partial folder"
    write("new")
    assert os.listdir(target) == ["new"]
    assert os.listdir(tmp_path) == ["scorer"]


def test_a_kill_between_the_two_renames_of_a_folder_is_mended_by_the_next_write(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    new = tmp_path / f".scorer.partial-{platform.node()}-{gone.pid}-0a1b2c"
    old = new.with_name(f"{new.name}.replaced")
    for folder in (new, old):
        folder.mkdir()
        assert is_partial(folder)
    (old / "old").touch()

    def fail() -> None:
        with atomic_folder(tmp_path / "scorer"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["scorer", "scorer/old"]


def test_a_folder_that_cannot_be_renamed_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FormatError, match="current folder"), atomic_folder("."):
        pass


def test_temporary_folders_of_killed_processes_go_with_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code = (
        "import os, signal; from ee_trl.files import temporary_folder as new; print(new()); (new() / 'data').touch()"
    )
    kill = f"import tempfile; tempfile.tempdir = {str(tmp_path)!r}; {code}; os.kill(os.getpid(), signal.SIGKILL)"
    subprocess.run([sys.executable, "-c", kill], check=False)
    [left] = os.listdir(tmp_path)
    assert len(os.listdir(tmp_path / left)) == 2
    main(["rubric"])
    assert not os.listdir(tmp_path), "every command begins so"
    ours = temporary_folder()
    assert [tmp_path / name for name in os.listdir(tmp_path)] == [ours.parent]
    assert temporary_folder() != ours
    assert ours.exists(), "this process lives"
    shutil.rmtree(ours.parent)
    assert temporary_folder().exists(), "others clean that folder, too"


FULL_DISK = """
import resource, sys
from datasets import Dataset
from ee_trl.cli.main import main

Dataset.from_list([{"context": "I am sad.", "response": f"Oh no. {i}"} for i in range(2_000)]).to_parquet("a.parquet")
sys.dont_write_bytecode = True  # or the limit cuts the compiled files of modules that are imported later
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
sys.exit(main(["score", "a.parquet", "-o", sys.argv[1], "--scorer", "linear", "-q"]))
"""


@pytest.mark.parametrize("ending", WRITABLE)
def test_a_full_disk_is_said_with_the_file_and_the_fix(ending: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / f"out{ending}")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 5, done.stderr
    assert f"{tmp_path / f'out{ending}'}. Free some space" in done.stderr
    assert os.listdir(tmp_path) == ["a.parquet"]


def test_output_is_checked_before_anything_is_done(tmp_path: Path) -> None:
    (tmp_path / "there.parquet").touch()
    (tmp_path / "folder.parquet").mkdir()
    for name, message in [
        ("a.csv", "csv"),
        ("a", "missing"),
        ("there.parquet", "overwrite"),
        ("folder.parquet", "is a folder"),
    ]:
        with pytest.raises(FormatError, match=message):
            check_output(tmp_path / name, overwrite=False)
    assert check_output(tmp_path / "there.parquet", overwrite=True) == tmp_path / "there.parquet"
    assert check_output(tmp_path / "new.JSONL", overwrite=False).name == "new.JSONL"


def test_json_is_strict_and_acts_on_no_terminal() -> None:
    value = {
        "a": [math.nan, math.inf, np.float32("nan"), np.int64(3)],
        "b": "\x9b\x7f\u2028\u202e\ud83d é 👩‍👩‍👧",
        1: (Path("x"),),
    }
    text = json_text(value)
    assert text == ('{"a": [null, null, null, 3], "b": "\\u009b\\u007f\\u2028\\u202e\\ud83d é 👩‍👩‍👧", "1": ["x"]}')
    assert json.loads(text)["b"] == value["b"]
