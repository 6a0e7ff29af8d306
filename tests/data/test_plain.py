"""Rows in columns: what is found for all rows at once is what the parsers find row by row."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from datasets import Dataset, Features, List, Value
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ee_trl.data.dialogue import samples_of
from ee_trl.data.plain import plain_sides, plain_turns
from ee_trl.data.samples import SIDES, iter_samples, training_features
from ee_trl.data.tables import rows_of


PLAIN = ["I lost my job.", "7 days", "Ok </s> b ", "a</s>", '"No," she said', "'tis", "(so)", "\u00e9t\u00e9\u2026"]
LISTS = ['["a", "b"]', "array(['a'])", "('a', 'b')", '"[\\"a\\"]"', "[sighs]", '" ["a"]', "{'role': 'user'}", "( 'a')"]
ODD = [None, "", " ", " a", "a ", "x" * 33_000, "a\u2003", "\u2003", "\x1c", "\u200ba", '"', "('a' too)", *LISTS]
TEXT = st.sampled_from([*PLAIN * 20, *ODD])
ROLE = st.sampled_from([*("user", "assistant") * 20, "system", "Human", "gpt", "agent_1", "", None])


def turns(role: str, text: str) -> Any:
    turn = st.fixed_dictionaries({role: ROLE, text: TEXT})
    whole = st.lists(turn, min_size=1, max_size=5) | st.lists(turn, min_size=2, max_size=4)
    return whole | st.lists(st.none() | turn, max_size=3) | st.none()


def messages(role: str = "role", text: str = "content", **more: Any) -> Any:
    return List({role: Value("string"), text: Value("string"), **more})


TEXTS, STRING, TURN = List(Value("string")), Value("string"), Value("int64")
REPLY = st.fixed_dictionaries({"role": st.just("assistant"), "content": TEXT}).map(lambda turn: [turn])
LIST = st.lists(TEXT, min_size=1, max_size=4) | st.lists(TEXT, max_size=4) | st.none()
LAYOUTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "context_list": ({"context": TEXTS, "response": STRING}, {"context": LIST, "response": TEXT}),
    "context_text": ({"context": STRING, "response": STRING}, {"context": TEXT, "response": TEXT}),
    "context_turns": (
        {"context": messages(), "response": STRING, "source_error": STRING},
        {
            "context": turns("role", "content"),
            "response": TEXT,
            "source_error": st.sampled_from([None] * 5 + ["invalid_json"]),
        },
    ),
    "prompt_texts": ({"prompt": STRING, "completion": STRING}, {"prompt": TEXT, "completion": TEXT}),
    "prompt_turns": (
        {"prompt": messages(), "completion": messages()},
        {"prompt": turns("role", "content"), "completion": REPLY | turns("role", "content")},
    ),
    "messages": ({"messages": messages(weight=Value("int64"))}, {"messages": turns("role", "content")}),
    "scored": (
        {"messages": messages(), "row_index": TURN, "turn": TURN, "system": STRING},
        {
            "messages": turns("role", "content"),
            "row_index": st.none() | st.just(0),
            "turn": st.none() | st.integers(-1, 5),
            "system": st.sampled_from([None, None, None, "", "Be kind."]),
        },
    ),
    "sharegpt": ({"conversations": messages("from", "value")}, {"conversations": turns("from", "value")}),
    "dialog_texts": ({"dialog": TEXTS, "response": STRING}, {"dialog": LIST, "response": st.none() | TEXT}),
    "dialog_turns": ({"dialog": messages("speaker", "text")}, {"dialog": turns("speaker", "text")}),
}


@pytest.mark.parametrize(
    "examples", [pytest.param(60, id="short"), pytest.param(2000, id="long", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", LAYOUTS)
def test_columns_give_the_samples_of_rows(name: str, examples: int) -> None:
    features, columns = Features(LAYOUTS[name][0]), LAYOUTS[name][1]
    schema, options = features.arrow_schema, {"suppress_health_check": list(HealthCheck), "phases": [Phase.generate]}
    found = 0

    @settings(max_examples=examples, deadline=None, database=None, derandomize=True, **options)
    @given(st.lists(st.fixed_dictionaries(columns), min_size=2, max_size=6), st.sampled_from(["each", "last"]))
    def check(rows: list[Any], turns: Any) -> None:
        nonlocal found
        table = pa.Table.from_pylist(rows, schema=schema).slice(1)
        [batch] = iter_samples(Dataset(table, fingerprint="made"), turns)
        values = rows_of(table, features, list(features))
        assert batch.samples == samples_of(batch.fmt, values, turns)
        plain = plain_turns(table, batch.fmt)
        found += 0 if plain is None else int(plain.plain.sum())
        if plain is not None:
            numbers, *sides = plain_sides(plain, batch.fmt)
            last = [sample.dialogue for sample in samples_of(batch.fmt, values, "last")]
            for side, column in zip(SIDES, sides, strict=True):
                assert column.type == training_features(features).arrow_schema.field(side).type
                assert column.to_pylist() == [getattr(last[i], side) for i in numbers]

    check()
    assert found > examples // 4
