"""The pictures of a comparison, each as a matplotlib figure, from the entries of its candidates.

An entry maps `numbers` and `intervals` to numbers by name; a number that is not defined is missing or `None`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ee_trl.axes import AXES, MAX_SCORE, MIN_SCORE, QUADRANTS, TIE
from ee_trl.display import shortened
from ee_trl.reports.plane import COLOURS as QUADRANT_COLOURS
from ee_trl.reports.plane import new_figure


Figure = Any  # of matplotlib, which is optional
Entry = Mapping[str, Mapping[str, Any]]

COLOURS = ("#1d4ed8", "#c2410c", "#15803d", "#7e22ce", "#be123c", "#0e7490", "#a16207", "#4d7c0f")
REFERENCE_COLOUR = "#525252"
REFERENCES = "references"
PURPOSE = "a picture of the comparison"


def colours_of(names: Sequence[str]) -> dict[str, str]:
    """A colour for each candidate, and one for the references."""
    return {REFERENCES: REFERENCE_COLOUR, **{name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}}


def label(name: str, limit: int = 28) -> str:
    """A name that fits at an axis; `$` would start a formula."""
    return shortened(name, limit).replace("$", r"\$")


def numbers_figure(models: Mapping[str, Entry], references: Entry, names: Sequence[str]) -> Figure:
    """A panel for each number: every candidate's, with its interval; the references' as a dashed line."""
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure = new_figure((3.1 * columns, 0.9 * rows + 0.32 * len(models) * rows), PURPOSE)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, name in zip(panels, names, strict=False):
        _draw_number(panel, name, models, references["numbers"].get(name))
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    return figure


def _draw_number(panel: Any, name: str, models: Mapping[str, Entry], reference: float | None) -> None:
    colours = colours_of(list(models))
    for place, (model, entry) in enumerate(reversed(list(models.items()))):
        value, ends = entry["numbers"].get(name), entry["intervals"].get(name)
        if value is None:
            continue
        if ends and None not in ends:
            panel.plot(ends, [place, place], color=colours[model], linewidth=2, alpha=0.7)
        panel.plot([value], [place], marker="o", color=colours[model])
    if reference is not None:
        panel.axvline(reference, color=REFERENCE_COLOUR, linestyle="--", linewidth=1)
    panel.set_yticks(range(len(models)), [label(model) for model in reversed(list(models))])
    panel.set(ylim=(-0.6, len(models) - 0.4))
    panel.set_title(name, fontsize=10)
    panel.grid(alpha=0.3, axis="x")
    panel.tick_params(labelsize=8)
    low, high = panel.get_xlim()
    shown = [x for line in panel.get_lines() for x in line.get_xdata()]
    low = 0.0 if min(shown, default=0) >= 0 > low else low
    panel.set_xlim(low, max(high, low + 0.1))  # the tables show hundredths
    panel.ticklabel_format(axis="x", style="plain", useOffset=False)


def plane_figure(models: Mapping[str, Entry], references: Entry, threshold: Any) -> Figure:
    """The mean of every candidate and of the references on the score plane, with the threshold's lines."""
    figure = new_figure((6.4, 4.8), PURPOSE)
    panel = figure.add_subplot()
    colours = colours_of(list(models))
    for name, entry in {REFERENCES: references, **models}.items():
        x, y = (entry["numbers"].get(axis) for axis in AXES)
        if x is None or y is None:
            continue
        across, up = (entry["intervals"].get(axis) for axis in AXES)
        if across and up and None not in (*across, *up):
            panel.plot(across, [y, y], color=colours[name], alpha=0.6)
            panel.plot([x, x], up, color=colours[name], alpha=0.6)
        marker = "*" if name == REFERENCES else "o"
        panel.plot([x], [y], marker=marker, markersize=9, linestyle="none", color=colours[name], label=label(name, 40))
    t_s, t_r = threshold if isinstance(threshold, list) else (threshold, threshold)
    panel.axvline(t_s, color="black", linewidth=1, linestyle="--")
    panel.axhline(t_r, color="black", linewidth=1, linestyle="--")
    limits = (MIN_SCORE, MAX_SCORE)
    panel.set(xlabel=AXES[0], ylabel=AXES[1], xlim=limits, ylim=limits)
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    return figure


def shares_figure(models: Mapping[str, Entry], references: Entry) -> Figure:
    """The share of each quadrant among the replies of every candidate and among the references."""
    entries = {**models, REFERENCES: references}
    names = list(reversed(entries))
    figure = new_figure((7.2, 0.8 + 0.4 * len(names)), PURPOSE)
    panel = figure.add_subplot()
    left = [0.0] * len(names)
    for quadrant in (*QUADRANTS, TIE):
        shares = [100 * (entries[name]["numbers"].get(f"{quadrant}_share") or 0.0) for name in names]
        panel.barh(range(len(names)), shares, left=left, color=QUADRANT_COLOURS[quadrant], label=quadrant)
        left = [a + b for a, b in zip(left, shares, strict=True)]
    panel.set_yticks(range(len(names)), [label(name) for name in names])
    panel.set(xlim=(0, 100), xlabel="share of the replies, %")
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return figure


def emotions_figure(emotions: Mapping[str, Any], models: Sequence[str], number: str) -> Figure:
    """A number's mean by emotion, a dot for every candidate."""
    colours = colours_of(models)
    names = list(emotions)[::-1]
    figure = new_figure((7.2, 1.2 + 0.2 * len(names)), PURPOSE)
    panel = figure.add_subplot()
    for model in models:
        means = [emotions[name]["models"][model].get(number) for name in names]
        known = [float("nan") if mean is None else mean for mean in means]
        style: dict[str, Any] = {"marker": "o", "markersize": 4, "linestyle": "none", "color": colours[model]}
        panel.plot(known, range(len(names)), label=label(model, 40), **style)
    panel.set_yticks(range(len(names)), [label(name) for name in names], fontsize=7)
    panel.set(xlabel=f"{number}, mean", ylim=(-0.6, len(names) - 0.4))
    panel.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=min(4, len(models)), frameon=False, fontsize=8)
    return figure
