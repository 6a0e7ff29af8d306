"""
Time and peak memory of reading, scoring and selecting many rows, parquet in and out, beside `datasets` and pyarrow.

    python benchmarks/scale.py --rows 1000000 3000000 10000000 -o benchmarks/results/scale.json

The rows are made here: turns of the embedded sample, recombined and numbered, so that no two dialogues are alike. Each
command runs in a new process, on one core where it does not say otherwise. `anonymous_mib` is the most memory that
the process itself held, read 20 times a second (`RssAnon` of Linux); `ru_maxrss_mib` also counts pages of libraries
and mapped files. Measured at the smallest size alone: the Python API, the peers and text files. The peers are
`datasets` with the same scorer (`map`), its `filter`, which makes no `prompt` and `completion`, and the readers of
pyarrow, which change some values and refuse files with a broken line. `time_per_row` and `cpu_per_row`, which other
programs disturb less, are relative to that size: 1 if time is linear in the number of rows, less if start-up takes a
large part.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from ee_trl.files import package_versions, write_json


PROBE = """
import json, os, resource, threading, time
from pathlib import Path

if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:{cores}])

peak = [0]

def watch():
    while True:
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
        peak[0] = max(peak[0], int(line.split()[1]))
        time.sleep(0.05)

threading.Thread(target=watch, daemon=True).start()
start = time.perf_counter()
{code}
found = {{"seconds": round(time.perf_counter() - start, 2), "cpu_seconds": round(time.process_time(), 2)}}
found["anonymous_mib"] = round(peak[0] / 1024)
found["ru_maxrss_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print("PROBE " + json.dumps(found))
"""
COMMAND = "from ee_trl.cli.main import main\nassert main({args!r}) == 0"
PYTHON_API = """
from ee_trl import EmpathyDataSelector
selector = EmpathyDataSelector("linear", show_progress=False)
scored = selector.score({path!r})
subset = selector.select(scored, keep="sensibility")
print(len(scored), len(subset), subset[len(subset) - 1]["completion"])
"""


PEERS = {
    "datasets: map(scorer.score, batched=True)": """
import os
os.environ["HF_DATASETS_CACHE"] = {folder!r} + "/cache"
from datasets import load_dataset
from ee_trl import Dialogue, LinearScorer
scorer = LinearScorer()
def score(batch):
    pairs = zip(batch["context"], batch["response"])
    found = scorer.score([Dialogue(tuple(context), reply, ("user",) * len(context)) for context, reply in pairs])
    return {{"sensibility": found[:, 0], "rationality": found[:, 1]}}
rows = load_dataset("parquet", data_files={source!r}, split="train")
rows.map(score, batched=True).to_parquet({folder!r} + "/peer.parquet")
""",
    "datasets: filter": """
import os
os.environ["HF_DATASETS_CACHE"] = {folder!r} + "/cache"
from datasets import load_dataset
rows = load_dataset("parquet", data_files={scored!r}, split="train")
kept = rows.filter(lambda s, r: s > 5 and r < 5, input_columns=["sensibility", "rationality"])
kept.to_parquet({folder!r} + "/peer.parquet")
""",
    "open_dataset: JSON lines": "from ee_trl.data.reading import open_dataset\n"
    "open_dataset({folder!r} + '/rows.jsonl')",
    "pyarrow.json: JSON lines": "import pyarrow.json as reader\n"
    "reader.read_json({folder!r} + '/rows.jsonl', reader.ReadOptions(use_threads=False))",
    "open_dataset: CSV": "from ee_trl.data.reading import open_dataset\nopen_dataset({folder!r} + '/rows.csv')",
    "pyarrow.csv: CSV": "import pyarrow.csv as reader\n"
    "reader.read_csv({folder!r} + '/rows.csv', reader.ReadOptions(use_threads=False))",
}


def make_texts(source: Path) -> None:
    """The rows as JSON lines and as CSV, beside the parquet file."""
    import pandas as pd
    import pyarrow.parquet as pq

    for i, batch in enumerate(pq.ParquetFile(source).iter_batches(50_000)):
        rows: pd.DataFrame = batch.to_pandas()
        rows["context"] = [list(context) for context in rows["context"]]
        rows.to_json(source.with_name("rows.jsonl"), orient="records", lines=True, mode="a", force_ascii=False)
        rows["context"] = [" </s> ".join(context) for context in rows["context"]]
        rows.to_csv(source.with_name("rows.csv"), mode="a", index=False, header=i == 0)


def make_rows(path: Path, rows: int, batch: int = 20_000) -> None:
    """A parquet file of `rows` distinct dialogues in columns context, response, emotion and sample_id."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from ee_trl import load_sample

    sample = load_sample()
    felt = sample["emotion"][:]
    said = [m[0]["content"] for m in sample["messages"]]
    replies = [m["content"] for messages in sample["messages"] for m in messages if m["role"] == "assistant"]
    rng = np.random.default_rng(0)
    schema = pa.schema(
        {"sample_id": pa.int64(), "emotion": pa.string(), "context": pa.list_(pa.string()), "response": pa.string()}
    )
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, batch):
            ids = range(start, min(start + batch, rows))
            parts = rng.integers(len(said), size=(len(ids), 3)), rng.integers(len(replies), size=(len(ids), 3))
            contexts = [
                [said[a], replies[x], f"{said[b]} It was day {i}."] if i % 2 else [f"{said[b]} It was day {i}."]
                for i, (a, b, _), (x, _, _) in zip(ids, parts[0], parts[1], strict=True)
            ]
            answers = [f"{replies[y]} {replies[z]}" for _, y, z in parts[1]]
            emotions = [felt[b] for _, b, _ in parts[0]]
            writer.write_table(pa.table([list(ids), emotions, contexts, answers], schema=schema))


