"""The engine: the same numbers whatever the way in, nothing lost, nothing scored twice, a scorer held to its word."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import (
    ClassLabel,
    Dataset,
    Features,
    IterableDataset,
    Json,
    LargeList,
    List,
    Value,
    concatenate_datasets,
)
from same_dialogues import CONVERSATIONS, DIALOGUES, MULTI_TURN, ROW_TURN, SCORES, SINGLE_TURN, WAYS, messages

from ee_trl import EmpathyDataSelector
from ee_trl.data.dialogue import REASONS
from ee_trl.data.reading import open_dataset
from ee_trl.data.tables import features_of, to_dataset, write_file
from ee_trl.errors import FormatError, ScorerError, ScoresError
from ee_trl.scoring.engine import SCORE_COLUMNS, layout_of
from ee_trl.scoring.kinds import check_scorer
from ee_trl.scoring.load import load_scorer
from ee_trl.scoring.run import ScoringRun


HALF = "half a \ud83d smile"


@pytest.fixture
def score(word_scorer: Any) -> Callable[..., Any]:
    """Scores by counting words, keeping nothing; `batch_rows` and other settings as keywords."""
    options = {"show_progress": False, "store": False}
    return lambda data, **more: EmpathyDataSelector(word_scorer, **options, **more).score(data)


def numbers(rows: Any) -> list[tuple[float | None, float | None]]:
    return [(row["sensibility"], row["rationality"]) for row in rows]


def places(rows: Any) -> list[tuple[int, int]]:
    return [(row["row_index"], row["turn"]) for row in rows]


def generator(rows: list[dict[str, Any]]) -> IterableDataset:
    """A stream that declares no columns."""
    return IterableDataset.from_generator(lambda: iter(rows))


# ---- the same numbers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_scores_by_hand_in_every_format(way: str, score: Callable[..., Any]) -> None:
    scored = score(Dataset.from_list(WAYS[way]))
    assert numbers(scored) == SCORES
    assert set(scored["score_status"]) == {"scored"}
    assert set(scored["scorer"]) == {"words-1"}


@pytest.mark.parametrize("way", MULTI_TURN)
def test_one_row_for_each_listener_turn(way: str, score: Callable[..., Any]) -> None:
    rows = MULTI_TURN[way]
    if "utterance" in rows[0]:
        expected = [(sum(map(len, CONVERSATIONS[:row])) + turn, turn) for row, turn in ROW_TURN]
    else:
        expected = ROW_TURN
    assert places(score(Dataset.from_list(rows))) == expected


@pytest.mark.parametrize("way", MULTI_TURN)
def test_last_turn_of_each_conversation(way: str, score: Callable[..., Any]) -> None:
    scored = score(Dataset.from_list(MULTI_TURN[way]), turns="last")
    assert numbers(scored) == [SCORES[i] for i in (0, 2, 3, 4)]
    assert scored["turn"][:] == [1, 3, 1, 1]


@pytest.mark.parametrize("way", SINGLE_TURN)
def test_rows_of_one_reply_get_no_turn(way: str, score: Callable[..., Any]) -> None:
    data = Dataset.from_list(SINGLE_TURN[way])
    assert score(data).column_names == [*data.column_names, *SCORE_COLUMNS, "quadrant"]


@pytest.mark.parametrize("batch_rows", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("way", WAYS)
def test_size_of_the_batches_changes_nothing(way: str, batch_rows: int, score: Callable[..., Any]) -> None:
    data = Dataset.from_list(WAYS[way] * 3)
    if "utterance" in data.column_names:  # three times the same conversation is not three conversations
        names = [f"{name} {i // len(WAYS[way])}" for i, name in enumerate(data["conv_id"])]
        data = data.remove_columns("conv_id").add_column("conv_id", names)
    expected = score(data).to_list()
    assert len(expected) == 15
    assert score(data, batch_rows=batch_rows).to_list() == expected
    assert list(score(data.to_iterable_dataset(), batch_rows=batch_rows)) == expected
    assert list(score(generator(data.to_list()), batch_rows=batch_rows)) == expected


@pytest.mark.parametrize("way", WAYS)
def test_same_rows_from_every_way_in(way: str, score: Callable[..., Any], tmp_path: Path) -> None:
    data = Dataset.from_list([{"id": i, **row} for i, row in enumerate(WAYS[way])])
    expected = score(data).to_list()
    data.to_parquet(tmp_path / "a.parquet")
    data.to_json(tmp_path / "a.jsonl")
    data.save_to_disk(tmp_path / "disk")
    for source in (tmp_path / "a.parquet", str(tmp_path / "a.jsonl"), tmp_path / "disk"):
        assert score(source).to_list() == expected
    for stream in (data.to_iterable_dataset(num_shards=2), open_dataset(tmp_path / "a.parquet", streaming=True)):
        assert list(score(stream)) == expected
    assert list(score(data.to_iterable_dataset().map(lambda row: row))) == expected
    for name in ("torch", "numpy", "pandas", "arrow"):
        assert score(data.with_format(name)).to_list() == expected
        assert list(score(data.to_iterable_dataset().with_format(name))) == expected
        assert list(score(generator(data.to_list()).with_format(name))) == expected


def test_same_rows_from_csv(score: Callable[..., Any], tmp_path: Path) -> None:
    data = Dataset.from_list(SINGLE_TURN["context joined"])
    data.to_csv(tmp_path / "a.csv")
    assert score(tmp_path / "a.csv").to_list() == score(data).to_list()


@pytest.mark.parametrize("kind", ["large", "json"])
def test_types_that_other_libraries_write(kind: str, score: Callable[..., Any]) -> None:
    text = Value("large_string")
    feature = LargeList({"role": text, "content": text}) if kind == "large" else Json()
    data = Dataset.from_list(MULTI_TURN["messages"], features=Features({"messages": feature}))
    scored = score(data)
    assert numbers(scored) == SCORES
    assert scored.features["messages"] == feature
    assert scored[0]["messages"] == MULTI_TURN["messages"][0]["messages"]


# ---- columns and order ---------------------------------------------------------------------------------------------


def test_columns_and_order_survive(score: Callable[..., Any]) -> None:
    features = Features(
        {
            "id": Value("int32"),
            "messages": List({"role": Value("string"), "content": Value("string")}),
            "emotion": ClassLabel(names=["joy", "sad"]),
            "nested": {"a": List(Value("float32"))},
            "nothing": Value("null"),
        }
    )
    rows = [
        {"id": 9 - i, **row, "emotion": i % 2, "nested": {"a": [0.5]}, "nothing": None}
        for i, row in enumerate(MULTI_TURN["messages"])
    ]
    data = Dataset.from_list(rows, features=features).select([3, 1, 0, 2])
    scored = score(data)
    assert scored.column_names == [*features, "row_index", "turn", *SCORE_COLUMNS, "quadrant"]
    assert {name: scored.features[name] for name in features} == features
    assert places(scored) == [(0, 1), (1, 1), (1, 3), (2, 1), (3, 1)]
    assert scored["id"][:] == [6, 8, 8, 9, 7]
    for row in scored.select_columns(list(features)):
        assert row in data.to_list()


@pytest.mark.parametrize("taken", ["row_index", "turn", "score_status", "scorer", "quadrant"])
def test_source_column_whose_name_is_taken_is_kept_under_another(taken: str, score: Callable[..., Any]) -> None:
    data = Dataset.from_list([{**row, taken: f"mine {i}"} for i, row in enumerate(MULTI_TURN["messages"])])
    for scored in (score(data), list(score(generator(data.to_list())))):
        assert [row[f"source_{taken}"] for row in scored] == [f"mine {row}" for row, _ in ROW_TURN]
        assert numbers(scored) == SCORES


def test_source_columns_that_are_called_like_a_place_are_none(score: Callable[..., Any]) -> None:
    rows = [{**row, "row_index": "a", "turn": "b"} for row in MULTI_TURN["messages"]]
    scored = score(Dataset.from_list(rows))
    assert places(scored) == ROW_TURN
    assert (set(scored["source_row_index"]), set(scored["source_turn"])) == ({"a"}, {"b"})


def test_names_never_collide(score: Callable[..., Any]) -> None:
    row = {"context": ["a"], "response": "b", "quadrant": 1, "source_quadrant": 2, "source_quadrant_": 3}
    [scored] = score(Dataset.from_list([row]))
    assert (scored["source_quadrant__"], scored["source_quadrant"], scored["source_quadrant_"]) == (1, 2, 3)


def test_own_scores_are_kept_as_given_when_one_scores_anyway(score: Callable[..., Any]) -> None:
    rows = [{**row, "sensibility": 9, "rationality": 0.5} for row in SINGLE_TURN["context list"]]
    scored = score(Dataset.from_list(rows))
    assert numbers(scored) == SCORES
    assert set(zip(scored["given_sensibility"], scored["given_rationality"], strict=True)) == {(9, 0.5)}


def test_utterance_rows_become_prompt_and_completion(score: Callable[..., Any]) -> None:
    scored = score(Dataset.from_list(MULTI_TURN["empathetic_dialogues"]))
    assert scored[0]["prompt"] == messages("My dog died, this morning.")
    assert scored[2]["completion"] == [{"role": "assistant", "content": "Did you oversleep? Or was the bus late?"}]
    assert scored["emotion"][:] == ["sad", "angry", "angry", "proud", "tired"]
    assert scored["situation"][1] == "Situation_comma_ number 1"
    assert scored["utterance"][4] == "Did you sleep?"


def test_emotion_that_is_a_class_label_is_named(score: Callable[..., Any]) -> None:
    data = Dataset.from_list(MULTI_TURN["empathetic_dialogues"]).class_encode_column("context")
    for scored in (score(data), list(score(data.to_iterable_dataset()))):
        assert [row["emotion"] for row in scored] == ["sad", "angry", "angry", "proud", "tired"]


@pytest.mark.parametrize("seed", range(5))
def test_utterance_rows_in_any_order(seed: int, score: Callable[..., Any]) -> None:
    shuffled = Dataset.from_list(MULTI_TURN["empathetic_dialogues"]).shuffle(seed=seed)
    scored = score(shuffled)
    by_reply = {row["utterance"]: (row["sensibility"], row["rationality"]) for row in scored}
    assert by_reply == {CONVERSATIONS[r][t]: SCORES[i] for i, (r, t) in enumerate(ROW_TURN)}
    assert [shuffled[row["row_index"]]["utterance"] for row in scored] == scored["utterance"][:]


def test_utterance_without_a_number_comes_last(score: Callable[..., Any]) -> None:
    rows = MULTI_TURN["empathetic_dialogues"][2:6]
    rows = [{**rows[i], "utterance_idx": number} for i, number in ((2, 3.0), (0, None), (3, 4.0), (1, 2.0), (0, 1.0))]
    data = Dataset.from_list(rows)
    nan = data.remove_columns("utterance_idx").add_column("utterance_idx", [3.0, float("nan"), 4.0, 2.0, 1.0])
    for source in (data, nan):
        scored = score(source)
        assert places(scored) == [(3, 1), (2, 3), (1, 4)]
        assert scored["score_status"][:2] == ["scored", "scored"]
        assert scored["score_status"][2] != "scored"


def test_split_conversation_in_a_stream_is_told_not_guessed(score: Callable[..., Any]) -> None:
    rows = MULTI_TURN["empathetic_dialogues"]
    scored = list(score(Dataset.from_list([rows[2], rows[3], *rows[:2], rows[4], rows[5]]).to_iterable_dataset()))
    assert [row["score_status"] for row in scored] == ["scored", "scored", "missing_turns"]


# ---- hostile rows --------------------------------------------------------------------------------------------------

HOSTILE_MESSAGES: list[tuple[Any, str]] = [
    (messages("Hello.", "Hi you."), "scored"),
    (None, "null_dialogue"),
    ([], "empty_dialogue"),
    ("", "wrong_type"),
    ("text", "wrong_type"),
    (5, "wrong_type"),
    (1.5, "wrong_type"),
    (True, "wrong_type"),
    ({"role": "user", "content": "x"}, "wrong_type"),
    ([None], "null_dialogue"),
    (["a", "b"], "wrong_type"),
    ([[]], "wrong_type"),
    ([{}], "unknown_role"),
    ([{"role": "user", "content": None}], "null_dialogue"),
    ([{"role": "user", "content": {"a": 1}}], "wrong_type"),
    ([{"role": "robot", "content": "x"}], "unknown_role"),
    ([{"role": 5, "content": "x"}], "ends_with_speaker"),
    (messages("Hello.", ""), "empty_response"),
    (messages("", "Hello."), "empty_context"),
    (messages("Hello."), "ends_with_speaker"),
    (messages("Hello.", "x" * 100_000), "turn_too_long"),
    (messages("Hello.\0", "\x00\u2028 \x1b[31m"), "scored"),
    (messages("Bye.", "Good bye."), "scored"),
]
HOSTILE_PAIRS: list[tuple[Any, Any, str]] = [
    ("Hello.", "Hi you.", "scored"),
    (None, "Hi.", "null_dialogue"),
    ("Hello.", None, "null_dialogue"),
    ("Hello.", 5, "wrong_type"),
    (5, "Hi.", "wrong_type"),
    ([], "Hi.", "empty_context"),
    ("Hello.", [], "ends_with_speaker"),
    ("Hello.", " ", "empty_response"),
    ({"a": 1}, "Hi.", "unknown_role"),
    ("x" * 100_000, "Hi.", "turn_too_long"),
    ("Hello.", "None", "scored"),
]


def hostile(format_name: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of a format, and the status of each."""
    if format_name in ("messages", "conversations"):
        return [{format_name: value} for value, _ in HOSTILE_MESSAGES], [status for _, status in HOSTILE_MESSAGES]
    first, second = {"pair": ("prompt", "completion"), "context": ("context", "response")}[format_name]
    statuses = [status for _, _, status in HOSTILE_PAIRS]
    if format_name == "context":  # its turns need no role
        statuses[8] = "wrong_type"
    return [{first: a, second: b} for a, b, _ in HOSTILE_PAIRS], statuses


