"""The report and the card of a distilled scorer, as Markdown, JSON and a picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import ModelCardData

from ..axes import AXES, MAX_SCORE, MIN_SCORE, QUADRANTS
from ..display import Code, Heading, Markup, Table, Title, as_markdown, number, percent, with_interval
from ..files import write_json, write_text
from ..reports.agreement import CLASSES
from ..reports.check import check_parts
from ..reports.licence import NON_COMMERCIAL, UNKNOWN, bundled_scorer, scorer_terms
from ..reports.plane import COLOURS, new_figure, save_figure
from ..reports.rubric import rubric_parts
from ..selection import sweep


REPORT, RECORD, PICTURE, CARD = "report.md", "report.json", "report.png", "README.md"
NAMES = (REPORT, RECORD, PICTURE, CARD)
"""The files of a report; the last is the card that the hub shows."""

_USE = """```py
from ee_trl import EmpathyDataSelector

selector = EmpathyDataSelector("THIS_REPOSITORY_OR_FOLDER")
scored = selector.score("dialogues.parquet")
```"""
_LIMITS = """\
The raw outputs of the model are not scores: `empathy_scorer.json` says how a dialogue is read and how outputs become
scores. The model learnt from its judge's scores of these samples and repeats that judge's mistakes. Measure it first
on other kinds of dialogue: `ee-trl agreement judged.parquet given THIS_FOLDER`. Rights in the encoder, the dialogues
and the judge's scores apply to this model too."""


def shares_by_threshold(scores: np.ndarray, predicted: np.ndarray, ties: str) -> list[dict[str, Any]]:
    """For each T from 3 to 7 the share of each quadrant, by the judge and by the distilled scorer."""
    judge, ours = (sweep(found[:, 0], found[:, 1], range(3, 8), ties) for found in (scores, predicted))
    return [
        {
            "threshold": by_judge["threshold"],
            **{q: {"judge": by_judge[f"{q}_share"], "distilled": by_us[f"{q}_share"]} for q in QUADRANTS},
        }
        for by_judge, by_us in zip(judge, ours, strict=True)
    ]


def write_distillation(folder: Path, report: Mapping[str, Any], scores: np.ndarray, predicted: np.ndarray) -> None:
    """Writes [`NAMES`] from the report, and the judge's and predicted scores `(m, 2)` of held-out samples."""
    draw_distillation(report, scores, predicted, folder / PICTURE)
    write_json(folder / RECORD, report)
    picture = Markup(f"![The judge against the distilled scorer, and the shares by T]({PICTURE})")
    rubric = [Heading("The rubric"), *rubric_parts(report["rubric"])] if report["rubric"] else []
    parts = [*report_parts(report), picture, *rubric]
    write_text(folder / REPORT, as_markdown([Title("Distillation of a judge"), *parts]) + "\n")
    encoder = report["encoder"]
    head = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-classification",
        base_model=encoder if "/" in encoder else None,
        license=NON_COMMERCIAL if bundled_scorer(report["judges"]) else UNKNOWN,
        tags=["empathy", "dialogue", "data-selection", "ee-trl"],
    )
    card = [
        Markup(f"---\n{head.to_yaml()}\n---"),
        Title("An empathy scorer, distilled from a judge"),
        Markup("Scores a listener's reply on *sensibility* and *rationality*, 0 to 10, in the place of a judge."),
        *map(Markup, filter(None, (_USE, _LIMITS, scorer_terms(report["judges"])))),
        *parts,
    ]
    write_text(folder / CARD, as_markdown(card) + "\n")


def report_parts(report: Mapping[str, Any]) -> Iterator[str | Table]:
    """The fit, the agreement, the shares by threshold, the learning curve, and the cost."""
    yield Table(("distilled scorer", ""), list(_origin(report)))
    yield Heading("Agreement with the judge")
    found = report["agreement"]
    yield (
        f"{_split(report).capitalize()}. No fit and no calibration saw the samples that it predicts here. "
        f"T = {' and '.join(f'{t:g}' for t in found['threshold'])}, ties: {found['ties']}. In brackets 95 % bootstrap "
        "intervals."
    )
    yield Table(("agreement with the judge", "held out"), list(_agreement(report)))
    yield Heading("What a threshold keeps")
    rows = [
        (
            f"{row['threshold']:g}",
            *(f"{percent(row[q]['judge'])} / {percent(row[q]['distilled'])}" for q in QUADRANTS),
        )
        for row in report["shares"]
    ]
    yield Table(("T", *QUADRANTS), rows, "Share of each quadrant, by the judge / by the distilled scorer")
    if told := report.get("appropriateness"):
        yield Heading("Replies that do not fit their context")
        yield (
            f"{percent(told['false_flags'])} of {told['true']:,} held-out true replies are flagged. The made replies "
            "are to held-out contexts too."
        )
        rows = [
            (kind, f"{row['made']:,}", number(row["auc"]), percent(row["flagged"]))
            for kind, row in told["kinds"].items()
        ]
        yield Table(("made reply", "made", "AUC against true replies", "flagged"), rows)
    yield from check_parts(report["check"])
    if report["curve"]:
        yield Heading("Agreement by number of judged samples")
        head = ("judged samples", *(f"Spearman, {axis}" for axis in AXES), "three-way agreement", "kappa")
        yield Table(head, [(f"{point['labels']:,}", *_summary(point)) for point in report["curve"]])
    yield Heading("Time and cost")
    yield Table(("on this machine", ""), list(_cost(report["cost"])))


