"""A comparison as files: JSON for machines, Markdown, and one HTML page that needs no other file.

Everything here takes the comparison as [`~ee_trl.evaluation.Comparison.to_dict`] gives it.
"""

from __future__ import annotations

import base64
import io
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from ee_trl.display import Code, Heading, Html, Table, Title, as_html, as_markdown, number, percent, with_interval
from ee_trl.errors import MissingExtraError, require
from ee_trl.files import json_text, package_versions, write_json, write_text

from . import plots
from .candidates import INDEX_COLUMN, MODEL
from .measures import METRICS, NOTES


logger = logging.getLogger("ee_trl")

DATA, TEXT, PAGE, REPLIES = "report.json", "report.md", "report.html", "replies.jsonl"
SIGNIFICANT = 0.05
VERDICTS = ("win", "tie", "lose", "preference", "position_bias", "consistency")
BY_EMOTION = ("sensibility", "rationality", "empathy", "rougeL", "emotional_reactions", "emotion_hit", "words")
"""The numbers of single samples that the table by emotion shows, the first four that exist."""
ROLES = {"user": "speaker", "assistant": "listener"}

Data = Mapping[str, Any]
NOTHING: Data = {"numbers": {}, "intervals": {}, "bins": 0}


def write_report(data: Data, replies: Mapping[str, Sequence[str]], folder: str | os.PathLike[str]) -> Path:
    """
    Writes `report.json`, `report.md`, `report.html` and `replies.jsonl` (a line a dialogue); returns the page's path.

    Without the extra `report` it writes no page, warns, and returns the text's path.
    """
    folder = Path(folder)
    versions = package_versions("ee-trl", "datasets", "numpy", "pyarrow")
    rows = (dict(zip(replies, row, strict=True)) for row in zip(*replies.values(), strict=True))
    lines = (json_text({INDEX_COLUMN: i, **row}) + "\n" for i, row in enumerate(rows))
    texts = {REPLIES: "".join(lines), TEXT: as_markdown([*parts_of(data), *dialogue_parts(data)]) + "\n"}
    try:
        texts[PAGE] = html_page(data)
    except MissingExtraError as error:
        logger.warning("%s; %s is left out", error, PAGE)
    for name, text in texts.items():  # only now, when all of them are made
        write_text(folder / name, text)
    write_json(folder / DATA, {**data, "versions": versions})  # written last: if it exists, the report is whole
    return folder / (PAGE if PAGE in texts else TEXT)


def check_page() -> None:
    """Warns if the page will be left out because its libraries are missing, before any work is done."""
    try:
        require("jinja2", extra="report", purpose="an HTML page")
        plots.new_figure((1, 1), plots.PURPOSE)
    except MissingExtraError as error:
        logger.warning("%s; %s will be left out", error, PAGE)


def parts_of(data: Data, pictures: Mapping[str, str] | None = None) -> Iterable[str | Table]:
    """What was evaluated, every number of every candidate, and the paired differences; pictures below their tables."""
    pictures = pictures or {}
    models, settings = data["models"], data["settings"]
    names = shown_numbers(data)
    yield Title("Evaluation")
    yield _set_in_words(data["dataset"]) + _decoding_in_words(data)
    yield f"Axes by {settings['scorer']}; {settings['tokenizer']} tokens."
    rows = [(name, entry["description"], Code(entry["fingerprint"])) for name, entry in models.items()]
    yield Table(("candidate", "what it is", "content"), rows, texts=3)
    yield Heading("Numbers")
    yield Table(
        ("number", *models, "references", "what it is"),
        [
            (name, *(_cell(entry, name) for entry in models.values()), _reference_cell(data, name), NOTES[name])
            for name in names
        ],
    )
    yield from _remarks(data)
    if "numbers" in pictures:
        yield pictures["numbers"]
    yield from _at_like_length(data, names)
    if "plane" in pictures:
        yield Heading("Sensibility and rationality")
        yield pictures["plane"]
        yield pictures["shares"]
    if data["paired"]:
        yield Heading("Differences")
        yield from _differences(data, names)


def shown_numbers(data: Data) -> list[str]:
    """The numbers that tables and pictures show, of those that any candidate has."""
    there = {name for entry in data["models"].values() for name in entry["numbers"]}
    return [name for name in NOTES if name in there]


def _cell(entry: Data, name: str) -> str:
    value = entry["numbers"].get(name)
    return "" if value is None else with_interval(value, entry["intervals"].get(name))


