"""The weighted loss is exact: weights of 1 change no bit, a weight of 0 is a mask, any others a weighted mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import online_runs as runs
import pytest
import torch
from datasets import Dataset
from torch.nn import functional as F
from trl import SFTTrainer

from ee_trl import EmpathyDataSelector, EmpathySFTTrainer


pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of the libraries
    pytest.mark.usefixtures("no_pictures"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return runs.build_model(tmp_path_factory.mktemp("model"))


def lora() -> Any:
    from peft import LoraConfig

    return LoraConfig(r=4, target_modules=["q_proj", "v_proj"])


PACKED = {"packing": True, "max_length": 64}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "no_accumulation": {"gradient_accumulation_steps": 1},
    "ragged_accumulation": {"gradient_accumulation_steps": 5},
    "padding_free": {"padding_free": True, "max_length": None},
    "padded_to_multiples": {"pad_to_multiple_of": 16},
    "sequential": {"train_sampling_strategy": "sequential"},
    "grouped_by_length": {"train_sampling_strategy": "group_by_length"},
    "completion_only": {"form": "prompt_completion"},
    "assistant_only": {"assistant_only_loss": True},
    "shuffled": {"shuffle_dataset": True},
    "dft": {"loss_type": "dft"},
    "lora": {"peft": lora},
    "bf16": {"bf16": True},
    "checkpointed_activations": {"gradient_checkpointing": True},
    "bfd": {**PACKED, "packing_strategy": "bfd"},
    "bfd_split": {**PACKED, "packing_strategy": "bfd_split", "shuffle_dataset": True},
    "wrapped": {**PACKED, "packing_strategy": "wrapped", "shuffle_dataset": True},
}


def settings_of(name: str) -> tuple[Dataset, dict[str, Any]]:
    settings = dict(CASES[name])
    data = runs.rows(form=settings.pop("form", "messages"))
    if "peft" in settings:
        settings["peft"] = settings["peft"]()
    return data, settings


@pytest.mark.parametrize("name", CASES)
def test_weights_of_one_change_no_bit(name: str, model: str) -> None:
    data, settings = settings_of(name)
    expected = runs.trained(runs.stock(model, data, **settings))
    trainer = runs.guided(model, data, runs.ones, **settings)
    assert torch.equal(runs.trained(trainer), expected)
    assert trainer.empathy_weights.table is not None  # the weights were there, and multiplied
    if name in ("plain", "dft", "wrapped"):
        random = runs.trained(runs.guided(model, data, runs.random_weights, **settings))
        assert not torch.equal(random, expected)


@pytest.mark.parametrize(
    "name", ["plain", "ragged_accumulation", "padding_free", "dft", "bf16", "bfd_split", "wrapped"]
)
def test_a_weight_of_zero_is_a_mask(name: str, model: str) -> None:
    """Bit for bit, on the rows as they were tokenized, with every second one masked."""
    data, settings = settings_of(name)
    unpacked = {k: v for k, v in settings.items() if "packing" not in k} | {"max_length": None}
    tokens = runs.stock(model, data, **unpacked).train_dataset
    tokens = tokens.select_columns(["input_ids", "labels", "sensibility", "rationality"])
    settings = settings if settings.get("packing") else unpacked  # TRL would drop rows that are masked altogether
    settings["shuffle_dataset"] = False
    masked = tokens.map(
        lambda row, i: {"labels": row["labels"] if i % 2 else [-100] * len(row["labels"])}, with_indices=True
    )
    expected = runs.trained(runs.stock(model, masked, **settings))
    assert torch.equal(runs.trained(runs.guided(model, tokens, runs.half_zero, **settings)), expected)


def token_losses(trainer: Any, row: dict[str, Any], loss_type: str = "nll") -> torch.Tensor:
    """The losses of a row's tokens that count, from the plain logits."""
    ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])[1:]
    log_probs = -F.cross_entropy(trainer.model(ids).logits[0, :-1], labels, reduction="none", ignore_index=-100)
    log_probs = log_probs[labels != -100]
    return -log_probs * log_probs.exp().detach() if loss_type == "dft" else -log_probs


def weighted_mean(weights: np.ndarray, losses: list[torch.Tensor]) -> torch.Tensor:
    """sum(w l) / sum(w) over the tokens of the first samples."""
    pairs = list(zip(weights.tolist(), losses, strict=False))
    return sum(w * loss.sum() for w, loss in pairs) / sum(w * len(loss) for w, loss in pairs)


