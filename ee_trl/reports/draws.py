"""The report of what a policy drew: over time, in the score plane, how often, and how the loss changed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..axes import DEFAULT_THRESHOLD, QUADRANTS, TIE, UNSCORED, Threshold
from ..data.columns import Coded
from ..data.dialogue import SCORED
from ..data.samples import Scores
from ..data.tally import Tally
from ..display import Heading, Markup, Table, Title, as_markdown, number, percent
from ..errors import EmpathyError, MissingExtraError
from ..files import read_json, write_text
from ..scoring.warnings import score_warnings
from .plane import COLOURS, draw_density, draw_shares, new_figure, picture_line, save_figure


if TYPE_CHECKING:
    from matplotlib.axes import Axes

DRAWS, HISTORY = "empathy_draws.parquet", "empathy_history.json"
PAGE, PICTURE = "empathy_report.md", "empathy_draws.png"
NUMBERS = ("sensibility", "rationality", "draws", "mean_weight", "first_loss", "last_loss", "mean_loss")
COLUMNS = ("row", *NUMBERS, "quadrant")
GROUPS = (*QUADRANTS, TIE, UNSCORED)  # a sample's group: its quadrant, a tie, or unscored
ALL_COLOURS = COLOURS | {UNSCORED: "#d6d3d1"}


def write_draws_report(folder: str | os.PathLike[str]) -> Path:
    """
    Writes `empathy_report.md` and `empathy_draws.png` from the draws and the history that a training with a policy
    left in its folder. Without matplotlib the page has no picture and says what it needs.
    """
    folder = Path(folder)
    draws, history = read_draws(folder / DRAWS), read_history(folder / HISTORY)
    rows = by_quadrant(draws)
    name: str | None = PICTURE
    try:
        draw_draws(draws, rows, history, folder / PICTURE)
    except MissingExtraError:
        name = None
    parts = [
        Title("What was drawn"),
        _summary(draws["draws"]),
        *_quadrant_parts(rows),
        *_history_parts(history),
        picture_line(name, "what was drawn"),
    ]
    write_text(folder / PAGE, as_markdown(parts) + "\n")
    return folder / PAGE


def read_draws(path: Path) -> dict[str, np.ndarray]:
    """
    The columns of `empathy_draws.parquet`: numbers as float64, `quadrant` as str, `"unscored"` where null, and
    `flagged` as bool.
    """
    import pyarrow.parquet as pq

    table = pq.read_table(_there(path))
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise EmpathyError(f"{path} has no column {', '.join(missing)}; expected {', '.join(COLUMNS)}")
    found = {name: np.array(table.column(name).to_numpy(), dtype=np.float64) for name in NUMBERS}
    found["draws"] = np.nan_to_num(found["draws"])
    found["quadrant"] = np.array([name or UNSCORED for name in table.column("quadrant").to_pylist()], dtype=object)
    found["flagged"] = np.zeros(table.num_rows, dtype=bool)
    if "flagged" in table.column_names:
        found["flagged"][:] = table.column("flagged").to_pylist()
    unknown = set(found["quadrant"].tolist()) - set(GROUPS)
    if unknown:
        raise EmpathyError(f"{path} has quadrants {', '.join(sorted(unknown))}; expected {', '.join(GROUPS)}")
    return found


def read_history(path: Path) -> list[dict[str, Any]]:
    """The entries of `empathy_history.json`; samples without a quadrant are named `"unscored"`."""
    entries = read_json(_there(path))
    if not isinstance(entries, list) or not all({"step", "progress", "shares"} <= set(entry) for entry in entries):
        raise EmpathyError(f"{path} is not a list of entries with step, progress and shares; do not edit it by hand")
    for entry in entries:
        for key in ("shares", "quadrant_loss"):
            if entry.get(key) is not None:
                entry[key] = {name or UNSCORED: value for name, value in entry[key].items()}
    return entries


def _there(path: Path) -> Path:
    if not path.exists():
        raise EmpathyError(f"{path} is not there; a training with a policy writes it when it ends")
    return path


def by_quadrant(draws: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """
    What was drawn of each quadrant that has samples: `weight` is the mean over the draws, the losses (nats per token)
    are means over the samples `drawn` at least once; NaN where nothing was drawn.
    """
    rows = {}
    for name in GROUPS:
        inside = draws["quadrant"] == name
        if not inside.any():
            continue
        part = {key: column[inside] for key, column in draws.items()}
        drawn = part["draws"] > 0
        rows[name] = {
            "samples": int(inside.sum()),
            "drawn": int(drawn.sum()),
            "draws": float(part["draws"].sum()),
            "weight": _mean(part["mean_weight"][drawn], part["draws"][drawn]),
            **{loss: _mean(part[loss][drawn]) for loss in ("first_loss", "last_loss", "mean_loss")},
        }
    return rows


def draws_warnings(
    draws: Mapping[str, np.ndarray], threshold: Threshold = DEFAULT_THRESHOLD, ties: str = "drop"
) -> list[str]:
    """Why the scores by which samples were drawn may not be trusted, and how many samples have a flag."""
    total, flagged = len(draws["draws"]), int(draws["flagged"].sum())
    statuses = Coded(np.zeros(total, np.intp), (SCORED,))
    scores = Scores(draws["sensibility"], draws["rationality"], statuses, ())
    said = (
        f"{flagged:,} of {total:,} samples ({percent(flagged, total)}) have a flag, such as another language than the "
    )
    return [
        *([f"{said}scorer's. A policy that goes by scores does not draw them."] if flagged else []),
        *score_warnings(Tally([scores], threshold, ties)),
    ]


def _mean(values: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The mean of the values that are not NaN; NaN of none."""
    known = np.isfinite(values)
    if not known.any():
        return np.nan
    return float(np.average(values[known], weights=None if weights is None else weights[known]))


