"""The one way from rows to samples: the same samples in batches of any size, for every command."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, IterableDataset
from same_dialogues import DIALOGUES, MULTI_TURN, ROW_TURN, WAYS, messages

from ee_trl import EmpathyDataSelector, load_sample
from ee_trl.data.formats import recognise
from ee_trl.data.reading import open_dataset
from ee_trl.data.samples import all_dialogues, iter_row_samples, iter_samples, read_samples
from ee_trl.distillation.labels import open_pool
from ee_trl.evaluation.eval_set import read_eval_set
from ee_trl.online.dialogues import RowDialogues
from ee_trl.scoring.judged import read_judged
from ee_trl.training.data import apart


@pytest.mark.parametrize("batch_rows", [1, 2, 1_000])
@pytest.mark.parametrize("way", WAYS)
def test_same_samples_in_batches_of_any_size(way: str, batch_rows: int) -> None:
    dataset = Dataset.from_list(WAYS[way])
    batches = list(iter_samples(dataset, batch_rows=batch_rows))
    assert [sample.dialogue for batch in batches for sample in batch.samples] == DIALOGUES
    assert [number for batch in batches for number in batch.numbers] == list(range(len(dataset)))
    assert sum(batch.table.num_rows for batch in batches) == sum(batch.num_rows for batch in batches) == len(dataset)
    streamed = iter_samples(dataset.to_iterable_dataset(), batch_rows=batch_rows)
    assert [sample.dialogue for batch in streamed for sample in batch.samples] == DIALOGUES
    rows = IterableDataset.from_generator(lambda: iter(WAYS[way]))
    plain = list(iter_row_samples(rows, recognise(list(WAYS[way][0])), batch_rows=batch_rows))
    assert [sample.dialogue for batch in plain for sample in batch.samples] == DIALOGUES
    assert [number for batch in plain for number in batch.numbers] == list(range(len(dataset)))


@pytest.mark.parametrize("way", MULTI_TURN)
def test_a_sample_knows_its_row_and_turn(way: str) -> None:
    found = list(read_samples(Dataset.from_list(WAYS[way])))
    if way == "empathetic_dialogues":
        assert [WAYS[way][s.row]["utterance"].replace("_comma_", ",") for s in found] == [
            d.response for d in DIALOGUES
        ]
    else:
        assert [(s.row, s.turn) for s in found] == ROW_TURN


def test_utterances_of_a_conversation_may_lie_anywhere() -> None:
    rows = WAYS["empathetic_dialogues"]
    order = random.Random(0).sample(range(len(rows)), len(rows))
    shuffled = Dataset.from_list([rows[i] for i in order])
    batches = list(iter_samples(shuffled, columns=["context"], batch_rows=2))
    assert {s.dialogue for batch in batches for s in batch.samples} == set(DIALOGUES)
    for batch in batches:
        assert [shuffled[i]["context"] for i in batch.numbers] == [row["context"] for row in batch.rows]
        assert len({row["conv_id"] for row in batch.rows if row["conv_id"] == batch.rows[-1]["conv_id"]}) == 1


def test_rows_have_the_columns_that_were_asked_for() -> None:
    dataset = Dataset.from_list([{"messages": messages("Hi.", "Hello."), "emotion": "sad", "more": 1}])
    [batch] = iter_samples(dataset, columns=["emotion", "not there"])
    assert batch.rows == [{"messages": messages("Hi.", "Hello."), "emotion": "sad"}]
    assert batch.table.column_names == ["messages", "emotion", "more"]


# ---- a row that its reader could not take as it stands -------------------------------------------------------------

BAD = 2  # its row: a lone surrogate, which the file's reader writes out, in a dialogue that begins as another does


@pytest.fixture
def damaged(tmp_path: Path) -> Dataset:
    texts = [
        ("I lost my job.", "Why?"),
        ("It rains.", "Take a coat."),
        ("It rains.", "Oh \ud83d no."),
        ("Hi.", "Hello."),
    ]
    scores = {"sensibility": 7.0, "rationality": 3.0}
    lines = [json.dumps({"messages": messages(*pair), **scores}) for pair in texts]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    return open_dataset(tmp_path / "rows.jsonl")


def label(dataset: Dataset) -> tuple[int, int]:
    pool = open_pool(dataset)
    return len(pool.dialogues), pool.samples - len(pool.dialogues)


def distill(dataset: Dataset) -> tuple[int, int]:
    judged = read_judged(dataset, at_least=1)
    assert judged.rows.tolist() == [0, 1, 3]
    return len(judged), judged.left_out


def evaluate(dataset: Dataset) -> tuple[int, int]:
    found = read_eval_set(dataset)
    assert found.left_out == {"invalid_text": 1}
    return len(found), 1


def agreement(dataset: Dataset) -> tuple[int, int]:
    samples = list(read_samples(dataset))
    return sum(s.dialogue is not None for s in samples), sum(s.reason == "invalid_text" for s in samples)


def train_online(dataset: Dataset) -> tuple[int, int]:
    found = RowDialogues(dataset, "each", None, np.arange(len(dataset)))(range(len(dataset)))
    return sum(map(len, found)), found.count([])


def everything(dataset: Dataset) -> tuple[int, int]:
    return len(all_dialogues(dataset)), len(dataset) - len(all_dialogues(dataset))


READERS: list[Callable[[Dataset], tuple[int, int]]] = [label, distill, evaluate, agreement, train_online, everything]


@pytest.mark.parametrize("reader", READERS)
def test_a_damaged_row_is_left_out_and_counted_as_by_score(reader: Any, damaged: Dataset) -> None:
    plain = damaged.remove_columns(["sensibility", "rationality"])
    statuses = EmpathyDataSelector("linear", show_progress=False).score(plain)["score_status"]
    assert statuses[BAD] == "invalid_text"
    assert reader(damaged) == (statuses[:].count("scored"), 1)


def test_a_damaged_row_is_of_no_conversation_that_is_held_out(damaged: Dataset) -> None:
    """It begins as the row before it does, and may be on the other side all the same: nobody reads it."""
    rows = damaged.add_column("row", np.arange(len(damaged)))
    sides = [
        {row in part["row"] for row in (BAD - 1, BAD)}
        for seed in range(20)
        for part in [apart(rows, 0.5, seed)["test"]]
    ]
    assert {True, False} in sides


def test_all_dialogues_takes_every_reply_selected_or_not() -> None:
    test = load_sample("test")
    found = all_dialogues(test)
    replies = [m["content"] for messages in test["messages"] for m in messages if m["role"] == "assistant"]
    assert [completion[0]["content"] for completion in found["completion"]] == replies
    assert len(all_dialogues(test, "last")) == len(test)
