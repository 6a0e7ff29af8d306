"""The report of an agreement: Markdown, JSON and a picture in a folder, with all that the numbers depend on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..axes import AXES, MAX_SCORE, MIN_SCORE
from ..data.dialogue import REASONS, SCORED
from ..display import Block, Code, Heading, Markup, Table, Title, as_markdown, as_text, number, shortened
from ..files import write_json, write_text
from ..scoring.judge.rubric import Rubric
from .agreement import CELLS, CLASSES, Agreement
from .check import check_parts
from .plane import draw_density, draw_thresholds, new_figure, save_figure


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = ("agreement.md", "agreement.json", "agreement.png")


@dataclass(frozen=True)
class Side:
    """One of the two that are compared: its name, scores of shape `(n, 2)`, and what made them."""

    name: str
    fingerprint: str  # `"given"` if nobody knows what made the scores
    scores: np.ndarray
    status: Sequence[str]  # of each sample: `"scored"`, or the reason why not
    rubric: Rubric | None = None
    injection: dict[str, Any] | None = None  # the result of `injection_shift`
    check: dict[str, Any] | None = None  # the scorers of a `BehaviourCheck`

    def unscored(self) -> dict[str, int]:
        """Reason -> count, most frequent first."""
        return dict(Counter(str(s) for s in self.status if s != SCORED).most_common())

    def to_dict(self) -> dict[str, Any]:
        """All but the scores, as plain types."""
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "unscored": self.unscored(),
            "rubric": self.rubric and {**asdict(self.rubric), "fingerprint": self.rubric.fingerprint},
            "injection": self.injection,
            "check": self.check,
        }


def report_dict(dataset: str, a: Side, b: Side, found: Agreement) -> dict[str, Any]:
    """The report for machines."""
    return {"dataset": dataset, "a": a.to_dict(), "b": b.to_dict(), "agreement": found.to_dict()}


def report_text(dataset: str, a: Side, b: Side, found: Agreement) -> str:
    """The report for a terminal."""
    return as_text(_parts(dataset, a, b, found))


def write_agreement(folder: Path, dataset: str, a: Side, b: Side, found: Agreement, **more: Any) -> Path:
    """Writes `agreement.md`, `agreement.json` and `agreement.png`."""
    page, data, picture = (folder / name for name in NAMES)
    draw_agreement(a, b, found, picture)
    write_json(data, {**report_dict(dataset, a, b, found), **more})
    write_text(page, markdown(dataset, a, b, found))
    return page


def markdown(dataset: str, a: Side, b: Side, found: Agreement) -> str:
    """The page; it expects the picture beside it."""
    rubrics: dict[Rubric, list[str]] = {}  # each is printed once
    for letter, side in (("A", a), ("B", b)):
        if side.rubric:
            rubrics.setdefault(side.rubric, []).append(letter)
    parts = [
        *_parts(dataset, a, b, found),
        f"Intervals are of {found.resamples:,} bootstrap resamples (seed {found.seed}).",
        Markup(f"![A against B, and the quadrants]({NAMES[2]})"),
    ]
    for rubric, letters in rubrics.items():
        parts += [Heading(f"The rubric of {' and '.join(letters)}: {rubric.fingerprint}"), Block(rubric.text)]
    return as_markdown(parts) + "\n"


def _parts(dataset: str, a: Side, b: Side, found: Agreement) -> list[str | Table]:
    sides = (("A", a), ("B", b))
    rows = [(letter, side.name, Code(side.fingerprint), _reasons(side)) for letter, side in sides]
    return [
        Title("Agreement of two scorers"),
        Table(("", "scores", "fingerprint", "unscored"), rows, f"On {dataset}:", texts=4),
        *found.parts(),
        *(part for letter, side in sides if side.injection for part in _injection_parts(letter, side.injection)),
        *(part for letter, side in sides if side.check for part in check_parts(side.check, f": {letter}")),
    ]


def _reasons(side: Side) -> str:
    return "; ".join(f"{n:,} {why} ({REASONS.get(why, 'as the file says')})" for why, n in side.unscored().items())


def _injection_parts(letter: str, shift: dict[str, Any]) -> list[str | Table]:
    keys = ("mean", "largest", "net_mean", "net_largest")
    rows = [
        (
            name,
            str(entry["attacks"]),
            str(entry["unscored"]),
            *(" / ".join(number(entry[axis][key], "+.2f") for axis in AXES) for key in keys),
        )
        for name, entry in shift["families"].items()
    ]
    return [
        Heading(f"Prompt injection: {letter}"),
        f"{shift['attacks']} attacks on each of {shift['dialogues']} dialogues; {shift['unscored_clean']} of these "
        "have no score even without an attack. Shift: attacked minus clean, in points; net: attacked minus neutral "
        "text of the same length in the same place.",
        Table(("family", "attacks", "unscored", "mean shift, S / R", "largest", "net mean", "net largest"), rows),
    ]


def agreement_figure() -> Figure:
    """An empty figure; raises [`MissingExtraError`] where matplotlib is not installed."""
    return new_figure((16, 4.8), purpose="the picture of the agreement")


def draw_agreement(a: Side, b: Side, found: Agreement, path: Path) -> Path:
    """Draws A's scores against B's on each axis, with T, and the cross table of quadrants as a heat map."""
    figure = agreement_figure()
    panels = figure.subplots(1, 3)
    both = ~(np.isnan(a.scores).any(axis=1) | np.isnan(b.scores).any(axis=1))
    for i, axis in enumerate(AXES):
        _draw_axis(figure, panels[i], a.scores[both, i], b.scores[both, i], axis, found)
    _draw_cross_table(panels[2], found)
    first, second = (shortened(side.name, 60).replace("$", r"\$") for side in (a, b))  # `$` would start a formula
    figure.suptitle(f"A: {first}    B: {second}    {found.compared:,} samples")
    return save_figure(figure, path)


def _draw_axis(figure: Figure, axes: Axes, a: np.ndarray, b: np.ndarray, axis: str, found: Agreement) -> None:
    draw_density(figure, axes, a, b, label="samples (log scale)")
    t = found.threshold[AXES.index(axis)]
    draw_thresholds(axes, t, t)
    axes.plot([MIN_SCORE, MAX_SCORE], [MIN_SCORE, MAX_SCORE], color="grey", linewidth=0.8)
    axes.set(xlabel=f"{axis} by A", ylabel=f"{axis} by B")
    axes.set_title(f"{axis}: Spearman {number(found.axes[axis]['spearman'])}")


def _draw_cross_table(axes: Axes, found: Agreement) -> None:
    table = np.array([list(row.values()) for row in found.quadrants.values()])
    axes.imshow(table, cmap="Blues")
    for (i, j), n in np.ndenumerate(table):
        axes.text(j, i, f"{n:,}", ha="center", va="center", color="white" if n > table.max() / 2 else "black")
    axes.set_xticks(range(len(CELLS)), CELLS, rotation=30)
    axes.set_yticks(range(len(CELLS)), CELLS)
    axes.set(xlabel="quadrant by B", ylabel="quadrant by A")
    axes.set_title(f"kappa {number(found.three_way['kappa'])} on {len(CLASSES)} classes")
