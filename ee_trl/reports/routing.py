"""How a router routes, before and after training: by layer, quadrant and emotion, as JSON, a page, a picture."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import write_json, write_text
from .plane import new_figure, save_figure


if TYPE_CHECKING:
    from ..moe.routing import Routing

PAGE, PICTURE, RECORD = "router_report.md", "router_report.png", "router_report.json"


def summarise_routing(routing: Routing, groups: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """
    The means of a routing, over all dialogues and over those of each group.

    Args:
        routing (`Routing`): Of n dialogues.
        groups (`Mapping[str, Sequence[str]]`): `"quadrant"` and the like -> the group of each dialogue; `""` for none.

    Returns:
        `dict`: `experts`, `rows`, `load` and `first` (layers x experts: the mean weight, and the share of tokens that
        an expert counts most for), and `by`: grouping -> group -> `rows` and `load`.
    """
    import numpy as np

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
    """
    Writes the page, the numbers and, where matplotlib is installed, the picture.

    Args:
        folder (`Path`): Where to.
        before, after (`Mapping`): Of [`summarise_routing`].

    Returns:
        `Path` of the page.
    """
    write_json(folder / RECORD, {"before": before, "after": after})
    try:
        plot_routing(before, after, folder / PICTURE)
        picture = f"![routing before and after]({PICTURE})"
    except ImportError:
        picture = "(No picture: `pip install 'ee-trl[report]'` adds it.)"
    write_text(folder / PAGE, router_page(before, after, picture))
    return folder / PAGE


def router_page(before: Mapping[str, Any], after: Mapping[str, Any], picture: str) -> str:
    """The report as Markdown."""
    experts = after["experts"]
    parts = [
        "# Router report",
        f"What each expert counts (1 in all) for a token, over {after['rows']:,} dialogues.",
        picture,
        "## Load by layer",
        "*First* is the share of tokens that the expert counts most for.",
        _load_table(before, after),
    ]
    for grouping in after["by"]:
        parts += [f"## Weight by {grouping}, mean over layers", _group_table(before, after, grouping, experts)]
    return "\n\n".join(parts) + "\n"


def _load_table(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    experts = after["experts"]
    head = ["layer", *(f"{e}, before" for e in experts), *(f"{e}, after" for e in experts)]
    head += [f"{e} first, after" for e in experts]
    rows = [
        [str(i), *(f"{value:.3f}" for value in (*old, *new, *first))]
        for i, (old, new, first) in enumerate(zip(before["load"], after["load"], after["first"], strict=True))
    ]
    return _table(head, rows)


def _group_table(before: Mapping[str, Any], after: Mapping[str, Any], grouping: str, experts: Sequence[str]) -> str:
    head = [grouping, "dialogues", *(f"{e}, before" for e in experts), *(f"{e}, after" for e in experts)]
    rows = []
    for name, group in after["by"][grouping].items():
        values = [*over_layers(before["by"][grouping][name]["load"]), *over_layers(group["load"])]
        rows.append([name, f"{group['rows']:,}", *(f"{value:.3f}" for value in values)])
    return _table(head, rows)


def over_layers(load: Sequence[Sequence[float]]) -> list[float]:
    """The mean of each expert's weight over the layers."""
    return [sum(column) / len(load) for column in zip(*load, strict=True)]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    cells = ([cell.replace("\\", "\\\\").replace("|", "\\|") for cell in row] for row in rows)
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in cells)])


# ---- the picture ----------------------------------------------------------------------------------------------------


def plot_routing(before: Mapping[str, Any], after: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Draws the load of each layer, and the weights by layer and group, before (left) and after (right)."""
    experts = after["experts"]
    shown = experts[:1] if len(experts) == 2 else experts  # of two, the other counts the rest
    maps = [(grouping, i) for grouping in after["by"] if after["by"][grouping] for i in range(len(shown))]
    heights = [2.0, *(1.0 + 0.22 * len(after["by"][grouping]) for grouping, _ in maps)]
    figure = new_figure((9.6, sum(heights) + 0.6))
    grid = figure.add_gridspec(1 + len(maps), 2, height_ratios=heights)
    for column, (when, record) in enumerate((("before training", before), ("after training", after))):
        _draw_load(figure.add_subplot(grid[0, column]), record, when, legend=column == 1)
    reach = _reach(before, after, maps)
    for row, (grouping, expert) in enumerate(maps, start=1):
        for column, record in enumerate((before, after)):
            axes = figure.add_subplot(grid[row, column])
            names = list(after["by"][grouping])
            values = [[layer[expert] for layer in record["by"][grouping][name]["load"]] for name in names]
            even = 1 / len(experts)
            image = axes.imshow(values, aspect="auto", cmap="RdBu_r", vmin=even - reach, vmax=even + reach)
            axes.set_yticks(range(len(names)), names if column == 0 else [""] * len(names), fontsize=7)
            axes.set_xlabel("layer")
            _whole_numbers(axes)
            axes.set_title(f"weight of {experts[expert]} by {grouping}", fontsize=9)
            figure.colorbar(image, ax=axes, fraction=0.03, pad=0.02)
    return save_figure(figure, path)


def _draw_load(axes: Any, record: Mapping[str, Any], when: str, legend: bool) -> None:
    bottom = [0.0] * len(record["load"])
    for i, expert in enumerate(record["experts"]):
        values = [layer[i] for layer in record["load"]]
        axes.bar(range(len(values)), values, bottom=bottom, label=expert, width=0.8)
        bottom = [low + value for low, value in zip(bottom, values, strict=True)]
    _whole_numbers(axes)
    axes.set(title=f"load, {when}", xlabel="layer", ylabel="mean weight", ylim=(0, 1))
    if legend:
        axes.legend(frameon=True, fontsize=8)


def _whole_numbers(axes: Any) -> None:
    axes.xaxis.get_major_locator().set_params(integer=True)


def _reach(before: Mapping[str, Any], after: Mapping[str, Any], maps: Sequence[tuple[str, int]]) -> float:
    """The greatest distance of any weight shown from an even one; not so small that noise looks like a finding."""
    even = 1 / len(after["experts"])
    found = [
        abs(layer[expert] - even)
        for record in (before, after)
        for grouping, expert in maps
        for group in record["by"][grouping].values()
        for layer in group["load"]
    ]
    return max([0.05, *found])
