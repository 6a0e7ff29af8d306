"""The selector as a user sees it: score, select, sweep and summary over data sets, streams, splits and paths."""

from __future__ import annotations

import copy
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict, List, Value
from same_dialogues import DIALOGUES, MULTI_TURN, QUADRANT, SCORES, SINGLE_TURN, WAYS, messages

from ee_trl import EmpathyDataSelector, LinearScorer, load_sample
from ee_trl.axes import QUADRANTS, TIES
from ee_trl.data.samples import all_dialogues, dropped_tables
from ee_trl.data.tables import to_dataset
from ee_trl.errors import EmpathyError, FormatError, ScorerError, ScoresError, SelectionError
from ee_trl.selection import KEEPABLE, RULES


ALL = ",".join(KEEPABLE)
MESSAGES = List({"role": Value("string"), "content": Value("string")})


@pytest.fixture
def selector(word_scorer: Any) -> EmpathyDataSelector:
    return EmpathyDataSelector(word_scorer, show_progress=False)


def own(*scores: Any, **more: Any) -> Dataset:
    """Rows that bring their own scores."""
    rows = [{"context": [f"context {i}"], "response": f"reply {i}"} for i in range(len(scores))]
    return Dataset.from_list(
        [{**row, "sensibility": s, "rationality": r, **more} for row, (s, r) in zip(rows, scores, strict=True)]
    )


def replies(data: Any) -> list[str]:
    return [row["completion"][-1]["content"] for row in data]


def generator(rows: list[dict[str, Any]]) -> IterableDataset:
    return IterableDataset.from_generator(lambda: iter(rows))


# ---- score, then select --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_each_quadrant_from_every_format(way: str, selector: EmpathyDataSelector) -> None:
    scored = selector.score(Dataset.from_list(WAYS[way]))
    assert scored["quadrant"][:] == QUADRANT
    for quadrant, dialogue in zip(QUADRANT, DIALOGUES, strict=True):
        [row] = selector.select(scored, keep=quadrant)
        assert (row["prompt"], row["completion"]) == (dialogue.prompt, dialogue.completion)
        assert row["quadrant"] == quadrant


@pytest.mark.parametrize("way", WAYS)
def test_what_is_selected_is_what_sft_trainer_takes(way: str, selector: EmpathyDataSelector) -> None:
    from trl.data_utils import is_conversational

    kept = selector.select(selector.score(Dataset.from_list(WAYS[way])), keep=ALL)
    assert kept.features["prompt"] == kept.features["completion"] == MESSAGES
    assert kept.column_names[:2] == ["prompt", "completion"]
    assert not {"messages", "conversations", "response"} & set(kept.column_names)
    for row in kept:
        assert is_conversational(row)
        assert [turn["role"] for turn in row["completion"]] == ["assistant"]


@pytest.mark.parametrize("way", WAYS)
def test_same_selection_from_streams(way: str, selector: EmpathyDataSelector) -> None:
    data = Dataset.from_list(WAYS[way])
    expected = selector.select(selector.score(data), keep="sensibility,low").to_list()
    assert len(expected) == 2
    for stream in (data.to_iterable_dataset(), generator(data.to_list())):
        kept = selector.select(selector.score(stream).with_format("arrow"), keep="sensibility,low")
        assert isinstance(kept, IterableDataset)
        assert list(kept) == expected
        assert list(kept) == expected  # and a second time


@pytest.mark.parametrize("way", WAYS)
def test_selecting_twice_is_selecting_once(way: str, selector: EmpathyDataSelector, word_scorer: Any) -> None:
    kept = selector.select(selector.score(Dataset.from_list(WAYS[way])), keep="rationality,balanced")
    again = selector.select(kept, keep="rationality,balanced")
    assert (again.to_list(), again.features) == (kept.to_list(), kept.features)
    asked = word_scorer.asked
    assert selector.score(kept).to_list() == kept.to_list()
    assert word_scorer.asked == asked


