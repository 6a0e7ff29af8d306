"""The chat model's tables: each row against random samples, paired, with intervals over conversations."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from plan import chat_plan

from ee_trl.axes import AXES
from ee_trl.evaluation.bootstrap import Bootstrap


Record = dict[str, Any]


CONTROL = "random"
BINS = (0, 6, 10, 14, 18)
"""Words from which on a reply is in the next bin of lengths."""
REFERENCES = {name: name for name in ("all", "sensibility", "rationality", "balanced", "low")} | {"other": "Reddit"}
"""Perplexity of references: of ED's validation split as it is, by the authors' quadrant, and of EPITOME's posts."""
REPLIES = {
    "sensibility": "S", "rationality": "R", "emotional_reactions": "ER", "interpretations": "IP", "explorations": "EX",
    "flagged": "flagged",
}  # fmt: skip
"""Of replies: axes by scorer B, EPITOME's levels, and the share that the bundled scorer flags."""
KINDS = {"references": REFERENCES, "replies": REPLIES, "like length": REPLIES}


@dataclass(frozen=True)
class Found:
    """A difference to the control, its bootstrap draws, and how far apart as many seeds of the control may be."""

    value: float
    draws: np.ndarray
    noise: float

    def __str__(self) -> str:
        low, high = np.percentile(self.draws, [2.5, 97.5])
        return f"{self.value:+.2f} ({low:+.2f} to {high:+.2f})"

    @property
    def beyond(self) -> bool:
        """Whether it is neither chance of the dialogues, at 99 % since there are many comparisons, nor of the seed."""
        low, high = np.percentile(self.draws, [0.5, 99.5])
        return bool(low * high > 0 and abs(self.value) > self.noise)


@dataclass(frozen=True)
class ChatResults:
    """The runs of a folder of results."""

    folder: Path

    @cached_property
    def set_up(self) -> Record:
        """What the runs have in common."""
        return json.loads((self.folder / "set_up.json").read_text(encoding="utf-8"))

    @cached_property
    def rows(self) -> dict[str, list[Record]]:
        """Row -> its finished runs, one for each seed."""
        found: dict[str, list[Record]] = {}
        for path in sorted((self.folder / "runs").glob("*.json")):
            run = json.loads(path.read_text(encoding="utf-8"))
            found.setdefault(run["row"], []).append(run)
        return found

    @cached_property
    def draws(self) -> dict[str, np.ndarray]:
        """How often each held-out dialogue counts, shape `(1 + resamples, n)`; first, each counts once."""
        found = {}
        for name in ("validation", "test", *self.set_up["held_out"]["others"]):
            clusters = self.set_up["held_out"][name]["conversations"]
            drawn = Bootstrap(1000, clusters=clusters).draws(len(clusters))
            found[name] = np.concatenate([np.ones((1, len(clusters))), *drawn])
        return found

    def perplexity(self, a: Sequence[Record], b: Sequence[Record], group: str) -> np.ndarray:
        """By how many per cent the perplexity of A's references is above B's, for each draw."""
        name = self.set_up["held_out"]["others"][0] if group == "other" else "validation"
        sides = [np.mean([run["measures"]["references"][name]["nll"] for run in runs], axis=0) for runs in (a, b)]
        tokens = np.array(a[0]["measures"]["references"][name]["tokens"], float)
        weights = np.ones(len(tokens))
        if group == "all":
            weights = np.array(self.set_up["held_out"]["weights"])
        elif group != "other":
            weights = (np.array(self.set_up["held_out"]["validation"]["quadrants"]) == group).astype(float)
        counts = self.draws[name] * weights
        return 100 * np.expm1(counts @ (sides[0] - sides[1]) / (counts @ tokens))

    def replies(self, a: Sequence[Record], b: Sequence[Record], key: str, like: bool) -> np.ndarray:
        """The mean of A's replies less that of B's, for each draw; `like`: within bins of length."""
        counts, sides = self.draws["test"], []
        for runs in (a, b):
            values, words = (
                np.array([run["measures"]["replies"][name] for run in runs], float).ravel() for name in (key, "words")
            )
            bins = np.digitize(words, BINS[1:])[:, None] == np.arange(len(BINS)) if like else np.ones((len(words), 1))
            there = np.where(np.isnan(values), 0, 1)[:, None] * bins
            tiled = np.tile(counts, len(runs))
            sides.append((tiled @ (np.nan_to_num(values)[:, None] * there), tiled @ there / len(runs), len(runs)))
        (sum_a, n_a, k_a), (sum_b, n_b, k_b) = sides
        weights = np.where((n_a > 0) & (n_b > 0), n_a + n_b, 0)
        parts = sum_a / np.maximum(n_a * k_a, 1e-9) - sum_b / np.maximum(n_b * k_b, 1e-9)
        return (parts * weights).sum(axis=1) / weights.sum(axis=1)

    def values(self, a: Sequence[Record], b: Sequence[Record], kind: str, key: str) -> np.ndarray:
        """The difference of A to B for each draw; `kind` is `"references"`, `"replies"` or `"like length"`."""
        return self.perplexity(a, b, key) if kind == "references" else self.replies(a, b, key, kind != "replies")

    @cached_property
    def noise(self) -> dict[tuple[str, str], float]:
        """How far two seeds of the control are apart at most, by kind and measure."""
        pairs = [([a], [b]) for a, b in combinations(self.rows[CONTROL], 2)]
        return {
            (kind, key): max((float(abs(self.values(a, b, kind, key)[0])) for a, b in pairs), default=0.0)
            for kind, measures in KINDS.items()
            for key in measures
        }

    def found(self, row: str, kind: str, key: str) -> Found:
        """A row's difference to the control."""
        mine, control = self.rows[row], self.rows[CONTROL]
        draws = self.values(mine, control, kind, key)
        scale = ((1 / len(mine) + 1 / len(control)) / 2) ** 0.5  # means of seeds are less far apart than two seeds
        return Found(float(draws[0]), draws[1:], self.noise[kind, key] * scale)

    def verdict(self, row: str) -> tuple[list[str], list[str]]:
        """The measures of which a row is better than the control, and those of which it is worse."""
        better, worse = [], []
        for kind in ("references", "like length"):
            for key, label in KINDS[kind].items():
                if kind == "like length" and key in AXES:
                    continue
                found = self.found(row, kind, key)
                if found.beyond:
                    lower = kind == "references" or key == "flagged"
                    label = f"perplexity: {label}" if kind == "references" else label
                    (better if (found.value < 0) == lower else worse).append(label)
        return better, worse


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown, all columns but the first to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def spread(values: Sequence[float], digits: int = 1) -> str:
    """The mean, and with several seeds the lowest and the highest; nothing where a number is not defined."""
    if any(value is None for value in values):
        return ""
    told = f"{mean(values):,.{digits}f}"
    return told if len(values) == 1 else f"{told} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"


