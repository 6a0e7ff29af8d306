"""Pictures of the score plane: where the samples lie, what a threshold selects, and how the shares change with it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..axes import AXES, QUADRANTS, RATIONALITY, SENSIBILITY, TIE, Threshold, thresholds
from ..display import Markup
from ..errors import check_choice, require
from ..selection import coded_quadrants


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PICTURES = (".png", ".svg", ".pdf")
COLOURS = {"sensibility": "#c2410c", "rationality": "#1d4ed8", "balanced": "#7e22ce", "low": "#525252", TIE: "#a3a3a3"}


def plot_plane(
    sensibility: ArrayLike, rationality: ArrayLike, threshold: Threshold, path: str | os.PathLike[str]
) -> Path:
    """Draws how many samples lie where on the score plane, with the threshold's lines and each quadrant's share."""
    figure = new_figure((6.4, 5.2))
    _draw_plane(figure, figure.add_subplot(), sensibility, rationality, threshold)
    return save_figure(figure, path)


def plot_sweep(
    sensibility: ArrayLike, rationality: ArrayLike, rows: Sequence[dict[str, Any]], path: str | os.PathLike[str]
) -> Path:
    """Draws the score plane beside the share of each quadrant by threshold (`rows` of [`~ee_trl.selection.sweep`])."""
    figure = new_figure((11.5, 4.8))
    left, right = figure.subplots(1, 2)
    middle = rows[len(rows) // 2]["threshold"] if rows else 5.0
    _draw_plane(figure, left, sensibility, rationality, middle)
    for name in (*QUADRANTS, TIE):
        shares = [100 * row[f"{name}_share"] for row in rows]
        right.plot([row["threshold"] for row in rows], shares, marker="o", label=name, color=COLOURS[name])
    right.set(
        xlabel="threshold T", ylabel="share of the scored samples, %", ylim=(0, None), title="Shares by threshold"
    )
    right.grid(alpha=0.3)
    right.legend(frameon=False)
    return save_figure(figure, path)


def plot_replies(
    replies: Mapping[str, Sequence[Mapping[str, Any]]], threshold: Threshold, path: str | os.PathLike[str]
) -> Path:
    """Draws the replies of each model on the score plane; a line leads from one model's reply to the next model's."""
    figure = new_figure((6.4, 5.2))
    axes = figure.add_subplot()
    draw_thresholds(axes, *thresholds(threshold))
    points = {name: [tuple(one[axis] for axis in AXES) for one in found] for name, found in replies.items()}
    for way in zip(*points.values(), strict=True):
        if all(value is not None for point in way for value in point):
            axes.plot(*zip(*way, strict=True), color=COLOURS[TIE], linewidth=0.8, zorder=1)
    for (name, found), colour in zip(points.items(), (COLOURS["low"], *COLOURS.values()), strict=False):
        scored = [point for point in found if None not in point]
        axes.scatter(*zip(*scored, strict=True) if scored else ((), ()), color=colour, label=name)
    axes.set(xlabel=SENSIBILITY, ylabel=RATIONALITY, xlim=(0, 10), ylim=(0, 10), aspect="equal")
    axes.legend(frameon=False)
    return save_figure(figure, path)


def _draw_plane(
    figure: Figure, axes: Axes, sensibility: ArrayLike, rationality: ArrayLike, threshold: Threshold
) -> None:
    s, r = np.asarray(sensibility, float), np.asarray(rationality, float)
    scored = ~(np.isnan(s) | np.isnan(r))
    draw_density(figure, axes, s[scored], r[scored], label="samples (log scale)")
    t_s, t_r = thresholds(threshold)
    draw_thresholds(axes, t_s, t_r)
    where = coded_quadrants(s, r, threshold)
    draw_shares(axes, {name: where.is_(name).sum() / max(scored.sum(), 1) for name in QUADRANTS})
    axes.set_title(f"{scored.sum():,} samples, T = {t_s:g}" + ("" if t_s == t_r else f" / {t_r:g}"))


def draw_density(
    figure: Figure, axes: Axes, sensibility: np.ndarray, rationality: np.ndarray, *, label: str, counts: Any = None
) -> None:
    """Draws how many samples, or the sum of their `counts`, lie in each half point of the score plane, without NaN."""
    from matplotlib.colors import LogNorm

    edges = np.arange(-0.25, 10.5, 0.5)
    found, _, _ = np.histogram2d(rationality, sensibility, bins=(edges, edges), weights=counts)
    if found.any():
        mesh = axes.pcolormesh(edges, edges, np.ma.masked_equal(found, 0), cmap="YlOrBr", norm=LogNorm(vmin=1))
        figure.colorbar(mesh, ax=axes, label=label)
    limits = (edges[0], edges[-1])
    axes.set(xlabel="sensibility", ylabel="rationality", xlim=limits, ylim=limits, aspect="equal")


def draw_thresholds(axes: Axes, x: float, y: float) -> None:
    """Draws a dashed line at each of two thresholds."""
    for draw, t in ((axes.axvline, x), (axes.axhline, y)):
        draw(t, color="black", linewidth=1, linestyle="--")


def draw_shares(axes: Axes, shares: Mapping[str, float]) -> None:
    """Writes each quadrant's share into its corner of the score plane."""
    corners = {SENSIBILITY: (0.97, 0.03), RATIONALITY: (0.03, 0.97), "balanced": (0.97, 0.97), "low": (0.03, 0.03)}
    box = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 2}
    for name, (x, y) in corners.items():
        place: dict[str, Any] = {"ha": "right" if x > 0.5 else "left", "va": "top" if y > 0.5 else "bottom"}
        text = f"{name} {shares[name]:.1%}"
        axes.text(x, y, text, transform=axes.transAxes, color=COLOURS[name], weight="bold", bbox=box, **place)


def plot_loss(log_history: Sequence[dict[str, Any]], path: str | os.PathLike[str]) -> Path:
    """Draws the training loss (and evaluation loss, if there is any) of a Trainer's `log_history` by step."""
    figure = new_figure((6.4, 3.2))
    axes = figure.add_subplot()
    for key, label in (("loss", "training"), ("eval_loss", "evaluation")):
        points = [(entry["step"], entry[key]) for entry in log_history if key in entry]
        if points:
            axes.plot(*zip(*points, strict=True), marker=".", label=label)
    axes.set(xlabel="step", ylabel="loss, nats per token")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(frameon=False)
    return save_figure(figure, path)


def new_figure(size: tuple[float, float], purpose: str = "the picture of the score plane") -> Figure:
    """An empty figure of a size in inches; raises [`MissingExtraError`] where matplotlib is not installed."""
    module = require("matplotlib.figure", extra="report", purpose=purpose)
    return module.Figure(figsize=size, layout="constrained")


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Writes a figure to a file that ends in one of [`PICTURES`]; makes its folder."""
    path = Path(path)
    check_choice("picture format", path.suffix.lower(), PICTURES)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140)
    return path


def picture_line(name: str | None, title: str) -> Markup:
    """A picture in Markdown; without a name, how to get pictures."""
    return Markup(f"![{title}]({name})" if name else "(No picture: `pip install 'ee-trl[report]'` adds them.)")
