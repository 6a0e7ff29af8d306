"""From the raw results to the tables of `docs/evidence.md`, between its markers, and to its two pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from chat_tables import chat_tables, spread, table


Record = dict[str, Any]
CORE = ("full", "sensibility", "random")
OTHERS = ("rationality", "discarded", "longest reply", "soft gate", "loss-aware")
THRESHOLDS = ("T = 3", "T = 4", "sensibility", "T = 6", "T = 7")
MIXTURE = (
    "base", "base, then full", "sensibility expert", "rationality expert", "mean of the experts",
    "union of the experts", "mixture, untrained", "mixture",
)  # fmt: skip
EPOCHS = "full, as many epochs"
COMPARED = ("full", EPOCHS, "sensibility", *OTHERS, "T = 3", "T = 4", "T = 6", "T = 7")
QUADRANTS = ("all", "sensibility", "rationality", "balanced", "low")
_MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def read_results(results: Path) -> tuple[Record, list[Record], Record | None]:
    """What was set up, the finished runs, and what was measured on the test split, if it was."""
    set_up = json.loads((results / "set_up.json").read_text(encoding="utf-8"))
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((results / "runs").glob("*.json"))]
    test = results / "test.json"
    return set_up, runs, json.loads(test.read_text(encoding="utf-8")) if test.exists() else None


def rendered(page: str, results: Path) -> str:
    """The page with each table made anew."""
    set_up, runs, test = read_results(results)
    made = {
        "data": data_table(set_up),
        "steps": perplexities(runs, (*CORE, *OTHERS)),
        "epochs": perplexities(runs, (EPOCHS, "sensibility", "random")),
        "thresholds": perplexities(runs, THRESHOLDS),
        "mixture": perplexities(runs, MIXTURE),
        "test": replies(runs, test, (*CORE, EPOCHS, *OTHERS, *(t for t in THRESHOLDS if t not in CORE), *MIXTURE)),
        "paired": pairs(test, "paired", "random", COMPARED),
        "matched": pairs(test, "matched", "random", COMPARED),
        **chat_tables(results / "smollm2"),
    }
    return _MARKED.sub(lambda m: f"{m[1]}{made[m[2]]}{m[3]}", page)


def write_all(results: Path, docs: Path) -> None:
    """Tables into the page, pictures beside the others."""
    page = docs / "evidence.md"
    page.write_text(rendered(page.read_text(encoding="utf-8"), results), encoding="utf-8")
    draw(results, docs / "images")


# ---- tables --------------------------------------------------------------------------------------------------------


def of_row(runs: Sequence[Record], row: str) -> list[Record]:
    """A row's runs: one for each seed."""
    return [run for run in runs if run["row"] == row]


def data_table(set_up: Record) -> str:
    """How large the sets are."""
    quadrants = set_up["scored"]["quadrants"]
    total = sum(quadrants.values())
    return table(
        ["set of the training split, by scorer A", "samples", "share"],
        [[name, f"{n:,}", f"{n / total:.1%}"] for name, n in quadrants.items()],
    )


def perplexities(runs: Sequence[Record], rows: Sequence[str]) -> str:
    """What each row took, and its perplexities on validation."""
    found = []
    for row in rows:
        mine = of_row(runs, row)
        if not mine:
            found.append([row, "not run yet", *[""] * (4 + len(QUADRANTS))])
            continue
        by = [run["validation"]["perplexity"] for run in mine]
        took = [
            str(len(mine)),
            f"{mine[0]['samples']:,}" if mine[0].get("samples") else "",
            f"{mine[0]['steps']:,}" if mine[0].get("steps") else "",
            f"{mean(run['tokens'] for run in mine) / 1e6:.2f}" if mine[0].get("tokens") else "",
            f"{mean(run['seconds'] for run in mine):,.0f}",
        ]
        found.append([row, *took, *(spread([one[name]["value"] for one in by]) for name in QUADRANTS)])
    head = [
        "row",
        "seeds",
        "samples",
        "steps",
        "tokens (M)",
        "seconds",
        "perplexity, all",
        *(f"of {q}" for q in QUADRANTS[1:]),
    ]
    return table(head, found)


TEST = {
    "perplexity": ("perplexity", 1), "perplexity_per_word": ("per word", 1), "bleu4": ("BLEU-4", 2),
    "rougeL": ("ROUGE-L", 1), "dist1": ("Dist-1", 2), "dist2": ("Dist-2", 2), "words": ("words", 1),
    "sensibility": ("S", 2), "rationality": ("R", 2), "emotional_reactions": ("ER", 3), "interpretations": ("IP", 3),
    "explorations": ("EX", 3),
}  # fmt: skip


