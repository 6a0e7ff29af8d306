"""The arguments of recipes beside TRL's own, parsed strictly from the command line and a YAML file."""

from __future__ import annotations

import argparse
import ast
import difflib
import io
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext, redirect_stderr
from dataclasses import dataclass, field, fields
from functools import cache, partial
from importlib.resources import as_file, files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeAlias, get_type_hints

import yaml

from .. import telemetry
from ..display import log_to_terminal, plain
from ..errors import EmpathyError, SelectionError, check_choice, check_share
from ..online.policies.named import BEHIND, ON_FAILURE, Schedule, load_policy, policy_options
from ..scoring.coverage import DEFAULT_MAX_UNSCORED
from ..scoring.kinds import DEFAULT_SCORER
from ..selector import RULE_OPTIONS, EmpathyDataSelector
from .demo_model import pretrained


if TYPE_CHECKING:  # torch, which TRL's settings load, takes ten seconds: wrong options are found before
    from trl import TrlParser

logger = logging.getLogger(__name__)

NEW_OPTIONS = {"control": None, "exclude": "all", "join_turns": None}
"""Options that older runs lack, and the value that does what older runs did."""


Options: TypeAlias = dict[str, Any] | str | None
"""A mapping in YAML, or JSON text on the command line."""
Mixture: TypeAlias = list[dict[str, Any]] | str | None
"""A list of mappings in YAML, or JSON text on the command line."""
OF_MIXTURE = ("path", "name", "data_dir", "data_files", "split", "columns", "fraction")
"""What TRL's `DatasetConfig` says of each data set of a mixture."""


def _option(default: Any, help: str, **metadata: Any) -> Any:
    return field(default=default, metadata={"help": help, **metadata})


