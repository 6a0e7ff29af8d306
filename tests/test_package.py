"""The package as it is installed: lazy, typed, one name in site-packages, everything listed."""

from __future__ import annotations

import subprocess
import sys
import time
import tomllib
from importlib import import_module
from importlib.metadata import requires
from importlib.resources import files
from pathlib import Path

import pytest
from conftest import ROOT

import ee_trl
from ee_trl.errors import MissingExtraError, require


def test_import_is_quick_and_loads_no_heavy_library() -> None:
    code = (
        "import sys, ee_trl; sys.exit(any(n in sys.modules for n in ('torch', 'transformers', 'datasets', 'sklearn')))"
    )
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    assert time.perf_counter() - start < 2


def test_scoring_loads_neither_torch_nor_transformers_and_a_stream_goes_to_torch(tmp_path: Path) -> None:
    code = (
        "import sys, ee_trl\n"
        "from ee_trl.cli.main import main\n"
        "from ee_trl.data import tables\n"
        "from ee_trl.data.reading import open_dataset\n"
        "s = ee_trl.EmpathyDataSelector('linear', show_progress=False); scored = s.score(ee_trl.load_sample())\n"
        "s.select(scored); scored.to_parquet('scored.parquet')\n"
        "assert not any(main([name, 'scored.parquet']) for name in ('summary', 'sweep'))\n"
        "assert not main(['select', 'scored.parquet', '-o', 'kept.parquet'])\n"
        "assert not {'torch', 'transformers'} & {*sys.modules}\n"
        "tables._for_torch = True\n"
        "rows = open_dataset('kept.parquet', split='train', streaming=True)\n"
        "from torch.utils.data import DataLoader\n"
        "assert len(next(iter(DataLoader(rows, batch_size=None)))['prompt'])"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


@pytest.mark.parametrize("name", ee_trl.__all__)
def test_every_public_name_can_be_had_and_is_documented(name: str) -> None:
    value = getattr(ee_trl, name)
    assert name in dir(ee_trl)
    if callable(value):
        assert value.__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="selektor"):
        _ = ee_trl.selektor


def test_every_package_is_listed_for_the_wheel() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = set()
    for top, name in (("ee_trl", "ee_trl"), ("evaluation", "ee_trl.evaluation"), ("recipes", "ee_trl.recipes")):
        for init in (ROOT / top).rglob("__init__.py"):
            found.add(".".join([name, *init.parent.relative_to(ROOT / top).parts]))
    assert set(config["packages"]) == found
    shipped = {
        p for pattern in config["package-data"]["ee_trl.evaluation"] for p in (ROOT / "evaluation").glob(pattern)
    }
    assert set((ROOT / "evaluation").glob("*/README.md")) <= shipped
    assert {ROOT / "evaluation" / name / f"{name}.py" for name in ee_trl.list_metrics()} <= shipped


def test_evaluation_and_recipes_are_parts_of_the_package() -> None:
    assert Path(str(import_module("ee_trl.recipes").__file__)).parent.name == "recipes"
    assert Path(str(import_module("ee_trl.evaluation").__file__)).parent.name == "evaluation"
    assert files("ee_trl").joinpath("py.typed").is_file()
    assert files("ee_trl.recipes").joinpath("configs/tiny_cpu.yaml").is_file()


def test_core_dependencies_are_the_missions_and_few() -> None:
    core = {line.split(">")[0] for line in requires("ee-trl") or () if "extra ==" not in line}
    mission = {"transformers", "trl", "peft", "datasets", "torch", "evaluate", "bitsandbytes", "accelerate"}
    assert mission <= core
    assert len(core - mission) <= 5


def test_every_lower_bound_is_the_version_that_is_tested_or_older() -> None:
    from packaging.requirements import Requirement

    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = dict(line.lower().replace("_", "-").split("==") for line in lines if "==" in line)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = project["dependencies"] + [r for extra in project["optional-dependencies"].values() for r in extra]
    for requirement in map(Requirement, listed):
        if requirement.name != "ee-trl":
            assert requirement.name in pinned, f"{requirement.name} is not in constraints.txt"
            assert requirement.specifier.contains(pinned[requirement.name]), requirement


def test_a_missing_extra_is_explained_with_its_pip_line() -> None:
    with pytest.raises(MissingExtraError, match=r"pip install 'ee-trl\[report\]'"):
        require("matplotlib_which_is_not_there", extra="report", purpose="the picture")


def test_a_metric_whose_libraries_are_missing_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    import evaluate

    def missing(*args: object, **kwargs: object) -> None:
        raise ImportError("needs nltk")

    monkeypatch.setattr(evaluate, "load", missing)
    with pytest.raises(MissingExtraError, match=r"pip install 'ee-trl\[metrics\]'"):
        ee_trl.load_metric("distinct")


def test_citation_names_the_paper_and_this_version() -> None:
    import yaml

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # what the format demands
    assert citation["version"] == ee_trl.__version__
    paper = citation["preferred-citation"]
    assert paper["identifiers"][0]["value"] == "arXiv:2407.01937"
    assert len(paper["authors"]) == 7
    card = files("ee_trl").joinpath("assets/templates/dataset_card.md").read_text(encoding="utf-8")
    assert paper["title"] in card
    assert all(
        f"{author['family-names']}, {author['given-names']}" in " ".join(card.split()) for author in paper["authors"]
    )


def test_the_explorers_page_is_a_part_of_the_package() -> None:
    for name in ("page.html", "style.css", "explorer.js"):
        assert files("ee_trl").joinpath("assets/explorer", name).is_file()
