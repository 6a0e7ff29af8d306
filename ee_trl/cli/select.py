"""Commands on scored dialogues: `select`, `sweep`, `summary` and `explore`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..axes import FLAGS
from ..errors import EmpathyError
from ..selection import CONTROLS, KEEPABLE, RANKINGS, RULES
from . import options


def add_select(commands: Any) -> None:
    """Adds `ee-trl select`."""
    parser = options.new_command(
        commands, "select", run_select, "scored.parquet --keep sensibility -o sensibility.parquet"
    )
    options.add_input(parser, "scored", options.SCORED_HELP)
    options.add_output(parser, "file to write: .parquet or .jsonl; .json for Argilla")
    add = parser.add_argument
    note = (
        "trl: prompt and completion for SFTTrainer; argilla: records of the selection with its scores as suggestions; "
        "dpo: prompt, chosen and rejected, from all contexts with several replies, by --axis (default: trl)"
    )
    add("--format", choices=("trl", "argilla", "dpo"), default="trl", help=note)
    _add_rule(parser)
    options.add_shared(parser, "threshold", "ties", "json", "quiet")
    parser.add_argument("--dropped", metavar="FILE", help="also write the dropped samples, each with its drop_reason")
    card = parser.add_argument_group("a dataset card")
    card.add_argument(
        "--card",
        action="store_true",
        help="also write README.md beside the output: thresholds, scorer, shares, and what was dropped of each "
        "emotion; the folder can be uploaded to the hub as it is",
    )
    card.add_argument("--license", metavar="ID", help="of the source, e.g. cc-by-nc-4.0 (default: as its card says)")
    card.add_argument("--agreement", metavar="FILE", help="agreement.json of `ee-trl agreement -o`, for the card")
    card.add_argument("--check", metavar="FILE", help="check.json of `ee-trl check -o`, for the card")


def _add_rule(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    note = f"quadrants to keep, joined by commas: {', '.join(KEEPABLE)} (default: sensibility)"
    add("--keep", default="sensibility", metavar="QUADRANTS", help=note)
    note = (
        "threshold: the released rule; top: highest on --axis; random, longest: baselines. Without --n and --fraction "
        "the last three keep as many as the threshold rule would (default: threshold)"
    )
    add("--rule", choices=RULES, default="threshold", help=note)
    add("--n", type=int, help="how many samples to keep")
    add("--fraction", type=float, help="share of the scored samples to keep, in (0, 1]")
    note = f"what rule top ranks by: {', '.join(RANKINGS)}, or a column of numbers (default: --keep, if it is an axis)"
    add("--axis", metavar="RANKING", help=note)
    add("--seed", type=int, default=0, help="of rule random, and of clusters (default: 0)")
    note = f"flags whose samples are dropped: all (default), none, or names joined by commas: {', '.join(FLAGS)}"
    add("--exclude", default="all", metavar="FLAGS", help=note)
    note = (
        "length: choose within bins of reply length, so that the kept replies are as long as all are (not longest); "
        "clusters: take the best of each cluster of similar dialogues"
    )
    add("--control", choices=CONTROLS, help=note)


def run_select(args: argparse.Namespace) -> int:
    """Select the dialogues to train on, ready for SFTTrainer."""
    from ..data.export import argilla_records
    from ..data.samples import dropped_tables
    from ..data.tables import to_dataset, write_file
    from ..files import check_output, write_json, write_text
    from ..selector import RULE_OPTIONS

    selector = options.make_selector(args)
    endings = {"endings": (".json",)} if args.format == "argilla" else {}
    path = check_output(args.output, overwrite=args.overwrite, **endings)
    dropped_path = check_output(args.dropped, overwrite=args.overwrite) if args.dropped else None
    card_path = _card_path(args, path)
    scored = options.open_input(args.scored, args)
    if args.format == "dpo":
        return _write_pairs(args, scored, path)
    chosen = selector.choose(scored, **options.picked(args, *RULE_OPTIONS))
    counts = chosen.counts()
    if not len(chosen):
        options.note(f"ee-trl: nothing selected by {chosen.settings}: {counts}. Look at: ee-trl sweep {args.scored}")
        return 4
    metadata = {
        "command": "select",
        "source": args.scored,
        "split": args.split,
        **chosen.settings,
        "counts": counts,
        "versions": options.versions(),
    }
    card = None
    if card_path:
        from ..reports.cards import card_of

        given = options.picked(args, "license", "agreement", "check")
        card = card_of(scored, chosen, source=args.scored, file=path.name, **given)
    features, tables = selector.select_tables(scored, chosen)
    if args.format == "argilla":
        write_json(path, argilla_records(to_dataset(tables, features)))
    else:
        write_file(tables, features, path, metadata=metadata)
    if dropped_path:
        features, tables = dropped_tables(scored, chosen.drops)
        write_file(tables, features, dropped_path, metadata=metadata)
    if card_path and card:
        write_text(card_path, str(card))
    lengths = {"lengths": chosen.lengths} if chosen.lengths else {}
    found = {"output": str(path), "settings": chosen.settings, "counts": counts, **lengths}
    wrote = " and ".join(str(p) for p in (path, dropped_path, card_path) if p)
    return options.show(args, found, chosen, f"wrote {wrote}")


def _write_pairs(args: argparse.Namespace, scored: Any, path: Path) -> int:
    from ..data.export import preference_tables
    from ..data.tables import write_file

    axis = args.axis or "sensibility"
    features, tables = preference_tables(scored, axis)
    settings = {"command": "select", "format": "dpo", "source": args.scored, "axis": axis}
    pairs = write_file(tables, features, path, metadata={**settings, "versions": options.versions()})
    options.show(args, {"output": str(path), "pairs": pairs}, f"{pairs:,} pairs by {axis}", f"wrote {path}")
    return 0 if pairs else 4


def _card_path(args: argparse.Namespace, output: Path) -> Path | None:
    from ..files import check_free
    from ..reports.cards import is_own_card

    if not args.card:
        given = [f"--{name}" for name in ("license", "agreement", "check") if getattr(args, name)]
        if given:
            raise EmpathyError(f"{given[0]} goes with --card")
        return None
    path = output.parent / "README.md"
    return check_free(path, overwrite=args.overwrite and is_own_card(path))


def add_sweep(commands: Any) -> None:
    """Adds `ee-trl sweep`."""
    parser = options.new_command(commands, "sweep", run_sweep, "scored.parquet --grid 3:7:0.5 --plot plane.png")
    options.add_input(parser, "scored", options.SCORED_HELP)
    parser.add_argument("--grid", default="1:9", help="thresholds: first:last[:step], or a list 3,5,7 (default: 1:9)")
    options.add_shared(parser, "ties")
    parser.add_argument("--plot", metavar="FILE", help="also draw the score plane and the shares (.png, .svg, .pdf)")
    options.add_shared(parser, "json")


def run_sweep(args: argparse.Namespace) -> int:
    """Show the share of each quadrant at each threshold."""
    from ..data.samples import read_scores
    from ..selection import sweep

    options.check_plot(args)
    grid = options.grid(args.grid)
    scores = read_scores(options.open_input(args.scored, args))
    rows = sweep(scores.sensibility, scores.rationality, grid, args.ties)
    if args.plot:
        from ..reports.plane import plot_sweep

        plot_sweep(scores.sensibility, scores.rationality, rows, args.plot)
    found = {"scorer": list(scores.scorers), "ties": args.ties, "sweep": rows}
    return options.show(args, found, f"{len(scores.statuses):,} samples, by {', '.join(scores.scorers)}\n{rows}")


def add_summary(commands: Any) -> None:
    """Adds `ee-trl summary`."""
    parser = options.new_command(commands, "summary", run_summary, "scored.parquet")
    options.add_input(parser, "scored", options.SCORED_HELP)
    options.add_shared(parser, "threshold", "ties")
    parser.add_argument("--plot", metavar="FILE", help="also draw the score plane (.png, .svg, .pdf)")
    options.add_shared(parser, "json")


def run_summary(args: argparse.Namespace) -> int:
    """Show counts, shares, reasons and emotions of scored dialogues."""
    from ..data.tables import read_metadata
    from ..display import as_text
    from ..reports.rubric import rubric_of_file, rubric_parts

    options.check_plot(args)
    selector = options.make_selector(args)
    scored = options.open_input(args.scored, args)
    summary = selector.summary(scored)
    if args.plot:
        from ..data.samples import read_scores
        from ..reports.plane import plot_plane

        scores = read_scores(scored)
        plot_plane(scores.sensibility, scores.rationality, selector.threshold, args.plot)
    rubric = rubric_of_file(args.scored)
    made_by = read_metadata(args.scored) if args.json and Path(args.scored).is_file() else None
    text = as_text([*summary.parts(), *rubric_parts(rubric)])
    return options.show(args, {**summary.to_dict(), "made_by": made_by}, text)


def add_explore(commands: Any) -> None:
    """Adds `ee-trl explore`."""
    parser = options.new_command(commands, "explore", run_explore, "scored.parquet -o explorer.html")
    options.add_input(parser, "scored", options.SCORED_HELP)
    options.add_output(parser, "file to write: .html")
    add = parser.add_argument
    add("--keep", default="sensibility", metavar="QUADRANTS", help="ticked at the start (default: sensibility)")
    note = "most dialogues on the page, drawn at random if there are more; counts cover all (default: 50000)"
    add("--limit", type=int, default=50_000, metavar="N", help=note)
    add("--seed", type=int, default=0, help="of that draw (default: 0)")
    options.add_shared(parser, "threshold", "ties", "json")


def run_explore(args: argparse.Namespace) -> int:
    """
    Write a page on which to choose thresholds and read the dialogues.

    Write one HTML page that needs no network: the score plane, a slider for each threshold, exact counts and shares of
    each quadrant and emotion, the dialogues, and the command for the chosen selection.
    """
    from ..files import check_output
    from ..reports.explorer import ENDINGS, plotting_library, write_explorer

    check_output(args.output, overwrite=args.overwrite, endings=ENDINGS)
    plotting_library()  # fails now, not after the reading, where plotly is missing
    path = write_explorer(
        options.open_input(args.scored, args),
        args.output,
        threshold=options.threshold_of(args),
        source=args.scored,
        **options.picked(args, "ties", "keep", "limit", "seed", "overwrite", "split", "config"),
    )
    size = path.stat().st_size
    note = f"wrote {path} ({size / 1e6:.1f} MB); open it in a browser"
    return options.show(args, {"output": str(path), "bytes": size}, None, note)