@dataclass
class DataArguments:
    """
    The arguments of every recipe beside TRL's own: dialogues and how to score them; see `--help` for each.

    Scores that the data set already has (columns `sensibility` and `rationality`) are used as they are.
    """

    demonstration: ClassVar[str] = "configs/tiny_cpu.yaml"
    """The config for a command line with neither a config nor a model, where only a tiny random model is at hand."""
    demonstration_of_a_chat_model: ClassVar[str] = "configs/smollm2_cpu.yaml"
    """The same with [`~ee_trl.demo_model`]'s pretrained model."""
    config_for_one_gpu: ClassVar[str] = "configs/qlora_8b.yaml"

    dataset: str | None = _option(
        None,
        "Or --dataset_name: file, folder or hub name of the dialogues. Default: the embedded sample.",
        aliases=["--dataset_name"],
    )
    datasets: Mixture = _option(
        None, f"TRL's mixture instead of --dataset, as a list in YAML; of each data set: {', '.join(OF_MIXTURE)}."
    )
    test_split_size: float | None = _option(None, "Share of a mixture's conversations to evaluate on.")
    dataset_config: str | None = _option(None, "Configuration name of a hub data set.")
    empathy_encoding: str | None = _option(None, "Encoding of a csv or json file, e.g. cp1252. Default: utf-8.")
    empathy_map: Options = _option(None, 'What names in the data mean: \'{"chosen": "response", "client": "user"}\'.')
    dataset_train_split: str = _option("train", "Split to train on.")
    dataset_test_split: str | None = _option(None, "Split to evaluate on (all of it) with --eval_strategy.")
    empathy_scorer: str = _option(DEFAULT_SCORER, "A bundled scorer by name, a folder, or a hub id.")
    empathy_quantization: str | None = _option(None, "Quantization of a judge: none, int8 or nf4 (bitsandbytes).")
    empathy_rubric: str | None = _option(None, "A text file with a judge's rubric. Default: the bundled rubric.")
    empathy_store: str | None = _option(None, "File of a judge's scores, or none. Default: one in the cache folder.")
    empathy_threshold: list[float] = field(
        default_factory=lambda: [5.0],
        metadata={
            "help": "T in [0, 10]: one number for both axes, or two (sensibility rationality). [5]",
            "nargs": "+",
        },
    )
    empathy_ties: str = _option("drop", "What a score equal to T counts as: drop, high or low.")
    empathy_turns: str = _option("each", "Replies of a conversation to use: each listener turn, or the last.")
    empathy_join_turns: bool | None = _option(
        None, "Join neighbouring turns of one side for training. Default: only where the chat template needs it."
    )

    def __post_init__(self) -> None:
        mixture = _from_json("datasets", self.datasets) if isinstance(self.datasets, str) else self.datasets
        self.datasets = mixture
        if mixture is None:
            return
        if self.dataset is not None:
            raise EmpathyError(f"dataset {self.dataset!r} and datasets name the dialogues both; give one of them")
        if not isinstance(mixture, list) or not mixture or not all(isinstance(one, dict) for one in mixture):
            raise EmpathyError(f"datasets {mixture!r} is not a list of mappings; e.g. datasets: [{{path: a.parquet}}]")
        for one in mixture:
            for name in one:
                check_choice("key in datasets", name, OF_MIXTURE)
            if "path" not in one:
                raise EmpathyError(f"a data set of datasets has no path: {one!r}")
        shares = [one["fraction"] for one in mixture if one.get("fraction") is not None]
        for share in shares:
            check_share("fraction", share)
        if shares and (len(shares) < len(mixture) or not sum(shares)):
            raise EmpathyError("give a fraction above 0 for every data set of datasets, or for none")
        if self.test_split_size is not None and not 0 < self.test_split_size < 1:
            raise EmpathyError(f"test_split_size {self.test_split_size!r} is not a share between 0 and 1")

    @property
    def named(self) -> str | None:
        """What the data set is called; `None` for the embedded sample."""
        return ", ".join(one["path"] for one in self.datasets) if isinstance(self.datasets, list) else self.dataset

    def reading_options(self) -> dict[str, Any]:
        """How [`~ee_trl.data.reading.open_dataset`] reads the data."""
        return {"encoding": self.empathy_encoding, "mapping": _mapping("empathy_map", self.empathy_map)}

    def make_selector(self) -> EmpathyDataSelector:
        """The selector that the arguments describe."""
        threshold = self.empathy_threshold
        return EmpathyDataSelector(
            self.empathy_scorer,
            threshold=threshold[0] if len(threshold) == 1 else threshold,
            ties=self.empathy_ties,
            turns=self.empathy_turns,  # type: ignore[arg-type]
            store=False if self.empathy_store == "none" else self.empathy_store or True,
            **{name: value for name in ("quantization", "rubric") if (value := getattr(self, f"empathy_{name}"))},
        )


@dataclass
class ExpertArguments(DataArguments):
    """The arguments of a recipe that selects, beside TRL's own; see `--help` for each."""

    empathy_max_unscored: float = _option(
        DEFAULT_MAX_UNSCORED, "Share without a score, in [0, 1], that the run accepts."
    )
    empathy_keep: str = _option("sensibility", "Quadrants, with commas: sensibility, rationality, balanced, low, tie.")
    empathy_rule: str = _option("threshold", "threshold, top, random or longest (the last two are baselines).")
    empathy_n: int | None = _option(None, "How many samples to keep (not for threshold).")
    empathy_fraction: float | None = _option(None, "Share to keep (not for threshold).")
    empathy_axis: str | None = _option(None, "What rule top ranks by: an axis, difference, sum, or a column.")
    empathy_seed: int = _option(0, "Seed of rule random, and of clusters.")
    empathy_control: str | None = _option(None, "length or clusters: choose within bins of either. Default: none.")
    empathy_exclude: str = _option("all", "Flags whose samples are dropped: all, none, or names joined by commas.")

    def rule_options(self) -> dict[str, Any]:
        """The options of [`EmpathyDataSelector.select`]; newer ones only where given, since they name stages."""
        given = {name: getattr(self, f"empathy_{name}") for name in RULE_OPTIONS}
        return {name: value for name, value in given.items() if (name, value) not in NEW_OPTIONS.items()}


