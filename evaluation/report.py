"""A comparison as files: JSON for machines, Markdown, and one HTML page that needs nothing beside itself."""

from __future__ import annotations

import base64
import io
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ee_trl.errors import MissingExtraError, require
from ee_trl.files import write_json, write_text
from ee_trl.reports.markdown import _cell, _table

from . import plots
from .candidates import INDEX_COLUMN, MODEL
from .measures import NEEDS, NOTES


if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .comparison import Comparison

logger = logging.getLogger("ee_trl")

DATA, TEXT, PAGE, REPLIES = "report.json", "report.md", "report.html", "replies.jsonl"
NAMES = (DATA, TEXT, PAGE, REPLIES)
"""The files of a report."""


def write_report(comparison: Comparison, folder: str | os.PathLike[str]) -> Path:
    """
    Writes `report.json`, `report.md`, `report.html` and `replies.jsonl` (a line a dialogue, every candidate's reply).

    Without the extra `report` the page is left out, and said so.

    Returns:
        `Path` of the page; of the text, where there is no page.
    """
    from ee_trl.files import package_versions

    folder = Path(folder)
    data = {**comparison.to_dict(), "versions": package_versions("ee-trl", "datasets", "numpy", "pyarrow")}
    texts = {REPLIES: _reply_lines(comparison), TEXT: markdown(comparison)}
    try:
        texts[PAGE] = html_page(comparison)
    except MissingExtraError as error:
        logger.warning("%s; %s is left out", error, PAGE)
    for name, text in texts.items():  # all of them are made before the first is written
        write_text(folder / name, text)
    write_json(folder / DATA, data)  # the last: where it is, the report is whole
    return folder / (PAGE if PAGE in texts else TEXT)


def _reply_lines(comparison: Comparison) -> str:
    names = list(comparison.replies)
    rows = zip(*comparison.replies.values(), strict=True)
    return "".join(
        json.dumps({INDEX_COLUMN: i, **dict(zip(names, row, strict=True))}) + "\n" for i, row in enumerate(rows)
    )


def shown_numbers(comparison: Comparison) -> list[str]:
    """The numbers that tables and pictures show, of those that any candidate has."""
    there = {name for entry in comparison.models.values() for name in entry["numbers"]}
    return [name for name in NOTES if name in there]


def left_out(comparison: Comparison) -> dict[str, str]:
    """The metrics that no candidate has -> what they need."""
    there = {name for entry in comparison.models.values() for name in entry["details"]}
    return {name: NEEDS[name] for name in comparison.settings["metrics"] if name not in there and name in NEEDS}


def of_references(comparison: Comparison, name: str) -> str:
    """The references' number for a table, `""` where they have none."""
    for prefix, entry in (("", comparison.references), *(("reference_", m) for m in comparison.models.values())):
        if prefix + name in entry["numbers"]:
            return with_interval(entry["numbers"][prefix + name], entry["intervals"].get(prefix + name))
    return ""


def unscored(comparison: Comparison) -> dict[str, int]:
    """Candidate -> how many of its replies have no scores, of those where there are any."""
    found = {name: entry["details"].get("empathy_axes", {}) for name, entry in comparison.models.items()}
    return {name: details["unscored"] for name, details in found.items() if details.get("unscored")}


def number(value: float | None) -> str:
    """A number for a table."""
    return "n/a" if value is None or value != value else f"{value:,.2f}"


def with_interval(value: float | None, ends: Sequence[float] | None) -> str:
    """A number with its interval in brackets."""
    if not ends or ends[0] != ends[0] or value is None or value != value:
        return number(value)
    return f"{number(value)} ({number(ends[0])} to {number(ends[1])})"


def p_value(p: float | None) -> str:
    """A p value for a table."""
    return "n/a" if p is None else f"{p:.3f}"


def set_in_words(comparison: Comparison) -> str:
    """What was evaluated on."""
    data = comparison.dataset
    some = f" of {data['available']:,}, evenly spaced" if data["available"] != data["n"] else ""
    reasons = ", ".join(f"{n:,} {why}" for why, n in data["left_out"].items())
    return f"{data['n']:,} dialogues{some}" + (f"; left out: {reasons}" if reasons else "")


