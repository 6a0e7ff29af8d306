"""A cascade of two scorers: the cheap one decides where it is sure, a judge decides near the threshold."""

from __future__ import annotations

import heapq
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from hashlib import blake2b
from itertools import islice
from typing import Any

import numpy as np

from ..axes import AXES, DEFAULT_THRESHOLD, NOT_ENGLISH, TIES, Threshold, thresholds
from ..data.dialogue import SCORED, Dialogue
from ..display import Displayed
from ..errors import ScorerError, check_choice, check_share
from . import conformal
from .base import BatchedScorer, ScoredBatch, Scorer
from .conformal import LearntDoubt, Plan, classes_of
from .kinds import load_single
from .run import Scored, ScoringRun
from .store import ScoreStore, dialogue_key


logger = logging.getLogger(__name__)

DOUBT, JUDGED, AUDIT = "cascade_doubt", "cascade_judged", "cascade_audit"
"""Details: the cheap scorer's doubt; 1 where the score is the judge's; for audited samples, whether both agree."""

FEWEST = 60  # calibration samples
_LAYOUT = "cascade-1"

Calibration = tuple[Sequence[Dialogue], np.ndarray]
_Drawn = tuple[int, int, Dialogue]


@dataclass
class CascadeReport(Displayed):
    """Counts of a cascade; grows while it scores."""

    samples: int = 0
    judged: int = 0  # samples whose scores are the judge's
    audited: int = 0  # other samples that the judge scored as well
    agreed: int = 0  # audited samples on which both have the same class
    calibration_calls: int = 0  # samples that the judge scored only to set the limit
    calls: int = 0  # how often the judge was asked in this process; scores in the store need no call

    def count(self, details: Mapping[str, np.ndarray]) -> None:
        """Counts scored samples, by the details `cascade_judged` and `cascade_audit`."""
        judged, audit = details[JUDGED], details[AUDIT]
        self.samples += len(judged)
        self.judged += int((judged == 1).sum())
        self.audited += int((~np.isnan(audit)).sum())
        self.agreed += int((audit == 1).sum())

    @property
    def needed(self) -> int:
        """Samples that the judge was needed for: to decide, to audit, and to calibrate."""
        return min(self.judged + self.audited + self.calibration_calls, self.samples)

    @property
    def share(self) -> float:
        """`needed` as a share of all samples."""
        return self.needed / max(self.samples, 1)

    @property
    def saved(self) -> int:
        """Samples that the judge was not needed for."""
        return self.samples - self.needed

    @property
    def agreement(self) -> float | None:
        """Estimated share of all samples on which the cascade's class is the judge's; `None` without an audit."""
        if self.judged == self.samples and self.samples:
            return 1.0
        return self._overall(self.agreed / self.audited) if self.audited else None

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the agreement, from the audit alone."""
        low, high = conformal.agreement_interval(self.agreed, self.audited)
        return self._overall(low), self._overall(high)

    def _overall(self, share: float) -> float:
        """The agreement on all samples, from the share on trusted ones: the judge agrees with itself on the others."""
        return (self.judged + share * (self.samples - self.judged)) / max(self.samples, 1)

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain types."""
        derived = {"judge_share": round(self.share, 6), "calls_saved": self.saved}
        return asdict(self) | derived | {"agreement": self.agreement, "agreement_interval": list(self.interval)}

    def parts(self) -> Iterable[str]:
        """Two paragraphs: what the judge was needed for, and the agreement."""
        yield (
            f"the judge was needed for {self.needed:,} of {self.samples:,} samples ({self.share:.1%}): "
            f"{self.judged:,} decided by it, {self.audited:,} audited, "
            f"{self.calibration_calls:,} for calibration alone; {self.saved:,} calls saved, {self.calls:,} made now"
        )
        if self.agreement is None:
            yield "agreement with the judge: not known, nothing was audited"
        else:
            low, high = self.interval
            yield f"agreement with the judge, by the audit: {self.agreement:.1%} ({low:.1%} to {high:.1%}, 95 %)"


