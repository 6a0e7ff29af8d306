"""`ee-trl human`: writes blinded sheets for raters, and sums up their answers."""

from __future__ import annotations

import argparse
from typing import Any

from . import options


ASPECTS = "empathy,coherence,informativeness,continuity"  # the keys of `human.sheets.ASPECTS`, which imports more


def add_human(commands: Any) -> None:
    """
    Make blinded sheets for human raters, and sum up their answers.

    `export` writes one blinded sheet for each rater, each in its own order, as CSV and as an HTML form that saves its
    answers to a file, and a key that stays with you. `import` reads the answers: wins, ties and losses (or ratings)
    per aspect, significance, Fleiss' kappa and Krippendorff's alpha.
    """
    parser = options.new_command(
        commands,
        "human",
        add_human,
        "export test.parquet --predictions base=base.jsonl --predictions expert=expert.jsonl --n 50 -o study",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_export(actions)
    _add_import(actions)


def _add_export(actions: Any) -> None:
    export = options.new_command(actions, "export", run_export)
    options.add_input(export, "dataset", "the dialogues that the candidates reply to: file, folder, or hub name")
    add = export.add_argument
    note = "a candidate's replies, one for each dialogue in order; repeatable, twice for A/B"
    add("--predictions", **options.REPEATED, metavar="[NAME=]FILE", help=note)
    add("--references", action="store_true", help="the reference replies are a candidate too")
    options.add_output(export, "folder for the sheets")
    add("--kind", choices=("ab", "rating"), default="ab", help="two side by side, or one at a time (default: ab)")
    add("--n", type=int, default=50, help="how many dialogues, drawn at random (default: 50)")
    add("--limit", type=int, metavar="N", help="N dialogues only, evenly spaced, as `evaluate` takes them")
    add("--raters", type=int, default=3, help="how many sheets (default: 3)")
    add("--aspects", default=ASPECTS, metavar="NAMES", help="joined by commas (default: %(default)s)")
    options.add_shared(export, "turns")
    add("--seed", type=int, default=0, help="of dialogues, sides and orders (default: 0)")
    options.add_shared(export, "json")


def _add_import(actions: Any) -> None:
    read = options.new_command(actions, "import", run_import)
    add = read.add_argument
    add("key", help="key.json of the study, or its folder")
    add("answers", nargs="+", help="filled-in CSV sheets, or files that the HTML forms saved; one for each rater")
    options.add_output(read, "folder, to also write results.json and results.md there", required=False)
    add("--resamples", type=int, default=1000, metavar="N", help="of the bootstrap (default: 1000)")
    add("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    options.add_shared(read, "json")


def run_export(args: argparse.Namespace) -> int:
    """Write sheets for raters."""
    from ..human.sheets import check_folder, export_study

    folder = check_folder(args.output, overwrite=args.overwrite)
    names = ("references", "kind", "n", "raters", "limit", "turns", "seed")
    aspects = [name.strip() for name in args.aspects.split(",")]
    given = {**options.reading(args), **options.picked(args, *names)}
    paths = export_study(args.dataset, args.predictions, folder, aspects=aspects, **given)
    found = {"sheets": [str(path) for path in paths], "key": str(folder / "key.json")}
    note = f"the key is {folder / 'key.json'}: keep it from the raters"
    return options.show(args, found, "\n".join(map(str, paths)), note)


def run_import(args: argparse.Namespace) -> int:
    """Sum up raters' answers."""
    from ..files import json_ready, write_json, write_text
    from ..human.results import results_markdown, study_results
    from ..human.sheets import read_answers, read_key

    folder = options.report_folder(args, "results.json") if args.output else None
    key = read_key(args.key)
    answers = [read_answers(path, key) for path in args.answers]
    found = json_ready(study_results(key, answers, resamples=args.resamples, seed=args.seed))
    text = results_markdown(found)
    if folder is not None:
        write_json(folder / "results.json", found)
        write_text(folder / "results.md", text)
    return options.show(args, found, text)
