"""The summary of a scored data set: counts, shares, reasons, emotions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..data.dialogue import REASONS, SCORED
from ..data.tally import Distribution, Tally
from ..display import Displayed, Table, percent
from ..scoring.warnings import score_warnings
from ..selection import KEEPABLE


@dataclass(frozen=True)
class Summary(Displayed):
    """
    What is in a scored data set. Prints as tables; [`~Summary.to_dict`] gives the same for machines.

    Args:
        rows, scored (`int`): All samples, and those that have scores; shares are of the latter.
        unscored (`dict[str, int]`): Reason -> count of the samples without scores.
        scorers (`list[str]`): Fingerprints of what made the scores; `"given"` where none is recorded.
        threshold (`list[float]`): T for sensibility and rationality.
        quadrants (`dict[str, dict]`): Quadrant (and `tie`) -> count and share.
        axes (`dict[str, dict]`): Axis -> mean, standard deviation, median, and percentiles 10 and 90.
        emotions (`dict[str, dict]`, *optional*): Emotion -> shares, by falling share of the sensibility quadrant.
        flags (`dict[str, int]`): Flag -> count of the samples that have it; selection drops them.
        warnings (`list[str]`): Why the scores may not be trusted; see [`~ee_trl.scoring.warnings.score_warnings`].
    """

    rows: int
    scored: int
    unscored: dict[str, int]
    scorers: list[str]
    threshold: list[float]
    quadrants: dict[str, dict[str, float]]
    axes: dict[str, dict[str, float]]
    emotions: dict[str, dict[str, float]] | None = None
    flags: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain types; flags and warnings where there are any."""
        found = asdict(self)
        return {name: value for name, value in found.items() if value or name not in ("flags", "warnings")}

    def parts(self) -> Iterable[str | Table]:
        """Counts and scorers; tables of reasons, quadrants, axes and emotions."""
        t_s, t_r = self.threshold
        yield (
            f"{self.rows:,} samples, {self.scored:,} scored ({percent(self.scored, self.rows)}) by "
            f"{', '.join(self.scorers) or 'no scorer'}"
        )
        yield from (f"Warning: {warning}" for warning in self.warnings)
        if self.unscored:
            rows = [(why, REASONS.get(why, ""), f"{n:,}") for why, n in self.unscored.items()]
            yield Table(("unscored because", "", "samples"), rows, texts=2)
        if self.flags:
            rows = [(name, f"{n:,}", percent(n, self.scored)) for name, n in self.flags.items()]
            yield Table(("flag", "samples", "share of the scored"), rows, "flagged replies, which selection drops")
        both = f" (sensibility), {t_r:g} (rationality)" if t_s != t_r else ""
        yield quadrants_table(self.quadrants, f"quadrants at T = {t_s:g}{both}")
        if self.axes:
            numbers = [(axis, *(f"{v:.2f}" for v in row.values())) for axis, row in self.axes.items()]
            yield Table(("axis", "mean", "std", "p10", "median", "p90"), numbers)
        if self.emotions:
            by_emotion = [
                (emotion, f"{row['scored']:,}", *(percent(row[f"{name}_share"]) for name in KEEPABLE))
                for emotion, row in self.emotions.items()
            ]
            yield Table(("emotion", "scored", *KEEPABLE), by_emotion)


def quadrants_table(quadrants: Mapping[str, Mapping[str, float]], title: str = "") -> Table:
    """How many of the scored samples are in each quadrant."""
    rows = [(name, f"{entry['count']:,}", percent(entry["share"])) for name, entry in quadrants.items()]
    return Table(("quadrant", "samples", "share of the scored"), rows, title)


def summarise(tally: Tally) -> Summary:
    """The [`Summary`] of a data set's scores."""
    counts, scored = {name: tally.quadrants[name] for name in KEEPABLE}, tally.scored
    return Summary(
        rows=tally.rows,
        scored=scored,
        unscored={name: n for name, n in tally.statuses.most_common() if name != SCORED},
        scorers=sorted(tally.scorers),
        threshold=list(tally.threshold),
        quadrants={q: {"count": n, "share": n / scored if scored else 0.0} for q, n in counts.items()},
        axes={axis: _numbers(values) for axis, values in tally.axes.items()} if scored else {},
        emotions=None if tally.emotions is None else _emotions(tally.emotions),
        flags={name: n for name, n in tally.flags.most_common() if name},
        warnings=score_warnings(tally),
    )


def _numbers(values: Distribution) -> dict[str, float]:
    percentiles = {name: values.percentile(q) for name, q in (("p10", 10), ("median", 50), ("p90", 90))}
    return {"mean": values.mean, "std": values.std, **percentiles}


def _emotions(counted: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for emotion, row in sorted(counted.items()):
        total = sum(row[name] for name in KEEPABLE)
        if total:
            shares = {f"{name}_share": row[name] / total for name in KEEPABLE}
            found[emotion or "(none)"] = {"scored": total, **shares}
    return dict(sorted(found.items(), key=lambda item: -item[1]["sensibility_share"]))
