"""
Kills recipes, `ee-trl distill --overwrite` and `ee-trl compose`, at random and at chosen moments, and repeats them.

    python tests/siege/kills.py --random 50 --aimed 20

A random kill comes at any time of a run, and a third of the repeated runs is killed again. An aimed kill comes at one
of the run's own changes of files (to open one for writing, to rename, remove or make one); in a third of those that
open a file, its beginning is written first. Afterwards the same command must end as if nothing had happened: the same
weights, bit for bit, the same draws, nothing half written in the folder, no data left in the temporary folder.

The libraries are imported once; each run is a fork. Prints what was done as a table; exits with 1 if anything failed.
"""

from __future__ import annotations

import argparse
import atexit
import json
import os
import random
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any


ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "0",
}
HANGS = 300.0  # seconds after which a run of a few steps is given up
ENDS_OTHERS = 0.05  # seconds between the kill of one process of a launch and of the others
CHANGES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree")

EVERY = ["--max_steps", "6", "--save_steps", "2", "--save_total_limit", "2", "--logging_steps", "2", "--seed", "1"]
EVERY += ["--disable_tqdm", "true", "--use_cpu", "true", "--bf16", "false", "--report_to", "none"]
EVERY += ["--per_device_train_batch_size", "2", "--gradient_checkpointing", "false", "--learning_rate", "1e-2"]
EVERY += ["--empathy_scorer", "linear"]
ONLINE = ["--empathy_floor", "0.1", "--empathy_warmup", "1"]
PACKED = ["--packing", "true", "--max_length", "64"]
PLAIN = ["--max_length", "128"]
WORKERS = ["--dataloader_num_workers", "2"]


@dataclass(frozen=True)
class Case:
    """A command that is killed; `{work}` in its arguments is the folder of data and models."""

    name: str
    recipe: str
    args: tuple[str, ...]
    processes: int = 1


def cases() -> list[Case]:
    """All policies, packed or not, with and without data workers, in one and two processes, and the other recipes."""
    found = []
    policies = ["soft", "loss_aware", "bandit", "sensibility", "curriculum", "column", "gate", "rationality"]
    for number, policy in enumerate(policies):
        rows, workers = PACKED if number % 2 else PLAIN, WORKERS if number // 2 % 2 else []
        options = ["--empathy_policy_options", '{"column": "weight"}'] if policy == "column" else []
        name = f"{policy}{', packed' * (rows is PACKED)}{', 2 workers' * bool(workers)}"
        args = (*ONLINE, "--empathy_policy", policy, *options, *rows, *workers, "--dataset", "{work}/scored.parquet")
        found.append(Case(name, "sft_online", args))
    two = (*ONLINE, "--empathy_policy", "loss_aware", "--dataset", "{work}/scored.parquet")
    unscored = (*ONLINE, *PLAIN, "--empathy_policy", "soft", "--dataset", "{work}/dialogues.parquet")
    found[2:2] = [
        Case("loss_aware, 2 processes", "sft_online", (*two, *PLAIN), 2),
        Case("soft, scored ahead", "sft_online", unscored),
        Case("expert", "sft_sensibility", (*PLAIN, "--dataset", "{work}/dialogues.parquet")),
        Case(
            "router", "sft_moe", (*PLAIN, "--dataset", "{work}/scored.parquet", "--model_name_or_path", "{work}/moe")
        ),
    ]
    return [
        *found,
        Case("loss_aware, packed, 2 processes", "sft_online", (*two, *PACKED), 2),
        Case("loss_aware, 2 workers, 2 processes", "sft_online", (*two, *PLAIN, *WORKERS), 2),
    ]


# ---- in the child --------------------------------------------------------------------------------------------------


class Changes:
    """Counts a process's own changes of files in a folder, and kills it at one of them."""

    def __init__(self, folder: Path, at: int | None, half: bool) -> None:
        self.folder, self.at, self.half, self.seen, self.busy = str(folder), at, half, list[str](), False
        sys.addaudithook(self)

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if self.busy or event not in CHANGES or not str(args[0]).startswith(self.folder):
            return
        if event == "open" and not (set(str(args[1])) & set("wax+") or (args[1] is None and args[2] & 3)):
            return
        self.busy = True
        number, path = len(self.seen), str(args[0])
        self.seen.append(f"{event} {re.sub(r'partial-.*', 'partial', path.removeprefix(self.folder))}")
        if number == self.at:
            if self.half and event == "open":
                Path(path).write_text('{"epoch": 0.2', encoding="utf-8")
            os.kill(os.getpid(), signal.SIGKILL)
        self.busy = False