def test_order_and_other_columns_survive(selector: EmpathyDataSelector) -> None:
    features = Features(
        {
            "id": Value("int32"),
            "context": List(Value("large_string")),
            "response": Value("large_string"),
            "emotion": ClassLabel(names=["joy", "sad"]),
            "meta": {"source": Value("string")},
        }
    )
    rows = [
        {"id": i, **row, "emotion": i % 2, "meta": {"source": "x"}}
        for i, row in enumerate(SINGLE_TURN["context list"])
    ]
    data = Dataset.from_list(rows, features=features).select([4, 3, 1, 0])
    kept = selector.select(selector.score(data), keep=ALL)
    assert kept["id"][:] == [4, 3, 1, 0]
    assert kept.features["emotion"] == features["emotion"]
    assert kept.features["meta"] == features["meta"]
    assert kept["emotion"][:] == [0, 1, 1, 0]


def test_source_columns_called_prompt_and_completion_are_kept_under_another_name(
    selector: EmpathyDataSelector,
) -> None:
    rows = [{**row, "prompt": "a situation", "source_prompt": 7} for row in MULTI_TURN["messages"]]
    [row] = selector.select(selector.score(Dataset.from_list(rows)))
    assert (row["source_prompt_"], row["source_prompt"]) == ("a situation", 7)
    rows = [{**row, "completion": "mine"} for row in MULTI_TURN["messages"]]
    [row] = selector.select(selector.score(Dataset.from_list(rows)))
    assert row["source_completion"] == "mine"


@pytest.mark.parametrize("name", ["labels", "input_ids", "completion_mask", "messages", "chosen", "assistant_masks"])
def test_columns_that_a_trainer_would_take_for_its_own_are_renamed(name: str, selector: EmpathyDataSelector) -> None:
    data = Dataset.from_list([{"prompt": "a", "completion": "b c d e f g", name: [1]}])
    for scored in (selector.score(data), selector.score(data.to_iterable_dataset())):
        [row] = selector.select(scored)
        assert row[f"source_{name}"] == [1]
        assert name not in row


def test_situation_of_utterance_rows_survives(selector: EmpathyDataSelector) -> None:
    kept = selector.select(selector.score(Dataset.from_list(MULTI_TURN["empathetic_dialogues"])), keep=ALL)
    assert kept["situation"][0] == "Situation_comma_ number 0"
    assert kept["emotion"][:] == ["sad", "angry", "angry", "proud", "tired"]


def test_reply_of_a_row_is_the_one_that_was_scored(selector: EmpathyDataSelector) -> None:
    scored = selector.score(Dataset.from_list(MULTI_TURN["messages"])).shuffle(seed=3)
    for row in selector.select(scored, keep=ALL):
        assert row["sensibility"] == len(row["completion"][0]["content"].split())


def test_system_message_is_trained_on(selector: EmpathyDataSelector) -> None:
    system = {"role": "system", "content": "Be kind."}
    data = Dataset.from_list([{"messages": [system, *messages("Hello.", "Hi you.")]}])
    [row] = selector.select(selector.score(data), keep="low")
    assert row["prompt"] == [system, *messages("Hello.")]


@pytest.mark.parametrize("rule", RULES)
def test_rules_on_a_data_set_are_the_rules_on_its_scores(rule: str, selector: EmpathyDataSelector) -> None:
    scored = selector.score(Dataset.from_list(WAYS["messages"] + [{"messages": None}]))
    options: dict[str, Any] = {"n": 2, "axis": "rationality"} if rule == "top" else {}
    chosen = selector.choose(scored, keep="rationality,balanced", rule=rule, **options)
    kept = selector.select(scored, keep="rationality,balanced", rule=rule, **options)
    everything = selector.select(scored, keep=ALL)
    assert replies(kept) == [replies(everything)[i] for i in chosen.indices]
    assert len(kept) == 2
    assert chosen.reasons[5] == "unscored"
    assert chosen.settings["scorer"] == ["words-1"]


