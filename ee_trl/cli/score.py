"""`ee-trl score`: dialogues in, the same with scores out."""

from __future__ import annotations

import argparse
from typing import Any

from ..data.dialogue import FORMATS
from ..errors import ScorerError
from ..scoring.coverage import DEFAULT_MAX_UNSCORED
from . import common


JUDGE_OPTIONS = ("quantization", "dtype", "rubric", "revision", "trust_remote_code", "token_budget")
SERVER_OPTIONS = ("model", "base_url", "api_key_env", "concurrency", "timeout", "logprobs", "extra_body")


CASCADE_DETAILS = ("cascade_judged", "cascade_audit")
CASCADE_OPTIONS = ("cheap", "judge", "judge_budget", "promise", "confidence", "calibration", "audit")


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = common.new_command(
        commands,
        "score",
        help="score dialogues on sensibility and rationality",
        description="Score every listener turn on sensibility and rationality. Formats, recognised by the columns: "
        + ", ".join(FORMATS)
        + ". Samples that cannot be scored are kept, with the reason.",
        example="ee-trl score dialogues.parquet -o scored.parquet",
    )
    common.add_input(parser, "dataset", "parquet, jsonl, json or csv file, folder, or hub name")
    common.add_output(parser)
    parser.add_argument(
        "--scorer",
        default="linear",
        help="linear (bundled, default), a folder that `ee-trl distill` wrote, a judge's folder or hub id, e.g. "
        "Qwen/Qwen3-8B, server, or cascade: a cheap scorer before a judge",
    )
    judge = parser.add_argument_group("of a judge (a causal language model), or of a distilled scorer")
    judge.add_argument("--quantization", choices=("none", "int8", "nf4"), help="by bitsandbytes (default: none)")
    judge.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), help="(default: auto)")
    judge.add_argument("--rubric", metavar="FILE", help="a text file in the place of the bundled rubric")
    judge.add_argument("--revision", help="of a hub id: branch, tag or commit")
    judge.add_argument("--trust-remote-code", action="store_true", default=None, help="let code of a hub model run")
    judge.add_argument("--token-budget", type=int, metavar="N", help="tokens in one forward pass; changes no score")
    judge.add_argument("--details", action="store_true", help="also write mode, spread and answer mass of each axis")
    _add_server(parser)
    _add_cascade(parser)
    parser.add_argument(
        "--turns", choices=("each", "last"), default="each", help="of conversations: each listener turn, or the last"
    )
    common.add_threshold(parser)
    common.add_store(parser)
    common.add_engine(parser)
    parser.add_argument(
        "--max-unscored",
        type=share,
        default=DEFAULT_MAX_UNSCORED,
        metavar="SHARE",
        help="fail, after everything is written, if a larger share of the samples has no score; a last turn of the "
        "speaker, which nobody answered, does not count (default: %(default)s)",
    )
    common.add_json(parser)
    common.add_quiet(parser)
    parser.set_defaults(run=run)


def _add_server(parser: argparse.ArgumentParser) -> None:
    server = parser.add_argument_group(
        "of --scorer server (any OpenAI-compatible one: vLLM, SGLang, TGI, hosted; --rubric and --details go as well)"
    )
    server.add_argument("--model", metavar="NAME", help="the model's name on the server")
    server.add_argument(
        "--base-url", metavar="URL", help="e.g. http://127.0.0.1:8000/v1 (default: $OPENAI_BASE_URL, or OpenAI)"
    )
    server.add_argument(
        "--api-key-env", metavar="VARIABLE", help="environment variable that holds the key (default: OPENAI_API_KEY)"
    )
    server.add_argument("--concurrency", type=int, metavar="N", help="requests under way at a time (default: 8)")
    server.add_argument("--timeout", type=float, metavar="S", help="seconds for one attempt (default: 60)")
    server.add_argument(
        "--no-logprobs",
        dest="logprobs",
        action="store_const",
        const=False,
        help="take the integers that the judge writes, even where the server gives log probabilities",
    )
    server.add_argument("--extra-body", metavar="JSON", help="further fields of each request, as a JSON object")


