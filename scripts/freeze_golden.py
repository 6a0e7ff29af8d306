"""Writes `tests/golden/`: what version 0.1.0 scored, stored, trained and printed; `tests/test_golden.py` checks it.

It was run once with version 0.1.0, before the package was restructured. Running it again breaks the scores that users
have stored, the checkpoints and unfinished runs that they want to resume, or the commands and names that they use;
CHANGELOG.md must then say what changed and why.

    python scripts/freeze_golden.py              everything
    python scripts/freeze_golden.py scorers ...  some parts, of: models scorers store identities runs ...
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import sqlite3
import sys
import tempfile
from pathlib import Path
from typing import Any


os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="ee-trl-golden-")
os.environ["EE_TRL_CACHE"] = tempfile.mkdtemp(prefix="ee-trl-golden-")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import golden_cases as cases
from golden_cases import GOLDEN


def write(name: str, value: Any) -> None:
    """Writes JSON, one line for each entry of the outer mapping."""
    (GOLDEN / name).parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{json.dumps(key)}: {json.dumps(item, ensure_ascii=False)}" for key, item in value.items()]
    (GOLDEN / name).write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


# ---- models and scorers --------------------------------------------------------------------------------------------


def models() -> None:
    """Writes small random models; they are stored, since a later library may draw or write them differently."""
    import torch
    from datasets import Dataset
    from tiny_encoder import tiny_encoder
    from transformers import AutoModelForCausalLM

    from ee_trl import EmpathyDataSelector, build_tiny_causal_lm, compose_moe, distill, load_sample

    size = {"vocab_size": 272, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    with tempfile.TemporaryDirectory() as made:
        folder, work = Path(made) / "models", Path(made) / "work"
        base = build_tiny_causal_lm(folder / "base", **(size | {"hidden_size": 8}))
        config = json.loads((base / "config.json").read_text())
        (base / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.1}))

        build_tiny_causal_lm(folder / "judge", max_position_embeddings=8192, seed=1, **size)
        judge = AutoModelForCausalLM.from_pretrained(folder / "judge")
        with torch.no_grad():  # make the answers of the fresh model differ from text to text
            for weight in judge.parameters():
                if weight.ndim > 1:
                    weight.mul_(25)
        judge.save_pretrained(folder / "judge")

        scored = EmpathyDataSelector(cases.Own(), store=False, show_progress=False).score(load_sample())
        scored = Dataset.from_list(scored.select(range(200)).to_list())
        tiny_encoder(work / "encoder", scale=6.0)
        distill(scored, work / "encoder", folder / "encoder", epochs=1, max_length=64, learning_rate=1e-3)
        for path in (folder / "encoder").iterdir():
            if path.name.startswith("report.") or path.name == "README.md":
                path.unlink()

        small = size | {"hidden_size": 8}
        experts = {name: build_tiny_causal_lm(work / name, seed=i, **small) for i, name in enumerate("ab", start=2)}
        compose_moe(experts["a"], experts, folder / "mixture")
        shutil.rmtree(work)
        cases.pack(folder, GOLDEN / "models.tar.xz")


def unpacked() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="ee-trl-golden-"))
    return cases.unpack("models.tar.xz", folder)


def scorers() -> None:
    folder = unpacked()
    write("scorers.json", {name: cases.scores_of(name, folder) for name in cases.SCORERS})
    tiny = cases.tiny_model(folder / "tiny")
    write("fingerprints.json", {"FEATURE_VERSION": feature_version(), "rubrics": cases.rubrics(), "tiny model": tiny})


def feature_version() -> Any:
    from test_golden import internal

    return internal("FEATURE_VERSION")


# ---- the score store -----------------------------------------------------------------------------------------------


def store() -> None:
    """Writes one score store of several scorers, and its rows."""
    folder, rows = unpacked(), {}
    path = folder / "scores.sqlite"
    for name in cases.STORED:
        with cases.made(name, folder) as scorer:
            rows[name] = cases.columns(cases.stored(scorer, path))
    target = GOLDEN / "store" / "scores.sqlite"
    target.parent.mkdir(exist_ok=True)
    target.unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as db:  # one file, without the side files of an open one
        db.execute("VACUUM INTO ?", (str(target),))
    write("store/rows.json", rows)


# ---- recipes -------------------------------------------------------------------------------------------------------


def runs() -> None:
    """Writes runs killed after a checkpoint, and the outcome of the same runs without a kill."""
    (GOLDEN / "runs").mkdir(exist_ok=True)
    found = {}
    for name, (recipe, options) in cases.RUNS.items():
        with tempfile.TemporaryDirectory() as made, contextlib.chdir(cases.workplace(Path(made))):
            cases.recipe(recipe, *options)
            found[name] = cases.outcome(Path("run"))
            shutil.rmtree("run")
            cases.recipe(recipe, *options, stop_at=cases.STOP_AT)
            if recipe == "sft_online":
                found[name]["state"] = cases.shape(cases.online_state(Path("run/checkpoint-3")))
            for picture in Path("run").rglob("*.png"):
                picture.unlink()
            cases.pack(Path("run"), GOLDEN / "runs" / f"{name}.tar.xz")
    write("runs/outcomes.json", found)


def records() -> None:
    """Writes the records by which runs recognise themselves when they resume."""
    with tempfile.TemporaryDirectory() as made, contextlib.chdir(cases.workplace(Path(made))):
        write("runs/records.json", {name: cases.record(*of) for name, of in cases.RECORDS.items()})


def pipeline() -> None:
    """Writes a run of the whole method, killed before its last stages."""
    with tempfile.TemporaryDirectory() as made, contextlib.chdir(cases.workplace(Path(made))):
        cases.recipe("efficient_empathy", *cases.PIPELINE)
        write("runs/stages.json", cases.stages(Path("run")))
        for path in Path("run").iterdir():
            if path.is_file() or path.name.startswith(("router", "evaluate_")):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for pattern in (".stages/router*", ".stages/evaluate_*", "**/*.png", "*/training_args.bin"):
            for path in Path("run").glob(pattern):
                path.unlink()
        for path in Path("run").glob("*/expert_run.json"):  # not looked at once a stage is done
            path.write_text(path.read_text().replace(str(Path.cwd()), "/somewhere"))
        cases.pack(Path("run"), GOLDEN / "runs" / "efficient_empathy.tar.xz")


# ---- names and numbers ---------------------------------------------------------------------------------------------


def names() -> None:
    write("names.json", cases.names())


def metrics() -> None:
    with contextlib.chdir(unpacked()):
        write("metrics.json", {name: cases.metric(name) for name in [*cases.names()["metrics"], "judge pairwise"]})


# ---- commands ------------------------------------------------------------------------------------------------------


def commands() -> None:
    """Writes what every command prints and writes, after the files that the commands read."""
    files = GOLDEN / "files"
    shutil.rmtree(files, ignore_errors=True)
    files.mkdir()
    with tempfile.TemporaryDirectory() as made, contextlib.chdir(cases.desk(Path(made))):
        cases.command("score")
        shutil.copyfile("scored.parquet", files / "scored.parquet")
        cases.command("human export")
        for number in (1, 2):
            text = Path(f"study/sheet-{number}.csv").read_text(encoding="utf-8-sig")
            rows = list(csv.DictReader(io.StringIO(text, "")))
            aspects = json.loads(Path("study/key.json").read_text())["aspects"]
            with open(f"study/answers-{number}.csv", "w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                for i, row in enumerate(rows):
                    writer.writerow({**row, **{a: ["A", "B", "tie"][(i + k) % 3] for k, a in enumerate(aspects)}})
        for path in Path("study").glob("*.html"):
            path.unlink()
        shutil.copytree("study", files / "study")
    found = {}
    for name in cases.COMMANDS:
        with tempfile.TemporaryDirectory() as made, contextlib.chdir(cases.desk(Path(made))):
            found[name] = cases.command(name)
    write("commands.json", found)


PARTS = {part.__name__: part for part in (models, scorers, store, runs, records, pipeline, names, metrics, commands)}


def main(names: list[str]) -> None:
    unknown = set(names) - set(PARTS)
    if unknown:
        sys.exit(f"unknown part {sorted(unknown)[0]!r}; valid: {', '.join(PARTS)}")
    GOLDEN.mkdir(exist_ok=True)
    for name in names or PARTS:
        print(f"{name} ...", flush=True)
        PARTS[name]()
    write("libraries.json", cases.libraries())


if __name__ == "__main__":
    main(sys.argv[1:])
