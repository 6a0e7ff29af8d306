"""The command line, as a user and as a machine would use it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ee_trl.cli.main import COMMANDS, build_parser, main
from ee_trl.data.sample import load_sample
from ee_trl.data.tables import read_metadata


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the embedded sample as a file, and its scores."""
    folder = tmp_path_factory.mktemp("cli")
    load_sample().to_parquet(folder / "dialogues.parquet")
    assert (
        main(
            [
                "score",
                str(folder / "dialogues.parquet"),
                "-o",
                str(folder / "scored.parquet"),
                "--scorer",
                "linear",
                "-q",
            ]
        )
        == 0
    )
    return folder


def run_json(capsys: pytest.CaptureFixture[str], *args: str) -> dict:
    assert main([*args, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def commands() -> list[str]:
    return list(COMMANDS)


@pytest.mark.parametrize("command", commands())
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        build_parser().parse_args([command, "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert f"example:\n  ee-trl {command}" in out
    example = out.split("example:\n")[1].split()
    if command != "recipes":
        build_parser().parse_args(example[1:])  # the example is a valid command line


def test_top_level_help_lists_commands_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    assert all(command in out for command in commands())
    assert "exit codes" in out


def test_help_is_quick_and_imports_no_torch() -> None:
    code = (
        "import sys\nfrom ee_trl.cli.main import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'datasets', 'pyarrow')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=20)


def test_score_writes_every_listener_turn_with_metadata(folder: Path) -> None:
    table = pq.read_table(folder / "scored.parquet")
    replies = sum(message["role"] == "assistant" for messages in load_sample()["messages"] for message in messages)
    assert table.num_rows == replies
    assert {"sensibility", "rationality", "score_status", "scorer", "quadrant", "turn"} <= set(table.column_names)
    made_by = read_metadata(folder / "scored.parquet")
    assert made_by is not None
    assert made_by["scorer"].startswith("linear-1/sha256:")
    assert made_by["threshold"] == [5.0, 5.0]
    assert {"ee-trl", "numpy"} <= set(made_by["versions"])


def test_score_and_summary_agree(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scored = run_json(
        capsys,
        "score",
        str(folder / "dialogues.parquet"),
        "-o",
        str(folder / "again.parquet"),
        "--scorer",
        "linear",
        "-q",
    )
    summary = run_json(capsys, "summary", str(folder / "scored.parquet"))
    assert {k: summary[k] for k in ("rows", "scored", "quadrants")} == {
        k: scored[k] for k in ("rows", "scored", "quadrants")
    }
    assert main(["summary", str(folder / "scored.parquet")]) == 0
    out = capsys.readouterr().out
    assert "lonely" in out
    assert "sensibility" in out


def test_jsonl_out_is_the_same_as_parquet_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "scored.jsonl"
    assert main(["score", str(folder / "dialogues.parquet"), "-o", str(out), "--scorer", "linear", "-q"]) == 0
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert rows == pq.read_table(folder / "scored.parquet").to_pylist()
    assert read_metadata(out) == {**(read_metadata(folder / "scored.parquet") or {})}


def test_select_counts_every_reason_and_writes_what_was_dropped(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, dropped = folder / "kept.parquet", folder / "dropped.jsonl"
    args = ("select", str(folder / "scored.parquet"), "-o", str(kept), "--dropped", str(dropped))
    counts = run_json(capsys, *args)["counts"]
    rows = pq.read_table(kept)
    assert rows.num_rows == counts.pop("kept") > 0
    assert set(rows.column("quadrant").to_pylist()) == {"sensibility"}
    assert rows.column("prompt").to_pylist()[0][0]["role"] == "user"
    reasons = [json.loads(line)["drop_reason"] for line in dropped.read_text(encoding="utf-8").splitlines()]
    assert {reason: reasons.count(reason) for reason in set(reasons)} == counts


def test_length_is_controlled_on_request(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scored, out = str(folder / "scored.parquet"), folder / "controlled.parquet"
    plain = run_json(capsys, "select", scored, "-o", str(folder / "plain.parquet"))
    found = run_json(capsys, "select", scored, "-o", str(out), "--control", "length", "--card", "--overwrite")
    assert found["counts"]["kept"] == plain["counts"]["kept"]
    assert found["settings"] == {**plain["settings"], "control": "length"}
    assert found["lengths"]["distance"] < 0.1
    assert "lengths" not in plain
    assert read_metadata(out)["control"] == "length"
    assert "chosen in bins of reply length" in (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("rule", ["top", "random", "longest"])
def test_baselines_are_of_equal_size(rule: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scored, out = str(folder / "scored.parquet"), str(folder / f"{rule}.parquet")
    expected = run_json(capsys, "select", scored, "-o", str(folder / f"t-{rule}.parquet"))["counts"]["kept"]
    assert run_json(capsys, "select", scored, "-o", out, "--rule", rule)["counts"]["kept"] == expected


def test_sweep_table_and_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = run_json(capsys, "sweep", str(folder / "scored.parquet"), "--grid", "3:7:0.5")["sweep"]
    assert [row["threshold"] for row in rows] == [3, 3.5, 4, 4.5, 5, 5.5, 6, 6.5, 7]
    parts = ("sensibility", "rationality", "balanced", "low", "tie")
    assert all(abs(sum(row[f"{name}_share"] for name in parts) - 1) < 1e-9 for row in rows)
    assert main(["sweep", str(folder / "scored.parquet"), "--plot", str(folder / "plane.png")]) == 0
    assert (folder / "plane.png").read_bytes().startswith(b"\x89PNG")


def test_an_output_that_is_there_is_not_overwritten(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (folder / "scored.parquet").read_bytes()
    args = [
        "score",
        str(folder / "dialogues.parquet"),
        "-o",
        str(folder / "scored.parquet"),
        "-t",
        "4",
        "--scorer",
        "linear",
        "-q",
    ]
    assert main(args) == 3
    assert "--overwrite" in capsys.readouterr().err
    assert (folder / "scored.parquet").read_bytes() == before


def test_overwrite_of_the_input_itself(folder: Path) -> None:
    path = folder / "inplace.parquet"
    path.write_bytes((folder / "scored.parquet").read_bytes())
    assert main(["score", str(path), "-o", str(path), "--overwrite", "--scorer", "linear", "-q"]) == 0
    assert pq.read_table(path).equals(pq.read_table(folder / "scored.parquet"))


def test_a_failure_leaves_no_file_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = folder / "never.parquet"

    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ee_trl.scoring.run.ScoringRun.score", interrupted)
    assert main(["score", str(folder / "dialogues.parquet"), "-o", str(out), "--scorer", "linear", "-q"]) == 130
    assert not out.exists()
    assert not [p for p in folder.iterdir() if "partial" in p.name]


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["score", "nope.parquet", "-o", "{out}"], 3, "no such file"),
        (["score", "{dialogues}", "--scorer", "./nope", "-o", "{out}"], 3, "there is no folder './nope'"),
        (["score", "{dialogues}", "--scorer", "a..b/nope", "-o", "{out}"], 3, "is neither a folder nor a hub id"),
        (["score", "{scored}", "-o", "x.csv"], 3, ".parquet, .jsonl"),
        (["score", "{scored}", "-o", "{out}", "--scorer", "linaer"], 3, "Did you mean 'linear'?"),
        (["score", "{scored}", "-o", "{out}", "-t", "11"], 3, "[0, 10]"),
        (["select", "{scored}", "-o", "{out}", "--keep", "sensiblity"], 3, "Did you mean 'sensibility'?"),
        (["select", "{scored}", "-o", "{out}", "--n", "3"], 3, "rule='top'"),
        (["select", "{dialogues}", "-o", "{out}"], 3, "ee-trl score"),
        (["select", "{scored}", "-o", "{out}", "-t", "10"], 4, "nothing selected"),
        (["sweep", "{scored}", "--grid", "a"], 3, "1:9:0.5"),
        (["sweep", "{scored}", "--plot", "x.bmp"], 3, ".png"),
        (["score", "{scored}", "-o", "{out}", "--split", "test"], 3, "no split"),
    ],
)
def test_errors_say_what_is_wrong_and_have_their_code(
    args: list[str], code: int, said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {
        "out": folder / "error.parquet",
        "scored": folder / "scored.parquet",
        "dialogues": folder / "dialogues.parquet",
    }
    assert main([arg.format(**names) for arg in args]) == code
    assert said in capsys.readouterr().err
    assert not names["out"].exists()


def test_an_unwritable_place_has_its_own_code(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "file").write_text("in the way")
    out = folder / "file" / "out.parquet"
    assert main(["score", str(folder / "dialogues.parquet"), "-o", str(out), "--scorer", "linear", "-q"]) == 5
    assert capsys.readouterr().err.strip().endswith(str(folder / "file"))


def test_recipes_copy_gives_running_scripts_and_keeps_what_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recipes", "copy", str(tmp_path / "r")]) == 0
    names = {str(p.relative_to(tmp_path / "r")) for p in (tmp_path / "r").rglob("*.*")}
    assert {"sft_sensibility.py", "configs/tiny_cpu.yaml", "accelerate/fsdp2.yaml", "README.md"} <= names
    (tmp_path / "r" / "sft_sensibility.py").write_text("# mine")
    assert main(["recipes", "copy", str(tmp_path / "r")]) == 3
    assert (tmp_path / "r" / "sft_sensibility.py").read_text() == "# mine"
    capsys.readouterr()
    assert main(["recipes", "list"]) == 0
    assert "sft_sensibility.py" in capsys.readouterr().out


def test_output_cut_off_by_head_is_no_error(folder: Path) -> None:
    command = f"{sys.executable} -m ee_trl.cli.main summary {folder / 'scored.parquet'} | head -n 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_the_aspects_and_kinds_of_human_sheets_are_those_of_the_package() -> None:
    from ee_trl.human.sheets import ASPECTS, KINDS

    args = build_parser().parse_args(["human", "export", "test.parquet", "-o", "study"])
    assert args.aspects.split(",") == list(ASPECTS)
    for kind in KINDS:
        assert build_parser().parse_args(["human", "export", "x", "-o", "y", "--kind", kind]).kind == kind
    with pytest.raises(SystemExit):
        build_parser().parse_args(["human", "export", "x", "-o", "y", "--kind", "abc"])


def test_evaluate_human_and_train_epitome_read_what_score_reads(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [("question", "answer"), *((f"I’m sad {i}.", f"That’s hard {i}.") for i in range(4))]
    Path("a.csv").write_text("\n".join(",".join(row) for row in rows), encoding="cp1252")
    Path("replies.txt").write_text("\n".join(f"Oh {i}." for i in range(4)), encoding="utf-8")
    reading = "--encoding cp1252 --map question=context --map answer=response --predictions replies.txt"
    measured = "--metrics word_f1 --tokenizer whitespace --scorer linear --no-store -q -o report"
    assert main(["evaluate", "a.csv", *reading.split(), *measured.split()]) == 0
    assert json.loads(Path("report/report.json").read_text())["dataset"]["n"] == 4
    assert main(["human", "export", "a.csv", *reading.split(), "--references", "--n", "4", "-o", "study"]) == 0
    assert "That’s hard 3." in Path("study/sheet-1.csv").read_text(encoding="utf-8")
    levels = "emotional_reactions,interpretations,explorations"
    posts = [f"post,reply,{levels}", *(f"I’m sad {i},Oh {i},{i % 3},{i % 3},{i % 3}" for i in range(9))]
    Path("posts.csv").write_text("\n".join(posts), encoding="cp1252")
    names = ["--encoding", "cp1252", "--map", "post=seeker_post", "--map", "reply=response_post"]
    assert main(["train-epitome", "posts.csv", *names, "--folds", "0", "-o", "epitome"]) == 0
