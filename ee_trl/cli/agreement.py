"""`ee-trl agreement`: how far two scorers agree on a data set."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.dialogue import SCORED, Dialogue, Sample, Turns
from ..errors import EmpathyError, FormatError, ScorerError, ScoresError
from . import common


if TYPE_CHECKING:
    from ..reports.agreement_page import Side

GIVEN = "given"
_ENDINGS = (".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".arrow")


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = common.new_command(
        commands,
        "agreement",
        help="compare two scorers, or a scorer with given scores",
        description="Compare two scorers, or scores that are there already: correlations, shifts, what changes in "
        "the selection, and what prompt injection does to them. A and B are each a scorer (name, folder or hub id), "
        "a file of scores of the same dialogues, or the word `given` for the scores that the data set brings along.",
        example="ee-trl agreement judged.parquet given linear -o agreement",
    )
    common.add_input(parser, "dataset", "the dialogues: parquet, jsonl, json or csv file, folder, or hub name")
    parser.add_argument("a", metavar="A", help="scorer, file of scores, or `given`")
    parser.add_argument("b", metavar="B", help="the same, to be compared with A")
    parser.add_argument("-o", "--output", metavar="FOLDER", help="also write agreement.md, .json and .png there")
    parser.add_argument("--overwrite", action="store_true", help="replace a report that is there already")
    common.add_threshold(parser)
    parser.add_argument(
        "--turns",
        choices=("each", "last"),
        default="each",
        help="of conversations: each listener turn, or the last (with `given` always the last)",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="compare N samples only, evenly spaced")
    parser.add_argument("--rubric", metavar="FILE", help="the rubric of those sides that are LLM judges")
    for side in ("a", "b"):
        parser.add_argument(
            f"--option-{side}",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help=f"option of scorer {side.upper()}, e.g. quantization=nf4, or model=NAME of `server`; repeatable",
        )
    parser.add_argument("--no-injection", action="store_true", help="leave prompt injection out")
    common.add_store(parser)
    common.add_json(parser)
    common.add_quiet(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    import numpy as np

    from ..axes import thresholds
    from ..data.tables import spread
    from ..reports.agreement import agree, check_libraries
    from ..reports.agreement_page import report_dict, report_text, write_agreement

    threshold = thresholds(args.threshold[0] if len(args.threshold) == 1 else args.threshold)
    check_libraries()
    folder = _output_folder(args.output, args.overwrite) if args.output else None
    specs = ((args.a, _scorer_options(args, "a")), (args.b, _scorer_options(args, "b")))
    for spec, _ in specs:
        _check_side(spec)
    dataset = common.open_input(args.dataset, args)
    turns: Turns = "last" if GIVEN in (args.a, args.b) else args.turns
    samples = read_samples(dataset, turns)
    chosen = np.array(spread(len(samples), args.limit), dtype=np.intp)

    def side(spec: str, options: dict[str, Any]) -> Side:
        if spec == GIVEN:
            return _read_side(spec, args.dataset, dataset, chosen)
        if _is_file(spec):
            return _file_side(spec, samples, turns, chosen)
        return _scorer_side(spec, options, [samples[i] for i in chosen], args)

    a, b = (side(spec, options) for spec, options in specs)
    found = agree(a.scores, b.scores, threshold, args.ties)
    if folder:
        page = write_agreement(folder, args.dataset, a, b, found, versions=common.versions())
    if args.json:
        common.print_json({"output": str(folder) if folder else None, **report_dict(args.dataset, a, b, found)})
    else:
        print(report_text(args.dataset, a, b, found))
        if folder:
            common.note(f"wrote {page}")
    return 0


# ---- what the user asked for ---------------------------------------------------------------------------------------


def _output_folder(name: str, overwrite: bool) -> Path:
    from ..reports.agreement_page import NAMES, check_picture_library

    check_picture_library()
    folder = Path(name)
    if folder.exists() and not folder.is_dir():
        raise FormatError(f"{name!r} is a file; name a folder for the report")
    there = [file for file in NAMES if (folder / file).exists()]
    if there and not overwrite:
        raise FormatError(f"{str(folder / there[0])!r} is there already; give another folder, or --overwrite")
    return folder


def _check_side(spec: str) -> None:
    """Raises where `spec` cannot be a side, before anything is read or scored."""
    from ..scoring.load import check_scorer

    if spec == GIVEN:
        return
    if not _is_file(spec):
        check_scorer(spec)
    elif not Path(spec).is_file():
        raise FormatError(f"no such file: {spec!r} (in {os.getcwd()!r})")


def _is_file(spec: str) -> bool:
    return spec != GIVEN and (Path(spec).is_file() or (spec.endswith(_ENDINGS) and not Path(spec).is_dir()))


def _scorer_options(args: argparse.Namespace, side: str) -> dict[str, Any]:
    spec = getattr(args, side)
    options = parse_options(getattr(args, f"option_{side}"))
    is_scorer = spec != GIVEN and not _is_file(spec)
    if options and not is_scorer:
        raise ScorerError(f"--option-{side} is for a scorer, but {side.upper()} is {spec!r}, whose scores are there")
    if not args.rubric:
        return options
    from ..scoring.judge.rubric import load_rubric

    load_rubric(args.rubric)  # tells early what is wrong with it
    if not any(map(_may_be_judge, (args.a, args.b))):
        raise ScorerError(f"--rubric goes with an LLM judge, but neither {args.a!r} nor {args.b!r} is one")
    return {"rubric": args.rubric, **options} if _may_be_judge(spec) else options


def _may_be_judge(spec: str) -> bool:
    """Whether a side is a scorer other than a linear or a distilled one, which have no rubric."""
    from ..scoring.load import kind_of_folder

    return spec not in (GIVEN, "linear") and not _is_file(spec) and kind_of_folder(spec) not in ("linear", "encoder")


def parse_options(pairs: Sequence[str]) -> dict[str, Any]:
    """`key=value` pairs; a value that is a JSON number, boolean or null is one, everything else is text."""
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.isidentifier():
            raise EmpathyError(f"option {pair!r} is not valid; valid: key=value, e.g. quantization=nf4")
        if key in options:
            raise EmpathyError(f"option {key!r} is given twice; give it once")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        options[key] = value if isinstance(value, (int, float, bool, type(None))) else text
    return options


# ---- the dialogues and their scores --------------------------------------------------------------------------------


def read_samples(dataset: Any, turns: Turns) -> list[Sample]:
    """All samples of a data set, in the order in which `ee-trl score` writes them."""
    from ..data.samples import read_samples

    return list(read_samples(dataset, turns))


def _read_side(name: str, path: str, dataset: Any, chosen: Any) -> Side:
    """Scores that are there already, opened from a path."""
    import numpy as np

    from ..data.samples import read_scores
    from ..reports.agreement_page import Side
    from ..reports.rubric import named_rubric, rubric_of_file

    found = read_scores(dataset)
    scores = np.stack([found.sensibility, found.rationality], axis=1)[chosen]
    rubric = named_rubric(rubric_of_file(path), found.scorers)
    return Side(name, ", ".join(found.scorers), scores, found.status[chosen].tolist(), rubric)


def _file_side(path: str, samples: Sequence[Sample], turns: Turns, chosen: Any) -> Side:
    from ..data.reading import open_rows
    from ..data.samples import check_scored

    scored = open_rows(path)
    check_scored(scored.column_names)
    check_aligned(path, samples, read_samples(scored, turns))
    return _read_side(path, path, scored, chosen)


def check_aligned(path: str, samples: Sequence[Sample], others: Sequence[Sample]) -> None:
    """Raises [`ScoresError`] unless a file's samples are those of the data set, and says where they differ."""
    texts, found = ([_texts(sample.dialogue) for sample in part] for part in (samples, others))
    different = [i for i, (ours, theirs) in enumerate(zip(texts, found, strict=False)) if ours != theirs]
    first = different[0] if different else min(len(texts), len(found))
    if len(texts) != len(found):
        problem = f"{path!r} has {len(found):,} samples, the data set {len(texts):,}"
    elif different:
        problem = f"{path!r} holds other dialogues than the data set in {len(different):,} of {len(texts):,} samples"
    else:
        return
    raise ScoresError(
        f"{problem}; the first difference is at sample {first:,} (counted from 0):\n"
        f"  data set: {_shown(texts, first)}\n  file:     {_shown(found, first)}\n"
        "Give the file that `ee-trl score` made of this data set, or the scorer itself."
    )


