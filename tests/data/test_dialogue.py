"""Rows of every format become the same dialogues; a bad row becomes a reason."""

from __future__ import annotations

from typing import Any

import pytest
from same_dialogues import CONVERSATIONS, DIALOGUES, ROW_TURN, WAYS, messages, sharegpt

from ee_trl.data.dialogue import MAX_TURN_CHARS, REASONS, SOURCE_ERROR, Dialogue, samples_of
from ee_trl.data.formats import FORMATS, recognise
from ee_trl.errors import FormatError


SAD, HUG = "I lost my job.", "I am sorry."


def found(row: dict[str, Any] | list[dict[str, Any]], turns: Any = "each") -> list[tuple[int | None, str | None]]:
    """`(turn, reason)` of each sample of the rows."""
    rows = row if isinstance(row, list) else [row]
    return [(sample.turn, sample.reason) for sample in samples_of(recognise(rows[0]), rows, turns)]


def utterance(number: Any, speaker: Any, text: Any, conversation: Any = "a") -> dict[str, Any]:
    return {"conv_id": conversation, "utterance_idx": number, "speaker_idx": speaker, "utterance": text}


def numbered(*names: Any) -> list[dict[str, Any]]:
    return [{"speaker": name, "text": f"Turn {i}."} for i, name in enumerate(names)]


# ---- formats -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_same_dialogues_from_every_way_to_write_them(way: str) -> None:
    samples = samples_of(recognise(WAYS[way][0]), WAYS[way], "each")
    assert [sample.dialogue for sample in samples] == DIALOGUES
    assert {sample.reason for sample in samples} == {None}