def chat_tables(folder: Path) -> dict[str, str]:
    """The page's tables by name; none without results."""
    if not (folder / "set_up.json").exists():
        return {}
    results = ChatResults(folder)
    planned = [run.name for run in chat_plan(1, 1).values()]
    rows = [row for row in planned if row in results.rows]
    missing = [row for row in planned if row not in results.rows]
    others = [row for row in rows if row != CONTROL and row != "before training"]

    def differences(kind: str) -> str:
        measures = KINDS[kind]
        lines = [[row, *(str(results.found(row, kind, key)) for key in measures)] for row in others]
        noise = [f"{results.noise[kind, key]:.2f}" for key in measures]
        return table([f"less {CONTROL}", *measures.values()], [*lines, ["two seeds of random, at most", *noise]])

    verdicts = [[row, *(", ".join(side) or "nothing" for side in results.verdict(row))] for row in others]
    return {
        "chat_rows": table(HEAD, [_absolute(results, row) for row in rows])
        + (f"\nNot run yet: {'; '.join(missing)}.\n" if missing else ""),
        "chat_verdict": table(["row", "better than random on", "worse on"], verdicts),
        "chat_references": differences("references"),
        "chat_replies": differences("replies"),
        "chat_matched": differences("like length"),
    }


HEAD = (
    "row", "seeds", "samples", "tokens (k)", "seconds", "perplexity, all", "Reddit", "S", "R", "flagged", "words",
    "Dist-1", "Dist-2",
)  # fmt: skip


def _absolute(results: ChatResults, row: str) -> list[str]:
    runs = results.rows[row]
    weights, other = results.set_up["held_out"]["weights"], results.set_up["held_out"]["others"][0]
    perplexities = []
    for name, weight in (("validation", weights), (other, None)):
        sides = [run["measures"]["references"][name] for run in runs]
        means = [[np.average(one[key], weights=weight) for key in ("nll", "tokens")] for one in sides]
        perplexities.append([float(np.exp(nll / tokens)) for nll, tokens in means])
    replies = [run["measures"]["replies"] for run in runs]
    took = ["", "", ""]
    if "tokens" in runs[0]:
        tokens, seconds = (mean(run[key] for run in runs) for key in ("tokens", "seconds"))
        took = [f"{runs[0]['samples']:,}", f"{tokens / 1e3:.1f}", f"{seconds:.0f}"]
    return [
        row, str(len(runs)), *took, *(spread(values) for values in perplexities),
        *(spread([np.nanmean(one[key]) for one in replies], 2) for key in ("sensibility", "rationality", "flagged")),
        *(spread([one["numbers"][key] for one in replies], 1) for key in ("words", "dist1", "dist2")),
    ]  # fmt: skip