@pytest.mark.parametrize("format_name", ["messages", "conversations", "pair", "context"])
def test_hostile_rows_are_kept_with_their_reason(
    format_name: str, score: Callable[..., Any], tmp_path: Path, word_scorer: Any
) -> None:
    rows, expected = hostile(format_name)
    rows = [{**row, "id": i} for i, row in enumerate(rows)]
    features = Features({name: Value("int64") if name == "id" else Json() for name in rows[0]})
    data = Dataset.from_list(rows, features=features)
    data.to_parquet(tmp_path / "a.parquet")
    data.to_json(tmp_path / "a.jsonl")
    selector = EmpathyDataSelector(word_scorer, show_progress=False)
    for source in (data, generator(rows), data.to_iterable_dataset(), tmp_path / "a.parquet", tmp_path / "a.jsonl"):
        scored = score(source)
        assert [row["score_status"] for row in scored] == expected
        assert [row["id"] for row in scored] == list(range(len(rows)))
        for row in scored:
            assert (row["sensibility"] is None) == (row["rationality"] is None) == (row["score_status"] != "scored")
            assert (row["quadrant"] is None) == (row["score_status"] != "scored")
        summary = selector.summary(scored)
        assert (summary.rows, summary.scored) == (len(rows), expected.count("scored"))
        assert sum(summary.unscored.values()) == len(rows) - summary.scored
        assert set(summary.unscored) <= set(REASONS)
        kept = selector.select(scored, keep="low")
        assert [row["id"] for row in kept] == [i for i, status in enumerate(expected) if status == "scored"]


