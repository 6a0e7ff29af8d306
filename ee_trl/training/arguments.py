"""What a recipe is given: its arguments beside TRL's own, parsed strictly from the command line and a YAML file."""

from __future__ import annotations

import difflib
import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import EmpathyError, SelectionError, unknown
from ..scoring.coverage import DEFAULT_MAX_UNSCORED


if TYPE_CHECKING:
    from trl import TrlParser

    from ..selector import EmpathyDataSelector

logger = logging.getLogger(__name__)


@dataclass
class DataArguments:
    """
    What every recipe is given beside TRL's own arguments: dialogues and how they are scored; see `--help` for each.

    Scores that the data set brings along (columns `sensibility` and `rationality`) are used as they are.
    """

    demonstration: ClassVar[str] = "configs/tiny_cpu.yaml"
    """The config that is used where neither a config nor a model is named."""
    config_for_one_gpu: ClassVar[str] = "configs/qlora_8b.yaml"

    dataset: str | None = field(
        default=None,
        metadata={
            "help": "File, folder or hub name of the dialogues. Default: the embedded sample.",
            "aliases": ["--dataset_name"],
        },
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration name of a hub data set."})
    dataset_train_split: str = field(default="train", metadata={"help": "Split to train on."})
    dataset_test_split: str | None = field(
        default=None, metadata={"help": "Split to evaluate on (all of it, not selected), with --eval_strategy."}
    )
    empathy_scorer: str = field(default="linear", metadata={"help": "linear (bundled), a folder, or a hub id."})
    empathy_quantization: str | None = field(
        default=None, metadata={"help": "Of a judge: none, int8 or nf4 (bitsandbytes)."}
    )
    empathy_rubric: str | None = field(
        default=None, metadata={"help": "Of a judge: a text file in the place of the bundled rubric."}
    )
    empathy_store: str | None = field(
        default=None,
        metadata={"help": "Where a judge's scores are kept: a file, or none. Default: the usual cache place."},
    )
    empathy_threshold: list[float] = field(
        default_factory=lambda: [5.0],
        metadata={"help": "T in [0, 10]: one number for both axes, or two (sensibility rationality).", "nargs": "+"},
    )
    empathy_ties: str = field(default="drop", metadata={"help": "What a score equal to T is: drop, high or low."})
    empathy_turns: str = field(default="each", metadata={"help": "Of conversations: each listener turn, or the last."})

    def make_selector(self) -> EmpathyDataSelector:
        """The selector that the arguments describe."""
        from ..selector import EmpathyDataSelector

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
    """What a recipe that selects is given beside TRL's own arguments; see `--help` for each."""

    empathy_max_unscored: float = field(
        default=DEFAULT_MAX_UNSCORED,
        metadata={"help": "Share of the samples, in [0, 1], that may have no score; more stop the run."},
    )
    empathy_keep: str = field(
        default="sensibility",
        metadata={"help": "Quadrants to keep, joined by commas: sensibility, rationality, balanced, low, tie."},
    )
    empathy_rule: str = field(
        default="threshold", metadata={"help": "threshold, top, random or longest (the last two are baselines)."}
    )
    empathy_n: int | None = field(default=None, metadata={"help": "How many samples to keep (not for threshold)."})
    empathy_fraction: float | None = field(default=None, metadata={"help": "Share to keep (not for threshold)."})
    empathy_axis: str | None = field(
        default=None, metadata={"help": "What rule top ranks by: sensibility, rationality or difference."}
    )
    empathy_seed: int = field(default=0, metadata={"help": "Seed of rule random."})

    def rule_options(self) -> dict[str, Any]:
        """The options of [`EmpathyDataSelector.select`]."""
        return {name: getattr(self, f"empathy_{name}") for name in ("keep", "rule", "n", "fraction", "axis", "seed")}


@dataclass
class MoEArguments(ExpertArguments):
    """What the recipe that trains a mixture's router is given beside TRL's own arguments; see `--help` for each."""

    demonstration: ClassVar[str] = "configs/moe_tiny_cpu.yaml"
    config_for_one_gpu: ClassVar[str] = "configs/moe_8b.yaml"

    empathy_keep: str = field(
        default="sensibility,rationality,balanced,low,tie",
        metadata={"help": "Quadrants to train on, joined by commas. Default: all that is scored."},
    )
    empathy_report_rows: int = field(
        default=200, metadata={"help": "Dialogues that the router report looks at, of all quadrants alike."}
    )


@dataclass
class PipelineArguments(ExpertArguments):
    """
    What the recipe of the whole method is given beside TRL's own arguments, which are the experts'; see `--help`.

    Raises:
        [`EmpathyError`]: A mapping has a key that its stage does not know; the message lists the valid ones.
    """

    demonstration: ClassVar[str] = "configs/efficient_empathy_tiny_cpu.yaml"
    config_for_one_gpu: ClassVar[str] = "configs/efficient_empathy_8b.yaml"

    empathy_dataset_test: str | None = field(
        default=None, metadata={"help": "Held-out dialogues: a file, folder or hub name of their own."}
    )
    empathy_holdout: float = field(
        default=0.1,
        metadata={"help": "Share held out, in whole conversations, where no held-out file or split is named."},
    )
    empathy_base_training: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "TRL settings that differ where a tiny base is trained first, a mapping in YAML, or JSON."},
    )
    empathy_router_training: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "What differs for the router, a mapping in YAML, or JSON: '{\"max_steps\": 9}'."},
    )
    empathy_attention_lora_r: int | None = field(
        default=None, metadata={"help": "Rank of a LoRA on the attention beside the routers. Default: none."}
    )
    empathy_moe: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Options of compose_moe: shared, top_k, gate_init, gate_samples, seed, dtype."}
    )
    empathy_eval_samples: int = field(default=1000, metadata={"help": "Held-out samples for the perplexities."})
    empathy_eval_replies: int = field(default=200, metadata={"help": "Replies generated with each model."})
    empathy_max_new_tokens: int = field(default=64, metadata={"help": "Where a reply is cut off."})

    def __post_init__(self) -> None:
        from dataclasses import fields

        from trl import SFTConfig

        known = {option.name for option in fields(SFTConfig)} - {"output_dir"}
        for name, valid in (
            ("empathy_base_training", known),
            ("empathy_router_training", known),
            ("empathy_moe", {"shared", "top_k", "gate_init", "gate_samples", "seed", "dtype", "max_shard_size"}),
        ):
            given = _mapping(name, getattr(self, name))
            setattr(self, name, given)
            for option in given:
                if option not in valid:
                    raise EmpathyError(unknown(f"option in {name}", option, sorted(valid)))
        if not 0 < self.empathy_holdout < 1:
            raise EmpathyError(f"empathy_holdout {self.empathy_holdout!r} is not a share between 0 and 1")

    @property
    def draws_holdout(self) -> bool:
        """Whether what is held out is drawn, by the seed, from what is trained on."""
        return self.dataset is not None and not (self.empathy_dataset_test or self.dataset_test_split)

    def training(self, stage: str) -> dict[str, Any]:
        """The settings in which a stage differs from the experts'."""
        return dict(getattr(self, f"empathy_{stage}_training"))

    def compose_options(self) -> dict[str, Any]:
        """The options of [`~ee_trl.compose_moe`]."""
        options: Any = self.empathy_moe
        return dict(options)


