"""The report of an agreement: Markdown, JSON and a picture in a folder, with all that the numbers depend on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..axes import AXES, MAX_SCORE, MIN_SCORE
from ..data.dialogue import REASONS, SCORED
from ..errors import require
from ..files import write_json, write_text
from ..scoring.judge.rubric import Rubric
from .agreement import CELLS, CLASSES, Agreement, interval, number, percent
from .markdown import _cell, _table
from .plane import save_figure


if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = ("agreement.md", "agreement.json", "agreement.png")
"""The files of a report."""


@dataclass(frozen=True)
class Side:
    """
    One of the two that are compared.

    Args:
        name (`str`): What the user called it.
        fingerprint (`str`): Of the scorer, or of what made a file's scores; `"given"` if nobody knows.
        scores (`np.ndarray` of shape `(n, 2)`): Sensibility and rationality, NaN where unscored.
        status (`Sequence[str]`): `"scored"` or the reason why not, for each sample.
        rubric ([`Rubric`], *optional*): What a judge was asked.
        injection (`dict`, *optional*): What [`~ee_trl.reports.injection.injection_shift`] gave.
    """

    name: str
    fingerprint: str
    scores: np.ndarray
    status: Sequence[str]
    rubric: Rubric | None = None
    injection: dict[str, Any] | None = None

    def unscored(self) -> dict[str, int]:
        """Reason -> count, most frequent first."""
        return dict(Counter(str(s) for s in self.status if s != SCORED).most_common())

    def to_dict(self) -> dict[str, Any]:
        """What it is, without its scores."""
        rubric = self.rubric and {
            "name": self.rubric.name, "fingerprint": self.rubric.fingerprint, "text": self.rubric.text
        }  # fmt: skip
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "unscored": self.unscored(),
            "rubric": rubric,
            "injection": self.injection,
        }


def report_dict(dataset: str, a: Side, b: Side, found: Agreement) -> dict[str, Any]:
    """The report for machines."""
    return {"dataset": dataset, "a": a.to_dict(), "b": b.to_dict(), "agreement": found.to_dict()}


def report_text(dataset: str, a: Side, b: Side, found: Agreement) -> str:
    """The report for a terminal."""
    lines = [f"{dataset}: A = {a.name} ({a.fingerprint}), B = {b.name} ({b.fingerprint})", str(found)]
    for letter, side in (("A", a), ("B", b)):
        lines += [f"  unscored by {letter}: {n:,} {why}" for why, n in side.unscored().items()]
        if side.injection:
            of_all = side.injection["families"]["all"]
            nets = ", ".join(f"{axis} {number(of_all[axis]['net_mean'], sign=True)}" for axis in AXES)
            lines += ["", f"prompt injection moves {letter} by {nets} on average, net of neutral text"]
    return "\n".join(lines)


def write_agreement(folder: Path, dataset: str, a: Side, b: Side, found: Agreement, **more: Any) -> Path:
    """
    Writes `agreement.md`, `agreement.json` and `agreement.png`.

    Args:
        folder (`Path`): Where to; it is made.
        dataset (`str`): What the samples are called.
        a, b ([`Side`]): Who was compared.
        found ([`Agreement`]): Of their scores.
        more: Further entries of the JSON file, e.g. `versions`.

    Returns:
        `Path` of `agreement.md`.

    Raises:
        [`MissingExtraError`]: matplotlib is not installed.
    """
    page, data, picture = (folder / name for name in NAMES)
    draw_agreement(a, b, found, picture)
    write_json(data, {**report_dict(dataset, a, b, found), **more})
    write_text(page, markdown(dataset, a, b, found))
    return page


# ---- Markdown ------------------------------------------------------------------------------------------------------


def markdown(dataset: str, a: Side, b: Side, found: Agreement) -> str:
    """The page; it expects the picture beside it."""
    parts = [
        "# Agreement of two scorers",
        _sides_part(dataset, a, b, found),
        _axes_part(found),
        _selection_part(found),
        *(_injection_part(letter, side) for letter, side in (("A", a), ("B", b)) if side.injection),
        *_rubric_parts(a, b),
    ]
    return "\n\n".join(parts) + "\n"


def _sides_part(dataset: str, a: Side, b: Side, found: Agreement) -> str:
    rows = [
        (letter, _cell(side.name), f"`{_cell(side.fingerprint)}`", str(sum(side.unscored().values())), _reasons(side))
        for letter, side in (("A", a), ("B", b))
    ]
    return (
        f"**{found.compared:,} of {found.samples:,} samples** of {_cell(dataset)} are scored by both and compared.\n\n"
        + _table(("", "scores", "fingerprint", "unscored", "reasons"), rows)
    )


def _reasons(side: Side) -> str:
    return "; ".join(f"{n:,} {why} ({REASONS.get(why, 'as the file says')})" for why, n in side.unscored().items())


def _axes_part(found: Agreement) -> str:
    rows = [
        (
            axis,
            f"{number(row['spearman'])} {interval(row['spearman_interval'])}".strip(),
            number(row["pearson"]),
            number(row["mean_shift"], sign=True),
            number(row["mean_absolute_difference"]),
        )
        for axis, row in found.axes.items()
    ]
    return (
        "## Scores\n\n"
        + _table(("axis", "Spearman", "Pearson", "mean shift, B - A", "mean absolute difference"), rows)
        + f"\n\nIn brackets, here and below: 95 % bootstrap interval ({found.resamples:,} resamples, seed {found.seed}"
        "). Shift and difference are in points of [0, 10].\n\n![A against B, and the quadrants](agreement.png)"
    )


def _selection_part(found: Agreement) -> str:
    t_s, t_r = found.threshold
    three = found.three_way
    facts = [
        ("fall into another quadrant", percent(found.changed)),
        ("enter the sensibility set", f"{percent(found.entered['share'])} ({found.entered['count']:,})"),
        ("leave the sensibility set", f"{percent(found.left['share'])} ({found.left['count']:,})"),
        (f"same of three classes ({', '.join(CLASSES)})", percent(three["agreement"])),
        ("Cohen's kappa on these", f"{number(three['kappa'])} {interval(three['kappa_interval'])}".strip()),
    ]
    cross = [(name, *(f"{n:,}" for n in row.values())) for name, row in found.quadrants.items()]
    return "\n\n".join(
        [
            "## Selection",
            f"T = {t_s:g} (sensibility) and {t_r:g} (rationality), ties: {found.ties}. From A to B:",
            _table(("", "samples compared"), facts),
            "Quadrants by A (down) and by B (across), in samples:",
            _table(("A \\ B", *CELLS), cross),
        ]
    )


def _injection_part(letter: str, side: Side) -> str:
    shift: Mapping[str, Any] = side.injection or {}
    keys = ("mean", "largest", "net_mean", "net_largest")
    rows = [
        (
            name,
            str(entry["attacks"]),
            str(entry["unscored"]),
            *(" / ".join(number(entry[axis][key], sign=True) for axis in AXES) for key in keys),
        )
        for name, entry in shift["families"].items()
    ]
    head = ("family", "attacks", "unscored", "mean shift, S / R", "largest", "net mean", "net largest")
    return (
        f"## Prompt injection: {letter}\n\n{shift['attacks']} attacks on each of {shift['dialogues']} dialogues "
        f"({shift['unscored_clean']} of them without a score in the first place). Shift: attacked minus clean, in "
        "points; net: attacked minus neutral text of the same length in the same place.\n\n" + _table(head, rows)
    )


def _rubric_parts(a: Side, b: Side) -> list[str]:
    """Each rubric in full, once."""
    users: dict[Rubric, list[str]] = {}
    for letter, side in (("A", a), ("B", b)):
        if side.rubric:
            users.setdefault(side.rubric, []).append(letter)
    return [
        f"## The rubric of {' and '.join(letters)}: `{rubric.fingerprint}`\n\n{_fenced(rubric.text)}"
        for rubric, letters in users.items()
    ]


def _fenced(text: str) -> str:
    """A code block that nothing in the text can end."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}text\n{text}\n{fence}"


