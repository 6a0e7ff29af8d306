"""Weights by listener turn: each turn's tokens count by that turn's own weight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import online_runs as runs
import pyarrow.parquet as pq
import pytest
import torch
from sent_scorers import Lengths
from torch.nn import functional as F

from ee_trl import EmpathyCallback, EmpathyDataSelector, EmpathySFTTrainer, load_sample
from ee_trl.errors import ScoresError, TrainingError


pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of the libraries
    pytest.mark.usefixtures("no_pictures"),
]

ROWS = 20
TURN = {"granularity": "turn"}
ASSISTANT = {"assistant_only_loss": True, "max_length": 400}
CASES: dict[str, dict[str, Any]] = {
    "assistant_only": {},
    "all_tokens": {"assistant_only_loss": False},
    "padding_free_ragged": {"padding_free": True, "max_length": None, "gradient_accumulation_steps": 5},
    "cut_at_the_end": {"max_length": 50},
    "cut_at_the_start": {"max_length": 50, "truncation_mode": "keep_end"},
    "dft": {"loss_type": "dft"},
    "bfd": {"packing": True, "packing_strategy": "bfd", "max_length": 200},
    "bfd_split": {"packing": True, "packing_strategy": "bfd_split", "max_length": 64, "shuffle_dataset": True},
    "wrapped": {"packing": True, "packing_strategy": "wrapped", "max_length": 64},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return runs.build_model(tmp_path_factory.mktemp("model"))


def talks(n: int = ROWS) -> Any:
    """Conversations of several listener turns, without scores."""
    data = load_sample()
    several = [i for i, m in enumerate(data["messages"]) if sum(t["role"] == "assistant" for t in m) > 1]
    return data.select(several[:n])


def guided(model: str, policy: Any, data: Any = None, online: Any = None, **settings: Any) -> Any:
    online = {**TURN, "ahead": False, **(online or {})}
    return runs.guided(model, talks() if data is None else data, policy, online=online, **ASSISTANT | settings)


def runs_of(labels: list[int]) -> list[tuple[int, int]]:
    """Where the labels count, run by run: TRL's own mask of the assistant's tokens."""
    counts = np.concatenate([[0], np.array(labels) != -100, [0]]).astype(int)
    return list(zip(np.flatnonzero(np.diff(counts) > 0), np.flatnonzero(np.diff(counts) < 0), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_weights_of_one_change_no_bit(name: str, model: str) -> None:
    settings = ASSISTANT | CASES[name]
    expected = runs.trained(runs.stock(model, talks(), **settings))
    trainer = guided(model, runs.ones, **CASES[name])
    assert torch.equal(runs.trained(trainer), expected)
    assert trainer.empathy_weights.table is not None
    assert len(trainer.empathy_weights.table) > 2 * ROWS
    if name in ("assistant_only", "bfd_split"):
        random = runs.trained(guided(model, runs.random_weights, **CASES[name]))
        assert not torch.equal(random, expected)


@pytest.mark.parametrize("name", ["assistant_only", "padding_free_ragged", "dft", "bfd", "bfd_split", "wrapped"])
def test_a_weight_of_zero_is_that_turn_masked(name: str, model: str) -> None:
    """The second turn of every conversation, bit for bit, found by TRL's own mask."""
    settings = ASSISTANT | CASES[name] | {"shuffle_dataset": False}
    unpacked = {k: v for k, v in settings.items() if "packing" not in k} | {"max_length": None}
    tokens = runs.stock(model, talks(), **unpacked).train_dataset

    def masked(row: dict[str, Any]) -> dict[str, Any]:
        start, end = runs_of(row["labels"])[1]
        return {"labels": [*row["labels"][:start], *[-100] * (end - start), *row["labels"][end:]]}

    settings = settings if settings.get("packing") else unpacked
    rows, plain = tokens.map(masked).select_columns(["input_ids", "labels"]), {"assistant_only_loss": False}
    expected = runs.trained(runs.stock(model, rows, **settings | plain))

    def policy(scores: np.ndarray, losses: np.ndarray, progress: float) -> Any:
        turns = trainer.empathy_callback.turns
        weights = np.ones(len(scores))
        weights[turns.first[:-1] + 1] = 0
        return None, weights

    trainer = runs.guided(model, talks(), policy, online=TURN | {"ahead": False}, **settings)
    assert torch.equal(runs.trained(trainer), expected)


