"""The results of a study: wins or ratings, their significance, and how far the raters agree with each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, Literal

import numpy as np

from ..display import Heading, Table, Title, as_markdown, number, percent, with_interval
from ..errors import EmpathyError, require
from ..evaluation.bootstrap import Bootstrap, holm, intervals, means
from .sheets import AB, CHOICES, Answers, Key


WIN, TIE, LOSE = "win", "tie", "lose"

Unblinded = dict[tuple[int, str], dict[str, Any]]


def study_results(
    key: Key, answers: Sequence[Answers], *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> dict[str, Any]:
    """Undoes the blinding and sums up: for each aspect wins or ratings, and the agreement of the raters."""
    for module in ("statsmodels.stats.inter_rater", "krippendorff", "scipy.stats"):
        require(module, extra="human", purpose="the results of human raters")
    bootstrap = Bootstrap(resamples, confidence, seed)
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
        agreed = agreement(table, [a.sheet for a in answers], "nominal" if key.kind == AB else "ordinal")
        aspects[aspect] = {**summed(table, key.candidates, bootstrap), "agreement": agreed}
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


def unblinded(key: Key, answers: Sequence[Answers], aspect: str) -> Unblinded:
    """
    The answers about an aspect, by the candidates that were shown: for `"ab"`, (dialogue, `""`) -> sheet -> `"win"`,
    `"tie"` or `"lose"` of the first candidate; for `"rating"`, (dialogue, candidate) -> sheet -> 1 to 5.
    """
    table: Unblinded = {}
    for rater in answers:
        for item, said in rater.given.items():
            if aspect not in said:
                continue
            entry = key.sheets[rater.sheet][item]
            shown, dialogue = entry["shown"], entry["dialogue"]
            if key.kind == AB:
                verdict = _verdict(said[aspect], shown, key.candidates[0])
                table.setdefault((dialogue, ""), {})[rater.sheet] = verdict
            else:
                table.setdefault((dialogue, shown[0]), {})[rater.sheet] = int(said[aspect])
    return table


def _verdict(answer: str, shown: Sequence[str], first: str) -> str:
    if answer == "tie":
        return TIE
    return WIN if shown[CHOICES[AB].index(answer)] == first else LOSE


def compare_answers(table: Unblinded, candidates: Sequence[str], bootstrap: Bootstrap) -> dict[str, Any]:
    """
    How often the first candidate was preferred to the second.

    Raters of one dialogue are not independent, so significance is by dialogue: the exact sign test of whether more
    dialogues lean (by the mean of their raters) to the first candidate than to the second. `net` is the share of wins
    minus losses, averaged over the dialogues.
    """
    from scipy import stats

    counts = Counter(value for said in table.values() for value in said.values())
    total = counts.total()
    value = {WIN: 1.0, TIE: 0.0, LOSE: -1.0}
    leans = [float(np.mean([value[answer] for answer in said.values()])) for said in table.values()]
    above, below = sum(lean > 0 for lean in leans), sum(lean < 0 for lean in leans)
    shares = {name: counts[name] / total if total else None for name in (WIN, TIE, LOSE)}
    return {
        **{name: {"count": counts[name], "share": share} for name, share in shares.items()},
        **_mean("net", leans, bootstrap),
        "dialogues": {candidates[0]: above, "neither": len(leans) - above - below, candidates[1]: below},
        "p": float(stats.binomtest(above, above + below).pvalue) if above + below else None,
    }


def rate_answers(table: Unblinded, candidates: Sequence[str], bootstrap: Bootstrap) -> dict[str, Any]:
    """
    The mean rating (1 to 5, over the dialogues' means) of each candidate with its `n` answers, and for each pair the
    difference B - A over the dialogues that both have, with `p` of Wilcoxon's signed-rank test.
    """
    by_dialogue = {
        name: {dialogue: np.mean(list(said.values())) for (dialogue, of), said in table.items() if of == name}
        for name in candidates
    }
    answers = {name: sum(len(said) for (_, of), said in table.items() if of == name) for name in candidates}
    return {
        "means": {
            name: {**_mean("mean", list(by_dialogue[name].values()), bootstrap), "n": answers[name]}
            for name in candidates
        },
        "pairs": [_pair(a, b, by_dialogue, bootstrap) for a, b in combinations(candidates, 2)],
    }


def _pair(a: str, b: str, by_dialogue: Mapping[str, Mapping[int, Any]], bootstrap: Bootstrap) -> dict[str, Any]:
    from scipy import stats

    differences = [by_dialogue[b][d] - by_dialogue[a][d] for d in by_dialogue[a] if d in by_dialogue[b]]
    p = float(stats.wilcoxon(differences).pvalue) if any(differences) else None
    return {"a": a, "b": b, **_mean("difference", differences, bootstrap), "p": p}


def agreement(table: Unblinded, sheets: Sequence[str], level: Literal["nominal", "ordinal"]) -> dict[str, Any]:
    """
    How far raters agree beyond chance: Fleiss' kappa (nominal) over the `items` that every rater answered, and
    Krippendorff's alpha of the `level` over those that at least two answered. `None` where there are too few answers,
    or all are the same.
    """
    import krippendorff
    from statsmodels.stats import inter_rater

    kinds = sorted({value for said in table.values() for value in said.values()}, key=_rank)
    code = {value: i for i, value in enumerate(kinds)}
    rows = np.array([[code.get(said.get(sheet), np.nan) for sheet in sheets] for said in table.values()], float)
    found: dict[str, Any] = {"fleiss_kappa": None, "items": 0, "krippendorff_alpha": None}
    found |= {"level": level, "raters": len(sheets)}
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


def _mean(name: str, values: Sequence[Any], bootstrap: Bootstrap) -> dict[str, Any]:
    """A mean over dialogues by name, and its bootstrap `interval`; `None` where there is none."""
    mean = float(np.mean(values)) if len(values) else None
    drawn = len(values) and bootstrap.resamples
    return {name: mean, "interval": intervals(means({name: np.array(values)}), bootstrap)[name] if drawn else None}


def _correct(aspects: Mapping[str, dict[str, Any]]) -> None:
    """Adds `p_holm` beside every `p`, corrected for the number of aspects (and pairs)."""
    entries = [entry for row in aspects.values() for entry in row.get("pairs", [row])]
    corrected = holm({str(i): entry["p"] for i, entry in enumerate(entries)})
    for entry, p in zip(entries, corrected.values(), strict=True):
        entry["p_holm"] = p


def results_markdown(found: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    parts = [
        Title("Human evaluation"),
        f"{found['raters']} raters, {found['answered']:,} answers, {found['open']:,} left open (study "
        f"{found['study']}).",
        *(_wins if found["kind"] == AB else _ratings)(found["candidates"], found["aspects"]),
        Heading("Agreement of the raters"),
        _agreement_table(found["aspects"]),
    ]
    return as_markdown(parts) + "\n"


def _wins(names: Sequence[str], aspects: Mapping[str, Any]) -> Iterable[str | Table]:
    rows = [
        (
            aspect,
            *(f"{percent(row[name]['share'])} ({row[name]['count']})" for name in (WIN, TIE, LOSE)),
            with_interval(row["net"], row["interval"]),
            *_p_values(row),
        )
        for aspect, row in aspects.items()
    ]
    yield Table(("aspect", f"{names[0]} wins", "tie", f"{names[1]} wins", "net", "p", "p (Holm)"), rows)
    yield (
        f"Shares are of all answers. Net: wins minus losses of {names[0]}, averaged over the dialogues, with its "
        "interval. p: exact sign test over the dialogues; the mean of its raters decides each dialogue."
    )


def _ratings(names: Sequence[str], aspects: Mapping[str, Any]) -> Iterable[str | Table]:
    rows = [
        (aspect, *(with_interval(row["means"][name]["mean"], row["means"][name]["interval"]) for name in names))
        for aspect, row in aspects.items()
    ]
    yield Table(("aspect", *names), rows)
    pairs = [
        (aspect, f"{p['b']} minus {p['a']}", with_interval(p["difference"], p["interval"]), *_p_values(p))
        for aspect, row in aspects.items()
        for p in row["pairs"]
    ]
    if pairs:
        yield Table(("aspect", "pair", "difference", "p (Wilcoxon)", "p (Holm)"), pairs)


def _agreement_table(aspects: Mapping[str, Any]) -> Table:
    found = ((aspect, row["agreement"]) for aspect, row in aspects.items())
    rows = [
        (aspect, number(a["fleiss_kappa"]), str(a["items"]), number(a["krippendorff_alpha"]), a["level"])
        for aspect, a in found
    ]
    return Table(("aspect", "Fleiss' kappa", "items", "Krippendorff's alpha", "level"), rows)


def _p_values(row: Mapping[str, Any]) -> tuple[str, str]:
    return number(row["p"], ".3f"), number(row["p_holm"], ".3f")
