"""The report on a router before and after training: by layer, quadrant and emotion, as JSON, a page and a picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..display import Table
from ..files import write_json, write_text
from ..reports.plane import new_figure, save_figure
from .routing import Routing


PAGE, PICTURE, RECORD = "router_report.md", "router_report.png", "router_report.json"


def summarise_routing(routing: Routing, groups: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """
    The means of a routing: `load` and `first` (layers x experts) over all dialogues, and `by` grouping and group.
    """
    by: dict[str, dict[str, Any]] = {}
    for grouping, names in groups.items():
        members = np.array(names, dtype=object)
        by[grouping] = {
            name: {"rows": int((members == name).sum()), "load": _rounded(routing.weights[members == name].mean(0))}
            for name in dict.fromkeys(names)
            if name
        }
    return {
        "experts": list(routing.experts),
        "rows": len(routing.weights),
        "load": _rounded(routing.weights.mean(0)),
        "first": _rounded(routing.first.mean(0)),
        "by": by,
    }


def _rounded(values: Any) -> list[list[float]]:
    return [[round(float(value), 4) for value in row] for row in values]


def write_router_report(folder: Path, before: Mapping[str, Any], after: Mapping[str, Any]) -> Path:
    """Writes the numbers of two [`summarise_routing`], the picture if matplotlib is installed, and the page."""
    write_json(folder / RECORD, {"before": before, "after": after})
    try:
        plot_routing(before, after, folder / PICTURE)
        picture = f"![routing before and after]({PICTURE})"
    except ImportError:
        picture = "(No picture: `pip install 'ee-trl[report]'` adds it.)"
    parts = [
        "# Router report",
        f"How much each expert counts for a token (1 in all), over {after['rows']:,} dialogues.",
        picture,
        "## Load by layer",
        "*First* is the share of tokens that the expert counts most for.",
        _load_table(before, after).markdown(),
    ]
    for grouping in after["by"]:
        title = f"## Weight by {grouping}, mean over layers"
        parts += [title, group_table(before, after, grouping).markdown()]
    write_text(folder / PAGE, "\n\n".join(parts) + "\n")
    return folder / PAGE


def _load_table(before: Mapping[str, Any], after: Mapping[str, Any]) -> Table:
    columns = [f"{expert}{what}" for what in (", before", ", after", " first, after") for expert in after["experts"]]
    layers = zip(before["load"], after["load"], after["first"], strict=True)
    rows = [(str(i), *(f"{v:.3f}" for part in layer for v in part)) for i, layer in enumerate(layers)]
    return Table(("layer", *columns), rows)


def group_table(before: Mapping[str, Any], after: Mapping[str, Any], grouping: str) -> Table:
    """The mean weight of each expert in each group, before and after the training."""
    columns = [f"{expert}{what}" for what in (", before", ", after") for expert in after["experts"]]
    rows = []
    for name, group in after["by"][grouping].items():
        loads = (before["by"][grouping][name]["load"], group["load"])
        rows.append((name, f"{group['rows']:,}", *(f"{v:.3f}" for load in loads for v in over_layers(load))))
    return Table((grouping, "dialogues", *columns), rows)


def over_layers(load: Sequence[Sequence[float]]) -> list[float]:
    """The mean of each expert's weight over the layers."""
    return [sum(column) / len(load) for column in zip(*load, strict=True)]


def plot_routing(before: Mapping[str, Any], after: Mapping[str, Any], path: Path) -> Path:
    """Draws the load of each layer, and the weights by layer and group, before (left) and after (right)."""
    experts = after["experts"]
    shown = experts[:1] if len(experts) == 2 else experts  # of two, the other has the rest
    maps = [(grouping, i) for grouping, groups in after["by"].items() if groups for i in range(len(shown))]
    heights = [2.0, *(1.0 + 0.22 * len(after["by"][grouping]) for grouping, _ in maps)]
    figure = new_figure((9.6, sum(heights) + 0.6))
    grid = figure.add_gridspec(1 + len(maps), 2, height_ratios=heights)
    even = 1 / len(experts)
    # The greatest distance of a weight from an even one, but not so small that noise looks like a finding
    reach = max([0.05, *(abs(value - even) for record in (before, after) for value in _shown(record, maps))])
    for column, (when, record) in enumerate((("before training", before), ("after training", after))):
        _draw_load(figure.add_subplot(grid[0, column]), record, when, legend=column == 1)
        for row, (grouping, expert) in enumerate(maps, start=1):
            axes: Any = figure.add_subplot(grid[row, column])
            groups = record["by"][grouping]
            values = [[layer[expert] for layer in groups[name]["load"]] for name in after["by"][grouping]]
            image = axes.imshow(values, aspect="auto", cmap="RdBu_r", vmin=even - reach, vmax=even + reach)
            names = list(after["by"][grouping]) if column == 0 else [""] * len(values)
            axes.set_yticks(range(len(names)), names, fontsize=7)
            axes.set_xlabel("layer")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.set_title(f"weight of {experts[expert]} by {grouping}", fontsize=9)
            figure.colorbar(image, ax=axes, fraction=0.03, pad=0.02)
    return save_figure(figure, path)


def _shown(record: Mapping[str, Any], maps: Sequence[tuple[str, int]]) -> Iterator[float]:
    for grouping, expert in maps:
        for group in record["by"][grouping].values():
            yield from (layer[expert] for layer in group["load"])


def _draw_load(axes: Any, record: Mapping[str, Any], when: str, legend: bool) -> None:
    bottom = [0.0] * len(record["load"])
    for i, expert in enumerate(record["experts"]):
        values = [layer[i] for layer in record["load"]]
        axes.bar(range(len(values)), values, bottom=bottom, label=expert, width=0.8)
        bottom = [low + value for low, value in zip(bottom, values, strict=True)]
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(title=f"load, {when}", xlabel="layer", ylabel="mean weight", ylim=(0, 1))
    if legend:
        axes.legend(frameon=True, fontsize=8)