class CascadeScorer(BatchedScorer):
    """
    Scores with a cheap scorer where it is sure of the decision, and with a judge elsewhere.

    The cheap scorer's *doubt* (how unsure it is) follows from its scores. With calibration samples, the doubt is the
    chance that the judge's class (sensibility set, rationality set, discarded, at T) differs from the cheap scorer's;
    without any, it is the distance of the scores from T. Samples whose doubt reaches a limit go to the judge. A
    `budget` or a `promise` sets the limit, which is the same for every sample, so that a score does not depend on
    batch mates.

    Args:
        cheap, judge (`str`, `os.PathLike` or [`Scorer`]):
            As for [`load_scorer`]: `"linear"`, a distilled folder, ...; an LLM judge.
        budget (`float`, *optional*):
            The judge is asked for at most this share of the samples, audit and calibration included. It holds for the
            data set whose doubts set the limit: the first that is scored, or the one given to [`~CascadeScorer.plan`].
        promise (`float`, *optional*):
            The cascade's class must equal the judge's on at least this share of the samples, e.g. `0.95`. Needs
            `calibration`. For the exact guarantee and its assumptions see
            [`~ee_trl.scoring.conformal.limit_for_promise`]. In short: it holds in expectation, if the calibration
            samples and new samples are exchangeable. One half of the calibration samples, drawn by a hash, fits the
            doubt; the other half sets the limit.
        confidence (`float`, *optional*):
            Makes the promise hold with this probability over the calibration samples, rather than in expectation.
        calibration (`int` or pair, *optional*):
            Judged samples that the cheap scorer has not learnt from: `(dialogues, scores)`, with scores of shape
            `(n, 2)` by this very judge. Or a number: this many samples are drawn at random from the data set,
            and the judge scores them first.
        threshold, ties (*optional*, default to `5.0` and `"drop"`): The selection rule on which both should agree.
        audit (`float`, *optional*, defaults to `0.05`):
            Share of the trusted samples, drawn by a hash of their content, that the judge scores as well, to measure
            the agreement. They keep the cheap scorer's scores.
        seed (`int`, *optional*, defaults to `0`): Seed of the draws for audit and calibration.
        cheap_options, judge_options (`dict`, *optional*): Options of the two scorers, where they are given by name.

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
        for name, share in {"budget": budget, "audit": audit, "promise": promise, "confidence": confidence}.items():
            if share is not None:
                check_share(name, share, ScorerError)
            if share in (0, 1) and name in ("promise", "confidence"):
                raise ScorerError(f"{name} {share!r} is not between 0 and 1, e.g. 0.95")
        if confidence is not None and promise is None:
            raise ScorerError("confidence goes with a promise; give promise=... too, or leave confidence out")
        if promise is not None and calibration is None:
            raise ScorerError(
                "a promise needs calibration samples that the judge has scored and the cheap scorer has not learnt "
                "from: calibration=(dialogues, scores) (--calibration FILE), or a number of samples to have judged"
            )
        check_choice("ties", ties, TIES, ScorerError)
        _check_calibration(calibration)
        self.budget, self.promise, self.confidence, self.audit, self.seed = budget, promise, confidence, audit, seed
        self.threshold, self.ties = thresholds(threshold), ties
        self._specs = {"cheap": (cheap, cheap_options or {}), "judge": (judge, judge_options or {})}
        self._calibration = calibration
        self._store: ScoreStore | None = None
        self._retry_failures = False
        self._plan: Plan | None = None
        self._counts = CascadeReport()
        self._tokens = np.zeros(2, int)  # the judge's tokens and forward tokens that no batch has reported yet
        self._judged: dict[bytes, tuple[Any, ...]] = {}  # score, status and flag of samples drawn for calibration

    @cached_property
    def cheap(self) -> Scorer:
        """The cheap scorer, loaded when it is first needed."""
        spec, options = self._specs["cheap"]
        return load_single(spec, **options)

    @cached_property
    def judge(self) -> Scorer:
        """The judge, loaded when it is first needed."""
        spec, options = self._specs["judge"]
        return load_single(spec, **options)

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags that either scorer may give."""
        return tuple(dict.fromkeys(f for scorer in (self.cheap, self.judge) for f in getattr(scorer, "flags", ())))

    @property
    def rubric(self) -> Any:
        """The judge's rubric."""
        return getattr(self.judge, "rubric", None)

    @property
    def fingerprint(self) -> str:
        """Names both scorers, the rule, and the limit that it led to."""
        asked = f"budget:{self.budget:g}" if self.promise is None else f"promise:{self.promise:g}"
        asked += "" if self.confidence is None else f"@{self.confidence:g}"
        plan, (t_s, t_r) = "unplanned" if self.needs_plan else self.planned.name, self.threshold
        return (
            f"{_LAYOUT}/[{self.cheap.fingerprint}]/[{self.judge.fingerprint}]/{asked}/{plan}"
            f"/T:{t_s:g},{t_r:g},{self.ties}/audit:{self.audit:g}/seed:{self.seed}"
        )

    @property
    def needs_plan(self) -> bool:
        """Whether the limit must still be set from the data set to be scored."""
        return self._plan is None and (self.budget is not None or isinstance(self._calibration, int))

    @property
    def planned(self) -> Plan:
        """The plan; made at first use if it needs no data set."""
        if self._plan is None:
            assert isinstance(self._calibration, tuple)
            dialogues, judged = self._calibration
            self._plan = self._promised(dialogues, np.asarray(judged, float))
        return self._plan

    def plan(self, dialogues: Iterable[Dialogue]) -> Plan | None:
        """
        Sets the limit from all the dialogues that are to be scored, which it reads once, a thousand at a time.

        The cheap scorer scores all of them, and the judge as many as `calibration` says. Without dialogues there is
        no plan yet: the first dialogues to be scored set the limit.
        """
        scores, audited, drawn = self._surveyed(dialogues)
        if not len(scores):
            return None
        shown, calibration = audited.copy(), self._calibration
        if isinstance(calibration, int):
            sample = [dialogue for _, _, dialogue in drawn]
            calibration = (sample, self._judgements(sample, keep=True).scores)
            shown[[place for _, place, _ in drawn]] = True
        if self.promise is not None:
            assert isinstance(calibration, tuple)
            plan = self._promised(*calibration)
        else:
            doubt = LearntDoubt.fit(*self._known(*calibration)[1:], self.threshold, self.ties) if calibration else None
            limit = conformal.limit_for_budget(self._doubts(scores, doubt), shown, self.budget or 0.0)
            plan = Plan(limit, doubt, len(calibration[0]) if calibration else 0)
        trusted = self._doubts(scores, plan.doubt) < plan.limit
        plan = replace(plan, calibration_calls=int((trusted & shown & ~audited).sum()))
        logger.info("cascade: %s", plan.name)
        self.use_plan(plan)
        return plan

    def use_plan(self, plan: Plan) -> None:
        """Scores by a plan of the same cascade, made in any process."""
        self._plan = plan
        self._counts.calibration_calls += plan.calibration_calls

    def _surveyed(self, dialogues: Iterable[Dialogue]) -> tuple[np.ndarray, np.ndarray, list[_Drawn]]:
        """Cheap scores of the distinct dialogues, which of them an audit would draw, and a draw to calibrate on."""
        wanted = self._calibration if isinstance(self._calibration, int) else 0
        seen: set[bytes] = set()
        scores: list[Any] = []
        audited: list[bool] = []
        drawn: list[_Drawn] = []
        rest = iter(dialogues)
        while part := list(islice(rest, 1_000)):
            new = {key: d for d in part if (key := dialogue_key(d)) not in seen}
            seen |= new.keys()
            scores += self._ask(self.cheap, list(new.values())).scores.tolist()
            for place, (key, dialogue) in enumerate(new.items(), start=len(audited)):
                if wanted:
                    item = (-_number(key, self.seed, "calibration"), place, dialogue)
                    (heapq.heappush if len(drawn) < wanted else heapq.heappushpop)(drawn, item)
            audited += [self._audits(key) for key in new]
        return np.array(scores), np.array(audited, bool), drawn

    def _promised(self, dialogues: Sequence[Dialogue], judged: np.ndarray) -> Plan:
        """The plan that keeps the promise: one half of the samples fits the doubt, the other sets the limit."""
        assert self.promise is not None
        dialogues, cheap, judged = self._known(dialogues, judged)
        numbers = [_number(dialogue_key(dialogue), self.seed, "half") for dialogue in dialogues]
        learns, sets = np.split(np.argsort(np.array(numbers, np.uint64), kind="stable"), [len(numbers) // 2])
        doubt = LearntDoubt.fit(cheap[learns], judged[learns], self.threshold, self.ties)
        wrong = self._classes(cheap[sets]) != self._classes(judged[sets])
        limit = conformal.limit_for_promise(doubt(cheap[sets]), wrong, self.promise, self.confidence)
        return Plan(limit, doubt, len(numbers))

    def _known(
        self, dialogues: Sequence[Dialogue], judged: np.ndarray
    ) -> tuple[list[Dialogue], np.ndarray, np.ndarray]:
        """The calibration samples that both scorers have scores for, with the scores of both."""
        cheap = self._ask(self.cheap, dialogues).scores
        known = np.flatnonzero(~(np.isnan(cheap).any(axis=1) | np.isnan(judged).any(axis=1)))
        if len(known) < FEWEST:
            raise ScorerError(f"{len(known)} calibration samples have scores of both; at least {FEWEST} are needed")
        return [dialogues[i] for i in known.tolist()], cheap[known], judged[known]

    def _classes(self, scores: np.ndarray) -> np.ndarray:
        return classes_of(scores, self.threshold, self.ties)

    def _doubts(self, scores: np.ndarray, doubt: LearntDoubt | None) -> np.ndarray:
        return doubt(scores) if doubt else conformal.distance_doubt(scores, self.threshold)

    def _audits(self, key: bytes) -> bool:
        return _number(key, self.seed, "audit") < self.audit * 2**64

    def use_store(self, store: ScoreStore | None, retry_failures: bool = False) -> None:
        """Also keeps the scores of both scorers in this store, and reuses scores from it."""
        self._store, self._retry_failures = store, retry_failures

    def _ask(self, scorer: Scorer, dialogues: Sequence[Dialogue]) -> Scored:
        """What a scorer gives for dialogues, through the store."""
        stored = self._store is not None and getattr(scorer, "stored", True)
        run = ScoringRun(scorer, self._store if stored else None, retry_failures=self._retry_failures)
        found = run.score(dialogues)
        if scorer is self.judge:
            self._counts.calls += run.coverage.asked
            self._tokens += (run.coverage.tokens, run.coverage.forward_tokens)
        return found

    def _judgements(self, dialogues: Sequence[Dialogue], *, keep: bool = False) -> Scored:
        """The judge's scores of dialogues; with `keep` they are remembered, and the judge is not asked again."""
        keys = [dialogue_key(dialogue) for dialogue in dialogues]
        new = {key: dialogue for key, dialogue in zip(keys, dialogues, strict=True) if key not in self._judged}
        found = self._ask(self.judge, list(new.values()))
        answers = zip(found.scores, found.statuses, found.flags or [None] * len(new), strict=True)
        given = self._judged | dict(zip(new, answers, strict=True))
        if keep:
            self._judged = given
        scores = np.array([given[key][0] for key in keys]).reshape(-1, len(AXES))
        return Scored(scores, [given[key][1] for key in keys], {}, [given[key][2] for key in keys])

    def score_batches(self, dialogues: Sequence[Dialogue]) -> Iterator[ScoredBatch]:
        """First what the cheap scorer decides, then what the judge scored; NaN where the decider has no score."""
        if not dialogues:
            return
        if self.needs_plan:
            logger.warning("the cascade sets its limit from the first %d dialogues that it is given", len(dialogues))
            self.plan(dialogues)
        cheap = self._ask(self.cheap, dialogues)
        doubt = self._doubts(cheap.scores, self.planned.doubt)
        trusted = doubt < self.planned.limit
        audited = trusted & np.array([self._audits(dialogue_key(d)) for d in dialogues])
        decided = np.flatnonzero(trusted & ~audited)
        flags = np.array(cheap.flags or [None] * len(dialogues), object)
        yield self._batch(decided, cheap.scores[decided], doubt, flags, 0.0, np.nan)
        asked = np.flatnonzero(~trusted | audited)
        if not len(asked):
            return
        judge, shown = self._judgements([dialogues[i] for i in asked.tolist()]), audited[asked]
        known = np.array([status == SCORED for status in judge.statuses])
        same = self._classes(judge.scores) == self._classes(cheap.scores[asked])
        scores = np.where(shown[:, None], cheap.scores[asked], judge.scores)
        reasons = [None if ok else why for ok, why in zip(shown | known, judge.statuses, strict=True)]
        flags[asked] = np.where(shown, flags[asked], _flags_where_judged(flags[asked], judge.flags))
        yield self._batch(asked, scores, doubt, flags, ~shown, np.where(shown & known, same, np.nan), reasons)

    def _batch(
        self,
        where: np.ndarray,
        scores: np.ndarray,
        doubt: np.ndarray,
        flags: np.ndarray,
        judged: Any,
        audit: Any,
        reasons: Any = None,
    ) -> ScoredBatch:
        """The dialogues at the places `where`; it also reports the judge's tokens since the last batch."""
        finite = np.where(np.isfinite(doubt[where]), doubt[where], np.nan)
        details = {DOUBT: finite, JUDGED: np.full(len(where), judged, float), AUDIT: np.full(len(where), audit)}
        self._counts.count(details)
        (tokens, forward_tokens), self._tokens = self._tokens.tolist(), np.zeros(2, int)
        found = flags[where].tolist()
        return ScoredBatch(where.tolist(), scores, reasons, details, tokens, forward_tokens, found)

    def report(self, store: ScoreStore | None = None) -> CascadeReport:
        """
        Judge calls made and saved, and the agreement that the audit found.

        Counts the dialogues that this object scored, or with a `store` all that this cascade scored into it, also in
        other processes and while training.
        """
        if store is None:
            return self._counts
        found = CascadeReport(calls=self._counts.calls, calibration_calls=self._counts.calibration_calls)
        rows = [stored.details for stored in store.scores_of(self.fingerprint)]
        found.count({name: np.array([row.get(name, math.nan) for row in rows]) for name in self.details})
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Another process loads the scorers that were given by name."""
        named = [name for name, (spec, _) in self._specs.items() if isinstance(spec, (str, os.PathLike))]
        return {k: v for k, v in self.__dict__.items() if k not in named}


def _flags_where_judged(cheap: np.ndarray, judge: Sequence[str | None] | None) -> np.ndarray:
    """The judge's flags, else the cheap scorer's; but the judge may well read a language that the cheap one cannot."""
    pairs = zip(judge or [None] * len(cheap), cheap, strict=True)
    return np.array([own or (None if other == NOT_ENGLISH else other) for own, other in pairs], object)


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
