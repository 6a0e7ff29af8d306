"""How a mixture routes is measured without padding, and reported before and after training."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_moe as tiny
import torch
from datasets import Dataset
from tiny_moe import EXPERTS, weights_of

from ee_trl.moe.routing import Routing, measure_routing, routers
from ee_trl.moe.routing_report import PICTURE, RECORD, summarise_routing, write_router_report
from ee_trl.training.router import report_rows


def test_routing_is_measured_without_padding_and_in_the_order_given() -> None:
    class Words:
        def apply_chat_template(self, talk: Any, **options: Any) -> str:
            return " ".join(turn["content"] for turn in talk)

        def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
            return {"input_ids": [int(word) for word in text.split()]}

    talks = [" ".join(map(str, tiny.tokens(1, length, length)[0].tolist())) for length in (9, 3, 17, 5)]
    data = [{"prompt": [{"content": talk}], "completion": []} for talk in talks]
    model = tiny.load(tiny.mixture("llama-tied-scaled")["moe"])
    for router in routers(model).values():
        torch.nn.init.normal_(router.weight)
    found = measure_routing(model, Words(), data, batch_size=3)
    assert found.experts == EXPERTS
    for i, talk in enumerate(talks):
        expected = weights_of(model, torch.tensor([[int(word) for word in talk.split()]]))
        np.testing.assert_allclose(found.weights[i], expected.mean(1), atol=1e-5)
        best = torch.nn.functional.one_hot(expected.argmax(-1), 2).float().mean(1)
        np.testing.assert_allclose(found.first[i], best, atol=1e-5)


# ---- the report -----------------------------------------------------------------------------------------------------


def routing(experts: tuple[str, ...] = ("a", "b"), rows: int = 4, layers: int = 2, seed: int = 0) -> Routing:
    weights = np.random.default_rng(seed).dirichlet(np.ones(len(experts)), (rows, layers))
    return Routing(experts, weights, np.eye(len(experts))[weights.argmax(-1)])


def test_the_summary_is_the_mean_of_each_group() -> None:
    found = routing()
    summary = summarise_routing(found, {"quadrant": ["x", "y", "x", ""]})
    np.testing.assert_allclose(summary["load"], found.weights.mean(0), atol=1e-4)
    np.testing.assert_allclose(summary["first"], found.first.mean(0), atol=1e-4)
    assert list(summary["by"]["quadrant"]) == ["x", "y"]  # "" is no group
    np.testing.assert_allclose(summary["by"]["quadrant"]["x"]["load"], found.weights[[0, 2]].mean(0), atol=1e-4)
    assert summary["by"]["quadrant"]["x"]["rows"] == 2


@pytest.mark.parametrize("experts", [("a", "b"), ("a", "b", "c")])
def test_the_page_and_the_picture_show_both_times(experts: tuple[str, ...], tmp_path: Path) -> None:
    groups = {"quadrant": ["x", "y", "x", "y"], "emotion": ["sad", "glad", "sad", "proud"]}
    before, after = (summarise_routing(routing(experts, seed=seed), groups) for seed in (1, 2))
    page = write_router_report(tmp_path, before, after).read_text()
    means = [np.mean(summary["by"]["quadrant"]["x"]["load"], axis=0) for summary in (before, after)]
    assert f"| x | 2 | {' | '.join(f'{value:.3f}' for value in np.concatenate(means))} |" in page
    assert "## Weight by emotion" in page
    assert json.loads((tmp_path / RECORD).read_text())["after"] == after
    assert (tmp_path / PICTURE).stat().st_size > 10_000


def test_any_emotion_is_a_group_and_a_cell(tmp_path: Path) -> None:
    table = Dataset.from_dict({"sensibility": [8.0] * 4, "rationality": [2.0] * 4, "emotion": [0, 0, 1, None]})
    table.to_parquet(tmp_path / "rows.parquet")
    selector = SimpleNamespace(threshold=(5.0, 5.0), ties="drop")
    _, groups = report_rows(tmp_path / "rows.parquet", 4, selector)  # type: ignore[arg-type]
    assert groups["emotion"] == ["0", "0", "1", ""]
    summary = summarise_routing(routing(), {"emotion": ["a|b"] * 4})
    page = write_router_report(tmp_path, summary, summary).read_text()
    [row] = [line for line in page.splitlines() if line.startswith("| a")]
    assert row.startswith("| a\\|b | 4 | ")


def test_without_matplotlib_the_page_says_how_to_get_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ee_trl.reports import plane

    def missing(*args: Any, **kwargs: Any) -> None:
        raise ImportError

    monkeypatch.setattr(plane, "require", missing)
    summary = summarise_routing(routing(), {"quadrant": ["x"] * 4})
    assert "pip install 'ee-trl[report]'" in write_router_report(tmp_path, summary, summary).read_text()
    assert not (tmp_path / PICTURE).exists()