def probe(code: str, cores: int = 1) -> dict[str, float]:
    """Runs code in a process of its own, on so many cores: seconds, and its peak of memory."""
    done = subprocess.run([sys.executable, "-c", PROBE.format(code=code, cores=cores)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    line = next(line for line in done.stdout.splitlines() if line.startswith("PROBE "))
    return json.loads(line.removeprefix("PROBE "))


def measure(
    rows: int, folder: Path, python: bool = True, peers: bool = False, explore: bool = True
) -> dict[str, dict[str, float]]:
    """Scores, selects and summarises `rows` rows, by the command line and, if asked, from Python and by peers."""
    source, scored, kept = (str(folder / f"{name}.parquet") for name in ("rows", "scored", "kept"))
    make_rows(Path(source), rows)
    score = ["score", source, "--scorer", "linear", "-o", scored, "-q", "--overwrite", "--workers"]
    commands = {
        "score": [*score, "1"],
        "score --workers 2": [*score, "2"],
        "select": ["select", scored, "-o", kept, "-q"],
    }
    commands |= {name: [name, scored] for name in ("summary", "sweep")}
    if explore:
        commands["explore"] = ["explore", scored, "-o", str(folder / "page.html")]
    programs = {f"ee-trl {name}": COMMAND.format(args=args) for name, args in commands.items()}
    if python:
        programs["selector.score and selector.select"] = PYTHON_API.format(path=source)
    if peers:
        make_texts(Path(source))
        named = {"folder": str(folder), "source": source, "scored": scored}
        programs |= {name: code.format(**named) for name, code in PEERS.items()}
    found = {}
    for name, program in programs.items():
        found[name] = probe(program, cores=2 if "workers 2" in name else 1)
        found[name]["rows_per_second"] = round(rows / found[name]["seconds"])
        print(f"{rows:,} rows", name, found[name], flush=True)
    return found


def relate(results: dict[int, dict[str, dict[str, float]]]) -> None:
    """Adds the time per row of each command, relative to the smallest size."""
    first = min(results)
    for rows, commands in results.items():
        for name, entry in commands.items():
            at_first = results[first][name]
            for key, ratio in (("seconds", "time_per_row"), ("cpu_seconds", "cpu_per_row")):
                entry[ratio] = round(entry[key] / rows / (at_first[key] / first), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = [1_000_000, 3_000_000, 10_000_000]
    parser.add_argument("--rows", type=int, nargs="+", default=sizes, help="how many (several: each)")
    parser.add_argument("--folder", help="where the files go, 10 GB for ten million rows (default: the system's own)")
    parser.add_argument("-o", "--output", default="benchmarks/results/scale.json", help="JSON file to write")
    args = parser.parse_args()
    results: dict[int, dict[str, dict[str, float]]] = {}
    for rows in sorted(args.rows):
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            first = rows == min(args.rows)
            results[rows] = measure(rows, Path(folder), python=first, peers=first)
        relate(results)
        write_record(args, results)


def write_record(args: argparse.Namespace, results: dict[int, dict[str, dict[str, float]]]) -> None:
    """What was measured so far, with the command and the versions."""
    threads = {name: value for name, value in os.environ.items() if name.endswith("_NUM_THREADS")}
    record = {
        "command": "python benchmarks/scale.py --rows " + " ".join(map(str, args.rows)),
        "machine": {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "environment": threads,
        },
        "versions": package_versions("ee-trl", "datasets", "pyarrow", "numpy"),
        "results": {f"{rows:,} rows": commands for rows, commands in results.items()},
    }
    write_json(args.output, record)


if __name__ == "__main__":
    main()
