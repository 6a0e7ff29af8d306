"""The command line and the YAML file of a recipe, parsed strictly; `--help`; how a recipe ends."""

from __future__ import annotations

import argparse
import difflib
import io
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext, redirect_stderr
from dataclasses import fields
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_type_hints

import yaml

from .. import telemetry
from ..display import log_to_terminal, plain
from ..errors import EmpathyError
from .arguments import DataArguments, OnlineArguments, trl_options
from .demo_model import pretrained


if TYPE_CHECKING:  # torch, which TRL's settings load, takes ten seconds: wrong options are found before
    from trl import TrlParser

logger = logging.getLogger(__name__)


def recipe_parser(arguments: type[DataArguments], **defaults: Any) -> TrlParser:
    """The parser of a recipe: these arguments, TRL's settings of training and model, and the recipe's defaults."""
    from trl import ModelConfig, SFTConfig, TrlParser

    parser = TrlParser([arguments, SFTConfig, ModelConfig], usage=_USAGE)  # type: ignore[list-item]
    parser.set_defaults(**defaults)
    return parser


_USAGE = "%(prog)s [--config FILE.yaml] [--OPTION VALUE ...]"


def parse_recipe_args(parser: TrlParser, argv: Sequence[str] | None = None) -> tuple[Any, ...]:
    """
    Parses the command line and the YAML file of `--config`, strictly: an unknown key is an error.

    Without a config and without a model, it is the recipe's demonstration on a CPU, and a warning says so: a LoRA of
    [`~ee_trl.demo_model`]'s pretrained model where it is at hand, else a tiny random model.
    """
    given = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(given):
        parser.parse_args(["--help"])
    ours = next(kind for kind in parser.dataclass_types if issubclass(kind, DataArguments))
    return _parse(parser, *_checked(parser.prog, ours, given))


