"""`ee-trl label`: which samples a judge should score first."""

from __future__ import annotations

import argparse
from typing import Any

from ..distillation import STRATEGIES
from . import common


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = common.new_command(
        commands,
        "label",
        help="choose which dialogues a judge should score first",
        description="Choose the N samples from which a distilled scorer learns most, and write them to a file for "
        "`ee-trl score --scorer JUDGE`. Rows keep their columns; label_order says which is wanted first.",
        example="ee-trl label dialogues.parquet --budget 1000 -o to_judge.parquet",
    )
    common.add_input(parser, "dataset", "parquet, jsonl, json or csv file, folder, or hub name")
    common.add_output(parser)
    parser.add_argument("--budget", type=int, required=True, metavar="N", help="how many samples")
    parser.add_argument(
        "--strategy",
        choices=STRATEGIES,
        default=STRATEGIES[0],
        help="diverse: whose labels tell most about all the others; mixed: about those near T by --scorer; uncertain: "
        "the nearest to T; random: the baseline (default: %(default)s)",
    )
    parser.add_argument(
        "--scorer",
        default="linear",
        help="whose doubt counts: linear (default), or what was distilled from a first round",
    )
    parser.add_argument(
        "--encoder", metavar="ID_OR_PATH", help="whose vectors tell how alike samples are (default: hashed words)"
    )
    parser.add_argument(
        "--labelled", metavar="FILE", help="dialogues that were judged already, which are not chosen again"
    )
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    common.add_threshold(parser)
    common.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from ..data.tables import write_file
    from ..distillation.labels import choose_to_label
    from ..distillation.pool import open_pool, pool_tables
    from ..files import check_output

    path = check_output(args.output, overwrite=args.overwrite)
    pool = open_pool(common.open_input(args.dataset, args), args.labelled)
    chosen = choose_to_label(
        pool.dialogues,
        args.budget,
        strategy=args.strategy,
        scorer=args.scorer,
        encoder=args.encoder,
        labelled=pool.labelled,
        threshold=args.threshold[0] if len(args.threshold) == 1 else args.threshold,
        seed=args.seed,
    )
    features, tables = pool_tables(pool, chosen)
    counts = {"samples": pool.samples, "distinct": len(pool.dialogues), "chosen": len(chosen)}
    settings = {name: getattr(args, name) for name in ("strategy", "scorer", "encoder", "labelled", "seed")}
    metadata = {"command": "label", "source": args.dataset, **settings, **counts, "versions": common.versions()}
    write_file(tables, features, path, metadata=metadata)
    if args.json:
        common.print_json({"output": str(path), **counts, **settings})
    else:
        print(f"chose {len(chosen):,} of {pool.samples:,} samples ({args.strategy})")
        common.note(f"wrote {path}; have them judged: ee-trl score {path} --scorer JUDGE -o judged.parquet")
    return 0