def _summary(times: np.ndarray) -> Markup:
    n, drawn, total = len(times), int((times > 0).sum()), times.sum()
    if not total:
        return Markup(f"**Nothing was drawn** of {n:,} samples.")
    return Markup(
        f"**{total:,.0f} draws of {drawn:,} different samples**, {drawn / n:.1%} of {n:,}; {n - drawn:,} were never "
        f"drawn. Each of those drawn was drawn {total / drawn:.1f} times on average, at most {times.max():,.0f} times."
    )


def _quadrant_parts(rows: Mapping[str, Mapping[str, float]]) -> list[str | Table]:
    n, total = sum(row["samples"] for row in rows.values()), sum(row["draws"] for row in rows.values())
    head = ("quadrant", "samples", "of all", "drawn", "draws", "of all draws", "draws a sample", "mean weight")
    lines = [
        (
            name,
            f"{row['samples']:,}",
            percent(row["samples"], n),
            f"{row['drawn']:,}",
            f"{row['draws']:,.0f}",
            percent(row["draws"], total),
            number(row["draws"] / row["samples"]),
            *(number(row[key]) for key in ("weight", "first_loss", "last_loss", "mean_loss")),
        )
        for name, row in rows.items()
    ]
    return [
        Heading("By quadrant"),
        Table((*head, "first loss", "last loss", "mean loss"), lines),
        "Losses are in nats per token: the loss of each sample at its first draw, at its last draw and the mean over "
        "its draws, averaged over the samples drawn. Where most samples are drawn once, first and last are nearly the "
        "same. The mean weight is the weight of the loss, averaged over the draws.",
    ]


