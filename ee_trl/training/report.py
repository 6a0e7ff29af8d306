"""Models of a run measured side by side on held-out dialogues, and what the reports of runs have in common."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data.dialogue import Dialogue
from ..display import Heading, Markup, Table, as_markdown, markdown_text, number
from ..evaluation.candidates import Replies, load_candidate
from ..evaluation.eval_set import EvalSet
from ..evaluation.generation import Decoding, generate_replies
from ..evaluation.measures import NOTES, Evaluator, Tools, numbers_of
from ..files import write_json, write_text
from ..reports.plane import picture_line


ALL = "all"
METRICS = ("dialogue_bleu", "dialogue_rouge", "word_f1", "distinct")
SHOWN = ("bleu1", "bleu4", "rougeL", "word_f1", "dist1", "dist2")
"""The numbers of replies in a report."""


def measure_model(
    folder: Path,
    eval_set: EvalSet,
    quadrants: Sequence[str] = (),
    *,
    label: str,
    replies: int | None = None,
    max_new_tokens: int = 40,
    decoding: Decoding | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """
    Measures a model (or a LoRA that names its base) on held-out dialogues, whose `quadrants` may be given.

    It generates `replies` replies, to the first dialogues (by default to all), greedy unless there is a `decoding`.
    Returns `loss` and `perplexity` of the references and `samples`, each for `"all"` and every quadrant, and `metrics`
    of the replies (x100) and `replies`.
    """
    loaded = load_candidate(folder, device=device)
    measured = Evaluator(eval_set, Tools(batch_size=8)).measure(Replies([]), loaded, ("completion_perplexity",))
    inside = {ALL: np.full(len(eval_set), True)}
    inside |= {name: np.equal(quadrants, name) for name in dict.fromkeys(quadrants)}
    points = {name: measured["completion_perplexity"].resampler.point(where) for name, where in inside.items()}
    answered = replace(eval_set, dialogues=eval_set.dialogues[:replies])
    options: Any = {"max_new_tokens": max_new_tokens, "decoding": decoding, "label": label}
    texts = generate_replies(loaded.model, loaded.tokenizer, answered.prompts, **options)
    numbers = numbers_of(Evaluator(answered).measure(Replies(texts), metrics=METRICS)) if texts else {}
    return {
        "loss": {name: point["nll"] for name, point in points.items()},
        "perplexity": {name: point["perplexity"] for name, point in points.items()},
        "samples": {name: int(where.sum()) for name, where in inside.items()},
        "metrics": {name: numbers[name] for name in SHOWN} | {"n": len(texts)} if texts else {},
        "replies": texts,
    }


def write_page(folder: Path, record: Mapping[str, Any], parts: Iterable[str | Table]) -> Path:
    """Writes `report.json` and `report.md`; returns the page's `Path`."""
    write_json(folder / "report.json", record)
    write_text(folder / "report.md", f"{as_markdown(parts)}\n")
    return folder / "report.md"


def picture(source: Path, folder: Path, title: str) -> Markup:
    """A picture, copied to the folder; if there is none, how to get pictures."""
    if source.exists() and source.parent != folder:
        shutil.copyfile(source, folder / source.name)
    return picture_line(source.name if source.exists() else None, title)


def metrics_table(metrics: Mapping[str, Mapping[str, Any]]) -> Table:
    """A column for each model, and what each number is."""
    names = list(next(iter(metrics.values())))

    def shown(value: float) -> str:
        return f"{value:,}" if isinstance(value, int) else number(value)

    rows = [(name, *(shown(found[name]) for found in metrics.values()), NOTES.get(name, "")) for name in names]
    return Table(("metric", *metrics, ""), rows)


def examples(
    dialogues: Sequence[Dialogue], replies: Mapping[str, Sequence[str]], most: int, *notes: str
) -> Iterator[str]:
    """Some dialogues with the reply of each model."""
    yield Heading("Some replies")
    yield from notes
    answered = len(next(iter(replies.values())))
    for i in range(0, answered, max(answered // most, 1))[:most]:
        said = {"speaker": dialogues[i].context[-1], "reference": dialogues[i].response}
        said |= {name: texts[i] for name, texts in replies.items()}
        lines = (f"- **{name}**: {markdown_text(text, 240) or '(nothing)'}" for name, text in said.items())
        yield Markup("\n".join(lines))
