"""The recipes, run for real on a tiny model: what they select, draw, save and say."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from conftest import ROOT
from datasets import Dataset
from recipe_runs import EXPERTS, LINEAR, NO_OPTIONS, QUICK, RECIPES, draws, run, selection
from safetensors.torch import load_file
from trl import SFTConfig, SFTTrainer

from ee_trl import EmpathyDataSelector, compose_moe, load_sample
from ee_trl.data.samples import all_dialogues
from ee_trl.errors import EmpathyError, FormatError
from ee_trl.recipes import sft_moe, sft_online, sft_sensibility
from ee_trl.scoring import encoder
from ee_trl.training.data import untrained


# of the libraries that a recipe runs, not of this package
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("sample_is_scored")]

CONFIGS = sorted((ROOT / "recipes" / "configs").glob("*.yaml"))


def recipes_of(config: Path) -> list[str]:
    """A config is for the recipe that its launch command names; one of an expert's is for every expert's."""
    [named] = [name for name in RECIPES if f" recipes/{name}.py " in config.read_text().splitlines()[0]]
    return list(EXPERTS) if named in EXPERTS else [named]


PAIRS = [
    pytest.param(
        name, config, marks=[pytest.mark.slow] if name == "efficient_empathy" or "smollm2" in config.name else []
    )
    for config in CONFIGS
    for name in recipes_of(config)
]
SAID = {
    ("user", 0): "My dog {} died last night and I can't stop crying.",
    ("assistant", 0): "Oh no, I am so sorry to hear that. How old was dog {}?",
    ("user", 1): "He was with me for {} years. The house is so quiet now.",
    ("assistant", 1): "That must be really hard. You gave him {} good years.",
}


def test_every_recipe_is_tested() -> None:
    assert {path.stem for path in (ROOT / "recipes").glob("*.py")} - {"__init__"} == set(RECIPES)
    assert {name for config in CONFIGS for name in recipes_of(config)} == set(RECIPES)


@pytest.mark.parametrize("name", EXPERTS)
def test_without_arguments_it_trains_on_the_embedded_sample_and_says_so(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "expert"
    run(RECIPES[name], "--output_dir", str(out), *QUICK)
    axis = name.removeprefix("sft_")
    assert "tiny CPU demonstration" in caplog.text
    assert "--dataset" in caplog.text

    selector = EmpathyDataSelector()
    expected = selector.select(selector.score(load_sample("train")), keep=axis)
    selected = pq.read_table(out / "selection" / "selected.parquet")
    assert selected.column("prompt").to_pylist() == expected["prompt"][:]
    assert selection(out)["counts"]["kept"] == len(expected)
    assert selection(out)["dataset"] == "embedded sample"

    card = (out / "README.md").read_text()
    assert "## Training data: what was selected, and why" in card
    assert f"| `kept` | {len(expected)} |" in card
    assert selector.scorer.fingerprint in card
    lonely = expected["emotion"][:].count("lonely")
    assert re.search(rf"^\| lonely \| \d+ \| {lonely} \|", card, flags=re.MULTILINE)
    assert "cross-validated Spearman" in card
    head = yaml.safe_load(card.split("\n---\n")[0].removeprefix("---"))
    assert "ee-trl" in head["tags"]
    assert not {"licence", "datasets"} & set(head)  # no placeholder; the embedded sample is not on the hub
    assert (out / "model.safetensors").exists()
    assert (out / "selection" / "plane.png").exists()


@pytest.mark.parametrize(("name", "config"), PAIRS, ids=lambda value: getattr(value, "stem", value))
def test_every_config_runs_with_a_tiny_model_on_cpu(
    name: str, config: Path, tiny_model: Path, tmp_path: Path, no_pictures: None
) -> None:
    """All settings as they are, quantization and LoRA too; only the model and the number of steps differ."""
    out = tmp_path / "expert"
    model = (
        compose_moe(tiny_model, dict.fromkeys("ab", tiny_model), tmp_path / "moe") if name == "sft_moe" else tiny_model
    )
    args = ["--model_name_or_path", str(model), "--use_cpu", "true", "--output_dir", str(out)]
    if name == "efficient_empathy":
        args += ["--empathy_eval_samples", "8", "--empathy_eval_replies", "4"]
        args += ["--empathy_router_training", '{"max_steps": 3, "logging_steps": 1}']
    if name == "sft_online":
        args += LINEAR
    run(RECIPES[name], "--config", str(config), *args, *QUICK)
    settings = yaml.safe_load(config.read_text())
    if name == "efficient_empathy":
        assert (out / "report.md").exists()
        [out] = out.glob("sensibility-*")
    if name == "sft_moe":
        assert not (out / "adapter_config.json").exists()
        assert (out / "router_report.md").exists()
    elif settings.get("use_peft"):
        adapter = json.loads((out / "adapter_config.json").read_text())
        assert adapter["r"] == settings["lora_r"] == (16 if "smollm2" in config.name else 8)
        assert set(adapter["target_modules"]) == set(settings["lora_target_modules"])
        assert len(settings["lora_target_modules"]) == 7
    losses = [e["loss"] for e in json.loads((out / "trainer_state.json").read_text())["log_history"] if "loss" in e]
    assert len(losses) == 3


def test_the_paper_s_settings_are_the_paper_s() -> None:
    settings = yaml.safe_load((ROOT / "recipes/configs/lora_8b.yaml").read_text())
    paper = {"lora_r": 8, "lora_alpha": 32, "lora_dropout": 0.1, "learning_rate": 1e-4, "num_train_epochs": 1}
    paper |= {"per_device_train_batch_size": 16, "max_length": 512, "completion_only_loss": True}
    assert {name: settings[name] for name in paper} == paper


@pytest.mark.parametrize("name", ["tiny_cpu", "qlora_8b", "lora_8b"])
def test_the_online_configs_differ_in_the_policy_alone(name: str) -> None:
    offline, online = (
        yaml.safe_load((ROOT / f"recipes/configs/{stem}.yaml").read_text()) for stem in (name, f"online_{name}")
    )
    assert {key: value for key, value in online.items() if not key.startswith("empathy_")} == offline


@pytest.mark.parametrize("config", sorted((ROOT / "recipes/accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_accelerate_file_is_one(config: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    loaded = load_config_from_file(str(config))
    assert loaded.num_processes == 8
    assert str(loaded.distributed_type).split(".")[-1] in ("FSDP", "DEEPSPEED", "MULTI_GPU")


def test_each_config_says_its_launch_command_first() -> None:
    for config in CONFIGS:
        first = config.read_text().splitlines()[0]
        assert first.startswith("# accelerate launch ")
        assert any(f" recipes/{name}.py " in first for name in RECIPES)
        assert f"--config recipes/configs/{config.name}" in first


@pytest.mark.parametrize("given", ["parquet", "scored", "own_scores", "messages_jsonl", "folder"])
def test_any_data_set_can_be_trained_on(given: str, tiny_model: Path, tmp_path: Path) -> None:
    selector = EmpathyDataSelector()
    sample = load_sample("train")
    path = tmp_path / f"data.{'jsonl' if given == 'messages_jsonl' else 'parquet'}"
    if given == "parquet":
        sample.to_parquet(path)
    elif given == "messages_jsonl":
        sample.select_columns(["messages"]).to_json(path)
    elif given == "folder":
        path = tmp_path / "saved"
        sample.save_to_disk(path)
    elif given == "scored":
        selector.score(sample).to_parquet(path)
    else:
        marks = [{"sensibility": 9, "rationality": 1}, {"sensibility": 1, "rationality": 9}]
        rows = [{"context": [f"I am sad {i}"], "response": f"oh no {i}"} | marks[i % 2] for i in range(40)]
        path.unlink(missing_ok=True)
        Dataset.from_list(rows).to_parquet(path)
    out = tmp_path / "expert"
    config = str(ROOT / "recipes/configs/tiny_cpu.yaml")
    args = ["--config", config, "--model_name_or_path", str(tiny_model), "--dataset", str(path)]
    run(sft_sensibility, *args, "--output_dir", str(out), *QUICK)
    if given == "own_scores":
        assert selection(out)["counts"] == {"kept": 20, "quadrant_rationality": 20}
        assert selection(out)["settings"]["scorer"] == ["given"]
    else:
        assert selection(out)["counts"]["kept"] == len(selector.select(selector.score(sample)))
        assert selection(out)["settings"]["scorer"] == [selector.scorer.fingerprint]


def test_the_baselines_are_a_matter_of_one_option(tmp_path: Path) -> None:
    for option, value in (("rule", "random"), ("rule", "longest"), ("control", "length")):
        out = tmp_path / value
        run(sft_sensibility, "--output_dir", str(out), f"--empathy_{option}", value, *QUICK)
        assert selection(out)["settings"][option] == value
    selector = EmpathyDataSelector()
    expected = len(selector.select(selector.score(load_sample("train"))))
    assert selection(tmp_path / "random")["counts"]["kept"] == expected
    assert selection(tmp_path / "longest")["counts"]["kept"] == expected
    assert selection(tmp_path / "length")["counts"]["kept"] == expected
    assert selection(tmp_path / "length")["lengths"]["distance"] < 0.05


def test_it_evaluates_on_the_held_out_dialogues_when_asked(tmp_path: Path) -> None:
    args = ["--eval_strategy", "steps", "--eval_steps", "3", "--output_dir", str(tmp_path / "expert")]
    run(sft_sensibility, *args, *QUICK)
    history = json.loads((tmp_path / "expert" / "trainer_state.json").read_text())["log_history"]
    assert any("eval_loss" in entry for entry in history)


@pytest.mark.slow
def test_the_router_s_demonstration_trains_both_experts_of_the_chat_model_first(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat, out = tmp_path / "chat", tmp_path / "out"
    shutil.copytree(tiny_model, chat)
    (chat / "demo_model.json").write_text("{}")
    monkeypatch.setattr("ee_trl.training.command_line.pretrained", lambda: chat)
    for _ in range(2):  # the second time there is nothing to do
        run(sft_moe, "--output_dir", str(out), "--empathy_report_rows", "8", *QUICK)
    for axis in ("sensibility", "rationality"):
        expert = out / f"expert_{axis}"
        assert json.loads((expert / "adapter_config.json").read_text())["base_model_name_or_path"] == str(chat)
        assert selection(expert)["settings"]["keep"] == [axis]
    assert json.loads((out / "config.json").read_text())["num_local_experts"] == 2
    assert (out / "router_report.md").exists()


# ---- selection while training --------------------------------------------------------------------------------------


def test_online_without_arguments_it_draws_from_the_whole_sample_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "expert"
    run(sft_online, "--output_dir", str(out), *QUICK, "--empathy_policy", "sensibility", *NO_OPTIONS)
    assert "tiny CPU demonstration" in caplog.text
    assert "recipes/configs/online_qlora_8b.yaml" in caplog.text

    selector = EmpathyDataSelector()
    scored = selector.score(load_sample("train"))
    assert (
        pq.read_table(out / "rows" / "rows.parquet").column("prompt").to_pylist() == all_dialogues(scored)["prompt"][:]
    )
    found = draws(out)
    columns = [*(found[name] for name in ("draws", "sensibility", "quadrant")), scored["sensibility"][:]]
    assert all(own == expected for _, own, _, expected in zip(*columns, strict=True) if own is not None)
    assert all(own is not None for n, own, _, _ in zip(*columns, strict=True) if n)
    assert sum(found["draws"]) == 3 * 8
    assert {name for name, n in zip(found["quadrant"], found["draws"], strict=True) if n} == {"sensibility"}

    card = (out / "README.md").read_text()
    assert "## Training data: what was drawn, and why" in card
    assert f"all {len(scored)} samples of `embedded sample`" in card
    assert f"| sensibility | {found['quadrant'].count('sensibility')} | 24 | 100.0% | 1.00 |" in card
    assert "| policy | `sensibility` |" in card
    assert selector.scorer.fingerprint in card
    said = capsys.readouterr().out
    for name in ("empathy_report.md", "empathy_draws.png", "empathy_draws.parquet", "empathy_history.json"):
        assert name in said
        assert (out / name).exists()


@pytest.mark.parametrize("packing", [False, True], ids=["rows", "packed"])
def test_online_takes_all_rows_and_the_scores_they_bring(
    packing: bool, tiny_model: Path, tmp_path: Path, no_pictures: None
) -> None:
    """A conversation's own scores are those of its last reply; what has no dialogue is left out and counted."""
    marks = [{"sensibility": 9, "rationality": 1}, {"sensibility": 1, "rationality": 9}, {}]
    rows = [
        {"messages": [{"role": r, "content": SAID[r, j].format(i)} for j in range(2) for r in ("user", "assistant")]}
        | marks[i % 3]
        for i in range(30)
    ]
    rows[0]["messages"] = None
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "expert"
    args = ["--dataset", str(tmp_path / "own.jsonl"), "--model_name_or_path", str(tiny_model), "--use_cpu", "true"]
    args += ["--bf16", "false", "--empathy_policy", "gate", "--empathy_policy_options", '{"keep": "rationality"}']
    args += ["--packing", str(packing).lower(), "--max_length", "64", *LINEAR]
    run(sft_online, *args, "--output_dir", str(out), *QUICK)
    table = pq.read_table(out / "rows" / "rows.parquet").to_pydict()
    assert [prompt[-1]["content"] for prompt in table["prompt"]] == [SAID["user", 1].format(i) for i in range(1, 30)]
    record = json.loads((out / "rows" / "rows.json").read_text())
    assert record["left_out"] == {"null_dialogue": 1}
    assert record["scores"].startswith("given with the data, where missing by linear")
    found = draws(out)
    assert found["quadrant"] == ["rationality" if i % 3 == 1 else "sensibility" for i in range(1, 30)], (
        "what brings no score has one of the bundled scorer's"
    )
    weighed = {q for q, n, w in zip(found["quadrant"], found["draws"], found["mean_weight"], strict=True) if n and w}
    assert weighed == {"rationality"}
    assert "left out" not in (out / "README.md").read_text()
    assert "without a dialogue to train on: 1 null_dialogue" in (out / "README.md").read_text()


