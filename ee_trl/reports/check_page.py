"""The report of a behavioural check: Markdown, JSON and a picture in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..display import Markup, Title, as_markdown
from ..files import write_json, write_text
from .check import BELOW, KEPT, BehaviourCheck
from .plane import new_figure, save_figure


if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = ("check.md", "check.json", "check.png")


def write_check(folder: Path, found: BehaviourCheck, **more: Any) -> Path:
    """Writes `check.md`, `check.json` (with what `more` names) and `check.png`; returns the path of the page."""
    page, data, picture = (folder / name for name in NAMES)
    draw_check(found, picture)
    write_json(data, {**found.to_dict(), **more})
    parts = [Title("Behavioural check"), *found.parts(), Markup(f"![Ranks and kept shares by kind]({picture.name})")]
    write_text(page, as_markdown(parts) + "\n")
    return page


def check_figure(panels: int = 2) -> Figure:
    """An empty figure; raises [`MissingExtraError`] where matplotlib is not installed."""
    return new_figure((6.5 * panels, 6), purpose="the picture of the check")


def draw_check(found: BehaviourCheck, path: Path) -> Path:
    """Draws for each kind of reply and each scorer the share ranked below the true reply, and the share kept."""
    chosen = [(part, name) for part in ("kinds", *(["data"] if found.dialogues else [])) for name in (BELOW, KEPT)]
    titles = {BELOW: "ranked below the true reply", KEPT: "in the sensibility or rationality set"}
    figure = check_figure(len(chosen))
    for axes, (part, name) in zip(figure.subplots(1, len(chosen)), chosen, strict=True):
        for i, (scorer, rows) in enumerate(found.scorers.items()):
            rows = {kind: row[name] for kind, row in rows[part].items() if row[name] and row[name]["interval"]}
            shares = [row["share"] for row in rows.values()]
            ends = [[abs(row["interval"][j] - row["share"]) for row in rows.values()] for j in (0, 1)]
            places = [place + (i - len(found.scorers) / 2) * 0.7 / len(found.scorers) for place in range(len(rows))]
            label = scorer.replace("$", r"\$")  # `$` would start a formula
            axes.errorbar(shares, places, xerr=ends, fmt="o", markersize=4, linewidth=1, label=label)
            axes.set_yticks(range(len(rows)), rows)
        axes.set(xlim=(-0.02, 1.02), xlabel="share (95 %)", title=f"{titles[name]}{' (data)' * (part == 'data')}")
        axes.invert_yaxis()
        axes.grid(axis="x", alpha=0.3)
    axes.legend(frameon=False, fontsize="small")
    return save_figure(figure, path)
