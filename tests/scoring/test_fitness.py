"""The model of flags of the scorer "linear": its arrays, and that a row's numbers are its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ee_trl import Dialogue, LinearScorer
from ee_trl.errors import ScorerError
from ee_trl.scoring import features as ft
from ee_trl.scoring import fitness
from ee_trl.scoring.linear import BUNDLED, WEIGHTS_FILE, load_weights, shapes


CAT = "My cat died this morning. She was with me for twelve years and the house is so quiet now."


def to_cat(reply: str) -> Dialogue:
    return Dialogue((CAT,), reply, ("user",))


def written(folder: Path, **arrays: np.ndarray) -> Path:
    """A folder with the bundled axes and random flags."""
    weights, draw = load_weights(BUNDLED), np.random.default_rng(0)
    weights = {name: weights[name] for name in shapes()}
    weights |= {name: draw.integers(-3, 4, shape) * 0.1 for name, shape in fitness.shapes().items()}
    weights["fit_dense"] = weights["fit_dense"] / 50  # or they outweigh the words
    weights["fit_bias"] = np.full(len(fitness.CLASSES), -np.log(len(fitness.CLASSES)))
    weights["fit_known"] = draw.integers(0, 256, fitness.shapes()["fit_known"]).astype(np.uint8)
    np.savez(folder / WEIGHTS_FILE, **(weights | arrays))
    return folder


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> LinearScorer:
    return LinearScorer(written(tmp_path_factory.mktemp("flags")))


def flagged(scorer: LinearScorer, dialogues: list[Dialogue]) -> tuple[np.ndarray, list[str | None]]:
    batches = list(scorer.score_batches(dialogues))
    found = [flag for batch in batches for flag in batch.flags or ()]
    return np.concatenate([batch.details["appropriateness"] for batch in batches]), found


def test_a_row_s_flag_and_appropriateness_do_not_depend_on_others(scorer: LinearScorer) -> None:
    dialogues = [to_cat(text) for text in ("I'm so sorry.", "", "Get over it.", "Why?", "a " * 900)] * 30
    dialogues += [Dialogue((), "Hi.", ()), Dialogue(("Hi.", "Yes?", CAT), "Oh no.", ("user", "assistant", "user"))]
    together, flags = flagged(scorer, dialogues)
    alone = [flagged(scorer, [dialogue]) for dialogue in dialogues[:5] + dialogues[-2:]]
    assert [one[0][0] for one in alone] == [*together[:5], *together[-2:]]
    assert [one[1][0] for one in alone] == [*flags[:5], *flags[-2:]]


def test_a_flag_is_given_below_one_half(scorer: LinearScorer) -> None:
    fits, flags = flagged(scorer, [to_cat(" ".join(CAT.split()[i : i + n])) for i in range(9) for n in range(1, 9)])
    by_rule = [flag in (None, "repetitive") for flag in flags]  # parts of the turn are copies, whatever the model says
    assert ((fits >= 0.5) <= by_rule).all()
    assert ((fits < 0.5) <= [flag is not None for flag in flags]).all()
    assert 0 < (fits < 0.5).sum() < len(fits)
    assert scorer.flags == ("hostile", "dismissive", "off_topic", "repetitive", "not_english")
    assert {flag for flag in flags if flag} <= set(scorer.flags)


def test_words_in_random_order_are_off_topic() -> None:
    odds = np.full((1, len(fitness.CLASSES)), -5.0)
    odds[0, fitness.CLASSES.index("salad")] = 2.0
    assert fitness.flags_of(odds) == ["off_topic"]
    assert fitness.flags_of(odds - 4) == [None]


def test_weights_without_flags_leave_them_to_the_rules(scorer: LinearScorer, tmp_path: Path) -> None:
    weights = load_weights(BUNDLED)
    np.savez_compressed(tmp_path / WEIGHTS_FILE, **{name: weights[name] for name in shapes()})
    plain = LinearScorer(tmp_path)
    assert (plain.flags, plain.details) == (("repetitive", "not_english"), ())
    assert next(plain.score_batches([to_cat("You pathetic loser.")])).flags == [None]
    assert plain.fingerprint != scorer.fingerprint
    assert (plain.score([to_cat("Oh no.")]) == scorer.score([to_cat("Oh no.")])).all()


def test_damaged_weights_of_flags_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ScorerError, match="'fit_bias' has shape"):
        LinearScorer(written(tmp_path, fit_bias=np.zeros(3)))


def test_pairs_and_words_of_replies() -> None:
    found = ft.extract([to_cat("one two three"), to_cat(""), to_cat("four")])
    assert fitness.pairs_of(found).rows.tolist() == [0, 0]
    assert fitness.words_and_pairs(found).counts.tolist() == [5, 0, 1]
