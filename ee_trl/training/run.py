"""A run of a recipe and its folder: what every recipe does around TRL's SFTTrainer, whatever it trains on."""

from __future__ import annotations

import json
import logging
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoConfig, AutoTokenizer, TrainerState
from trl import ModelConfig, SFTConfig, SFTTrainer, get_peft_config, get_quantization_config

from ..data.samples import all_dialogues
from ..display import shortened
from ..errors import EmpathyError
from ..files import is_partial, read_json, remove_temporary_folders, write_json
from ..online.checkpoints import TRAINER_STATE, fault_of, newest
from ..online.trl_internals import load_checkpoint
from ..reports.cards import hub_name, with_section
from ..reports.licence import Licence, Origin, find_licence
from ..scoring.claims import claim_folder
from ..scoring.encoder import fast_dtype
from .arguments import NEW_OPTIONS, DataArguments
from .data import content_of, has_scores, in_template, open_split, untrained
from .tiny_model import build_tiny_causal_lm


logger = logging.getLogger(__name__)

RECORD = "expert_run.json"

# settings of SFTConfig that do not change what is learnt, so that a rerun may change them
_FREE_SETTINGS = (
    "output_dir", "run_name", "project", "report_to", "disable_tqdm", "resume_from_checkpoint", "push_to_hub",
    "use_cpu", "do_train", "do_eval", "do_predict", "restore_callback_states_from_checkpoint",
)  # fmt: skip
_FREE_PREFIXES = (
    "logging_", "log_", "save_", "hub_", "trackio_", "eval_", "dataloader_", "ddp_", "include_",
)  # fmt: skip
_FREE_ARGUMENTS = ("empathy_scorer", "empathy_store", "empathy_max_unscored")  # the fingerprint stands for the scorer
_SINCE: dict[str, object] = {f"empathy_{name}": value for name, value in NEW_OPTIONS.items()}
_SINCE |= {"datasets": None, "test_split_size": None, "empathy_encoding": None, "empathy_map": None}