def _split(report: Mapping[str, Any]) -> str:
    split = report["split"]
    if split["kind"] == "held out":
        return f"measured on {split['samples']:,} samples held out in whole conversations"
    return f"cross-validated in {split['folds']} folds of whole conversations"


def _origin(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    options = report["options"]
    yield "encoder", Code(report["encoder"])
    yield "parameters", f"{report['parameters']:,}"
    yield "judged samples", f"{report['samples']:,} of {report['conversations']:,} conversations"
    if report["left_out"]:
        yield "rows without a dialogue or scores", f"{report['left_out']:,}"
    yield "judged by", Code(", ".join(report["judges"]))
    for name, value in options.items():
        if name != "inputs":
            yield name, f"{value:g}" if isinstance(value, float) else str(value)
    yield from ((name, str(value)) for name, value in options["inputs"].items())


def _agreement(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    axes, three = report["agreement"]["axes"], report["agreement"]["three_way"]
    for axis, row in axes.items():
        yield f"Spearman, {axis}", with_interval(row["spearman"], row["spearman_interval"])
    for axis, row in axes.items():
        yield f"mean absolute difference, {axis}", number(row["mean_absolute_difference"])
    yield f"same of three classes ({', '.join(CLASSES)})", percent(three["agreement"])
    yield "Cohen's kappa on these", with_interval(three["kappa"], three["kappa_interval"])
    others = [(f"fold {i}", found) for i, found in enumerate(report["by_fold"], start=1)]
    if report["options"]["words"]:
        others.append(("the encoder without the words", report["encoder_alone"]))
    for name, found in others:
        *spearman, _, kappa = _summary(found)
        yield f"{name}: Spearman, kappa", f"{' / '.join(spearman)}, {kappa}"


def _summary(found: Mapping[str, Any]) -> tuple[str, ...]:
    spearman = (number(found["spearman"][axis]) for axis in AXES)
    return (*spearman, percent(found["agreement"]), number(found["kappa"]))


def _cost(cost: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "seconds in all", f"{cost['seconds']:,.0f}"
    for name, seconds in cost["fit_seconds"].items():
        yield f"seconds to fit to {name}", f"{seconds:,.0f}"
    yield "labels of the judge", f"{cost['judge_labels']:,}"
    yield "samples scored in a second", f"{cost['samples_per_second']:,.0f}"
    if cost["cost"] is None:
        yield "cost", "no price was given"
    else:
        yield f"cost at {cost['price_per_hour']:g} an hour, without the judge's labels", f"{cost['cost']:g}"


def draw_distillation(report: Mapping[str, Any], scores: np.ndarray, predicted: np.ndarray, path: Path) -> Path:
    """Draws the judge's scores against the distilled ones on each axis, shares by T, and the learning curve."""
    panels = 3 + bool(report["curve"])
    figure = new_figure((5 * panels, 4.6), purpose="the picture of the distillation")
    places = figure.subplots(1, panels)
    for i, axis in enumerate(AXES):
        _draw_axis(places[i], scores[:, i], predicted[:, i], axis, report)
    grid = [row["threshold"] for row in report["shares"]]
    for name in QUADRANTS:
        for who, style, label in (("judge", "-", name), ("distilled", "--", None)):
            shares = [row[name][who] for row in report["shares"]]
            places[2].plot(grid, shares, color=COLOURS[name], linestyle=style, label=label)
    places[2].set(xlabel="T", ylabel="share", ylim=(0, 1), title="judge (line) and distilled (dashed)")
    places[2].legend(frameon=False)
    if report["curve"]:
        _draw_curve(places[3], report["curve"])
    return save_figure(figure, path)


def _draw_axis(axes: Any, judge: np.ndarray, ours: np.ndarray, axis: str, report: Mapping[str, Any]) -> None:
    whole = np.round(judge).astype(int)
    there = np.unique(whole)
    axes.boxplot([ours[whole == v] for v in there], positions=there, widths=0.6, showfliers=False, whis=(5, 95))
    axes.plot([MIN_SCORE, MAX_SCORE], [MIN_SCORE, MAX_SCORE], color="grey", linewidth=0.8)
    axes.axhline(report["agreement"]["threshold"][AXES.index(axis)], color="black", linewidth=1, linestyle="--")
    limits = (MIN_SCORE - 0.5, MAX_SCORE + 0.5)
    axes.set(xlabel=f"{axis} by the judge", ylabel="distilled (median, quartiles, 5 to 95 %)")
    axes.set(xlim=limits, ylim=limits)
    axes.set_title(f"{axis}: Spearman {number(report['agreement']['axes'][axis]['spearman'])}")


def _draw_curve(axes: Any, curve: Iterable[Mapping[str, Any]]) -> None:
    labels = [point["labels"] for point in curve]
    for axis in AXES:
        axes.plot(labels, [p["spearman"][axis] for p in curve], marker=".", label=f"Spearman, {axis}")
    axes.plot(labels, [p["kappa"] for p in curve], marker=".", label="kappa")
    axes.set(xlabel="judged samples", title="learning curve")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
