"""The report of a run, in Markdown and JSON with pictures: what was selected and why, the training, the metrics."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..axes import QUADRANTS, TIE
from ..display import as_markdown
from ..files import write_json, write_text
from .plane import picture_line, plot_loss
from .rubric import rubric_parts


METRIC_NOTES = {
    "perplexity": "of the reference replies; lower is better",
    "bleu1": "x100, whitespace tokens",
    "bleu4": "x100, whitespace tokens",
    "rougeL": "mean F1 x100",
    "word_f1": "x100",
    "dist1": "distinct unigrams, %; depends on n",
    "dist2": "distinct bigrams, %; depends on n",
    "n": "held-out replies",
}


def write_run_report(
    folder: Path, expert: Path, test: Any, evaluated: Mapping[str, Mapping[str, Any]], examples: int = 4
) -> Path:
    """
    Writes `report.md`, `report.json` and the pictures.

    Args:
        folder (`Path`): Where to.
        expert (`Path`): The recipe's folder, with `selection/` and `trainer_state.json`.
        test (`Dataset`): What was evaluated on, `prompt` and `completion`.
        evaluated (`Mapping`): Model's name -> `{"metrics": {...}, "replies": [...]}`, replies in the order of `test`.
        examples (`int`, *optional*, defaults to `4`): How many dialogues to show.

    Returns:
        `Path` of `report.md`.
    """
    selection = json.loads((expert / "selection" / "selection.json").read_text(encoding="utf-8"))
    history = json.loads((expert / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    pictures = _pictures(folder, expert, history)
    metrics = {name: result["metrics"] for name, result in evaluated.items()}
    write_json(folder / "report.json", {"selection": selection, "metrics": metrics, "log_history": history})
    parts = [
        "# Efficient-Empathy: report of a run",
        _selection_part(selection, pictures.get("plane")),
        _chosen_part(expert),
        _training_part(history, pictures.get("loss")),
        _metrics_part(metrics),
        _examples_part(test, evaluated, examples),
    ]
    write_text(folder / "report.md", "\n\n".join(parts) + "\n")
    return folder / "report.md"


def _pictures(folder: Path, expert: Path, history: Sequence[dict[str, Any]]) -> dict[str, str]:
    found = {}
    if (expert / "selection" / "plane.png").exists():
        shutil.copyfile(expert / "selection" / "plane.png", folder / "plane.png")
        plot_loss(history, folder / "loss.png")
        found = {"plane": "plane.png", "loss": "loss.png"}
    return found


def _selection_part(selection: Mapping[str, Any], picture: str | None) -> str:
    settings, counts, summary = selection["settings"], selection["counts"], selection["summary"]
    total = sum(counts.values())
    t_s, t_r = settings["threshold"]
    rows = [
        (name, f"{q['count']:,}", f"{q['share']:.1%}", "kept" if name in settings["keep"] else "")
        for name, q in summary["quadrants"].items()
    ]
    unscored = ", ".join(f"{n} {reason}" for reason, n in summary["unscored"].items()) or "none"
    return "\n\n".join(
        [
            "## What was selected",
            f"**{counts['kept']:,} of {total:,} samples ({counts['kept'] / total:.1%})** of the "
            f"{selection['dataset']}, by rule `{settings['rule']}` at T = {t_s:g} (sensibility) and {t_r:g} "
            f"(rationality). Scores by `{', '.join(settings['scorer'])}`. Unscored: {unscored}.",
            _table(("quadrant", "samples", "share of the scored", ""), rows),
            picture_line(picture, "score plane"),
            _emotion_table(summary["emotions"]) if summary["emotions"] else "",
            as_markdown(rubric_parts(selection.get("rubric"))),
        ]
    )


def _emotion_table(emotions: Mapping[str, Mapping[str, float]]) -> str:
    names = (*QUADRANTS, TIE)
    rows = [(e, f"{row['scored']:,}", *(f"{row[f'{n}_share']:.0%}" for n in names)) for e, row in emotions.items()]
    table = _table(("emotion", "scored", *names), rows)
    return f"<details><summary>Shares per emotion</summary>\n\n{table}\n\n</details>"


def _chosen_part(expert: Path, number: int = 5) -> str:
    import pyarrow.parquet as pq

    table = pq.read_table(expert / "selection" / "selected.parquet")
    step = max(table.num_rows // number, 1)
    rows = [
        (_cell(row["prompt"][-1]["content"]), _cell(row["completion"][0]["content"]), *(_score(row, a) for a in "SR"))
        for row in table.take(list(range(0, table.num_rows, step))[:number]).to_pylist()
    ]
    return "Some of those kept:\n\n" + _table(("speaker", "reply", "S", "R"), rows)


def _score(row: Mapping[str, Any], axis: str) -> str:
    return f"{row['sensibility' if axis == 'S' else 'rationality']:.1f}"


def _training_part(history: Sequence[dict[str, Any]], picture: str | None) -> str:
    losses = [entry["loss"] for entry in history if "loss" in entry]
    end: dict[str, Any] = next((entry for entry in reversed(history) if "train_runtime" in entry), {})
    text = f"{history[-1]['step'] if history else 0} steps in {end.get('train_runtime', 0.0):.0f} s"
    if losses:
        text += f"; training loss {losses[0]:.2f} at first, {losses[-1]:.2f} at last (nats per token of the reply)"
    return f"## Training\n\n{text}.\n\n{picture_line(picture, 'loss by step')}"


def _metrics_part(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    names = list(next(iter(metrics.values())))
    rows = [(name, *(_number(m[name]) for m in metrics.values()), METRIC_NOTES.get(name, "")) for name in names]
    return "## Metrics on held-out dialogues\n\n" + _table(("metric", *metrics, ""), rows)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def _examples_part(test: Any, evaluated: Mapping[str, Mapping[str, Any]], examples: int) -> str:
    lines = [
        "## Some replies",
        "The demonstration's model is tiny, starts from random weights and sees a few hundred dialogues: it shows "
        "that every part works, not what an expert sounds like. For that, name a real model and data set.",
    ]
    step = max(len(test) // examples, 1)
    for i in list(range(0, len(test), step))[:examples]:
        said = [f"- **speaker**: {_cell(test[i]['prompt'][-1]['content'])}"]
        said += [f"- **reference**: {_cell(test[i]['completion'][0]['content'])}"]
        said += [f"- **{name}**: {_cell(result['replies'][i]) or '(nothing)'}" for name, result in evaluated.items()]
        lines.append("\n".join(said))
    return "\n\n".join(lines)


def _cell(text: str, limit: int = 240) -> str:
    """Text for a Markdown table: one line, no markup, not endless."""
    flat = " ".join(text.split())
    flat = flat if len(flat) <= limit else flat[: limit - 1] + "…"
    return flat.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("`", "'")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