def test_lone_surrogates_in_a_stream_and_in_a_file(score: Callable[..., Any], tmp_path: Path) -> None:
    import json

    rows = [{"messages": messages("a", "b c")}, {"messages": messages(HALF, "b")}, {"messages": messages("a", HALF)}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    for source in (generator(rows), tmp_path / "a.jsonl"):
        assert [row["score_status"] for row in score(source)] == ["scored", "invalid_text", "invalid_text"]


def test_stream_rows_may_lack_columns(score: Callable[..., Any]) -> None:
    rows = [{"context": ["a"], "response": "b"}, {"context": ["a"]}, {"response": "b"}, {}]
    assert [row["score_status"] for row in score(generator(rows))] == ["scored", *["null_dialogue"] * 3]
    utterances = [*MULTI_TURN["empathetic_dialogues"][:2], {"conv_id": "a"}, {}]
    assert [row["score_status"] for row in score(generator(utterances))][0] == "scored"


@pytest.mark.parametrize("way", WAYS)
def test_no_rows_at_all(way: str, score: Callable[..., Any]) -> None:
    data = Dataset.from_list(WAYS[way])
    scored = score(data.select([]))
    assert len(scored) == 0
    assert scored.features == score(data).features


def test_every_row_bad(score: Callable[..., Any], word_scorer: Any) -> None:
    scored = score(Dataset.from_list([{"messages": []}, {"messages": None}]))
    assert numbers(scored) == [(None, None)] * 2
    assert word_scorer.asked == 0
    assert scored.features["sensibility"] == Value("float64")


def test_images_are_refused_whatever_the_way_in(score: Callable[..., Any]) -> None:
    rows = [{"messages": messages("a", "b"), "images": [None]}]
    for source in (Dataset.from_list(rows), generator(rows)):
        with pytest.raises(FormatError, match="images"):
            list(score(source))


# ---- scores that are there already ---------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_scored_twice(way: str, score: Callable[..., Any], word_scorer: Any) -> None:
    scored = score(Dataset.from_list(WAYS[way]))
    assert word_scorer.asked == 5
    for turns in ("each", "last"):
        again = score(scored, turns=turns)
        assert (again.to_list(), again.features) == (scored.to_list(), scored.features)
    assert list(score(scored.to_iterable_dataset())) == scored.to_list()
    assert list(score(generator(scored.to_list()))) == scored.to_list()
    assert word_scorer.asked == 5


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "json", "disk", "pandas", "written parquet", "written jsonl"])
def test_scored_rows_are_known_again_after_a_detour(
    kind: str, score: Callable[..., Any], word_scorer: Any, tmp_path: Path
) -> None:
    bad = [{"messages": None}, {"messages": []}, {"messages": messages("a", "")}]
    scored = score(Dataset.from_list([*MULTI_TURN["messages"], *bad]))
    path = tmp_path / f"a.{kind.split()[-1]}"
    match kind:
        case "parquet":
            scored.to_parquet(path)
        case "jsonl":
            scored.to_json(path)
        case "json":
            scored.to_json(path, lines=False)
        case "disk":
            scored.save_to_disk(path)
        case "pandas":
            pass
        case _:
            write_file([scored.with_format("arrow")[:]], scored.features, path, metadata={})
    source = Dataset.from_pandas(scored.to_pandas()) if kind == "pandas" else path
    assert score(source).to_list() == scored.to_list()
    assert word_scorer.asked == 5


