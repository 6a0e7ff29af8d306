"""The method on the embedded sample: score, select, train an expert, and show what it changes in ten replies."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from datasets import Dataset

from ..axes import AXES, RATIONALITY, SENSIBILITY
from ..data.dialogue import Dialogue
from ..data.tables import spread
from ..display import Heading, Markup, Table, Title, markdown_text, number, shortened
from ..evaluation.eval_set import EvalSet, read_eval_set
from ..evaluation.generation import Decoding
from ..evaluation.measures import check_libraries
from ..files import read_json
from ..reports.cards import selection_section
from ..reports.plane import plot_loss, plot_replies
from ..selector import EmpathyDataSelector
from .arguments import ExpertArguments
from .command_line import parse_recipe_args, recipe_parser
from .demo_model import HUB_ID, INSTALL
from .expert import SELECTION_DIR, ExpertRun
from .report import ALL, METRICS, measure_model, picture, write_page


PROMPTS, HELD_OUT = 10, 40
DECODING = Decoding(max_new_tokens=80, temperature=0.7, top_p=0.9)
"""Sampling by a seed: so small a model repeats itself when it is greedy."""
BASE, EXPERT = "base", "sensibility expert"


def quickstart(output: str | os.PathLike[str]) -> Path:
    """
    Trains a sensibility expert on the embedded sample; returns the report, with base and expert side by side.

    The model is [`~ee_trl.demo_model`]'s: a LoRA of a small chat model, or a tiny random one, which learns less.
    """
    check_libraries(METRICS)
    folder, parser = Path(output), recipe_parser(ExpertArguments)
    args, training_args, model_args = parse_recipe_args(parser, [])
    chat = model_args.model_name_or_path
    expert = folder / ("smollm2_expert" if chat else "expert")
    training_args.output_dir = str(expert)
    ExpertRun(args, training_args, model_args).run()
    test, selector = _with_openings_first(read_eval_set()), args.make_selector()
    models = {BASE: Path(chat or expert / "tiny_base"), EXPERT: expert}
    options: Any = {"replies": PROMPTS, "decoding": DECODING, "device": "cpu"}
    evaluated = {name: measure_model(path, test, label=name, **options) for name, path in models.items()}
    metrics = {name: {"perplexity": found["perplexity"][ALL], **found["metrics"]} for name, found in evaluated.items()}
    replies = {name: _measured(test.dialogues, found["replies"], selector) for name, found in evaluated.items()}
    selection = read_json(expert / SELECTION_DIR / "selection.json")
    history = read_json(expert / "trainer_state.json")["log_history"]
    with suppress(ImportError):
        plot_replies(replies, selector.threshold, folder / "replies.png")

    def parts() -> Iterator[str | Table]:
        yield Title("Efficient-Empathy: a chat model before and after")
        yield _what_it_is(chat, history, selection)
        yield Heading("In numbers")
        yield _side_by_side(metrics, replies)
        yield picture(folder / "replies.png", folder, "the replies on the score plane")
        yield NOTE if chat else TINY_NOTE
        yield Heading("The same prompts, both models")
        for i in range(PROMPTS):
            yield from _one_prompt(test.dialogues[i], {name: found[i] for name, found in replies.items()})
        yield Markup(selection_section(selection).strip())
        yield picture(expert / SELECTION_DIR / "plane.png", folder, "score plane")
        yield _chosen(expert)
        yield from _training(history, folder)

    record = {"selection": selection, "metrics": metrics, "replies": replies, "log_history": history}
    return write_page(folder, record, parts())


NOTE = (
    f"The replies are sampled, at temperature {DECODING.temperature} and with a fixed seed. The scorer that scores "
    "them also chose what the expert was trained on: the scores show that the expert learnt what was selected, not "
    "that people like its replies better. Flags mark replies that are hostile, dismissive, off-topic or repetitive. "
    "So small a model often misreads a prompt, before and after."
)
TINY_NOTE = (
    "This model is tiny, starts from random weights and sees a few hundred dialogues: it shows that every part works, "
    f"not how an expert replies. For the same with {HUB_ID}: {INSTALL}, then run the quickstart again."
)


def _with_openings_first(test: EvalSet) -> EvalSet:
    """Some of the dialogues; first those that get replies: openings, so that a prompt is one message."""
    openings = [i for i, dialogue in enumerate(test.dialogues) if len(dialogue.context) == 1]
    first = [openings[i] for i in spread(len(openings), PROMPTS)]
    others = sorted(set(range(len(test))) - set(first))
    order = [*first, *(others[i] for i in spread(len(others), HELD_OUT - PROMPTS))]
    return replace(test, dialogues=tuple(test.dialogues[i] for i in order), emotions=None)


def _measured(
    dialogues: Sequence[Dialogue], replies: Sequence[Any], selector: EmpathyDataSelector
) -> list[dict[str, Any]]:
    """Each reply with its scores, its flag, its length, and whether it was cut off."""
    rows = [
        {"prompt": dialogue.prompt, "completion": [{"role": "assistant", "content": reply}]}
        for dialogue, reply in zip(dialogues, replies, strict=False)
    ]
    scored = selector.score(Dataset.from_list(rows))
    columns = [scored[name][:] for name in (*AXES, "score_flag")]
    return [
        {
            "reply": str(reply), SENSIBILITY: s, RATIONALITY: r, "flag": flag, "words": len(reply.split()),
            "cut_off": reply.cut_off,
        }
        for reply, s, r, flag in zip(replies, *columns, strict=True)
    ]  # fmt: skip


def _what_it_is(chat: str | None, history: list[dict[str, Any]], selection: dict[str, Any]) -> str:
    model = f"{HUB_ID}, a chat model of 135 million parameters," if chat else "A tiny random model"
    kept, steps = selection["counts"]["kept"], history[-1]["step"]
    return (
        f"{model} answers {PROMPTS} prompts: as it is, and as a sensibility expert, after {steps} training steps on "
        f"{kept} replies that were selected for much feeling and little reasoning. The prompts are held out."
    )


def _side_by_side(metrics: dict[str, Any], replies: dict[str, list[dict[str, Any]]]) -> Table:
    def mean(name: str, key: str) -> str:
        known = [float(one[key]) for one in replies[name] if one[key] is not None]
        return number(float(np.mean(known)) if known else None, ".1f")

    def count(name: str, holds: Any) -> str:
        return f"{sum(bool(holds(one)) for one in replies[name])} of {len(replies[name])}"

    rows = {
        "sensibility, mean": lambda name: mean(name, SENSIBILITY),
        "rationality, mean": lambda name: mean(name, RATIONALITY),
        "words, mean": lambda name: mean(name, "words"),
        f"cut off at {DECODING.max_new_tokens} tokens": lambda name: count(name, lambda one: one["cut_off"]),
        "with a question": lambda name: count(name, lambda one: "?" in one["reply"]),
        "flagged": lambda name: count(name, lambda one: one["flag"]),
        "perplexity of people's replies": lambda name: number(metrics[name]["perplexity"]),
    }
    return Table(("replies", *replies), [(what, *map(shown, replies)) for what, shown in rows.items()])


def _one_prompt(dialogue: Dialogue, replies: dict[str, dict[str, Any]]) -> Iterator[str | Table]:
    yield Markup(f"**{markdown_text(dialogue.context[-1])}**")
    rows = []
    for name, one in replies.items():
        notes = [one["flag"] or "", "cut off" if one["cut_off"] else ""]
        scores = (number(one[axis], ".1f") for axis in AXES)
        rows.append((name, one["reply"] or "(nothing)", *scores, str(one["words"]), ", ".join(filter(None, notes))))
    yield Table(("model", "reply", *AXES, "words", "remarks"), rows, texts=2)


def _chosen(expert: Path, most: int = 5) -> Table:
    table = pq.read_table(expert / SELECTION_DIR / "selected.parquet")
    rows = []
    for row in table.take(spread(table.num_rows, most)).to_pylist():
        said = (shortened(row[side][-1]["content"], 240) for side in ("prompt", "completion"))
        rows.append((*said, *(number(row[axis], ".1f") for axis in AXES)))
    return Table(("speaker", "reply", *AXES), rows, "Some of the selected samples:", texts=2)


def _training(history: list[dict[str, Any]], folder: Path) -> Iterator[str]:
    losses = [entry["loss"] for entry in history if "loss" in entry]
    seconds = next((entry["train_runtime"] for entry in reversed(history) if "train_runtime" in entry), 0.0)
    yield Heading("Training")
    yield (
        f"{history[-1]['step']} steps in {seconds:.0f} s; training loss {losses[0]:.2f} at first, {losses[-1]:.2f} at "
        "last (nats per token of the reply)."
    )
    with suppress(ImportError):
        plot_loss(history, folder / "loss.png")
    yield picture(folder / "loss.png", folder, "loss by step")
