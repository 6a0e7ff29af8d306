"""What a scoring run did: how many samples it scored, why others have no score, and what it cost."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..data.dialogue import NOTHING_TO_SCORE, REASONS, SCORED
from ..display import Displayed, Table
from ..errors import CoverageError


DEFAULT_MAX_UNSCORED = 0.01


@dataclass
class Coverage(Displayed):
    """
    Counts of a scoring run; grows while it runs. Prints as a table.

    Args:
        scorer (`str`): The scorer's fingerprint.
        store (`str`, *optional*): The score store's file; `None` where none was used.
        statuses (`Counter[str]`): `"scored"` or a reason -> samples.
        asked (`int`): Dialogues that the scorer was given in this run.
        cache_hits (`int`): Samples whose score (or failure) was in the store already.
        duplicates (`int`): Samples that are word for word like another of the same batch, and share its score.
        kept (`int`): Samples that came with this scorer's score in the data.
        tokens (`int`): Of the text of the dialogues that were scored, where the scorer counts them.
        forward_tokens (`int`): That went through the model, with rubric, questions and padding.
        seconds (`float`): From the first batch to the last.
    """

    scorer: str
    store: str | None = None
    statuses: Counter[str] = field(default_factory=Counter)
    asked: int = 0
    cache_hits: int = 0
    duplicates: int = 0
    kept: int = 0
    tokens: int = 0
    forward_tokens: int = 0
    seconds: float = 0.0
    _start: float = field(default_factory=time.perf_counter, repr=False)

    def count(self, statuses: Iterable[str]) -> None:
        """Counts samples as they leave."""
        self.statuses.update(statuses)
        self.seconds = time.perf_counter() - self._start

    @property
    def samples(self) -> int:
        """All of them."""
        return sum(self.statuses.values())

    @property
    def scored(self) -> int:
        """Those with scores."""
        return self.statuses[SCORED]

    @property
    def unscored(self) -> dict[str, int]:
        """Reason -> samples, the most frequent first."""
        return {reason: n for reason, n in self.statuses.most_common() if reason != SCORED}

    @property
    def unscored_share(self) -> float:
        """Samples that could not be scored, of those that had something to score; in [0, 1]."""
        nothing = sum(n for reason, n in self.statuses.items() if reason in NOTHING_TO_SCORE)
        return (self.samples - nothing - self.scored) / max(self.samples - nothing, 1)

    def merged(self, others: Sequence[Coverage]) -> Coverage:
        """This one with the others' work counted in; samples are not added up, since each is counted as it leaves."""
        total = replace(self, statuses=Counter(self.statuses))
        for name in ("asked", "cache_hits", "duplicates", "tokens", "forward_tokens"):
            setattr(total, name, getattr(self, name) + sum(getattr(other, name) for other in others))
        return total

    @classmethod
    def of_splits(cls, parts: Sequence[Coverage]) -> Coverage:
        """The work on several splits, samples added up; of one split, its own."""
        first, *others = parts
        if not others:
            return first
        total = first.merged(others)
        for other in others:
            total.statuses.update(other.statuses)
        total.kept = sum(part.kept for part in parts)
        total.seconds = sum(part.seconds for part in parts)
        return total

    def check(self, max_unscored: float, written: str = "") -> None:
        """
        Holds the run to a limit.

        Args:
            max_unscored (`float`): Share in [0, 1] that may be unscored.
            written (`str`, *optional*): Where everything was saved to, for the message.

        Raises:
            [`CoverageError`]: More than that are unscored.
        """
        if self.unscored_share > max_unscored:
            reasons = ", ".join(f"{n:,} {reason}" for reason, n in self.unscored.items())
            raise CoverageError(
                f"{self.unscored_share:.2%} of the samples are unscored, more than the {max_unscored:.2%} accepted "
                f"(max_unscored): {reasons}. "
                + (f"All that was found is in {written}. " if written else "")
                + "Mend those rows (score_status says why), have failures of the scorer tried again "
                "(--retry-failures), or accept more (--max-unscored)."
            )

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain types."""
        return {
            "scorer": self.scorer,
            "store": self.store,
            "samples": self.samples,
            "scored": self.scored,
            "unscored": self.unscored,
            "unscored_share": self.unscored_share,
            "asked": self.asked,
            "cache_hits": self.cache_hits,
            "duplicates": self.duplicates,
            "kept": self.kept,
            "tokens": self.tokens,
            "forward_tokens": self.forward_tokens,
            "seconds": round(self.seconds, 3),
            "samples_per_second": round(self.samples / max(self.seconds, 1e-9), 1),
        }

    def parts(self) -> Iterable[str | Table]:
        """For a notebook."""
        first, *others = str(self).splitlines()
        yield first
        if self.unscored:
            rows = [(why, f"{n:,}", REASONS.get(why, "")) for why, n in self.unscored.items()]
            yield Table(("unscored because", "samples", ""), rows)
        yield from others[len(self.unscored) :]

    def __str__(self) -> str:
        rate = self.samples / max(self.seconds, 1e-9)
        lines = [f"{self.scored:,} of {self.samples:,} samples scored in {self.seconds:.1f} s ({rate:,.0f} samples/s)"]
        lines += [f"  unscored {reason:<20} {n:>8,}  {REASONS.get(reason, '')}" for reason, n in self.unscored.items()]
        lines.append(
            f"  cache hits {self.cache_hits:,}, duplicates {self.duplicates:,}, asked of the scorer {self.asked:,}"
            + (f", scored before {self.kept:,}" if self.kept else "")
            + (f"; store {self.store}" if self.store else "; no store")
        )
        counted = self.forward_tokens or not self.asked
        lines.append(
            f"  tokens {self.tokens:,}, forward tokens {self.forward_tokens:,}"
            if counted
            else "  tokens: this scorer counts none"
        )
        return "\n".join(lines)
