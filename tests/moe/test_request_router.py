"""The router of requests: it learns which set a prompt is of, from prompts of any form."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_moe import FACTS, SAD, dialogues

from ee_trl import RequestRouter
from ee_trl.errors import CompositionError
from ee_trl.moe.request_router import prompt_buckets


@pytest.fixture(scope="module")
def router() -> RequestRouter:
    return RequestRouter.fit({"sensibility": dialogues(SAD, 5), "rationality": dialogues(FACTS)})


def test_it_learns_which_set_a_prompt_is_of(router: RequestRouter) -> None:
    assert router.route(["i cry and feel alone", "what does the train cost"]) == ["sensibility", "rationality"]
    assert router.route([[{"role": "user", "content": "how to fix the invoice"}]]) == ["rationality"]
    shares = router.probabilities([*SAD, *FACTS])
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-6)
    accuracy = router.accuracy({"sensibility": dialogues(SAD), "rationality": dialogues(FACTS)})
    assert accuracy == {"sensibility": 1.0, "rationality": 1.0, "balanced": 1.0}
    assert router.probabilities([]).shape == (0, 2)


def test_sets_count_alike_whatever_their_size() -> None:
    """A prompt without a known word is of neither set."""
    one = RequestRouter.fit({"a": dialogues(SAD, 50), "b": dialogues(FACTS)})
    np.testing.assert_allclose(one.probabilities(["zzz qqq"])[0], [0.5, 0.5], atol=0.05)


def test_the_last_message_counts_otherwise_than_those_before() -> None:
    talk = [{"role": "user", "content": "sad news"}, {"role": "assistant", "content": "oh"}]
    assert set(prompt_buckets([*talk, {"role": "user", "content": "why"}])).isdisjoint(prompt_buckets("sad news"))
    system = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "sad news"}]
    assert prompt_buckets(system) == prompt_buckets("sad news")
    with pytest.raises(CompositionError, match="cannot be routed"):
        prompt_buckets(system[:1])


def test_prompts_without_words_in_parts_or_alone(router: RequestRouter) -> None:
    parts = [{"type": "text", "text": SAD[0]}, {"type": "image_url", "image_url": {"url": "x"}}]
    history = [{"role": "assistant", "content": None}, {"role": "user", "content": SAD[0]}]
    assert router.route([SAD[0], [{"role": "user", "content": parts}], history]) == ["sensibility"] * 3
    empty = router.probabilities(["", " ", [{"role": "user", "content": None}]])
    np.testing.assert_allclose(empty, empty[:1].repeat(3, axis=0))
    for alone in ("I cried", history):
        with pytest.raises(CompositionError, match=r"is one prompt; give a list of prompts: route\(\[prompt\]\)"):
            router.route(alone)  # type: ignore[arg-type]
    with pytest.raises(CompositionError, match="the set of expert 'rationality' holds no prompt to measure on"):
        router.accuracy({"sensibility": dialogues(SAD), "rationality": dialogues(FACTS).select([])})


@pytest.mark.parametrize(("names", "given"), [((), "none"), (("a",), "a")])
def test_fewer_than_two_sets_are_refused_before_fitting(names: tuple[str, ...], given: str) -> None:
    with pytest.raises(CompositionError, match=f"needs the sets of two experts or more; given: {given}"):
        RequestRouter.fit({name: dialogues(SAD) for name in names})


def test_saved_and_loaded_it_is_the_same(router: RequestRouter, tmp_path: Path) -> None:
    again = RequestRouter.load(router.save(tmp_path))
    assert again.experts == router.experts
    assert np.array_equal(again.probabilities(SAD), router.probabilities(SAD))
    record = json.loads((tmp_path / "request_router.json").read_text())
    (tmp_path / "request_router.json").write_text(json.dumps(record | {"feature_version": 0}))
    with pytest.raises(CompositionError, match="another version"):
        RequestRouter.load(tmp_path)
    with pytest.raises(CompositionError, match="holds no request router"):
        RequestRouter.load(tmp_path / "nowhere")
