"""What a release hangs on: one number and one day everywhere, and lower bounds that somebody runs."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


SCRIPT = ROOT / "scripts/check_release.py"
disagreements = runpy.run_path(str(SCRIPT))["disagreements"]

FILES = {
    "ee_trl/__init__.py": '__version__ = "1.2.0"\n',
    "CITATION.cff": "cff-version: 1.2.0\nversion: 1.2.0\ndate-released: 2031-05-17\n",
    "CHANGELOG.md": (
        "# Changelog\n\n## [Unreleased]\n\n## [1.2.0] - 2031-05-17\n\n### Fixed\n\n- It.\n\n## [1.1.0] - 2030-01-01\n"
    ),
}


def project(folder: Path, *changes: tuple[str, str, str]) -> Path:
    (folder / "ee_trl").mkdir()
    for name, text in FILES.items():
        for file, old, new in changes:
            if file == name:
                assert old in text
                text = text.replace(old, new)
        (folder / name).write_text(text)
    return folder


def test_files_that_agree_let_the_tag_pass(tmp_path: Path) -> None:
    assert disagreements(project(tmp_path), "v1.2.0") == []


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("ee_trl/__init__.py", "1.2.0", "1.1.9", r"__version__ is 1\.1\.9, not 1\.2\.0"),
        ("CITATION.cff", "\nversion: 1.2.0", "\nversion: 1.1.0", r"CITATION\.cff: version is 1\.1\.0, not 1\.2\.0"),
        ("CITATION.cff", "date-released: 2031-05-17\n", "", r"date-released is missing, but CHANGELOG\.md says 2031"),
        ("CITATION.cff", "2031-05-17", "2031-05-16", r"date-released is 2031-05-16, but .* says 2031-05-17"),
        ("CHANGELOG.md", "[1.2.0]", "[1.3.0]", r"the newest version is 1\.3\.0, not 1\.2\.0"),
        ("CHANGELOG.md", "## [1.2.0] - 2031-05-17\n", "", r"what \[Unreleased\] holds belongs to \[1\.2\.0\]"),
        ("CHANGELOG.md", "## [Unreleased]\n\n", "", r"no section \[Unreleased\] on top"),
        ("CHANGELOG.md", "[1.2.0] - 2031-05-17", "[1.2.0]", r"the day of \[1\.2\.0\] is None"),
        ("CHANGELOG.md", "### Fixed\n\n- It.\n", "", r"\[1\.2\.0\] says nothing"),
    ],
)
def test_each_disagreement_is_named(tmp_path: Path, file: str, old: str, new: str, said: str) -> None:
    found = disagreements(project(tmp_path, (file, old, new)), "v1.2.0")
    assert any(re.search(said, line) for line in found), found


@pytest.mark.parametrize("tag", ["1.2.0", "v1.2", "v1.2.0-final", "v1.3.0", "v1.2.0rc1"])
def test_another_tag_is_refused(tmp_path: Path, tag: str) -> None:
    assert disagreements(project(tmp_path), tag)


def test_the_script_ends_with_what_is_wrong() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "v0.0.0"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "not 0.0.0" in done.stderr


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_the_lower_bounds_are_the_versions_that_test_lowest_runs_with() -> None:
    lowest = {canonicalize_name(name): version for name, version in pins("constraints-lowest.txt").items()}
    core = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    for requirement in map(Requirement, core):
        bound = [part.version for part in requirement.specifier if part.operator == ">="]
        if requirement.name != "torch":  # see the head of constraints-lowest.txt
            assert bound == [lowest.get(canonicalize_name(requirement.name))], requirement


def test_the_lowest_versions_take_the_place_of_the_newest_by_name() -> None:
    """The Makefile drops from the one file what the other names, so the spelling must be the same."""
    assert {name.lower() for name in pins("constraints-lowest.txt")} <= {
        name.lower() for name in pins("constraints.txt")
    }


# the package -> what it allows of ours, as its metadata says (vLLM 0.33.0, trackio 0.43.0 and TensorBoard 2.21.0)
NEIGHBOURS = {
    "vllm": ["torch==2.14.0", "transformers>=5.16.1,<5.21.0", "openai>=2.25.0", "pillow>=13.0.0"],
    "trackio": ["pillow<13.0.0", "huggingface-hub<3,>=1.10.0"],
}


def test_the_bounds_leave_room_for_vllm_s_pins() -> None:
    """Both fit one environment without constraints.txt; the documentation advises one for each all the same."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ours = {r.name: r.specifier for r in map(Requirement, project["dependencies"])}
    assert ours["torch"].contains("2.14.0")
    assert any(ours["transformers"].contains(version) for version in ("5.16.1", "5.20.2"))
    assert not any(part.operator in ("<", "<=", "==", "~=") for specifier in ours.values() for part in specifier)


def test_the_tested_versions_can_be_installed_beside_trackio_and_tensorboard() -> None:
    tested = {canonicalize_name(name): version for name, version in pins("constraints.txt").items()}
    for requirement in map(Requirement, NEIGHBOURS["trackio"]):
        assert requirement.specifier.contains(tested[requirement.name]), requirement
    refused = [r for r in map(Requirement, NEIGHBOURS["vllm"]) if not r.specifier.contains(tested[r.name])]
    assert refused, "docs/server.md says that constraints.txt and vLLM do not go together"
