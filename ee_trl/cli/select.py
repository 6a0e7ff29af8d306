"""`ee-trl select`: scored dialogues in, the ones to train on out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..errors import EmpathyError
from . import common


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = common.new_command(
        commands,
        "select",
        help="select the dialogues to train on, ready for SFTTrainer",
        example="ee-trl select scored.parquet --keep sensibility -o sensibility.parquet",
    )
    common.add_input(parser, "scored", "what `ee-trl score` wrote, or data with columns sensibility and rationality")
    common.add_output(parser)
    common.add_rule(parser)
    common.add_threshold(parser)
    parser.add_argument("--dropped", metavar="FILE", help="also write the samples dropped, each with its drop_reason")
    _add_card(parser)
    common.add_json(parser)
    common.add_quiet(parser)
    parser.set_defaults(run=run)


def _add_card(parser: argparse.ArgumentParser) -> None:
    card = parser.add_argument_group("a dataset card")
    card.add_argument(
        "--card", action="store_true", help="also write README.md beside the output: thresholds, scorer, shares, what "
        "was dropped of each emotion; the folder can be uploaded to the hub as it is"
    )  # fmt: skip
    card.add_argument("--license", metavar="ID", help="of the source, e.g. cc-by-nc-4.0 (default: as its card says)")
    card.add_argument("--agreement", metavar="FILE", help="agreement.json of `ee-trl agreement -o`, for the card")


def _card_path(args: argparse.Namespace, output: Path) -> Path | None:
    from ..files import check_free
    from ..reports.cards import is_own_card

    if not args.card:
        given = [f"--{name}" for name in ("license", "agreement") if getattr(args, name)]
        if given:
            raise EmpathyError(f"{given[0]} goes with --card")
        return None
    path = output.parent / "README.md"
    return check_free(path, overwrite=args.overwrite and is_own_card(path))


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from ..data.samples import dropped_tables
    from ..data.tables import write_file
    from ..files import check_output, write_text

    selector = common.make_selector(args)
    path = check_output(args.output, overwrite=args.overwrite)
    dropped_path = check_output(args.dropped, overwrite=args.overwrite) if args.dropped else None
    card_path = _card_path(args, path)
    scored = common.open_input(args.scored, args)
    chosen = selector.choose(scored, **common.rule_options(args))
    counts = chosen.counts()
    if not len(chosen):
        common.note(f"ee-trl: nothing selected by {chosen.settings}: {counts}. Look at: ee-trl sweep {args.scored}")
        return 4
    metadata = {
        "command": "select",
        "source": args.scored,
        "split": args.split,
        **chosen.settings,
        "counts": counts,
        "versions": common.versions(),
    }
    card = None
    if card_path:
        from ..reports.cards import card_of

        named = {"source": args.scored, "file": path.name, "license": args.license, "agreement": args.agreement}
        card = card_of(scored, chosen, **named)
    features, tables = selector.select_tables(scored, chosen)
    write_file(tables, features, path, metadata=metadata)
    if dropped_path:
        features, tables = dropped_tables(scored, chosen.drops)
        write_file(tables, features, dropped_path, metadata=metadata)
    if card_path and card:
        write_text(card_path, str(card))
    if args.json:
        common.print_json({"output": str(path), "settings": chosen.settings, "counts": counts})
    else:
        print(chosen)
        common.note("wrote " + " and ".join(str(p) for p in (path, dropped_path, card_path) if p))
    return 0
