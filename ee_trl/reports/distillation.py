"""The report and the card of a distilled scorer: Markdown, JSON and a picture, with all that the numbers depend on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..axes import AXES, MAX_SCORE, MIN_SCORE, QUADRANTS
from ..display import Table, as_markdown, number, percent, with_interval
from ..errors import require
from ..files import write_json, write_text
from ..selection import sweep
from .agreement import CLASSES
from .markdown import _cell, _table
from .plane import COLOURS, save_figure
from .rubric import rubric_parts


if TYPE_CHECKING:
    import numpy as np

NAMES = ("report.md", "report.json", "report.png", "README.md")
"""The files of a report; the last is the card that a hub shows."""


def shares_by_threshold(scores: np.ndarray, predicted: np.ndarray, ties: str) -> list[dict[str, Any]]:
    """For each T from 3 to 7 the share of each quadrant by the judge and by the distilled scorer."""
    judge, ours = (sweep(found[:, 0], found[:, 1], range(3, 8), ties) for found in (scores, predicted))
    return [
        {
            "threshold": by_judge["threshold"],
            **{q: {"judge": by_judge[f"{q}_share"], "distilled": by_us[f"{q}_share"]} for q in QUADRANTS},
        }
        for by_judge, by_us in zip(judge, ours, strict=True)
    ]


def write_distillation(folder: Path, report: Mapping[str, Any], scores: np.ndarray, predicted: np.ndarray) -> Path:
    """
    Writes `report.md`, `report.json`, `report.png` and the card `README.md`.

    Args:
        folder (`Path`): The scorer's.
        report (`Mapping`): What [`ee_trl.distill`] found.
        scores (`np.ndarray` of shape `(m, 2)`): The judge's, of the samples that were held out.
        predicted (`np.ndarray` of shape `(m, 2)`): The distilled scorer's.

    Returns:
        `Path` of `report.md`.
    """
    draw_distillation(report, scores, predicted, folder / "report.png")
    write_json(folder / "report.json", report)
    body = "\n\n".join([_agreement_part(report), _shares_part(report), *_curve_parts(report), _cost_part(report)])
    if report["rubric"]:
        body += "\n\n## The rubric\n\n" + as_markdown(rubric_parts(report["rubric"]))
    write_text(folder / "report.md", f"# Distillation of a judge\n\n{_origin_part(report)}\n\n{body}\n")
    write_text(folder / "README.md", _card(report, body))
    return folder / "report.md"


def report_text(report: Mapping[str, Any]) -> str:
    """The report for a terminal."""
    found, cost = report["agreement"], report["cost"]
    axes = ", ".join(f"{axis} {number(found['axes'][axis]['spearman'])}" for axis in AXES)
    three = found["three_way"]
    return "\n".join(
        [
            f"{report['encoder']} distilled from {report['samples']:,} judged samples; {_split(report)}",
            f"  Spearman        {axes}",
            f"  three-way       agreement {percent(three['agreement'])}, kappa "
            f"{with_interval(three['kappa'], three['kappa_interval'])}, "
            f"at T = {' and '.join(f'{t:g}' for t in found['threshold'])}",
            f"  encoder alone   Spearman {' / '.join(number(report['encoder_alone']['spearman'][a]) for a in AXES)}, "
            f"kappa {number(report['encoder_alone']['kappa'])}",
            *(
                f"  {p['labels']:>6,} labels   Spearman {' / '.join(number(p['spearman'][a]) for a in AXES)}, "
                f"kappa {number(p['kappa'])}"
                for p in report["curve"]
            ),
            f"  {cost['seconds']:,.0f} s, {cost['samples_per_second']:,.0f} samples/s"
            + ("" if cost["cost"] is None else f", cost {cost['cost']:g}"),
        ]
    )


def report_parts(report: Mapping[str, Any]) -> Iterable[str | Table]:
    """The report for a notebook: agreement, shares by threshold, and agreement by number of labels."""
    yield f"{report['encoder']} distilled from {report['samples']:,} judged samples; {_split(report)}"
    yield Table(("agreement with the judge", "held out"), _agreement_rows(report))
    head = ("T, by the judge / by the distilled scorer", *QUADRANTS)
    yield Table(head, _share_rows(report))
    if report["curve"]:
        yield Table(_CURVE_HEAD, _curve_rows(report))


# ---- Markdown ------------------------------------------------------------------------------------------------------


def _split(report: Mapping[str, Any]) -> str:
    split = report["split"]
    if split["kind"] == "held out":
        return f"measured on {split['samples']:,} samples held out in whole conversations"
    return f"cross-validated in {split['folds']} folds of whole conversations"


def _origin_part(report: Mapping[str, Any]) -> str:
    judges = ", ".join(f"`{_cell(judge)}`" for judge in report["judges"])
    options = ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in report["options"].items()
        if not isinstance(value, Mapping)
    )
    left = f" ({report['left_out']:,} rows without a dialogue or scores left out)" if report["left_out"] else ""
    return (
        f"`{_cell(report['encoder'])}` ({report['parameters']:,} parameters), fitted to {report['samples']:,} samples "
        f"of {report['conversations']:,} conversations{left}, judged by {judges}. {options}; "
        f"inputs {report['options']['inputs']}."
    )


def _agreement_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = report["agreement"]
    three = found["three_way"]
    rows = [
        (f"Spearman, {axis}", with_interval(row["spearman"], row["spearman_interval"]))
        for axis, row in found["axes"].items()
    ]
    rows += [
        (f"mean absolute difference, {axis}", number(row["mean_absolute_difference"]))
        for axis, row in found["axes"].items()
    ]
    rows += [
        (f"same of three classes ({', '.join(CLASSES)})", percent(three["agreement"])),
        ("Cohen's kappa on these", with_interval(three["kappa"], three["kappa_interval"])),
    ]
    alone = report["encoder_alone"]
    if report["options"]["words"]:
        rows.append(
            (
                "the encoder without the words: Spearman, kappa",
                f"{' / '.join(number(alone['spearman'][a]) for a in AXES)}, {number(alone['kappa'])}",
            )
        )
    return rows


def _agreement_part(report: Mapping[str, Any]) -> str:
    found = report["agreement"]
    folds = [
        f"Fold {n}: Spearman {' / '.join(number(row['spearman'][a]) for a in AXES)}, kappa {number(row['kappa'])}."
        for n, row in enumerate(report["by_fold"], start=1)
    ]
    return (
        f"## Agreement with the judge\n\n{_split(report).capitalize()}; none was seen by the "
        f"fit or the calibration that predicted it. T = {' and '.join(f'{t:g}' for t in found['threshold'])}, ties: "
        f"{found['ties']}. In brackets 95 % bootstrap intervals.\n\n"
        + _table(("", "held out"), _agreement_rows(report))
        + ("\n\n" + " ".join(folds) if folds else "")
        + "\n\n![The judge against the distilled scorer, and the shares by T](report.png)"
    )


def _share_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (f"{row['threshold']:g}", *(f"{percent(row[q]['judge'])} / {percent(row[q]['distilled'])}" for q in QUADRANTS))
        for row in report["shares"]
    ]


def _shares_part(report: Mapping[str, Any]) -> str:
    return "## What a threshold keeps\n\nShare of each quadrant, by the judge / by the distilled scorer:\n\n" + _table(
        ("T", *QUADRANTS), _share_rows(report)
    )


_CURVE_HEAD = ("judged samples", *(f"Spearman, {axis}" for axis in AXES), "three-way agreement", "kappa")


def _curve_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (f"{p['labels']:,}", *(number(p["spearman"][a]) for a in AXES), percent(p["agreement"]), number(p["kappa"]))
        for p in report["curve"]
    ]


def _curve_parts(report: Mapping[str, Any]) -> list[str]:
    if not report["curve"]:
        return []
    return ["## Agreement by number of judged samples\n\n" + _table(_CURVE_HEAD, _curve_rows(report))]


def _cost_part(report: Mapping[str, Any]) -> str:
    cost = report["cost"]
    fits = "; ".join(f"{name}: {seconds:,.0f} s" for name, seconds in cost["fit_seconds"].items())
    price = (
        "no price was given"
        if cost["cost"] is None
        else f"{cost['cost']:g} at {cost['price_per_hour']:g} an hour, the judge's labels not counted"
    )
    return (
        f"## Time and cost\n\n{cost['seconds']:,.0f} seconds in all (fits to {fits}); {cost['judge_labels']:,} labels "
        f"of the judge; scores {cost['samples_per_second']:,.0f} samples a second on the same machine. Cost: {price}."
    )


_CARD = """\
---
library_name: transformers
pipeline_tag: text-classification
{base}tags:
- empathy
- dialogue
- data-selection
- ee-trl
---