def _history_parts(history: Sequence[Mapping[str, Any]], most: int = 9) -> list[str | Table]:
    if not history:
        return [Heading("Over the training"), "The history is empty: no draws were recorded by step."]
    names = _names_in(history, "shares")
    every = max(1, -(-(len(history) - 1) // (most - 1)))
    lines = [
        (
            f"{entry['step']:,}",
            f"{entry['progress']:.0%}",
            *(percent(entry["shares"].get(name, 0.0)) for name in names),
            number(entry.get("effective_sample_size"), ",.0f"),
            number(entry.get("mean_weight")),
        )
        for entry in [*history[:-1:every], history[-1]]
    ]
    return [
        Heading("Over the training"),
        "Shares are of the draws since the entry before. The effective sample size is the number of draws of equal "
        "weight that would be worth as much: (sum w)^2 / sum w^2 of the weights w.",
        Table(("step", "progress", *names, "effective sample size", "mean weight"), lines),
    ]


def _names_in(history: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    return [name for name in GROUPS if any(name in (entry.get(key) or {}) for entry in history)]


def draw_draws(
    draws: Mapping[str, np.ndarray],
    rows: Mapping[str, Mapping[str, float]],
    history: Sequence[Mapping[str, Any]],
    path: Path,
) -> Path:
    """Draws the four panels of the report."""
    figure = new_figure((11.5, 8.6), purpose="the picture of what was drawn")
    from matplotlib.patches import Patch  # it is there now

    (over_time, plane), (size, loss) = figure.subplots(2, 2)
    _draw_over_time(over_time, history)
    scored = np.isfinite(draws["sensibility"]) & np.isfinite(draws["rationality"]) & (draws["draws"] > 0)
    s, r, times = (draws[name][scored] for name in ("sensibility", "rationality", "draws"))
    draw_density(figure, plane, s, r, label="draws (log scale)", counts=times)
    total = max(draws["draws"].sum(), 1)
    draw_shares(plane, {name: rows[name]["draws"] / total if name in rows else 0.0 for name in QUADRANTS})
    plane.set(xlim=(-0.75, 10.75), ylim=(-1.25, 11.25))  # room for the shares beside the outermost scores
    plane.set_title(f"{draws['draws'].sum():,.0f} draws in the score plane")
    _draw_size(size, history)
    if _names_in(history, "quadrant_loss"):
        _draw_loss(loss, history)
    else:
        _draw_first_and_last(loss, rows)
    seen = {name for name in GROUPS if name in rows} | set(_names_in(history, "shares"))
    handles = [Patch(color=ALL_COLOURS[name], label=name) for name in GROUPS if name in seen]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(GROUPS), frameon=False)
    return save_figure(figure, path)


def _draw_over_time(axes: Axes, history: Sequence[Mapping[str, Any]]) -> None:
    names = _names_in(history, "shares")
    steps = [entry["step"] for entry in history]
    shares = [[100 * (entry["shares"].get(name) or 0.0) for entry in history] for name in names]
    if len(steps) > 1:
        axes.stackplot(steps, *shares, colors=[ALL_COLOURS[name] for name in names], alpha=0.85, linewidth=0)
        axes.set_xlim(steps[0], steps[-1])
    elif steps:
        bottom = 0.0
        for name, [share] in zip(names, shares, strict=True):
            axes.bar([str(steps[0])], [share], bottom=bottom, color=ALL_COLOURS[name], alpha=0.85, width=0.4)
            bottom += share
    axes.set(xlabel="step", ylabel="share of the draws, %", ylim=(0, 100), title="Draws by quadrant")
    _or_nothing(axes, bool(steps))


def _draw_size(axes: Axes, history: Sequence[Mapping[str, Any]]) -> None:
    sizes = _draw_line(axes, history, [entry.get("effective_sample_size") for entry in history], "#404040")
    top = 1.08 * max(sizes, default=0.0)
    axes.set(xlabel="step", ylabel="draws of equal weight", ylim=(0, top or 1), title="Effective sample size")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    _or_nothing(axes, bool(sizes))


def _draw_loss(axes: Axes, history: Sequence[Mapping[str, Any]]) -> None:
    for name in _names_in(history, "quadrant_loss"):
        losses = [(entry.get("quadrant_loss") or {}).get(name) for entry in history]
        _draw_line(axes, history, losses, ALL_COLOURS[name])
    axes.set(xlabel="step", ylabel="loss, nats per token", title="Training loss by quadrant")


def _draw_line(
    axes: Axes, history: Sequence[Mapping[str, Any]], values: Sequence[float | None], colour: str
) -> list[float]:
    """Draws a value by step, where it is known; returns the values drawn."""
    steps, numbers = np.array([entry["step"] for entry in history]), np.array(values, float)
    known = np.isfinite(numbers)
    axes.plot(steps[known], numbers[known], marker=".", color=colour)
    axes.grid(alpha=0.3)
    return numbers[known].tolist()


def _draw_first_and_last(axes: Axes, rows: Mapping[str, Mapping[str, float]]) -> None:
    drawn = [name for name in reversed(GROUPS) if name in rows and not np.isnan(rows[name]["first_loss"])]
    for place, name in enumerate(drawn):
        first, last = rows[name]["first_loss"], rows[name]["last_loss"]
        axes.plot([first, last], [place, place], color=ALL_COLOURS[name], linewidth=2)
        axes.plot([first], [place], marker="o", markerfacecolor="white", color=ALL_COLOURS[name])
        axes.plot([last], [place], marker="o", color=ALL_COLOURS[name])
    axes.set_yticks(range(len(drawn)), drawn)
    axes.set(xlabel="loss, nats per token", ylim=(-0.6, len(drawn) - 0.4))
    axes.set_title("Loss at the first (open) and last draw")
    axes.grid(alpha=0.3, axis="x")
    _or_nothing(axes, bool(drawn))


def _or_nothing(axes: Axes, there: bool) -> None:
    if not there:
        axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", va="center", color="#737373")
