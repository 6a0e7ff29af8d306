"""The answers of a server: log probabilities and texts, however they are cut, and what is no answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fake_server import Reply, completion, serving
from served_judge import said, scorer_of

from ee_trl.scoring.judge.answers import DETAILS, read_answer


pytestmark = pytest.mark.usefixtures("no_server_named")


HEAD = [("Evaluation Form (scores ONLY):\n", {}), ("- Rationality", {}), (":", {})]
MIDDLE = [("\n- Sens", {}), ("ibility", {}), (":", {})]
Tokens = list[tuple[str, dict[str, float]]]


def form(rationality: Tokens, sensibility: Tokens) -> tuple[str, Tokens]:
    tokens = [*HEAD, *rationality, *MIDDLE, *sensibility]
    return "".join(token for token, _ in tokens), [*tokens, ("<|im_end|>", {})]


SEVEN: Tokens = [(" 7", {" 7": 0.5, " 8": 0.25, " maybe": 0.25})]
"""Expected value (0.5 * 7 + 0.25 * 8) / 0.75 = 7.333, mass 0.75, deviation sqrt(2/9) = 0.471."""

TENS: dict[str, tuple[Tokens, float, float]] = {  # tokens, score, mass
    "one token with its space": ([(" 10", {" 10": 0.6, " 9": 0.3, " 1": 0.1})], 0.6 * 10 + 0.3 * 9 + 0.1, 1),
    "one token": ([(" ", {}), ("10", {"10": 0.5, "8": 0.25, "x": 0.25})], (5 + 2) / 0.75, 0.75),
    "digits": ([(" ", {}), ("1", {"1": 0.8, "9": 0.2}), ("0", {"0": 0.75, "\n": 0.25})], 6 + 0.2 + 1.8, 1),
    "space and digit": ([(" 1", {" 1": 0.8, " 9": 0.2}), ("0", {"0": 0.75, "\n": 0.25})], 6 + 0.2 + 1.8, 1),
    "1 that might have become 10": ([(" 1", {" 1": 0.9, " 2": 0.1}), ("\n", {"\n": 0.9, "0": 0.1})], 1.91, 1),
    "9, with 10 as the runner-up by digits": ([(" ", {}), ("9", {"9": 0.6, "1": 0.4})], 5.4 + 4, 1),
    "2, with 1 as the runner-up": ([(" ", {}), ("2", {"2": 0.6, "1": 0.4})], 1.2 + 0.4, 1),
    "9, with 10 and 1 both listed": ([(" 9", {" 9": 0.5, " 10": 0.3, " 1": 0.2})], 4.5 + 3 + 0.2, 1),
    "colon and digit": ([(" ", {}), ("0", {"0": 1.0})], 0, 1),
    "token with the line's end": ([(" 3\n", {" 3\n": 0.5, " 4": 0.25, " 5\n\n": 0.25})], 1.5 + 1 + 1.25, 1),
    "the token taken is not listed": ([(" 6", {" 6": 0.4, "4": 0.1})], (2.4 + 0.4) / 0.5, 0.5),
}


@pytest.mark.parametrize("name", TENS)
def test_expected_values_by_hand_whichever_way_numbers_are_cut(name: str) -> None:
    tokens, score, mass = TENS[name]
    text, tokens = form(SEVEN, tokens)
    with serving(lambda request, before: Reply(completion(text, tokens))) as server:
        scores, details = scorer_of(server).score_with_details(said("Oh dear."))
    np.testing.assert_allclose(scores, [[score, 5.5 / 0.75]], atol=1e-9)
    assert details["sensibility_mass"] == pytest.approx([mass])
    assert details["rationality_mass"] == pytest.approx([0.75])
    assert details["rationality_std"] == pytest.approx([np.sqrt(2 / 9)])
    assert details["rationality_mode"] == [7]
    assert tuple(details) == DETAILS


def test_the_token_taken_counts_where_the_list_of_alternatives_lacks_it() -> None:
    text, tokens = form(SEVEN, [(" 6", {" 6": 0.4, "4": 0.1})])
    body = completion(text, tokens)
    taken = next(t for t in body["choices"][0]["logprobs"]["content"] if t["token"] == " 6")
    taken["top_logprobs"] = taken["top_logprobs"][1:]
    assert read_answer(body, 0, 20).values[0].tolist() == pytest.approx([0] * 4 + [0.1, 0, 0.4] + [0] * 4)


@pytest.mark.parametrize("before", ["", "Let me see 😢.\n", "- 3 thoughts, 10 words\n"])
@pytest.mark.parametrize("cut", [False, True], ids=["as written", "text stripped by the server"])
def test_the_numbers_are_found_in_the_tokens_whatever_comes_before(before: str, cut: bool) -> None:
    text, tokens = form(SEVEN, TENS["digits"][0])
    halves = [before[: len(before) // 2], before[len(before) // 2 :]]
    tokens = [("\n", {}), *((half, {}) for half in halves if half), *tokens]
    text = f"{before}{text}" if cut else f"\n{before}{text}"
    answer = read_answer(completion(text, tokens), 3, 20)
    assert (answer.sample, answer.reason, answer.mode) == (3, None, (10, 7))
    assert answer.values[0] @ np.arange(11) == pytest.approx(8)


def test_reasoning_before_the_answer_is_not_taken_for_it() -> None:
    text, tokens = form(SEVEN, SEVEN)
    thought = [("<think>", {}), ("- Rationality: 2\n- Sensibility: 2", {}), ("</think>", {})]
    assert read_answer(completion(text, thought + tokens), 0, 20).values[0] @ np.arange(11) == pytest.approx(5.5)
    with_thought = "".join(token for token, _ in thought) + text
    assert read_answer(completion(with_thought, thought + tokens), 0, 20).values[0] @ np.arange(11) == pytest.approx(
        5.5
    )
    for before in ("Maybe 2.\n- Rationality: 2</think>", "[THINK]\n- Sensibility: 1[/THINK]\n"):
        assert read_answer(completion(before + text), 0, 0).mode == read_answer(completion(text), 0, 0).mode
    assert (
        read_answer(completion("<think>\n- Sensibility: 2\n- Rationality: 9\nNo"), 0, 0).reason == "answer_not_in_form"
    )


def test_an_answer_that_was_cut_off_has_no_scores() -> None:
    body = completion(*form(SEVEN, SEVEN))
    body["choices"][0]["finish_reason"] = "length"
    assert read_answer(body, 0, 20).reason == read_answer(body, 0, 0).reason == "server_cut_off"


def test_the_text_parts_of_an_answer_are_read() -> None:
    body = completion("- Sensibility: 8\n- Rationality: 3")
    text = body["choices"][0]["message"]["content"]
    for kind in ("text", "output_text"):
        body["choices"][0]["message"]["content"] = [
            {"type": "thinking", "thinking": "hm"},
            {"type": kind, "text": text},
        ]
        assert read_answer(body, 0, 0).mode == (8, 3)


def broken(change: Callable[[dict[str, Any]], None]) -> Any:
    body = completion(*form(SEVEN, SEVEN))
    change(body)
    return body


MALFORMED: dict[str, Any] = {
    "null": None,
    "a list": [],
    "a text": "hello",
    "no choices": {"choices": []},
    "choices are none": {"choices": None},
    "a choice that is none": {"choices": [None]},
    "two choices": broken(lambda b: b["choices"].append(b["choices"][0])),
    "no message": broken(lambda b: b["choices"][0].pop("message")),
    "content of parts": broken(lambda b: b["choices"][0]["message"].update(content=[{"text": "8"}])),
    "no log probabilities": broken(lambda b: b["choices"][0].update(logprobs=None)),
    "an empty list of them": broken(lambda b: b["choices"][0]["logprobs"].update(content=[])),
    "they are text": broken(lambda b: b["choices"][0]["logprobs"].update(content="abc")),
    "tokens of another text": broken(lambda b: b["choices"][0]["logprobs"]["content"].pop(2)),
    "a positive one": broken(lambda b: b["choices"][0]["logprobs"]["content"][3].update(logprob=5.0)),
    "not a number": broken(lambda b: b["choices"][0]["logprobs"]["content"][3].update(logprob=float("nan"))),
    "a text for one": broken(lambda b: b["choices"][0]["logprobs"]["content"][3].update(logprob="-0.1")),
    "huge bytes": broken(lambda b: b["choices"][0]["logprobs"]["content"][3].update(bytes=[999])),
    "alternatives a number": broken(lambda b: b["choices"][0]["logprobs"]["content"][3].update(top_logprobs=3)),
    "more than all": broken(lambda b: b["choices"][0]["logprobs"]["content"][3]["top_logprobs"][1].update(logprob=0)),
    "half a character": broken(lambda b: b["choices"][0]["message"].update(content="- Rationality: 7\ud800")),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_answer_is_named_so_and_raises_nothing(name: str) -> None:
    answer = read_answer(MALFORMED[name], 0, 20)
    assert answer.reason == ("answer_not_in_form" if name == "half a character" else "server_malformed")
    assert np.isnan(answer.values).all()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "answer_not_in_form"),
        (None, "answer_not_in_form"),
        ("I cannot rate this.", "answer_not_in_form"),
        ("- Sensibility: 11\n- Rationality: 3", "answer_not_in_form"),
        ("- Sensibility: 8/10\n- Rationality: 3", "answer_not_in_form"),
        ("- Sensibility: 8", "answer_not_in_form"),
        ("- Rationality: 3\n- Sensibility: 8", None),
    ],
)
def test_texts_are_read_strictly(text: str | None, reason: str | None) -> None:
    answer = read_answer(completion(text), 0, 0)
    assert answer.reason == reason
    if reason is None:
        assert answer.mode == (8, 3)


def test_a_filtered_answer_is_a_refusal() -> None:
    body = completion(None)
    body["choices"][0]["finish_reason"] = "content_filter"
    assert read_answer(body, 0, 0).reason == "server_refused"