def child(work: Callable[[], None], log: Path, temporary: Path, env: dict[str, str], watch: Callable[[], Any]) -> int:
    """Forks; the child works with its output in a log, and ends as a process of its own would."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    atexit._clear()  # what the parent would do at its end
    try:
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        os.environ |= {"TMPDIR": str(temporary), "PYTHONWARNINGS": "ignore", **env}
        tempfile.tempdir = str(temporary)
        changes = watch()
        work()
        if changes is not None:
            log.with_suffix(".changes").write_text(json.dumps(changes.seen))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(code)


# ---- what is killed ------------------------------------------------------------------------------------------------


@dataclass
class Siege:
    """The runs, and what came of them."""

    work: Path
    chance: random.Random
    done: list[tuple[str, str, str]] = field(default_factory=list)  # what, kind of kill, "same" or what went wrong

    def __post_init__(self) -> None:
        self.temporary = self.work / "tmp"
        self.temporary.mkdir()
        self.numbers = iter(range(10**6))

    def start(self, name: str, work: Callable[[], None], folder: Path, processes: int, at: Any = None) -> list[int]:
        """Starts a command in forks; `at` is the change to be killed at, and whether it is half done."""
        log = self.work / f"{name}.log"
        if processes == 1:
            return [child(work, log, self.temporary, {}, lambda: Changes(folder, *(at or (None, False))))]
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        common = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1"}
        common |= {"MASTER_PORT": str(port)}
        return [
            child(
                work, log, self.temporary, common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                lambda first=not rank: Changes(folder, *(at or (None, False))) if first else None,
            )
            for rank in range(processes)
        ]  # fmt: skip

    def end(self, pids: list[int], after: float | None = None) -> str:
        """Waits for a command, or kills it after some seconds; `"0"`, `"killed"`, or what went wrong."""
        left, codes, killed, started = list(pids), list[int](), False, time.monotonic()
        while left:
            for pid in list(left):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    left.remove(pid)
                    codes.append(os.waitstatus_to_exitcode(status))
            passed = time.monotonic() - started
            dead = any(code == -signal.SIGKILL for code in codes)
            if left and (dead or passed > HANGS or (after is not None and passed > after)):
                victim = self.chance.choice(left)
                os.kill(victim, signal.SIGKILL)  # as torchrun does, when one of its processes dies
                killed = True
                time.sleep(ENDS_OTHERS)
                if passed > HANGS:
                    return "hung"
            time.sleep(0.005)
        if killed or -signal.SIGKILL in codes:
            return "killed"
        return "0" if not any(codes) else f"exit codes {codes}"

    def besiege(self, what: str, kind: str, case: Any, moments: list[Any]) -> None:
        """Runs a command that is killed at some moments, one after the other, and then not; notes the outcome."""
        folder = self.work / f"run{next(self.numbers)}"
        case.prepare(folder)
        told, problem = [], ""
        for moment in [*moments, None]:
            aimed = moment if isinstance(moment, tuple) else None
            pids = self.start(
                folder.name, lambda: case.work(folder), folder.parent / folder.name, case.processes, aimed
            )
            outcome = self.end(pids, moment if isinstance(moment, float) else None)
            told.append(outcome)
            if outcome not in ("0", "killed"):
                break
            if problem := case.between(folder):
                break
        else:
            problem = case.differs(folder) or ", ".join(sorted(p.name for p in self.temporary.glob("ee-trl-*")))
        result = problem or (f"ended with {told[-1]}" if told[-1] != "0" else "same")
        late = "0" in told[:-1] and "killed" not in told
        self.done.append((what, f"{kind}{' (after the end)' * late}", result))
        print(f"{what}: {case.name}: {kind} {moments} -> {told}: {result}", flush=True)
        if result == "same":
            shutil.rmtree(folder, ignore_errors=True)


class Training:
    """A recipe, and what it gives when nobody kills it."""

    def __init__(self, siege: Siege, case: Case) -> None:
        self.siege, self.case, self.name, self.processes = siege, case, case.name, case.processes
        self.whole = siege.work / f"whole{next(siege.numbers)}"
        started = time.monotonic()
        outcome = siege.end(siege.start(self.whole.name, lambda: self.work(self.whole), self.whole, case.processes))
        self.seconds = time.monotonic() - started
        if outcome != "0":
            raise RuntimeError(
                f"{case.name}: {outcome}:\n{(siege.work / f'{self.whole.name}.log').read_text()[-3000:]}"
            )
        self.changes: list[str] = json.loads((siege.work / f"{self.whole.name}.changes").read_text())

    def prepare(self, folder: Path) -> None:
        """Nothing is there."""

    def work(self, folder: Path) -> None:
        """The command."""
        from ee_trl.training.command_line import parse_recipe_args

        recipe = sys.modules[f"ee_trl.recipes.{self.case.recipe}"]
        args = [arg.replace("{work}", str(self.siege.work)) for arg in self.case.args]
        model = [] if "--model_name_or_path" in args else ["--model_name_or_path", str(self.siege.work / "model")]
        recipe.main(*parse_recipe_args(recipe.make_parser(), [*EVERY, *model, *args, "--output_dir", str(folder)]))

    def between(self, folder: Path) -> str:
        """What is wrong after a kill: nothing can be said yet."""
        return ""

    def differs(self, folder: Path) -> str:
        """What differs from the run that nobody killed."""
        import pyarrow.parquet as pq

        from ee_trl.online.checkpoints import fault_of

        wrong = [f"{path.name} is left" for path in folder.rglob(".*partial*")]
        names = [path.name for path in self.whole.glob("*.safetensors")]
        names += [name for name in ("empathy_history.json",) if (self.whole / name).exists()]
        wrong += [f"{name} differs" for name in names if not same(self.whole / name, folder / name)]
        draws = "empathy_draws.parquet"
        if (self.whole / draws).exists() and not pq.read_table(self.whole / draws).equals(
            pq.read_table(folder / draws)
        ):
            wrong.append(f"{draws} differs")
        kept, own = ({path.name for path in run.glob("checkpoint-*")} for run in (self.whole, folder))
        wrong += [f"no {name}" for name in kept - own]  # a kill may keep one more from being removed
        faults = {name: fault_of(folder / name, self.processes) for name in own}
        return ", ".join(wrong + [f"{name}: {fault}" for name, fault in faults.items() if fault])


class Command(Training):
    """`ee-trl distill --overwrite` of an old scorer, or `ee-trl compose`: the folder is the old one or the new one."""

    def prepare(self, folder: Path) -> None:
        """For distillation, the old scorer is there."""
        folder.mkdir()
        if self.case.recipe == "distill":
            shutil.copytree(self.siege.work / "scorer", folder / "made")

    def work(self, folder: Path) -> None:
        """The command."""
        from ee_trl.cli.main import main

        folder.mkdir(exist_ok=True)
        args = [arg.replace("{work}", str(self.siege.work)) for arg in self.case.args]
        if (self.case.recipe == "compose" and (folder / "made").exists()) or (
            code := main([*args, str(folder / "made")])
        ) == 0:
            return
        raise SystemExit(code)

    def between(self, folder: Path) -> str:
        """What is there after a kill, where it is neither the old nor the new."""
        found = content(folder / "made")
        valid = [content(self.whole / "made"), {}]
        valid += [content(self.siege.work / "scorer")] if self.case.recipe == "distill" else []
        return "" if found in valid else "a mixture of old and new is there"

    def differs(self, folder: Path) -> str:
        """What differs from the command that nobody killed."""
        wrong = [f"{path.name} is left" for path in folder.rglob(".*partial*")]
        return ", ".join(wrong + (["it differs"] if content(folder / "made") != content(self.whole / "made") else []))


def content(folder: Path) -> dict[str, str]:
    """The digest of each file; reports tell how long something took."""
    paths = [path for path in folder.glob("*") if path.is_file() and not path.name.startswith(("report", "README"))]
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in paths}


def same(one: Path, other: Path) -> bool:
    return other.exists() and one.read_bytes() == other.read_bytes()


# ---- the siege -----------------------------------------------------------------------------------------------------


def prepare(work: Path) -> None:
    """Data, models and the old scorer."""
    import tiny_encoder
    from datasets import Dataset

    from ee_trl import EmpathyDataSelector, build_tiny_causal_lm, compose_moe, distill, load_sample

    dialogues = load_sample().select(range(16))
    dialogues.to_parquet(work / "dialogues.parquet")
    scored: Any = EmpathyDataSelector("linear", store=False, show_progress=False).score(dialogues)
    rows = [{**row, "weight": i % 3 + 0.5, "sensibility": i * 7 % 11, "rationality": i * 5 % 11}
            for i, row in enumerate(scored.to_list())]  # fmt: skip
    Dataset.from_list(rows).to_parquet(work / "scored.parquet")
    small: Any = {"hidden_size": 32, "num_hidden_layers": 1, "vocab_size": 600}
    models = [build_tiny_causal_lm(work / name, seed=seed, **small) for seed, name in enumerate(("model", "a", "b"))]
    compose_moe(models[0], {"sensibility": models[1], "rationality": models[2]}, work / "moe")
    judged: Any = EmpathyDataSelector("linear", store=False, show_progress=False).score(
        load_sample().select(range(60))
    )
    judged.to_parquet(work / "judged.parquet")
    encoder = tiny_encoder.tiny_encoder(work / "encoder")
    distill(work / "judged.parquet", encoder, work / "scorer", method="frozen", epochs=1, bf16=False, seed=1)


def commands() -> list[Case]:
    fit = ("--method", "frozen", "--epochs", "1", "--no-bf16", "--held-out", "0.3", "--overwrite", "-q", "-o")
    made = ("-e", "sensibility={work}/a", "-e", "rationality={work}/b", "--max-shard-size", "50KB", "-o")
    return [
        Case(
            "distill --overwrite", "distill", ("distill", "{work}/judged.parquet", "--encoder", "{work}/encoder", *fit)
        ),
        Case("compose", "compose", ("compose", "{work}/model", *made)),
    ]


def aims(chance: random.Random, run: Training) -> Iterator[tuple[int, bool]]:
    """Changes to be killed at: each kind of change once, in a random order, then again."""
    kinds: dict[str, list[int]] = {}
    for number, change in enumerate(run.changes):
        kinds.setdefault(re.sub(r"\d+", "N", change), []).append(number)
    while True:
        for numbers in chance.sample(list(kinds.values()), len(kinds)):
            yield chance.choice(numbers), chance.random() < 1 / 3


def main() -> int:
    """Besieges everything, and prints what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().split("\n\n")[0])
    parser.add_argument("--random", type=int, default=50, help="random kills of recipes (default: 50)")
    parser.add_argument("--aimed", type=int, default=20, help="aimed kills of recipes (default: 20)")
    parser.add_argument("--commands", type=int, default=10, help="kills of distill and of compose, each (default: 10)")
    parser.add_argument("--cases", type=int, help="of the recipes, only the first so many cases")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    import torch

    from ee_trl.recipes import sft_moe, sft_online, sft_sensibility  # noqa: F401
    from ee_trl.reports import draws, plane

    torch.set_num_threads(1)
    draws.draw_draws = lambda *args: None  # a picture takes longer than these trainings
    plane.save_figure = lambda *args: None
    with tempfile.TemporaryDirectory(prefix="siege-") as folder:
        os.environ |= {"EE_TRL_CACHE": f"{folder}/cache", "HF_DATASETS_CACHE": f"{folder}/hf"}
        siege = Siege(Path(folder), random.Random(args.seed))
        pid = child(lambda: prepare(siege.work), siege.work / "prepare.log", siege.temporary, {}, lambda: None)
        if siege.end([pid]) != "0":
            print((siege.work / "prepare.log").read_text()[-3000:])
            return 1
        besiege_recipes(siege, cases()[: args.cases], args.random, args.aimed)
        for case in commands() if args.commands else []:
            run, aim = Command(siege, case), iter(())
            aim = aims(siege.chance, run)
            for number in range(args.commands):
                aimed = number % 2 == 0
                moment = next(aim) if aimed else siege.chance.uniform(0.5, 1) * run.seconds
                siege.besiege(case.name, "aimed" if aimed else "random", run, [moment])
    table = Counter((what, kind, result) for what, kind, result in siege.done)
    for (what, kind, result), times in sorted(table.items()):
        print(f"| {what} | {kind} | {times} | {result} |")
    return any(result != "same" for _, _, result in siege.done)


def besiege_recipes(siege: Siege, chosen: list[Case], randomly: int, aimed: int) -> None:
    """Each case in turn, until there were so many random and so many aimed kills, mixed."""
    run_of = cache(lambda case: Training(siege, case))
    aim_of = cache(lambda case: aims(siege.chance, run_of(case)))
    kinds = siege.chance.sample(["random"] * randomly + ["aimed"] * aimed, randomly + aimed)
    for number, kind in enumerate(kinds):
        case = chosen[number % len(chosen)]
        run, times = run_of(case), 1 + (siege.chance.random() < 1 / 3)
        moments: list[Any] = [siege.chance.uniform(0, 1.05) * run.seconds for _ in range(times)]
        if kind == "aimed":
            moments = [next(aim_of(case))]
            print(f"aimed at {run.changes[moments[0][0]]}{', half written' * moments[0][1]}")
        siege.besiege(f"{case.recipe}, {case.processes} process{'es' * (case.processes > 1)}", kind, run, moments)


if __name__ == "__main__":
    sys.exit(main())
