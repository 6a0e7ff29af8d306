"""The folder of a run: what every recipe shares around TRL's SFTTrainer, whatever it trains on.

A recipe parses its arguments ([`~ee_trl.training.arguments`]), opens a run (which resumes, or refuses what it must not
overwrite), prepares its data, trains, and saves with a model card that says what it was trained on and why. What the
data are is the subclass's: [`~ee_trl.training.expert.ExpertRun`] selects,
[`~ee_trl.training.online.OnlineRun`] takes all.
"""

from __future__ import annotations

import glob
import hashlib
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import EmpathyError, FormatError, unknown
from ..reports.cards import hub_name, with_section


if TYPE_CHECKING:
    from datasets import Dataset
    from trl import ModelConfig, SFTConfig, SFTTrainer

    from .arguments import DataArguments

logger = logging.getLogger(__name__)

EMBEDDED = "embedded sample"
RECORD = "expert_run.json"

# settings of SFTConfig that do not change what is learnt, so that a rerun may change them
_FREE_SETTINGS = (
    "output_dir", "run_name", "project", "report_to", "disable_tqdm", "resume_from_checkpoint", "push_to_hub",
    "use_cpu", "do_train", "do_eval", "do_predict", "restore_callback_states_from_checkpoint",
)  # fmt: skip
_FREE_PREFIXES = (
    "logging_", "log_", "save_", "hub_", "trackio_", "eval_", "dataloader_", "ddp_", "include_",
)  # fmt: skip
_FREE_ARGUMENTS = ("empathy_scorer", "empathy_store", "empathy_max_unscored")  # the scorer goes by its fingerprint


class RecipeRun(ABC):
    """
    One training run and its folder.

    Args:
        args (`DataArguments`): What to train on.
        training_args (`SFTConfig`): TRL's; `output_dir` is the run's folder.
        model_args (`ModelConfig`): TRL's; without a model, a tiny one is built in the folder.

    Raises:
        [`EmpathyError`]: The folder holds something else, or a run with other settings; it is never overwritten.
    """

    free_prefixes: tuple[str, ...] = _FREE_PREFIXES
    """How the names of more such settings begin."""

    def __init__(self, args: DataArguments, training_args: SFTConfig, model_args: ModelConfig) -> None:
        from accelerate import PartialState

        self.args, self.training_args, self.model_args = args, training_args, model_args
        self.folder = Path(training_args.output_dir or "trainer_output")
        self.state = PartialState()
        self.selector = args.make_selector()
        self.identity = self._identity()
        self.finished = False
        self.checkpoint: str | None = None
        self.check()
        self._open()

    def check(self) -> None:  # noqa: B027
        """Raises [`EmpathyError`] for settings that cannot be trained with, before anything is written."""

    @property
    def model(self) -> str:
        """What SFTTrainer loads the model from; the tiny one is built on first use."""
        if self.model_args.model_name_or_path:
            return self.model_args.model_name_or_path
        from .tiny_model import build_tiny_causal_lm

        with self.state.main_process_first():
            if self.state.is_main_process:
                build_tiny_causal_lm(self.folder / "tiny_base")
        return str(self.folder / "tiny_base")

    def model_init_kwargs(self) -> dict[str, Any]:
        """How SFTTrainer loads the model, as TRL's own script does it."""
        kwargs: dict[str, Any] = {
            "revision": self.model_args.model_revision,
            "attn_implementation": self.model_args.attn_implementation,
            "dtype": self.model_args.dtype,
        }
        given: Any = self.training_args.model_init_kwargs
        return kwargs | (given or {})

    # -- the folder

    def _open(self) -> None:
        """Resumes a run with the same settings, refuses anything else that is there."""
        from transformers.trainer_utils import get_last_checkpoint

        record = self.folder / RECORD
        if record.exists():
            there = json.loads(record.read_text(encoding="utf-8"))
            differences = _differences(there["identity"], self.identity)
            if differences:
                raise EmpathyError(
                    f"{str(self.folder)!r} holds a run with other settings; it is not overwritten:\n"
                    + "\n".join(f"  {name}: {old!r} there, {new!r} now" for name, old, new in differences)
                    + "\nGive another --output_dir, or remove the folder."
                )
            self.finished = there["status"] == "finished"
            self.checkpoint = self.training_args.resume_from_checkpoint or get_last_checkpoint(str(self.folder))
            if not self.finished:
                logger.warning("resuming %s from %s", self.folder, self.checkpoint or "the start")
        elif self.folder.exists() and any(self.folder.iterdir()):
            raise EmpathyError(
                f"{str(self.folder)!r} is not empty and holds no run of a recipe; it is not overwritten. Give another "
                "--output_dir, or remove the folder."
            )
        self.state.wait_for_everyone()  # nobody looks any more: the folder may change
        self._write_record("finished" if self.finished else "running")

    def _write_record(self, status: str) -> None:
        from ..files import write_json

        if self.state.is_main_process:
            write_json(self.folder / RECORD, {"status": status, "identity": self.identity})

    def _identity(self) -> dict[str, Any]:
        """Everything that determines what is learnt, as plain types."""
        identity = {
            "processes": self.state.num_processes,
            "data": _content_of(self.args.dataset),
            "scorer": self._scores_by(),
            **{f"data.{name}": value for name, value in asdict(self.args).items() if name not in _FREE_ARGUMENTS},
            **identity_of(self.training_args, self.model_args, self.free_prefixes),
        }
        return json.loads(json.dumps(identity, default=str))

    def _scores_by(self) -> str:
        """Whose the scores are."""
        return "given with the data" if self._scores_given else self.selector.scorer.fingerprint

    # -- the data

    @cached_property
    def source(self) -> Dataset:
        """The data set of dialogues."""
        return self._split(self.args.dataset_train_split)

    def _split(self, name: str) -> Dataset:
        from ..data.reading import open_dataset
        from ..data.sample import load_sample

        if self.args.dataset is None:
            return load_sample(name)  # type: ignore[arg-type]
        dataset: Any = open_dataset(self.args.dataset, config=self.args.dataset_config)
        if not hasattr(dataset, "keys"):
            if name != "train":
                raise FormatError(f"{self.args.dataset!r} is one file and has no split {name!r}")
            return dataset
        if name not in dataset:
            raise FormatError(f"{self.args.dataset!r}: {unknown('split', name, dataset)}")
        return dataset[name]

    @property
    def _scores_given(self) -> bool:
        columns = self.source.column_names
        return "sensibility" in columns and "rationality" in columns

    def _test_set(self) -> Dataset | None:
        from ..data.samples import all_dialogues

        if self.training_args.eval_strategy == "no":
            return None
        if self.args.dataset_test_split is None and self.args.dataset is not None:
            raise EmpathyError(
                f"eval_strategy={str(self.training_args.eval_strategy)!r} needs a data set to evaluate on: give "
                "--dataset_test_split, or --eval_strategy no"
            )
        return all_dialogues(self._split(self.args.dataset_test_split or "test"), self.selector.turns)

    # -- the end

    def save(self, trainer: SFTTrainer) -> None:
        """Saves the model, with a card that says what it was trained on and why, and marks the run as finished."""
        trainer.save_model(str(self.folder))
        trainer.save_state()
        if self.state.is_main_process:
            create = with_section(trainer.create_model_card, self.folder / "README.md", self.data_section)
            trainer.create_model_card = create  # type: ignore[method-assign]  # a push writes the card anew
            trainer.create_model_card(model_name=self.folder.name, dataset_name=hub_name(self.args.dataset))
        self._write_record("finished")
        if self.training_args.push_to_hub:
            trainer.push_to_hub(dataset_name=hub_name(self.args.dataset))
        if self.state.is_main_process:
            print(f"Saved {self.folder}: the model, {self.left_behind()}, README.md")

    def train(self, trainer: SFTTrainer) -> None:
        """Trains, or goes on; a checkpoint of the last step is taken as it is, where Trainer would add a step."""
        from transformers import TrainerState

        from ..online.trl_internals import load_checkpoint

        sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled  # which load nothing before they train
        if self.checkpoint is not None and not sharded:
            state = TrainerState.load_from_json(str(Path(self.checkpoint) / "trainer_state.json"))
            if state.global_step >= state.max_steps:
                load_checkpoint(trainer, self.checkpoint)
                trainer.state = state
                return
        trainer.train(resume_from_checkpoint=self.checkpoint)

    def end(self, trainer: SFTTrainer) -> None:
        """Ends trackers and, unless the run is one of several ([`several_runs`]), the launch's process group."""
        if not _several.get():
            trainer.accelerator.end_training()

    @abstractmethod
    def data_section(self) -> str:
        """The model card's section on the data."""

    @abstractmethod
    def left_behind(self) -> str:
        """What the folder holds beside the model and its card, in words."""


