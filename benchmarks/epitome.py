"""
EPITOME classifiers by cross-validation: macro F1 and recall of each level, with the majority class beside them.

    python benchmarks/epitome.py DATA_DIR [--encoder FOLDER] [--epochs 4] [--output benchmarks/results/epitome.json]

DATA_DIR holds `epitome_reddit.parquet` (sp_id, seeker_post, response_post and a level for each mechanism). Nothing
that is trained here is kept.
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

from datasets import Dataset

from ee_trl.evaluation.metrics.epitome_training import read_posts, train_epitome


ROOT = Path(__file__).resolve().parents[1]
FILE = "epitome_reddit.parquet"
LIBRARIES = ("scikit-learn", "numpy", "torch", "transformers")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0].strip())
    parser.add_argument("data_dir", type=Path, help=f"folder with {FILE}")
    parser.add_argument("--encoder", help="also fine-tune this pretrained encoder")
    parser.add_argument("--epochs", type=float, default=4.0, help="of the encoder (default: 4)")
    parser.add_argument("--folds", type=int, default=5, help="(default: 5)")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "epitome.json")
    args = parser.parse_args()

    path = args.data_dir / FILE
    posts = read_posts(Dataset.from_parquet(str(path)))
    report: dict[str, Any] = {
        "command": "python benchmarks/epitome.py DATA_DIR" + (" --encoder FOLDER" if args.encoder else ""),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES},
        "sha256": {FILE: hashlib.sha256(path.read_bytes()).hexdigest()},
        "samples": len(posts.responses),
        "seekers": len(set(posts.groups)),
        "folds": args.folds,
        "note": "the linear classifier's settings were chosen on the same folds, among twelve",
        "classifiers": {},
    }
    kinds: list[tuple[str, dict[str, Any]]] = [("linear", {})]
    if args.encoder:
        kinds.append((Path(args.encoder).name, {"encoder": args.encoder, "epochs": args.epochs}))
    for name, options in kinds:
        start = time.perf_counter()
        record = train_epitome(posts, None, folds=args.folds, **options)
        seconds = round(time.perf_counter() - start, 1)
        report["classifiers"][name] = {"seconds": seconds, **record["cross_validation"]["mechanisms"]}
    text = json.dumps(report, indent=2) + "\n"
    print(text, end="")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