def _reference_cell(data: Data, name: str) -> str:
    """The references' own number; some metrics measure them beside each candidate's replies."""
    candidates = (_cell(entry, f"reference_{name}") for entry in data["models"].values())
    return _cell(data["references"], name) or next(filter(None, candidates), "")


def _remarks(data: Data) -> Iterable[str]:
    settings, models = data["settings"], data["models"]
    if settings["resamples"]:
        yield (
            f"In brackets: {settings['confidence']:.0%} bootstrap intervals ({settings['resamples']:,} resamples, "
            f"seed {settings['seed']}). Whole conversations are drawn, since the turns of one are not independent."
        )
    if cut := {name: entry["cut_off"] for name, entry in models.items() if entry.get("cut_off")}:
        found = (f"{name} {row['count']:,} ({percent(row['share'])})" for name, row in cut.items())
        limit = settings["decoding"]["max_new_tokens"]
        yield f"Replies that were cut off at {limit} tokens (--max-new-tokens), before their end: {', '.join(found)}."
    unscored = {name: entry["details"].get("empathy_axes", {}).get("unscored") for name, entry in models.items()}
    if counts := ", ".join(f"{name} {n:,}" for name, n in unscored.items() if n):
        yield f"Unscored replies (blank, or the scorer gave none): {counts}. The means of the axes leave them out."
    there = {name for entry in models.values() for name in entry["details"]}
    missing = [name for name in settings["metrics"] if name not in there and METRICS[name].needs]
    if missing:
        yield f"Not measured: {'; '.join(f'{name} needs {METRICS[name].needs}' for name in missing)}."


def _at_like_length(data: Data, names: Sequence[str]) -> Iterable[str | Table]:
    heads = [*data["models"], "references"]
    entries = [entry.get("like_length") or NOTHING for entry in (*data["models"].values(), data["references"])]
    rows = [(name, *(_cell(entry, name) for entry in entries)) for name in names]
    rows = [row for row in rows if any(row[1:])]
    if not any("covered" in entry for entry in entries):
        return
    covered = [f"{percent(entry.get('covered'))} of {name}" for name, entry in zip(heads, entries, strict=True)]
    yield Heading("Empathy at like length")
    yield (
        "Longer replies score higher. Here the replies are weighted so that all candidates, and the references, have "
        f"the same distribution of lengths, in {max(entry['bins'] for entry in entries)} bins of words. Only bins "
        f"where all candidates have replies count. Replies in these bins: {', '.join(covered)}."
    )
    if rows:
        yield Table(("number", *heads), rows)


def _differences(data: Data, names: Sequence[str]) -> Iterable[str | Table]:
    claimed = [name for name in names if any(_is_claimed(pair, name) for pair in data["paired"])]
    yield (
        "Paired bootstrap: both candidates are measured on the same draws of the conversations. p is two-sided, and "
        f"given for one number of each metric ({', '.join(claimed)}), with Holm's correction for the number of "
        f"metrics; * is below {SIGNIFICANT} after it. The other numbers are shown without a claim. The last column "
        "gives the difference at like length: between replies in the same bins of words, as many of both."
    )
    for pair in data["paired"]:
        rows = []
        # minus the same references, `sensibility_difference` differs by as much as `sensibility`
        for name in (name for name in names if name in pair["numbers"] and not name.endswith("_difference")):
            row = pair["numbers"][name]
            ps = ("", "")
            if _is_claimed(pair, name):
                sure = row["p_holm"] is not None and row["p_holm"] < SIGNIFICANT
                ps = (number(row["p"], ".3f"), number(row["p_holm"], ".3f") + " *" * sure)
            alike = pair.get("like_length", {}).get(name)
            alike = with_interval(alike["difference"], alike["interval"]) if alike else ""
            rows.append((name, with_interval(row["difference"], row["interval"]), *ps, alike))
        a, b = pair["a"], pair["b"]
        yield Table(("number", f"{b} minus {a}", "p", "p (Holm)", "at like length"), rows)
        if verdicts := pair.get("judge"):
            aspects = [name.removesuffix("_win") for name in verdicts if name.endswith("_win")]
            keys = [[f"{aspect}_{verdict}" for verdict in VERDICTS] for aspect in aspects]
            head = ("judge", f"{b} wins", "tie", f"{a} wins", "preference", "position bias", "consistency")
            rows = [
                (aspect, *(with_interval(verdicts[key], verdicts.get(f"{key}_interval")) for key in row))
                for aspect, row in zip(aspects, keys, strict=True)
            ]
            yield Table(head, rows)