@dataclass
class OnlineArguments(DataArguments):
    """
    What a recipe that selects while it trains is given beside TRL's own arguments; see `--help` for each.

    Raises:
        [`SelectionError`]: There is no such policy, option or schedule; the message lists the valid ones.
    """

    demonstration: ClassVar[str] = "configs/online_tiny_cpu.yaml"
    config_for_one_gpu: ClassVar[str] = "configs/online_qlora_8b.yaml"

    empathy_policy: str = field(
        default="sensibility",
        metadata={
            "help": "What decides how often a sample is drawn and what it counts: sensibility, rationality, gate, "
            "soft, curriculum, loss_aware or bandit."
        },
    )
    empathy_policy_options: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Options of the policy, a mapping in YAML, or JSON: '{\"tau_start\": 3}'. Default: none."},
    )
    empathy_warmup: str = field(
        default="0",
        metadata={"help": "Training without the policy first: steps (10), or a share of the training (0.1)."},
    )
    empathy_every_n_steps: int = field(default=1, metadata={"help": "How often the policy is asked anew, in steps."})
    empathy_floor: float | None = field(
        default=None, metadata={"help": "The least weight above 0, in [0, 1], where the mean is 1; 0 stays 0."}
    )
    empathy_ceiling: float | None = field(default=None, metadata={"help": "The greatest weight, at least 1."})
    empathy_ahead: bool = field(
        default=True,
        metadata={"help": "Score rows while training, before they are drawn; False: all of them before it begins."},
    )
    empathy_behind: str = field(
        default="wait", metadata={"help": "Where the scorer falls behind: wait for it, or draw what is scored first."}
    )
    empathy_on_failure: str = field(
        default="stop", metadata={"help": "Where the scorer dies twice: stop, or continue without new scores."}
    )

    def __post_init__(self) -> None:
        from ..online.lookahead import BEHIND, ON_FAILURE
        from ..online.policies.named import Schedule, load_policy, policy_options

        self.empathy_policy_options = _mapping("empathy_policy_options", self.empathy_policy_options)
        self.empathy_warmup = str(self.empathy_warmup)  # which YAML gives as a number
        valid = policy_options(self.empathy_policy)
        for option in self.empathy_policy_options:
            if option not in valid:
                raise SelectionError(unknown(f"option of policy {self.empathy_policy!r}", option, valid))
        load_policy(self.empathy_policy, **self.empathy_policy_options)
        Schedule(**self.schedule())
        for name, valid_ones in (("behind", BEHIND), ("on_failure", ON_FAILURE)):
            if getattr(self, f"empathy_{name}") not in valid_ones:
                raise SelectionError(unknown(f"empathy_{name}", getattr(self, f"empathy_{name}"), valid_ones))

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
    """A mapping as YAML gives it, or from JSON; raises [`SelectionError`] for anything else."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise SelectionError(f"{name} {value!r} is not JSON ({error}); e.g. '{{\"tau_start\": 3}}'") from error
    if value is not None and not (isinstance(value, dict) and all(isinstance(key, str) for key in value)):
        raise SelectionError(f"{name} {value!r} is not a mapping of names to values; e.g. '{{\"tau_start\": 3}}'")
    return value or {}


def _steps_or_share(name: str, value: str) -> float:
    """A whole number (of steps) as an `int`, any other (a share) as a `float`."""
    try:
        return int(value)
    except ValueError:
        pass
    try:
        return float(value)
    except ValueError:
        raise SelectionError(f"{name} {value!r} is neither a number of steps (10) nor a share (0.1)") from None


def parse_recipe_args(parser: TrlParser, argv: Sequence[str] | None = None) -> tuple[Any, ...]:
    """
    Parses the command line and the YAML file of `--config`, strictly: an unknown key is an error.

    Where neither a config nor a model is named, the recipe's tiny CPU config (of the package) is used, and said.
    """
    args = [part for arg in (sys.argv[1:] if argv is None else argv) for part in _split_config(arg)]
    named = {arg.split("=")[0] for arg in args}
    if not named & {"--config", "--model_name_or_path", "-h", "--help"}:
        ours = next(kind for kind in parser.dataclass_types if issubclass(kind, DataArguments))
        logger.warning(
            "No --config and no --model_name_or_path: this is the tiny CPU demonstration, on a model that knows no "
            "language. For a real run: --config recipes/%s --dataset YOUR_DIALOGUES, or "
            "--model_name_or_path MODEL --dataset YOUR_DIALOGUES.",
            ours.config_for_one_gpu,
        )
        with as_file(files("ee_trl.recipes").joinpath(ours.demonstration)) as default:
            args = ["--config", str(default), *args]
    parser.allow_abbrev = False  # `--learn 1` must not pass for `--learning_rate 1`
    try:
        _check_names(parser, args)
        return parser.parse_args_and_config(_without_anothers_options(args))
    except (ValueError, TypeError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def _split_config(arg: str) -> list[str]:
    return arg.split("=", 1) if arg.startswith("--config=") else [arg]


def _check_names(parser: TrlParser, args: list[str]) -> None:
    """Raises for a key of the YAML file or an option of the command line that no argument has."""
    options = [name.lstrip("-") for name in parser._option_string_actions]
    given = [(arg[2:].split("=")[0], "option") for arg in args if arg.startswith("--") and arg != "--config"]
    file, config = _config_of(args)
    given += [(str(key), f"key in {file}") for key in config if key != "env"]
    for name, kind in given:
        if name not in options:
            close = difflib.get_close_matches(name, options, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "--help lists the valid ones"
            raise ValueError(f"unknown {kind}: {name!r}; {hint}")


def _config_of(args: list[str]) -> tuple[str, dict[str, Any]]:
    """The file that `--config` names, and what it holds; nothing where it names none."""
    import yaml

    if "--config" not in args:
        return "", {}
    at = args.index("--config") + 1
    if at == len(args):
        raise ValueError("--config names no file")
    config = yaml.safe_load(Path(args[at]).read_text(encoding="utf-8")) or {}
    if not isinstance(config, dict):
        raise ValueError(f"{args[at]} holds no mapping of names to values")
    return args[at], config


def _without_anothers_options(args: list[str]) -> list[str]:
    """
    The command line, with empty options of the policy where it names another policy than the YAML file, and none.

    The file's options are those of the file's policy, and say nothing of another.
    """
    given = _last_value(args, "empathy_policy")
    file, config = _config_of(args)
    its_own = config.get("empathy_policy", OnlineArguments.empathy_policy)
    options = config.get("empathy_policy_options")
    if given in (None, its_own) or not options or _last_value(args, "empathy_policy_options") is not None:
        return args
    logger.warning(
        "The policy is %s, not %s as in %s: the file's empathy_policy_options (%s) are left out. Those of %s: "
        "--empathy_policy_options '{...}'.",
        given,
        its_own,
        file,
        options,
        given,
    )
    return [*args, "--empathy_policy_options", "{}"]


def _last_value(args: list[str], name: str) -> str | None:
    """The value of an option of the command line, `--name value` or `--name=value`; of several the last."""
    found = None
    for arg, after in zip(args, [*args[1:], None], strict=True):
        option, equals, value = arg.partition("=")
        if option == f"--{name}":
            found = value if equals else after
    return found


def run_recipe(main: Callable[..., None], parser: TrlParser) -> None:
    """Runs a recipe's `main` on the command line's arguments; what it refuses is said without a traceback."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    args = parse_recipe_args(parser)
    try:
        main(*args)
    except EmpathyError as error:
        sys.exit(f"{parser.prog}: {error}")