def test_every_format_is_written_somewhere_above() -> None:
    assert {recognise(rows[0]).name for rows in WAYS.values()} == set(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_format_is_recognised_by_its_columns_among_others(name: str) -> None:
    assert recognise([*FORMATS[name].columns, "id", "emotion", "turn"]).name == name


@pytest.mark.parametrize("name", FORMATS)
def test_format_needs_every_one_of_its_columns(name: str) -> None:
    for column in FORMATS[name].columns:
        others = [other for other in FORMATS[name].columns if other != column]
        with pytest.raises(FormatError):
            recognise([*others, "id"])


@pytest.mark.parametrize("name", FORMATS)
def test_row_of_nulls_is_one_unscored_sample_in_every_format(name: str) -> None:
    row = dict.fromkeys(FORMATS[name].columns)
    [sample] = samples_of(FORMATS[name], [row])
    assert (sample.row, sample.dialogue, sample.reason) == (0, None, "null_dialogue")


def test_unknown_columns_are_listed_with_every_known_format() -> None:
    with pytest.raises(FormatError) as caught:
        recognise(["question", "answer"])
    for expected in ("question", "answer", *FORMATS):
        assert expected in str(caught.value)


@pytest.mark.parametrize("column", ["image", "images"])
def test_image_columns_are_refused(column: str) -> None:
    with pytest.raises(FormatError, match=f"column .{column}. holds images"):
        recognise(["messages", column])


@pytest.mark.parametrize("kind", ["image", "image_url", "audio", 5])
def test_message_parts_other_than_text_spoil_what_follows_them(kind: Any) -> None:
    turns = messages(SAD, HUG, "Look at this.", HUG, SAD, HUG)
    turns[2]["content"] = [{"type": kind}, {"type": "text", "text": "Look at this."}]  # type: ignore[assignment]
    assert found({"messages": turns}) == [(1, None), (3, "not_text_alone"), (5, "not_text_alone")]


def test_text_prompt_and_completion_are_one_turn_each() -> None:
    [sample] = samples_of(FORMATS["prompt_completion"], [{"prompt": SAD, "completion": HUG}])
    assert sample.dialogue == Dialogue((SAD,), HUG, ("user",))


def test_text_that_looks_like_a_list_is_still_text() -> None:
    [sample] = samples_of(FORMATS["prompt_completion"], [{"prompt": "[1, 2]", "completion": "{}"}])
    assert sample.dialogue == Dialogue(("[1, 2]",), "{}", ("user",))


def test_last_message_of_a_longer_completion_is_the_reply() -> None:
    row = {"prompt": messages(SAD), "completion": messages(SAD, HUG, "Thanks.", "Any time.")[1:]}
    [sample] = samples_of(FORMATS["prompt_completion"], [row])
    assert sample.dialogue == Dialogue((SAD, HUG, "Thanks."), "Any time.", ("user", "assistant", "user"))


def test_context_ends_in_the_speakers_turn() -> None:
    [sample] = samples_of(FORMATS["context_response"], [{"context": ["a", "b"], "response": "c"}])
    assert sample.dialogue is not None
    assert sample.dialogue.roles == ("assistant", "user")


@pytest.mark.parametrize("context", ["a</s>b</s>c", "a </s> b </s> c </s>", " a </s> b </s> c </s> </s> "])
def test_joined_context_is_split_and_trimmed(context: str) -> None:
    [sample] = samples_of(FORMATS["context_response"], [{"context": context, "response": "d"}])
    assert sample.dialogue is not None
    assert sample.dialogue.context == ("a", "b", "c")


def test_context_may_be_messages() -> None:
    [sample] = samples_of(FORMATS["context_response"], [{"context": messages("a", "b", "c"), "response": "d"}])
    assert sample.dialogue == Dialogue(("a", "b", "c"), "d", ("user", "assistant", "user"))


@pytest.mark.parametrize(
    ("role", "expected"),
    [("Human", "user"), ("speaker", "user"), ("GPT", "assistant"), ("listener", "assistant"), ("model", "assistant")],
)
def test_roles_by_their_other_names(role: str, expected: str) -> None:
    other = {"user": "assistant", "assistant": "user"}[expected]
    [sample] = samples_of(
        FORMATS["messages"],
        [{"messages": [{"role": r, "content": "x"} for r in ("user", role, other, "assistant")]}],
        "last",
    )
    assert sample.dialogue is not None
    assert sample.dialogue.roles[1] == expected


def test_turns_that_mix_both_spellings_of_a_message() -> None:
    turns = [{**turn, "from": None, "value": None} for turn in messages(SAD, HUG)]
    turns += [{**turn, "role": None, "content": None} for turn in sharegpt("Thanks.", "Any time.")]
    assert found({"messages": turns}) == [(1, None), (3, None)]


def test_system_message_is_kept_for_training_but_is_no_utterance() -> None:
    system = {"role": "system", "content": "Be kind."}
    [sample] = samples_of(FORMATS["messages"], [{"messages": [system, *messages(SAD, HUG)]}])
    assert sample.dialogue is not None
    assert (sample.dialogue.context, sample.dialogue.system) == ((SAD,), "Be kind.")
    assert sample.dialogue.prompt == [system, *messages(SAD)]
    assert sample.dialogue.completion == [{"role": "assistant", "content": HUG}]


def test_trailing_system_message_is_no_turn() -> None:
    row = {"messages": [*messages(SAD, HUG), {"role": "system", "content": "The end."}]}
    assert found(row) == found(row, "last") == [(1, None)]


def test_last_speaker_turn() -> None:
    assert DIALOGUES[2].last_speaker_turn == "I was late."
    assert Dialogue(("Hello.",), "x", ("assistant",)).last_speaker_turn == ""


# ---- turns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["messages", "sharegpt", "empathetic_dialogues"])
def test_last_turn_alone(way: str) -> None:
    samples = samples_of(recognise(WAYS[way][0]), WAYS[way], "last")
    assert [sample.dialogue for sample in samples] == [DIALOGUES[i] for i in (0, 2, 3, 4)]


def test_each_listener_turn_has_its_number() -> None:
    samples = samples_of(FORMATS["messages"], WAYS["messages"], "each")
    assert [(sample.row, sample.turn) for sample in samples] == ROW_TURN


def test_unanswered_speaker_is_a_sample_of_its_own() -> None:
    row = {"messages": messages(SAD, HUG, "Thanks.")}
    assert found(row) == [(1, None), (2, "ends_with_speaker")]
    assert found(row, "last") == [(2, "ends_with_speaker")]


def test_row_that_names_its_turn_is_that_turn_alone() -> None:
    row = {"messages": messages(*CONVERSATIONS[1]), "row_index": 7}
    for turns in ("each", "last"):
        assert found({**row, "turn": 1}, turns) == [(1, None)]
        assert found({**row, "turn": 3.0}, turns) == [(3, None)]


@pytest.mark.parametrize("turn", [None, 9, -1, "one", 1.5, float("nan"), [1]])
def test_turn_column_of_other_meaning_is_not_taken_for_a_turn(turn: Any) -> None:
    row = {"messages": messages(*CONVERSATIONS[1]), "row_index": 7, "turn": turn}
    assert found(row) == [(1, None), (3, None)]


# ---- bad rows ------------------------------------------------------------------------------------------------------

LONG = "x" * (MAX_TURN_CHARS + 1)
HALF = "half a \ud83d smile"
BAD: list[tuple[str, dict[str, Any] | list[dict[str, Any]]]] = [
    ("null_dialogue", {"messages": None}),
    ("null_dialogue", {"messages": [None]}),
    ("null_dialogue", {"messages": [{"role": "user", "content": None}, *messages(SAD, HUG)]}),
    ("null_dialogue", {"prompt": None, "completion": HUG}),
    ("null_dialogue", {"prompt": SAD, "completion": None}),
    ("null_dialogue", {"context": None, "response": HUG}),
    ("null_dialogue", {"context": [SAD], "response": None}),
    ("null_dialogue", {"context": [None], "response": HUG}),
    ("null_dialogue", [utterance(1, 1, SAD), utterance(2, 2, None)]),
    ("wrong_type", {"messages": 5}),
    ("wrong_type", {"messages": "no JSON"}),
    ("wrong_type", {"messages": '"a JSON text"'}),
    ("wrong_type", {"messages": "[" * 100_000}),
    ("wrong_type", {"messages": b"bytes"}),
    ("wrong_type", {"messages": {"role": "user", "content": SAD}}),
    ("wrong_type", {"messages": {"role": ["user"], "content": [SAD, HUG]}}),
    ("wrong_type", {"messages": [SAD, HUG]}),
    ("wrong_type", {"messages": [{"role": "user", "content": 5}, *messages(SAD, HUG)]}),
    ("wrong_type", {"messages": [{"role": "user", "content": [{"type": "text", "text": None}]}]}),
    ("wrong_type", {"prompt": 1, "completion": HUG}),
    ("wrong_type", {"context": [SAD], "response": 2}),
    ("wrong_type", {"context": {"a": 1}, "response": HUG}),
    ("wrong_type", {"context": [1], "response": HUG}),
    ("wrong_type", [utterance(1, 1, SAD), utterance(2, 2, 5)]),
    ("empty_dialogue", {"messages": []}),
    ("empty_dialogue", {"messages": [{"role": "system", "content": "Be kind."}]}),
    ("empty_dialogue", {"prompt": [], "completion": []}),
    ("listener_opens", {"messages": [{"role": "assistant", "content": HUG}]}),
    ("listener_opens", {"dialog": [{"speaker": "supporter", "text": HUG}]}),
    ("empty_context", {"messages": messages(" \n", HUG)}),
    ("empty_context", {"prompt": "", "completion": HUG}),
    ("empty_context", {"prompt": [], "completion": HUG}),
    ("empty_context", {"context": [], "response": HUG}),
    ("empty_context", {"context": " </s> ", "response": HUG}),
    ("empty_response", {"messages": messages(SAD, "")}),
    ("empty_response", {"prompt": SAD, "completion": "\t \u2003"}),
    ("empty_response", {"context": SAD, "response": ""}),
    ("empty_response", [utterance(1, 1, SAD), utterance(2, 2, " ")]),
    ("ends_with_speaker", {"messages": messages(SAD)}),
    ("ends_with_speaker", {"prompt": messages(SAD), "completion": []}),
    ("ends_with_speaker", [utterance(1, 1, SAD)]),
    ("unknown_role", {"messages": [{"role": "tool", "content": "42"}, *messages(SAD, HUG)]}),
    ("unknown_role", {"messages": [{"content": SAD}]}),
    ("unknown_role", {"messages": [{"role": ["user"], "content": SAD}]}),
    ("missing_turns", [utterance(1, 1, SAD), utterance(4, 2, HUG)]),
    ("missing_turns", [utterance(0, 1, SAD), utterance(2, 2, HUG)]),
    ("too_many_speakers", {"prompt": numbered("p1", "p2"), "completion": numbered("p3")}),
    ("missing_turns", [utterance(None, 1, SAD), utterance(2, 2, HUG)]),
    ("missing_turns", [utterance(float("nan"), 1, SAD), utterance(2, 2, HUG)]),
    ("not_text_alone", {"messages": [{"role": "user", "content": [{"type": "image"}]}, *messages(SAD, HUG)]}),
    ("not_text_alone", {"prompt": [{"role": "user", "content": [{"type": "image"}]}], "completion": HUG}),
    ("turn_too_long", {"messages": messages(SAD, LONG)}),
    ("turn_too_long", {"messages": messages(LONG, HUG)}),
    ("turn_too_long", {"messages": [{"role": "system", "content": LONG}, *messages(SAD, HUG)]}),
    ("invalid_text", {"messages": messages(SAD, HALF)}),
    ("invalid_text", {"prompt": HALF, "completion": HUG}),
    ("invalid_text", {"messages": [{"role": "system", "content": HALF}, *messages(SAD, HUG)]}),
    ("invalid_text", [utterance(1, 1, HALF), utterance(2, 2, HUG)]),
    ("invalid_json", {"messages": None, SOURCE_ERROR: "invalid_json"}),
    ("invalid_json", [{**utterance(None, None, None, None), SOURCE_ERROR: "invalid_json"}]),
    ("invalid_text", [utterance(1, 1, SAD), {**utterance(2, 2, "\\ud83d"), SOURCE_ERROR: "invalid_text"}]),
    ("too_many_fields", {"context": None, "response": None, SOURCE_ERROR: "too_many_fields"}),
    ("null_dialogue", {"messages": None, SOURCE_ERROR: "of no reader's"}),
    ("null_dialogue", {"messages": None, SOURCE_ERROR: ["invalid_json"]}),
]


@pytest.mark.parametrize(("reason", "row"), BAD, ids=[f"{i}-{reason}" for i, (reason, _) in enumerate(BAD)])
def test_bad_row_is_one_sample_with_its_reason(reason: str, row: Any) -> None:
    [(_, why)] = found(row)
    assert why == reason


def test_every_reason_is_of_a_row_above_or_of_the_scorer() -> None:
    of_a_server = {name for name in REASONS if name.startswith("server_")}
    of_the_scorer = {
        "scorer_gave_none",
        "score_out_of_range",
        "answer_not_in_form",
        "too_long_for_scorer",
        "out_of_memory",
        "not_english",
    } | of_a_server
    assert {reason for reason, _ in BAD} | of_the_scorer == set(REASONS)


def test_turn_of_the_greatest_length_is_scored() -> None:
    assert found({"prompt": "x" * MAX_TURN_CHARS, "completion": HUG}) == [(1, None)]


def test_smiles_and_other_scripts_are_text() -> None:
    assert found({"prompt": "पैसा 😀 \U0010ffff", "completion": "\u200d😀"}) == [(1, None)]


def test_bad_turn_spoils_no_earlier_sample() -> None:
    assert found({"messages": messages(SAD, HUG, LONG, HUG)}) == [(1, None), (3, "turn_too_long")]


CALL: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": [{"name": "weather"}]}
TOOL = {"role": "tool", "content": "Rain."}


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([*messages(SAD, HUG, "Rain?"), CALL], [(1, None), (3, "null_dialogue")]),
        ([*messages(SAD, HUG, "Rain?"), TOOL], [(1, None), (3, "unknown_role")]),
        (
            [*messages(SAD, HUG, "Rain?"), CALL, TOOL, *messages("", "Rain.")[1:]],
            [(1, None), (3, "null_dialogue"), (5, "null_dialogue")],
        ),
        ([*messages(SAD, HUG), TOOL, *messages(SAD, HUG)], [(1, None), (4, "unknown_role")]),
        ([*messages(SAD, HUG), None, *messages(SAD, HUG)], [(1, None), (4, "null_dialogue")]),
        ([*messages(SAD, HUG), "no message", *messages(SAD, HUG)], [(1, None), (4, "wrong_type")]),
        ([*messages(SAD, HUG), {"role": "user", "content": 5}], [(1, None), (2, "wrong_type")]),
    ],
)
def test_turn_of_no_use_spoils_what_follows_it_and_nothing_before(
    turns: list[Any], expected: list[tuple[int, str | None]]
) -> None:
    for row in ({"messages": turns}, {"conversations": turns}):
        assert found(row) == expected
        assert found(row, "last") == expected[-1:]


