"""The pictures of a comparison, each as a matplotlib figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ee_trl.axes import MAX_SCORE, MIN_SCORE
from ee_trl.errors import require


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .comparison import Comparison

COLOURS = ("#1d4ed8", "#c2410c", "#15803d", "#7e22ce", "#be123c", "#0e7490", "#a16207", "#4d7c0f")
REFERENCE_COLOUR = "#525252"
REFERENCES = "references"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure; raises [`MissingExtraError`] where matplotlib is not installed."""
    module = require("matplotlib.figure", extra="report", purpose="a picture of the comparison")
    return module.Figure(figsize=(width, height), layout="constrained")


def colours_of(names: Sequence[str]) -> dict[str, str]:
    """A colour for each candidate, and one for the references."""
    return {REFERENCES: REFERENCE_COLOUR, **{name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}}


def shown(text: str, limit: int = 28) -> str:
    """A name that fits beside an axis; `$` would start a formula."""
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return text.replace("$", r"\$")


def numbers_figure(comparison: Comparison, names: Sequence[str]) -> Figure:
    """A panel for each number: every candidate's, with its interval; the references' as a dashed line."""
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    models = list(comparison.models)
    figure = new_figure(3.1 * columns, 0.9 * rows + 0.32 * len(models) * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, name in zip(panels, names, strict=False):
        _draw_number(panel, comparison, name, models)
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    return figure


def _draw_number(panel: Axes, comparison: Comparison, name: str, models: Sequence[str]) -> None:
    colours = colours_of(models)
    for place, model in enumerate(reversed(models)):
        entry = comparison.models[model]
        value, ends = entry["numbers"].get(name), entry["intervals"].get(name)
        if value is None or value != value:
            continue
        if ends and ends[0] == ends[0]:
            panel.plot(ends, [place, place], color=colours[model], linewidth=2, alpha=0.7)
        panel.plot([value], [place], marker="o", color=colours[model])
    reference = comparison.references["numbers"].get(name)
    if reference is not None and reference == reference:
        panel.axvline(reference, color=REFERENCE_COLOUR, linestyle="--", linewidth=1)
    panel.set_yticks(range(len(models)), [shown(model) for model in reversed(models)])
    panel.set(ylim=(-0.6, len(models) - 0.4))
    panel.set_title(name, fontsize=10)
    panel.grid(alpha=0.3, axis="x")
    panel.tick_params(labelsize=8)


def plane_figure(comparison: Comparison) -> Figure:
    """The mean of every candidate and of the references on the score plane, with the threshold's lines."""
    figure = new_figure(6.4, 4.8)
    panel = figure.add_subplot()
    models = list(comparison.models)
    colours = colours_of(models)
    entries: dict[str, Mapping[str, Any]] = {REFERENCES: comparison.references, **comparison.models}
    for name, entry in entries.items():
        point, ends = entry["numbers"], entry["intervals"]
        x, y = point.get("sensibility"), point.get("rationality")
        if x is None or x != x or y != y:
            continue
        for axis, (a, b) in (("sensibility", (0, 1)), ("rationality", (1, 0))):
            if ends.get(axis) and ends[axis][0] == ends[axis][0]:
                along = ends[axis], [y if axis == "sensibility" else x] * 2
                panel.plot(along[a], along[b], color=colours[name], alpha=0.6)
        marker = "*" if name == REFERENCES else "o"
        panel.plot([x], [y], marker=marker, markersize=9, linestyle="none", color=colours[name], label=shown(name, 40))
    threshold = comparison.settings["threshold"]
    t_s, t_r = threshold if isinstance(threshold, list) else (threshold, threshold)
    panel.axvline(t_s, color="black", linewidth=1, linestyle="--")
    panel.axhline(t_r, color="black", linewidth=1, linestyle="--")
    panel.set(
        xlabel="sensibility", ylabel="rationality", xlim=(MIN_SCORE, MAX_SCORE), ylim=(MIN_SCORE, MAX_SCORE)
    )  # fmt: skip
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    return figure


def shares_figure(comparison: Comparison) -> Figure:
    """The share of each quadrant among the replies of every candidate and among the references."""
    from ee_trl.axes import QUADRANTS, TIE
    from ee_trl.reports.plane import COLOURS as QUADRANT_COLOURS

    entries: dict[str, Mapping[str, Any]] = {**comparison.models, REFERENCES: comparison.references}
    names = list(reversed(entries))
    figure = new_figure(7.2, 0.8 + 0.4 * len(names))
    panel = figure.add_subplot()
    left = [0.0] * len(names)
    for quadrant in (*QUADRANTS, TIE):
        shares = [100 * _known(entries[name]["numbers"].get(f"{quadrant}_share")) for name in names]
        panel.barh(range(len(names)), shares, left=left, color=QUADRANT_COLOURS[quadrant], label=quadrant)
        left = [a + b for a, b in zip(left, shares, strict=True)]
    panel.set_yticks(range(len(names)), [shown(name) for name in names])
    panel.set(xlim=(0, 100), xlabel="share of the replies, %")
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return figure


def emotions_figure(comparison: Comparison, number: str) -> Figure:
    """A number's mean by emotion, a dot for every candidate."""
    models = list(comparison.models)
    colours = colours_of(models)
    emotions = list(reversed(comparison.emotions))
    figure = new_figure(7.2, 1.2 + 0.2 * len(emotions))
    panel = figure.add_subplot()
    for model in models:
        means = [comparison.emotions[emotion]["models"][model].get(number, float("nan")) for emotion in emotions]
        panel.plot(means, range(len(emotions)), marker="o", markersize=4, linestyle="none", color=colours[model],
                   label=shown(model, 40))  # fmt: skip
    panel.set_yticks(range(len(emotions)), [shown(emotion) for emotion in emotions], fontsize=7)
    panel.set(xlabel=f"{number}, mean", ylim=(-0.6, len(emotions) - 0.4))
    panel.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=min(4, len(models)), frameon=False, fontsize=8)
    return figure


def _known(value: float | None) -> float:
    return 0.0 if value is None or value != value else value