def decoding_in_words(comparison: Comparison) -> str:
    """How models replied, as a sentence; `""` where there are files of replies alone."""
    if not any(entry["kind"] == MODEL for entry in comparison.models.values()):
        return ""
    decoding = comparison.settings["decoding"]
    if not decoding["temperature"]:
        return f" Models reply greedily, {decoding['max_new_tokens']} tokens at most."
    return f" Models reply by sampling: {', '.join(f'{name} {value}' for name, value in decoding.items())}."


# ---- Markdown ------------------------------------------------------------------------------------------------------


def markdown(comparison: Comparison) -> str:
    """The report as Markdown."""
    parts = [
        head_of(comparison),
        *([_emotions_part(comparison)] if comparison.emotions else []),
        _examples_part(comparison),
    ]
    return "\n\n".join(parts) + "\n"


def head_of(comparison: Comparison) -> str:
    """The report's first parts, as Markdown: candidates, numbers and differences."""
    parts = [_head_part(comparison), _numbers_part(comparison), *_paired_parts(comparison)]
    return "\n\n".join(["# Evaluation", *parts])


def _head_part(comparison: Comparison) -> str:
    settings = comparison.settings
    rows = [
        (_cell(name), _cell(entry["description"]), f"`{_cell(entry['fingerprint'])}`")
        for name, entry in comparison.models.items()
    ]
    return "\n\n".join(
        [
            f"**{set_in_words(comparison)}** from {_cell(comparison.dataset['name'])}."
            f"{decoding_in_words(comparison)} Axes by `{_cell(settings['scorer'])}`; {settings['tokenizer']} tokens.",
            _table(("candidate", "what it is", "content"), rows),
        ]
    )


def _numbers_part(comparison: Comparison) -> str:
    names = shown_numbers(comparison)
    head = ("number", *(_cell(name) for name in comparison.models), "references", "")
    rows = []
    for name in names:
        entries = comparison.models.values()
        cells = [with_interval(e["numbers"].get(name), e["intervals"].get(name)) for e in entries]
        shown = ("" if cell == "n/a" else cell for cell in cells)
        rows.append((name, *shown, of_references(comparison, name), NOTES[name]))
    settings = comparison.settings
    text = "## Numbers\n\n" + _table(head, rows)
    if settings["resamples"]:
        text += (
            f"\n\nIn brackets: {settings['confidence']:.0%} bootstrap intervals ({settings['resamples']:,} resamples "
            f"of the dialogues, seed {settings['seed']}). Turns of one conversation are not independent, so they are "
            "somewhat too narrow."
        )
    without = unscored(comparison)
    if without:
        text += "\n\nUnscored replies (blank, or the scorer gave none): " + ", ".join(
            f"{_cell(name)} {n:,}" for name, n in without.items()
        ) + ". They are left out of the means of the axes."  # fmt: skip
    missing = left_out(comparison)
    if missing:
        text += "\n\nNot measured: " + "; ".join(f"{name} needs {need}" for name, need in missing.items()) + "."
    return text


def _paired_parts(comparison: Comparison) -> list[str]:
    if not comparison.paired:
        return []
    parts = [
        "## Differences\n\nPaired bootstrap: both measured on the same draws of the dialogues. p is two-sided; Holm's "
        "is corrected for the number of rows of the table in `report.json`, which has more than are shown."
    ]
    for pair in comparison.paired:
        rows = [
            (name, with_interval(row["difference"], row["interval"]), p_value(row["p"]), p_value(row["p_holm"]))
            for name in shown_numbers(comparison)
            if (row := pair["numbers"].get(name))
        ]
        head = ("number", f"{_cell(pair['b'])} minus {_cell(pair['a'])}", "p", "p (Holm)")
        parts.append(_table(head, rows))
        verdicts = verdict_rows(pair)
        if verdicts:
            wins = ("judge", f"{_cell(pair['b'])} wins", "tie", f"{_cell(pair['a'])} wins")
            parts.append(_table((*wins, *VERDICT_HEAD), verdicts))
    return parts


VERDICT_HEAD = ("preference", "position bias", "consistency")
"""Columns of the judge's verdicts beside wins and ties."""