@dataclass
class MoEArguments(ExpertArguments):
    """The arguments of the recipe for a mixture's router, beside TRL's own; see `--help` for each."""

    demonstration: ClassVar[str] = "configs/moe_tiny_cpu.yaml"
    demonstration_of_a_chat_model: ClassVar[str] = "configs/moe_smollm2_cpu.yaml"
    config_for_one_gpu: ClassVar[str] = "configs/moe_8b.yaml"

    empathy_keep: str = _option(
        "sensibility,rationality,balanced,low,tie",
        "Quadrants to train on, joined by commas. Default: all samples with scores.",
    )
    empathy_report_rows: int = _option(200, "Dialogues in the router report, as many from each quadrant.")


@dataclass
class PipelineArguments(ExpertArguments):
    """
    The arguments of the recipe of the whole method, beside TRL's own (for the experts); see `--help`.

    Raises [`EmpathyError`] for a mapping with a key that its stage does not know.
    """

    demonstration: ClassVar[str] = "configs/efficient_empathy_tiny_cpu.yaml"
    demonstration_of_a_chat_model: ClassVar[str] = "configs/efficient_empathy_smollm2_cpu.yaml"
    config_for_one_gpu: ClassVar[str] = "configs/efficient_empathy_8b.yaml"

    empathy_dataset_test: str | None = _option(None, "File, folder or hub name of the held-out dialogues.")
    empathy_holdout: float = _option(0.1, "Share of conversations to hold out, without a held-out file or split.")
    empathy_base_training: Options = _option(None, "TRL settings to change for a tiny base: YAML mapping or JSON.")
    empathy_router_training: Options = _option(None, "TRL settings to change for the router: '{\"max_steps\": 9}'.")
    empathy_attention_lora_r: int | None = _option(None, "Rank of a LoRA on the attention. Default: none.")
    empathy_moe: Options = _option(None, "For compose_moe: shared, top_k, gate_init, gate_samples, seed, dtype.")
    empathy_eval_samples: int = _option(1000, "Held-out samples for the perplexities.")
    empathy_eval_replies: int = _option(200, "Replies to generate with each model.")
    empathy_max_new_tokens: int = _option(64, "Most tokens of a reply.")

    def __post_init__(self) -> None:
        super().__post_init__()
        settings = sorted(trl_options("SFTConfig") - {"output_dir"})
        composing = ["dtype", "gate_init", "gate_samples", "max_shard_size", "seed", "shared", "top_k"]
        for part, valid in (("base_training", settings), ("router_training", settings), ("moe", composing)):
            name = f"empathy_{part}"
            setattr(self, name, _mapping(name, getattr(self, name)))
            for option in getattr(self, name):
                check_choice(f"option in {name}", option, valid)
        if not 0 < self.empathy_holdout < 1:
            raise EmpathyError(f"empathy_holdout {self.empathy_holdout!r} is not a share between 0 and 1")

    @property
    def draws_holdout(self) -> bool:
        """Whether the held-out dialogues are drawn, by the seed, from the dialogues to train on."""
        return self.named is not None and not (self.empathy_dataset_test or self.dataset_test_split)

    def mapping(self, part: str) -> dict[str, Any]:
        """The options of `base_training`, `router_training` or `moe`."""
        return dict(getattr(self, f"empathy_{part}"))


