"""`ee-trl score`, which adds scores to dialogues, and `ee-trl rubric`, which prints the judge's rubric."""

from __future__ import annotations

import argparse
import gc
from typing import Any

from ..data.formats import FORMATS
from ..errors import ScorerError
from ..scoring.coverage import DEFAULT_MAX_UNSCORED
from ..scoring.kinds import DEFAULT_SCORER
from . import options


JUDGE_OPTIONS = ("quantization", "dtype", "rubric", "revision", "trust_remote_code", "gguf_file", "token_budget")
CHEAP_OPTIONS = ("other_language",)
SERVER_OPTIONS = ("model", "base_url", "api_key_env", "concurrency", "timeout", "logprobs", "extra_body")
CASCADE_DETAILS = ("cascade_judged", "cascade_audit")
CASCADE_OPTIONS = ("cheap", "judge", "judge_budget", "promise", "confidence", "calibration", "audit")


def add_score(commands: Any) -> None:
    """Adds `ee-trl score`."""
    parser = options.new_command(commands, "score", run_score, "dialogues.parquet -o scored.parquet")
    options.add_input(parser, "dataset", f"{options.DATA_HELP}; its columns tell the format: {', '.join(FORMATS)}")
    options.add_output(parser)
    parser.add_argument(
        "--scorer",
        default=DEFAULT_SCORER,
        help="linear (bundled), a folder that `ee-trl distill` wrote, a judge's folder, hub id (Qwen/Qwen3-8B) or "
        "GGUF file, server, or cascade: a cheap scorer before a judge (default: %(default)s)",
    )
    parser.add_argument(
        "--other-language",
        choices=("flag", "unscored"),
        help="replies that are not English, by linear or a distilled scorer of English: flag scores and flags them, "
        "unscored gives them no score (default: flag)",
    )
    _add_judge(parser)
    _add_server(parser)
    _add_cascade(parser)
    options.add_shared(parser, "turns", "threshold", "ties")
    options.add_store(parser)
    options.add_engine(parser)
    parser.add_argument(
        "--max-unscored",
        **options.SHARE,
        default=DEFAULT_MAX_UNSCORED,
        help="fail, after everything is written, if a larger share of the samples has no score; a last speaker turn "
        "without an answer does not count (default: %(default)s)",
    )
    options.add_shared(parser, "json", "quiet")


