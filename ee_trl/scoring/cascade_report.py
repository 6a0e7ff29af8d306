"""What a cascade did: judge calls made and saved, and the agreement that its audit found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..display import Displayed, Table
from .conformal import agreement_interval


@dataclass
class CascadeReport(Displayed):
    """
    Counts of a cascade; grows while it scores. Prints as two lines.

    Args:
        samples (`int`): Dialogues scored.
        judged (`int`): Those whose scores are the judge's.
        audited (`int`): Those of the others that the judge was shown as well.
        agreed (`int`): Those of the audited on which both have the same class.
        calibration_calls (`int`): Samples that the judge was asked for to set the limit, and for nothing else.
        calls (`int`): How often the judge was asked in this process; what was in the store cost none.
    """

    samples: int = 0
    judged: int = 0
    audited: int = 0
    agreed: int = 0
    calibration_calls: int = 0
    calls: int = 0

    def count(self, details: Mapping[str, np.ndarray]) -> None:
        """Counts scored samples, by the details `cascade_judged` and `cascade_audit`."""
        judged, audit = details["cascade_judged"], details["cascade_audit"]
        self.samples += len(judged)
        self.judged += int((judged == 1).sum())
        self.audited += int((~np.isnan(audit)).sum())
        self.agreed += int((audit == 1).sum())

    @property
    def needed(self) -> int:
        """Samples that the judge was needed for: its own, the audit and, beside these, the calibration."""
        return min(self.judged + self.audited + self.calibration_calls, self.samples)

    @property
    def share(self) -> float:
        """These, of all samples."""
        return self.needed / max(self.samples, 1)

    @property
    def saved(self) -> int:
        """Samples that the judge was not needed for."""
        return max(self.samples - self.needed, 0)

    @property
    def agreement(self) -> float | None:
        """Estimated share of all samples on which the cascade's class is the judge's; `None` without an audit."""
        if self.judged == self.samples and self.samples:
            return 1.0
        return self._overall(self.agreed / self.audited) if self.audited else None

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95 % interval, from the audit alone."""
        low, high = agreement_interval(self.agreed, self.audited)
        return self._overall(low), self._overall(high)

    def _overall(self, share: float) -> float:
        """From agreement on the trusted samples to that on all: on the others the judge agrees with itself."""
        return (self.judged + share * (self.samples - self.judged)) / max(self.samples, 1)

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain types."""
        low, high = self.interval
        return {
            "samples": self.samples,
            "judged": self.judged,
            "audited": self.audited,
            "agreed": self.agreed,
            "calibration_calls": self.calibration_calls,
            "calls": self.calls,
            "judge_share": round(self.share, 6),
            "calls_saved": self.saved,
            "agreement": self.agreement,
            "agreement_interval": [low, high],
        }

    def parts(self) -> Iterable[str | Table]:
        """For a notebook."""
        low, high = self.interval
        return [
            f"the judge was needed for {self.needed:,} of {self.samples:,} samples ({self.share:.1%}): "
            f"{self.judged:,} decided by it, {self.audited:,} audited, "
            f"{self.calibration_calls:,} for calibration alone; {self.saved:,} calls saved, {self.calls:,} made now",
            f"agreement with the judge, by the audit: {self.agreement:.1%} ({low:.1%} to {high:.1%}, 95 %)"
            if self.agreement is not None
            else "agreement with the judge: not known, nothing was audited",
        ]

    def __str__(self) -> str:
        return "\n".join(str(part) for part in self.parts())
