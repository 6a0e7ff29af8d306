"""Two scorers as one: the cheap one decides where it is sure, the judge is asked near the decision boundary."""

from __future__ import annotations

import heapq
import logging
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np

from ..axes import AXES, DEFAULT_THRESHOLD, TIES, Threshold, thresholds
from ..data.dialogue import SCORED, Dialogue
from ..data.samples import GIVEN
from ..errors import ScorerError, unknown
from .base import ScoredBatch, Scorer
from .cascade_report import CascadeReport
from .conformal import LearntDoubt, classes_of, distance_doubt, limit_for_budget, limit_for_promise
from .load import load_scorer
from .run import ScoringRun
from .store import ScoreStore, dialogue_key


if TYPE_CHECKING:
    pass

logger = logging.getLogger(__name__)

DOUBT, JUDGED, AUDIT = "cascade_doubt", "cascade_judged", "cascade_audit"
"""Details: the cheap scorer's doubt; 1 where the score is the judge's; of an audited sample, whether both agree."""

FEWEST = 60  # calibration samples
_LAYOUT = "cascade-1"

Calibration = tuple[Sequence[Dialogue], np.ndarray]


@dataclass(frozen=True)
class Plan:
    """
    Which samples a cascade trusts the cheap scorer with.

    Args:
        limit (`float`): Those of smaller doubt.
        doubt ([`LearntDoubt`], *optional*): How doubt is told; `None` by the distance of the scores from T.
        calibrated_on (`int`): Judged samples behind it.
    """

    limit: float
    doubt: LearntDoubt | None
    calibrated_on: int


