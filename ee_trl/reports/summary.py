"""The summary of a scored data set: counts, shares, reasons, emotions."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..axes import AXES, QUADRANTS, TIE
from ..dialogue import REASONS, SCORED
from ..selection import quadrants


if TYPE_CHECKING:
    from ..subset import Scores


@dataclass(frozen=True)
class Summary:
    """
    What is in a scored data set. Prints as a table; [`~Summary.to_dict`] gives the same for machines.

    Args:
        rows (`int`): All samples.
        scored (`int`): Those with scores; shares are of these.
        unscored (`dict[str, int]`): Reason -> count of the others.
        scorers (`list[str]`): Fingerprints of what made the scores, `"given"` if they came without.
        threshold (`list[float]`): T for sensibility and rationality.
        quadrants (`dict[str, dict]`): Quadrant (and `tie`) -> `{"count", "share"}`.
        axes (`dict[str, dict]`): Axis -> `{"mean", "std", "p10", "median", "p90"}`.
        emotions (`dict[str, dict]`, *optional*): Emotion -> `{"scored", "<quadrant>_share"...}`, by falling share of
            the sensibility quadrant.
    """

    rows: int
    scored: int
    unscored: dict[str, int]
    scorers: list[str]
    threshold: list[float]
    quadrants: dict[str, dict[str, float]]
    axes: dict[str, dict[str, float]]
    emotions: dict[str, dict[str, float]] | None = None

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain types."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            f"{self.rows:,} samples, {self.scored:,} scored ({_percent(self.scored, self.rows)}) "
            f"by {', '.join(self.scorers) or 'no scorer'}"
        ]
        lines += [f"  unscored {reason:<20} {n:>8,}  {REASONS.get(reason, '')}" for reason, n in self.unscored.items()]
        t_s, t_r = self.threshold
        lines += ["", f"quadrants at T = {t_s:g}" + (f" (sensibility), {t_r:g} (rationality)" if t_s != t_r else "")]
        for name, entry in self.quadrants.items():
            lines.append(
                f"  {name:<12} {entry['count']:>8,.0f}  {entry['share']:>6.1%}  {'#' * round(40 * entry['share'])}"
            )
        if self.axes:
            lines += ["", f"  {'axis':<12} {'mean':>6} {'std':>6} {'p10':>6} {'median':>6} {'p90':>6}"]
            lines += [
                f"  {axis:<12} " + " ".join(f"{v:6.2f}" for v in row.values()) for axis, row in self.axes.items()
            ]
        if self.emotions:
            names = (*QUADRANTS, TIE)
            lines += ["", f"  {'emotion':<14} {'scored':>7} " + " ".join(f"{name:>11}" for name in names)]
            for emotion, row in self.emotions.items():
                shares = " ".join(f"{row[f'{name}_share']:>11.1%}" for name in names)
                lines.append(f"  {emotion:<14} {row['scored']:>7,.0f} {shares}")
        return "\n".join(lines)


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "none"


def summarise(scores: Scores, threshold: tuple[float, float], ties: str) -> Summary:
    """The [`Summary`] of a data set's scores at a threshold."""
    where = quadrants(scores.sensibility, scores.rationality, threshold, ties)
    reasons = Counter(str(s) for s in scores.status if s != SCORED)
    scored = int((where != "").sum())
    return Summary(
        rows=len(where),
        scored=scored,
        unscored=dict(reasons.most_common()),
        scorers=list(scores.scorers),
        threshold=list(threshold),
        quadrants=_shares(where, scored),
        axes=_axes(scores) if scored else {},
        emotions=_emotions(scores, where),
    )


def _shares(where: Any, scored: int) -> dict[str, dict[str, float]]:
    counts = Counter(where.tolist())
    return {q: {"count": counts[q], "share": counts[q] / scored if scored else 0.0} for q in (*QUADRANTS, TIE)}


def _axes(scores: Scores) -> dict[str, dict[str, float]]:
    import numpy as np

    found = {}
    for axis in AXES:
        values = getattr(scores, axis)
        values = values[~np.isnan(values)]
        p10, median, p90 = np.percentile(values, [10, 50, 90])
        found[axis] = {
            "mean": float(values.mean()),
            "std": float(values.std()),
            "p10": float(p10),
            "median": float(median),
            "p90": float(p90),
        }
    return found


def _emotions(scores: Scores, where: Any) -> dict[str, dict[str, float]] | None:
    if scores.emotion is None:
        return None
    found: dict[str, dict[str, float]] = {}
    counts = Counter(zip(scores.emotion.tolist(), where.tolist(), strict=True))
    for emotion in sorted({e for e, q in counts if q}):
        total = sum(counts[emotion, q] for q in (*QUADRANTS, TIE))
        row: dict[str, float] = {"scored": total}
        row |= {f"{q}_share": counts[emotion, q] / total for q in (*QUADRANTS, TIE)}
        found[emotion or "(none)"] = row
    return dict(sorted(found.items(), key=lambda item: -item[1]["sensibility_share"]))
