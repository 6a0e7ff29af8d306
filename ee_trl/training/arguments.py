"""The arguments of recipes beside TRL's own, and the names of TRL's."""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from ..errors import EmpathyError, SelectionError, check_choice, check_share
from ..online.policies.named import BEHIND, ON_FAILURE, Schedule, load_policy, policy_options
from ..scoring.coverage import DEFAULT_MAX_UNSCORED
from ..scoring.kinds import DEFAULT_SCORER
from ..selector import RULE_OPTIONS, EmpathyDataSelector


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
