"""
The text metrics on published outputs: MIME's greedy replies on EmpatheticDialogues' test set, and the human replies.

MIME's authors report BLEU-4 2.76 with their outputs, so this checks `dialogue_bleu` against a number from outside.

    python benchmarks/mime_bleu.py DATA_DIR [--output benchmarks/results/mime_bleu.json]

DATA_DIR holds `mime_greedy.parquet` (columns prediction, reference) and `ed_test.parquet` (column response).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import evaluate
import pyarrow.parquet as pq


ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = ("evaluate", "datasets", "nltk", "rouge_score")
# (name in the results, metric, options), each on MIME's replies and their references
RUNS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("bleu, whitespace", "dialogue_bleu", {"tokenizer": "whitespace"}),
    ("bleu, nltk", "dialogue_bleu", {"tokenizer": "nltk"}),
    ("distinct, nltk", "distinct", {"tokenizer": "nltk"}),
    ("distinct, whitespace", "distinct", {"tokenizer": "whitespace"}),
    ("rouge", "dialogue_rouge", {}),
    ("rouge, stemmed", "dialogue_rouge", {"use_stemmer": True}),
    ("word_f1, whitespace", "word_f1", {"tokenizer": "whitespace"}),
    ("word_f1, nltk", "word_f1", {"tokenizer": "nltk"}),
)


def measure(name: str, columns: dict[str, list[str]], options: dict[str, Any]) -> dict[str, Any]:
    """One metric's numbers, and the seconds that they took."""
    metric = evaluate.load(str(ROOT / "evaluation" / name), keep_in_memory=True)
    start = time.perf_counter()
    scores = metric.compute(**columns, **options)
    return {**scores, "seconds": round(time.perf_counter() - start, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description="The text metrics on MIME's outputs and on the human replies.")
    parser.add_argument("data_dir", type=Path, help="folder with mime_greedy.parquet and ed_test.parquet")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "mime_bleu.json")
    args = parser.parse_args()

    files = {name: args.data_dir / name for name in ("mime_greedy.parquet", "ed_test.parquet")}
    mime = pq.read_table(files["mime_greedy.parquet"]).to_pydict()
    human = pq.read_table(files["ed_test.parquet"], columns=["response"]).to_pydict()
    columns = {"predictions": mime["prediction"], "references": mime["reference"]}
    report = {
        "command": "python benchmarks/mime_bleu.py DATA_DIR",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES},
        "sha256": {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()},
        "published": {"bleu4": 2.76},
        "mime": {label: measure(name, columns, options) for label, name, options in RUNS},
        "human": {
            f"distinct, {tokenizer}": measure("distinct", {"predictions": human["response"]}, {"tokenizer": tokenizer})
            for tokenizer in ("nltk", "whitespace")
        },
    }
    text = json.dumps(report, indent=2) + "\n"
    print(text, end="")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