@pytest.mark.parametrize("loss_type", ["nll", "dft"])
@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e4])
def test_the_loss_and_its_gradient_are_the_weighted_mean_over_all_tokens_of_the_step(
    loss_type: str, scale: float, tmp_path: Path
) -> None:
    model = str(runs.build_tiny_causal_lm(tmp_path, hidden_size=32, num_hidden_layers=1, vocab_size=600))
    weights = np.random.default_rng(0).uniform(0, 2, runs.ROWS) * scale
    settings = {
        "train_sampling_strategy": "sequential", "loss_type": loss_type, "max_steps": 1, "optim": "sgd",
        "learning_rate": 1.0, "max_grad_norm": 0.0, "lr_scheduler_type": "constant",
    }  # fmt: skip
    trainer = runs.guided(model, runs.rows(), lambda scores, losses, progress: (None, weights), **settings)
    before = runs.parameters(trainer)
    step = [trainer.train_dataset[i] for i in range(6)]
    losses = [token_losses(trainer, row, loss_type) for row in step]
    expected = weighted_mean(weights, losses)
    expected.backward()
    gradient = torch.cat([p.grad.flatten() for p in trainer.model.parameters()])
    trainer.model.zero_grad()
    after = runs.trained(trainer)
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(before - after, gradient, rtol=1e-3, atol=1e-6)


def test_weights_times_a_power_of_two_change_no_bit(model: str) -> None:
    """Not even where their sum is below the 1 that TRL divides by at least."""

    def policy(factor: float) -> Any:
        return lambda scores, losses, progress: (None, runs.random_weights(scores, losses, 0)[1] * factor)

    expected = runs.trained(runs.guided(model, runs.rows(), policy(1.0)))
    for factor in (2.0**-20, 2.0**9):
        assert torch.equal(runs.trained(runs.guided(model, runs.rows(), policy(factor))), expected)


@pytest.mark.parametrize("name", ["plain", "padding_free", "bfd", "wrapped"])
def test_the_losses_told_to_the_policy_are_those_of_the_samples(name: str, tmp_path: Path) -> None:
    model = str(runs.build_tiny_causal_lm(tmp_path, hidden_size=32, num_hidden_layers=1, vocab_size=600))
    data, settings = settings_of(name)
    if name == "wrapped":
        settings["shuffle_dataset"] = False
    told: list[np.ndarray] = []

    def policy(scores: np.ndarray, losses: np.ndarray, progress: float) -> Any:
        told.append(losses.copy())
        return None, np.ones(len(scores))

    settings |= {"learning_rate": 0.0, "num_train_epochs": 1, "max_steps": -1}
    trainer = runs.guided(model, data, policy, **settings)
    trainer.train()
    assert np.isnan(told[0]).all()
    callback = trainer.empathy_callback
    seen = callback.diary.records
    assert seen.draws.sum() >= runs.ROWS
    if name in ("plain", "padding_free"):
        assert (seen.draws == 1).all()
        rows = trainer.train_dataset
        expected = [token_losses(trainer, rows[i]).mean().item() for i in range(len(rows))]
        np.testing.assert_allclose(seen.last_loss, expected, rtol=1e-5)
    else:  # by hand from the packed rows, token by token
        sums, counts = np.zeros(runs.ROWS), np.zeros(runs.ROWS)
        for row in trainer.train_dataset:
            position = np.concatenate([np.arange(k) for k in row.get("seq_lengths") or [len(row["input_ids"])]])
            start = 0
            for end in [*np.flatnonzero(position == 0)[1:], len(position)]:
                part = {name: row[name][start:end] for name in ("input_ids", "labels")}
                if end - start > 1:
                    losses = token_losses(trainer, part).detach().numpy()
                    ids = np.array(row["empathy_ids"][start:end])[1:][np.array(part["labels"])[1:] != -100]
                    np.add.at(sums, ids, losses)
                    np.add.at(counts, ids, 1)
                start = end
        whole = counts > 0
        if name == "bfd":
            np.testing.assert_allclose(seen.last_loss[whole], (sums / counts)[whole], rtol=1e-4)
        assert (np.isfinite(seen.last_loss) == whole).all()


