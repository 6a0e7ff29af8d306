"""The behavioural check of scorers: how they rank good and bad replies, what a threshold keeps, what people say."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..axes import (
    APPROPRIATENESS,
    AXES,
    DEFAULT_THRESHOLD,
    QUADRANTS,
    RATIONALITY,
    SENSIBILITY,
    TIE,
    TIES,
    Threshold,
    combined_scores,
    quadrants,
    thresholds,
)
from ..data.dialogue import Dialogue, Turns
from ..data.tables import progress_bar
from ..display import Displayed, Heading, Table, number, with_interval
from ..errors import SelectionError, check_choice, check_count
from ..files import digest
from ..scoring.base import Scorer
from ..scoring.dataset import DatasetScorer
from ..scoring.kinds import DEFAULT_SCORER
from ..scoring.run import ScoringRun
from .check_set import CORRUPTED, KINDS, TRUE, Case, Kind, corrupted_cases, set_cases
from .ratings import Rated, read_rated, with_people, word_counts


if TYPE_CHECKING:
    from ..data.tables import AnyDataset

    AnyScorer = str | os.PathLike[str] | Scorer | ScoringRun

LENGTH, RANDOM = "length", "random"
BASELINES = (LENGTH, RANDOM)
"""Every check shows them beside the scorers: the number of words of the reply, and chance."""

BELOW, AUC, KEPT, FLAGGED = "below", "auc", "kept", "flagged"
COMBINED = "combined"
_MEDIAN_WORDS = 12  # of the set's replies: longer ones are in the sensibility set of the baseline `length`
_STEP = 256  # replies that are scored between two moves of the progress bar


@dataclass(frozen=True)
class Baseline:
    """A scorer that does not read what is said: it counts the reply's words, or draws numbers by the text's hash."""

    name: str
    stored = False

    @property
    def fingerprint(self) -> str:
        """The baseline's name."""
        return f"baseline-1/{self.name}"

    def score(self, dialogues: Sequence[Dialogue]) -> np.ndarray:
        """Of shape `(n, 2)`. Sensibility by length grows with the number of words, rationality is then 0."""
        if self.name == RANDOM:
            drawn = [digest("\n".join((*d.context, d.response))) for d in dialogues]
            return np.array([[int(text[:6], 16), int(text[6:], 16)] for text in drawn]).reshape(-1, 2) * 10 / 16**6
        words = word_counts(dialogues)
        return np.stack([10 * words / (words + _MEDIAN_WORDS), np.zeros(len(words))], axis=1)


@dataclass(frozen=True)
class BehaviourCheck(Displayed):
    """
    What [`behaviour_check`] found. Prints as tables; [`~BehaviourCheck.to_dict`] gives the same for machines.

    Args:
        threshold (`list[float]`): T for sensibility and rationality.
        ties (`str`): See [`~ee_trl.axes.quadrants`].
        contexts, dialogues (`int`): How many contexts the set has, and how many dialogues the user's data.
        scorers (`dict[str, dict]`):
            Scorer -> `fingerprint`, `kinds` (of the set), `data` (made from the user's data) and `human`; the last two
            scorers are [`BASELINES`]. `kinds` and `data` hold for each kind of reply `n` (scored), `unscored`, `mean`
            of each axis, `quadrants` (shares, without the flagged), `flags` (counts), `bars`, `missed` and `passes`;
            and with `share` and `interval`: `below` (ranks below the true reply by the combined score, ties count
            half), `auc`, `kept` (in the sensibility or rationality set, without a flag), `flagged`. `human` holds
            for each column of ratings the [`~ee_trl.reports.ratings.correlations`] of each ranking.
        resamples, seed (`int`): Of the bootstrap, of the made replies.
    """

    threshold: list[float]
    ties: str
    contexts: int
    dialogues: int
    scorers: dict[str, dict[str, Any]]
    resamples: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain types."""
        return asdict(self)

    def parts(self) -> Iterator[str | Table]:
        """Ranks and kept shares of all scorers side by side, quadrants and flags of each, correlations with people."""
        t_s, t_r = self.threshold
        yield f"Behavioural check at T = {t_s:g} (sensibility) and {t_r:g} (rationality). ! marks a missed bar."
        yield Heading(f"The check set: {self.contexts:,} contexts")
        yield from self._section("kinds")
        if self.dialogues:
            yield Heading(f"Replies made from the data: {self.dialogues:,} dialogues")
            yield from self._section("data")
        for column in next(iter(self.scorers.values()))["human"]:
            rows = [
                (
                    name,
                    ranking,
                    with_interval(row["spearman"], row["interval"]),
                    with_interval(row["partial"], row["partial_interval"]),
                    f"{row['n']:,}",
                )
                for name, found in self.scorers.items()
                for ranking, row in found["human"][column].items()
            ]
            head = ("scorer", "ranking", "Spearman (95 %)", "partial, given length (95 %)", "rated")
            yield Table(head, rows, f"Correlation with the ratings by people in {column!r}", texts=2)

    def _section(self, part: str) -> Iterator[Table]:
        yield from check_tables(self.scorers, part)
        for name, found in self.scorers.items():
            if name not in BASELINES or len(self.scorers) == len(BASELINES):
                yield _quadrants_table(name, found[part])


def check_tables(scorers: Mapping[str, Mapping[str, Any]], part: str = "kinds") -> Iterator[Table]:
    """Of the set (`"kinds"`) or of the user's `"data"`: how each scorer ranks the replies, and which it keeps."""
    for name, what in (
        (BELOW, "Share ranked below the true reply, by the combined score (95 %)"),
        (AUC, "AUC: the chance that any true reply ranks above any of these (95 %)"),
        (KEPT, "Share in the sensibility or rationality set (95 %)"),
    ):
        rows = [
            (kind, _bar(row["bars"], name), *(_cell(found[part][kind], name) for found in scorers.values()))
            for kind, row in next(iter(scorers.values()))[part].items()
            if row[name]
        ]
        if name != AUC or part == "data":
            yield Table(("kind of reply", "bar", *scorers), rows, what)