# ---- picture -------------------------------------------------------------------------------------------------------


def check_picture_library() -> None:
    """Raises [`MissingExtraError`] unless the picture can be drawn."""
    _figure_module()


def _figure_module() -> Any:
    return require("matplotlib.figure", extra="report", purpose="the picture of the agreement")


def draw_agreement(a: Side, b: Side, found: Agreement, path: Path) -> Path:
    """Draws A's scores against B's on each axis, with T, and the cross table of quadrants as a heat map."""
    import numpy as np

    figure = _figure_module().Figure(figsize=(16, 4.8), layout="constrained")
    panels = figure.subplots(1, 3)
    both = ~(np.isnan(a.scores).any(axis=1) | np.isnan(b.scores).any(axis=1))
    for i, axis in enumerate(AXES):
        _draw_axis(figure, panels[i], a.scores[both, i], b.scores[both, i], axis, found)
    _draw_cross_table(panels[2], found)
    figure.suptitle(f"A: {_short(a.name)}    B: {_short(b.name)}    {found.compared:,} samples")
    return save_figure(figure, path)


def _short(name: str, limit: int = 60) -> str:
    """A name that fits a title; `$` would start a formula."""
    name = name if len(name) <= limit else "…" + name[-limit + 1 :]
    return name.replace("$", r"\$")


def _draw_axis(figure: Figure, axes: Axes, a: np.ndarray, b: np.ndarray, axis: str, found: Agreement) -> None:
    import numpy as np
    from matplotlib.colors import LogNorm

    edges = np.arange(MIN_SCORE - 0.25, MAX_SCORE + 0.5, 0.5)
    counts, _, _ = np.histogram2d(b, a, bins=(edges, edges))
    if len(a):
        mesh = axes.pcolormesh(edges, edges, np.ma.masked_equal(counts, 0), cmap="YlOrBr", norm=LogNorm(vmin=1))
        figure.colorbar(mesh, ax=axes, label="samples (log scale)")
    t = found.threshold[AXES.index(axis)]
    axes.axvline(t, color="black", linewidth=1, linestyle="--")
    axes.axhline(t, color="black", linewidth=1, linestyle="--")
    axes.plot([MIN_SCORE, MAX_SCORE], [MIN_SCORE, MAX_SCORE], color="grey", linewidth=0.8)
    limits = (edges[0], edges[-1])
    axes.set(xlabel=f"{axis} by A", ylabel=f"{axis} by B", xlim=limits, ylim=limits, aspect="equal")
    axes.set_title(f"{axis}: Spearman {number(found.axes[axis]['spearman'])}")


def _draw_cross_table(axes: Axes, found: Agreement) -> None:
    import numpy as np

    table = np.array([list(row.values()) for row in found.quadrants.values()])
    axes.imshow(table, cmap="Blues")
    for (i, j), n in np.ndenumerate(table):
        axes.text(j, i, f"{n:,}", ha="center", va="center", color="white" if n > table.max() / 2 else "black")
    axes.set_xticks(range(len(CELLS)), CELLS, rotation=30)
    axes.set_yticks(range(len(CELLS)), CELLS)
    axes.set(xlabel="quadrant by B", ylabel="quadrant by A")
    axes.set_title(f"kappa {number(found.three_way['kappa'])} on {len(CLASSES)} classes")
