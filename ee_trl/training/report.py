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
from ..evaluation.candidates import LoadedModel, Replies, load_candidate
from ..evaluation.eval_set import EvalSet
from ..evaluation.generation import generate_replies
from ..evaluation.measures import NOTES, Tools, measure
from ..files import write_json, write_text
from ..reports.plane import picture_line


ALL = "all"
SHOWN = ("bleu1", "bleu4", "rougeL", "word_f1", "dist1", "dist2")
"""The numbers of replies in a report."""
_TOKENIZERS = (("whitespace", ("dialogue_bleu", "dialogue_rouge", "word_f1")), ("nltk", ("distinct",)))


def measure_model(
    folder: Path,
    eval_set: EvalSet,
    quadrants: Sequence[str] = (),
    *,
    label: str,
    replies: int | None = None,
    max_new_tokens: int = 40,
    device: str | None = None,
) -> dict[str, Any]:
    """
    Measures a model on held-out dialogues.

    Args:
        folder (`Path`): A model, or a LoRA that names its base.
        eval_set (`EvalSet`), quadrants (`Sequence[str]`, *optional*): The dialogues, and the quadrant of each.
        label (`str`): What the progress bar calls the model.
        replies (`int`, *optional*): For how many dialogues, from the first on, to generate a reply; by default all.
        max_new_tokens, device (*optional*): See [`~ee_trl.evaluation.generation.Decoding`] and
            [`~ee_trl.evaluation.candidates.load_candidate`].

    Returns:
        `dict`: `loss` and `perplexity` of the references, and `samples`, each for `"all"` and every quadrant;
        `metrics` of the replies (each x100) and `replies`.
    """
    loaded = load_candidate(folder, device=device)
    groups = (ALL, *dict.fromkeys(quadrants))
    counts = np.array([[1.0] * len(eval_set), *(np.equal(quadrants, name) for name in groups[1:])])
    [perplexity] = _measures(eval_set, [], loaded, "nltk", ("completion_perplexity",))
    values = {**perplexity.resampler.values(counts), "samples": counts.sum(axis=1).astype(int)}
    found: dict[str, Any] = {
        name: dict(zip(groups, values[key].tolist(), strict=True))
        for name, key in (("loss", "nll"), ("perplexity", "perplexity"), ("samples", "samples"))
    }
    answered = replace(eval_set, dialogues=eval_set.dialogues[:replies])
    texts = generate_replies(
        loaded.model, loaded.tokenizer, answered.prompts, max_new_tokens=max_new_tokens, label=label
    )
    numbers: dict[str, float] = {}
    for tokenizer, names in _TOKENIZERS if texts else ():
        for made in _measures(answered, texts, loaded, tokenizer, names):
            numbers |= made.resampler.point()
    metrics = {name: numbers[name] for name in SHOWN if name in numbers} | ({"n": len(texts)} if texts else {})
    return {**found, "metrics": metrics, "replies": texts}


def _measures(
    eval_set: EvalSet, texts: list[str], loaded: LoadedModel, tokenizer: str, names: Sequence[str]
) -> Iterable[Any]:
    tools = Tools(None, tokenizer=tokenizer, batch_size=8)  # no metric here needs a scorer
    return measure(eval_set, Replies(texts, loaded.description, loaded.fingerprint), loaded, tools, names).values()


# ---- pages ---------------------------------------------------------------------------------------------------------


def write_page(folder: Path, record: Mapping[str, Any], parts: Iterable[str | Table]) -> Path:
    """Writes `report.json` and `report.md`; returns the page's `Path`."""
    write_json(folder / "report.json", record)
    write_text(folder / "report.md", f"{as_markdown(parts)}\n")
    return folder / "report.md"


def picture(source: Path, folder: Path, title: str) -> Markup:
    """A picture, copied to the folder; without one, how to get pictures."""
    if source.exists() and source.parent != folder:
        shutil.copyfile(source, folder / source.name)
    return picture_line(source.name if source.exists() else None, title)


def metrics_table(metrics: Mapping[str, Mapping[str, Any]]) -> Table:
    """A column for each model, and what each number is."""
    names = list(next(iter(metrics.values())))
    rows = [(name, *(_shown(found[name]) for found in metrics.values()), NOTES.get(name, "")) for name in names]
    return Table(("metric", *metrics, ""), rows)


def _shown(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else number(value)


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
        yield Markup(
            "\n".join(f"- **{name}**: {markdown_text(text, 240) or '(nothing)'}" for name, text in said.items())
        )
