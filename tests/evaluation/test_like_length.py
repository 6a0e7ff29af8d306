"""Empathy at like length: longer replies score higher, and what is left of a difference between equally long ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from ee_trl.evaluation import Comparison, evaluate_models, read_eval_set
from ee_trl.evaluation.bootstrap import Bootstrap, compare, means
from ee_trl.evaluation.measures import AtLikeLength, Measure, at_like_length


class ByLength:
    """Sensibility is half the number of words, and two more where the reply says sorry; rationality is 1."""

    fingerprint = "by-length"
    deterministic = True

    def score(self, dialogues: Any) -> Any:
        texts = [dialogue.response for dialogue in dialogues]
        return np.array([[min(10, len(text.split()) / 2 + 2 * ("sorry" in text)), 1] for text in texts], float)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, Path]:
    """Short replies, long ones, and kind ones as long as the short ones, on the same dialogues."""
    folder, eval_set, drawn = tmp_path_factory.mktemp("lengths"), read_eval_set(limit=50), np.random.default_rng(0)
    lengths = {"short": drawn.integers(3, 11, len(eval_set)), "long": drawn.integers(6, 14, len(eval_set))}
    texts = {name: [" ".join(["word"] * n) for n in words] for name, words in lengths.items()}
    texts["kind"] = [text.replace("word", "sorry", 1) for text in texts["short"]]
    texts["short"][0] = ""
    for name, replies in texts.items():
        Dataset.from_dict({"prediction": replies}).to_parquet(folder / f"{name}.parquet")
    paths = {name: folder / f"{name}.parquet" for name in texts}
    options: Any = {"metrics": ["empathy_axes"], "scorer": ByLength(), "store": False, "show": False}
    found = evaluate_models(predictions=paths, dataset=eval_set, output=folder / "out", resamples=200, **options)
    return found, folder / "out"


def test_a_difference_of_length_alone_is_gone(compared: tuple[Comparison, Path]) -> None:
    found, _ = compared
    pairs = {(pair["a"], pair["b"]): pair for pair in found.paired}
    raw, alike = (pairs["short", "long"][key]["sensibility"] for key in ("numbers", "like_length"))
    assert raw["difference"] > 1.2
    assert abs(alike["difference"]) < 0.2
    assert alike["interval"][0] < 0.2
    raw, alike = (pairs["short", "kind"][key]["sensibility"] for key in ("numbers", "like_length"))
    assert alike["difference"] == pytest.approx(2, abs=0.05)
    assert alike["interval"][0] > 1.8
    assert set(alike) == {"difference", "interval"}
    assert not any(name.startswith("reference_") for name in pairs["short", "long"]["like_length"])
    assert {"sensibility_share", "rationality"} <= set(pairs["short", "long"]["like_length"])


def test_every_candidate_and_the_references_have_their_numbers(compared: tuple[Comparison, Path]) -> None:
    found, folder = compared
    entries = {name: entry["like_length"] for name, entry in found.models.items()}
    for entry in entries.values():
        low, high = entry["intervals"]["sensibility"]
        assert low <= entry["numbers"]["sensibility"] <= high
        assert 0 < entry["covered"] <= 1
    raw = found.numbers("long")["sensibility"] - found.numbers("short")["sensibility"]
    alike = entries["long"]["numbers"]["sensibility"] - entries["short"]["numbers"]["sensibility"]
    assert alike < raw / 2
    assert found.references["like_length"]["covered"] == 0  # all are longer
    page, text = ((folder / f"report.{kind}").read_text(encoding="utf-8") for kind in ("html", "md"))
    for part in ("Empathy at like length", "same distribution of lengths"):
        assert part in page
        assert part in text
        assert part in str(found)
    assert "| number | long minus short | p | p (Holm) | at like length |" in text


def test_by_hand() -> None:
    # a: three short replies, one long one; b: one short, three long; one blank reply each, which counts nowhere
    short, long = "one two", "one two three four"
    replies = [[short, short, short, long, " "], [short, long, long, long, ""]]
    values = [np.array([1.0, 2, 3, 8, 99]), np.array([3.0, 7, 8, 9, 99])]
    measures = [{"judge": Measure(means({"empathy": column}))} for column in values]
    bins = np.array([[0, 0, 0, 1, -1], [0, 1, 1, 1, -1]])
    a, b = (AtLikeLength(found["judge"].resampler, bins, bins[i]) for i, found in enumerate(measures))
    # both bins hold four replies of the two: the mean of the means
    assert (a.point()["empathy"], b.point()["empathy"]) == ((2 + 8) / 2, (3 + 8) / 2)
    # without the long reply of a, only the short ones are compared
    inside = np.array([1, 1, 1, 0, 1])
    assert (a.point(inside)["empathy"], b.point(inside)["empathy"]) == (2, 3)
    assert compare(a, b, Bootstrap(20))["empathy"]["difference"] == 0.5
    assert a.take(np.array([3, 0])).point()["empathy"] != a.point()["empathy"]
    [one, other] = at_like_length(measures, [texts * 4 for texts in replies])
    assert one["judge"].bins.tolist() == other["judge"].bins.tolist() == np.tile(bins, 4).tolist()
    # what is beside the candidates follows their distribution and does not change it
    beside = AtLikeLength(measures[1]["judge"].resampler, bins[:1], bins[1])
    assert beside.point()["empathy"] == (3 * 3 + 8) / 4


def test_without_a_common_length_there_is_no_number() -> None:
    measure = {"judge": Measure(means({"empathy": np.ones(20)})), "distinct": Measure(means({"words": np.ones(20)}))}
    a, b = at_like_length([measure, measure], [["one"] * 20, ["one two three"] * 20])
    assert list(a) == ["judge"]
    assert np.isnan(a["judge"].point()["empathy"])
    assert compare(a["judge"], b["judge"], Bootstrap(20))["empathy"]["difference"] is None
