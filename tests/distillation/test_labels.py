"""What to have judged first: the choice is the best one by one, repeatable, and written as a data set."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from tiny_encoder import sample_dialogues, tiny_encoder

from ee_trl import choose_to_label, load_sample, load_scorer
from ee_trl.cli.main import main
from ee_trl.distillation import STRATEGIES
from ee_trl.distillation.labels import informative, open_pool
from ee_trl.errors import FormatError, SelectionError


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_choice_is_of_the_size_asked_and_the_same_each_time(strategy: str) -> None:
    dialogues = sample_dialogues(200)
    one, other = (choose_to_label(dialogues, 40, strategy=strategy, scorer="linear") for _ in range(2))
    assert len(set(one.tolist())) == 40
    np.testing.assert_array_equal(one, other)
    assert sorted(choose_to_label(dialogues, 200, strategy=strategy, scorer="linear").tolist()) == list(range(200))


def test_uncertain_ones_are_near_the_threshold() -> None:
    dialogues = sample_dialogues(300)
    near = np.abs(load_scorer("linear").score(dialogues) - 5).min(axis=1)
    chosen = choose_to_label(dialogues, 60, strategy="uncertain", scorer="linear")
    assert near[chosen].max() <= np.delete(near, chosen).min()
    mixed = choose_to_label(dialogues, 60, strategy="mixed", scorer="linear")
    assert set(mixed.tolist()) not in (set(chosen.tolist()), set(choose_to_label(dialogues, 60, strategy="diverse")))


def unsure(x: np.ndarray, labelled: np.ndarray, weights: np.ndarray) -> float:
    """Weighted mean variance of a ridge regression's predictions, from the inverse of its matrix."""
    x, labelled = (np.concatenate([part, np.ones((len(part), 1))], axis=1) for part in (x, labelled))
    covariance = np.linalg.inv(10 * np.eye(x.shape[1]) + labelled.T @ labelled)
    return float(weights @ ((x @ covariance) * x).sum(axis=1) / weights.sum())


@pytest.mark.parametrize("known", [0, 3])
def test_each_choice_is_the_one_that_leaves_least_unsure(known: int) -> None:
    draw = np.random.default_rng(1)
    x = draw.normal(size=(40, 5)) * [3.0, 1.0, 1.0, 0.3, 0.3]
    x /= np.sqrt((x**2).mean())
    weights = draw.random(40)
    labelled, pool = x[:known], np.arange(known, 40)
    found = informative(x[known:], 6, weights[known:], labelled if known else None) + known
    if known:  # all vectors are scaled together
        assert len(found) == 6
    for i, chosen in enumerate(found):
        had = np.concatenate([labelled, x[found[:i]]])
        left = [j for j in pool if j not in found[:i]]
        best = min(left, key=lambda j: unsure(x[pool], np.concatenate([had, x[[j]]]), weights[pool]))
        assert chosen == best


def test_chosen_ones_teach_more_than_random_ones() -> None:
    draw = np.random.default_rng(0)
    crowd = draw.normal(size=(900, 20)) * 0.3
    rare = draw.normal(size=(100, 20)) * 3
    x = draw.permutation(np.concatenate([crowd, rare]))
    y = x @ draw.normal(size=20) + draw.normal(size=1_000)

    def error(chosen: np.ndarray) -> float:
        fitted = np.linalg.solve(x[chosen].T @ x[chosen] + 0.1 * np.eye(20), x[chosen].T @ y[chosen])
        return float(np.mean((x @ fitted - y) ** 2))

    at_random = np.mean([error(np.random.default_rng(s).permutation(1_000)[:40]) for s in range(20)])
    assert error(informative(x, 40, np.ones(1_000))) < 0.8 * at_random


def test_an_encoder_tells_what_is_alike(tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path / "encoder")
    dialogues = sample_dialogues(60)
    assert len(set(choose_to_label(dialogues, 20, strategy="diverse", encoder=encoder).tolist())) == 20


def test_the_command_writes_what_the_judge_is_to_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = tmp_path / "dialogues.parquet", tmp_path / "first.parquet"
    load_sample().to_parquet(data)
    assert main(["label", str(data), "--budget", "50", "--scorer", "linear", "-o", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["samples"], told["chosen"]) == (533, 50)
    chosen = Dataset.from_parquet(str(out))
    assert chosen["label_order"] == list(range(50))
    assert set(load_sample().column_names) <= set(chosen.column_names)

    judged = tmp_path / "judged.parquet"
    assert main(["score", str(out), "-o", str(judged), "--scorer", "linear", "-q"]) == 0
    first = Dataset.from_parquet(str(judged))
    assert len(first) == 50, "each row stands for one reply of its conversation"

    again = tmp_path / "second.parquet"
    assert (
        main(
            ["label", str(data), "--budget", "483", "--scorer", "linear", "--labelled", str(judged), "-o", str(again)]
        )
        == 0
    )
    rows = [*chosen.to_list(), *Dataset.from_parquet(str(again)).to_list()]
    assert len({(row["row_index"], row["turn"]) for row in rows}) == 533, "nothing is chosen twice"
    assert main(["label", str(data), "--budget", "484", "--labelled", str(judged), "-o", str(again)]) == 3


def test_more_than_there_is_cannot_be_chosen() -> None:
    with pytest.raises(SelectionError, match="n 31 is not a whole number from 1 to 30"):
        choose_to_label(sample_dialogues(30), 31)
    with pytest.raises(SelectionError, match="unknown strategy 'hard'; valid: mixed"):
        choose_to_label(sample_dialogues(30), 3, strategy="hard")


def test_one_utterance_a_row_is_refused() -> None:
    row = {"conv_id": "a", "utterance_idx": 1, "speaker_idx": 1, "utterance": "hello"}
    with pytest.raises(FormatError, match="one utterance a row"):
        open_pool(Dataset.from_list([row]))
