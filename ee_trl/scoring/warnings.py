"""What in the scores of a data set says that they cannot be trusted: another language, a scorer that answers alike."""

from __future__ import annotations

import numpy as np

from ..axes import AXES, DEFAULT_THRESHOLD, NOT_ENGLISH, QUADRANT_NAMES, QUADRANTS, Threshold, quadrant_codes
from ..data.samples import Scores


FEWEST, NEARLY_ALL = 50, 0.95
"""A scorer answers alike where it gives at least so many samples scores, and at least this share of them the same."""
SAME = 0.5  # scores this near to their median are the same number, rounded

_CHECK = "See how it ranks replies of known quality: ee-trl check SCORER."


def score_warnings(scores: Scores, threshold: Threshold = DEFAULT_THRESHOLD, ties: str = "drop") -> list[str]:
    """One sentence or more for each reason not to trust the scores; none where nothing is suspicious."""
    pairs = np.stack([scores.sensibility, scores.rationality], axis=1)
    codes = quadrant_codes(scores.sensibility, scores.rationality, threshold, ties)
    scored = codes != QUADRANT_NAMES.index("")
    return [*_language(scores), *(_alike(pairs[scored], codes[scored]) if scored.sum() >= FEWEST else [])]


def _language(scores: Scores) -> list[str]:
    flagged = int(scores.flags.is_(NOT_ENGLISH).sum()) if scores.flags is not None else 0
    unscored = int(scores.statuses.is_(NOT_ENGLISH).sum())
    total = len(scores.statuses)
    if not flagged + unscored:
        return []
    done = "They have scores that mean nothing, and selection drops them." if flagged else "They are left unscored."
    return [
        f"{flagged + unscored:,} of {total:,} replies ({(flagged + unscored) / total:.1%}) are not English, the only "
        f"language that this scorer reads. {done} A judge that reads their language can score them: ee-trl score DATA "
        "--scorer JUDGE."
    ]


def _alike(pairs: np.ndarray, codes: np.ndarray) -> list[str]:
    found = []
    for axis, values in zip(AXES, pairs.T, strict=True):
        middle = float(np.median(values))
        share = float((np.abs(values - middle) <= SAME).mean())
        if share >= NEARLY_ALL:
            found.append(
                f"{share:.1%} of the {len(values):,} {axis} scores lie within {SAME:g} of {middle:.2f}. The scorer "
                f"gives nearly every reply the same {axis}, so a threshold on it separates nothing. {_CHECK}"
            )
    for name in QUADRANTS:
        share = float((codes == QUADRANT_NAMES.index(name)).mean())
        if share >= NEARLY_ALL:
            found.append(
                f"{share:.1%} of the {len(codes):,} scored samples are in the quadrant {name!r}. Scores that put "
                f"nearly every reply into one quadrant do not tell replies apart at this threshold. {_CHECK}"
            )
    return found
