"""A scorer at work: known scores come from the store, the scorer is asked for the rest.

Every batch that the scorer gives is checked, and saved as soon as it is made.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..axes import AXES, FLAG, FLAGS, MAX_SCORE, MIN_SCORE
from ..data.dialogue import REASONS, SCORED, UNANSWERED, Dialogue
from ..errors import EmpathyError, ScorerError, check_choice
from .base import ScoredBatch, Scorer
from .claims import claimed
from .coverage import Coverage
from .store import ScoreStore, StoredScore, dialogue_key


_CHUNK = 64  # dialogues that a scorer without `score_batches` is given at once, and so the most that a kill loses
_CLAIM = 1_000  # dialogues that a process claims at once; others with the same store may ask for the next ones
_LOOK_EVERY = 0.2  # seconds between two looks for what another process has been asked for
_PATIENCE = 600.0  # seconds without news of it, after which this process asks, too


@dataclass(frozen=True)
class Scored:
    """The outcome for `n` dialogues, in their order."""

    scores: np.ndarray  # (n, 2): sensibility, rationality in [0, 10]; NaN where unscored
    statuses: list[str]  # "scored", or one of REASONS
    details: dict[str, np.ndarray]  # further columns of the scorer, of shape (n,), NaN for null
    flags: list[str | None] | None = None  # one of FLAGS or `None` for each; `None` for a scorer that gives no flags


class ScoringRun:
    """
    A scorer at work. It scores what the store lacks, or without a store every dialogue.

    With `retry_failures`, dialogues that failed in an earlier run are tried again. `filled` is the
    coverage of an earlier [`~ScoringRun.fill`], which has already counted what this run finds in the store. `coverage`
    counts what was done so far; `after_batch` is called after each of the scorer's batches, for a progress bar.
    """

    def __init__(
        self,
        scorer: Scorer,
        store: ScoreStore | None = None,
        *,
        retry_failures: bool = False,
        filled: Coverage | None = None,
    ) -> None:
        self.scorer = scorer
        self.store = store
        self.retry_failures = retry_failures and filled is None
        self.details: tuple[str, ...] = tuple(getattr(scorer, "details", ()))
        self.flags: tuple[str, ...] = tuple(getattr(scorer, "flags", ()))
        self.coverage = filled or Coverage(scorer.fingerprint, str(store.path) if store else None)
        self._filled = filled is not None
        if hasattr(scorer, "use_store"):  # it asks other scorers, whose scores are kept as well
            scorer.use_store(store, self.retry_failures)
        self.after_batch: Callable[[], object] | None = None
        self._tried: set[bytes] = set()  # failures that were tried again already

    def score(self, dialogues: Sequence[Dialogue]) -> Scored:
        """Scores dialogues; with a store, equal ones once, and an error loses nothing that was scored before."""
        if self.store is None:
            return self._score_all(dialogues)
        keys, known, missing = self._sorted_out(dialogues)
        known |= self._fill(missing)
        found = [known[key] for key in keys]
        scores = np.array([(one.sensibility, one.rationality) for one in found], float).reshape(-1, len(AXES))
        details = {name: np.array([one.details.get(name, np.nan) for one in found]) for name in self.details}
        flags = [_flag(one.details) for one in found] if self.flags else None
        return Scored(scores, [one.status for one in found], details, flags)

    def _score_all(self, dialogues: Sequence[Dialogue]) -> Scored:
        """Without a store: what the scorer gives, as it comes."""
        n = len(dialogues)
        scores, details = np.full((n, len(AXES)), np.nan), {name: np.full(n, np.nan) for name in self.details}
        statuses, flags = np.full(n, "", object), np.full(n, None, object)
        for batch, found in checked_batches(self.scorer, dialogues):
            where = batch.indices
            scores[where], statuses[where] = batch.scores, found
            for name in details:
                details[name][where] = batch.details.get(name, np.nan)
            if batch.flags is not None:
                flags[where] = [flag if s == SCORED else None for flag, s in zip(batch.flags, found, strict=True)]
            self._count(len(found), batch.tokens, batch.forward_tokens)
        return Scored(scores, statuses.tolist(), details, flags.tolist() if self.flags else None)

    def _count(self, asked: int, tokens: int, forward_tokens: int) -> None:
        self.coverage.asked += asked
        self.coverage.tokens += tokens
        self.coverage.forward_tokens += forward_tokens
        if self.after_batch:
            self.after_batch()

    def fill(self, dialogues: Sequence[Dialogue]) -> None:
        """Scores the dialogues that the store lacks, and saves their scores."""
        self._fill(self.missing(dialogues))

    def missing(self, dialogues: Sequence[Dialogue]) -> dict[bytes, Dialogue]:
        """The dialogues that the store lacks, by key, each content once."""
        return self._sorted_out(dialogues)[2]

    def _sorted_out(
        self, dialogues: Sequence[Dialogue]
    ) -> tuple[list[Any], dict[Any, StoredScore], dict[Any, Dialogue]]:
        """The keys of dialogues (their content; without a store their position), what is known, and what is not."""
        keys: list[Any] = [dialogue_key(d) for d in dialogues] if self.store else list(range(len(dialogues)))
        known = self._known(keys)
        missing = {key: d for key, d in zip(keys, dialogues, strict=True) if key not in known}
        if not self._filled:
            hits = sum(key in known for key in keys)
            self.coverage.cache_hits += hits
            self.coverage.duplicates += len(keys) - hits - len(missing)
        return keys, known, missing

    def _known(self, keys: Iterable[Any]) -> dict[Any, StoredScore]:
        """What the store knows, but for what is to be asked again."""
        known = self.store.find(self.scorer.fingerprint, keys) if self.store else {}
        return {key: s for key, s in known.items() if key in self._tried or not self._again(s.status)}

    def _again(self, status: str) -> bool:
        """Whether a dialogue that an earlier run left with this status is asked for now."""
        return status != SCORED and (self.retry_failures or (status in UNANSWERED and not self._filled))

    def _fill(self, missing: Mapping[Any, Dialogue]) -> dict[Any, StoredScore]:
        """Asks the scorer; where another process with this store is asking already, waits for its answer instead."""
        if self.store is None:
            return self._ask(missing)
        left, found, news = dict(missing), dict[Any, StoredScore](), time.monotonic()
        while left:
            with claimed(self.store.path, self.scorer.fingerprint, left, _CLAIM) as ours:
                made = self._known(ours or left)  # what others have saved meanwhile
                self.coverage.cache_hits += len(made)
                made |= self._ask({key: left[key] for key in left if key in ours and key not in made})
            found |= made
            left = {key: dialogue for key, dialogue in left.items() if key not in made}
            if made:
                news = time.monotonic()
            elif time.monotonic() - news > _PATIENCE:
                return found | self._ask(left)
            else:
                time.sleep(_LOOK_EVERY)
        return found

    def _ask(self, missing: Mapping[Any, Dialogue]) -> dict[Any, StoredScore]:
        """Asks the scorer, and saves batch by batch."""
        keys = list(missing)
        found: dict[Any, StoredScore] = {}
        if missing and self.store is not None:
            self.store.check_writable()  # now, and not after the scorer has worked
        at_once = None if self.store is None else _CHUNK
        for batch, statuses in checked_batches(self.scorer, list(missing.values()), at_once):
            made = stored_scores(batch, statuses, keys)
            self.save(made, batch.tokens, batch.forward_tokens)
            found |= made
        return found

    def save(self, made: dict[Any, StoredScore], tokens: int, forward_tokens: int) -> None:
        """Counts and saves what a scorer made, in this process or another."""
        if self.store is not None:
            self.store.save(self.scorer.fingerprint, made)
            self._tried.update(key for key, stored in made.items() if stored.status != SCORED)
        self._count(len(made), tokens, forward_tokens)


def _flag(details: Mapping[str, float]) -> str | None:
    number = details.get(FLAG, np.nan)
    return None if np.isnan(number) else FLAGS[int(number)]


def stored_scores(batch: ScoredBatch, statuses: Sequence[str], keys: Sequence[Any]) -> dict[Any, StoredScore]:
    """A batch in the store's form, by the keys of all the dialogues that the scorer was given."""
    made, details = {}, {name: np.asarray(values, float).tolist() for name, values in batch.details.items()}
    for n, (i, status, scores) in enumerate(zip(batch.indices, statuses, batch.scores.tolist(), strict=True)):
        s, r = scores if status == SCORED else (None, None)
        own = {name: values[n] for name, values in details.items()}
        if status == SCORED and batch.flags is not None and (flag := batch.flags[n]) is not None:
            own[FLAG] = float(FLAGS.index(flag))  # details are numbers
        made[keys[i]] = StoredScore(status, s, r, own)
    return made