@pytest.mark.parametrize("everything", [False, True])
def test_the_loss_is_the_weighted_mean_over_the_tokens_of_each_turn(everything: bool, tmp_path: Path) -> None:
    model = str(runs.build_tiny_causal_lm(tmp_path, hidden_size=32, num_hidden_layers=1, vocab_size=600))
    settings = {"train_sampling_strategy": "sequential", "max_steps": 1, "assistant_only_loss": not everything}
    trainer = guided(model, runs.random_weights, **settings)
    turns = trainer.empathy_callback.turns
    weights = runs.random_weights(np.zeros((len(turns.row), 2)), np.zeros(0), 0.0)[1]
    stock = runs.stock(model, talks(), **ASSISTANT | {"assistant_only_loss": True}).train_dataset
    above, below = 0.0, 0.0
    for i in range(6):  # a step
        ids, labels = (torch.tensor(trainer.train_dataset[i][name]) for name in ("input_ids", "labels"))
        losses = F.cross_entropy(trainer.model(ids[None]).logits[0, :-1], ids[1:], reduction="none").tolist()
        ends = [end for _, end in runs_of(stock[i]["labels"])]
        for place in range(1, len(ids)):
            if labels[place] != -100:
                turn = min(sum(place >= end for end in ends), len(ends) - 1)
                if everything and place in (ends[turn - 1], ends[turn - 1] + 1):
                    continue_at = turns.first[i] + turn  # checked below: the tokens between two turns
                    assert trainer.train_dataset[i]["empathy_ids"][place] in (continue_at - 1, continue_at)
                unit = trainer.train_dataset[i]["empathy_ids"][place]
                if not everything:
                    assert unit == turns.first[i] + turn
                above += weights[unit] * losses[place - 1]
                below += weights[unit]
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(above / below, rel=1e-5)


THINKS = (  # shows thoughts in the last turn alone, so that no conversation begins as its longer ones do
    "{% for m in messages %}<{{ m.role }}>{% if loop.last and m.role == 'assistant' %}<think></think>{% endif %}"
    "{{ m.content | trim }}</s>{% endfor %}"
)


def test_turns_are_found_without_a_mask_whatever_the_template_does(model: str) -> None:
    from transformers import AutoTokenizer
    from trl import SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = THINKS
    trainer = SFTTrainer(model, args=runs.config(max_length=None), train_dataset=talks(), processing_class=tokenizer)
    EmpathyDataSelector("linear").attach(trainer, runs.ones, ahead=False, **TURN)
    for row, messages in zip(trainer.train_dataset, talks()["messages"], strict=True):
        own = np.array(row["empathy_ids"])
        replies = [m["content"] for m in messages if m["role"] == "assistant"]
        for reply, unit in zip(replies, np.unique(own), strict=True):
            said = tokenizer.decode(np.array(row["input_ids"])[own == unit])
            assert reply.strip() in said
            assert [other for other in replies if other in said] == [reply]


def test_rows_of_one_turn_are_numbered_too(model: str) -> None:
    """The column has one type, whatever the first rows are."""
    data = load_sample().select(range(64))
    assert {sum(m["role"] == "assistant" for m in messages) for messages in data["messages"]} > {1, 2}
    trainer = guided(model, runs.ones, data, max_length=512)
    numbers = [unit for row in trainer.train_dataset["empathy_ids"] for unit in dict.fromkeys(row)]
    assert numbers == list(range(len(trainer.empathy_callback.scores)))
    assert trainer.empathy_callback.units.rows[-1] == 63


