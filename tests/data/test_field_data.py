"""What people's files do: lists as text, other names, other JSON, other encodings, preference pairs."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import WordScorer
from datasets import Dataset, IterableDataset
from same_dialogues import CONVERSATIONS, messages

from ee_trl import EmpathyDataSelector
from ee_trl.cli.main import main
from ee_trl.data.dialogue import Dialogue, Sample, samples_of
from ee_trl.data.formats import recognise
from ee_trl.data.mapping import mapped
from ee_trl.data.reading import open_dataset
from ee_trl.data.samples import read_samples
from ee_trl.errors import CoverageError, FormatError


SAD, HUG, MORE = 'I\'ve lost my "job".', "I'm sorry: that [must] hurt {badly}.", "It's over, isn't it?\nYes."
TURNS = messages(SAD, HUG, MORE)
TEXTS = [SAD, HUG, MORE]
EXPECTED = Dialogue((SAD, HUG, MORE), "Let's talk.", ("user", "assistant", "user"))
Rows = list[dict[str, Any]]


def samples(rows: Rows) -> list[Sample]:
    return samples_of(recognise(rows[0]), rows)


def dialogues(rows: Rows) -> list[Dialogue | None]:
    return [sample.dialogue for sample in samples(rows)]


def score(path: Path, *options: str) -> int:
    out = str(path.with_name("scored.parquet"))
    return main(["score", str(path), "-o", out, "--no-store", "--scorer", "linear", "-q", "--overwrite", *options])


# ---- lists that became text ----------------------------------------------------------------------------------------

WRITTEN: dict[str, Callable[[list[Any]], str]] = {
    "json": json.dumps,
    "indented json": lambda value: json.dumps(value, indent=1),
    "python": repr,
    "tuple": lambda value: repr(tuple(value)),
    "numpy": lambda value: str(np.array(value, dtype=object)),
    "numpy's repr": lambda value: repr(np.array(value, dtype=object)),
    "with white space": lambda value: f"\n {value!r} ",
    "json, twice": lambda value: json.dumps(json.dumps(value)),
    "python in json": lambda value: json.dumps(repr(value)),
}


@pytest.mark.parametrize("way", WRITTEN)
def test_list_that_became_text_is_read_as_the_list(way: str) -> None:
    text = WRITTEN[way]
    reply = text([{"role": "assistant", "content": "Let's talk."}])
    for row in (
        {"context": text(TEXTS), "response": "Let's talk."},
        {"context": text(TURNS), "response": text(["Let's talk."])},
        {"prompt": text(TURNS), "completion": reply},
        {"prompt": TURNS, "response": reply},
    ):
        assert dialogues([row]) == [EXPECTED], row
    said = [*TURNS, {"role": "assistant", "content": "Let's talk.", "name": None, "kept": True}]
    for column in ("messages", "conversations", "dialog", "conversation"):
        assert dialogues([{column: text(said)}])[-1] == EXPECTED
    assert dialogues([{"dialogue": text([*TEXTS, "Let's talk."])}])[-1] == EXPECTED


@pytest.mark.parametrize("text", WRITTEN.values(), ids=WRITTEN)
def test_parts_and_system_messages_that_became_text(text: Callable[[list[Any]], str]) -> None:
    said: Rows = [{"role": "user", "content": text([{"type": "text", "text": SAD}])}, *messages(SAD, HUG)[1:]]
    expected = Dialogue((SAD,), HUG, ("user",), "Be kind.")
    assert dialogues([{"messages": said, "system": text(["Be kind."])}])[-1] == expected
    code = '[{"a": 1}]'
    assert dialogues([{"messages": messages(code, HUG), "system": "[a] b"}]) == [
        Dialogue((code,), HUG, ("user",), "[a] b")
    ]


@pytest.mark.parametrize(
    "cut", ["['Hi', 'Hel", '["Hi", "Hel', "[{'role': 'user', 'con", '[\n {"role": "us', "array(['Hi'"]
)
def test_list_that_was_cut_off_is_no_speech(cut: str) -> None:
    rows: Rows = [
        *({"context": cut, "response": HUG}, {"context": [SAD], "response": cut}, {"prompt": cut, "completion": HUG}),
        *({"prompt": SAD, "completion": cut}, {"messages": cut}, {"dialog": cut}),
    ]
    assert [samples([row])[0].reason for row in rows] == ["wrong_type"] * len(rows)


@pytest.mark.parametrize(
    "text", ["[laughs] Hi.", "[ ] buy milk", "(I am sad)", '("Hi", he said) Oh.', "{name}, hi", "[NAME]!"]
)
def test_speech_in_brackets_is_speech(text: str) -> None:
    assert dialogues([{"context": text, "response": text}]) == [Dialogue((text,), text, ("user",))]
    assert dialogues([{"prompt": text, "completion": text}]) == [Dialogue((text,), text, ("user",))]


def test_empty_list_that_became_text() -> None:
    assert [samples([{"context": "[]", "response": HUG}])[0].reason, samples([{"dialog": "[]"}])[0].reason] == [
        "empty_context",
        "empty_dialogue",
    ]


def test_nothing_in_a_text_is_evaluated() -> None:
    assert samples([{"messages": "[__import__('os').getcwd()]"}])[0].reason == "wrong_type"


def test_selection_of_this_package_survives_pandas_and_csv(tmp_path: Path) -> None:
    selector = EmpathyDataSelector(WordScorer())
    kept = selector.select(selector.score(Dataset.from_list([{"messages": messages(*c)} for c in CONVERSATIONS])))
    frame = pd.DataFrame(kept.to_list())
    frame.to_parquet(tmp_path / "a.parquet")
    pd.read_parquet(tmp_path / "a.parquet").to_csv(tmp_path / "a.csv", index=False)
    kept.to_csv(tmp_path / "b.csv")
    expected = [sample.dialogue for sample in read_samples(kept)]
    for name in ("a.csv", "b.csv"):
        assert [sample.dialogue for sample in read_samples(open_dataset(tmp_path / name))] == expected


# ---- other names ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pair",
    [
        *(("seeker", "supporter"), ("client", "counselor"), ("Patient", "Therapist"), ("usr", "sys"), ("user", "bot")),
        *(("help-seeker", "Counsellor"), ("agent_1", "agent_2"), ("Speaker 2", "Speaker 1"), (0, 1), ("1", "0")),
        *(("A", "B"), ("person_b", "person_a"), ("Human", "AI"), (17, 3), (0.0, 1.0), ("Patient:", "Therapist:")),
        *(("caller", "operator"), ("Q", "A"), ("spk_1", "spk_2"), ("seeker", "agent_1"), ("p2", "listener")),
        *(("来访者", "咨询师"), ("poster", "commenter")),
    ],
)
@pytest.mark.parametrize(
    "keys", [("speaker", "content"), ("role", "text"), ("from", "utterance"), ("author", "message"), ("Role", "TEXT")]
)
def test_known_roles_and_keys(pair: tuple[Any, Any], keys: tuple[str, str]) -> None:
    turns = [dict(zip(keys, (pair[i % 2], text), strict=True)) for i, text in enumerate([*TEXTS, "Let's talk."])]
    assert dialogues([{"dialog": turns}])[-1] == dialogues([{"messages": turns}])[-1] == EXPECTED
    assert dialogues([{"prompt": turns[:3], "completion": turns[3:]}]) == [EXPECTED]
    lists = {key: [turn[key] for turn in turns] for key in keys}
    assert dialogues([{"turns": lists}])[-1] == EXPECTED


def test_roles_as_keys() -> None:
    pairs = [{"user": SAD, "assistant": HUG}, {"user": MORE, "assistant": "Let's talk."}]
    turns = [{"Speaker": SAD}, {"Listener": HUG}, {"Speaker": MORE}, {"Listener": "Let's talk."}]
    expected = [Dialogue((SAD,), HUG, ("user",)), EXPECTED]
    assert dialogues([{"conversation": pairs}]) == dialogues([{"dialog": turns}]) == expected


def test_person_beside_a_known_role() -> None:
    turns = [{"speaker": name, "text": "Well."} for name in ("seeker", "agent_1", "agent_2", "agent_1")]
    assert [(s.turn, s.reason) for s in samples([{"dialog": turns}])] == [
        (1, None),
        (3, "too_many_speakers"),
    ]


def test_third_numbered_speaker_is_refused() -> None:
    turns = [{"speaker": f"agent_{n}", "text": "Well."} for n in (1, 2, 3, 2)]
    assert [(s.turn, s.reason) for s in samples([{"dialog": turns}])] == [
        (1, None),
        (3, "too_many_speakers"),
    ]


def test_unknown_roles_and_keys_are_named_once(caplog: pytest.LogCaptureFixture) -> None:
    turns = [{"speaker": "Mia", "content": SAD}, {"speaker": "Dr. Who", "content": HUG}]
    found = list(read_samples(Dataset.from_list([{"messages": turns}] * 3)))
    assert [sample.reason for sample in found] == ["unknown_role"] * 3
    [message] = [record.message for record in caplog.records]
    for part in ("speaker: 'Mia'", "speaker: 'Dr. Who'", "--map", "mapping", "empathy_map"):
        assert part in message
    caplog.clear()
    for turns, named, example in (
        ([{"who": "Mia", "says": SAD}], "keys: who, says", "--map who=role --map says=content"),
        ([{"role": "user", "says": SAD}], "keys: says", "--map says=content "),
        ([{"role": "Mia", "text": SAD}, {"role": "Dr", "text": HUG}], "'Mia'", "--map Mia=user --map Dr=assistant"),
        ([{"role": "user", "text": SAD}, {"role": "Dr", "text": HUG}], "'Dr'", "--map Dr=assistant "),
    ):
        caplog.clear()
        list(read_samples(Dataset.from_list([{"messages": turns}])))
        assert named in caplog.text
        assert example in caplog.text


NAMES = {"who": "role", "says": "content", "Mia": "user", "dr. who": "assistant", "talk": "messages"}
TALK = [{"who": ("Mia", "Dr. Who")[i % 2], "says": text, "mood": 3} for i, text in enumerate([*TEXTS, "Let's talk."])]


@pytest.mark.parametrize("talk", [TALK, repr(TALK), {k: [t[k] for t in TALK] for k in ("who", "says")}])
def test_mapping_of_columns_keys_and_roles(talk: Any, tmp_path: Path) -> None:
    data = Dataset.from_list([{"talk": talk, "id": 1}])

    def rows() -> Any:
        yield {"talk": talk, "id": 1}

    for source in (data, data.to_iterable_dataset(), IterableDataset.from_generator(rows)):
        found = [sample.dialogue for sample in read_samples(mapped(source, NAMES))]
        assert found[-1] == EXPECTED
    data.to_parquet(tmp_path / "a.parquet")
    data.to_json(tmp_path / "a.jsonl")
    for name in ("a.parquet", "a.jsonl"):
        scored = EmpathyDataSelector(WordScorer()).score(tmp_path / name, mapping=NAMES)
        assert scored["score_status"][:] == ["scored"] * 2
        assert scored["id"][:] == [1, 1]


def test_mapping_of_utterance_rows() -> None:
    names = {"conversation": "conv_id", "n": "utterance_idx", "by": "speaker_idx", "said": "utterance"}
    said = [("Dr. Who", "Hello."), ("Mia", SAD), ("Dr. Who", HUG)]
    rows = [{"conversation": 1, "n": i, "by": by, "said": text} for i, (by, text) in enumerate(said)]
    found = list(read_samples(mapped(Dataset.from_list(rows), names | {"dr. who": "assistant", "mia": "user"})))
    assert [(sample.turn, sample.reason) for sample in found] == [(0, "listener_opens"), (2, None)]


def test_mapping_that_does_not_fit() -> None:
    data = Dataset.from_list([{"question": SAD, "answer": HUG}])
    with pytest.raises(FormatError, match=r"no column 'asnwer' .*'answer', 'question'.*role, content.*assistant"):
        mapped(data, {"asnwer": "response"})
    for names, example in (
        (("question", "answer"), "--map question=context --map answer=response "),
        (("Context", "Response"), "--map Context=context --map Response=response "),
        (("prompt", "reply"), "--map reply=response "),
        (("history", "response"), "--map history=context "),
        (("Chat", "id"), "--map Chat=messages "),
        (
            ("dialog_id", "turn_no", "author", "body"),
            "--map dialog_id=conv_id --map turn_no=utterance_idx --map author=speaker_idx --map body=utterance ",
        ),
    ):
        with pytest.raises(FormatError, match=example):
            list(read_samples(Dataset.from_list([dict.fromkeys(names, SAD)])))
    [sample] = read_samples(mapped(data, {"question": "context", "answer": "response"}))
    assert sample.dialogue == Dialogue((SAD,), HUG, ("user",))


def test_mapping_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"talk": TALK}]), encoding="utf-8")
    assert score(path) == 3
    assert "--map" in capsys.readouterr().err
    assert score(path, *(part for item in NAMES.items() for part in ("--map", "=".join(item)))) == 0
    assert score(path, "--map", "talk") == 3
    assert "NAME=MEANING" in capsys.readouterr().err


# ---- columns of another meaning ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["instruction", "question", "query", "input", "prompt", "User Message", "Question", "post", "history"]
)
def test_question_beside_a_passage_is_never_lost(name: str) -> None:
    data = Dataset.from_list([{name: SAD, "context": "A passage.", "response": HUG}])
    with pytest.raises(FormatError, match=f"--map {name}=context"):
        list(read_samples(data))
    as_context = mapped(data, {name: "context"})
    assert [s.dialogue for s in read_samples(as_context)] == [Dialogue((SAD,), HUG, ("user",))]
    assert as_context["source_context"][:] == ["A passage."]
    [sample] = read_samples(mapped(data, {name: "about"}))
    assert sample.dialogue == Dialogue(("A passage.",), HUG, ("user",))
    [sample] = read_samples(mapped(data, {name: "context", "context": "system"}))
    assert sample.dialogue == Dialogue((SAD,), HUG, ("user",), "A passage.")


def test_history_beside_a_prompt_is_never_lost() -> None:
    data = Dataset.from_list([{"history": [SAD, HUG], "prompt": MORE, "response": HUG}])
    with pytest.raises(FormatError, match="--map history=prompt"):
        list(read_samples(data))


PAIR = {"chosen": HUG, "rejected": "So what."}
ONE_TURN = {side: {"from": "gpt", "value": text} for side, text in PAIR.items()}
PREFERENCES: dict[str, dict[str, Any]] = {
    "sharegpt": {"conversations": [{"from": "human", "value": SAD}], **ONE_TURN},
    "messages": {"messages": messages(SAD), **{k: messages("", v)[1:] for k, v in PAIR.items()}},
    "texts": {"prompt": SAD, **PAIR},
    "conversational": {"prompt": messages(SAD), **{k: messages("", v)[1:] for k, v in PAIR.items()}},
    "whole conversations": {"prompt": SAD, **{k: messages(SAD, v) for k, v in PAIR.items()}},
    "context": {"context": [SAD], **PAIR},
}


@pytest.mark.parametrize("kind", PREFERENCES)
def test_chosen_may_be_named_as_the_reply(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps([PREFERENCES[kind]] * 2), encoding="utf-8")
    assert score(path) in (3, 6)
    assert "chosen=response" in capsys.readouterr().err
    assert score(path, "--map", "chosen=response") == 0
    scored = open_dataset(tmp_path / "scored.parquet")
    assert [s.dialogue for s in read_samples(scored)] == [Dialogue((SAD,), HUG, ("user",))] * 2
    out = tmp_path / "kept.jsonl"
    keep = "sensibility,rationality,balanced,low,tie"
    assert (
        main(["select", str(tmp_path / "scored.parquet"), "-o", str(out), "--keep", keep, "--exclude", "none", "-q"])
        == 0
    )
    assert [row["completion"][0]["content"] for row in open_dataset(out)] == [HUG] * 2


def test_implicit_prompt_of_preference_pairs() -> None:
    data = mapped(Dataset.from_list([{k: messages(SAD, v) for k, v in PAIR.items()}]), {"chosen": "messages"})
    assert [s.dialogue for s in read_samples(data)] == [Dialogue((SAD,), HUG, ("user",))]


@pytest.mark.parametrize("name", ["system", "system_prompt", "system_message"])
def test_system_column_becomes_the_system_message(name: str) -> None:
    rows: Rows = [
        {"messages": messages(SAD, HUG)},
        {"conversations": [{"from": "human", "value": SAD}, {"from": "gpt", "value": HUG}]},
        {"prompt": SAD, "completion": HUG},
        {"context": [SAD], "response": HUG},
        {"dialog": [SAD, HUG]},
        *[
            {"conv_id": 1, "utterance_idx": i, "speaker_idx": i, "utterance": text}
            for i, text in enumerate((SAD, HUG))
        ],
    ]
    groups = [*([row] for row in rows[:5]), rows[5:]]
    for group in groups:
        [sample] = read_samples(Dataset.from_list([{**row, name: "Be kind."} for row in group]))
        assert sample.dialogue == Dialogue((SAD,), HUG, ("user",), "Be kind.")
        [sample] = read_samples(Dataset.from_list([{**row, name: None} for row in group]))
        assert sample.dialogue == Dialogue((SAD,), HUG, ("user",))
    own = [{"role": "system", "content": "Be brief."}, *messages(SAD, HUG)]
    assert dialogues([{"messages": own, name: "Be kind."}]) == [Dialogue((SAD,), HUG, ("user",), "Be brief.")]
    assert [s.turn for s in samples([{"messages": messages(SAD, HUG), name: "Be kind."}])] == [1]


# ---- turns and speakers --------------------------------------------------------------------------------------------


def test_greeting_of_the_listener_is_no_failure(tmp_path: Path) -> None:
    turns = [{"role": "assistant", "content": "Hello."}, *messages(SAD, HUG)]
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"messages": turns}] * 5 + [{"messages": turns[:1]}]), encoding="utf-8")
    assert score(path) == 0
    assert open_dataset(tmp_path / "scored.parquet")["score_status"][:] == ["listener_opens", "scored"] * 5 + [
        "listener_opens"
    ]
    twice = [{"role": "assistant", "content": "Hello."}, {"role": "assistant", "content": "How are you?"}]
    assert [s.reason for s in samples([{"messages": [*twice, *messages(SAD, HUG)]}])] == ["listener_opens"] * 2 + [
        None
    ]
    path.write_text(json.dumps([{"messages": turns[:1]}]), encoding="utf-8")
    assert score(path) == 6


def test_nothing_to_score_is_an_error_of_the_coverage() -> None:
    selector = EmpathyDataSelector(WordScorer())
    selector.score(Dataset.from_list([{"messages": messages(SAD)}]))
    with pytest.raises(CoverageError, match="none of the 1 samples has a reply"):
        selector.coverage.check(1.0)  # type: ignore[union-attr]


def _utterances(*said: tuple[Any, Any]) -> Rows:
    return [
        {"conv_id": "a", "utterance_idx": number, "speaker_idx": speaker, "utterance": f"Turn {number}."}
        for number, speaker in said
    ]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([(0, "Al"), (1, "Bo"), (2, "Al"), (3, "Bo")], [(1, None), (3, None)]),
        ([("0", 7), ("1", 8)], [(1, None)]),
        ([(0.0, 7), (2.0, 8)], [(1, "missing_turns")]),
        ([(1, 0), (2, 1), (3, 2), (4, 1)], [(1, None), (2, "too_many_speakers"), (3, "too_many_speakers")]),
        ([(1, "listener"), (2, "speaker"), (3, "listener")], [(0, "listener_opens"), (2, None)]),
        ([(5, 1), (6, 2)], [(1, "missing_turns")]),
        ([(1, "Listener"), (2, "Al"), (3, "Listener")], [(0, "listener_opens"), (2, None)]),
        ([(1, None), (2, None)], [(1, "unknown_role")]),
    ],
)
def test_utterances_by_number_and_speaker(said: Any, expected: Any) -> None:
    assert [(s.turn, s.reason) for s in samples(_utterances(*said))] == expected


# ---- raw EmpatheticDialogues ---------------------------------------------------------------------------------------

HEADER = "conv_id,utterance_idx,context,prompt,speaker_idx,utterance,selfeval,tags"


def _raw(conversation: int, *said: str, candidates: bool = False, quoted: str = "A thing") -> list[str]:
    start = [f"hit:{conversation}_conv:{conversation}", "proud", quoted]
    return [
        ",".join([start[0], str(i + 1), *start[1:], str(conversation * 2 + i % 2), text, "5|5|5_5|5|5", ""])
        + (f',Well_comma_ no|{text}|"Oh' if candidates and i % 2 else "")
        for i, text in enumerate(said)
    ]


@pytest.mark.parametrize("candidates", [False, True])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_raw_empathetic_dialogues_keeps_its_quotes(candidates: bool, ending: str, tmp_path: Path) -> None:
    said = [
        ('I won_comma_ "really"!', '"Never stop" is my motto.'),
        ('"My dog ran away', 'Oh no". Poor you'),
        ('"I did it!"', '"Well done!"'),
        ('It is 5" long', 'A "quote" in it'),
    ]
    quoted = ["A thing", '"I did it', 'and so on"', '"All of it"']
    lines = [line for i, texts in enumerate(said) for line in _raw(i, *texts, candidates=candidates, quoted=quoted[i])]
    for name in ("train.csv", "valid.csv", "test.csv"):
        (tmp_path / name).write_text(ending.join([HEADER, *lines]) + ending, encoding="utf-8", newline="")
    found = open_dataset(tmp_path)
    assert set(found) == {"train", "validation", "test"}
    for part in found.values():
        assert [(s.dialogue.context[0], s.dialogue.response) for s in read_samples(part) if s.dialogue] == [
            (first.replace("_comma_", ","), reply) for first, reply in said
        ]
        assert part.column_names == HEADER.split(",")


def test_empathetic_dialogues_written_anew_with_quotes(tmp_path: Path) -> None:
    texts = ['I won, "really"!', '"Never stop" is my motto.', "Two\nlines, and more.", "Yes."]
    rows = [["a", i + 1, "proud", "p", i % 2, text, "", ""] for i, text in enumerate(texts)]
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
        for kept in (rows, rows[:2], rows[1::2]):
            with (tmp_path / "a.csv").open("w", encoding="utf-8", newline="") as out:
                csv.writer(out, quoting=quoting).writerows([HEADER.split(","), *kept])
            assert open_dataset(tmp_path / "a.csv")["utterance"][:] == [row[5] for row in kept]


# ---- JSON that is no list of rows ----------------------------------------------------------------------------------

ROWS = [{"context": [SAD], "response": HUG}, {"context": [MORE], "response": HUG}]
INDENTED = "\n".join(json.dumps(row, indent=1) for row in ROWS)
TALKS = [{"id": i, "conversations": messages(SAD, HUG)} for i in range(2)]
WHOLE: dict[str, tuple[str, Rows]] = {
    "one object": (json.dumps(ROWS[0]), ROWS[:1]),
    "one object, indented": (json.dumps(ROWS[0], indent=1), ROWS[:1]),
    "objects, indented": (INDENTED, ROWS),
    "objects, indented, with commas": (INDENTED.replace("\n}\n", "\n},\n"), ROWS),
    "rows under a key": (json.dumps({"version": "1", "data": ROWS}), ROWS),
    "rows under a key, indented": ("\n" + json.dumps({"data": ROWS, "about": {"n": 2}}, indent=2), ROWS),
    "rows under a format's name": (json.dumps({"conversations": TALKS, "tags": []}), TALKS),
    "one conversation of texts": (json.dumps({"dialog": TEXTS}), [{"dialog": TEXTS}]),
    "one conversation": (json.dumps(TALKS[0], indent=1), TALKS[:1]),
    "array after blank lines and a byte order mark": ("\ufeff\n \n" + json.dumps(ROWS, indent=1), ROWS),
    "array with a last comma": ("[\n" + "".join(json.dumps(row) + ",\n" for row in ROWS) + "]\n", ROWS),
    "indented array with a last comma": (json.dumps(ROWS, indent=1).removesuffix("\n]") + ",\n]\n", ROWS),
    "lines with commas": ("".join(json.dumps(row) + ",\n" for row in ROWS), ROWS),
    "one line with a comma": (json.dumps(ROWS[0]) + ",", ROWS[:1]),
    "unknown columns under a key": (json.dumps({"items": [{"q": 1, "a": 2}]}), [{"q": 1, "a": 2}]),
    "one object of unknown columns": (json.dumps({"q": "a", "a": "b"}, indent=1), [{"q": "a", "a": "b"}]),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_rows_of_json_that_is_whole(kind: str, tmp_path: Path) -> None:
    text, rows = WHOLE[kind]
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    assert open_dataset(tmp_path / "a.json").to_list() == rows


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[SAD, HUG], [SAD, HUG]], "JSON list of lists"),
        ([TURNS, TURNS], "JSON list of lists"),
        ([SAD, 3], "JSON list of numbers and texts"),
        (SAD, "that is a JSON object: it is one JSON text"),
        ({"train": ROWS, "test": ROWS[:1]}, r"several lists of rows: train \(2 rows\), test \(1 rows\)"),
        ({"a": {"b": ROWS}, "c": 1}, "no list of rows: the keys a, c"),
        ({"context": {"0": SAD, "1": MORE}, "response": {"0": HUG, "1": HUG}}, "of columns.*orient='records'"),
        ({"context": [SAD, MORE], "response": [HUG, HUG]}, "of columns.*orient='records'"),
        ({"columns": ["context", "response"], "data": [[SAD, HUG]]}, "of columns.*orient='records'"),
        ({"a1": ROWS[0], "a2": ROWS[1]}, "holds 2 objects by key .*jq -c"),
    ],
)
def test_json_without_rows_says_what_it_is(value: Any, message: str, tmp_path: Path) -> None:
    for indent in (None, 1):
        (tmp_path / "a.json").write_text(json.dumps(value, indent=indent), encoding="utf-8")
        with pytest.raises(FormatError, match=message) as caught:
            open_dataset(tmp_path / "a.json")
        assert "list of objects" in str(caught.value)


# ---- files of another encoding -------------------------------------------------------------------------------------

IN_ENCODINGS = {
    "cp1252": ("I can’t sleep, “really”.", "That’s hard – I’m sorry.", "cp1252"),
    "gbk": ("我丢了工作,心里很难受。", "我很抱歉,那一定很难受。", "gb18030"),
    "shift_jis": ("仕事を失いました。とても悲しいです。", "それは本当につらいですね。", "cp932"),
    "utf-16": ("I can’t sleep.", "That’s hard.", "utf-16"),
    "utf-16-le": ("I can't sleep.", "That's hard.", "utf-16-le"),
    "utf-16-be": ("我丢了工作。", "我很抱歉。", "utf-16-be"),
    "utf-32-le": ("I can’t sleep.", "That’s hard.", "utf-32-le"),
    "euc_jp": ("仕事を失いました。とても悲しいです。", "それは本当につらいですね。", "euc-jp"),
    "cp874": ("วันนี้ฉันตกงาน เสียใจมาก", "ฉันเสียใจด้วย", "cp874"),
}


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".json"])
@pytest.mark.parametrize("encoding", IN_ENCODINGS)
def test_file_of_another_encoding(encoding: str, ending: str, tmp_path: Path) -> None:
    sad, hug, guess = IN_ENCODINGS[encoding]
    path = tmp_path / f"a{ending}"
    rows = [{"context": sad, "response": hug}] * 3
    if ending in (".csv", ".tsv"):
        with path.open("w", encoding=encoding, newline="") as out:
            writer = csv.writer(out, delimiter="\t" if ending == ".tsv" else ",")
            writer.writerows([["context", "response"], *(row.values() for row in rows)])
    else:
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        path.write_text("\n".join(lines) if ending == ".jsonl" else f"[{','.join(lines)}]", encoding=encoding)
    with pytest.raises(FormatError) as caught:
        open_dataset(path)
    for part in (str(path), "not encoded in UTF-8", f"looks like {guess}.", f"--encoding {guess}", "iconv"):
        assert part in str(caught.value)
    assert sad.isascii() or sad[:20] in str(caught.value)  # how a line would read
    for name in (encoding, guess):
        assert open_dataset(path, encoding=name).to_list() == rows
    with pytest.raises(FormatError):
        open_dataset(path, encoding="no such code")
    if ending == ".csv":
        assert score(path) == 3
        assert score(path, "--encoding", encoding) == 0


def test_utf8_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("context,response\né,ç\n", encoding="utf-8-sig")
    for name in ("utf-8", "UTF8", None):
        assert open_dataset(tmp_path / "a.csv", encoding=name).to_list() == [{"context": "é", "response": "ç"}]
