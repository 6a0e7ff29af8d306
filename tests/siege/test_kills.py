"""Recipes, distillation and composition killed at some moments; `kills.py` beside this file kills at many."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


COUNTS = os.environ.get("EE_TRL_KILLS", "--random 1 --aimed 3 --commands 1 --cases 1")
"""Options of `kills.py`; for the table in docs/reliability.md: `--random 50 --aimed 20`."""


@pytest.mark.slow
def test_what_was_killed_ends_as_what_was_not() -> None:
    command = [sys.executable, str(Path(__file__).with_name("kills.py")), *COUNTS.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]
    assert "| same |" in done.stdout
