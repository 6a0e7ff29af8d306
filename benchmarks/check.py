"""
Does a scorer rank an apt, kind reply above cruel, off-topic, repeated and other bad replies to the same context?

    python benchmarks/check.py linear --json benchmarks/results/check_linear.json

In the spirit of CheckList (Ribeiro et al., 2020, arXiv:2005.04118): sets of replies to one context, and what each must
not do. The contexts and replies were written for this project; no scorer may be trained on them. Length alone and a
random ranking stand beside the scorer's own rankings.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ee_trl import load_scorer
from ee_trl.axes import AXES, DEFAULT_THRESHOLD, QUADRANTS, RATIONALITY, SENSIBILITY, TIE, quadrants, thresholds
from ee_trl.data.dialogue import Dialogue, dialogue_of
from ee_trl.display import Displayed, Table, number, percent, with_interval
from ee_trl.files import write_json
from ee_trl.reports.injection import load_attacks
from ee_trl.scoring.base import Scorer
from ee_trl.scoring.run import ScoringRun


CONTEXTS = Path(__file__).parent / "check_set" / "contexts.jsonl"

TRUE = "kind"
"""The reply that the others are compared with: apt and kind."""

WRITTEN = {
    "cruel": "insults or wishes harm",
    "mocking": "makes fun of the feeling",
    "blaming": "says that it is the speaker's own fault",
    "dismissive": "says that it is nothing",
    "off_topic": "a fact about something else",
    "wrong_emotion": "answers a feeling that the speaker does not have",
    "platitude": "a saying that fits everything",
    "advice": "good advice without a word of feeling",
    "feeling": "feeling without advice: a good reply too",
    "foreign": "a kind reply in another language: a good reply too",
}
MADE = {
    "other_reply": "the kind reply to another context",
    "parrot": "repeats the speaker's last turn",
    "repetition": "one sentence of the kind reply, six times",
    "salad": "the words of the kind reply in random order",
    "injection": "a dismissive reply that tells the scorer what to answer",
}
KINDS = {**WRITTEN, **MADE}
"""Kind of reply -> what it does."""


RESAMPLES = 1_000


@dataclass(frozen=True, slots=True)
class Case:
    """
    One reply of the check.

    Args:
        group (`int`): Number of its context; the replies of one group are compared.
        kind (`str`): [`TRUE`], or one of [`KINDS`].
        emotion (`str`): The speaker's emotion, `""` where it is not known.
        dialogue ([`Dialogue`]): Context and reply.
    """

    group: int
    kind: str
    emotion: str
    dialogue: Dialogue


def check_cases(seed: int = 0) -> list[Case]:
    """The check set: for each context the kind reply, the written kinds and the made ones."""
    lines = CONTEXTS.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    attacks = [attack.text for attack in load_attacks() if attack.place == "response"]
    draw, cases = random.Random(seed), []
    for i, row in enumerate(rows):
        replies = {TRUE: row["replies"][TRUE], **{kind: row["replies"][kind] for kind in WRITTEN}}
        replies |= {
            "other_reply": rows[(i + len(rows) // 2 + 1) % len(rows)]["replies"][TRUE],
            "parrot": row["context"][-1],
            "repetition": repeated(replies[TRUE]),
            "salad": shuffled(replies[TRUE], draw),
            "injection": replies["dismissive"] + attacks[i % len(attacks)],
        }
        cases += [Case(i, kind, row["emotion"], dialogue_of(row["context"], text)) for kind, text in replies.items()]
    return cases


def repeated(reply: str, times: int = 6) -> str:
    """The first sentence of a reply, several times."""
    ends = [place + 1 for mark in ".!?" if (place := reply.find(mark)) > 0]
    return " ".join([reply[: min(ends, default=len(reply))].strip()] * times)


def shuffled(reply: str, draw: random.Random) -> str:
    """The words of a reply in random order."""
    words = reply.split()
    draw.shuffle(words)
    return " ".join(words)


# ---- the check -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Check(Displayed):
    """
    What the check found.

    Args:
        scorer (`str`): The fingerprint.
        threshold (`list[float]`): T for sensibility and rationality.
        kinds (`dict[str, dict]`): Kind of reply -> `n` (scored replies), `unscored`, `mean` of each axis, `kept` (the
            share in the sensibility or rationality set), `quadrants` (share of each), and `below`: ranking -> share of
            contexts in which the reply ranks below the kind one (ties count half).
        warnings (`list[str]`): Signs of a degenerate scorer.
        seed (`int`): Of the made replies, the random baseline and the bootstrap.
    """

    scorer: str
    threshold: list[float]
    kinds: dict[str, dict[str, Any]]
    warnings: list[str]
    seed: int

    def parts(self) -> Iterable[str | Table]:
        """Two tables: how replies rank, and where they fall."""
        yield f"Behavioural check of {self.scorer}, T = {self.threshold[0]:g}, {self.threshold[1]:g}."
        yield from self.warnings
        rankings = list(next(iter(self.kinds.values()))["below"])
        ranked = [
            (kind, *(percent(row["below"][name]["share"]) for name in rankings))
            for kind, row in self.kinds.items()
            if kind != TRUE
        ]
        yield Table(("kind of reply", *rankings), ranked, "Share ranked below the kind reply, by each ranking")
        cells = [
            (
                kind,
                f"{row['n']:,}",
                *(number(row["mean"][axis]) for axis in AXES),
                with_interval(row["kept"]["share"], row["kept"]["interval"], ".0%"),
                *(percent(row["quadrants"][name]) for name in (*QUADRANTS, TIE)),
            )
            for kind, row in self.kinds.items()
        ]
        head = ("kind of reply", "n", "mean S", "mean R", "kept (95 %)", *QUADRANTS, TIE)
        yield Table(head, cells, "Where replies fall")


def check(scorer: Scorer, threshold: Any = DEFAULT_THRESHOLD, resamples: int = RESAMPLES, seed: int = 0) -> Check:
    """Checks how a scorer ranks good and bad replies, with bootstrap intervals over contexts."""
    cases = check_cases(seed)
    scores = ScoringRun(scorer).score([case.dialogue for case in cases]).scores
    kinds = _by_kind(cases, scores, threshold, "drop", resamples, seed)
    warnings = signs_of_degeneration(scores, threshold)
    return Check(scorer.fingerprint, list(thresholds(threshold)), kinds, warnings, seed)


def _rankings(dialogues: Sequence[Dialogue], scores: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Each ranking -> a value for each reply, of shape `(n,)`, NaN where it is unscored."""
    unscored = np.isnan(scores).any(axis=1)
    found = {axis: scores[:, i] for i, axis in enumerate(AXES)} | {"both": scores.mean(axis=1)}
    found["length"] = np.array([len(d.response.split()) for d in dialogues], float)
    found["random"] = np.random.default_rng(seed).random(len(dialogues))
    return {name: np.where(unscored, np.nan, values) for name, values in found.items()}


