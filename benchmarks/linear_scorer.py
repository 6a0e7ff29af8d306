#!/usr/bin/env python
"""Speed of the scorer "linear" on one core, from `Dialogue` objects to the `(n, 2)` array.

The data are a parquet file with the columns `context` and `response`. The first pass runs in a fresh process, with
nothing remembered of any word; the later ones score the same samples again. Seconds are of processor time.
"""

from __future__ import annotations

import os


for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):  # read when NumPy is first imported
    os.environ[name] = "1"

import argparse  # noqa: E402
import json  # noqa: E402
import platform  # noqa: E402
import resource  # noqa: E402
import time  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from pathlib import Path  # noqa: E402

import pyarrow.parquet as pq  # noqa: E402

from ee_trl.data.dialogue import Dialogue  # noqa: E402
from ee_trl.files import package_versions, write_json  # noqa: E402
from ee_trl.scoring.linear import LinearScorer  # noqa: E402


def processor() -> str:
    """The processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n")[1])
    parser.add_argument("data", metavar="DATA.parquet")
    parser.add_argument("-o", "--output", metavar="FILE.json", help="where the numbers are written (default: printed)")
    parser.add_argument("--repeats", type=int, default=9, help="passes after the first (default: 9)")
    args = parser.parse_args(arguments)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    dialogues = [
        Dialogue(context=tuple(row["context"]), response=row["response"], roles=("user",) * len(row["context"]))
        for row in pq.read_table(args.data, columns=["context", "response"]).to_pylist()
    ]
    start = time.process_time()
    scorer = LinearScorer()
    construction = time.process_time() - start
    seconds = []
    for _ in range(1 + args.repeats):
        start = time.process_time()
        scorer.score(dialogues)
        seconds.append(time.process_time() - start)
    rates = sorted(len(dialogues) / s for s in seconds[1:])
    result = {
        "command": f"python benchmarks/linear_scorer.py {Path(args.data).name} --repeats {args.repeats}",
        "fingerprint": scorer.fingerprint,
        "samples": len(dialogues),
        "repeats": args.repeats,
        "construction_seconds": construction,
        "first_pass_per_second": len(dialogues) / seconds[0],
        "median_per_second": rates[len(rates) // 2],
        "slowest_per_second": rates[0],
        "seconds": seconds,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "machine": f"one core of {processor()}",
        "versions": {"python": platform.python_version(), **package_versions("numpy")},
    }
    print(json.dumps(result, indent=2))
    if args.output:
        write_json(args.output, result)


if __name__ == "__main__":
    main()