def test_missing_scores_of_an_earlier_run_are_null_again(score: Callable[..., Any]) -> None:
    row = {"context": ["a"], "response": "", "sensibility": float("nan"), "rationality": float("nan")}
    scored = score(Dataset.from_list([{**row, "score_status": "empty_response", "scorer": "words-1"}]))
    assert numbers(scored) == [(None, None)]
    assert scored["score_status"][:] == ["empty_response"]


def test_only_new_rows_are_scored(score: Callable[..., Any], word_scorer: Any) -> None:
    scored = score(Dataset.from_list(MULTI_TURN["messages"][:1]))
    new = Dataset.from_list(MULTI_TURN["messages"][1:])
    for parts in ([scored, new], [new, scored]):
        word_scorer.asked = 0
        both = score(concatenate_datasets(parts))
        assert word_scorer.asked == 4
        assert sorted(numbers(both)) == sorted(SCORES)
        assert len(both) == 5
        assert set(both["score_status"]) == {"scored"}


def test_new_turns_of_a_scored_data_set_can_be_selected(score: Callable[..., Any], word_scorer: Any) -> None:
    scored = score(Dataset.from_list(MULTI_TURN["messages"][:1]))
    both = score(concatenate_datasets([scored, Dataset.from_list(MULTI_TURN["messages"][1:])]))
    kept = EmpathyDataSelector(word_scorer).select(both, keep="rationality")
    assert kept["completion"][0] == [{"role": "assistant", "content": "What happened? Why?"}]


