"""The report of a whole run: what was selected, the models side by side, how the router routes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import write_json, write_text
from ..moe.routing_report import PICTURE
from ..reports.markdown import METRIC_NOTES, _cell, _table
from .side_by_side import ALL


def write_side_by_side(
    folder: Path,
    evaluated: Mapping[str, Mapping[str, Any]],
    *,
    selection: Mapping[str, Any],
    router: Path,
    rows: Sequence[Mapping[str, Any]],
    made_by: Mapping[str, str],
    examples: int = 3,
) -> Path:
    """
    Writes `report.md`, `report.json` and the pictures.

    Args:
        folder (`Path`): Where to.
        evaluated (`Mapping`): Model's name -> what [`~ee_trl.training.side_by_side.evaluate_folder`] found.
        selection (`Mapping`): The record of the selection.
        router (`Path`): The folder of the router's training.
        rows (`Sequence[Mapping]`): What was evaluated on.
        made_by (`Mapping[str, str]`): Stage -> its folder.
        examples (`int`, *optional*, defaults to `3`): Dialogues shown with every model's reply.
    """
    numbers = {name: {key: found[key] for key in found if key != "replies"} for name, found in evaluated.items()}
    write_json(folder / "report.json", {"models": numbers, "selection": selection, "stages": dict(made_by)})
    pictures = {"plane.png": router.parent / made_by["select"] / "plane.png", PICTURE: router / PICTURE}
    for name, source in pictures.items():
        if source.exists():
            shutil.copyfile(source, folder / name)
    parts = [
        "# Efficient-Empathy: experts, baselines and mixture side by side",
        _selection_part(selection, (folder / "plane.png").exists()),
        _perplexity_part(evaluated),
        _metrics_part(evaluated),
        _router_part(router, (folder / PICTURE).exists()),
        _examples_part(evaluated, rows, examples),
        "## Made by\n\n" + "\n".join(f"- {stage}: `{path}`" for stage, path in made_by.items()),
    ]
    write_text(folder / "report.md", "\n\n".join(parts) + "\n")
    return folder / "report.md"


def _selection_part(selection: Mapping[str, Any], picture: bool) -> str:
    kept = [(name, f"{n:,}") for name, n in selection["sets"].items()]
    text = (
        f"{selection['samples']:,} samples, scored by `{', '.join(selection['scorer'])}`, at T = "
        f"{' and '.join(f'{t:g}' for t in selection['threshold'])}."
    )
    shown = ["![score plane](plane.png)"] if picture else []
    return "\n\n".join(["## What was selected", text, _table(("set", "samples"), kept), *shown])


def _perplexity_part(evaluated: Mapping[str, Mapping[str, Any]]) -> str:
    first = next(iter(evaluated.values()))
    groups = list(first["perplexity"])
    head = ["model", *(f"{name} (n={first['samples'][name]:,})" for name in groups)]
    best = {group: min(found["perplexity"][group] for found in evaluated.values()) for group in groups}
    rows = [
        [name, *(_marked(found["perplexity"][group], best[group]) for group in groups)]
        for name, found in evaluated.items()
    ]
    note = f"Perplexity of the reference replies, lower is better; `{ALL}` is over all tokens, the others by quadrant."
    return "\n\n".join(["## Held-out perplexity", note, _table(head, rows)])


def _marked(value: float, best: float) -> str:
    return f"**{value:.3f}**" if value == best else f"{value:.3f}"


def _metrics_part(evaluated: Mapping[str, Mapping[str, Any]]) -> str:
    names = list(next(iter(evaluated.values()))["metrics"])
    if not names:
        return "## Replies\n\nNone were generated."
    rows = [
        (name, *(f"{found['metrics'][name]:,.2f}" for found in evaluated.values()), METRIC_NOTES.get(name, ""))
        for name in names
    ]
    return "## Replies\n\nGreedy, against the reference.\n\n" + _table(("metric", *evaluated, ""), rows)


def _router_part(router: Path, picture: bool) -> str:
    record = json.loads((router / "router_report.json").read_text(encoding="utf-8"))
    experts = record["after"]["experts"]
    rows = []
    for name, group in record["after"]["by"]["quadrant"].items():
        old = record["before"]["by"]["quadrant"][name]["load"]
        means = [
            [sum(layer[i] for layer in load) / len(load) for i in range(len(experts))] for load in (old, group["load"])
        ]
        rows.append([name, *(f"{before:.3f} -> {after:.3f}" for before, after in zip(*means, strict=True))])
    shown = [f"![routing]({PICTURE})"] if picture else []
    text = "Mean weight of each expert by quadrant, before and after the router's training."
    return "\n\n".join(["## How it routes", text, _table(("quadrant", *experts), rows), *shown])


def _examples_part(evaluated: Mapping[str, Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], number: int) -> str:
    generated = len(next(iter(evaluated.values()))["replies"])
    lines = ["## Some replies"]
    step = max(generated // number, 1)
    for i in list(range(0, generated, step))[:number]:
        said = [f"- **speaker**: {_cell(rows[i]['prompt'][-1]['content'])}"]
        said += [f"- **reference**: {_cell(rows[i]['completion'][0]['content'])}"]
        said += [f"- **{name}**: {_cell(found['replies'][i]) or '(nothing)'}" for name, found in evaluated.items()]
        lines.append("\n".join(said))
    return "\n\n".join(lines)
