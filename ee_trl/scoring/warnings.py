"""What in the scores of a data set says that they cannot be trusted: another language, a scorer that answers alike."""

from __future__ import annotations

from ..axes import NOT_ENGLISH, QUADRANTS
from ..data.tally import Tally


FEWEST, NEARLY_ALL = 50, 0.95
"""A scorer answers alike where it gives at least so many samples scores, and at least this share of them the same."""
SAME = 0.5  # scores this near to their median are the same number, rounded

_CHECK = "See how it ranks replies of known quality: ee-trl check SCORER."


def score_warnings(tally: Tally) -> list[str]:
    """One sentence or more for each reason not to trust the scores; none where nothing is suspicious."""
    return [*_language(tally), *(_alike(tally) if tally.scored >= FEWEST else [])]


def _language(tally: Tally) -> list[str]:
    flagged, unscored, total = tally.flags[NOT_ENGLISH], tally.statuses[NOT_ENGLISH], tally.rows
    if not flagged + unscored:
        return []
    done = "They have scores that mean nothing, and selection drops them." if flagged else "They are left unscored."
    return [
        f"{flagged + unscored:,} of {total:,} replies ({(flagged + unscored) / total:.1%}) are not English, the only "
        f"language that this scorer reads. {done} A judge that reads their language can score them: ee-trl score DATA "
        "--scorer JUDGE."
    ]


def _alike(tally: Tally) -> list[str]:
    found = []
    for axis, values in tally.axes.items():
        middle = values.percentile(50)
        share = values.share_near(middle, SAME)
        if share >= NEARLY_ALL:
            found.append(
                f"{share:.1%} of the {len(values):,} {axis} scores lie within {SAME:g} of {middle:.2f}. The scorer "
                f"gives nearly every reply the same {axis}, so a threshold on it separates nothing. {_CHECK}"
            )
    for name in QUADRANTS:
        share = tally.quadrants[name] / tally.scored
        if share >= NEARLY_ALL:
            found.append(
                f"{share:.1%} of the {tally.scored:,} scored samples are in the quadrant {name!r}. Scores that put "
                f"nearly every reply into one quadrant do not tell replies apart at this threshold. {_CHECK}"
            )
    return found
