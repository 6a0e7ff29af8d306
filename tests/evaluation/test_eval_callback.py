"""Evaluation during training: what it logs, and that the training does not notice it."""

from __future__ import annotations

import json
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from ee_trl import EmpathyEvalCallback, build_tiny_causal_lm, load_sample
from ee_trl.data.samples import all_dialogues
from ee_trl.errors import TrainingError
from ee_trl.evaluation.generation import Decoding


STEPS = 5


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_causal_lm(
        tmp_path_factory.mktemp("base"), hidden_size=16, num_hidden_layers=1, num_attention_heads=2
    )


def train(base: Path, output: Path, with_callback: bool, **config):
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    options = {"use_cpu": True, "bf16": False, "report_to": "none", "max_steps": STEPS, "logging_steps": 2}
    options |= {"per_device_train_batch_size": 2, "save_strategy": "no", "seed": 3, "disable_tqdm": True} | config
    rows = all_dialogues(load_sample("train").select(range(20)))
    model = AutoModelForCausalLM.from_pretrained(base, attention_dropout=0.3)  # so that training draws numbers
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = SFTTrainer(
            model,
            SFTConfig(str(output), **options),
            train_dataset=rows,
            eval_dataset=rows.select(range(4)),
            processing_class=AutoTokenizer.from_pretrained(base),
        )
        callback = None
        if with_callback:
            callback = EmpathyEvalCallback(
                trainer, scorer="linear", every_n_steps=2, limit=5, samples=3, decoding=Decoding(6, temperature=1.0)
            )
            trainer.add_callback(callback)
        trainer.train()
    return trainer, callback


