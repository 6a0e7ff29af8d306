"""What raters' answers come to: wins, significance, and how far the raters agree with each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import EmpathyError, require
from .files import Answers
from .sheets import AB, CHOICES, Key


if TYPE_CHECKING:
    import numpy as np

_PURPOSE = "what human answers come to"
WIN, TIE, LOSE = "win", "tie", "lose"

Table = dict[tuple[int, str], dict[str, Any]]
"""(dialogue, what is judged) -> sheet -> answer, as it is of the candidates rather than of A and B."""


def study_results(
    key: Key, answers: Sequence[Answers], *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> dict[str, Any]:
    """
    Undoes the blinding and sums up.

    Args:
        key ([`Key`]): Of the study.
        answers (`Sequence[Answers]`): A file of each rater.
        resamples (`int`, *optional*, defaults to `1000`): Bootstrap resamples, of dialogues.
        confidence (`float`, *optional*, defaults to `0.95`): Of the intervals.
        seed (`int`, *optional*, defaults to `0`): Of the resamples.

    Returns:
        `dict`: `study`, `kind`, `candidates`, `raters`, `answered` and `open` (answers), and `aspects`: of each the
        wins ([`compare_answers`]) or ratings ([`rate_answers`]) and the `agreement` of the raters ([`agreement`]).

    Raises:
        [`EmpathyError`]: There are no answers, two files of one sheet, or a bootstrap that cannot be drawn.
        [`MissingExtraError`]: statsmodels, krippendorff or scipy is not installed.
    """
    from ..evaluation.bootstrap import Bootstrap

    for module in ("statsmodels.stats.inter_rater", "krippendorff", "scipy.stats"):
        require(module, extra="human", purpose=_PURPOSE)
    Bootstrap(resamples, confidence, seed)  # refuses what cannot be drawn
    twice = [sheet for sheet, n in Counter(a.sheet for a in answers).items() if n > 1]
    if twice:
        files = ", ".join(repr(a.source) for a in answers if a.sheet == twice[0])
        raise EmpathyError(f"{files} are all answers to {twice[0]}; give one file for each rater's sheet")
    answered = sum(len(said) for a in answers for said in a.given.values())
    if not answered:
        raise EmpathyError("no question was answered in any of the files")
    asked = sum(len(key.sheets[a.sheet]) for a in answers) * len(key.aspects)
    aspects = {}
    for aspect in key.aspects:
        table = unblinded(key, answers, aspect)
        summed = compare_answers if key.kind == AB else rate_answers
        level = "nominal" if key.kind == AB else "ordinal"
        aspects[aspect] = {
            **summed(table, key.candidates, resamples, confidence, seed),
            "agreement": agreement(table, [a.sheet for a in answers], level),
        }
    _correct(aspects)
    return {
        "study": key.study,
        "kind": key.kind,
        "candidates": key.candidates,
        "raters": len(answers),
        "answered": answered,
        "open": asked - answered,
        "aspects": aspects,
    }


def unblinded(key: Key, answers: Sequence[Answers], aspect: str) -> Table:
    """
    The answers about an aspect, by what was really shown.

    Returns:
        `dict`: of `"ab"`, (dialogue, `""`) -> sheet -> `"win"`, `"tie"` or `"lose"` of the first candidate; of
        `"rating"`, (dialogue, candidate) -> sheet -> 1 to 5.
    """
    table: Table = {}
    for rater in answers:
        for item, said in rater.given.items():
            if aspect not in said:
                continue
            entry = key.sheets[rater.sheet][item]
            place: str = ""
            value: Any
            if key.kind == AB:
                value = _verdict(said[aspect], entry["shown"], key.candidates[0])
            else:
                place, value = entry["shown"][0], int(said[aspect])
            table.setdefault((entry["dialogue"], place), {})[rater.sheet] = value
    return table


def _verdict(answer: str, shown: Sequence[str], first: str) -> str:
    if answer == "tie":
        return TIE
    return WIN if shown[CHOICES[AB].index(answer)] == first else LOSE


# ---- two side by side ----------------------------------------------------------------------------------------------


def compare_answers(
    table: Table, candidates: Sequence[str], resamples: int, confidence: float, seed: int
) -> dict[str, Any]:
    """
    How often the first candidate was preferred to the second.

    Raters of one dialogue are not independent, so significance is by dialogue: the exact sign test of whether more
    dialogues lean (by the mean of their raters) to the first candidate than to the second.

    Returns:
        `dict`: `win`, `tie`, `lose` (each `count` and `share` of all answers), `net` (share of wins minus losses,
        mean over the dialogues, with `interval`), `dialogues` (how many lean to the first, to neither, to the second)
        and `p`.
    """
    import numpy as np

    stats = require("scipy.stats", extra="human", purpose=_PURPOSE)
    counts = Counter(value for said in table.values() for value in said.values())
    total = counts.total()
    value = {WIN: 1.0, TIE: 0.0, LOSE: -1.0}
    leans = np.array([np.mean([value[answer] for answer in said.values()]) for said in table.values()])
    above, below = int((leans > 0).sum()), int((leans < 0).sum())
    return {
        **{
            name: {"count": counts[name], "share": counts[name] / total if total else None}
            for name in (WIN, TIE, LOSE)
        },
        "net": float(leans.mean()) if len(leans) else None,
        "interval": _interval(leans, resamples, confidence, seed),
        "dialogues": {candidates[0]: above, "neither": len(leans) - above - below, candidates[1]: below},
        "p": float(stats.binomtest(above, above + below).pvalue) if above + below else None,
    }


# ---- ratings -------------------------------------------------------------------------------------------------------


def rate_answers(
    table: Table, candidates: Sequence[str], resamples: int, confidence: float, seed: int
) -> dict[str, Any]:
    """
    The mean rating of each candidate, and for every two of them whether they differ.

    Returns:
        `dict`: `means`, candidate -> `mean` (1 to 5, over the dialogues' means), `interval` and `n` (answers); and
        `pairs`, each `a`, `b`, `difference` (B - A over the dialogues that both have), `interval` and `p` (Wilcoxon's
        signed-rank test).
    """
    import numpy as np

    by_dialogue = {name: {d: np.mean(list(said.values())) for (d, n), said in table.items() if n == name}
                   for name in candidates}  # fmt: skip
    means = {}
    for name in candidates:
        values = np.array(list(by_dialogue[name].values()))
        means[name] = {
            "mean": float(values.mean()) if len(values) else None,
            "interval": _interval(values, resamples, confidence, seed),
            "n": sum(len(said) for (_, n), said in table.items() if n == name),
        }
    pairs = [
        _pair(a, b, by_dialogue, resamples, confidence, seed) for i, a in enumerate(candidates)
        for b in candidates[i + 1 :]
    ]  # fmt: skip
    return {"means": means, "pairs": pairs}


def _pair(
    a: str, b: str, by_dialogue: Mapping[str, Mapping[int, Any]], resamples: int, confidence: float, seed: int
) -> dict[str, Any]:
    import numpy as np

    stats = require("scipy.stats", extra="human", purpose=_PURPOSE)
    both = [d for d in by_dialogue[a] if d in by_dialogue[b]]
    differences = np.array([by_dialogue[b][d] - by_dialogue[a][d] for d in both])
    differs = bool(len(differences)) and bool((differences != 0).any())
    return {
        "a": a,
        "b": b,
        "difference": float(differences.mean()) if len(differences) else None,
        "interval": _interval(differences, resamples, confidence, seed),
        "p": float(stats.wilcoxon(differences).pvalue) if differs else None,
    }


# ---- agreement of the raters ---------------------------------------------------------------------------------------


def agreement(table: Table, sheets: Sequence[str], level: str) -> dict[str, Any]:
    """
    How far raters agree beyond chance.

    Args:
        table (`dict`): As [`unblinded`] gives it.
        sheets (`Sequence[str]`): The raters.
        level (`str`): Of Krippendorff's alpha: `"nominal"`, or `"ordinal"` where answers have an order.

    Returns:
        `dict`: `fleiss_kappa` (nominal, statsmodels) over the `items` that every rater answered, and
        `krippendorff_alpha` (of that `level`) over all that two or more did. `None` where there is too little to say,
        or all answers are the same.
    """
    import numpy as np

    inter_rater = require("statsmodels.stats.inter_rater", extra="human", purpose=_PURPOSE)
    krippendorff = require("krippendorff", extra="human", purpose=_PURPOSE)
    kinds = sorted({value for said in table.values() for value in said.values()}, key=_rank)
    code = {value: i for i, value in enumerate(kinds)}
    rows = np.array([[code.get(said.get(sheet), np.nan) for sheet in sheets] for said in table.values()], float)
    found: dict[str, Any] = {
        "fleiss_kappa": None, "items": 0, "krippendorff_alpha": None, "level": level, "raters": len(sheets)
    }  # fmt: skip
    if not len(rows) or len(sheets) < 2:
        return found
    complete = rows[~np.isnan(rows).any(axis=1)].astype(int)
    found["items"] = len(complete)
    if len(complete) and len(np.unique(complete)) > 1:
        counts, _ = inter_rater.aggregate_raters(complete, n_cat=len(kinds))
        found["fleiss_kappa"] = float(inter_rater.fleiss_kappa(counts))
    paired = rows[(~np.isnan(rows)).sum(axis=1) >= 2]
    if len(paired) and len(np.unique(paired[~np.isnan(paired)])) > 1:
        found["krippendorff_alpha"] = float(krippendorff.alpha(paired.T, level_of_measurement=level))
    return found


def _rank(value: Any) -> Any:
    return (LOSE, TIE, WIN).index(value) if isinstance(value, str) else value


# ---- both ----------------------------------------------------------------------------------------------------------


def _interval(values: np.ndarray, resamples: int, confidence: float, seed: int) -> list[float] | None:
    """The bootstrap interval of a mean over dialogues."""
    from ..evaluation.bootstrap import Bootstrap, intervals, means

    if not len(values) or not resamples:
        return None
    return intervals(means({"mean": values}), Bootstrap(resamples, confidence, seed))["mean"]


def _correct(aspects: Mapping[str, dict[str, Any]]) -> None:
    """Adds `p_holm` beside every `p`, corrected for the number of aspects (and pairs)."""
    from ..evaluation.bootstrap import holm

    entries: dict[str, dict[str, Any]] = {}
    for aspect, row in aspects.items():
        for i, entry in enumerate(row.get("pairs", [row])):
            entries[f"{aspect} {i}"] = entry
    for name, p in holm({name: entry["p"] for name, entry in entries.items()}).items():
        entries[name]["p_holm"] = p


def results_markdown(found: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    from ..reports.markdown import _cell, _table

    names = [_cell(name) for name in found["candidates"]]
    lines = [
        "# Human evaluation",
        f"{found['raters']} raters, {found['answered']:,} answers, {found['open']:,} left open (study "
        f"{found['study']}).",
    ]
    if found["kind"] == AB:
        head = ("aspect", f"{names[0]} wins", "tie", f"{names[1]} wins", "net", "p", "p (Holm)")
        lines.append(_table(head, [_ab_row(aspect, row) for aspect, row in found["aspects"].items()]))
        lines.append(
            f"Shares are of all answers. Net: wins minus losses of {names[0]}, mean over the dialogues, with its "
            "interval. p: exact sign test over the dialogues, each leaning as its raters do on average."
        )
    else:
        rows = [
            (
                aspect,
                *(_with(row["means"][name]["mean"], row["means"][name]["interval"]) for name in found["candidates"]),
            )
            for aspect, row in found["aspects"].items()
        ]
        lines.append(_table(("aspect", *names), rows))
        pairs = [
            (aspect, f"{_cell(p['b'])} minus {_cell(p['a'])}", _with(p["difference"], p["interval"]), *_p(p))
            for aspect, row in found["aspects"].items()
            for p in row["pairs"]
        ]
        if pairs:
            lines.append(_table(("aspect", "pair", "difference", "p (Wilcoxon)", "p (Holm)"), pairs))
    rows = [
        (aspect, _number(a["fleiss_kappa"]), str(a["items"]), _number(a["krippendorff_alpha"]), a["level"])
        for aspect, a in ((aspect, row["agreement"]) for aspect, row in found["aspects"].items())
    ]
    lines.append("## Agreement of the raters")
    lines.append(_table(("aspect", "Fleiss' kappa", "items", "Krippendorff's alpha", "level"), rows))
    return "\n\n".join(lines) + "\n"


def _ab_row(aspect: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    shares = (f"{row[name]['share']:.1%} ({row[name]['count']})" if row[name]["share"] is not None else "n/a"
              for name in (WIN, TIE, LOSE))  # fmt: skip
    return (aspect, *shares, _with(row["net"], row["interval"]), *_p(row))


def _p(row: Mapping[str, Any]) -> tuple[str, str]:
    first, second = (("n/a" if row[name] is None else f"{row[name]:.3f}") for name in ("p", "p_holm"))
    return first, second


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2f}"


def _with(value: float | None, ends: Sequence[float] | None) -> str:
    return _number(value) if not ends else f"{_number(value)} ({ends[0]:.2f} to {ends[1]:.2f})"