class RecipeRun(ABC):
    """
    One training run and its folder. [`~RecipeRun.run`] does all of it, or goes on where an earlier process stopped.

    Subclasses say what the run trains on and how the model card describes it. The folder is TRL's `output_dir`;
    without a model, a tiny one is built in it. A folder that holds something else, or a run with other settings,
    raises [`EmpathyError`], and nothing is overwritten.
    """

    args: DataArguments
    free_prefixes: tuple[str, ...] = _FREE_PREFIXES  # prefixes of other settings that a rerun may change
    in_checkpoints: tuple[str, ...] = ()  # files that a checkpoint of this run has beside the trainer's
    tiny = "tiny_base"  # the folder of the tiny model
    trainer_class: type[Any] = SFTTrainer

    def __init__(self, args: DataArguments, training_args: SFTConfig, model_args: ModelConfig) -> None:
        self.args, self.training_args, self.model_args = args, training_args, model_args
        self.folder = Path(training_args.output_dir or "trainer_output")
        self.state = PartialState()
        self.selector = args.make_selector()
        self._scores_given = has_scores(self.source)
        self.identity = self._identity()
        self.finished = False
        self.checkpoint: str | None = None
        self._half: dict[Path, str] = {}
        self.check()
        self._open()

    def run(self, *, end: bool = True) -> None:
        """Prepares the data, trains, saves and, by default, ends trackers; a finished run is left as it is."""
        if self.finished:
            print(f"{self.folder} is finished already; nothing to do. For another run give another --output_dir.")
            return
        (train_dataset, eval_dataset), model = self.prepare(), self.model
        tokenizer, join = self._tokenizer(model), bool(self.args.empathy_join_turns)
        train_dataset = in_template(train_dataset, tokenizer, "the training data", join)
        if eval_dataset is not None:
            eval_dataset = in_template(eval_dataset, tokenizer, "the test split", join)
        given: Any = self.training_args.model_init_kwargs
        self.training_args.model_init_kwargs = {
            "revision": self.model_args.model_revision,
            "attn_implementation": self.model_args.attn_implementation,
            "dtype": self._dtype(model),
            "use_safetensors": True,
            **(given or {}),
        }  # as TRL's own script loads a model
        trainer = self.make_trainer(
            model=model,
            args=self.training_args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            peft_config=self.peft_config(),
            quantization_config=get_quantization_config(self.model_args),
        )
        self._count_untrained(trainer, train_dataset, tokenizer)
        self.train(trainer)
        self.save(trainer)
        if end:
            trainer.accelerator.end_training()

    def check(self) -> None:  # noqa: B027
        """Raises [`EmpathyError`] for settings that cannot be trained with, before anything is written."""

    @abstractmethod
    def prepare(self) -> tuple[Dataset, Dataset | None]:
        """The data to train on, and with an evaluation strategy all of the test split to evaluate on."""

    @property
    @abstractmethod
    def data_record(self) -> Path:
        """The JSON file on what the run trains on."""

    @abstractmethod
    def data_section(self) -> str:
        """The model card's section on the data."""

    @abstractmethod
    def left_behind(self) -> str:
        """What the folder holds beside the model and its card, in words."""

    @property
    def model(self) -> str:
        """The name or folder that SFTTrainer loads; without a name, a tiny model is built first."""
        if self.model_args.model_name_or_path:
            return self.model_args.model_name_or_path
        with self.state.main_process_first():
            if self.state.is_main_process:
                self.build_tiny(self.folder / self.tiny)
        return str(self.folder / self.tiny)

    def _count_untrained(self, trainer: Any, rows: Dataset, tokenizer: Any) -> None:
        """Says how many samples `max_length` keeps from being trained on: in the log and in the record of the data."""
        lost = untrained(rows, trainer, tokenizer)
        if not lost:
            return
        if self.state.is_main_process:
            write_json(self.data_record, {**read_json(self.data_record), "not_trained_on": lost})
        packed = self.training_args.packing
        other = "--packing_strategy bfd_split" if packed else "--truncation_mode keep_end, which cuts the beginning"
        text = (
            f"{lost:,} of {len(rows):,} samples are not trained on: --max_length {self.training_args.max_length} "
            f"leaves nothing of their replies. Give a greater --max_length, or {other}."
        )
        if lost == len(rows):
            raise EmpathyError(text)
        logger.warning(text)

    def _dtype(self, model: str) -> str | None:
        """The type in which TRL loads the weights; float32 instead of one that is slow on this machine."""
        given = self.model_args.dtype
        if given in (None, "float32") or get_quantization_config(self.model_args):
            return given
        config: Any = AutoConfig.from_pretrained(model, revision=self.model_args.model_revision)
        dtype = (config.dtype or torch.float32) if given == "auto" else getattr(torch, given)
        return given if fast_dtype(dtype, self.training_args.device.type) == dtype else "float32"

    def _tokenizer(self, model: str) -> Any:
        """The tokenizer with the chat template that TRL will use."""
        given = self.model_args
        options = {"revision": given.model_revision, "trust_remote_code": self.training_args.trust_remote_code}
        tokenizer: Any = AutoTokenizer.from_pretrained(model, **options)
        if source := self.training_args.chat_template_path:
            other: Any = None if Path(source).is_file() else AutoTokenizer.from_pretrained(source)
            tokenizer.chat_template = other.chat_template if other else Path(source).read_text(encoding="utf-8")
        return tokenizer

    def build_tiny(self, folder: Path) -> None:
        """Builds a tiny random model in a folder."""
        build_tiny_causal_lm(folder)

    def peft_config(self) -> LoraConfig | None:
        """TRL's LoRA; `None` without `use_peft`."""
        return get_peft_config(self.model_args)  # type: ignore[return-value]

    def make_trainer(self, **options: Any) -> SFTTrainer:
        """TRL's trainer."""
        return self.trainer_class(**options)

    def _open(self) -> None:
        """Resumes a run with the same settings; refuses anything else that the folder holds."""
        record = self.folder / RECORD
        if record.exists():
            there = read_json(record)
            changed = differences(there["identity"], self.identity)
            if changed:
                raise EmpathyError(
                    f"{str(self.folder)!r} holds a run with other settings; it is not overwritten. Settings there -> "
                    "now:\n  " + "\n  ".join(changed) + "\nGive another --output_dir, or remove the folder."
                )
            self.finished = there["status"] == "finished"
        elif self.folder.exists() and not all(map(is_partial, self.folder.iterdir())):
            raise EmpathyError(
                f"{str(self.folder)!r} is not empty and holds no run of a recipe; it is not overwritten. Give another "
                "--output_dir, or remove the folder."
            )
        if not self.finished and self.state.is_main_process and not claim_folder(self.folder):
            raise EmpathyError(
                f"another process trains in {str(self.folder)!r}. Wait until it ends, or give another --output_dir."
            )
        remove_temporary_folders()
        self.checkpoint = None if self.finished else self._checkpoint()
        if not self.finished and (record.exists() or self.checkpoint):
            logger.warning("resuming %s from %s", self.folder, self.checkpoint or "the start")
        self.state.wait_for_everyone()  # all processes have looked: the folder may change
        for path, fault in self._half.items():
            logger.warning("%s is not whole (%s), as a kill leaves it: it is removed", path, fault)
            if self.state.is_main_process:
                shutil.rmtree(path)
        self.state.wait_for_everyone()
        self._write_record("finished" if self.finished else "running")

    def _origin(self) -> Origin:
        """What the model is made from, for its card."""
        place = files("ee_trl").joinpath("assets/sample") if self.args.named is None else self.args.dataset
        try:
            licence = find_licence(str(place) if place else None, self.source)
        except EmpathyError as error:  # the model is trained: a card that cannot be read does not stop it
            logger.warning("the licence of the data is not known: %s", error)
            licence = Licence()
        return Origin(self.model_args.model_name_or_path, licence, self.scorers())

    def scorers(self) -> list[str]:
        """The fingerprints of what made the scores."""
        return [self.identity["scorer"]]

    def _checkpoint(self) -> str | None:
        """The newest whole checkpoint, or a named one. One of another run serves only the first start."""
        named = self.training_args.resume_from_checkpoint
        last, self._half = newest(self.folder, self.state.num_processes, self.in_checkpoints)
        if not named or (last and not self._is_ours(named)):
            return last
        if fault := fault_of(named):
            raise EmpathyError(
                f"{named!r} is not a whole checkpoint: {fault}. Name a whole folder checkpoint-N, or leave out "
                "--resume_from_checkpoint."
            )
        return named

    def _is_ours(self, checkpoint: str) -> bool:
        return Path(checkpoint).resolve().parent == self.folder.resolve()

    def _write_record(self, status: str) -> None:
        if self.state.is_main_process:
            write_json(self.folder / RECORD, {"status": status, "identity": self.identity})

    def _identity(self) -> dict[str, Any]:
        """Everything that determines what is learnt, as plain types."""
        given = asdict(self.args).items()
        arguments = {name: value for name, value in given if name not in _SINCE or value != _SINCE[name]}
        identity = {
            "processes": self.state.num_processes,
            "data": content_of(self.args.datasets or self.args.dataset),
            "scorer": self._scores_by(),
            **{f"data.{name}": value for name, value in arguments.items() if name not in _FREE_ARGUMENTS},
            **identity_of(self.training_args, self.model_args, self.free_prefixes),
        }
        return json.loads(json.dumps(identity, default=str))

    def _scores_by(self) -> str:
        """Where the scores come from."""
        return "given with the data" if self._scores_given else self.selector.scorer.fingerprint

    @cached_property
    def source(self) -> Dataset:
        """The data set of dialogues."""
        return open_split(self.args, self.args.dataset_train_split)

    def test_set(self) -> Dataset | None:
        """All dialogues of the test split; `None` without an evaluation strategy."""
        if self.training_args.eval_strategy == "no":
            return None
        args = self.args
        if args.named is not None and args.dataset_test_split is None and args.test_split_size is None:
            needed = "--test_split_size" if args.datasets else "--dataset_test_split"
            raise EmpathyError(
                f"eval_strategy={str(self.training_args.eval_strategy)!r} needs a data set to evaluate on: give "
                f"{needed}, or --eval_strategy no"
            )
        return all_dialogues(open_split(self.args, self.args.dataset_test_split or "test"), self.selector.turns)

    def train(self, trainer: SFTTrainer) -> bool:
        """Trains, or resumes; only loads a checkpoint of the last step (Trainer would take one more), and says so."""
        sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled  # these load weights only when they train
        if self.checkpoint is not None and not sharded:
            state = TrainerState.load_from_json(str(Path(self.checkpoint) / TRAINER_STATE))
            steps = self.training_args.max_steps
            if steps <= 0 and self._is_ours(self.checkpoint):
                steps = state.max_steps
            if 0 < steps <= state.global_step:
                best = state.best_model_checkpoint if self.training_args.load_best_model_at_end else None
                load_checkpoint(trainer, best or self.checkpoint)
                trainer.state = state
                return False
        trainer.train(resume_from_checkpoint=self.checkpoint)
        return True

    def save(self, trainer: SFTTrainer) -> None:
        """Saves the model with a card that says what it was trained on and why; marks the run as finished."""
        trainer.save_model(str(self.folder))
        trainer.save_state()
        if self.state.is_main_process:
            card = self.folder / "README.md"
            create = with_section(trainer.create_model_card, card, self.data_section, self._origin())
            trainer.create_model_card = create  # type: ignore[method-assign]  # each push writes the card again
            trainer.create_model_card(model_name=self.folder.name, dataset_name=hub_name(self.args.dataset))
        self._write_record("finished")
        if self.training_args.push_to_hub:
            trainer.push_to_hub(dataset_name=hub_name(self.args.dataset))
        if self.state.is_main_process:
            print(f"Saved {self.folder}: the model, {self.left_behind()}, README.md")


def identity_of(
    training_args: SFTConfig, model_args: ModelConfig, free_prefixes: tuple[str, ...] = _FREE_PREFIXES
) -> dict[str, Any]:
    """Those of TRL's settings that determine what is learnt."""
    identity = {f"model.{name}": value for name, value in asdict(model_args).items()}
    for name, value in training_args.to_dict().items():
        if name not in _FREE_SETTINGS and not name.startswith(free_prefixes):
            identity[f"training.{name}"] = value
    return identity


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two sets of settings, as lines."""
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    shown = [(name, *(shortened(repr(given.get(name)), 120) for given in (old, new))) for name in names]
    return [f"{name}: {before} -> {after}" for name, before, after in shown]
