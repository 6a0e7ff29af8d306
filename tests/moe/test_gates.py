"""The gates: the rules tell the sets apart, and each gate is made from what reaches it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_moe as tiny
import torch
from datasets import Dataset, DatasetDict
from tiny_moe import EXPERTS, compose, rows, weights_of

from ee_trl import load_sample
from ee_trl.data.tables import progress_bar
from ee_trl.errors import CompositionError
from ee_trl.moe import gates
from ee_trl.moe.gates import GateBatch, gate_batches, init_gates, probe, prototype
from ee_trl.moe.routing import routers
from ee_trl.scoring import encoder


@pytest.fixture
def llama() -> dict[str, Path]:
    """Without a tokenizer."""
    return tiny.family("llama")


def two_sets(number: int = 400) -> list[torch.Tensor]:
    """Two clouds that differ in one direction."""
    generator = torch.Generator().manual_seed(0)
    clouds = torch.randn(2, number, 8, generator=generator)
    clouds[0, :, 2] += 2.0
    clouds[1, :, 2] -= 2.0
    return list(clouds)


@pytest.mark.parametrize("rule", [probe, prototype])
def test_the_rules_tell_the_sets_apart(rule: Any) -> None:
    sets = two_sets()
    weights = rule(sets)
    assert weights.shape == (2, 8)
    torch.testing.assert_close(weights.sum(0), torch.zeros(8), atol=1e-5, rtol=0)
    right = [((part @ weights.T).argmax(1) == i).float().mean() for i, part in enumerate(sets)]
    assert min(right) > 0.95


def test_the_probe_is_the_logistic_regression_of_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression

    sets = two_sets()
    sets[1] = sets[1][:100]  # sets of unequal size count alike
    x = torch.cat(sets).double().numpy()
    scale = np.sqrt((x**2).mean())
    labels = np.repeat([0, 1], [len(part) for part in sets])
    weights = np.where(labels == 0, 1 / len(sets[0]), 1 / len(sets[1])) / 2
    # loss + l2 * |W|^2 of two rows w and -w is loss(2w) + 2 l2 |w|^2 = loss(v) + l2 / 2 |v|^2
    judge = LogisticRegression(C=1 / (1e-3), fit_intercept=False, tol=1e-10, max_iter=1000)
    judge.fit(x / scale, labels, sample_weight=weights)
    found = probe(sets, l2=1e-3, steps=1000).numpy()
    np.testing.assert_allclose((found[1] - found[0]) * scale, judge.coef_[0], rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(("how", "bar"), [("probe", 0.95), ("prototype", 0.6)])
def test_gates_from_data_know_whose_data_it_is(how: str, bar: float, tmp_path: Path) -> None:
    data = {"sensibility": rows(32, 3, 9, 1), "rationality": rows(32, 58, 64, 2)}
    moe = compose(tiny.mixture("qwen2"), tmp_path / "moe", gate_data=data, gate_init=how)
    model = tiny.load(moe)
    assert json.loads((moe / "composition.json").read_text())["settings"]["gate_init"] == how
    held_out = (rows(8, 3, 9, 3), rows(8, 58, 64, 4))
    shares = [weights_of(model, torch.tensor(own["input_ids"])) for own in held_out]
    right = [(share.argmax(-1) == i).float().mean() for i, share in enumerate(shares)]
    assert sum(right) / 2 > bar
    assert min(right) > 0.5


def test_the_probe_is_the_default_where_there_is_data(llama: dict[str, Path], tmp_path: Path) -> None:
    moe = compose(llama, tmp_path / "moe", gate_data={name: rows(8, seed=i) for i, name in enumerate(EXPERTS)})
    assert json.loads((moe / "composition.json").read_text())["settings"]["gate_init"] == "probe"
    assert all(router.weight.abs().max() > 0 for router in routers(tiny.load(moe)).values())


@pytest.mark.parametrize("fast", [True, False])
def test_gates_show_their_progress_and_are_made_in_a_type_that_the_machine_is_fast_at(
    fast: bool,
    llama: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(encoder, "computes_in_bfloat16", lambda: fast)
    bars: list[Any] = []

    def shown(**options: Any) -> Any:
        bars.append(progress_bar(**options | {"show": True}))
        return bars[-1]

    monkeypatch.setattr(gates, "progress_bar", shown)
    data = {name: rows(8, seed=i) for i, name in enumerate(EXPERTS)}
    moe = compose(llama, tmp_path / "moe", gate_data=data, dtype="bfloat16")
    [bar] = bars
    assert bar.n == bar.total > 4
    assert gates.load_for_gates(moe).dtype == (torch.bfloat16 if fast else torch.float32)
    assert ("only emulates bfloat16" in caplog.text) is not fast
    assert {weight.dtype for weight in tiny.load(moe).state_dict().values()} == {torch.bfloat16}


def test_gates_are_made_layer_by_layer_on_what_reaches_them() -> None:
    """A gate is the rule applied to its input with the gates before it in place, and padding counts nothing."""
    moe = tiny.mixture("llama-tied-scaled")["moe"]
    batches = gate_batches({name: rows(6, seed=i) for i, name in enumerate(EXPERTS)}, None, 6)
    padded = [
        GateBatch(
            b.expert, torch.nn.functional.pad(b.input_ids, (0, 5), value=9), torch.nn.functional.pad(b.mask, (0, 5))
        )
        for b in batches
    ]
    found = init_gates(tiny.load(moe), batches, "prototype")
    for name, weight in init_gates(tiny.load(moe), padded, "prototype").items():
        torch.testing.assert_close(weight, found[name], atol=1e-5, rtol=1e-4)
    model = tiny.load(moe)
    for (_, router), weight in zip(routers(model).items(), found.values(), strict=True):
        seen: list[list[torch.Tensor]] = [[], []]
        for batch in batches:
            handle = router.register_forward_pre_hook(
                lambda m, args, i=batch.expert: seen[i].append(args[0].reshape(-1, 32))  # noqa: B023
            )
            with torch.no_grad():
                model(batch.input_ids, attention_mask=batch.mask)
            handle.remove()
        torch.testing.assert_close(prototype([torch.cat(part) for part in seen]), weight, atol=1e-5, rtol=1e-4)
        router.weight.data.copy_(weight)


def test_gates_of_dialogues_start_at_zero_without_a_tokenizer(
    llama: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = dict.fromkeys(EXPERTS, load_sample("train").select(range(4)))
    moe = compose(llama, tmp_path / "zero", gate_data=data)
    assert "there is no tokenizer to read them with: the gates start at zero" in caplog.text
    assert json.loads((moe / "composition.json").read_text())["settings"]["gate_init"] == "zeros"
    assert not any(gate.weight.any() for gate in routers(tiny.load(moe)).values())


def test_sets_for_the_gates_are_found_or_refused(llama: dict[str, Path], tmp_path: Path) -> None:
    made, other = rows(4), rows(4, seed=1)
    other.to_parquet(tmp_path / "rows.parquet")
    nulls = Dataset.from_list([*other.to_list(), {"input_ids": None}])
    splits = DatasetDict({"train": other, "test": made})
    for i, one in enumerate((splits, DatasetDict({"test": other}), str(tmp_path / "rows.parquet"), nulls)):
        moe = compose(llama, tmp_path / f"{i}", gate_data=dict(zip(EXPERTS, (one, made), strict=True)))
        assert any(gate.weight.any() for gate in routers(tiny.load(moe)).values())
    two = DatasetDict({"a": made, "b": made})
    for one, said in ((two, "has the splits a, b; give one"), (made.to_iterable_dataset(), "is of type IterableData")):
        with pytest.raises(CompositionError, match=said):
            compose(llama, tmp_path / "moe", gate_data=dict.fromkeys(EXPERTS, one))
    empty = dict.fromkeys(EXPERTS, rows(4).select([]))
    with pytest.raises(CompositionError, match="holds no sample"):
        compose(llama, tmp_path / "moe", gate_data=empty)
    assert not (tmp_path / "moe").exists()
