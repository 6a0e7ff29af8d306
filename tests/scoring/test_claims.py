from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ee_trl.scoring.claims import claim_folder


CLAIMS = "import sys; from pathlib import Path; from ee_trl.scoring.claims import claim_folder as claim\n"
CLAIMS += "print(claim(Path(sys.argv[1])), flush=True); sys.stdin.read()"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks: nobody is kept out")
def test_a_folder_belongs_to_one_process_until_it_ends(tmp_path: Path) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", CLAIMS, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout
    assert other.stdout.readline() == "True\n"
    assert not claim_folder(tmp_path / "a" / ".." / "run")
    assert claim_folder(tmp_path / "other")
    other.kill()
    other.communicate()
    assert claim_folder(tmp_path / "run")
    assert claim_folder(tmp_path / "run"), "a process does not shut itself out"