def check_parts(scorers: Mapping[str, Mapping[str, Any]], title: str = "") -> list[str | Table]:
    """The check of one scorer beside the baselines, for a report or a card."""
    about = "Bad replies to the contexts of `ee-trl check` must rank below the kind ones. ! marks a missed bar."
    return [Heading(f"Behavioural check{title}"), about, *check_tables(scorers)]


def _quadrants_table(name: str, rows: Mapping[str, Mapping[str, Any]]) -> Table:
    cells = [
        (
            kind,
            f"{row['n']:,}",
            *(number(row["mean"][axis]) for axis in AXES),
            *(number(row["quadrants"][quadrant], ".0%") for quadrant in (*QUADRANTS, TIE)),
            _cell(row, FLAGGED),
            ", ".join(f"{n:,} {flag}" for flag, n in row["flags"].items()),
        )
        for kind, row in rows.items()
    ]
    head = ("kind of reply", "scored", "mean S", "mean R", *QUADRANTS, TIE, "flagged (95 %)", "flags")
    return Table(head, cells, f"{name}: where the replies fall")


def _bar(bars: Mapping[str, float], name: str) -> str:
    sign = "at most" if name in (KEPT, FLAGGED) else "at least"
    return f"{sign} {number(bars[name], '.2f' if name == AUC else '.0%')}" if name in bars else ""


def _cell(row: Mapping[str, Any], name: str) -> str:
    found = row[name]
    text = with_interval(found["share"], found["interval"], ".2f" if name == AUC else ".0%")
    return f"{text} !" if name in row["missed"] else text


