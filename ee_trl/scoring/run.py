"""How dialogues are scored in one run: known scores come from the store, the scorer is asked for the rest.

Every batch that it gives is held to the contract, and saved as soon as it is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..axes import MAX_SCORE, MIN_SCORE
from ..data.dialogue import NOT_ASKED, REASONS, SCORED, Dialogue
from ..errors import EmpathyError, ScorerError
from .base import ScoredBatch
from .coverage import Coverage
from .store import ScoreStore, StoredScore, dialogue_key


if TYPE_CHECKING:
    import numpy as np

    from .base import Scorer

_CHUNK = 64  # dialogues that a scorer without `score_batches` is given at once, and so the most that a kill loses


@dataclass(frozen=True)
class Scored:
    """
    The outcome for `n` dialogues, in their order.

    Args:
        scores (`np.ndarray` of shape `(n, 2)`): Sensibility, rationality in [0, 10]; NaN where unscored.
        statuses (`list[str]`): `"scored"`, or one of [`~ee_trl.data.dialogue.REASONS`].
        details (`dict[str, np.ndarray]`): What the scorer told beside, each of shape `(n,)`, NaN for null.
    """

    scores: np.ndarray
    statuses: list[str]
    details: dict[str, np.ndarray]


class ScoringRun:
    """
    A scorer at work.

    Args:
        scorer ([`Scorer`]):
            Who scores.
        store ([`ScoreStore`], *optional*):
            Where scores are kept. A scorer with `stored = False` is asked directly.
        retry_failures (`bool`, *optional*, defaults to `False`):
            Whether dialogues that failed in an earlier run are tried again.
        filled ([`Coverage`], *optional*):
            Of [`~ScoringRun.fill`], where that went before: what is found in the store now was counted then.

    Attributes:
        coverage ([`Coverage`]): What was done so far.
        after_batch (`Callable`, *optional*): Called after each batch that the scorer gave, for a progress bar.
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
        self.coverage = filled or Coverage(scorer.fingerprint, str(store.path) if store else None)
        self._filled = filled is not None
        if hasattr(scorer, "use_store"):  # it asks other scorers, whose scores are kept as well
            scorer.use_store(store, self.retry_failures)
        self.after_batch: Callable[[], object] | None = None
        self._tried: set[bytes] = set()  # failures that were tried again already

    def score(self, dialogues: Sequence[Dialogue]) -> Scored:
        """
        Scores dialogues, each content once.

        Raises:
            [`ScorerError`]: The scorer broke its contract or cannot go on; what came before is in the store.
            [`StoreError`]: The store cannot be written to.
        """
        import numpy as np

        scores = np.full((len(dialogues), 2), np.nan)
        details = {name: np.full(len(dialogues), np.nan) for name in self.details}
        statuses = [""] * len(dialogues)
        if self.store is None:
            for batch, names in self._asked(dialogues):
                for n, i in enumerate(batch.indices):
                    scores[i], statuses[i] = batch.scores[n], names[n]
                for name, values in batch.details.items():
                    details[name][list(batch.indices)] = values
            return Scored(scores, statuses, details)

        keys = [dialogue_key(dialogue) for dialogue in dialogues]
        known, missing = self._sorted_out(keys, dialogues)
        known |= self._fill(missing)
        for i, key in enumerate(keys):
            found = known[key]
            statuses[i] = found.status
            if found.status == SCORED:
                scores[i] = found.sensibility, found.rationality
            for name, value in found.details.items():
                if name in details:
                    details[name][i] = value
        return Scored(scores, statuses, details)

    def fill(self, dialogues: Sequence[Dialogue]) -> None:
        """Scores into the store what it lacks of these dialogues, and nothing more."""
        self._fill(self.missing(dialogues))

    def missing(self, dialogues: Sequence[Dialogue]) -> dict[bytes, Dialogue]:
        """Those that the store lacks, by key, each content once."""
        return self._sorted_out([dialogue_key(dialogue) for dialogue in dialogues], dialogues)[1]

    def _sorted_out(
        self, keys: Sequence[bytes], dialogues: Sequence[Dialogue]
    ) -> tuple[dict[bytes, StoredScore], dict[bytes, Dialogue]]:
        """What the store knows, and what it lacks."""
        assert self.store is not None
        known = self.store.find(self.scorer.fingerprint, keys)
        known = {key: s for key, s in known.items() if key in self._tried or not self._again(s.status)}
        missing = {key: d for key, d in zip(keys, dialogues, strict=True) if key not in known}
        if not self._filled:
            hits = sum(key in known for key in keys)
            self.coverage.cache_hits += hits
            self.coverage.duplicates += len(keys) - hits - len(missing)
        return known, missing

    def _again(self, status: str) -> bool:
        """Whether what an earlier run has left with this status is asked now."""
        return status != SCORED and (self.retry_failures or (status == NOT_ASKED and not self._filled))

    def _fill(self, missing: Mapping[bytes, Dialogue]) -> dict[bytes, StoredScore]:
        """Asks the scorer, and saves batch by batch."""
        keys = list(missing)
        found: dict[bytes, StoredScore] = {}
        for batch, statuses in self._asked(list(missing.values())):
            made = stored_scores(batch, statuses, keys)
            self.save(made)
            found |= made
        return found

    def save(self, made: dict[bytes, StoredScore]) -> None:
        """Saves what a scorer made, here or elsewhere."""
        assert self.store is not None
        self.store.save(self.scorer.fingerprint, made)
        self._tried.update(key for key, stored in made.items() if stored.status != SCORED)

    def _asked(self, dialogues: Sequence[Dialogue]) -> Iterator[tuple[ScoredBatch, list[str]]]:
        for batch, statuses in checked_batches(self.scorer, dialogues, at_once=_CHUNK if self.store else None):
            self.coverage.asked += len(batch.indices)
            self.coverage.tokens += batch.tokens
            self.coverage.forward_tokens += batch.forward_tokens
            yield batch, statuses
            if self.after_batch:
                self.after_batch()