def test_top_by_a_column_of_the_data_set(selector: EmpathyDataSelector) -> None:
    data = own((8, 2), (8, 2), (2, 8), (8, 2)).add_column("ifd", [0.2, None, 0.9, 0.5]).add_column("word", [*"abcd"])
    chosen = selector.choose(data, rule="top", axis="ifd", n=2)
    assert chosen.indices.tolist() == [2, 3]
    assert chosen.counts() == {"kept": 2, "not_in_top": 1, "no_value": 1}
    for wrong in ("word", "idf"):
        with pytest.raises(SelectionError, match=rf"unknown axis '{wrong}'; valid: [a-z, ]*, sum, ifd\."):
            selector.choose(data, rule="top", axis=wrong)


def test_clusters_read_the_dialogues(selector: EmpathyDataSelector, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    told: list[Any] = []

    def vectors(dialogues: Any) -> Any:
        told.extend(dialogue.response for dialogue in dialogues)
        return np.array([[float(dialogue.response[-1] in "0123"), 0.0] for dialogue in dialogues])

    monkeypatch.setattr("ee_trl.scoring.biencoder.dialogue_vectors", vectors)
    data = own(*[(9 - i / 10, 1) for i in range(8)])
    chosen = selector.choose(data, rule="top", axis="sensibility", control="clusters", n=4)
    assert chosen.indices.tolist() == [0, 1, 4, 5]
    assert told == data["response"][:]


def test_longest_replies(selector: EmpathyDataSelector) -> None:
    scored = selector.score(Dataset.from_list(WAYS["messages"]))
    assert replies(selector.select(scored, rule="longest", n=2)) == [
        "I am so sorry to hear that.",
        "Did you oversleep? Or was the bus late?",
    ]


def test_control_of_length_reads_the_replies(selector: EmpathyDataSelector) -> None:
    data = own(*[(9 - i / 10, 1) for i in range(40)], *[(4 - i / 10, 1) for i in range(40)])
    data = data.map(lambda row, i: {"response": "word " * (20 if i < 40 else 2) + f"{i:02}"}, with_indices=True)
    plain, chosen = selector.choose(data), selector.choose(data, control="length")
    assert plain.indices.tolist() == list(range(40))
    assert chosen.indices.tolist() == [*range(20), *range(40, 60)]
    assert len(selector.select(data, control="length")) == len(plain)
    assert "chosen in bins of reply length" in str(selector.card(data, control="length"))
    with pytest.raises(SelectionError, match="control='length' needs all the scores at once"):
        selector.select(data.to_iterable_dataset(), control="length")


def test_dropped_rows_are_whole_and_say_why(selector: EmpathyDataSelector) -> None:
    scored = selector.score(Dataset.from_list(WAYS["messages"] + [{"messages": None}]))
    features, tables = dropped_tables(scored, selector.choose(scored).drops)
    dropped = to_dataset(tables, features)
    assert dropped["drop_reason"][:] == [
        *("quadrant_rationality", "quadrant_balanced", "quadrant_low", "tie"),
        "unscored",
    ]
    assert dropped.remove_columns("drop_reason").to_list() == scored.to_list()[1:]


def test_nothing_selected_is_an_empty_data_set(selector: EmpathyDataSelector) -> None:
    kept = selector.select(own((1, 1)))
    assert (len(kept), kept.features["prompt"]) == (0, MESSAGES)
    assert list(selector.select(own((1, 1)).to_iterable_dataset())) == []


def test_scored_rows_whose_text_is_gone_are_not_trained_on(selector: EmpathyDataSelector) -> None:
    scored = selector.score(Dataset.from_list(WAYS["messages"]))
    emptied = scored.map(lambda row: {"messages": []})
    with pytest.raises(ScoresError, match="empty_dialogue"):
        selector.select(emptied)


# ---- own scores ----------------------------------------------------------------------------------------------------


def test_own_scores_are_selected_from_as_they_are(selector: EmpathyDataSelector, word_scorer: Any) -> None:
    data = own((8, 2), (2, 8), (5, 1), (8, 8))
    kept = selector.select(data)
    assert replies(kept) == ["reply 0"]
    assert (kept["sensibility"][:], word_scorer.asked) == ([8], 0)
    assert selector.choose(data).settings["scorer"] == ["given"]
    assert replies(selector.select(data.to_iterable_dataset())) == ["reply 0"]
    assert replies(selector.select(generator(data.to_list()))) == ["reply 0"]


@pytest.mark.parametrize("kind", ["int8", "int64", "float16", "float32", "decimal128(30, 2)"])
def test_own_scores_of_any_type_of_number(kind: str, selector: EmpathyDataSelector) -> None:
    data = own((8, 2), (None, 2), (2, 8))
    for axis in ("sensibility", "rationality"):
        data = data.cast_column(axis, Value(kind))
    assert selector.choose(data).reasons.tolist() == ["", "unscored", "quadrant_rationality"]


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_missing_own_scores_are_unscored(missing: Any, selector: EmpathyDataSelector) -> None:
    for data in (own((8.0, 2.0), (missing, 2.0), (8.0, missing), (missing, missing)), own((missing, missing))):
        assert selector.choose(data).counts()["unscored"] == (3 if len(data) == 4 else 1)
        assert len(list(selector.select(data.to_iterable_dataset()))) == (1 if len(data) == 4 else 0)


@pytest.mark.parametrize(
    ("scores", "error"), [(("8", "2"), ScoresError), ((True, False), ScoresError), ((80, 2), SelectionError)]
)
def test_own_scores_that_are_none_are_refused(
    scores: Any, error: type[EmpathyError], selector: EmpathyDataSelector
) -> None:
    for use in (selector.select, selector.summary, selector.sweep):
        with pytest.raises(error, match="sensibility"):
            use(own(scores))


def test_own_rows_without_a_reply_are_never_selected(selector: EmpathyDataSelector) -> None:
    rows = [{"context": ["a"], "response": text, "sensibility": 8, "rationality": 2} for text in ("b", "", None, " ")]
    for data in (Dataset.from_list(rows), generator(rows)):
        assert replies(selector.select(data)) == ["b"]
    assert selector.summary(Dataset.from_list(rows)).unscored == {"empty_response": 2, "null_dialogue": 1}


@pytest.mark.parametrize(
    "more", [{"score_status": "done"}, {"scorer": 5}, {"scorer": {"a": 1}}, {"score_status": None}]
)
def test_own_columns_of_those_names_mean_nothing(more: dict[str, Any], selector: EmpathyDataSelector) -> None:
    assert replies(selector.select(own((8, 2), (2, 8), **more))) == ["reply 0"]


def test_own_scores_of_a_conversation_are_of_its_last_reply(selector: EmpathyDataSelector) -> None:
    row = {"messages": messages("a", "b", "c", "d"), "sensibility": 8, "rationality": 2}
    assert replies(selector.select(Dataset.from_list([row]))) == ["d"]


def test_own_scores_of_single_utterances_belong_to_no_reply(selector: EmpathyDataSelector) -> None:
    rows = [{**row, "sensibility": 8, "rationality": 2} for row in MULTI_TURN["empathetic_dialogues"]]
    for data in (Dataset.from_list(rows), Dataset.from_list(rows).to_iterable_dataset(), generator(rows)):
        with pytest.raises(FormatError, match="each row of the data set is one utterance"):
            list(selector.select(data))


def test_unscored_data_cannot_be_selected_from(selector: EmpathyDataSelector) -> None:
    data = Dataset.from_list(WAYS["context list"])
    for use in (selector.select, selector.summary, selector.sweep, selector.choose):
        for source in (data, data.to_iterable_dataset()):
            with pytest.raises(ScoresError, match="score it first"):
                use(source)
    with pytest.raises(ScoresError, match="rationality"):
        selector.select(own((8, 2)).remove_columns("rationality"))


# ---- splits, paths, streams ----------------------------------------------------------------------------------------


def test_splits_may_be_of_different_formats(selector: EmpathyDataSelector) -> None:
    splits = DatasetDict({name.replace(" ", "_"): Dataset.from_list(rows) for name, rows in WAYS.items()})
    scored = selector.score(splits)
    assert isinstance(scored, DatasetDict)
    for name, part in scored.items():
        assert list(zip(part["sensibility"], part["rationality"], strict=True)) == SCORES, name
    kept = selector.select(scored)
    assert isinstance(kept, DatasetDict)
    assert {len(part) for part in kept.values()} == {1}
    assert set(selector.summary(scored)) == set(selector.sweep(scored)) == set(splits)


def test_splits_of_streams(selector: EmpathyDataSelector) -> None:
    data = Dataset.from_list(WAYS["messages"])
    kept = selector.select(selector.score(IterableDatasetDict(train=data.to_iterable_dataset())))
    assert isinstance(kept, IterableDatasetDict)
    assert replies(kept["train"]) == ["I am so sorry to hear that."]


def test_choose_is_for_one_split(selector: EmpathyDataSelector) -> None:
    with pytest.raises(FormatError, match="several splits: a, b"):
        selector.choose(DatasetDict(a=own((8, 2)), b=own((8, 2))))


def test_paths_go_everywhere(selector: EmpathyDataSelector, tmp_path: Path) -> None:
    data = Dataset.from_list(WAYS["messages"])
    data.to_parquet(tmp_path / "raw.parquet")
    scored = selector.score(str(tmp_path / "raw.parquet"))
    scored.to_parquet(tmp_path / "scored.parquet")
    path = tmp_path / "scored.parquet"
    assert selector.select(path).to_list() == selector.select(scored).to_list()
    assert selector.summary(path) == selector.summary(scored)
    assert selector.sweep(path) == selector.sweep(scored)
    assert selector.choose(path).counts() == selector.choose(scored).counts()


@pytest.mark.parametrize("rule", sorted(set(RULES) - {"threshold"}))
def test_stream_can_only_be_selected_from_row_by_row(rule: str, selector: EmpathyDataSelector) -> None:
    with pytest.raises(SelectionError, match=f"{rule!r} needs all the scores"):
        selector.select(own((8, 2)).to_iterable_dataset(), rule=rule, n=1)


def test_wrong_option_is_refused_before_the_stream_is_read(selector: EmpathyDataSelector) -> None:
    for options in ({"keep": "sens"}, {"n": 3}, {"axis": "sensibility"}, {"rule": "best"}):
        with pytest.raises(SelectionError):
            selector.select(own((8, 2)).to_iterable_dataset(), **options)


@pytest.mark.parametrize("batch_rows", [1, 2, 7])
def test_size_of_the_batches_changes_no_selection(batch_rows: int, word_scorer: Any) -> None:
    data = own(*[(s, 2) for s in (8, 1, 9, 10, 5, 6, 0)])
    selector = EmpathyDataSelector(word_scorer, batch_rows=batch_rows, show_progress=False)
    for source in (data, data.to_iterable_dataset(), generator(data.to_list())):
        assert replies(selector.select(source)) == ["reply 0", "reply 2", "reply 3", "reply 5"]


def test_scored_stream_knows_its_features(selector: EmpathyDataSelector) -> None:
    data = Dataset.from_list(WAYS["messages"])
    stream = selector.score(data.to_iterable_dataset())
    assert stream.features == selector.score(data).features
    assert selector.select(stream).features == selector.select(selector.score(data)).features


@pytest.mark.parametrize("wrong", [None, 5, [{"context": ["a"]}], {"context": ["a"]}, b"a.parquet"])
def test_what_is_no_data_set_is_refused(wrong: Any, selector: EmpathyDataSelector) -> None:
    for use in (selector.score, selector.select, selector.summary):
        with pytest.raises(FormatError, match="not a data set"):
            use(wrong)


def test_results_are_ordinary_data_sets(selector: EmpathyDataSelector, tmp_path: Path) -> None:
    scored = selector.score(Dataset.from_list(WAYS["messages"]))
    kept = selector.select(scored, keep=ALL)
    for data in (scored, kept):
        expected = data.to_list()
        assert len(data) == 5
        assert pickle.loads(pickle.dumps(data)).to_list() == expected
        assert copy.deepcopy(data).to_list() == expected
        assert data.map(lambda row: {"more": 1}).remove_columns("more").to_list() == expected
        assert len(data.filter(lambda row: row["quadrant"] == "low")) == 1
        data.save_to_disk(tmp_path / str(len(data.column_names)))


def test_selector_can_be_pickled(tmp_path: Path) -> None:
    data = Dataset.from_list(WAYS["messages"])
    selector = EmpathyDataSelector("linear", show_progress=False)
    expected = selector.score(data).to_list()
    assert pickle.loads(pickle.dumps(selector)).score(data).to_list() == expected


def test_source_is_left_as_it_was(selector: EmpathyDataSelector) -> None:
    data = Dataset.from_list(WAYS["messages"])
    before = (data.to_list(), data.features, data._fingerprint)
    selector.select(selector.score(data))
    assert (data.to_list(), data.features, data._fingerprint) == before


# ---- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", TIES)
def test_quadrant_column_is_what_select_keeps(ties: str, word_scorer: Any) -> None:
    for threshold in (3, 5, (8, 5), {"rationality": 0}):
        selector = EmpathyDataSelector(word_scorer, threshold=threshold, ties=ties, show_progress=False)
        scored = selector.score(Dataset.from_list(WAYS["messages"]))
        for quadrant, count in Counter(scored["quadrant"]).items():
            assert set(selector.select(scored, keep=quadrant)["quadrant"]) == {quadrant}
            assert len(selector.select(scored, keep=quadrant)) == count


def test_quadrants_follow_the_threshold_without_new_scores(word_scorer: Any) -> None:
    data = Dataset.from_list(WAYS["messages"])
    scored = EmpathyDataSelector(word_scorer, show_progress=False).score(data)
    word_scorer.asked = 0
    strict = EmpathyDataSelector(word_scorer, threshold=9, show_progress=False)
    assert strict.score(scored)["quadrant"][:] == ["low", "rationality", "rationality", "low", "low"]
    assert word_scorer.asked == 0


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": 11},
        {"threshold": "high"},
        {"ties": "up"},
        {"turns": "all"},
        {"turns": None},
        {"batch_rows": 0},
        {"batch_rows": 1.5},
        {"batch_rows": "many"},
        {"exclude": "hostil"},
    ],
)
def test_wrong_setting_is_refused_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(EmpathyError, match=r"valid|whole number"):
        EmpathyDataSelector("linear", **options)