def behaviour_check(
    scorers: AnyScorer | Iterable[AnyScorer] | Mapping[str, AnyScorer] = DEFAULT_SCORER,
    data: AnyDataset | str | os.PathLike[str] | None = None,
    *,
    turns: Turns = "each",
    human: Sequence[str] = (),
    by: str | None = None,
    limit: int | None = None,
    threshold: Threshold = DEFAULT_THRESHOLD,
    ties: str = "drop",
    store: Any = True,
    retry_failures: bool = False,
    resamples: int = 1_000,
    seed: int = 0,
    show_progress: bool | None = None,
    **scorer_options: Any,
) -> BehaviourCheck:
    """
    Checks scorers: whether they rank bad replies below good ones, what T keeps, and how they agree with people.

    Args:
        scorers (`str`, `os.PathLike`, [`Scorer`], several of them, or name -> scorer, *optional*):
            What is checked, as [`~ee_trl.load_scorer`] takes it; by default the default scorer. The baselines
            `"length"` and `"random"` are added.
        data (`Dataset`, `IterableDataset`, `str` or `os.PathLike`, *optional*):
            Dialogues with good replies. Bad ones are made of them: swapped, repeated, truncated and shuffled.
        turns (`str`, *optional*, defaults to `"each"`): See [`~ee_trl.EmpathyDataSelector`].
        human (`Sequence[str]`, *optional*):
            Columns of `data` with ratings by people: numbers, or lists of numbers. A rating is compared with the mean
            over the replies of its row.
        by (`str`, *optional*): Column that names the dialogue of a row: ratings and scores are averaged over it.
        limit (`int`, *optional*): At most this many rows of `data`, or dialogues with `by`, evenly spaced.
        threshold, ties: See [`~ee_trl.axes.quadrants`].
        store, retry_failures, show_progress: See [`~ee_trl.EmpathyDataSelector`].
        resamples (`int`, *optional*, defaults to `1000`): Bootstrap resamples behind the intervals of correlations.
        seed (`int`, *optional*, defaults to `0`): Of the made replies and the bootstrap.
        scorer_options: Passed to the scorers' classes.

    Returns:
        [`BehaviourCheck`].

    Raises:
        [`ScorerError`]: There is no such scorer.
        [`ScoresError`]: A column of ratings is missing, or holds something else than numbers.

    Example:
        ```python
        from ee_trl import behaviour_check

        found = behaviour_check("linear")
        print(found.scorers["linear"]["kinds"]["cruel"]["kept"]["share"])
        ```
    """
    pair = thresholds(threshold)
    check_count("resamples", resamples, 0)
    check_choice("ties", ties, TIES, SelectionError)
    options = {"threshold": pair, "ties": ties, "store": store, "retry_failures": retry_failures, **scorer_options}
    waiting = {  # loaded one after the other; but a name that is wrong is refused now
        name: one if isinstance(one, ScoringRun) else DatasetScorer(one, **options)
        for name, one in _named(scorers).items()
    } | {name: ScoringRun(Baseline(name)) for name in BASELINES}
    rated = Rated() if data is None else read_rated(data, turns, human, by, limit)
    cases = {"kinds": set_cases(seed), "data": corrupted_cases(rated.dialogues, seed)}
    found: dict[str, dict[str, Any]] = {}
    for name in list(waiting):
        one = waiting.pop(name)
        run = one if isinstance(one, ScoringRun) else one.new_run()
        with progress_bar(total=sum(map(len, cases.values())), label=name, show=show_progress, unit="replies") as bar:
            scored = {part: _score(run, [case.dialogue for case in of], bar) for part, of in cases.items()}
        true = [i for i, case in enumerate(cases["data"]) if case.kind == TRUE]
        found[name] = {
            "fingerprint": run.scorer.fingerprint,
            "kinds": _by_kind(cases["kinds"], scored["kinds"], KINDS, pair, ties),
            "data": _by_kind(cases["data"], scored["data"], CORRUPTED, pair, ties),
            "human": with_people(rated, _rankings(name, rated, scored["data"], true), resamples, seed),
        }
    contexts = len({case.group for case in cases["kinds"]})
    return BehaviourCheck(list(pair), ties, contexts, len(rated.dialogues), found, resamples, seed)


def _named(scorers: Any) -> dict[str, Any]:
    """Name -> scorer; an object is named by its fingerprint. Baselines are left out."""
    if isinstance(scorers, (str, os.PathLike)) or not isinstance(scorers, Iterable):
        scorers = [scorers]
    if not isinstance(scorers, Mapping):
        scorers = {_name_of(one): one for one in scorers}
    return {name: scorer for name, scorer in scorers.items() if name not in BASELINES}


def _name_of(scorer: Any) -> str:
    if isinstance(scorer, (str, os.PathLike)):
        return os.fspath(scorer)
    return getattr(scorer.scorer if isinstance(scorer, ScoringRun) else scorer, "fingerprint", repr(scorer))


class _Scored(NamedTuple):
    """Scores of shape `(n, 2)`, one number for each reply, and its flag or `None`; NaN where unscored."""

    scores: np.ndarray
    combined: np.ndarray
    flags: np.ndarray


