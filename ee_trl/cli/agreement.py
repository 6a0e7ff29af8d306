"""`ee-trl agreement`: how far two scorers agree on a data set."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.dialogue import SCORED, Dialogue, Sample, Turns
from ..errors import FormatError, ScorerError, ScoresError
from . import options


if TYPE_CHECKING:
    from ..reports.agreement_page import Side

GIVEN = "given"
_ENDINGS = (".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".arrow")


def add_agreement(commands: Any) -> None:
    """Adds `ee-trl agreement`."""
    parser = options.new_command(commands, "agreement", run_agreement, "judged.parquet given linear -o agreement")
    options.add_input(parser, "dataset", f"the dialogues: {options.DATA_HELP}")
    add = parser.add_argument
    add("a", metavar="A", help="scorer, file of scores, or `given`")
    add("b", metavar="B", help="the same, to be compared with A")
    options.add_output(parser, "folder, to also write agreement.md, .json and .png there", required=False)
    options.add_shared(parser, "threshold", "ties", "turns")
    add("--limit", type=int, metavar="N", help="compare only N samples, evenly spaced")
    add("--rubric", metavar="FILE", help="the rubric of each side that is an LLM judge")
    for side in ("a", "b"):
        note = f"option of scorer {side.upper()}, e.g. quantization=nf4, or model=NAME of `server`; repeatable"
        add(f"--option-{side}", **options.REPEATED, metavar="KEY=VALUE", help=note)
    add("--no-injection", action="store_true", help="do not measure prompt injection")
    add("--no-check", action="store_true", help="leave out the behavioural check (see ee-trl check)")
    options.add_store(parser)
    options.add_shared(parser, "json", "quiet")


def run_agreement(args: argparse.Namespace) -> int:
    """
    Compare two scorers, or a scorer with given scores.

    Shows correlations, shifts, what changes in the selection, what prompt injection does to the scores, and how
    each scorer treats good and bad replies. A and B
    are each a scorer (name, folder or hub id), a file of scores of the same dialogues, or the word `given` for the
    scores in the data set itself (of each last turn).
    """
    import numpy as np

    from ..axes import thresholds
    from ..data.samples import read_samples
    from ..data.tables import spread
    from ..reports.agreement import agree
    from ..reports.agreement_page import NAMES, agreement_figure, report_dict, report_text, write_agreement

    threshold = thresholds(options.threshold_of(args))
    folder = None
    if args.output:
        agreement_figure()  # fails now, not after the scoring, where matplotlib is missing
        folder = options.report_folder(args, *NAMES)
    specs = ((args.a, _scorer_options(args, "a")), (args.b, _scorer_options(args, "b")))
    for spec, _ in specs:
        _check_side(spec)
    dataset = options.open_input(args.dataset, args)
    turns: Turns = "last" if GIVEN in (args.a, args.b) else args.turns
    samples = list(read_samples(dataset, turns))
    chosen = np.array(spread(len(samples), args.limit), dtype=np.intp)

    def side(spec: str, chosen_options: dict[str, Any]) -> Side:
        if spec == GIVEN:
            return _read_side(spec, args.dataset, dataset, chosen)
        if _is_file(spec):
            return _file_side(spec, samples, turns, chosen)
        return _scorer_side(spec, chosen_options, [samples[i] for i in chosen], args)

    a, b = (side(spec, chosen_options) for spec, chosen_options in specs)
    found = agree(a.scores, b.scores, threshold, args.ties)
    notes = []
    if folder:
        notes = [f"wrote {write_agreement(folder, args.dataset, a, b, found, versions=options.versions())}"]
    told = {"output": str(folder) if folder else None, **report_dict(args.dataset, a, b, found)}
    return options.show(args, told, report_text(args.dataset, a, b, found), *notes)


def _check_side(spec: str) -> None:
    """Raises where `spec` cannot be a side, before anything is read or scored."""
    from ..scoring.kinds import check_scorer

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
    given = options.scorer_options(getattr(args, f"option_{side}"))
    is_scorer = spec != GIVEN and not _is_file(spec)
    if given and not is_scorer:
        raise ScorerError(f"--option-{side} is for a scorer, but {side.upper()} is {spec!r}, which holds scores")
    if not args.rubric:
        return given
    from ..scoring.judge.rubric import load_rubric

    load_rubric(args.rubric)  # fails early
    if not any(map(_may_be_judge, (args.a, args.b))):
        raise ScorerError(f"--rubric goes with an LLM judge, but neither {args.a!r} nor {args.b!r} is one")
    return {"rubric": args.rubric, **given} if _may_be_judge(spec) else given


def _may_be_judge(spec: str) -> bool:
    """Whether a side may have a rubric: a scorer that is neither linear nor distilled."""
    from ..scoring.kinds import DISTILLED, kind_of_folder

    others = (GIVEN, "linear", "minilm")
    return spec not in others and not _is_file(spec) and kind_of_folder(spec) not in ("linear", *DISTILLED)


def _read_side(name: str, path: str, dataset: Any, chosen: Any) -> Side:
    """The scores that a data set holds; `path` is where it was opened."""
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
    from ..data.samples import check_scored, read_samples

    scored = open_rows(path)
    check_scored(scored.column_names)
    check_aligned(path, samples, list(read_samples(scored, turns)))
    return _read_side(path, path, scored, chosen)


def check_aligned(path: str, samples: Sequence[Sample], others: Sequence[Sample]) -> None:
    """Raises [`ScoresError`] unless a file has the samples of the data set; the message shows the first difference."""
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
    """The end of a dialogue, where its reply is."""
    if i >= len(texts):
        return "(no more samples)"
    found = texts[i]
    text = " / ".join(" ".join(turn.split()) for turn in found) if found else "(no dialogue with a reply)"
    return text if len(text) <= limit else "…" + text[-limit + 1 :]


def _scorer_side(spec: str, given: dict[str, Any], samples: Sequence[Sample], args: argparse.Namespace) -> Side:
    import numpy as np

    from ..data.tables import progress_bar
    from ..reports.agreement_page import Side
    from ..reports.check import behaviour_check
    from ..reports.injection import injection_shift
    from ..scoring.judge.rubric import Rubric
    from ..scoring.load import load_scorer

    scorer = load_scorer(spec, **given)
    selector = options.make_selector(args, scorer=scorer, **options.store_options(args))
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
    options.note(str(run.coverage))
    rubric = getattr(scorer, "rubric", None)
    shown: dict[str, Any] = {
        "threshold": selector.threshold,
        "ties": selector.ties,
        "show_progress": selector.show_progress,
    }
    return Side(
        spec,
        scorer.fingerprint,
        scores,
        status,
        rubric if isinstance(rubric, Rubric) else None,
        None if args.no_injection else injection_shift(scorer, run=run),
        None if args.no_check else behaviour_check({spec: run}, **shown).scorers,
    )
