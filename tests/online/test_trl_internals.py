"""One file touches what is private in TRL's and transformers' trainers, and each private name in it is there."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import online_runs as runs
import pytest
import trl
from conftest import ROOT
from packaging.specifiers import SpecifierSet
from trl import SFTTrainer

from ee_trl import EmpathySFTTrainer
from ee_trl.online import trl_internals


pytestmark = [pytest.mark.filterwarnings("ignore")]  # of the libraries

FILE = Path(inspect.getsourcefile(trl_internals) or "")


def private(names: set[str]) -> set[str]:
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def touched(path: Path) -> set[str]:
    """Private names that a file reads from an object (not `self`, but in this one file), or its trainers define."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    read = [node for node in nodes if isinstance(node, ast.Attribute)]
    found = {node.attr for node in read if path == FILE or ast.unparse(node.value) != "self"}
    for kind in (node for node in nodes if isinstance(node, ast.ClassDef)):
        if any("Trainer" in ast.unparse(base) for base in kind.bases) or path == FILE:
            found |= {node.name for node in kind.body if isinstance(node, ast.FunctionDef)}
    return private(found)


def test_the_file_is_written_for_the_installed_trl() -> None:
    assert trl.__version__ in SpecifierSet(trl_internals.TRL_VERSIONS)
    lowest = next(line for line in (ROOT / "pyproject.toml").read_text().splitlines() if '"trl>=' in line)
    assert trl_internals.TRL_VERSIONS.split(",")[0] in lowest


def test_every_private_name_is_there_with_the_arguments_expected(tmp_path: Path) -> None:
    trainer = runs.stock(runs.build_model(tmp_path), runs.rows())
    ours = private(set(vars(trl_internals.OnlineMixin))) - private(set(dir(SFTTrainer)))
    names = touched(FILE) - ours
    assert names > {"_metrics", "_prepare_dataset", "_get_num_items_in_batch", "_load_from_checkpoint"}
    assert {name for name in names if not hasattr(trainer, name)} == set()
    for hooks in (trl_internals.OnlineMixin, trl_internals.LoadingHook):
        for name in private(set(vars(hooks))) & private(set(dir(SFTTrainer))):
            here, there = (list(inspect.signature(getattr(kind, name)).parameters) for kind in (hooks, SFTTrainer))
            assert here == there, name


def test_no_other_file_touches_what_is_private_in_a_trainer() -> None:
    theirs = private(set(dir(SFTTrainer))) | {"_metrics", "_signature_columns", "_skip_prepare_dataset"}
    files = [*(ROOT / "ee_trl").rglob("*.py"), *(ROOT / "evaluation").rglob("*.py"), *(ROOT / "recipes").glob("*.py")]
    found = {
        str(path.relative_to(ROOT)): names for path in files if path != FILE and (names := touched(path) & theirs)
    }
    assert found == {}


def test_our_trainer_reports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", lambda **sent: pytest.fail(f"sent {sent}"))
    EmpathySFTTrainer._send_telemetry(object())  # type: ignore[arg-type]