def _score(run: ScoringRun, dialogues: Sequence[Dialogue], bar: Any) -> _Scored:
    flags: list[str | None] = []
    scores, fits = np.full((len(dialogues), len(AXES)), np.nan), np.full(len(dialogues), np.nan)
    for start in range(0, len(dialogues), _STEP):
        found = run.score(dialogues[start : start + _STEP])
        here = slice(start, start + len(found.scores))
        scores[here], fits[here] = found.scores, found.details.get(APPROPRIATENESS, np.nan)
        flags += found.flags or [None] * len(found.scores)
        bar.update(len(found.scores))
    return _Scored(scores, combined_scores(scores, fits, flags), np.array(flags, object))


def _by_kind(
    cases: Sequence[Case], found: _Scored, bars: Mapping[str, Kind], threshold: Threshold, ties: str
) -> dict[str, dict[str, Any]]:
    """For each kind of reply: how it ranks beside the true reply, where it falls, and the verdict."""
    where = quadrants(found.scores[:, 0], found.scores[:, 1], threshold, ties)
    known = where != ""
    where[known & found.flags.astype(bool)] = FLAGGED
    of_true = {case.group: i for i, case in enumerate(cases) if case.kind == TRUE}
    table: dict[str, dict[str, Any]] = {}
    for kind, bar in bars.items():
        members = np.array([i for i, case in enumerate(cases) if case.kind == kind], np.intp)
        if not len(members):
            continue
        partners = np.array([of_true[cases[i].group] for i in members], np.intp)
        both, inside = known[members] & known[partners], members[known[members]]
        ours, true = found.combined[members[both]], found.combined[partners[both]]
        row: dict[str, Any] = {
            "n": len(inside),
            "unscored": len(members) - len(inside),
            "mean": {axis: _mean(found.scores[inside, i]) for i, axis in enumerate(AXES)},
            BELOW: None if kind == TRUE else wilson((ours < true) + 0.5 * (ours == true)),
            AUC: None if kind == TRUE else auc(true, ours),
            KEPT: wilson(np.isin(where[inside], (SENSIBILITY, RATIONALITY))),
            FLAGGED: wilson(where[inside] == FLAGGED),
            "quadrants": {name: _mean(where[inside] == name) for name in (*QUADRANTS, TIE)},
            "flags": dict(Counter(flag for flag in found.flags[inside] if flag).most_common()),
        }
        table[kind] = row | _verdict(row, bar)
    return table


def _mean(values: np.ndarray) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _verdict(row: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
    """The bars of a kind, which of them are missed, and whether all are met; `None` where nothing can be said."""
    bars = {name: bar for name in (BELOW, AUC, KEPT, FLAGGED) if (bar := getattr(kind, name)) is not None}
    shares = {name: row[name]["share"] for name in bars if row[name]["share"] is not None}
    missed = [n for n, share in shares.items() if (share < bars[n] if n in (BELOW, AUC) else share > bars[n])]
    return {"bars": bars, "missed": missed, "passes": not missed if shares else None}


def wilson(values: np.ndarray) -> dict[str, Any]:
    """The mean of values in [0, 1], with Wilson's 95 % interval."""
    n, z = len(values), 1.96
    if not n:
        return {"share": None, "interval": None}
    share = float(np.mean(values))
    half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return {
        "share": share,
        "interval": [max(0.0, float((share + z**2 / (2 * n) + end) / (1 + z**2 / n))) for end in (-half, half)],
    }


def auc(true: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    """The chance that a true reply ranks above another, of any context, with DeLong's 95 % interval for pairs."""
    n = len(true)
    if n < 2:
        return {"share": None, "interval": None}
    above, under = (
        (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / (2 * n)
        for ordered, values in ((np.sort(other), true), (np.sort(true), other))
    )
    share, half = float(above.mean()), 1.96 * float((above - under).std(ddof=1)) / n**0.5
    return {"share": share, "interval": [max(0.0, share - half), min(1.0, share + half)]}


def _rankings(name: str, rated: Rated, found: _Scored, rows: Sequence[int]) -> dict[str, np.ndarray]:
    """What is compared with the ratings by people: each axis and the combined score, of the given replies."""
    if name == LENGTH:
        return {COMBINED: word_counts(rated.dialogues)}
    axes = {} if name == RANDOM else {axis: found.scores[rows, i] for i, axis in enumerate(AXES)}
    return {**axes, COMBINED: found.combined[rows]}