def checked_batches(
    scorer: Scorer, dialogues: Sequence[Dialogue], at_once: int | None = None
) -> Iterator[tuple[ScoredBatch, list[str]]]:
    """
    A scorer's checked batches, and the statuses; scores are NaN wherever one is missing or outside [0, 10].

    A scorer without `score_batches` is given `at_once` dialogues at a time. Raises [`ScorerError`] where a scorer
    failed, gave another shape than [`Scorer`] promises, or left dialogues out.
    """
    name, left = f"scorer {scorer.fingerprint!r}", np.ones(len(dialogues), bool)
    try:
        for batch in _batches(scorer, dialogues, at_once):
            indices = list(batch.indices)
            scores: np.ndarray = np.array(batch.scores, np.float64)
            if scores.shape != (len(indices), len(AXES)):
                raise ScorerError(
                    f"{name} gave an array of shape {scores.shape} for {len(indices)} dialogues; expected "
                    f"({len(indices)}, 2): sensibility, rationality"
                )
            where, before = np.array(indices, np.intp), int(left.sum())
            if ((where < 0) | (where >= len(left))).any():
                raise ScorerError(f"{name} gave a dialogue twice, or one that it was not given")
            left[where] = False
            if before - int(left.sum()) < len(where):
                raise ScorerError(f"{name} gave a dialogue twice, or one that it was not given")
            missing = np.isnan(scores).any(axis=1)
            outside = ~missing & ((scores < MIN_SCORE) | (scores > MAX_SCORE)).any(axis=1)
            scores[missing | outside] = np.nan
            found = np.select([missing, outside], ["scorer_gave_none", "score_out_of_range"], default=SCORED)
            statuses: list[str] = found.tolist()
            for n, reason in enumerate(batch.reasons or ()):
                if reason is not None and missing[n]:
                    check_choice(f"reason of {name}", reason, REASONS, ScorerError)
                    statuses[n] = reason
            for flag in {*(batch.flags or ())} - {None}:
                check_choice(f"flag of {name}", flag, FLAGS, ScorerError)
            yield replace(batch, indices=indices, scores=scores, reasons=None), statuses
    except EmpathyError:
        raise
    except (TypeError, ValueError) as error:
        raise ScorerError(f"{name} failed: {error}") from error
    if left.any():
        raise ScorerError(f"{name} left {int(left.sum())} of {len(dialogues)} dialogues out")


def _batches(scorer: Scorer, dialogues: Sequence[Dialogue], at_once: int | None) -> Iterator[ScoredBatch]:
    if hasattr(scorer, "score_batches"):
        if dialogues:
            yield from scorer.score_batches(dialogues)
        return
    step = at_once or max(len(dialogues), 1)
    for start in range(0, len(dialogues), step):
        part = dialogues[start : start + step]
        yield ScoredBatch(range(start, start + len(part)), scorer.score(part))