def verdict_rows(pair: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """What the judge says of a pair, a row an aspect; none where it was not asked."""
    found: Mapping[str, Any] = pair.get("judge") or {}
    aspects = [name.removesuffix("_win") for name in found if name.endswith("_win")]
    keys = ("win", "tie", "lose", "preference", "position_bias", "consistency")
    return [
        (
            aspect,
            *(with_interval(found[f"{aspect}_{key}"], found.get(f"{aspect}_{key}_interval")) for key in keys),
        )
        for aspect in aspects
    ]


def _emotions_part(comparison: Comparison) -> str:
    models = list(comparison.models)
    keys = emotion_numbers(comparison)
    head = ("emotion", "n", *(f"{_cell(model)} {key}" for key in keys for model in models))
    rows = [
        (_cell(emotion), f"{row['n']:,}", *(number(row["models"][m].get(key)) for key in keys for m in models))
        for emotion, row in comparison.emotions.items()
    ]
    return "## By emotion\n\n" + _table(head, rows)


def emotion_numbers(comparison: Comparison) -> list[str]:
    """The numbers that single samples have, as the emotion table shows them."""
    some = next(iter(comparison.emotions.values()))["models"]
    there = {key for means in some.values() for key in means}
    wanted = ("sensibility", "rationality", "empathy", "rougeL", "emotional_reactions", "emotion_hit", "words")
    return [key for key in wanted if key in there][:4]


def _examples_part(comparison: Comparison) -> str:
    lines = ["## Where they differ most"]
    if not comparison.examples:
        lines.append("All candidates reply the same to every dialogue.")
    for example in comparison.examples:
        said = [f"**Dialogue {example['index']}**" + (f" ({_cell(example['emotion'])})" if example["emotion"] else "")]
        said += [f"- *{_role(turn['role'])}*: {_cell(turn['text'])}" for turn in example["context"]]
        said.append(f"- **reference**: {_cell(example['reference'])}")
        said += [
            f"- **{_cell(name)}**{_scores(reply)}: {_cell(reply['text']) or '(nothing)'}"
            for name, reply in example["replies"].items()
        ]
        lines.append("\n".join(said))
    return "\n\n".join(lines)


def _role(role: str) -> str:
    return {"user": "speaker", "assistant": "listener"}.get(role, role)


def _scores(reply: dict[str, Any]) -> str:
    if "sensibility" not in reply:
        return ""
    return f" (S {number(reply['sensibility'])}, R {number(reply['rationality'])})"


# ---- HTML ----------------------------------------------------------------------------------------------------------


def html_page(comparison: Comparison) -> str:
    """
    The report as one HTML page without scripts, with its pictures inside. All text of dialogues is escaped.

    Raises:
        [`MissingExtraError`]: jinja2 or matplotlib is not installed.
    """
    names = shown_numbers(comparison)
    keys = emotion_numbers(comparison) if comparison.emotions else []
    pictures: dict[str, str | None] = dict.fromkeys(("numbers", "plane", "shares", "emotions"))
    if names:
        pictures["numbers"] = picture(plots.numbers_figure(comparison, names))
    if "sensibility" in names:
        pictures |= {
            "plane": picture(plots.plane_figure(comparison)),
            "shares": picture(plots.shares_figure(comparison)),
        }
    if keys:
        pictures["emotions"] = picture(plots.emotions_figure(comparison, keys[0]))
    helpers: dict[str, Any] = {
        "number": number,
        "with_interval": with_interval,
        "p_value": p_value,
        "role": _role,
        "scores": _scores,
        "verdict_rows": verdict_rows,
        "of_references": of_references,
    }
    return render(
        "evaluation.html",
        c=comparison,
        names=names,
        notes=NOTES,
        keys=keys,
        pictures=pictures,
        set_in_words=set_in_words(comparison),
        decoding_in_words=decoding_in_words(comparison),
        missing=left_out(comparison),
        unscored=unscored(comparison),
        verdict_head=VERDICT_HEAD,
        **helpers,
    )


def render(template: str, extra: str = "report", **values: Any) -> str:
    """A template of `ee_trl/assets/templates`, filled in; every value is escaped. `extra` brings the library."""
    from importlib.resources import files

    jinja2 = require("jinja2", extra=extra, purpose="an HTML page")
    source = files("ee_trl").joinpath(f"assets/templates/{template}").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(source).render(**values) + "\n"


def picture(figure: Figure) -> str:
    """A figure as a data URI."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