def test_online_one_utterance_a_row(tiny_model: Path, tmp_path: Path, no_pictures: None) -> None:
    """The utterances of a conversation may lie apart; scores of one utterance belong to no reply."""
    talk = [
        {
            "conv_id": f"c{i}",
            "utterance_idx": j + 1,
            "speaker_idx": j % 2,
            "utterance": SAID[("user", "assistant")[j % 2], j // 2].format(i),
        }
        for j in range(4)
        for i in range(10)
    ]
    own = tmp_path / "own.jsonl"
    own.write_text("".join(json.dumps(row) + "\n" for row in talk))
    args = ["--dataset", str(own), "--model_name_or_path", str(tiny_model), "--use_cpu", "true", "--bf16", "false"]
    args += ["--empathy_policy", "soft", *LINEAR, *QUICK]
    run(sft_online, *args, "--output_dir", str(tmp_path / "expert"))
    record = json.loads((tmp_path / "expert" / "rows" / "rows.json").read_text())
    assert (record["samples"], record["left_out"]) == (20, {})

    own.write_text("".join(json.dumps(row | {"sensibility": 1, "rationality": 2}) + "\n" for row in talk))
    with pytest.raises(FormatError, match="each row of the data set is one utterance"):
        run(sft_online, *args, "--output_dir", str(tmp_path / "other"))


def test_the_online_recipe_takes_weights_from_a_column(tmp_path: Path) -> None:
    """A conversation's weight is that of each of its replies; a column that is not there is refused at once."""
    data = load_sample("train").select(range(12)).add_column("w", [float(i % 3) for i in range(12)])
    data.to_parquet(tmp_path / "data.parquet")
    args = ["--dataset", str(tmp_path / "data.parquet"), *QUICK, "--empathy_policy", "column", "--empathy_warmup", "0"]
    run(sft_online, *args, "--output_dir", str(tmp_path / "a"), "--empathy_policy_options", '{"column": "w"}')
    found = draws(tmp_path / "a")
    assert {w for w in found["mean_weight"] if w is not None} <= {0.0, 1.0, 2.0}
    with pytest.raises(EmpathyError, match="unknown column of the data set 'v'; valid: .*w"):
        run(sft_online, *args, "--output_dir", str(tmp_path / "b"), "--empathy_policy_options", '{"column": "v"}')
    assert not (tmp_path / "b").exists()


def long_rows(number: int = 12) -> Any:
    """Conversations of which every second is longer than 60 tokens before its reply."""
    talk = [{"role": "user", "content": "I lost my keys again."}, {"role": "assistant", "content": "Oh no, poor you!"}]
    longer = [{"role": "user", "content": "I lost my keys again. " * 20}, talk[1]]
    return Dataset.from_dict({"messages": [longer if i % 2 else talk for i in range(number)]})


@pytest.mark.parametrize(
    ("settings", "lost"),
    [
        ({}, 6),
        ({"truncation_mode": "keep_end"}, 0),
        ({"completion_only_loss": False}, 6),
        ({"packing": True}, 6),
        ({"packing": True, "packing_strategy": "bfd_split"}, 0),
        ({"max_length": 400}, 0),
    ],
)
def test_samples_that_lose_their_replies_are_counted(settings: dict[str, Any], lost: int, tiny_model: Path) -> None:
    rows = all_dialogues(long_rows())
    args = SFTConfig("x", **{"max_length": 60, "use_cpu": True, "bf16": False, "report_to": "none", **settings})
    trainer = SFTTrainer(str(tiny_model), args=args, train_dataset=rows)
    assert untrained(rows, trainer, trainer.processing_class) == lost


@pytest.mark.parametrize("recipe", [sft_sensibility, sft_online])
def test_a_recipe_says_how_many_samples_it_does_not_train_on(
    recipe: Any, tmp_path: Path, tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    long_rows().to_parquet(tmp_path / "data.parquet")
    args = ["--dataset", str(tmp_path / "data.parquet"), "--model_name_or_path", str(tiny_model), *QUICK]
    args += ["--use_cpu", "true", "--bf16", "false", "--report_to", "none", "--save_strategy", "no", *LINEAR]
    if recipe is sft_sensibility:
        args += ["--empathy_exclude", "none", "--empathy_keep", "sensibility,rationality,balanced,low,tie"]
    else:
        args += ["--empathy_policy", "gate", "--empathy_policy_options", '{"unscored": "keep"}']
        args[-1] = '{"keep": ["sensibility", "rationality", "balanced", "low", "tie"]}'
    out = tmp_path / "out"
    run(recipe, *args, "--max_length", "60", "--output_dir", str(out))
    assert "6 of 12 samples are not trained on: --max_length 60 leaves nothing of their replies" in caplog.text
    assert "--truncation_mode keep_end" in caplog.text
    record = "selection/selection.json" if recipe is sft_sensibility else "rows/rows.json"
    assert json.loads((out / record).read_text())["not_trained_on"] == 6
    assert (
        "6 of them were not trained on: `max_length` left nothing of their replies." in (out / "README.md").read_text()
    )
    if recipe is sft_sensibility:
        with pytest.raises(EmpathyError, match="12 of 12 samples are not trained on"):
            run(recipe, *args, "--max_length", "5", "--output_dir", str(tmp_path / "none"))


def test_a_type_that_the_cpu_only_emulates_is_not_used(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(encoder, "computes_in_bfloat16", lambda: False)
    args = ["--model_name_or_path", str(tiny_model), "--use_cpu", "true", "--bf16", "false", "--report_to", "none"]
    run(sft_sensibility, *args, *LINEAR, *QUICK, "--dtype", "bfloat16", "--output_dir", str(tmp_path))
    assert "This CPU only emulates bfloat16, many times slower: the model computes in float32 here." in caplog.text
    saved = load_file(next(tmp_path.glob("*.safetensors")))
    assert {weight.dtype for weight in saved.values()} == {torch.float32}