@pytest.mark.parametrize(
    ("scorer", "options", "said"),
    [
        ("linear", {"precision": "high"}, "'precision'; valid: scorer, threshold, "),
        ("linear", {"thresold": 4.0}, "linear scorer or of EmpathyDataSelector 'thresold'.* mean 'threshold'"),
        ("owner/judge", {"quantisation": "nf4"}, "mean 'quantization'"),
        ("server", {"model": "tiny", "baseurl": "http://127.0.0.1"}, "mean 'base_url'"),
        ("cascade", {"cheap": "linear", "judge": "owner/judge", "buget": 0.1}, "mean 'budget'"),
        ("cascade", {"cheap": "linear", "judge": "owner/judge", "judge_options": {"dtpe": "auto"}}, "mean 'dtype'"),
    ],
)
def test_an_option_that_nobody_knows_is_refused_before_anything_is_loaded(
    scorer: str, options: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ee_trl.scoring.dataset.load_scorer", None)
    with pytest.raises(ScorerError, match=said):
        EmpathyDataSelector(scorer, **options)


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        ("select", {"thresold": 4.0}, "select 'thresold'.* 'threshold' is an option of EmpathyDataSelector"),
        ("select", {"keeep": "low"}, "select 'keeep'.* mean 'keep'"),
        ("choose", {"exlude": "none"}, "'exlude'.* mean 'exclude'"),
        ("score", {"mappin": {}}, "score 'mappin'.* mean 'mapping'"),
        ("summary", {"ties_": "low"}, "'ties' is an option of EmpathyDataSelector"),
        ("sweep", {"gird": [5]}, "sweep 'gird'.* mean 'grid'"),
        ("explore", {"output": "x.html", "limt": 5}, "'limt'.* mean 'limit'"),
    ],
)
def test_a_misspelt_option_is_refused_with_the_nearest_name(
    method: str, options: dict[str, Any], said: str, word_scorer: Any
) -> None:
    scored = Dataset.from_list([{"context": ["a"], "response": "b", "sensibility": 8.0, "rationality": 2.0}])
    with pytest.raises(SelectionError, match=said):
        getattr(EmpathyDataSelector(word_scorer), method)(scored, **options)


