"""The summary of a scored data set: counts, shares, reasons, emotions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..axes import AXES, QUADRANTS, TIE
from ..data.columns import Coded, counts
from ..data.dialogue import REASONS, SCORED
from ..display import Displayed, Table
from ..selection import coded_quadrants


if TYPE_CHECKING:
    from ..data.samples import Scores


@dataclass(frozen=True)
class Summary(Displayed):
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

    def parts(self) -> Iterable[str | Table]:
        """For a notebook."""
        yield self._head()
        if self.unscored:
            rows = [(why, f"{n:,}", REASONS.get(why, "")) for why, n in self.unscored.items()]
            yield Table(("unscored because", "samples", ""), rows)
        shares = [(name, f"{entry['count']:,.0f}", f"{entry['share']:.1%}") for name, entry in self.quadrants.items()]
        yield Table(("quadrant", "samples", "of the scored"), shares, self._title())
        if self.axes:
            numbers = [(axis, *(f"{v:.2f}" for v in row.values())) for axis, row in self.axes.items()]
            yield Table(("axis", "mean", "std", "p10", "median", "p90"), numbers)
        if self.emotions:
            names = (*QUADRANTS, TIE)
            by_emotion = [
                (emotion, f"{row['scored']:,.0f}", *(f"{row[f'{name}_share']:.1%}" for name in names))
                for emotion, row in self.emotions.items()
            ]
            yield Table(("emotion", "scored", *names), by_emotion)

    def _head(self) -> str:
        return (
            f"{self.rows:,} samples, {self.scored:,} scored ({_percent(self.scored, self.rows)}) "
            f"by {', '.join(self.scorers) or 'no scorer'}"
        )

    def _title(self) -> str:
        t_s, t_r = self.threshold
        return f"quadrants at T = {t_s:g}" + (f" (sensibility), {t_r:g} (rationality)" if t_s != t_r else "")

    def __str__(self) -> str:
        lines = [self._head()]
        lines += [f"  unscored {reason:<20} {n:>8,}  {REASONS.get(reason, '')}" for reason, n in self.unscored.items()]
        lines += ["", self._title()]
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
    where = coded_quadrants(scores.sensibility, scores.rationality, threshold, ties)
    scored = len(where) - where.counts().get("", 0)
    return Summary(
        rows=len(where),
        scored=scored,
        unscored={name: n for name, n in scores.statuses.counts().items() if name != SCORED},
        scorers=list(scores.scorers),
        threshold=list(threshold),
        quadrants=_shares(where, scored),
        axes=_axes(scores) if scored else {},
        emotions=_emotions(scores, where),
    )


def _shares(where: Coded, scored: int) -> dict[str, dict[str, float]]:
    found = {q: where.counts().get(q, 0) for q in (*QUADRANTS, TIE)}
    return {q: {"count": n, "share": n / scored if scored else 0.0} for q, n in found.items()}


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


def _emotions(scores: Scores, where: Coded) -> dict[str, dict[str, float]] | None:
    if scores.emotions is None:
        return None
    width, names = len(where.names), scores.emotions.names
    pairs = counts(scores.emotions.codes, len(names), where.codes, width)
    found: dict[str, dict[str, float]] = {}
    for emotion in sorted(names):
        start = names.index(emotion) * width
        shares = dict(zip(where.names, pairs[start : start + width], strict=True))
        total = sum(shares[q] for q in (*QUADRANTS, TIE))
        if total:
            row: dict[str, float] = {"scored": total, **{f"{q}_share": shares[q] / total for q in (*QUADRANTS, TIE)}}
            found[emotion or "(none)"] = row
    return dict(sorted(found.items(), key=lambda item: -item[1]["sensibility_share"]))
