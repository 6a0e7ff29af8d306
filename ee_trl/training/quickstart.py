"""The method on the embedded sample: score, select, train a tiny expert, evaluate it, report."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ..axes import AXES
from ..display import Heading, Markup, Table, Title, number, shortened
from ..evaluation.eval_set import read_eval_set
from ..evaluation.measures import check_libraries
from ..files import read_json
from ..reports.cards import selection_section
from ..reports.plane import plot_loss
from .arguments import ExpertArguments, parse_recipe_args, recipe_parser
from .expert import SELECTION_DIR, ExpertRun
from .report import ALL, METRICS, examples, measure_model, metrics_table, picture, write_page


def quickstart(output: str | os.PathLike[str]) -> Path:
    """Trains a sensibility expert with the tiny CPU config, evaluates base and expert, and returns the report."""
    check_libraries(METRICS)
    folder = Path(output)
    expert = folder / "expert"
    ExpertRun(*parse_recipe_args(recipe_parser(ExpertArguments), ["--output_dir", str(expert)])).run()
    test = read_eval_set()
    models = {"base": expert / "tiny_base", "sensibility expert": expert}
    evaluated = {name: measure_model(path, test, label=name, device="cpu") for name, path in models.items()}
    metrics = {name: {"perplexity": found["perplexity"][ALL], **found["metrics"]} for name, found in evaluated.items()}
    selection = read_json(expert / SELECTION_DIR / "selection.json")
    history = read_json(expert / "trainer_state.json")["log_history"]

    def parts() -> Iterator[str | Table]:
        yield Title("Efficient-Empathy: report of a run")
        yield Markup(selection_section(selection).strip())
        yield picture(expert / SELECTION_DIR / "plane.png", folder, "score plane")
        yield _chosen(expert)
        yield from _training(history, folder)
        yield Heading("Metrics on held-out dialogues")
        yield metrics_table(metrics)
        yield from examples(test.dialogues, {name: found["replies"] for name, found in evaluated.items()}, 4, NOTE)

    return write_page(folder, {"selection": selection, "metrics": metrics, "log_history": history}, parts())


NOTE = (
    "The demonstration's model is tiny, starts from random weights and sees a few hundred dialogues: it shows that "
    "every part works, not how an expert replies. For that, name a real model and data set."
)


def _chosen(expert: Path, most: int = 5) -> Table:
    table = pq.read_table(expert / SELECTION_DIR / "selected.parquet")
    some = table.take(list(range(0, table.num_rows, max(table.num_rows // most, 1)))[:most])
    rows = []
    for row in some.to_pylist():
        said = (shortened(row[side][-1]["content"], 240) for side in ("prompt", "completion"))
        rows.append((*said, *(number(row[axis], ".1f") for axis in AXES)))
    return Table(("speaker", "reply", *AXES), rows, "Some of the selected samples:")


def _training(history: list[dict[str, Any]], folder: Path) -> Iterator[str]:
    losses = [entry["loss"] for entry in history if "loss" in entry]
    seconds = next((entry["train_runtime"] for entry in reversed(history) if "train_runtime" in entry), 0.0)
    yield Heading("Training")
    yield (
        f"{history[-1]['step']} steps in {seconds:.0f} s; training loss {losses[0]:.2f} at first, {losses[-1]:.2f} at "
        "last (nats per token of the reply)."
    )
    with suppress(ImportError):
        plot_loss(history, folder / "loss.png")
    yield picture(folder / "loss.png", folder, "loss by step")