def test_no_forward_more_than_the_stock_trainer(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    for make in (runs.stock, lambda *a, **k: runs.guided(*a, runs.losses_decide, **k)):
        trainer = make(model, runs.rows())
        count: list[int] = []
        trainer.model.model.register_forward_hook(lambda *_, count=count: count.append(1))
        trainer.train()
        calls.append(len(count))
    assert calls[0] == calls[1] > 0


def test_evaluation_is_not_weighted(model: str) -> None:
    data = runs.rows()
    plain = runs.stock(model, data)
    plain.train()
    expected = plain.evaluate(plain.train_dataset)["eval_loss"]
    trainer = runs.guided(model, data, runs.ones)
    trainer.train()
    trainer.empathy_weights.set(np.full(runs.ROWS, 7.0))
    assert trainer.evaluate(trainer.train_dataset)["eval_loss"] == expected


def test_a_subclass_keeps_its_class_and_its_own_loss(model: str) -> None:
    class Mine(SFTTrainer):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            return 2 * super().compute_loss(model, inputs, *args, **kwargs)

    trainer = Mine(model, args=runs.config(), train_dataset=runs.rows())
    EmpathyDataSelector("linear").attach(trainer, runs.ones)
    assert isinstance(trainer, Mine)
    assert type(trainer).__name__ == "EmpathyMine"
    trainer.train()
    plain = runs.stock(model, runs.rows())
    plain.train()
    assert trainer.state.log_history[0]["loss"] == 2 * plain.state.log_history[0]["loss"]


# ---- two processes -------------------------------------------------------------------------------------------------


TWO = {
    "plain": {},
    "ragged_accumulation": {"gradient_accumulation_steps": 3},
    "by_process": {"average_tokens_across_devices": False},
    "padding_free": {"padding_free": True, "max_length": None},
    "bfd_split": {**PACKED, "packing_strategy": "bfd_split"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TWO)
def test_weights_of_one_change_no_bit_in_two_processes(name: str, model: str, tmp_path: Path) -> None:
    case = {"model": model, "settings": TWO[name] | {"max_steps": 5}}
    expected = runs.torchrun({**case, "policy": None, "out": str(tmp_path / "stock.pt")})
    found = runs.torchrun({**case, "policy": "ones", "out": str(tmp_path / "ones.pt")})
    assert torch.equal(found["parameters"], expected["parameters"])


@pytest.mark.slow
def test_two_processes_draw_what_one_changing_plan_says(model: str, tmp_path: Path) -> None:
    """An epoch in which the weights change at every step: all processes hold one plan, and draw all of it once."""
    settings = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "max_steps": 5}
    for workers in (0, 2):
        case = {"model": model, "policy": "losses_decide", "settings": settings | {"dataloader_num_workers": workers}}
        found = runs.torchrun({**case, "out": str(tmp_path / f"{workers}.pt")})
        assert len(found["order"]) == runs.ROWS
        assert found["draws"] == np.bincount(found["order"], minlength=runs.ROWS).tolist()
        assert found["orders"] == [found["order"]] * 2


@pytest.mark.slow
def test_two_processes_share_one_sum_of_weights(tmp_path: Path) -> None:
    model = str(runs.build_tiny_causal_lm(tmp_path, hidden_size=32, num_hidden_layers=1, vocab_size=600))
    settings = {"train_sampling_strategy": "sequential", "max_steps": 1, "gradient_accumulation_steps": 2}
    case = {"model": model, "policy": "random_weights", "settings": settings, "out": str(tmp_path / "out.pt")}
    trainer = runs.stock(model, runs.rows(), **settings)
    weights = runs.random_weights(np.zeros((runs.ROWS, 2)), np.zeros(runs.ROWS), 0.0)[1]
    losses = [token_losses(trainer, trainer.train_dataset[i]).detach() for i in range(12)]  # 2 x 2 x 3 rows
    expected = weighted_mean(weights, losses)
    assert runs.torchrun(case)["losses"][0] == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.slow
def test_weights_of_one_change_no_bit_in_two_sharded_processes(model: str, tmp_path: Path) -> None:
    case = {"model": model, "sharded": True, "settings": {"max_steps": 5}}
    expected = runs.torchrun({**case, "policy": None, "out": str(tmp_path / "stock.pt")})
    found = runs.torchrun({**case, "policy": "ones", "out": str(tmp_path / "ones.pt")})
    assert found["sharded"]
    assert torch.equal(found["parameters"], expected["parameters"])


def test_the_class_of_its_own_and_attaching_are_one_behaviour(model: str) -> None:
    data, selector = runs.rows(), EmpathyDataSelector("linear")
    attached = runs.trained(runs.guided(model, data, runs.losses_decide))
    more = {"selector": selector, "policy": runs.losses_decide}
    own = EmpathySFTTrainer(model, args=runs.config(), train_dataset=data, **more)
    assert torch.equal(runs.trained(own), attached)
