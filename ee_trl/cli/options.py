"""Options that several commands share, and what the commands make of them."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ..axes import TIES
from ..display import plain
from ..errors import EmpathyError, FormatError, require
from ..files import json_text, package_versions


if TYPE_CHECKING:
    from ..scoring.parallel import RayOptions
    from ..selector import EmpathyDataSelector

SCORED_HELP = "what `ee-trl score` wrote, or data with columns sensibility and rationality"
DATA_HELP = "parquet, jsonl, json or csv file, folder, or hub name"
DTYPES = ("auto", "float32", "bfloat16", "float16")


def new_command(
    commands: Any, name: str, run: Callable[..., Any], example: str | None = None
) -> argparse.ArgumentParser:
    """A command that calls `run`, with its docstring as help; a group of commands passes the function that adds it."""
    about = inspect.getdoc(run) or name
    first, _, rest = about.partition("\n")
    parser = commands.add_parser(
        name,
        help=first[0].lower() + first[1:].removesuffix("."),
        description=rest.strip() or about,
        epilog=f"example:\n  ee-trl {name} {example}" if example is not None else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


SHARED: dict[str, dict[str, Any]] = {
    "threshold": {
        "type": float,
        "nargs": "+",
        "default": [5.0],
        "metavar": "T",
        "help": "T in [0, 10]: one number for both axes, or two (sensibility rationality); default: 5",
    },
    "ties": {"choices": TIES, "default": "drop", "help": "how a score equal to T counts (default: drop, not at all)"},
    "turns": {
        "choices": ("each", "last"),
        "default": "each",
        "help": "samples of a conversation: each listener turn, or the last (default: each)",
    },
    "json": {"action": "store_true", "help": "print one JSON object instead of text"},
    "quiet": {"action": "store_true", "help": "no progress bars"},
}
FLAGS = {"threshold": ("--threshold", "-t"), "quiet": ("-q", "--quiet")}


def add_shared(parser: argparse.ArgumentParser, *names: str) -> None:
    """Adds options that several commands have, by their names in [`SHARED`]."""
    for name in names:
        parser.add_argument(*FLAGS.get(name, (f"--{name}",)), **SHARED[name])


def add_input(parser: argparse.ArgumentParser, name: str, help: str = DATA_HELP) -> None:
    """The input: a file, folder or hub name, with split and configuration, and how it is read ([`open_input`])."""
    parser.add_argument(name, help=help)
    parser.add_argument("--split", help="split of a data set that has several (default: its only one)")
    parser.add_argument("--config", help="configuration name of a hub data set")
    parser.add_argument("--encoding", metavar="NAME", help="of a csv or json file, e.g. cp1252 (default: utf-8)")
    note = (
        "what a name in the data means: chosen=response, dialogs=messages, who=role, client=user; repeatable; "
        "meanings: a column, a key of a turn (role, content), a role (user, assistant, system)"
    )
    parser.add_argument("--map", **REPEATED, metavar="NAME=MEANING", help=note)


def add_output(
    parser: argparse.ArgumentParser, help: str = "file to write: .parquet or .jsonl", *, required: bool = True
) -> None:
    """The output file or folder, and whether it may replace another."""
    parser.add_argument("-o", "--output", required=required, help=help)
    parser.add_argument("--overwrite", action="store_true", help="replace what is already there")


def add_store(parser: argparse.ArgumentParser) -> None:
    """Where scores are stored, and whether failures are tried again."""
    group = parser.add_argument_group(
        "the score store", "scores are saved as they are made, so that nothing is scored twice; see `ee-trl cache`"
    )
    place = group.add_mutually_exclusive_group()
    place.add_argument("--store", metavar="FILE", help="SQLite file (default: scores.sqlite in the cache folder)")
    place.add_argument("--no-store", action="store_true", help="save scores only in the output")
    group.add_argument("--retry-failures", action="store_true", help="try failed dialogues again")


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Where the scorer works: here, or on a Ray cluster."""
    group = parser.add_argument_group(
        "more than one process or device",
        "Under torchrun or accelerate launch, the processes share the work. With --engine ray it goes to actors.",
    )
    add = group.add_argument
    note = "processes that score with linear (default: one for each core if a parquet file has 100,000 rows or more)"
    add("--workers", type=int, metavar="N", help=note)
    add("--engine", choices=("local", "ray"), default="local", help="(default: local)")
    add("--ray-actors", metavar="N or MIN:MAX", type=actors, help="how many; with MIN:MAX as many as needed")
    add("--ray-cpus", type=float, metavar="N", help="cores that an actor reserves (default: 0.5)")
    add("--ray-gpus", type=float, metavar="N", help="GPUs that an actor reserves, e.g. 0.5")
    add("--ray-address", metavar="ADDRESS", help="of a cluster, e.g. auto (default: Ray starts here)")