def stored_scores(batch: ScoredBatch, statuses: Sequence[str], keys: Sequence[bytes]) -> dict[bytes, StoredScore]:
    """A batch in the store's form, by the keys of all the dialogues that the scorer was given."""
    made = {}
    for n, i in enumerate(batch.indices):
        s, r = batch.scores[n].tolist() if statuses[n] == SCORED else (None, None)
        details = {name: float(values[n]) for name, values in batch.details.items()}
        made[keys[i]] = StoredScore(statuses[n], s, r, details)
    return made


def checked_batches(
    scorer: Scorer, dialogues: Sequence[Dialogue], at_once: int | None = None
) -> Iterator[tuple[ScoredBatch, list[str]]]:
    """
    What a scorer makes of dialogues, held to its contract.

    Args:
        scorer ([`Scorer`]): Who is asked, by `score_batches` if it has that.
        dialogues (`Sequence[Dialogue]`): What it is given.
        at_once (`int`, *optional*): How many dialogues a scorer without `score_batches` is given at once.

    Yields:
        `tuple`: a batch, its scores NaN wherever one is missing or outside [0, 10], and the statuses.

    Raises:
        [`ScorerError`]: What came back is not of the promised shape, or dialogues were left out.
    """
    import numpy as np

    left = np.ones(len(dialogues), bool)
    for batch in _batches(scorer, dialogues, at_once):
        indices, scores = list(batch.indices), _array(scorer, batch.scores)
        if scores.shape != (len(indices), 2):
            raise ScorerError(
                f"scorer {scorer.fingerprint!r} gave an array of shape {scores.shape} for {len(indices)} dialogues; "
                f"expected ({len(indices)}, 2): sensibility, rationality"
            )
        if any(not 0 <= i < len(dialogues) or not left[i] for i in indices) or len(set(indices)) < len(indices):
            raise ScorerError(f"scorer {scorer.fingerprint!r} gave a dialogue twice, or one that it was not given")
        left[indices] = False
        missing = np.isnan(scores).any(axis=1)
        outside = ~missing & ((scores < MIN_SCORE) | (scores > MAX_SCORE)).any(axis=1)
        scores[missing | outside] = np.nan
        statuses = np.select([missing, outside], ["scorer_gave_none", "score_out_of_range"], default=SCORED).tolist()
        for n, reason in enumerate(batch.reasons or ()):
            if reason is not None and missing[n]:
                statuses[n] = _known_reason(scorer, reason)
        yield ScoredBatch(indices, scores, None, batch.details, batch.tokens, batch.forward_tokens), statuses
    if left.any():
        raise ScorerError(f"scorer {scorer.fingerprint!r} left {int(left.sum())} of {len(dialogues)} dialogues out")


def _batches(scorer: Scorer, dialogues: Sequence[Dialogue], at_once: int | None) -> Iterator[ScoredBatch]:
    try:
        if hasattr(scorer, "score_batches"):
            if dialogues:
                yield from scorer.score_batches(dialogues)
            return
        step = at_once or max(len(dialogues), 1)
        for start in range(0, len(dialogues), step):
            part = dialogues[start : start + step]
            yield ScoredBatch(range(start, start + len(part)), scorer.score(part))
    except EmpathyError:
        raise
    except (TypeError, ValueError) as error:
        raise ScorerError(f"scorer {scorer.fingerprint!r} failed: {error}") from error


def _array(scorer: Scorer, scores: object) -> np.ndarray:
    import numpy as np

    try:
        return np.array(scores, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ScorerError(f"scorer {scorer.fingerprint!r} failed: {error}") from error


def _known_reason(scorer: Scorer, reason: str) -> str:
    if reason not in REASONS:
        raise ScorerError(
            f"scorer {scorer.fingerprint!r} gave the reason {reason!r}, which is none of {', '.join(REASONS)}"
        )
    return reason