def _texts(dialogue: Dialogue | None) -> tuple[str, ...] | None:
    return (*dialogue.context, dialogue.response) if dialogue else None


def _shown(texts: Sequence[tuple[str, ...] | None], i: int, limit: int = 160) -> str:
    """The end of a dialogue, which is where its reply is."""
    if i >= len(texts):
        return "(no more samples)"
    found = texts[i]
    text = " / ".join(" ".join(turn.split()) for turn in found) if found else "(no dialogue with a reply)"
    return text if len(text) <= limit else "…" + text[-limit + 1 :]


def _scorer_side(spec: str, options: dict[str, Any], samples: Sequence[Sample], args: argparse.Namespace) -> Side:
    import numpy as np

    from ..data.tables import progress_bar
    from ..reports.agreement_page import Side
    from ..reports.injection import injection_shift
    from ..scoring.judge.rubric import Rubric
    from ..scoring.load import load_scorer

    scorer = load_scorer(spec, **options)
    selector = common.make_selector(args, scorer=scorer, **common.store_options(args))
    run = selector.new_run()
    scores = np.full((len(samples), 2), np.nan)
    status = [sample.reason or SCORED for sample in samples]
    todo = [(i, sample.dialogue) for i, sample in enumerate(samples) if sample.dialogue is not None]
    with progress_bar(total=len(todo), label=spec, show=selector.show_progress, unit="samples") as bar:
        for start in range(0, len(todo), selector.batch_rows):
            part = todo[start : start + selector.batch_rows]
            found = run.score([dialogue for _, dialogue in part])
            for (i, _), row, why in zip(part, found.scores, found.statuses, strict=True):
                scores[i], status[i] = row, why
            bar.update(len(part))
    run.coverage.count(status)
    common.note(str(run.coverage))
    rubric = getattr(scorer, "rubric", None)
    return Side(
        spec,
        scorer.fingerprint,
        scores,
        status,
        rubric if isinstance(rubric, Rubric) else None,
        None if args.no_injection else injection_shift(scorer, run=run),
    )