def test_scores_of_another_scorer_are_refused_and_both_are_named(score: Callable[..., Any], word_scorer: Any) -> None:
    class Other(type(word_scorer)):  # type: ignore[misc]
        fingerprint = "other-2"

    scored = score(Dataset.from_list(WAYS["messages"]))
    other = EmpathyDataSelector(Other(), show_progress=False)
    for source in (scored, scored.to_iterable_dataset(), generator(scored.to_list())):
        with pytest.raises(ScoresError, match=r"(?s)words-1.*other-2"):
            list(other.score(source))
    without_status = scored.remove_columns("score_status")
    with pytest.raises(ScoresError, match=r"(?s)words-1.*other-2"):
        other.score(without_status)
    assert score(without_status)["score_status"][:] == ["scored"] * 5


def test_the_advice_of_that_refusal_works(score: Callable[..., Any]) -> None:
    scored = score(Dataset.from_list(WAYS["messages"]))
    anew = score(scored.remove_columns([*SCORE_COLUMNS, "quadrant"]))
    assert numbers(anew) == SCORES
    assert anew["turn"][:] == scored["turn"][:]


def test_scored_columns_of_wrong_types_are_refused(score: Callable[..., Any]) -> None:
    row = {"context": ["a"], "response": "b", "sensibility": "x", "rationality": "y", "scorer": "words-1"}
    with pytest.raises(ScoresError, match="sensibility"):
        score(Dataset.from_list([row]))