def _add_cascade(parser: argparse.ArgumentParser) -> None:
    cascade = parser.add_argument_group(
        "of --scorer cascade (the judge's options go to --judge)",
        "The cheap scorer decides where it is sure, the judge elsewhere. All their scores go to the store.",
    )
    cascade.add_argument("--cheap", metavar="SCORER", help="linear (default), or a distilled folder")
    cascade.add_argument("--judge", metavar="SCORER", help="folder or hub id of a judge, or server")
    rule = cascade.add_mutually_exclusive_group()
    rule.add_argument(
        "--judge-budget", type=share, metavar="SHARE", help="ask the judge for at most so many, e.g. 30%%"
    )
    rule.add_argument(
        "--promise",
        type=share,
        metavar="SHARE",
        help="agree with the judge's selection on at least so many, e.g. 95%%",
    )
    cascade.add_argument(
        "--confidence",
        type=share,
        metavar="SHARE",
        help="keep the promise with this probability (default: on average)",
    )
    cascade.add_argument(
        "--calibration",
        metavar="FILE or N",
        help="judged samples that --cheap has not learnt from, or how many of this data set to have judged first",
    )
    cascade.add_argument("--audit", type=share, metavar="SHARE", help="of the others, to show the judge too (5%%)")


def scorer_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of the scorer that the arguments name."""
    named = {name: value for name in (*JUDGE_OPTIONS, *SERVER_OPTIONS) if (value := getattr(args, name)) is not None}
    names = {name: "budget" if name == "judge_budget" else name for name in CASCADE_OPTIONS}
    cascade = {key: value for name, key in names.items() if (value := getattr(args, name)) is not None}
    if args.scorer != "cascade":
        if cascade:
            flag = next(name for name, key in names.items() if key in cascade).replace("_", "-")
            raise ScorerError(f"--{flag} goes with --scorer cascade")
        return named
    if isinstance(calibration := cascade.get("calibration"), str) and calibration.isdecimal():
        cascade["calibration"] = int(calibration)
    threshold = args.threshold[0] if len(args.threshold) == 1 else args.threshold
    return {"cheap": "linear", **cascade, "judge_options": named, "threshold": threshold, "ties": args.ties}


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from ..data.reading import row_count
    from ..data.tables import write_file
    from ..files import check_output
    from ..reports.rubric import rubric_text
    from ..scoring.launched import Launch
    from ..scoring.load import load_scorer

    cascade = args.scorer == "cascade"
    options = scorer_options(args)
    scorer: Any = args.scorer
    if cascade:
        scorer, options = load_scorer("cascade", **options), {}
    options |= {**common.store_options(args), "ray": common.ray_options(args)}
    selector = common.make_selector(args, scorer=scorer, turns=args.turns, details=args.details or cascade, **options)
    launch = Launch.from_environment()
    path = check_output(args.output, overwrite=args.overwrite or launch.rank > 0)
    dataset = common.open_input(args.dataset, args)
    rows = row_count(args.dataset)
    filled = selector.fill_store(dataset, rows) if launch.count > 1 or args.engine == "ray" else None
    if launch.rank > 0:
        return 0  # the first process writes
    features, tables = selector.score_tables(dataset, rows, filled)
    metadata = {
        "command": "score",
        "source": args.dataset,
        "scorer": selector.scorer.fingerprint,
        "threshold": list(selector.threshold),
        "ties": args.ties,
        "turns": args.turns,
        "rubric": rubric_text(selector.scorer),
        "versions": common.versions(),
    }
    write_file(tables, features, path, metadata=metadata)
    summary, coverage = selector.summary(common.open_written(path)), selector.coverage
    assert coverage is not None
    report = _cascade_report(path, scorer) if cascade else None
    if args.json:
        told = {"cascade": report.to_dict()} if report else {}
        common.print_json({"output": str(path), **summary.to_dict(), "coverage": coverage.to_dict(), **told})
    else:
        print(summary)
        if report:
            print(report)
        common.note(f"{coverage}\nwrote {path}")
    coverage.check(args.max_unscored, str(path))
    return 0


def _cascade_report(path: Any, cascade: Any) -> Any:
    """Of all that was written, whoever scored it and when."""
    from ..data.tables import tables_of
    from ..scoring.cascade_report import CascadeReport

    made = cascade.report()
    report = CascadeReport(calls=made.calls, calibration_calls=made.calibration_calls)
    for table in tables_of(common.open_written(path)):
        scored = table.filter(table.column("cascade_judged").is_valid())
        columns = (scored.column(name).cast("float64").fill_null(float("nan")) for name in CASCADE_DETAILS)
        report.count(dict(zip(CASCADE_DETAILS, (column.to_numpy() for column in columns), strict=True)))
    return report


def share(text: str) -> float:
    """A number in [0, 1]; also as a percentage (`5%`)."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share; valid: a number from 0 to 1, or 0% to 100%")
    return value