def _checked(prog: str, ours: type[DataArguments], given: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """The options of the command line and the keys of the YAML file; ends the process if a name or value is wrong."""
    args = [part for arg in given for part in (arg.split("=", 1) if arg.startswith("--config=") else [arg])]
    demonstration = "--config" not in args and "model_name_or_path" not in _named(args)
    base = pretrained() if demonstration else None
    if demonstration:
        config_name = ours.demonstration if base is None else ours.demonstration_of_a_chat_model
        with as_file(files("ee_trl.recipes").joinpath(config_name)) as default:
            args = ["--config", str(default), *([] if base is None else ["--model_name_or_path", str(base)]), *args]
    from trl import TrlParser

    try:
        file, config, args = _config_of(args)
        _check_names(ours, args, file, config)
        args += _without_policy_options(args, file, config)
        own = {option.name for option in fields(ours)}
        parser = TrlParser([ours], prog=prog, usage=_USAGE)  # type: ignore[list-item]
        _parse(parser, args, {name: value for name, value in config.items() if name in own}, others=True)
    except (ValueError, TypeError, OSError) as error:
        _stop(2, prog, error)
    if demonstration:
        logger.warning(
            "No --config and no --model_name_or_path: this is the %s. For a real run give --config recipes/%s "
            "--dataset YOUR_DIALOGUES, or --model_name_or_path MODEL --dataset YOUR_DIALOGUES.",
            "demonstration on a CPU, with a LoRA of a small chat model"
            if base
            else "tiny CPU demonstration, with a model that knows no language",
            ours.config_for_one_gpu,
        )
    return args, config


def _parse(parser: TrlParser, args: list[str], config: dict[str, Any], others: bool = False) -> tuple[Any, ...]:
    """The parsed arguments; of several processes the first alone says what is wrong."""
    parser.allow_abbrev = False  # `--learn 1` must not pass for `--learning_rate 1`
    parser.set_defaults_with_config(**config)
    with nullcontext() if _is_first() else redirect_stderr(io.StringIO()):
        # argparse converts, and so checks, only the texts among a file's values
        parser.parse_known_args(
            [f"--{name}={value}" for name, value in config.items() if isinstance(value, int | float)]
        )
        if others:
            return parser.parse_args_into_dataclasses(args, return_remaining_strings=True)
        if not _has_accelerator() and not {"use_cpu", "bf16", "fp16"} & {*config, *_named(args)}:
            logger.warning("No GPU was found: the training runs on the CPU, in float32 (--use_cpu, --bf16 false).")
            parser.set_defaults(use_cpu=True, bf16=False)
        try:
            return parser.parse_args_into_dataclasses(args)
        except (ValueError, TypeError, OSError) as error:
            mixed = [name for name, value in config.items() if isinstance(value, list | dict)]
            hint = f"; is one value right for each of these: {', '.join(mixed)}?"
            _stop(2, parser.prog, f"{error}{hint if mixed and isinstance(error, TypeError) else ''}")


def _has_accelerator() -> bool:
    import torch

    return torch.accelerator.is_available()


def _is_first() -> bool:
    """Whether this is the first process of a launch; each of them reads the same command line."""
    return os.environ.get("RANK", "0") == "0"


def _stop(code: int, prog: str, error: object) -> NoReturn:
    if _is_first():
        print(plain(f"{prog}: {error}", lines=True), file=sys.stderr)
    sys.exit(code)


def _config_of(args: list[str]) -> tuple[str, dict[str, Any], list[str]]:
    """The file of `--config`, its content, and the other arguments; sets the file's environment variables."""
    if "--config" not in args:
        return "", {}, args
    at = args.index("--config") + 1
    if at == len(args):
        raise ValueError("--config names no file; give one: --config FILE.yaml")
    file = args[at]
    try:
        config = yaml.safe_load(Path(file).read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{file} is not YAML ({' '.join(str(error).split())}); correct it") from error
    if not isinstance(config, dict):
        raise ValueError(f"{file} holds no mapping of names to values")
    variables = config.pop("env", None) or {}
    if not isinstance(variables, dict):
        raise ValueError(f"env in {file} is not a mapping of names to values")
    os.environ.update({str(name): str(value) for name, value in variables.items()})
    for name in ("streaming", "dataset_streaming"):  # TRL's
        if config.pop(name, False):
            raise ValueError(f"{name} in {file}: a recipe looks at all rows before it trains; leave it out")
    if "dataset_name" in config:  # as TRL calls it
        if "dataset" in config:
            raise ValueError(f"{file} has both dataset and dataset_name; keep one of them")
        config["dataset"] = config.pop("dataset_name")
    if {"gradient_checkpointing", "no_gradient_checkpointing"} & {*_named(args)}:  # the file has the new name
        config.pop("activation_checkpointing", None)
    if "activation_checkpointing" in config and "activation_checkpointing" not in trl_options():
        config["gradient_checkpointing"] = config.pop("activation_checkpointing")  # its name before transformers 5.20
    return file, config, args[: at - 1] + args[at + 1 :]


def _named(args: list[str]) -> list[str]:
    """The options that a command line names, as the parser names them."""
    return [arg[2:].split("=")[0].replace("-", "_") for arg in args if arg.startswith("--")]


def _check_names(ours: type[DataArguments], args: list[str], file: str, config: dict[str, Any]) -> None:
    """Raises for a key of the YAML file or an option of the command line that no argument has."""
    valid = [option.name for option in fields(ours)] + ["dataset_name", *sorted(trl_options())]
    given = [(name.removeprefix("no_") if name not in valid else name, "option") for name in _named(args)]
    given += [(str(key), f"key in {file}") for key in config]
    for name, kind in given:
        if name not in valid:
            close = difflib.get_close_matches(name, valid, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "--help-all lists the valid ones"
            raise ValueError(f"unknown {kind}: {name!r}; {hint}")
    for name, takes in get_type_hints(ours).items():  # the parser lets lists and mappings pass
        value = config.get(name)
        if any(isinstance(value, kind) and kind.__name__ not in str(takes) for kind in (list, dict)):
            raise ValueError(f"{name} in {file} is {value!r}; give one value")


def _without_policy_options(args: list[str], file: str, config: dict[str, Any]) -> list[str]:
    """Empties the policy's options, if the command line names another policy than the YAML file, and no options."""
    names = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("policy", "policy_options"):
        names.add_argument(f"--empathy_{name}", dest=name)
    named, _ = names.parse_known_args(args)
    of_file = config.get("empathy_policy", OnlineArguments.empathy_policy)
    options = config.get("empathy_policy_options")
    if named.policy in (None, of_file) or not options or named.policy_options is not None:
        return []
    logger.warning(
        "The policy is %s, but %s has options for the policy %s: its empathy_policy_options (%s) are left out. To set "
        "options of %s: --empathy_policy_options '{...}'.",
        *(named.policy, file, of_file, options, named.policy),
    )
    return ["--empathy_policy_options", "{}"]


def run_recipe(main: Callable[..., None], make_parser: partial[TrlParser]) -> None:
    """Runs a recipe's `main` on the arguments of the command line; an error of this package ends it in one line."""
    telemetry.turn_off()
    log_to_terminal(logging.WARNING if _is_first() else logging.ERROR)
    [ours], prog = make_parser.args, Path(sys.argv[0]).name
    if {"-h", "--help"} & set(sys.argv):
        about = (sys.modules[main.__module__].__doc__ or "").strip().split("\n\n")[0]
        print(_help(prog, ours, make_parser.keywords, about))
        return
    if "--help-all" in sys.argv:
        make_parser().print_help()
        return
    given = _checked(prog, ours, sys.argv[1:])
    parser = make_parser()
    try:
        main(*_parse(parser, *given))
    except EmpathyError as error:
        sys.exit(plain(f"{prog}: {error}", lines=True))


def _help(prog: str, ours: type[DataArguments], defaults: dict[str, Any], about: str) -> str:
    """The recipe's own options, without TRL's."""
    parser = argparse.ArgumentParser(
        prog=prog,
        usage=_USAGE,
        description=about,
        add_help=False,
        formatter_class=partial(argparse.HelpFormatter, max_help_position=32, width=110),
        epilog=f"TRL's settings are options too, e.g. --learning_rate 1e-4. All of them: {prog} --help-all",
    )
    group = parser.add_argument_group("options of the recipe, on the command line or as keys of the YAML file")
    for option in fields(ours):
        value = defaults.get(option.name, option.default)
        shown = f" [{value}]" if isinstance(value, (str, int, float)) else ""
        group.add_argument(f"--{option.name}", metavar="", help=(option.metadata["help"] + shown).replace("%", "%%"))
    return parser.format_help().rstrip()