@pytest.fixture(scope="module")
def with_callback(base, tmp_path_factory):
    return train(base, tmp_path_factory.mktemp("with"), with_callback=True)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_run_with_it_ends_bit_equal_to_one_without(checkpointing, base, with_callback, tmp_path) -> None:
    config = {"gradient_checkpointing": True} if checkpointing else {}
    plain, _ = train(base, tmp_path / "without", with_callback=False, **config)
    state = torch.get_rng_state()
    watched, _ = train(base, tmp_path / "with", with_callback=True, **config) if checkpointing else with_callback
    for (name, a), b in zip(plain.model.state_dict().items(), watched.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    losses = [[e["loss"] for e in trainer.state.log_history if "loss" in e] for trainer in (plain, watched)]
    assert losses[0] == losses[1]
    if checkpointing:  # what was drawn afterwards, too
        assert torch.equal(state, torch.get_rng_state())


def test_its_numbers_are_in_the_log_and_right(with_callback) -> None:
    trainer, callback = with_callback
    assert [entry["step"] for entry in callback.history] == [2, 4, 5]  # every second, and the last
    logged = [entry for entry in trainer.state.log_history if "empathy_eval/dist1" in entry]
    assert [entry["step"] for entry in logged] == [2, 4, 5]
    for entry, found in zip(logged, callback.history, strict=True):
        for name, value in found.items():
            if name != "step":
                assert entry[f"empathy_eval/{name}"] == pytest.approx(value)
    # the last evaluation is of the model as it ended
    from ee_trl.evaluation.generation import generate_replies
    from ee_trl.evaluation.metrics.distinct import distinct_scores

    replies = generate_replies(
        trainer.model.eval(), trainer.processing_class, callback.eval_set.prompts, decoding=callback.decoding
    )
    assert distinct_scores(replies)["dist2"] == pytest.approx(callback.history[-1]["dist2"])


def test_of_several_evaluations_since_the_last_log_the_last_is_logged(base, tmp_path) -> None:
    trainer, callback = train(base, tmp_path, with_callback=True, logging_steps=5, max_steps=6, learning_rate=0.1)
    history = {entry["step"]: entry for entry in callback.history}
    logged = [entry for entry in trainer.state.log_history if "empathy_eval/words" in entry]
    assert ([*history], [entry["step"] for entry in logged]) == ([2, 4, 6], [5, 6])
    assert history[2] | {"step": 4} != history[4]  # so that a mean of the two would be another
    for entry, step in zip(logged, (4, 6), strict=True):
        numbers = {f"empathy_eval/{name}": value for name, value in history[step].items() if name != "step"}
        assert {name: value for name, value in entry.items() if name.startswith("empathy_eval/")} == numbers


@pytest.mark.parametrize("name", ["empathy_eval/words", "eval_empathy_eval/word_f1"])
def test_its_numbers_choose_the_best_checkpoint(name: str, base, tmp_path) -> None:
    """Also where the trainer evaluates at other steps than the callback."""
    config = {"eval_strategy": "steps", "eval_steps": 3, "save_strategy": "steps", "save_steps": 3, "max_steps": 9}
    config |= {"metric_for_best_model": name, "load_best_model_at_end": True, "learning_rate": 0.1}
    trainer, callback = train(base, tmp_path, with_callback=True, **config)
    assert [entry["step"] for entry in callback.history] == [2, 3, 4, 6, 8, 9]
    found = {entry["step"]: entry[name.split("/")[1]] for entry in callback.history if entry["step"] % 3 == 0}
    best = max(found, key=lambda step: found[step])
    assert trainer.state.best_metric == found[best]
    assert trainer.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{best}")
    assert trainer.evaluate()["eval_empathy_eval/dist1"] == callback.history[-1]["dist1"]


def test_a_number_that_it_does_not_give_is_refused_before_the_training(base, tmp_path) -> None:
    config = {"eval_strategy": "steps", "eval_steps": 3, "metric_for_best_model": "empathy_eval/word_f"}
    with pytest.raises(TrainingError, match="'word_f'; valid: bleu4, .*Did you mean 'word_f1'"):
        train(base, tmp_path, with_callback=True, **config)


def test_the_table_of_samples_is_a_file(with_callback) -> None:
    trainer, callback = with_callback
    files = sorted((Path(trainer.args.output_dir) / "empathy_samples").iterdir())
    assert [path.name for path in files] == ["step-000002.jsonl", "step-000004.jsonl", "step-000005.jsonl"]
    rows = [json.loads(line) for line in files[0].read_text(encoding="utf-8").splitlines()]
    assert [row["reference"] for row in rows] == callback.eval_set.references[:3]
    assert set(rows[0]) == {"step", "speaker", "reply", "reference", "sensibility", "rationality"}


def test_the_table_goes_to_the_reporters_that_take_tables(with_callback, monkeypatch, caplog) -> None:
    from ee_trl.evaluation.callback import report_samples

    trainer, _ = with_callback
    sent: dict[str, list] = {"wandb": [], "trackio": [], "tensorboard": []}
    for name in ("wandb", "trackio"):
        fake = types.ModuleType(name)
        fake.run = object()
        fake.Table = lambda dataframe: dataframe
        fake.log = sent[name].append
        monkeypatch.setitem(sys.modules, name, fake)
    board = types.SimpleNamespace(
        tb_writer=types.SimpleNamespace(add_text=lambda *args: sent["tensorboard"].append(args))
    )
    monkeypatch.setattr(trainer.callback_handler, "callbacks", [*trainer.callback_handler.callbacks, board])
    rows = [{"step": 7, "speaker": "a | b", "reply": "<b>", "reference": "c"}]
    args = types.SimpleNamespace(report_to=["wandb", "trackio", "tensorboard", "mlflow"])
    report_samples(trainer, args, 7, rows)
    for name in ("wandb", "trackio"):
        [entry] = sent[name]
        assert entry["empathy_samples"].to_dict("records") == rows
    [(tag, text, step)] = sent["tensorboard"]
    assert (tag, step) == ("empathy_samples", 7)
    assert "a \\| b" in text
    assert "<b>" not in text
    monkeypatch.setattr(sys.modules["wandb"], "log", lambda entry: 1 / 0)  # a service that fails costs its table alone
    report_samples(trainer, types.SimpleNamespace(report_to="wandb"), 7, rows)
    assert "wandb did not take the table" in caplog.text


def test_it_leaves_generators_and_modes_as_they_were(with_callback) -> None:
    import random

    trainer, callback = with_callback
    trainer.model.train()
    trainer.model.lm_head.eval()
    modes = [module.training for module in trainer.model.modules()]
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    side = trainer.processing_class.padding_side
    callback.decoding = Decoding(max_new_tokens=4, temperature=1.0, seed=1)  # which draws
    callback.evaluate(trainer.args, 9, trainer.processing_class)
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert [module.training for module in trainer.model.modules()] == modes
    assert trainer.processing_class.padding_side == side


def test_a_trainer_without_running_means_logs_at_once(with_callback, monkeypatch) -> None:
    _, callback = with_callback
    said: list[dict] = []
    monkeypatch.setattr(callback, "trainer", types.SimpleNamespace(log=said.append))
    callback._log({"dist1": 5.0})
    assert said == [{"empathy_eval/dist1": 5.0}]


def test_wrong_numbers_are_refused(with_callback) -> None:
    for wrong in ({"samples": -1}, {"batch_size": 0}, {"batch_size": 2.5}):
        [(name, value)] = wrong.items()
        with pytest.raises(TrainingError, match=f"{name} {value} is not a whole number of at least"):
            EmpathyEvalCallback(with_callback[0], **wrong)
    for bad in (0, -1, 1.5, True):
        with pytest.raises(TrainingError, match="every_n_steps"):
            EmpathyEvalCallback(with_callback[0], every_n_steps=bad)