_several: ContextVar[bool] = ContextVar("several", default=False)


@contextmanager
def several_runs() -> Iterator[None]:
    """Recipes run inside leave the launch's process group as it is, for those that come after them."""
    token = _several.set(True)
    try:
        yield
    finally:
        _several.reset(token)


def identity_of(
    training_args: SFTConfig, model_args: ModelConfig, free_prefixes: tuple[str, ...] = _FREE_PREFIXES
) -> dict[str, Any]:
    """Of TRL's settings those that determine what is learnt."""
    settings = {
        name: value
        for name, value in training_args.to_dict().items()
        if name not in _FREE_SETTINGS and not name.startswith(free_prefixes)
    }
    return {
        **{f"model.{name}": value for name, value in asdict(model_args).items()},
        **{f"training.{name}": value for name, value in settings.items()},
    }


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    names = dict.fromkeys([*old, *new])
    return [(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)]


def _content_of(dataset: str | None) -> str:
    """Names the data set's content: a file's hash, one over all that a folder or a pattern holds, a hub name."""
    if dataset is None:
        return EMBEDDED
    path = Path(dataset).expanduser()
    if path.is_file():
        return f"sha256:{_hash_of(path)}"
    if path.is_dir():
        files = {str(file.relative_to(path)): file for file in path.rglob("*")}
        named = {name: file for name, file in files.items() if not _beside_data(Path(name))}
    elif "*" in dataset:
        named = {name: Path(name) for name in glob.glob(str(path), recursive=True)}
    else:
        return dataset
    content = [(name, _hash_of(file)) for name, file in sorted(named.items()) if file.is_file()]
    return f"sha256:{sha256(json.dumps(content).encode()).hexdigest()}"


def _beside_data(path: Path) -> bool:
    """Hidden files, and what the library keeps in a folder of `save_to_disk` beside the data."""
    return any(part.startswith(".") for part in path.parts) or (
        path.name.startswith("cache-") and path.suffix == ".arrow"
    )


def _hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