class CascadeScorer:
    """
    Scores with a cheap scorer where it is sure of the decision, and with a judge elsewhere.

    How sure the cheap scorer is, its *doubt*, comes from its own scores: learnt from calibration samples, the chance
    that the judge's class (sensibility set, rationality set, discarded, at T) is another than the cheap one's; without
    any, the distance of the scores from T. Samples whose doubt reaches a limit go to the judge. The limit follows from
    a `budget` or a `promise`; it is the same for every sample, so that a score does not depend on batch mates.

    Args:
        cheap (`str`, `os.PathLike` or [`Scorer`]):
            As for [`load_scorer`]: `"linear"`, a distilled folder, ...
        judge (`str`, `os.PathLike` or [`Scorer`]):
            Likewise: an LLM judge.
        budget (`float`, *optional*):
            The judge is asked for at most this share of the samples, audit and calibration included. It holds for the
            data set whose doubts set the limit: the first that is scored, or the one given to [`~CascadeScorer.plan`].
        promise (`float`, *optional*):
            The cascade's class is to be the judge's on at least this share of the samples, e.g. `0.95`. Needs
            `calibration`. What exactly is guaranteed, and under which assumptions:
            [`~ee_trl.scoring.conformal.limit_for_promise`]. In short: in expectation, over calibration samples and new
            ones that are exchangeable. Half of the calibration samples (told by a hash) learn the doubt, the others
            set the limit.
        confidence (`float`, *optional*):
            Makes the promise hold with this probability over the calibration samples, rather than in expectation.
        calibration (`int` or pair, *optional*):
            Judged samples that the cheap scorer has not learnt from: `(dialogues, scores)`, the scores of shape
            `(n, 2)` by this very judge; or a number, of samples of the data set to be scored, drawn at random, that
            the judge is asked for first.
        threshold, ties (*optional*, default to `5.0` and `"drop"`):
            Of the selection that the two are to agree on.
        audit (`float`, *optional*, defaults to `0.05`):
            Share of the trusted samples, drawn by a hash of their content, that the judge is shown as well, so that
            the agreement that came about is known. They keep the cheap scorer's scores.
        seed (`int`, *optional*, defaults to `0`):
            Of what is drawn.
        cheap_options, judge_options (`dict`, *optional*):
            Passed to the classes of the two, where they are given by name.

    Raises:
        [`ScorerError`]: Not exactly one of `budget` and `promise`, or a value is out of range.
    """

    details = (DOUBT, JUDGED, AUDIT)

    def __init__(
        self,
        cheap: str | os.PathLike[str] | Scorer,
        judge: str | os.PathLike[str] | Scorer,
        *,
        budget: float | None = None,
        promise: float | None = None,
        confidence: float | None = None,
        calibration: int | Calibration | None = None,
        threshold: Threshold = DEFAULT_THRESHOLD,
        ties: str = "drop",
        audit: float = 0.05,
        seed: int = 0,
        cheap_options: dict[str, Any] | None = None,
        judge_options: dict[str, Any] | None = None,
    ) -> None:
        if (budget is None) == (promise is None):
            raise ScorerError("a cascade needs a budget (share of judge calls) or a promise (agreement), and not both")
        _check_share("budget", budget, 0, 1)
        _check_share("promise", promise, 0, 1, ends=False)
        _check_share("confidence", confidence, 0, 1, ends=False)
        _check_share("audit", audit, 0, 1)
        if confidence is not None and promise is None:
            raise ScorerError("confidence goes with a promise")
        if promise is not None and calibration is None:
            raise ScorerError(
                "a promise needs calibration samples: calibration=(dialogues, scores) that the judge has scored and "
                "the cheap scorer has not learnt from (--calibration FILE), or a number to have judged first"
            )
        if ties not in TIES:
            raise ScorerError(unknown("ties", ties, TIES))
        self.budget, self.promise, self.confidence, self.audit, self.seed = budget, promise, confidence, audit, seed
        self.threshold, self.ties = thresholds(threshold), ties
        self._specs = (cheap, cheap_options or {}), (judge, judge_options or {})
        self._calibration = calibration
        self._store: ScoreStore | None = None
        self._retry_failures = False
        self._plan: Plan | None = None
        self._counts = CascadeReport()
        self._judged: dict[bytes, tuple[np.ndarray, str]] = {}  # what the judge gave the samples drawn to calibrate on
        _check_calibration(calibration)

    @cached_property
    def cheap(self) -> Scorer:
        """The cheap scorer, loaded when it is first needed."""
        return load_scorer(self._specs[0][0], **self._specs[0][1])

    @cached_property
    def judge(self) -> Scorer:
        """The judge, loaded when it is first needed."""
        return load_scorer(self._specs[1][0], **self._specs[1][1])

    @property
    def rubric(self) -> Any:
        """The judge's."""
        return getattr(self.judge, "rubric", None)

    @property
    def fingerprint(self) -> str:
        """Names both scorers, the rule, and the limit that it led to."""
        asked = f"budget:{self.budget:g}" if self.promise is None else f"promise:{self.promise:g}"
        asked += "" if self.confidence is None else f"@{self.confidence:g}"
        t_s, t_r = self.threshold
        return (
            f"{_LAYOUT}/[{self.cheap.fingerprint}]/[{self.judge.fingerprint}]/{asked}/{self._plan_name()}"
            f"/T:{t_s:g},{t_r:g},{self.ties}/audit:{self.audit:g}/seed:{self.seed}"
        )

    def check_judges(self, judges: Sequence[str], source: str) -> None:
        """
        Checks that calibration samples are by this cascade's judge.

        Args:
            judges (`Sequence[str]`): Fingerprints of what scored them; `"given"`, where nobody knows, is warned of.
            source (`str`): Where they are from.

        Raises:
            [`ScorerError`]: Another scorer made them, so that they promise nothing.
        """
        others = [name for name in judges if name not in (GIVEN, self.judge.fingerprint)]
        if others:
            raise ScorerError(
                f"the calibration samples of {source!r} were scored by {', '.join(others)}, and the judge is "
                f"{self.judge.fingerprint}: what they promise would not hold. Score them by this judge: ee-trl score "
                "DIALOGUES --scorer JUDGE -o judged.parquet"
            )
        if GIVEN in judges:
            logger.warning(
                "%s does not say who scored it; the promise holds if it was %s", source, self.judge.fingerprint
            )

    def _plan_name(self) -> str:
        if self.needs_plan:
            return "unplanned"
        plan = self.planned
        weights = b"" if plan.doubt is None else np.round(plan.doubt.weights, 6).tobytes()
        told = f"learnt-{blake2b(weights, digest_size=4).hexdigest()}" if weights else "distance"
        return f"doubt:{told}<{plan.limit:.9g}"

    # ---- the plan

    @property
    def needs_plan(self) -> bool:
        """Whether the limit waits for the data set to be scored."""
        return self._plan is None and (self.budget is not None or isinstance(self._calibration, int))

    @property
    def planned(self) -> Plan:
        """The plan; where it needs no data set to be scored, made when it is first needed."""
        if self._plan is None:
            assert isinstance(self._calibration, tuple)
            dialogues, judged = self._calibration
            self._plan = self._calibrated(list(dialogues), np.asarray(judged, float))
        return self._plan

    def plan(self, dialogues: Iterable[Dialogue]) -> Plan:
        """
        Sets the limit from the dialogues that are to be scored; has them scored by the cheap scorer, and as many as
        `calibration` says by the judge.

        Args:
            dialogues (`Iterable[Dialogue]`): All of them; read once, held a thousand at a time.
        """
        found, audited, drawn = self._surveyed(dialogues)
        if not found:  # whatever comes first sets the limit
            return Plan(-math.inf, None, 0)
        scores, shown, calibration = np.array(found), np.array(audited), self._calibration
        if isinstance(calibration, int):
            sample = [dialogue for _, _, dialogue in drawn]
            calibration = (sample, self._judgements(sample, keep=True)[0])
            shown[[place for _, place, _ in drawn]] = True
        if self.promise is not None:
            assert isinstance(calibration, tuple)
            self._plan = self._calibrated(list(calibration[0]), calibration[1])
        else:
            doubt = self._learnt(*calibration) if calibration else None
            values = doubt(scores) if doubt else distance_doubt(scores, self.threshold)
            limit = limit_for_budget(values, shown, self.budget or 0.0)
            self._plan = Plan(limit, doubt, len(calibration[0]) if calibration else 0)
        trusted = self._doubts(scores) < self._plan.limit
        self._counts.calibration_calls += int((trusted & shown & ~np.array(audited)).sum())
        logger.info("cascade: %s", self._plan_name())
        return self._plan

    def _surveyed(
        self, dialogues: Iterable[Dialogue]
    ) -> tuple[list[Any], list[bool], list[tuple[int, int, Dialogue]]]:
        """Cheap scores of the distinct dialogues, which of them an audit would draw, and a draw to calibrate on."""
        wanted = self._calibration if isinstance(self._calibration, int) else 0
        seen: set[bytes] = set()
        scores: list[Any] = []
        audited: list[bool] = []
        drawn: list[tuple[int, int, Dialogue]] = []
        for part in _parts(dialogues, 1_000):
            new = {key: d for d in part if (key := dialogue_key(d)) not in seen}
            seen |= new.keys()
            scores += self._ask(self.cheap, list(new.values())).scores.tolist()
            for place, (key, dialogue) in enumerate(new.items(), start=len(audited)):
                if wanted:
                    item = (-_number(key, self.seed, "calibration"), place, dialogue)
                    (heapq.heappush if len(drawn) < wanted else heapq.heappushpop)(drawn, item)
            audited += [self._audits(key) for key in new]
        return scores, audited, drawn

    def _calibrated(self, dialogues: list[Dialogue], judged: np.ndarray) -> Plan:
        """The plan that keeps the promise: one half of the samples learns the doubt, the other sets the limit."""
        assert self.promise is not None
        cheap = self._ask(self.cheap, dialogues).scores
        known = np.flatnonzero(~(np.isnan(cheap).any(axis=1) | np.isnan(judged).any(axis=1)))
        if len(known) < FEWEST:
            raise _too_few(len(known))
        order = sorted(known.tolist(), key=lambda i: _number(dialogue_key(dialogues[i]), self.seed, "half"))
        learns, sets = order[: len(order) // 2], order[len(order) // 2 :]
        doubt = LearntDoubt.fit(cheap[learns], judged[learns], self.threshold, self.ties)
        wrong = self._classes(cheap[sets]) != self._classes(judged[sets])
        limit = limit_for_promise(doubt(cheap[sets]), wrong, self.promise, self.confidence)
        return Plan(limit, doubt, len(known))

    def _learnt(self, dialogues: Sequence[Dialogue], judged: np.ndarray) -> LearntDoubt:
        cheap = self._ask(self.cheap, list(dialogues)).scores
        known = ~(np.isnan(cheap).any(axis=1) | np.isnan(judged).any(axis=1))
        if known.sum() < FEWEST:
            raise _too_few(int(known.sum()))
        return LearntDoubt.fit(cheap[known], judged[known], self.threshold, self.ties)

    def _classes(self, scores: np.ndarray) -> np.ndarray:
        return classes_of(scores, self.threshold, self.ties)

    def _audits(self, key: bytes) -> bool:
        return _number(key, self.seed, "audit") < self.audit * 2**64

    # ---- scoring

    def use_store(self, store: ScoreStore | None, retry_failures: bool = False) -> None:
        """Keeps the scores of both scorers there as well, and finds those that are there already."""
        self._store, self._retry_failures = store, retry_failures

    def _ask(self, scorer: Scorer, dialogues: Sequence[Dialogue]) -> Any:
        """What a scorer gives of dialogues, by way of the store."""
        stored = self._store is not None and getattr(scorer, "stored", True)
        run = ScoringRun(scorer, self._store if stored else None, retry_failures=self._retry_failures)
        found = run.score(dialogues)
        if scorer is self.judge:
            self._counts.calls += run.coverage.asked
            self._tokens += np.array([run.coverage.tokens, run.coverage.forward_tokens])
        return found

    def _judgements(self, dialogues: Sequence[Dialogue], *, keep: bool = False) -> tuple[np.ndarray, list[str]]:
        """The judge's scores and statuses; what it gave to calibrate on, it is not asked for again."""
        keys = [dialogue_key(dialogue) for dialogue in dialogues]
        new = {key: dialogue for key, dialogue in zip(keys, dialogues, strict=True) if key not in self._judged}
        found = self._ask(self.judge, list(new.values()))
        given = self._judged | dict(zip(new, zip(found.scores, found.statuses, strict=True), strict=True))
        if keep:
            self._judged = given
        return np.array([given[key][0] for key in keys]).reshape(-1, len(AXES)), [given[key][1] for key in keys]

    def score(self, dialogues: Sequence[Dialogue]) -> np.ndarray:
        """Sensibility and rationality in [0, 10], shape `(n, 2)`; NaN where the one who decides has none."""
        scores = np.full((len(dialogues), len(AXES)), np.nan)
        for batch in self.score_batches(dialogues):
            scores[list(batch.indices)] = batch.scores
        return scores

    def score_batches(self, dialogues: Sequence[Dialogue]) -> Iterator[ScoredBatch]:
        """First what the cheap scorer decides, then what the judge was asked for."""
        if not dialogues:
            return
        if self.needs_plan:
            logger.warning("the cascade sets its limit by the %d dialogues that it is given first", len(dialogues))
            self.plan(dialogues)
        cheap = self._ask(self.cheap, dialogues)
        doubt = self._doubts(cheap.scores)
        trusted = doubt < self.planned.limit
        audited = trusted & np.array([self._audits(dialogue_key(d)) for d in dialogues])
        yield self._batch(np.flatnonzero(trusted & ~audited), cheap, doubt)
        asked = np.flatnonzero(~trusted | audited)
        if not len(asked):
            return
        self._tokens = np.zeros(2, int)
        judged = self._judgements([dialogues[int(i)] for i in asked])
        agrees = np.full(len(dialogues), np.nan)
        known = np.array([status == SCORED for status in judged[1]])
        same = self._classes(judged[0]) == self._classes(cheap.scores[asked])
        agrees[asked[known]] = same[known]
        yield self._batch(np.flatnonzero(audited), cheap, doubt, agrees)
        yield self._judged_batch(asked, ~trusted[asked], judged, doubt)

    _tokens = np.zeros(2, int)

    def _doubts(self, scores: np.ndarray) -> np.ndarray:
        doubt = self.planned.doubt
        return doubt(scores) if doubt else distance_doubt(scores, self.threshold)

    def _batch(
        self, where: np.ndarray, cheap: Any, doubt: np.ndarray, agrees: np.ndarray | None = None
    ) -> ScoredBatch:
        audit = np.full(len(where), np.nan) if agrees is None else agrees[where]
        details = {DOUBT: doubt[where], JUDGED: np.zeros(len(where)), AUDIT: audit}
        self._counts.count(details)
        return ScoredBatch(where.tolist(), cheap.scores[where], [cheap.statuses[i] for i in where], details)

    def _judged_batch(
        self, asked: np.ndarray, keeps: np.ndarray, judged: tuple[np.ndarray, list[str]], doubt: np.ndarray
    ) -> ScoredBatch:
        where = asked[keeps]
        reasons = [None if s == SCORED else s for s, kept in zip(judged[1], keeps, strict=True) if kept]
        finite = np.where(np.isfinite(doubt[where]), doubt[where], np.nan)
        details = {DOUBT: finite, JUDGED: np.ones(len(where)), AUDIT: np.full(len(where), np.nan)}
        self._counts.count(details)
        tokens, forward_tokens = self._tokens.tolist()
        return ScoredBatch(where.tolist(), judged[0][keeps], reasons, details, tokens, forward_tokens)

    # ---- the report

    def report(self, store: ScoreStore | None = None) -> CascadeReport:
        """
        Judge calls made and saved, and the agreement that the audit found.

        Args:
            store ([`ScoreStore`], *optional*):
                Of all dialogues that this cascade has scored into it, here, in other processes or while training; by
                default of those that this object has scored.
        """
        if store is None:
            return self._counts
        found = CascadeReport(calls=self._counts.calls, calibration_calls=self._counts.calibration_calls)
        rows = [stored.details for stored in store.scores_of(self.fingerprint)]
        found.count({name: np.array([row.get(name, math.nan) for row in rows]) for name in self.details})
        return found

    def __getstate__(self) -> dict[str, Any]:
        """A scorer given by name is loaded anew by the process that this goes to."""
        named = [isinstance(spec, (str, os.PathLike)) for spec, _ in self._specs]
        dropped = [name for name, drop in zip(("cheap", "judge"), named, strict=True) if drop]
        return {k: v for k, v in self.__dict__.items() if k not in dropped}


def _too_few(known: int) -> ScorerError:
    return ScorerError(f"{known} calibration samples have scores of both; at least {FEWEST} are needed")


def _check_share(name: str, value: float | None, low: float, high: float, *, ends: bool = True) -> None:
    if value is None:
        return
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not (low <= value <= high if ends else low < value < high):
        raise ScorerError(f"{name} {value!r} is not a share between {low} and {high}")


def _check_calibration(calibration: Any) -> None:
    if calibration is None or (isinstance(calibration, int) and calibration >= FEWEST):
        return
    pair = isinstance(calibration, tuple) and len(calibration) == 2
    if not pair or np.shape(calibration[1]) != (len(calibration[0]), len(AXES)):
        raise ScorerError(
            f"calibration {str(calibration)[:80]!r} is neither a number of at least {FEWEST} nor a pair of dialogues "
            "and their scores of shape (n, 2)"
        )


def _number(key: bytes, seed: int, purpose: str) -> int:
    """A 64-bit number drawn by a dialogue's content."""
    return int.from_bytes(blake2b(key, digest_size=8, key=f"{purpose}-{seed}".encode()).digest(), "little")


def _parts(dialogues: Iterable[Dialogue], size: int) -> Iterator[list[Dialogue]]:
    part: list[Dialogue] = []
    for dialogue in dialogues:
        part.append(dialogue)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part
