"""What a scoring run did: how many samples it scored, why others have no score, and what it cost."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..axes import NOT_ENGLISH
from ..data.dialogue import NOTHING_TO_SCORE, REASONS, SCORED
from ..display import Displayed, Table
from ..errors import CoverageError


DEFAULT_MAX_UNSCORED = 0.01


@dataclass
class Coverage(Displayed):
    """Counts of a scoring run; grows while it runs."""

    scorer: str  # its fingerprint
    store: str | None = None  # the score store's file, if there is one
    statuses: Counter[str] = field(default_factory=Counter)  # "scored" or a reason -> samples
    asked: int = 0  # dialogues that the scorer was given in this run
    cache_hits: int = 0  # samples whose score (or failure) was in the store already
    duplicates: int = 0  # samples that are word for word like another of the same batch, and share its score
    kept: int = 0  # samples that came with this scorer's score in the data
    tokens: int = 0  # of the text of the dialogues that were scored, where the scorer counts them
    forward_tokens: int = 0  # tokens that went through the model, with rubric, questions and padding
    seconds: float = 0.0  # from the first batch to the last
    _start: float = field(default_factory=time.perf_counter, repr=False)

    def count(self, statuses: Iterable[str]) -> None:
        """Counts samples as they leave."""
        self.statuses.update(statuses)
        self.seconds = time.perf_counter() - self._start

    @property
    def samples(self) -> int:
        """All samples."""
        return sum(self.statuses.values())

    @property
    def scored(self) -> int:
        """Samples with scores."""
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
        """Adds the work of other processes, but not their samples: the process that writes counts all samples."""
        total = replace(self, statuses=Counter(self.statuses))
        for name in ("asked", "cache_hits", "duplicates", "tokens", "forward_tokens"):
            setattr(total, name, sum(getattr(part, name) for part in (self, *others)))
        return total

    @classmethod
    def of_splits(cls, parts: Sequence[Coverage]) -> Coverage:
        """The sum over several splits, samples included; a single split stays as it is."""
        if len(parts) == 1:
            return parts[0]
        total = parts[0].merged(parts[1:])
        total.statuses = sum((part.statuses for part in parts), Counter())
        total.kept, total.seconds = sum(part.kept for part in parts), sum(part.seconds for part in parts)
        return total

    def check(self, max_unscored: float, written: str = "") -> None:
        """Raises [`CoverageError`] if a larger share is unscored; the message names the file `written`."""
        without_reply = {*NOTHING_TO_SCORE} - {NOT_ENGLISH}
        if self.samples and not self.scored and set(self.statuses) <= without_reply:
            raise CoverageError(
                f"none of the {self.samples:,} samples has a reply to score: "
                f"{'; '.join(REASONS[reason] for reason in self.unscored)}. If another column holds the replies, name "
                'it, e.g. --map chosen=response (in Python mapping={"chosen": "response"}, in a recipe empathy_map)'
            )
        if self.unscored_share > max_unscored:
            reasons = ", ".join(f"{n:,} {reason}" for reason, n in self.unscored.items())
            saved = f"All samples and scores are in {written}. " if written else ""
            raise CoverageError(
                f"{self.unscored_share:.2%} of the samples are unscored, more than the {max_unscored:.2%} accepted "
                f"(max_unscored): {reasons}. {saved}Repair those rows (score_status says why), try failures of the "
                "scorer again (--retry-failures), or accept more (--max-unscored; in a recipe empathy_max_unscored)."
            )

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain types."""
        counts = {"samples": self.samples, "scored": self.scored, "unscored": self.unscored}
        found = {"scorer": self.scorer, "store": self.store, **counts, "unscored_share": self.unscored_share}
        found |= {name: value for name, value in asdict(self).items() if name not in (*found, "statuses", "_start")}
        rate = round(self.samples / max(self.seconds, 1e-9), 1)
        return found | {"seconds": round(self.seconds, 3), "samples_per_second": rate}

    def parts(self) -> Iterable[str | Table]:
        """How many were scored and how fast, the reasons of the others, and the work."""
        rate = self.samples / max(self.seconds, 1e-9)
        yield f"{self.scored:,} of {self.samples:,} samples scored in {self.seconds:.1f} s ({rate:,.0f} samples/s)"
        if self.unscored:
            rows = [(why, f"{n:,}", REASONS.get(why, "")) for why, n in self.unscored.items()]
            yield Table(("unscored because", "samples", ""), rows)
        before = f", scored before {self.kept:,}" if self.kept else ""
        work = f"cache hits {self.cache_hits:,}, duplicates {self.duplicates:,}, asked of the scorer {self.asked:,}"
        tokens = f"tokens {self.tokens:,}, forward tokens {self.forward_tokens:,}"
        if self.asked and not self.forward_tokens:
            tokens = "this scorer counts no tokens"
        yield f"{work}{before}; {f'store {self.store}' if self.store else 'no store'}; {tokens}"