@dataclass
class OnlineArguments(DataArguments):
    """
    The arguments of a recipe that selects while it trains, beside TRL's own; see `--help` for each.

    Raises [`SelectionError`] for an unknown policy, option or schedule.
    """

    demonstration: ClassVar[str] = "configs/online_tiny_cpu.yaml"
    config_for_one_gpu: ClassVar[str] = "configs/online_qlora_8b.yaml"

    empathy_policy: str = _option(
        "sensibility",
        "The policy: sensibility, rationality, gate, soft, curriculum, loss_aware, bandit or column.",
    )
    empathy_policy_options: Options = _option(None, "A mapping in YAML, or JSON: '{\"tau_start\": 3}'. Default: none.")
    empathy_warmup: str = _option("0", "Training without the policy first: steps (10), or a share (0.1).")
    empathy_every_n_steps: int = _option(1, "How often to ask the policy again, in steps.")
    empathy_floor: float | None = _option(None, "The least weight above 0, in [0, 1], where the mean is 1; 0 stays 0.")
    empathy_ceiling: float | None = _option(None, "The greatest weight, at least 1.")
    empathy_ahead: bool = _option(True, "Score rows during the training, before they are drawn; False: all before it.")
    empathy_behind: str = _option("wait", "If the scorer falls behind: wait for it, or draw rows with scores first.")
    empathy_on_failure: str = _option("stop", "If the scorer dies twice: stop, or continue without new scores.")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.empathy_policy_options = _mapping("empathy_policy_options", self.empathy_policy_options)
        self.empathy_warmup = str(self.empathy_warmup)  # YAML gives a number
        valid = policy_options(self.empathy_policy)
        for option in self.empathy_policy_options:
            check_choice(f"option of policy {self.empathy_policy!r}", option, valid, SelectionError)
        load_policy(self.empathy_policy, **self.empathy_policy_options)
        Schedule(**self.schedule())
        check_choice("empathy_behind", self.empathy_behind, BEHIND, SelectionError)
        check_choice("empathy_on_failure", self.empathy_on_failure, ON_FAILURE, SelectionError)

    def schedule(self) -> dict[str, Any]:
        """The arguments of [`~ee_trl.online.policies.named.Schedule`]."""
        names = ("every_n_steps", "floor", "ceiling")
        warmup = _steps_or_share("empathy_warmup", self.empathy_warmup)
        return {"warmup": warmup, **{name: getattr(self, f"empathy_{name}") for name in names}}

    def online_options(self) -> dict[str, Any]:
        """The options of [`EmpathyDataSelector.attach`] beside the policy's name."""
        options: Any = self.empathy_policy_options
        scoring = {name: getattr(self, f"empathy_{name}") for name in ("ahead", "behind", "on_failure")}
        return {**self.schedule(), **scoring, **options}


def _mapping(name: str, value: Any) -> dict[str, Any]:
    """A mapping from YAML, or from JSON text; raises [`SelectionError`] for anything else."""
    example = "e.g. '{\"tau_start\": 3}'"
    if isinstance(value, str):
        value = _from_json(name, value, f"; {example}")
    if value is not None and not (isinstance(value, dict) and all(isinstance(key, str) for key in value)):
        raise SelectionError(f"{name} {value!r} is not a mapping of names to values; {example}")
    return value or {}


def _from_json(name: str, value: str, example: str = "") -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise SelectionError(f"{name} {value!r} is not JSON ({error}){example}") from error


def _steps_or_share(name: str, value: str) -> float:
    """A whole number (of steps) as an `int`, any other (a share) as a `float`."""
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    raise SelectionError(f"{name} {value!r} is neither a number of steps (10) nor a share (0.1)")


@cache
def trl_options(*classes: str) -> frozenset[str]:
    """
    The names of the fields of `SFTConfig` or `ModelConfig` (both by default), read from the libraries' source.

    Importing these classes takes ten seconds; where the source is not as expected, they are imported.
    """
    bases = {"SFTConfig": ("_BaseConfig", "TrainingArguments")}
    wanted = {name for kind in classes or ("SFTConfig", "ModelConfig") for name in (kind, *bases.get(kind, ()))}
    found: dict[str, set[str]] = {}
    for package, name in (
        *(("trl", f"trainer/{name}.py") for name in ("sft_config", "base_config", "model_config")),
        ("transformers", "training_args.py"),
    ):
        source = find_spec(package)
        path = Path(source.origin if source and source.origin else "").parent / name
        body = ast.parse(path.read_text(encoding="utf-8")).body if path.is_file() else []
        for node in body:
            if isinstance(node, ast.ClassDef) and node.name in wanted:
                lines = [line for line in node.body if isinstance(line, ast.AnnAssign)]
                settable = [line.target for line in lines if "init=False" not in ast.unparse(line)]
                found[node.name] = {target.id for target in settable if isinstance(target, ast.Name)}
    if wanted == set(found):
        return frozenset().union(*found.values())
    import trl

    return frozenset(option.name for kind in wanted if hasattr(trl, kind) for option in fields(getattr(trl, kind)))


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
        parser.parse_known_args([f"--{name}={value}" for name, value in config.items() if isinstance(value, int | float)])
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