# ---- one utterance a row -------------------------------------------------------------------------------------------


def test_utterances_without_a_conversation_belong_to_no_other() -> None:
    rows = [utterance(1, 1, SAD, None), utterance(2, 2, HUG, None), utterance(None, None, None, None)]
    samples = samples_of(FORMATS["empathetic_dialogues"], rows)
    assert [(s.row, s.reason) for s in samples] == [
        (0, "ends_with_speaker"),
        (1, "missing_turns"),
        (2, "null_dialogue"),
    ]


@pytest.mark.parametrize("number", [10**400, -(10**400), "1e999", [1], b"1"])
def test_numbering_that_is_none(number: Any) -> None:
    assert found([utterance(1, 1, SAD), utterance(number, 2, HUG)]) == [(1, "missing_turns")]
    assert found({"messages": messages(SAD, HUG), "row_index": 1, "turn": number}) == [(1, None)]


def test_what_follows_a_gap_is_unscored_and_what_comes_before_is_not() -> None:
    rows = [utterance(1, 1, SAD), utterance(2, 2, HUG), utterance(4, 2, HUG)]
    assert found(rows) == [(1, None), (2, "missing_turns")]


def test_numbers_of_utterances_may_be_text_or_floats() -> None:
    for cast in (str, float):
        rows = [utterance(cast(1), cast(1), SAD), utterance(cast(2), cast(2), HUG)]
        assert found(rows) == [(1, None)]


def test_conversations_are_told_apart_by_their_id() -> None:
    rows = [utterance(1, 1, SAD), utterance(2, 2, HUG), utterance(1, 1, SAD, "b"), utterance(2, 2, HUG, "b")]
    assert [(s.row, s.turn) for s in samples_of(recognise(rows[0]), rows)] == [(1, 1), (3, 1)]


def test_commas_come_back() -> None:
    rows = [utterance(1, 1, "Well_comma_ no"), utterance(2, 2, "I see_comma_ sorry")]
    [sample] = samples_of(recognise(rows[0]), rows)
    assert sample.dialogue == Dialogue(("Well, no",), "I see, sorry", ("user",))
