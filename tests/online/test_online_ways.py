"""Three ways in, one behaviour; what is refused, and what is written down."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import online_runs as runs
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, DatasetDict
from transformers import TrainingArguments
from trl import SFTTrainer

from ee_trl import EmpathyCallback, EmpathyDataSelector, EmpathySFTTrainer, quadrants
from ee_trl.axes import QUADRANTS
from ee_trl.errors import EmpathyError, ScoresError, SelectionError, TrainingError
from ee_trl.online.checks import check_alone


pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of the libraries
    pytest.mark.usefixtures("no_pictures"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return runs.build_model(tmp_path_factory.mktemp("model"))


def sampling(scores: np.ndarray, losses: np.ndarray, progress: float) -> Any:
    return np.exp(scores[:, 0] * progress), None


# ---- the ways ------------------------------------------------------------------------------------------------------


def test_all_ways_in_draw_the_same(model: str) -> None:
    data, selector = runs.rows(), EmpathyDataSelector("linear")
    expected = runs.trained(runs.guided(model, data, sampling))

    def idiom() -> Any:
        trainer = runs.stock(model, data)
        trainer.add_callback(EmpathyCallback(selector, sampling, trainer=trainer))
        return trainer

    def own() -> Any:
        return EmpathySFTTrainer(model, args=runs.config(), train_dataset=data, selector=selector, policy=sampling)

    def alone() -> Any:
        callbacks = [EmpathyCallback(selector, sampling, dataset=data)]
        return SFTTrainer(model, args=runs.config(), train_dataset=data, callbacks=callbacks)

    for way in (idiom, own, alone):
        trainer = way()
        assert torch.equal(runs.trained(trainer), expected), way
    assert type(trainer) is SFTTrainer
    assert not torch.equal(expected, runs.trained(runs.stock(model, data)))


def test_a_policy_without_an_opinion_leaves_the_stock_training(model: str) -> None:
    expected = runs.trained(runs.stock(model, runs.rows()))
    nothing = runs.guided(model, runs.rows(), lambda scores, losses, progress: (None, None))
    assert torch.equal(runs.trained(nothing), expected)
    warm = runs.guided(model, runs.rows(), runs.losses_decide, online={"warmup": 1.0})
    assert torch.equal(runs.trained(warm), expected)
    alone = runs.stock(model, runs.rows())
    alone.add_callback(EmpathyCallback(EmpathyDataSelector("linear"), runs.ones, dataset=runs.rows()))
    assert torch.equal(runs.trained(alone), expected)


def test_only_the_samples_chosen_are_drawn_and_no_others_count_even_if_fetched_already(model: str) -> None:
    def policy(scores: np.ndarray, losses: np.ndarray, progress: float) -> Any:
        return None if progress < 0.4 else (scores[:, 0] > 5).astype(float), None

    trainer = runs.guided(model, runs.rows(), policy, dataloader_num_workers=2)
    callback = trainer.empathy_callback
    trainer.train()
    records, chosen = callback.diary.records, callback.scores[:, 0] > 5
    late = [entry for entry in callback.diary.history if entry["progress"] > 0.4]
    assert late[0]["effective_sample_size"] < late[0]["draws"]  # what the workers had fetched counts with weight 0
    assert late[-1]["draws"] == late[-1]["effective_sample_size"]
    assert records.draws[chosen].sum() > records.draws[~chosen].sum()
    assert np.nanmin(records.mean_weight()[~chosen]) < 1
    assert np.nanmin(records.mean_weight()[chosen]) == 1


def test_packed_rows_are_drawn_by_the_mean_of_their_tokens(model: str) -> None:
    def policy(scores: np.ndarray, losses: np.ndarray, progress: float) -> Any:
        return (np.arange(len(scores)) < 5).astype(float), None

    settings = {"packing": True, "packing_strategy": "wrapped", "max_length": 64, "shuffle_dataset": False}
    trainer = runs.guided(model, runs.rows(), policy, **settings)
    callback = trainer.empathy_callback
    trainer.train()
    packed = trainer.train_dataset["empathy_ids"][:]
    expected = [np.mean([sample < 5 for sample in row]) for row in packed]
    np.testing.assert_allclose(callback.plan.weights, expected)
    with_chosen = {i for i, share in enumerate(expected) if share > 0}
    assert set(callback.plan.order.tolist()) <= with_chosen
    weights = callback.diary.records.mean_weight()
    assert (weights[:5][~np.isnan(weights[:5])] == 1).all()
    assert not np.nansum(weights[5:])
    assert len(trainer.empathy_samples) == len(callback.scores) == runs.ROWS


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_drawn_is_what_the_plan_says_however_often_it_changes(workers: int, model: str) -> None:
    trainer = runs.guided(model, runs.rows(), runs.losses_decide, max_steps=4, dataloader_num_workers=workers)
    trainer.train()
    callback = trainer.empathy_callback
    drawn = np.bincount(callback.plan.order, minlength=runs.ROWS)
    np.testing.assert_array_equal(callback.diary.records.draws, drawn)
    assert drawn.max() > 1


# ---- scores --------------------------------------------------------------------------------------------------------


def attached(model: str, data: Dataset, selector: Any = None, **settings: Any) -> Any:
    trainer = runs.stock(model, data, **settings)
    return trainer, (selector or EmpathyDataSelector("linear"))


def test_rows_without_scores_are_scored_by_the_mean_of_their_turns(model: str, word_scorer: Any) -> None:
    data = runs.rows().remove_columns(["sensibility", "rationality"])
    selector = EmpathyDataSelector(word_scorer)
    trainer, _ = attached(model, data)
    before = torch.random.get_rng_state()
    callback = selector.attach(trainer, runs.ones, ahead=False)
    assert torch.equal(torch.random.get_rng_state(), before)
    scored = selector.score(data)
    for row in range(len(data)):
        own = [i for i, index in enumerate(scored["row_index"]) if index == row]
        expected = [np.mean([scored[axis][i] for i in own]) for axis in ("sensibility", "rationality")]
        np.testing.assert_allclose(callback.scores[row], expected)


def test_texts_are_scored_without_the_token_that_trl_appends(model: str) -> None:
    class Length:
        fingerprint = "length-1"

        def score(self, dialogues: Any) -> np.ndarray:
            return np.array([[len(d.response) / 10, 1.0] for d in dialogues])

    data = Dataset.from_dict({"prompt": ["How are you?", "Hello."], "completion": ["Fine.", "Hello to you."]})
    callback = EmpathyDataSelector(Length()).attach(runs.stock(model, data), runs.ones, ahead=False)
    np.testing.assert_allclose(callback.scores[:, 0], [0.5, 1.3])
    later = EmpathyDataSelector(Length()).attach(runs.stock(model, data), runs.ones)
    assert [d.response for [d] in later.ahead.look._dialogues_of([1, 0])] == ["Hello to you.", "Fine."]


def test_rows_that_bring_scores_keep_them_and_the_others_are_scored(model: str, word_scorer: Any) -> None:
    data = runs.rows()
    given = np.array(data["sensibility"][:])
    given[[2, 5, 9]] = np.nan
    status = ["scored"] * runs.ROWS
    status[2], status[5] = None, "too_long_for_scorer"
    data = data.remove_columns(["sensibility"]).add_column("sensibility", given).add_column("score_status", status)
    selector = EmpathyDataSelector(word_scorer)
    callback = selector.attach(runs.stock(model, data), runs.ones, ahead=False)
    expected = selector.score(data.select([2]).select_columns(["messages"]))["sensibility"][:]
    assert callback.scores[2, 0] == pytest.approx(np.mean(expected))
    assert np.isnan(callback.scores[5]).all(), "a reason for having none is not asked again"
    assert not np.isnan(callback.scores[9]).any()
    rest = np.setdiff1d(np.arange(runs.ROWS), [2, 5, 9])
    np.testing.assert_array_equal(callback.scores[rest, 0], given[rest])
    later = selector.attach(runs.stock(model, data), runs.ones)
    assert np.flatnonzero(later.ahead.pending).tolist() == [2, 9]
    tokens = runs.stock(model, data).train_dataset.remove_columns(["messages"])
    assert selector.attach(runs.stock(model, tokens), runs.ones).ahead is None


def test_rows_that_trl_drops_are_counted_and_said(model: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    data = runs.rows(form="prompt_completion")
    trainer = runs.stock(model, data, max_length=60)
    left = len(trainer.train_dataset)
    assert 0 < left < runs.ROWS
    callback = EmpathyDataSelector("linear").attach(trainer, runs.ones)
    assert len(callback.scores) == left
    said = [record for record in caplog.records if f"TRL left out {runs.ROWS - left}" in record.message]
    assert [record.levelname for record in said] == ["WARNING"], "in a plain script too"
    trainer.train()


def test_rows_as_tokens_take_their_scores_from_the_rows_they_were_made_from(model: str) -> None:
    data = runs.rows().add_column("name", [f"row {i}" for i in range(runs.ROWS)])
    tokens = runs.stock(model, data).train_dataset.select_columns(["input_ids", "labels", "name"])
    selector = EmpathyDataSelector("linear")
    with pytest.raises(ScoresError, match="dataset="):
        selector.attach(runs.stock(model, tokens), runs.ones)
    callback = selector.attach(runs.stock(model, tokens), runs.ones, dataset=data)
    np.testing.assert_array_equal(callback.scores[:, 0], data["sensibility"][:])
    part = tokens.select([7, 3, 5])
    with pytest.raises(TrainingError, match="has 3 rows, the given data set 20"):
        selector.attach(runs.stock(model, part), runs.ones, dataset=data)
    callback = selector.attach(runs.stock(model, part), runs.ones, dataset=data, index="name")
    assert callback.scores[:, 1].tolist() == [data["rationality"][i] for i in (7, 3, 5)]
    with pytest.raises(TrainingError, match="no column 'number'"):
        selector.attach(runs.stock(model, part), runs.ones, dataset=data, index="number")
    with pytest.raises(TrainingError, match="shuffle_dataset"):
        selector.attach(runs.stock(model, tokens, shuffle_dataset=True), runs.ones, dataset=data)


class NoScorer:
    fingerprint = "none-1"

    def score(self, dialogues: Any) -> np.ndarray:
        raise AssertionError("a policy with its own weights needs no scores")


@pytest.mark.parametrize("packing", [False, True])
def test_weights_come_from_a_column(packing: bool, model: str) -> None:
    """As a policy that gives the same numbers; nothing is scored."""
    weights = np.random.default_rng(1).uniform(0, 3, runs.ROWS)
    settings = {"packing": packing, "max_length": 128}
    expected = runs.trained(runs.guided(model, runs.rows(), lambda *_: (None, weights), **settings))
    data = runs.rows().remove_columns(["sensibility", "rationality"]).add_column("how much", weights)
    selector, online = EmpathyDataSelector(NoScorer()), {"column": "how much"}
    if packing:
        more = {"selector": selector, "policy": "column", "online": online}
        trainer = EmpathySFTTrainer(model, args=runs.config(**settings), train_dataset=data, **more)
    else:
        trainer = runs.stock(model, data, **settings)
        selector.attach(trainer, "column", **online)
    assert torch.equal(runs.trained(trainer), expected)
    assert trainer.empathy_callback.ahead is None


def test_draws_come_from_a_column(model: str) -> None:
    data = runs.rows().add_column("often", [float(i < 5) for i in range(runs.ROWS)])
    trainer = runs.guided(model, data, "column", online={"column": "often", "weigh": "sampling"})
    trainer.train()
    records = trainer.empathy_callback.diary.records
    assert records.draws[:5].sum() == records.draws.sum() > 0
    alone = runs.stock(model, data)
    alone.add_callback(
        EmpathyCallback(EmpathyDataSelector(NoScorer()), "column", dataset=data, column="often", weigh="sampling")
    )
    alone.train()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            [1.0, None],
            "1 of 20 values in column 'w' are not finite numbers of at least 0; the first is None of sample 1",
        ),
        ([1.0, float("nan")], "the first is nan of sample 1"),
        ([1.0, -2.0], "the first is -2.0 of sample 1. A weight of 0 leaves a sample out"),
        (["1", "2"], "20 of 20 values .* the first is '1'"),
        ([True, False], "the first is True"),
        ([0.0, 0.0], "the weights in column 'w' are all 0"),
    ],
)
def test_a_column_that_is_no_weight_is_refused_when_attached(values: list[Any], message: str, model: str) -> None:
    data = runs.rows().add_column("w", values + values[:1] * (runs.ROWS - 2))
    with pytest.raises(SelectionError, match=message):
        runs.guided(model, data, "column", online={"column": "w"})


def test_a_column_that_is_not_there_is_refused_when_attached(model: str) -> None:
    data = runs.rows().add_column("weight", [1.0] * runs.ROWS)
    with pytest.raises(ScoresError, match="unknown column of the data set 'wieght'; .*Did you mean 'weight'"):
        runs.guided(model, data, "column", online={"column": "wieght"})
    with pytest.raises(SelectionError, match="needs the name of a column: policy='column', column='weight'"):
        runs.guided(model, data, "column")


# ---- refusals ------------------------------------------------------------------------------------------------------


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "packed": ({"packing": True, "max_length": 64}, "EmpathySFTTrainer"),
    "label_smoothing": ({"label_smoothing_factor": 0.1}, "label_smoothing_factor"),
    "batch_rebalance": ({"train_sampling_strategy": "batch_rebalance"}, "batch_rebalance"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_exact_is_refused_by_name(name: str, model: str) -> None:
    settings, message = REFUSED[name]
    trainer = runs.stock(model, runs.rows(), **settings)
    own = type(trainer)
    with pytest.raises(TrainingError, match=message):
        EmpathyDataSelector("linear").attach(trainer, runs.ones)
    assert type(trainer) is own


def test_other_trainers_losses_and_data_are_refused_by_name(model: str) -> None:
    selector, data = EmpathyDataSelector("linear"), runs.rows()
    with pytest.raises(TrainingError, match="object is not an SFTTrainer"):
        selector.attach(object(), runs.ones)
    more = {"compute_loss_func": lambda outputs, labels, num_items_in_batch=None: outputs.logits.sum()}
    with pytest.raises(TrainingError, match="compute_loss_func"):
        selector.attach(SFTTrainer(model, args=runs.config(), train_dataset=data, **more), runs.ones)
    stream = runs.stock(model, data.to_iterable_dataset())
    with pytest.raises(TrainingError, match="stream"):
        selector.attach(stream, runs.ones)
    trainer = runs.guided(model, data, runs.ones)
    with pytest.raises(TrainingError, match="already"):
        selector.attach(trainer, runs.ones)
    for flag, kind in (("cp_enabled", "context"), ("sp_enabled", "sequence")):
        trainer = runs.stock(model, data)
        trainer.accelerator.state.parallelism_config = type("Parallel", (), {flag: True})()
        with pytest.raises(TrainingError, match=kind):
            selector.attach(trainer, runs.ones)
        trainer.accelerator.state.parallelism_config = None
    trainer._is_vision_dataset = True
    with pytest.raises(TrainingError, match="images"):
        selector.attach(trainer, runs.ones)


def test_a_loss_that_goes_past_the_weights_is_found_out(model: str) -> None:
    class Other(SFTTrainer):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            return model(**inputs).loss

    trainer = Other(model, args=runs.config(), train_dataset=runs.rows())
    EmpathyDataSelector("linear").attach(trainer, runs.ones)
    with pytest.raises(TrainingError, match=r"call super\(\)\.compute_loss"):
        trainer.train()


def test_a_callback_that_was_never_added_is_found_out(model: str) -> None:
    trainer = runs.stock(model, runs.rows())
    EmpathyCallback(EmpathyDataSelector("linear"), runs.ones, trainer=trainer)
    with pytest.raises(TrainingError, match=r"trainer\.add_callback"):
        trainer.train()


def needy(scores: np.ndarray, losses: np.ndarray, progress: float) -> Any:
    return None, None


needy.needs_losses = True  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("policy", "settings", "message"),
    [
        (runs.random_weights, {}, r"loss weights.*selector\.attach\(trainer"),
        (needy, {}, r"needs the samples' losses.*selector\.attach\(trainer"),
        (sampling, {"packing": True, "max_length": 64}, "EmpathySFTTrainer"),
        (sampling, {"shuffle_dataset": True}, "shuffle_dataset"),
        (sampling, {"train_sampling_strategy": "group_by_length"}, "group_by_length"),
        (sampling, {"max_length": 60, "form": "prompt_completion"}, "TRL drops rows"),
    ],
)
def test_a_callback_alone_says_what_it_cannot_do(policy: Any, settings: Any, message: str, model: str) -> None:
    data = runs.rows(form=settings.get("form", "messages"))
    trainer = runs.stock(model, data, **{name: value for name, value in settings.items() if name != "form"})
    trainer.add_callback(EmpathyCallback(EmpathyDataSelector("linear"), policy, dataset=data))
    with pytest.raises(TrainingError, match=message):
        trainer.train()


def test_a_callback_alone_in_another_trainer_or_with_a_stream_is_refused(model: str) -> None:
    data = runs.rows()
    args = TrainingArguments(tempfile.mkdtemp(), use_cpu=True, max_steps=1, report_to="none")
    callback = EmpathyCallback(EmpathyDataSelector("linear"), sampling, dataset=data)
    with pytest.raises(TrainingError, match="arguments are TrainingArguments, not the SFTConfig"):
        check_alone(args, sampling, data)
    trainer = runs.stock(model, data.to_iterable_dataset())
    trainer.add_callback(callback)
    with pytest.raises(TrainingError, match="is a stream"):
        trainer.train()
    others = {
        "is a DatasetDict.*its splits: 'train'": DatasetDict(train=data),
        "is a IterableDataset": data.to_iterable_dataset(),
        "is a str.*load_dataset": "x.parquet",
    }
    for message, dataset in others.items():
        with pytest.raises(TrainingError, match=message):
            EmpathyCallback(EmpathyDataSelector("linear"), sampling, dataset=dataset)  # type: ignore[arg-type]


def test_rows_in_another_order_are_refused_at_equal_length(model: str) -> None:
    data, selector = runs.rows(), EmpathyDataSelector("linear")
    other = data.shuffle(seed=1)
    trainer = runs.stock(model, other)
    trainer.add_callback(EmpathyCallback(selector, sampling, dataset=data))
    with pytest.raises(TrainingError, match="in another order"):
        trainer.train()
    with pytest.raises(TrainingError, match="in another order"):
        selector.attach(runs.stock(model, other), sampling, dataset=data)
    tokens = runs.stock(model, other).train_dataset.select_columns(["input_ids", "labels"])
    with pytest.raises(TrainingError, match="in another order"):
        selector.attach(runs.stock(model, tokens), sampling, dataset=data)
    selector.attach(runs.stock(model, tokens), sampling, dataset=other)
    with_system = [[{"role": "system", "content": "Be kind."}, *m] for m in data["messages"]]
    selector.attach(runs.stock(model, Dataset.from_dict({"messages": with_system})), sampling, dataset=data)


def test_packed_evaluation_data_are_none_of_the_samples(model: str) -> None:
    args = runs.config(packing=True, max_length=64, eval_packing=True)
    more = {"train_dataset": runs.rows(), "eval_dataset": {"train": runs.rows(5), "test": runs.rows(4)}}
    trainer = EmpathySFTTrainer(model, args=args, selector=EmpathyDataSelector("linear"), policy=runs.ones, **more)
    assert len(trainer.empathy_samples) == runs.ROWS


def test_mistyped_options_are_told_the_valid_ones_before_anything_is_done(model: str) -> None:
    selector = EmpathyDataSelector("linear")
    with pytest.raises(SelectionError, match="'warm_up'; valid: keep, .*Did you mean 'warmup'"):
        EmpathyCallback(selector, "soft", dataset=runs.rows(), warm_up=3)
    for name in ("on_failure", "behind"):
        with pytest.raises(TrainingError, match=f"unknown {name} 'go'"):
            EmpathyCallback(selector, dataset=runs.rows(), **{name: "go"})


def test_a_callback_without_trainer_or_rows_is_refused() -> None:
    with pytest.raises(TrainingError, match="dataset=train"):
        EmpathyCallback(EmpathyDataSelector("linear"), sampling)
    with pytest.raises(EmpathyError):
        EmpathyCallback(EmpathyDataSelector("linear"), 7, dataset=runs.rows())  # type: ignore[arg-type]


def test_an_answer_that_is_wrong_ends_the_training_with_its_reason(model: str) -> None:
    def policy(scores: np.ndarray, losses: np.ndarray, progress: float) -> Any:
        return None, losses  # NaN before anything was seen

    with pytest.raises(SelectionError, match="'policy' are not finite"):
        runs.guided(model, runs.rows(), policy).train()


# ---- figures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["attached", "alone"])
def test_what_was_drawn_is_logged_and_written_down(way: str, model: str, tmp_path: Path) -> None:
    settings = {"output_dir": tmp_path, "logging_steps": 2, "max_steps": -1, "num_train_epochs": 2}
    if way == "attached":
        trainer = runs.guided(model, runs.rows(), runs.random_weights, **settings)
    else:
        trainer = runs.stock(model, runs.rows(), **settings)
        trainer.add_callback(EmpathyCallback(EmpathyDataSelector("linear"), runs.ones, dataset=runs.rows()))
    trainer.train()
    table = pq.read_table(tmp_path / "empathy_draws.parquet").to_pydict()
    assert table["draws"] == [2] * runs.ROWS
    data = runs.rows()
    names = quadrants(data["sensibility"][:], data["rationality"][:]).tolist()
    assert table["quadrant"] == names
    history = json.loads((tmp_path / "empathy_history.json").read_text())
    assert (tmp_path / "empathy_report.md").exists()
    assert [entry["step"] for entry in history] == [2, 4, 6, 8]
    draws = sum(entry["draws"] for entry in history)
    assert draws == 2 * runs.ROWS
    for name in set(names):
        share = sum(entry["shares"][name] * entry["draws"] for entry in history) / draws
        assert share == pytest.approx(names.count(name) / runs.ROWS)
    logged = [entry for entry in trainer.state.log_history if "empathy/mean_weight" in entry]
    if way == "alone":
        assert not logged
        assert set(table["mean_loss"]) == {None}
        return
    weights = runs.random_weights(np.zeros((runs.ROWS, 2)), np.zeros(runs.ROWS), 0.0)[1]
    np.testing.assert_allclose(table["mean_weight"], weights, rtol=1e-6)
    assert np.mean(table["last_loss"]) < np.mean(table["first_loss"])
    np.testing.assert_allclose(np.add(table["first_loss"], table["last_loss"]) / 2, table["mean_loss"])
    assert [entry["empathy/mean_weight"] for entry in logged] == [entry["mean_weight"] for entry in history]
    assert "empathy/coverage" not in logged[0], "all rows have scores"
    assert 6 < logged[0]["empathy/effective_sample_size"] < 12


def test_only_figures_that_can_differ_are_logged(model: str) -> None:
    """Draws of one quadrant at weights of one: a share that shows it, and nothing else."""

    def logged(policy: Any, online: Any = None) -> set[str]:
        trainer = runs.guided(model, runs.rows(), policy, online=online)
        trainer.train()
        assert all(len(entry["shares"]) == 6 for entry in trainer.empathy_callback.diary.history)
        return {name for entry in trainer.state.log_history for name in entry if name.startswith("empathy/")}

    assert logged("sensibility") == {"empathy/share_sensibility"}
    quadrant = {f"empathy/{kind}_{name}" for kind in ("share", "loss") for name in QUADRANTS}
    assert logged(runs.ones) == quadrant
    assert logged("soft", {"weigh": "loss"}) == quadrant | {"empathy/mean_weight", "empathy/effective_sample_size"}
