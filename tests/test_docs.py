"""The documentation quotes code that runs, commands that work, files that are there and names that are true."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import shlex
from pathlib import Path

import pytest
from conftest import ROOT

import ee_trl
from ee_trl.cli.main import main
from ee_trl.data.dialogue import REASONS
from ee_trl.data.formats import FORMATS
from ee_trl.data.sample import load_sample


pytestmark = pytest.mark.usefixtures("sample_is_scored")

METRICS = sorted(ROOT.glob("evaluation/*/README.md"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "recipes/README.md", ROOT / "benchmarks/README.md"]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(
        rf"```{language}(?: hl_lines=[^\n]+)?\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL
    )


PYTHON = [(page, i) for page in PAGES for i in range(len(blocks(page, "python")))]


@pytest.mark.parametrize(("page", "i"), PYTHON, ids=[f"{page.stem}-{i}" for page, i in PYTHON])
def test_python_blocks_run(page: Path, i: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks(page, "python")[i], f"{page.name}, block {i}", "exec"), {})


NOT_RUN = re.compile(r"<!-- not run: .+ -->\n```(\w+)\n")
SHELL = [page for page in PAGES if blocks(page, "bash")]


@pytest.mark.parametrize("page", SHELL, ids=lambda page: page.stem)
def test_commands_run_as_they_stand(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a page's commands, one after the other, in a folder that holds dialogues.parquet."""
    monkeypatch.chdir(tmp_path)
    load_sample().select(range(120)).to_parquet("dialogues.parquet")
    text = NOT_RUN.sub("```not-run\n", page.read_text(encoding="utf-8"))
    for block in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            command = shlex.split(line, comments=True)
            if command:
                assert command[0] == "ee-trl", f"{line!r} is not run: say so in a comment before the block"
                assert main(command[1:]) == 0, line


@pytest.mark.parametrize("page", PAGES + METRICS, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_is_run_or_says_why_not(page: Path) -> None:
    text = NOT_RUN.sub("", page.read_text(encoding="utf-8"))
    kinds = set(re.findall(r"^```(\w+)\n", text, flags=re.MULTILINE))
    run = {"python", "text", "bibtex"} if page in METRICS else {"python", "bash", "text"}
    assert kinds <= run, "other code says why it is not run, in a comment before it"


def test_the_api_page_has_every_public_name() -> None:
    listed = set(re.findall(r"^::: [\w.]+\.(\w+)$", (ROOT / "docs/api.md").read_text(), flags=re.MULTILINE))
    public = {name for name in ee_trl.__all__ if callable(getattr(ee_trl, name))}
    assert public <= listed, public - listed


@pytest.mark.parametrize("page", PAGES + METRICS, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_api_page_has_every_name_that_a_page_imports(page: Path) -> None:
    api = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    names = re.findall(r"^::: ([\w.]+)$", api, flags=re.MULTILINE)
    listed = [pkgutil.resolve_name(re.sub(r"^evaluation\.", "ee_trl.evaluation.", name)) for name in names]
    code = "\n".join(re.findall(r"```(?:python|py)\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL))
    for module, names in re.findall(
        r"^ *from (ee_trl[\w.]*) import \(?([\w, \n]+?)(?:\)|$)", code, flags=re.MULTILINE
    ):
        for name in re.findall(r"\w+", names):
            value = getattr(importlib.import_module(module), name)
            assert any(value is known or inspect.getmodule(value) is known for known in listed), f"{module}.{name}"


def test_readme_recipe_commands_name_recipes_and_options_that_exist() -> None:
    lines = [line for block in blocks(ROOT / "README.md", "bash") for line in block.splitlines()]
    launches = [shlex.split(line, comments=True) for line in lines if line.startswith("accelerate launch")]
    assert launches
    for launch in launches:
        assert all((ROOT / word).exists() for word in launch if word.endswith(".py"))


def test_make_targets_in_the_first_screen_of_the_readme_exist() -> None:
    first_screen = "\n".join((ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:24])
    for target in ("quickstart", "test"):
        assert f"make {target}" in first_screen
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


def test_the_online_page_highlights_the_two_lines_that_a_plain_script_lacks() -> None:
    page = ROOT / "docs/online.md"
    guided = blocks(page, "python")[0].splitlines()
    [marked] = re.findall(r'```python hl_lines="([\d ]+)"', page.read_text(encoding="utf-8"))
    lines = [guided[int(number) - 1] for number in marked.split()]
    assert [line for line in guided if "EmpathyDataSelector" in line] == lines
    assert len(lines) == 2


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_picture_is_made_by_a_script_that_the_checklist_names() -> None:
    scripts = {path: path for folder in ("scripts", "benchmarks") for path in ROOT.glob(f"{folder}/*.py")}
    scripts |= {path: path.parent for path in ROOT.glob("benchmarks/*/*.py")}  # a folder that is run as one command
    checklist = (ROOT / "docs/releasing.md").read_text(encoding="utf-8")
    for picture in (ROOT / "docs/images").iterdir():
        makers = {script for path, script in scripts.items() if picture.stem in path.read_text(encoding="utf-8")}
        assert any(f"python {script.relative_to(ROOT)}" in checklist for script in makers), picture.name


def test_every_picture_is_on_a_page() -> None:
    shown = {
        (page.parent / target).resolve()
        for page in TEXTS
        for target in re.findall(r"!\[[^\]]+\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    }
    assert not set((ROOT / "docs/images").iterdir()) - shown


def test_formats_page_lists_every_format_and_every_reason() -> None:
    text = (ROOT / "docs/formats.md").read_text(encoding="utf-8")
    for name in FORMATS:
        assert f"| `{name}` |" in text
    for name, reason in REASONS.items():
        assert f"| `{name}` | {reason} |" in text


@pytest.mark.parametrize(
    ("scorer", "sentence"),
    [
        ("minilm", r"Spearman ([\d.]+) for sensibility and ([\d.]+) for rationality, Cohen's kappa ([\d.]+)"),
        ("linear", r'`"linear"` has ([\d.]+), ([\d.]+) and ([\d.]+)\.'),
    ],
)
def test_readme_quotes_the_scorers_measured_agreement(scorer: str, sentence: str) -> None:
    import json

    metrics = json.loads((ROOT / f"ee_trl/assets/{scorer}/metrics.json").read_text())
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    found = re.search(sentence, readme)
    assert found, "the README says how well the scorer agrees"
    spearman, kappa = metrics["spearman_mean_over_folds"], metrics["by_threshold_pooled"]["5"]["kappa"]
    measured = [spearman["sensibility"], spearman["rationality"], kappa]
    assert list(found.groups()) == [f"{value:.2f}" for value in measured]


def test_benchmarks_page_lists_every_script_and_result() -> None:
    text = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")
    for script in (ROOT / "benchmarks").glob("*.py"):
        assert f"`{script.name}`" in text
    for result in (ROOT / "benchmarks/results").glob("*.json"):
        assert f"`results/{result.name}`" in text