@pytest.mark.parametrize("ahead", [False, True])
def test_each_turn_has_its_own_score_loss_and_draws(ahead: bool, model: str, tmp_path: Path) -> None:
    expected = EmpathyDataSelector(Lengths(), store=False).score(talks())
    trainer = runs.stock(model, talks(), output_dir=tmp_path, **ASSISTANT | {"max_steps": -1, "num_train_epochs": 1})
    selector = EmpathyDataSelector(Lengths(), store=False)
    callback = selector.attach(trainer, "gate", keep=["sensibility", "low"], ahead=ahead, **TURN)
    trainer.train()
    found = pq.read_table(tmp_path / "empathy_draws.parquet").to_pydict()
    assert (found["row"], found["turn"]) == (expected["row_index"][:], expected["turn"][:])
    known = [i for i, score in enumerate(found["sensibility"]) if score is not None]
    assert len(known) == len(found["row"]) or ahead
    assert [found["sensibility"][i] for i in known] == [expected["sensibility"][i] for i in known]
    assert len(set(found["last_loss"])) > ROWS
    assert callback.diary.records.draws.sum() > ROWS


def test_a_resumed_training_goes_the_same_way(model: str, tmp_path: Path) -> None:
    def policy(scores: np.ndarray, losses: np.ndarray, progress: float) -> Any:
        return runs.losses_decide(np.nan_to_num(scores, nan=5.0), losses, progress)

    def make(name: str) -> Any:
        saving = {"output_dir": tmp_path / name, "save_strategy": "steps", "save_steps": 2, "max_steps": 6}
        return guided(model, policy, online={"ahead": True}, **saving)

    whole = runs.trained(make("whole"))
    resumed = runs.trained(make("again"), resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert torch.equal(resumed, whole)


def test_scores_and_weights_may_be_lists_with_one_for_each_turn(model: str) -> None:
    data = talks()
    counts = [sum(m["role"] == "assistant" for m in messages) for messages in data["messages"]]
    lists = [[float(1 + i) for i in range(n)] for n in counts]
    flat = [value for part in lists for value in part]
    scored = data.add_column("sensibility", lists).add_column("rationality", lists)
    callback = guided(model, runs.ones, scored).empathy_callback
    assert callback.scores.tolist() == [[value, value] for value in flat]
    by_list = guided(model, "column", data.add_column("w", lists), {"column": "w"})
    by_list.train()
    np.testing.assert_allclose(by_list.empathy_weights.table.numpy(), flat)
    by_row = guided(model, "column", data.add_column("w", [2.0] * ROWS), {"column": "w"})
    assert by_row.empathy_callback.policy(None, None, 0)[1].tolist() == [2.0] * len(flat)
    whole = data.add_column("sensibility", [5.0] * ROWS).add_column("rationality", [5.0] * ROWS)
    with pytest.raises(ScoresError, match="row 0 has 1 for 2 turns. Give a list for each row, or leave the scores"):
        guided(model, runs.ones, whole)


def test_what_has_no_turns_is_refused(model: str) -> None:
    selector, data = EmpathyDataSelector("linear"), talks()
    with pytest.raises(TrainingError, match="unknown granularity 'turns'; valid: sample, turn"):
        selector.attach(runs.stock(model, data), runs.ones, granularity="turns")
    for more in ({"dataset": data}, {"trainer": runs.stock(model, data), "dataset": data}):
        with pytest.raises(TrainingError, match="needs the trainer, and the dialogues in its own rows"):
            EmpathyCallback(selector, runs.ones, **TURN, **more)
    tokens = runs.stock(model, data).train_dataset.map(lambda row: {"input_ids": row["input_ids"][::-1]})
    trainer = runs.stock(model, tokens)
    with pytest.raises(TrainingError, match="tokens of row 0 are not those that the chat template makes"):
        selector.attach(trainer, runs.ones, **TURN)
    selector.attach(trainer, runs.ones)
    more = {"args": runs.config(packing=True), "selector": selector, "policy": runs.ones, "online": TURN}
    with pytest.raises(TrainingError, match="tokens of row 0"):
        EmpathySFTTrainer(model, train_dataset=tokens, **more)


@pytest.mark.slow
def test_weights_of_one_change_no_bit_in_two_processes_while_turns_are_scored(model: str, tmp_path: Path) -> None:
    settings = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "max_steps": 8}
    case = {"model": model, "unscored": True, "settings": settings, "rows": ROWS}
    expected = runs.torchrun({**case, "policy": None, "out": str(tmp_path / "stock.pt")})
    found = runs.torchrun({**case, "policy": "ones", "online": TURN, "out": str(tmp_path / "ones.pt")})
    assert torch.equal(found["parameters"], expected["parameters"])
    assert found["orders"] == [found["order"]] * 2
