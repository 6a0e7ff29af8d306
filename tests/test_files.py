"""Files appear whole or not at all, and what is wrong with a place is said before any work."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ee_trl.errors import FormatError
from ee_trl.files import WRITABLE, atomic, check_output, json_text, write_text


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


FULL_DISK = """
import resource, sys
from datasets import Dataset
from ee_trl.cli.main import main

Dataset.from_list([{"context": "I am sad.", "response": f"Oh no. {i}"} for i in range(2_000)]).to_parquet("a.parquet")
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