# ---- the scorer ----------------------------------------------------------------------------------------------------


class Given:
    """Gives what it is told."""

    fingerprint = "given-values"

    def __init__(self, values: Any) -> None:
        self.values = values

    def score(self, dialogues: Sequence[Any]) -> Any:
        return self.values


TWO = [{"context": ["a"], "response": "b"}, {"context": ["c"], "response": "d"}]


@pytest.mark.parametrize(
    "values", [[[1, 2], [3, 4]], ((1, 2), (3, 4)), np.array([[1, 2], [3, 4]], np.float32), np.array([[1, 2], [3, 4]])]
)
def test_scorer_may_give_any_array_of_numbers(values: Any) -> None:
    assert numbers(EmpathyDataSelector(Given(values)).score(Dataset.from_list(TWO))) == [(1, 2), (3, 4)]


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ([[float("nan"), 1], [1, 1]], "scorer_gave_none"),
        ([[1, None], [1, 1]], "scorer_gave_none"),
        ([[10.5, 1], [1, 1]], "score_out_of_range"),
        ([[1, -0.5], [1, 1]], "score_out_of_range"),
        ([[float("inf"), 1], [1, 1]], "score_out_of_range"),
    ],
)
def test_number_that_is_none_is_unscored(values: Any, status: str) -> None:
    scored = EmpathyDataSelector(Given(values)).score(Dataset.from_list(TWO))
    assert numbers(scored) == [(None, None), (1, 1)]
    assert scored["score_status"][:] == [status, "scored"]


@pytest.mark.parametrize(
    "values", [[1, 2], [[1, 2]], [[1, 2, 3], [1, 2, 3]], None, [["a", 1], [1, 1]], [[1, 2], [1]], {"a": 1}, 5]
)
def test_scorer_that_breaks_its_contract_is_named(values: Any) -> None:
    with pytest.raises(ScorerError, match="given-values"):
        EmpathyDataSelector(Given(values)).score(Dataset.from_list(TWO))


def test_scorers_own_error_comes_through() -> None:
    class Broken(Given):
        def score(self, dialogues: Sequence[Any]) -> Any:
            raise ZeroDivisionError("in the scorer")

    with pytest.raises(ZeroDivisionError, match="in the scorer"):
        EmpathyDataSelector(Broken(None)).score(Dataset.from_list(TWO))


def test_scorers_array_is_left_alone() -> None:
    values = np.array([[11.0, 1.0], [1.0, 1.0]])
    found = ScoringRun(Given(values)).score(DIALOGUES[:2])
    assert values[0, 0] == 11
    assert np.isnan(found.scores).tolist() == [[True, True], [False, False]]
    assert found.statuses == ["score_out_of_range", "scored"]


@pytest.mark.parametrize(
    "wrong", [None, 3, "liner", "", "no such folder", lambda dialogues: dialogues, object(), Given]
)
def test_what_is_no_scorer_is_refused_at_once(wrong: Any) -> None:
    with pytest.raises(ScorerError):
        EmpathyDataSelector(wrong)


@pytest.mark.parametrize("fingerprint", ["", " ", "two\nlines", None, 5])
def test_fingerprint_is_one_line_of_text(fingerprint: Any) -> None:
    scorer = Given(None)
    scorer.fingerprint = fingerprint
    with pytest.raises(ScorerError):
        check_scorer(scorer)


def test_options_go_with_no_scorer_object(word_scorer: Any) -> None:
    assert load_scorer(word_scorer) is word_scorer
    with pytest.raises(ScorerError, match="precision"):
        load_scorer(word_scorer, precision="high")
    with pytest.raises(ScorerError, match="precision"):
        load_scorer("linear", precision="high")


def test_scorer_that_the_hub_does_not_give() -> None:
    with pytest.raises(ScorerError, match="nobody/nothing"):
        load_scorer("nobody/nothing")


# ---- layout --------------------------------------------------------------------------------------------------------


def test_layout_of_unknown_columns() -> None:
    with pytest.raises(FormatError, match="question"):
        layout_of(["question"])


def test_features_are_known_before_anything_is_scored(word_scorer: Any) -> None:
    for rows in WAYS.values():
        data = Dataset.from_list(rows)
        features, tables = EmpathyDataSelector(word_scorer, show_progress=False).score_tables(data)
        assert word_scorer.asked == 0
        assert to_dataset(tables, features).features == features
        word_scorer.asked = 0
    assert features_of(data) == data.features