def _add_judge(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("options of a judge (a causal language model) or a distilled scorer").add_argument
    add("--quantization", choices=("none", "int8", "nf4"), help="by bitsandbytes (default: none)")
    add("--dtype", choices=options.DTYPES, help="(default: auto)")
    add("--rubric", metavar="FILE", help="a text file that replaces the bundled rubric")
    add("--revision", help="of a hub id: branch, tag or commit")
    add("--trust-remote-code", action="store_true", default=None, help="let code of a hub model run")
    add("--gguf-file", metavar="NAME", help="a GGUF file in the folder or hub repository; it is dequantized")
    add("--token-budget", type=int, metavar="N", help="tokens in one forward pass; changes no score")
    add("--details", action="store_true", help="also write mode, spread and answer mass of each axis")


def _add_server(parser: argparse.ArgumentParser) -> None:
    title = "options of --scorer server (any OpenAI-compatible server; --rubric and --details apply too)"
    add = parser.add_argument_group(title).add_argument
    add("--model", metavar="NAME", help="the model's name on the server")
    add("--base-url", metavar="URL", help="e.g. http://127.0.0.1:8000/v1 (default: $OPENAI_BASE_URL, or OpenAI)")
    add("--api-key-env", metavar="VARIABLE", help="environment variable that holds the key (default: OPENAI_API_KEY)")
    add("--concurrency", type=int, metavar="N", help="requests at the same time (default: 8)")
    add("--timeout", type=float, metavar="S", help="seconds for one attempt (default: 60)")
    add("--no-logprobs", dest="logprobs", action="store_const", const=False, help="read scores from its text")
    add("--extra-body", metavar="JSON", help="further fields of each request, as a JSON object")


def _add_cascade(parser: argparse.ArgumentParser) -> None:
    cascade = parser.add_argument_group(
        "options of --scorer cascade (the judge's options go to --judge)",
        "The cheap scorer decides where it is sure, and the judge decides the rest. The store keeps all their scores.",
    )
    add = cascade.add_argument
    add("--cheap", metavar="SCORER", help=f"{DEFAULT_SCORER} (default), linear, or a distilled folder")
    add("--judge", metavar="SCORER", help="folder or hub id of a judge, or server")
    rule, share = cascade.add_mutually_exclusive_group(), options.SHARE
    rule.add_argument("--judge-budget", **share, help="share of samples to ask the judge for, e.g. 30%%")
    rule.add_argument("--promise", **share, help="share of samples selected as the judge would select them, e.g. 95%%")
    add("--confidence", **share, help="keep the promise with this probability (default: on average)")
    add(
        "--calibration",
        metavar="FILE or N",
        help="judged samples that --cheap did not learn from, or how many of this data set the judge scores first",
    )
    add("--audit", **share, help="share of the other samples that the judge also scores, as an audit (default: 5%%)")


def scorer_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of the scorer that the arguments name."""
    named = {name: value for name in (*JUDGE_OPTIONS, *SERVER_OPTIONS) if (value := getattr(args, name)) is not None}
    cheap = {name: value for name in CHEAP_OPTIONS if (value := getattr(args, name)) is not None}
    names = {name: "budget" if name == "judge_budget" else name for name in CASCADE_OPTIONS}
    cascade = {key: value for name, key in names.items() if (value := getattr(args, name)) is not None}
    if args.scorer != "cascade":
        if cascade:
            flag = next(name for name, key in names.items() if key in cascade).replace("_", "-")
            raise ScorerError(f"--{flag} goes with --scorer cascade")
        return named | cheap
    if isinstance(calibration := cascade.get("calibration"), str) and calibration.isdecimal():
        cascade["calibration"] = int(calibration)
    rule = {"threshold": options.threshold_of(args), "ties": args.ties}
    return {"cheap": DEFAULT_SCORER, **cascade, "cheap_options": cheap, "judge_options": named, **rule}


def run_score(args: argparse.Namespace) -> int:
    """
    Score dialogues on sensibility and rationality.

    Scores every listener turn. Samples that cannot be scored are kept, with the reason.
    """
    from ..data.reading import row_count
    from ..data.tables import write_file
    from ..files import check_output
    from ..reports.rubric import rubric_text
    from ..scoring.load import load_scorer
    from ..scoring.parallel import Launch

    cascade = args.scorer == "cascade"
    chosen = scorer_options(args)
    scorer: Any = args.scorer
    if cascade:
        scorer, chosen = load_scorer("cascade", **chosen), {}
    chosen |= {**options.store_options(args), "ray": options.ray_options(args)}
    selector = options.make_selector(args, scorer=scorer, turns=args.turns, details=args.details or cascade, **chosen)
    launch = Launch.from_environment()
    path = check_output(args.output, overwrite=args.overwrite or launch.rank > 0)
    dataset = options.open_input(args.dataset, args)
    rows = row_count(args.dataset)
    filled = selector.fill_store(dataset, rows) if launch.count > 1 or args.engine == "ray" else None
    if launch.rank > 0:
        return 0  # the first process writes
    gc.set_threshold(200_000)  # a batch has tens of thousands of small objects, and none of them is in a cycle
    features, tables = selector.score_tables(dataset, rows, filled, workers=args.workers)
    metadata = {
        "command": "score",
        "source": args.dataset,
        "scorer": selector.scorer.fingerprint,
        "threshold": list(selector.threshold),
        "ties": args.ties,
        "turns": args.turns,
        "rubric": rubric_text(selector.scorer),
        "versions": options.versions(),
    }
    write_file(tables, features, path, metadata=metadata)
    try:
        summary, coverage = selector.summary(options.open_written(path)), selector.coverage
    except OSError:
        options.note(f"wrote {path}, which is whole; its summary could not be made")
        raise
    assert coverage is not None
    report = _cascade_report(path, scorer) if cascade else None
    found = {"output": str(path), **summary.to_dict(), "coverage": coverage.to_dict()}
    found |= {"cascade": report.to_dict()} if report else {}
    options.show(args, found, f"{summary}\n{report}" if report else summary, f"{coverage}\nwrote {path}")
    coverage.check(args.max_unscored, str(path))
    return 0


def _cascade_report(path: Any, cascade: Any) -> Any:
    """The report on all rows of the output, including those that an earlier run scored."""
    from ..data.tables import tables_of
    from ..scoring.cascade import CascadeReport

    made = cascade.report()
    report = CascadeReport(calls=made.calls, calibration_calls=made.calibration_calls)
    for table in tables_of(options.open_written(path)):
        scored = table.filter(table.column("cascade_judged").is_valid())
        columns = (scored.column(name).cast("float64").fill_null(float("nan")) for name in CASCADE_DETAILS)
        report.count(dict(zip(CASCADE_DETAILS, (column.to_numpy() for column in columns), strict=True)))
    return report


def add_rubric(commands: Any) -> None:
    """Adds `ee-trl rubric`."""
    parser = options.new_command(commands, "rubric", run_rubric, "")
    parser.add_argument("--rubric", metavar="FILE", help="a text file that replaces the bundled rubric")
    options.add_shared(parser, "json")


def run_rubric(args: argparse.Namespace) -> int:
    """
    Print the rubric that an LLM judge is given, and its fingerprint.

    The text goes to standard output, the fingerprint to standard error; `ee-trl rubric > mine.md` is a start for a
    rubric of your own.
    """
    from ..scoring.judge.rubric import load_rubric

    rubric = load_rubric(args.rubric)
    found = {"name": rubric.name, "fingerprint": rubric.fingerprint, "text": rubric.text}
    return options.show(args, found, rubric.text, rubric.fingerprint)