def test_no_option_goes_with_a_scorer_object(word_scorer: Any) -> None:
    with pytest.raises(ScorerError, match="with a scorer object .* mean 'show_progress'"):
        EmpathyDataSelector(word_scorer, show_progres=False)


def test_scorer_is_loaded_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr("ee_trl.scoring.dataset.load_scorer", load)
    selector = EmpathyDataSelector("linear")
    assert replies(selector.select(own((8, 2)))) == ["reply 0"]
    with pytest.raises(AssertionError, match="loaded"):
        selector.score(Dataset.from_list(WAYS["messages"]))


# ---- the bundled scorer and sample ---------------------------------------------------------------------------------


def test_first_lines_of_the_documentation() -> None:
    selector = EmpathyDataSelector("linear", threshold=5.0, show_progress=False)
    scored = selector.score(load_sample())
    subset = selector.select(scored, keep="sensibility")
    assert 0 < len(subset) < len(scored)
    assert set(scored["scorer"]) == {LinearScorer().fingerprint}
    assert selector.summary(scored).unscored == {}
    kept = [selector.select(scored, keep=name, exclude="none") for name in (*QUADRANTS, "tie")]
    assert sum(map(len, kept)) == len(scored)


@pytest.mark.parametrize("batch_rows", [1, 7])
def test_linear_scores_do_not_depend_on_the_batch(batch_rows: int) -> None:
    data = load_sample("test")
    expected = EmpathyDataSelector("linear", show_progress=False).score(data).to_list()
    assert EmpathyDataSelector("linear", batch_rows=batch_rows, show_progress=False).score(data).to_list() == expected


def test_all_dialogues_whether_spread_out_or_not(selector: EmpathyDataSelector) -> None:
    expected = [{"prompt": d.prompt, "completion": d.completion} for d in DIALOGUES]
    data = Dataset.from_list([*WAYS["messages"], {"messages": None}])
    assert all_dialogues(data).to_list() == expected
    assert all_dialogues(selector.score(data)).to_list() == expected


def test_published_scores_are_selected_as_they_are(real_data: Path, selector: EmpathyDataSelector) -> None:
    path = real_data / "ed_validation_scored.parquet"
    kept = {name: selector.select(path, keep=name) for name in ("sensibility", "rationality")}
    assert {name: len(part) for name, part in kept.items()} == {"sensibility": 3473, "rationality": 393}
    assert min(kept["sensibility"]["sensibility"]) > 5
    assert max(kept["sensibility"]["rationality"]) < 5
    assert kept["sensibility"].features["prompt"] == MESSAGES
    assert len(kept["sensibility"].unique("sample_id")) == 3473