# An empathy scorer, distilled from a judge

Scores a listener's reply on *sensibility* and *rationality*, 0 to 10, in the place of a judge. {origin}

```py
from ee_trl import EmpathyDataSelector

selector = EmpathyDataSelector("THIS_REPOSITORY_OR_FOLDER")
scored = selector.score("dialogues.parquet")
```

The model's raw outputs are no scores: `empathy_scorer.json` says how a dialogue is read and how outputs become scores.
It knows what its judge's scores of these samples taught it, and shares that judge's mistakes; on other kinds of
dialogue measure it first: `ee-trl agreement judged.parquet given THIS_FOLDER`. Rights in the encoder, the dialogues
and the judge's scores bind this model too.

{body}
"""


def _card(report: Mapping[str, Any], body: str) -> str:
    base = f"base_model: {report['encoder']}\n" if "/" in report["encoder"] else ""
    return _CARD.format(base=base, origin=_origin_part(report), body=body)


# ---- picture -------------------------------------------------------------------------------------------------------


def draw_distillation(report: Mapping[str, Any], scores: np.ndarray, predicted: np.ndarray, path: Path) -> Path:
    """Draws scores by the judge against the distilled ones on each axis, shares by T, and the learning curve."""
    module: Any = require("matplotlib.figure", extra="report", purpose="the picture of the distillation")
    panels = 3 + bool(report["curve"])
    figure = module.Figure(figsize=(5 * panels, 4.6), layout="constrained")
    places = figure.subplots(1, panels)
    for i, axis in enumerate(AXES):
        _draw_axis(places[i], scores[:, i], predicted[:, i], axis, report)
    _draw_shares(places[2], report)
    if report["curve"]:
        _draw_curve(places[3], report)
    return save_figure(figure, path)


def _draw_axis(axes: Any, judge: np.ndarray, ours: np.ndarray, axis: str, report: Mapping[str, Any]) -> None:
    import numpy as np

    whole = np.round(judge).astype(int)
    values = [ours[whole == v] for v in range(int(MAX_SCORE) + 1)]
    there = [v for v, found in enumerate(values) if len(found)]
    axes.boxplot([values[v] for v in there], positions=there, widths=0.6, showfliers=False, whis=(5, 95))
    axes.plot([MIN_SCORE, MAX_SCORE], [MIN_SCORE, MAX_SCORE], color="grey", linewidth=0.8)
    axes.axhline(report["agreement"]["threshold"][AXES.index(axis)], color="black", linewidth=1, linestyle="--")
    limits = (MIN_SCORE - 0.5, MAX_SCORE + 0.5)
    axes.set(
        xlabel=f"{axis} by the judge", ylabel="distilled (median, quartiles, 5 to 95 %)", xlim=limits, ylim=limits
    )
    axes.set_title(f"{axis}: Spearman {number(report['agreement']['axes'][axis]['spearman'])}")


def _draw_shares(axes: Any, report: Mapping[str, Any]) -> None:
    grid = [row["threshold"] for row in report["shares"]]
    for name in QUADRANTS:
        axes.plot(grid, [row[name]["judge"] for row in report["shares"]], color=COLOURS[name], label=name)
        axes.plot(grid, [row[name]["distilled"] for row in report["shares"]], color=COLOURS[name], linestyle="--")
    axes.set(xlabel="T", ylabel="share", ylim=(0, 1), title="judge (line) and distilled (dashed)")
    axes.legend(frameon=False)


def _draw_curve(axes: Any, report: Mapping[str, Any]) -> None:
    labels = [p["labels"] for p in report["curve"]]
    for axis in AXES:
        axes.plot(labels, [p["spearman"][axis] for p in report["curve"]], marker=".", label=f"Spearman, {axis}")
    axes.plot(labels, [p["kappa"] for p in report["curve"]], marker=".", label="kappa")
    axes.set(xlabel="judged samples", title="learning curve")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
