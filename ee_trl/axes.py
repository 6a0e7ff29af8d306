"""The two axes of empathy and the four quadrants they span.

Every array of scores in this package is of shape `(n, 2)`, in the order of [`AXES`]: sensibility first, rationality
second, each a float in [0, 10], or NaN in both columns where the sample is unscored.
"""

SENSIBILITY = "sensibility"
"""Emotional grounding (affective empathy): the reply shares, names or soothes the feeling."""

RATIONALITY = "rationality"
"""Cognitive coherence (cognitive empathy): the reply reasons about the situation: asks, explains, advises."""

AXES = (SENSIBILITY, RATIONALITY)
MIN_SCORE, MAX_SCORE = 0.0, 10.0

BALANCED, LOW, TIE = "balanced", "low", "tie"
QUADRANTS = (SENSIBILITY, RATIONALITY, BALANCED, LOW)
"""High sensibility only, high rationality only, both high, both low; see [`ee_trl.selection.quadrants`]."""

UNSCORED = "unscored"
"""In place of a quadrant, for a sample without scores."""

QUADRANT = "quadrant"
"""The column that names a sample's quadrant."""

DEFAULT_THRESHOLD = 5.0
"""T of the released rule (Efficient-Empathy)."""
