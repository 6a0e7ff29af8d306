"""The report of what was drawn: its numbers, its picture, and what it says of files that are not as they should be."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ee_trl.axes import QUADRANTS, TIE
from ee_trl.errors import EmpathyError
from ee_trl.reports.draws import (
    COLUMNS,
    by_quadrant,
    draw_draws,
    draws_warnings,
    read_draws,
    read_history,
    write_draws_report,
)
from ee_trl.reports.plane import COLOURS


ROWS = [  # sensibility, rationality, quadrant, draws, mean_weight, first_loss, last_loss, mean_loss
    (8.0, 2.0, "sensibility", 3, 1.0, 3.0, 2.0, 2.5),
    (7.0, 3.0, "sensibility", 1, 2.0, 2.0, 2.0, 2.0),
    (8.0, 1.0, "sensibility", 0, None, None, None, None),
    (2.0, 8.0, "rationality", 4, 0.5, 4.0, 3.5, 3.75),
    (9.0, 9.0, "balanced", 0, None, None, None, None),
    (None, None, None, 2, 1.0, 5.0, 5.0, 5.0),
]


def entry(step: int, last: int, **more: Any) -> dict[str, Any]:
    share = step / last if last else 0.0
    shares = {"sensibility": 1 - share, "rationality": share / 2, "": share / 2}
    return {"step": step, "progress": share, "shares": shares, "effective_sample_size": 5.0 - step / 10} | more


def write(folder: Path, history: list[dict[str, Any]], rows: list[tuple] = ROWS) -> Path:
    columns = [list(range(len(rows))), *(list(column) for column in zip(*rows, strict=True))]
    names = ["row", "sensibility", "rationality", "quadrant", "draws", *COLUMNS[4:8]]
    pq.write_table(pa.table(dict(zip(names, columns, strict=True))), folder / "empathy_draws.parquet")
    (folder / "empathy_history.json").write_text(json.dumps(history))
    return folder


def test_the_page_counts_what_was_drawn_by_quadrant_and_step(tmp_path: Path) -> None:
    history = [entry(step, 40, mean_weight=1.25, quadrant_loss={"sensibility": 3 - step / 40}) for step in range(41)]
    page = write_draws_report(write(tmp_path, history))
    assert page == tmp_path / "empathy_report.md"
    text = page.read_text()
    assert "**10 draws of 4 different samples**, 66.7% of 6; 2 were never drawn." in text
    assert "drawn 2.5 times on average, at most 4 times." in text
    assert "| sensibility | 3 | 50.0% | 2 | 4 | 40.0% | 1.33 | 1.25 | 2.50 | 2.00 | 2.25 |" in text
    assert "| balanced | 1 | 16.7% | 0 | 0 | 0.0% | 0.00 | n/a | n/a | n/a | n/a |" in text
    assert "| unscored | 1 | 16.7% | 1 | 2 | 20.0% | 2.00 | 1.00 | 5.00 | 5.00 | 5.00 |" in text
    assert "| low |" not in text, "there is none"
    steps = [line for line in text.splitlines() if "%" in line and line.endswith("| 1.25 |")][-9:]
    assert steps[0] == "| 0 | 0% | 100.0% | 0.0% | 0.0% | 5 | 1.25 |"
    assert steps[-1] == "| 40 | 100% | 0.0% | 50.0% | 50.0% | 1 | 1.25 |"
    assert "![what was drawn](empathy_draws.png)" in text
    assert (tmp_path / "empathy_draws.png").stat().st_size > 10_000


def test_warnings_tell_of_flags_and_of_scores_that_are_alike() -> None:
    n = 60
    alike = {"sensibility": np.full(n, 7.0), "rationality": np.linspace(0, 4, n), "draws": np.ones(n)}
    alike["sensibility"][:3] = alike["rationality"][:3] = np.nan
    first, *others = draws_warnings({**alike, "flagged": np.arange(n) < 3})
    assert first.startswith("3 of 60 samples (5.0%) have a flag")
    assert any("gives nearly every reply the same sensibility" in text for text in others)
    varied = {"sensibility": np.linspace(0, 10, n), "rationality": np.linspace(10, 0, n), "draws": np.ones(n)}
    assert draws_warnings({**varied, "flagged": np.zeros(n, bool)}) == []


def picture(folder: Path) -> str:
    from matplotlib import rc_context

    draws, history = read_draws(folder / "empathy_draws.parquet"), read_history(folder / "empathy_history.json")
    with rc_context({"svg.fonttype": "none"}):  # text as text, so that it can be read back
        return draw_draws(draws, by_quadrant(draws), history, folder / "draws.svg").read_text()


def test_the_picture_says_shares_and_has_a_colour_for_each_quadrant(tmp_path: Path) -> None:
    history = [entry(step, 40, quadrant_loss={"sensibility": 3.0, "rationality": None}) for step in (0, 20, 40)]
    svg = picture(write(tmp_path, history))
    for said in (
        "10 draws in the score plane",
        "sensibility 40.0%",
        "rationality 40.0%",
        "balanced 0.0%",
        "Effective sample size",
        "Training loss by quadrant",
        ">unscored<",
        COLOURS["sensibility"],
        COLOURS["rationality"],
    ):
        assert said in svg
    assert ">low<" not in svg


def test_without_losses_by_step_the_picture_shows_first_and_last(tmp_path: Path) -> None:
    svg = picture(write(tmp_path, [entry(step, 2) for step in range(3)]))
    assert "Loss at the first (open) and last draw" in svg
    assert "not recorded" not in svg


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 8, 9, 10, 11, 100])
def test_few_and_many_steps_are_shown_first_and_last_among_them(steps: int, tmp_path: Path) -> None:
    text = write_draws_report(write(tmp_path, [entry(s, max(steps - 1, 0)) for s in range(steps)])).read_text()
    table = text.split("## Over the training")[1]
    shown = [int(line.split("|")[1]) for line in table.splitlines() if re.match(r"\| \d", line)]
    assert len(shown) <= 9
    assert len(shown) >= min(steps, 5)
    assert shown == sorted(set(shown))
    assert ([shown[0], shown[-1]] if shown else []) == ([0, steps - 1] if steps else [])
    assert steps or "no draws were recorded by step" in text


def test_nothing_drawn_is_said(tmp_path: Path) -> None:
    rows = [(8.0, 2.0, "sensibility", 0, None, None, None, None)] * 3
    svg = picture(write(tmp_path, [], rows))
    assert svg.count("not recorded") == 3
    text = write_draws_report(tmp_path).read_text()
    assert "**Nothing was drawn** of 3 samples." in text
    assert "| sensibility | 3 | 100.0% | 0 | 0 | n/a | 0.00 | n/a | n/a | n/a | n/a |" in text


def test_without_matplotlib_the_page_is_written_and_says_what_the_picture_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.import_module

    def missing(name: str, package: str | None = None) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, package)

    monkeypatch.setattr("ee_trl.errors.importlib.import_module", missing)
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.patches", None)
    text = write_draws_report(write(tmp_path, [entry(0, 0)])).read_text()
    assert "pip install 'ee-trl[report]'" in text
    assert "10 draws of 4" in text
    assert not (tmp_path / "empathy_draws.png").exists()


def test_files_that_are_missing_or_wrong_are_named(tmp_path: Path) -> None:
    with pytest.raises(EmpathyError, match=r"empathy_draws\.parquet is not there; a training with a policy writes it"):
        write_draws_report(tmp_path)
    write(tmp_path, [])
    (tmp_path / "empathy_history.json").unlink()
    with pytest.raises(EmpathyError, match=r"empathy_history\.json is not there"):
        write_draws_report(tmp_path)
    for wrong in ({"history": []}, [{"step": 1}]):
        (tmp_path / "empathy_history.json").write_text(json.dumps(wrong))
        with pytest.raises(EmpathyError, match="is not a list of entries with step, progress and shares"):
            write_draws_report(tmp_path)
    table = pq.read_table(tmp_path / "empathy_draws.parquet")
    pq.write_table(table.drop_columns(["draws", "last_loss"]), tmp_path / "empathy_draws.parquet")
    with pytest.raises(EmpathyError, match="has no column draws, last_loss; expected row, sensibility, rationality"):
        read_draws(tmp_path / "empathy_draws.parquet")
    write(tmp_path, [], [(8.0, 2.0, "high", 1, 1.0, 1.0, 1.0, 1.0)])
    with pytest.raises(
        EmpathyError, match="has quadrants high; expected sensibility, rationality, balanced, low, tie"
    ):
        read_draws(tmp_path / "empathy_draws.parquet")


def test_numbers_are_read_as_they_were_written(tmp_path: Path) -> None:
    draws = read_draws(write(tmp_path, []) / "empathy_draws.parquet")
    assert draws["draws"].tolist() == [3, 1, 0, 4, 0, 2]
    assert draws["quadrant"].tolist()[-1] == "unscored"
    np.testing.assert_array_equal(draws["mean_loss"], [2.5, 2.0, np.nan, 3.75, np.nan, 5.0])
    assert set(by_quadrant(draws)) <= {*QUADRANTS, TIE, "unscored"}
