"""How a server is asked: the probe finds out what it follows; by slots the numbers are those of a local judge."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fake_server import FakeServer, Reply, completion, serving
from served_judge import RUBRIC

from ee_trl import ServerScorer
from ee_trl.axes import AXES
from ee_trl.data.dialogue import Dialogue
from ee_trl.scoring.judge.rubric import ANSWER_HEADER, SLOTS


pytestmark = pytest.mark.usefixtures("no_server_named")

TALK = [Dialogue(("I lost my job.",), text, ("user",)) for text in ("Oh no.", "I am so sorry!")]
CHATTER = "I would say that this is a fine reply."


def scorer_of(server: FakeServer, **options: Any) -> ServerScorer:
    return ServerScorer("tiny", base_url=server.base_url, rubric=RUBRIC, timeout=10.0, max_retries=0, **options)


FIRST = {"sensibility": {"8": 0.5, "1": 0.3, "9": 0.1, "2": 0.1}, "rationality": {"1": 0.6, "3": 0.4}}
TEN = {"sensibility": 0.9, "rationality": 0.25}
EXPECTED = [0.5 * 8 + 0.3 * (9 + 0.1) + 0.9 + 0.2, 0.6 * (2.5 + 0.75) + 1.2]


def continuing(request: dict[str, Any], before: int = 0, echo: bool = False, split: bool = True) -> Reply:
    """Continues the last message, number by number; its model never fills in the form by itself."""
    last = request["messages"][-1]
    if last["role"] != "assistant":
        return Reply(completion(CHATTER, [(CHATTER, {CHATTER: 0.9, "No": 0.1})] if request.get("logprobs") else None))
    axis = next(axis for axis in AXES if SLOTS[axis] in last["content"])
    assert last["content"].startswith(f"{ANSWER_HEADER}\n{SLOTS[axis]}")
    if last["content"].endswith(" 1"):
        tokens = [("0" if TEN[axis] > 0.5 else "\n", {"0": TEN[axis], "\n": 1 - TEN[axis]})]
    else:
        best = max(FIRST[axis], key=lambda digit: FIRST[axis][digit])
        space = "" if split else " "
        chances = {f"{space}{digit}": chance for digit, chance in FIRST[axis].items()}
        tokens = [*([(" ", {" ": 0.99, "\n": 0.01})] if split else []), (f"{space}{best}", chances)]
        if best == "1":
            tokens.append(("\n", {"0": TEN[axis], "\n": 1 - TEN[axis]}))
    text = "".join(token for token, _ in tokens)
    return Reply(completion(last["content"] + text if echo else text, tokens))


@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize("split", [False, True])
def test_where_the_server_continues_an_answer_each_axis_is_read_at_its_slot(echo: bool, split: bool) -> None:
    with serving(lambda r, b: continuing(r, b, echo, split)) as server:
        scorer = scorer_of(server, concurrency=1)
        assert scorer.fingerprint.endswith("/logprobs:20/slots")
        scores, details = scorer.score_with_details(TALK)
    np.testing.assert_allclose(scores, [EXPECTED] * 2, atol=1e-9)
    assert details["sensibility_mode"].tolist() == [8, 8]
    assert details["rationality_mass"] == pytest.approx([1, 1])
    asked = [r["messages"][1]["content"].rsplit("\n", 1)[1] for r in server.asked[-3:]]
    assert asked == ["- Sensibility:", "- Sensibility: 1", "- Rationality:"], "10 is asked for where it is not known"


def test_a_1_of_little_weight_costs_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FIRST, "sensibility", {"8": 0.999, "1": 0.001})
    with serving(continuing) as server:
        scores = scorer_of(server).score(TALK[:1])
    assert scores[0, 0] == pytest.approx(8, abs=0.02)
    assert [len(r["messages"]) for r in server.asked] == [1, 2, 2, 2]


def test_a_number_in_an_answer_of_its_own_is_not_taken_for_a_continuation() -> None:
    def own_turn(request: dict[str, Any], before: int) -> Reply:
        text = "7" if len(request["messages"]) == 2 else f"{ANSWER_HEADER}\n- Rationality: 3\n- Sensibility: 8"
        pieces = [(piece, {piece: 0.9, "x": 0.1}) for piece in re.findall(r"\d|\D+", text)]
        return Reply(completion(text, pieces))

    with serving(own_turn) as server:
        assert scorer_of(server).fingerprint.endswith("/logprobs:20")
        assert scorer_of(server).score(TALK[:1]).tolist() == [[8, 3]]


def constrained(request: dict[str, Any], field: str, refused: int = 0) -> Reply:
    """Chats, unless the one option that it knows forces it; answers 9 and 2."""
    given = request.get(field)
    if given is None and refused and set(request) & {"grammar", "response_format"}:
        return Reply({"error": {"message": "unknown field"}}, refused)
    if given is None or len(request["messages"]) > 1:
        return Reply(completion(CHATTER))
    wanted = json.dumps(given)
    axis = next(axis for axis in AXES if axis in wanted.lower())
    number = {"sensibility": 9, "rationality": 2}[axis]
    as_json = f'{{\n  "{axis}": {number}}}'
    return Reply(completion(as_json if field == "response_format" else f"{ANSWER_HEADER}\n{SLOTS[axis]} {number}"))


@pytest.mark.parametrize("field", ["grammar", "structured_outputs", "guided_regex", "regex", "response_format"])
@pytest.mark.parametrize("refused", [0, 400])
def test_a_model_that_does_not_fill_in_the_form_is_held_to_it(
    field: str, refused: int, caplog: pytest.LogCaptureFixture
) -> None:
    way = "schema" if field == "response_format" else "grammar"
    with serving(lambda r, b: constrained(r, field, refused)) as server:
        scorer = scorer_of(server)
        assert scorer.fingerprint.endswith(f"/text/{way}")
        assert scorer.score(TALK).tolist() == [[9, 2]] * 2
    assert "rubric's form" not in caplog.text
    regex = next((r["regex"] for r in server.asked if "regex" in r), None)
    assert regex is None or re.fullmatch(regex, f"{ANSWER_HEADER}\n{SLOTS['sensibility']} 10")


def test_where_nothing_holds_it_the_warning_stays(caplog: pytest.LogCaptureFixture) -> None:
    with serving(lambda r, b: Reply(completion(CHATTER))) as server:
        scorer = scorer_of(server)
        assert np.isnan(scorer.score(TALK)).all()
        assert scorer.fingerprint.endswith("/text")
    assert "rubric's form" in caplog.text


def shares() -> Iterator[tuple[dict[str, float], float]]:
    yield {"9": 0.6, "1": 0.3, "2": 0.1}, (5.4 + 0.2 + 0.3 * (10 * 6 / 7 + 1 / 7))
    yield {"7": 0.5, "1": 0.1, "2": 0.4}, 3.5 + 0.8 + 0.1
    yield {"7": 0.5, "1": 0.1, "10": 0.4}, 3.5 + 4 + 0.1


@pytest.mark.parametrize(("chances", "score"), list(shares()))
def test_elsewhere_an_untaken_1_is_shared_as_its_neighbours_are(chances: dict[str, float], score: float) -> None:
    best = max(chances, key=lambda digit: chances[digit])
    tokens = [("- Rationality: ", {}), ("3", {"3": 1.0}), ("\n- Sensibility: ", {}), (best, chances)]
    body = completion("".join(token for token, _ in tokens), tokens)
    with serving(lambda r, b: Reply(body)) as server:
        assert scorer_of(server).score(TALK[:1])[0, 0] == pytest.approx(score)


@pytest.mark.parametrize(
    ("listed", "said", "name"),
    [
        (("/srv/models/judge-8b.gguf",), "tiny", "judge-8b.gguf"),
        (("C:\\models\\judge.gguf",), "tiny", "judge.gguf"),
        (("Qwen/Qwen3-8B",), "Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
        (("a", "b"), "b", "b"),
        (("tiny", "b"), "tiny-2026", "tiny"),
        ((), "other", "tiny"),
    ],
)
def test_a_server_that_ignores_the_name_is_named_by_what_it_serves(
    listed: tuple[str, ...], said: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    body = completion(f"{ANSWER_HEADER}\n- Rationality: 3\n- Sensibility: 8", model=said)
    for logprobs in ("auto", False):
        with serving(lambda r, b: Reply(body), models=listed) as server:
            assert f"/{name}@{server.host}/" in scorer_of(server, logprobs=logprobs).fingerprint
    assert ("whatever name" in caplog.text) == (name != "tiny")