def replies(runs: Sequence[Record], test: Record | None, rows: Sequence[str]) -> str:
    """Everything on the test split."""
    if test is None:
        return "Not measured yet.\n"
    found = []
    for row in rows:
        names = [run["name"] for run in of_row(runs, row) if run["name"] in test["models"]]
        numbers = [test["models"][name]["numbers"] for name in names]
        if numbers:
            cells = [
                spread([one[key] for one in numbers], digits) if key in numbers[0] else ""
                for key, (_, digits) in TEST.items()
            ]
            found.append([row, *cells])
    reference = test["references"]["numbers"]
    cells = [f"{reference[key]:.{digits}f}" if key in reference else "" for key, (_, digits) in TEST.items()]
    return table(["row", *(title for title, _ in TEST.values())], [*found, ["the references", *cells]])


def pairs(test: Record | None, kind: str, baseline: str, rows: Sequence[str]) -> str:
    """Differences to a baseline, of one seed, with 95 % intervals: paired, or of replies of a like length."""
    if test is None:
        return "Not measured yet.\n"
    there = {key for pair in test.get(kind, []) for key in pair["numbers"]}
    shown = [key for key in TEST if key in there - {"perplexity_per_word", "words"}]
    found = []
    for row in rows:
        for pair in test.get(kind, []):
            if pair["a"] == baseline and pair["b"] == row:
                found.append([row, *(difference(pair["numbers"].get(key), TEST[key][1]) for key in shown)])
    return table([f"less {baseline}", *(TEST[key][0] for key in shown)], found)


def difference(number: Record | None, digits: int) -> str:
    """One difference with its interval."""
    if number is None or number["difference"] is None:
        return ""
    low, high = number["interval"]
    return f"{number['difference']:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"


# ---- pictures ------------------------------------------------------------------------------------------------------


def draw(results: Path, images: Path) -> None:
    """`evidence_tokens.png`: loss while training; `evidence_thresholds.png`: quality by threshold."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    _, runs, test = read_results(results)
    images.mkdir(exist_ok=True)
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for row, colour in zip(CORE, ("tab:gray", "tab:orange", "tab:blue"), strict=True):
        for run in of_row(runs, row):
            seen = [(point["tokens"] / 1e6, np.exp(point["loss"])) for point in run["watched"] if point["tokens"]]
            label = row if run["seed"] == 0 else None
            axes.plot(*zip(*seen, strict=True), color=colour, alpha=0.8, marker=".", label=label)
    axes.set(xlabel="training tokens (million)", ylabel="perplexity of the 400 watched replies", yscale="log")
    axes.legend()
    axes.grid(alpha=0.3, which="both")
    figure.savefig(images / "evidence_tokens.png", dpi=110)
    plt.close(figure)

    rows = [(t, one) for t, name in enumerate(THRESHOLDS, 3) for one in of_row(runs, name) if one["seed"] == 0]
    if len(rows) < 2:
        return
    replied = test is not None and all(one["name"] in test["models"] for _, one in rows)
    figure, parts = plt.subplots(1, 1 + replied, figsize=(9, 3.8), squeeze=False, layout="constrained")
    parts = parts[0]
    for group, colour in (("all", "tab:gray"), ("sensibility", "tab:orange"), ("rationality", "tab:green")):
        values = [one["validation"]["perplexity"][group]["value"] for _, one in rows]
        parts[0].plot([t for t, _ in rows], values, marker="o", color=colour, label=f"of {group} references")
    parts[0].set(xlabel="threshold T", ylabel="perplexity (validation)", xticks=[t for t, _ in rows])
    parts[0].legend()
    if test is not None and replied:
        for key, colour in (("sensibility", "tab:orange"), ("rationality", "tab:green")):
            values = [test["models"][one["name"]]["numbers"][key] for _, one in rows]
            parts[1].plot([t for t, _ in rows], values, marker="o", color=colour, label=f"{key} of the replies (test)")
        parts[1].set(xlabel="threshold T", ylabel="score by scorer B", xticks=[t for t, _ in rows])
        parts[1].legend()
    for part in parts:
        part.grid(alpha=0.3)
    figure.savefig(images / "evidence_thresholds.png", dpi=110)
    plt.close(figure)