def share(text: str) -> float:
    """A number in [0, 1]; also as a percentage (`5%`)."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share; valid: a number from 0 to 1, or 0% to 100%")
    return value


SHARE: dict[str, Any] = {"type": share, "metavar": "SHARE"}
REPEATED: dict[str, Any] = {"action": "append", "default": []}


def actors(text: str) -> int | tuple[int, int]:
    """`4`, or `1:8` for fewest and most."""
    few, colon, most = text.partition(":")
    try:
        found = (int(few), int(most if colon else few))
    except ValueError:
        found = (0, 0)
    if not 1 <= found[0] <= found[1]:
        raise argparse.ArgumentTypeError(f"{text!r} is not valid; valid: a number of at least 1, or fewest:most")
    return found if colon else found[0]


def grid(text: str) -> list[float]:
    """`1:9` or `1:9:0.5` (first:last:step), or `3,4,5`."""
    try:
        if ":" not in text:
            return [float(part) for part in text.split(",")]
        first, last, *rest = (float(part) for part in text.split(":"))
        step = rest[0] if rest else 1.0
        if step <= 0 or len(rest) > 1:
            raise ValueError
        return [round(first + i * step, 6) for i in range(int((last - first) / step + 1e-9) + 1)]
    except ValueError:
        raise EmpathyError(
            f"grid {text!r} is not valid; valid: first:last[:step] or a list, e.g. 1:9:0.5 or 3,5,7"
        ) from None


def named_paths(
    option: str, given: Sequence[str] | None, example: str = "NAME=PATH, e.g. sensibility=runs/expert"
) -> dict[str, str]:
    """`NAME=PATH` pairs, each name once."""
    found: dict[str, str] = {}
    for pair in given or ():
        name, equals, value = pair.partition("=")
        if not (name and equals and value):
            raise EmpathyError(f"{option} {pair!r} is not valid; valid: {example}")
        if name in found:
            raise EmpathyError(f"{option} names {name!r} twice; give each name once")
        found[name] = value
    return found


def scorer_options(pairs: Sequence[str]) -> dict[str, Any]:
    """`key=value` pairs; JSON numbers, booleans and null are read as such, all other values as text."""
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


def picked(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The arguments of these names."""
    return {name: getattr(args, name) for name in names}


def store_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of [`EmpathyDataSelector`] about the store."""
    return {"store": args.store or not args.no_store, "retry_failures": args.retry_failures}


def ray_options(args: argparse.Namespace) -> RayOptions | None:
    """The actors that the arguments describe; `None` without Ray."""
    named = {name: getattr(args, f"ray_{name}") for name in ("actors", "cpus", "gpus", "address")}
    given = {name: value for name, value in named.items() if value is not None}
    if args.engine != "ray":
        if given:
            raise EmpathyError(f"--ray-{next(iter(given))} goes with --engine ray")
        return None
    require("ray", extra="ray", purpose="--engine ray")
    from ..scoring.parallel import RayOptions

    return RayOptions(**given)


def threshold_of(args: argparse.Namespace) -> Any:
    """T as Python's functions take it: one number, or one for each axis."""
    given = getattr(args, "threshold", [5.0])
    return given[0] if len(given) == 1 else given


def make_selector(args: argparse.Namespace, **options: Any) -> EmpathyDataSelector:
    """The selector that the arguments describe."""
    from ..selector import EmpathyDataSelector

    show = False if getattr(args, "quiet", False) else None
    ties = getattr(args, "ties", "drop")
    return EmpathyDataSelector(threshold=threshold_of(args), ties=ties, show_progress=show, **options)


def reading(args: argparse.Namespace) -> dict[str, Any]:
    """How the input is read: the options of [`~ee_trl.data.reading.open_dataset`]."""
    mapping = named_paths("--map", args.map, "NAME=MEANING, e.g. client=user")
    return {**picked(args, "config", "split", "encoding"), "mapping": mapping}


def open_input(source: str, args: argparse.Namespace, *, dialogues: bool = True) -> Any:
    """One split of the input; if it holds dialogues, parquet files are a stream."""
    from ..data.reading import only_split, open_dataset, open_rows
    from ..data.tables import streams_without_torch

    streams_without_torch()
    dataset = only_split((open_rows if dialogues else open_dataset)(source, **reading(args)))
    if hasattr(dataset, "keys"):
        raise FormatError(f"{source!r} has several splits: {', '.join(dataset)}; name one with --split")
    return dataset


def open_written(path: Any) -> Any:
    """A file that this package just wrote, as a stream where that is possible."""
    from ..data.reading import open_dataset

    return open_dataset(path, split="train", streaming=True)


def check_plot(args: argparse.Namespace) -> None:
    """Raises [`MissingExtraError`] for `--plot` without matplotlib, before anything is read."""
    if args.plot:
        require("matplotlib", extra="report", purpose="--plot")


def report_folder(args: argparse.Namespace, *files: str, given: str | None = None) -> Path:
    """The folder `given`, or `--output`, checked: not a file, and without the `files` unless they may be replaced."""
    folder = Path(given or args.output)
    if folder.exists() and not folder.is_dir():
        raise FormatError(f"{str(folder)!r} is a file; name a folder")
    there = [str(folder / file) for file in files if (folder / file).exists()]
    if there and not args.overwrite:
        raise FormatError(f"{', '.join(map(repr, there))} already there; give another folder, or --overwrite")
    return folder


def show(args: argparse.Namespace, found: Mapping[str, Any] | Sequence[Any], text: Any, *notes: str) -> int:
    """Prints one JSON object with `--json`, otherwise a text, and notes on standard error. Returns exit code 0."""
    if args.json:
        print(json_text(found))
        return 0
    if text is not None:
        say(text)
    for line in notes:
        note(line)
    return 0


def note(text: str) -> None:
    """A line for the person at the terminal, on standard error."""
    say(text, sys.stderr)


def say(text: object, stream: TextIO | None = None) -> None:
    """Prints a text, of which no character acts on the terminal; by default on standard output."""
    print(plain(str(text), lines=True), file=stream)


def versions() -> dict[str, str]:
    """The versions that a file of scores depends on."""
    return package_versions("ee-trl", "datasets", "numpy", "pyarrow")