def _is_claimed(pair: Data, name: str) -> bool:
    return name in {metric.primary for metric in METRICS.values()} and name in pair["numbers"]


def _set_in_words(dataset: Data) -> str:
    some = f" of {dataset['available']:,}, evenly spaced" if dataset["available"] != dataset["n"] else ""
    reasons = ", ".join(f"{n:,} {why}" for why, n in dataset["left_out"].items())
    left_out = f" (left out: {reasons})" if reasons else ""
    return f"{dataset['n']:,} dialogues{some}{left_out} from {dataset['name']}."


def _decoding_in_words(data: Data) -> str:
    if not any(entry["kind"] == MODEL for entry in data["models"].values()):
        return ""
    decoding, system = data["settings"]["decoding"], data["settings"].get("system")
    told = "" if system is None else f' All dialogues have the system message "{system}".'
    if not decoding["temperature"]:
        return f" Models reply greedily, {decoding['max_new_tokens']} tokens at most.{told}"
    return f" Models reply by sampling: {', '.join(f'{name} {value}' for name, value in decoding.items())}.{told}"


def dialogue_parts(data: Data, pictures: Mapping[str, str] | None = None) -> Iterable[str | Table]:
    """The table by emotion, and the dialogues where the candidates differ most."""
    models, emotions = list(data["models"]), data["emotions"]
    if emotions:
        keys = emotion_numbers(data)
        yield Heading("By emotion")
        if pictures and "emotions" in pictures:
            yield pictures["emotions"]
        yield Table(
            ("emotion", "n", *(f"{model} {key}" for key in keys for model in models)),
            [
                (emotion, f"{row['n']:,}", *(number(row["models"][m].get(key)) for key in keys for m in models))
                for emotion, row in emotions.items()
            ],
        )
    yield Heading("Where they differ most")
    if not data["examples"]:
        yield "All candidates reply the same to every dialogue."
    for example in data["examples"]:
        emotion = f" ({example['emotion']})" if example["emotion"] else ""
        rows = [(ROLES.get(turn["role"], turn["role"]), turn["text"]) for turn in example["context"]]
        rows.append(("reference", example["reference"]))
        for name, reply in example["replies"].items():
            if "sensibility" in reply:
                name += f" (S {number(reply['sensibility'])}, R {number(reply['rationality'])})"
            rows.append((name, reply["text"] or "(nothing)"))
        yield Table(("who", "says"), rows, f"Dialogue {example['index']}{emotion}", texts=2)


def emotion_numbers(data: Data) -> list[str]:
    """The numbers of the table by emotion."""
    rows = data["emotions"].values()
    there = {key for row in rows for means in row["models"].values() for key in means}
    return [key for key in BY_EMOTION if key in there][:4]


def html_page(data: Data) -> str:
    """The report as one HTML page without scripts, with its pictures inside. All text of dialogues is escaped."""
    models, references, names = data["models"], data["references"], shown_numbers(data)
    pictures = {}
    if names:
        figure = plots.numbers_figure(models, references, names)
        pictures["numbers"] = picture(figure, "Every number with its interval")
    if "sensibility" in names:
        figure = plots.plane_figure(models, references, data["settings"]["threshold"])
        pictures["plane"] = picture(figure, "Mean scores on the score plane")
        pictures["shares"] = picture(plots.shares_figure(models, references), "Share of each quadrant")
    if data["emotions"] and (keys := emotion_numbers(data)):
        figure = plots.emotions_figure(data["emotions"], list(models), keys[0])
        pictures["emotions"] = picture(figure, "Means by emotion")
    body = as_html([*parts_of(data, pictures), *dialogue_parts(data, pictures)])
    return render("evaluation.html", title=f"Evaluation of {', '.join(models)}", body=body)


def picture(figure: Any, alt: str) -> Html:
    """A figure as an image of a page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    source = base64.b64encode(buffer.getvalue()).decode()
    return Html(f'<img alt="{alt}" src="data:image/png;base64,{source}">')


def render(template: str, extra: str = "report", **values: Any) -> str:
    """A template of `ee_trl/assets/templates`, filled in; every value is escaped. `extra` installs jinja2."""
    jinja2 = require("jinja2", extra=extra, purpose="an HTML page")
    source = files("ee_trl").joinpath(f"assets/templates/{template}").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(source).render(**values) + "\n"
