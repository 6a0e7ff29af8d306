"""A missing library is found before any work is done: before data are read, a model is loaded, or a run begins."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ee_trl.cli.main import main
from ee_trl.errors import MissingExtraError
from ee_trl.evaluation import comparison, evaluate_models
from ee_trl.evaluation.callback import EmpathyEvalCallback
from ee_trl.training import method, quickstart
from ee_trl.training.arguments import PipelineArguments


ROOT = Path(__file__).parents[2]


class WorkDone(AssertionError):
    """The work began."""


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Whatever takes time raises [`WorkDone`]."""

    def work(*args: Any, **kwargs: Any) -> None:
        raise WorkDone

    for module, name in (
        *((comparison, name) for name in ("read_eval_set", "load_candidate", "generate_replies")),
        *((quickstart, name) for name in ("ExpertRun", "read_eval_set")),
        (method, "Stages"),
    ):
        monkeypatch.setattr(module, name, work)
    return monkeypatch


def adapter(folder: Path) -> str:
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    return str(folder)


@pytest.mark.parametrize(
    ("library", "pip"), [("nltk", "ee-trl[metrics]"), ("rouge_score", "ee-trl[metrics]"), ("peft", "ee-trl")]
)
def test_evaluate(library: str, pip: str, idle: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    options = {"models": {"expert": adapter(tmp_path / "expert")}, "dataset": "none.parquet"}
    with pytest.raises(WorkDone):
        evaluate_models(**options)
    idle.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError, match=rf"{library}.*pip install '{re.escape(pip)}'"):
        evaluate_models(**options)
    line = ["evaluate", "none.parquet", "--model", options["models"]["expert"], "-o", str(tmp_path / "out")]
    assert main(line) == 3
    assert f"pip install '{pip}'" in capsys.readouterr().err


def test_only_what_is_used_is_needed(idle: pytest.MonkeyPatch) -> None:
    idle.setitem(sys.modules, "nltk", None)
    for options in ({"metrics": ["word_f1", "distinct"], "tokenizer": "whitespace"}, {"metrics": ["empathy_axes"]}):
        with pytest.raises(WorkDone):
            evaluate_models({"base": "owner/name"}, **options)
    with pytest.raises(MissingExtraError, match="metric 'dialogue_bleu'"):
        evaluate_models({"base": "owner/name"}, metrics=["dialogue_bleu"], tokenizer="whitespace")


@pytest.mark.parametrize("library", ["jinja2", "matplotlib.figure"])
def test_a_page_that_will_be_left_out_is_announced(library: str, idle: Any, tmp_path: Path, caplog: Any) -> None:
    idle.setitem(sys.modules, library, None)
    with pytest.raises(WorkDone):
        evaluate_models({"base": "owner/name"}, output=tmp_path)
    assert "pip install 'ee-trl[report]'; report.html will be left out" in caplog.text


def test_an_epitome_classifier(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setattr(comparison, "load_candidate", None)
    with pytest.raises(MissingExtraError, match=r"ee-trl\[metrics\]"):
        evaluate_models({"base": "owner/name"}, epitome=tmp_path, limit=2)


@pytest.mark.parametrize("library", ["nltk", "rouge_score"])
def test_quickstart_and_the_whole_method(library: str, idle: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    run: Any = method.EfficientEmpathy
    with pytest.raises(WorkDone):
        main(["quickstart", "-o", str(tmp_path)])
    idle.setitem(sys.modules, library, None)
    assert main(["quickstart", "-o", str(tmp_path)]) == 3
    assert "pip install 'ee-trl[metrics]'" in capsys.readouterr().err
    with pytest.raises(MissingExtraError, match=library):
        run(PipelineArguments(), None, None)
    if library == "nltk":
        with pytest.raises(MissingExtraError, match=library):
            EmpathyEvalCallback(None)


@pytest.mark.parametrize(
    ("line", "library", "extra"),
    [
        ("train-epitome none.csv -o out", "sklearn", "metrics"),
        ("label none.csv --budget 3 -o out.parquet", "sklearn.decomposition", "report"),
        ("human export none.csv --references -o out", "jinja2", "human"),
        ("explore none.csv -o out.html", "plotly.offline", "explorer"),
        ("score none.csv -o out.parquet --engine ray", "ray", "ray"),
        ("evaluate none.csv --model owner/name --epitome out -o out", "sklearn", "metrics"),
        ("evaluate none.csv --model owner/name --bertscore-model out -o out", "bert_score", "bertscore"),
        ("distill embedded.jsonl --encoder none -o out", "matplotlib.figure", "report"),
    ],
)
def test_other_commands(line: str, library: str, extra: str, monkeypatch: Any, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "embedded.jsonl").write_text('{"context": "a", "response": "b"}')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, library, None)
    assert main(line.split()) == 3
    assert f"pip install 'ee-trl[{extra}]'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["sweep", "summary"])
def test_a_plot(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main([command, "none.parquet", "--plot", "plane.png"]) == 3
    assert "--plot needs 'matplotlib'" in capsys.readouterr().err


@pytest.mark.usefixtures("sample_is_scored")
def test_the_first_snippet_of_the_readme_needs_no_extra() -> None:
    snippet = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)[0]
    extras = "matplotlib nltk rouge_score sklearn scipy plotly krippendorff statsmodels openai ray bert_score absl"
    blocked = f"import sys\nsys.modules.update(dict.fromkeys({extras.split()!r}))\n"
    subprocess.run([sys.executable, "-c", blocked + snippet], check=True, capture_output=True)