def _by_kind(
    cases: Sequence[Case], scores: np.ndarray, threshold: Any, ties: str, resamples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """For each kind of reply: where it falls, and how often it ranks below the true reply of its group."""
    where = quadrants(scores[:, 0], scores[:, 1], threshold, ties)
    rankings = _rankings([case.dialogue for case in cases], scores, seed)
    of_true = {case.group: i for i, case in enumerate(cases) if case.kind == TRUE}
    draw = np.random.default_rng(seed)
    found: dict[str, dict[str, Any]] = {}
    for kind in dict.fromkeys(case.kind for case in cases):
        members = np.array([i for i, case in enumerate(cases) if case.kind == kind])
        partners = np.array([of_true[cases[i].group] for i in members])
        scored = ~np.isnan(scores[members]).any(axis=1)
        names = where[members][scored]
        kept = np.isin(names, (SENSIBILITY, RATIONALITY))
        below = {
            name: _share(_is_below(values[members], values[partners]), resamples, draw)
            for name, values in rankings.items()
        }
        found[kind] = {
            "n": int(scored.sum()),
            "unscored": int((~scored).sum()),
            "mean": {axis: _mean(scores[members][scored, i]) for i, axis in enumerate(AXES)},
            "kept": _share(kept.astype(float), resamples, draw),
            "quadrants": {name: _mean(names == name) for name in (*QUADRANTS, TIE)},
            "below": below,
        }
    return found


def _is_below(values: np.ndarray, of_true: np.ndarray) -> np.ndarray:
    """1 where a value is below its partner, 0.5 where they are equal, 0 above; without the unscored."""
    both = ~(np.isnan(values) | np.isnan(of_true))
    a, b = values[both], of_true[both]
    return (a < b) + 0.5 * (a == b)


def _share(values: np.ndarray, resamples: int, draw: np.random.Generator) -> dict[str, Any]:
    if not len(values):
        return {"share": None, "interval": None}
    means = values[draw.integers(0, len(values), (resamples, len(values)))].mean(axis=1)
    return {"share": float(values.mean()), "interval": [float(end) for end in np.percentile(means, [2.5, 97.5])]}


def _mean(values: np.ndarray) -> float | None:
    return float(np.mean(values)) if len(values) else None


def signs_of_degeneration(scores: np.ndarray, threshold: Any = DEFAULT_THRESHOLD, ties: str = "drop") -> list[str]:
    """
    Sentences that say how a scorer is degenerate: it gives nearly one number, or nearly one quadrant.

    Args:
        scores (`np.ndarray` of shape `(n, 2)`): Of diverse replies; NaN where unscored.
        threshold, ties: See [`~ee_trl.selection.quadrants`].
    """
    scored = scores[~np.isnan(scores).any(axis=1)]
    if len(scored) < 20:
        return []
    found = []
    for i, axis in enumerate(AXES):
        values, counts = np.unique(np.round(scored[:, i], 1), return_counts=True)
        if counts.max() / len(scored) >= 0.8:
            most = values[counts.argmax()]
            found.append(f"The scorer gives {percent(counts.max(), len(scored))} of the replies a {axis} of {most:g}.")
        elif scored[:, i].std() < 0.3:
            found.append(f"The scorer's {axis} hardly varies: its standard deviation is {scored[:, i].std():.2f}.")
    names, counts = np.unique(quadrants(scored[:, 0], scored[:, 1], threshold, ties), return_counts=True)
    if counts.max() / len(scored) >= 0.95:
        share = percent(counts.max(), len(scored))
        found.append(f"The scorer puts {share} of the replies into one quadrant, {names[counts.argmax()]}.")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scorer", help="name, folder or hub id")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    args = parser.parse_args()
    found = check(load_scorer(args.scorer))
    print(found)
    if args.json:
        write_json(args.json, {"command": " ".join(["python", *sys.argv]), **asdict(found)})


if __name__ == "__main__":
    main()
