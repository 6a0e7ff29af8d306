"""From a data set to a trained expert: what the recipes share around TRL's SFTTrainer.

A recipe parses its arguments ([`~ee_trl.recipe_args`]), opens an [`ExpertRun`] (which resumes, or refuses what it must
not overwrite), selects ([`ExpertRun.select`]), trains with a plain SFTTrainer, and saves with the record of what was
selected and why ([`ExpertRun.save`]).
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import EmpathyError, FormatError, SelectionError, unknown
from .reports.rubric import rubric_part, rubric_text


if TYPE_CHECKING:
    from datasets import Dataset
    from trl import ModelConfig, SFTConfig, SFTTrainer

    from .recipe_args import ExpertArguments
    from .scoring.coverage import Coverage

logger = logging.getLogger(__name__)

EMBEDDED = "embedded sample"
RECORD = "expert_run.json"
SELECTION_DIR = "selection"

# settings of SFTConfig that do not change what is learnt, so that a rerun may change them
_FREE_SETTINGS = (
    "output_dir", "run_name", "project", "report_to", "disable_tqdm", "resume_from_checkpoint", "push_to_hub",
    "use_cpu", "do_train", "do_eval", "do_predict", "restore_callback_states_from_checkpoint",
)  # fmt: skip
_FREE_ARGUMENTS = ("empathy_scorer", "empathy_store", "empathy_max_unscored")  # the scorer goes by its fingerprint
_FREE_PREFIXES = ("logging_", "log_", "save_", "hub_", "trackio_", "eval_", "dataloader_", "ddp_", "include_")


class ExpertRun:
    """
    One training run and its folder.

    Args:
        args (`ExpertArguments`): What to select.
        training_args (`SFTConfig`): TRL's; `output_dir` is the run's folder.
        model_args (`ModelConfig`): TRL's; without a model, a tiny one is built in the folder.

    Raises:
        [`EmpathyError`]: The folder holds something else, or a run with other settings; it is never overwritten.
    """

    def __init__(self, args: ExpertArguments, training_args: SFTConfig, model_args: ModelConfig) -> None:
        from accelerate import PartialState

        self.args, self.training_args, self.model_args = args, training_args, model_args
        self.folder = Path(training_args.output_dir or "trainer_output")
        self.state = PartialState()
        self.selector = args.make_selector()
        self.identity = self._identity()
        self.finished = False
        self.checkpoint: str | None = None
        self._open()

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
        from .data import write_json

        if self.state.is_main_process:
            write_json(self.folder / RECORD, {"status": status, "identity": self.identity})

    def _identity(self) -> dict[str, Any]:
        """Everything that determines what is learnt, as plain types."""
        settings = {
            name: value
            for name, value in self.training_args.to_dict().items()
            if name not in _FREE_SETTINGS and not name.startswith(_FREE_PREFIXES)
        }
        identity = {
            "processes": self.state.num_processes,
            "data": _content_of(self.args.dataset),
            "scorer": "given with the data" if self._scores_given else self.selector.scorer.fingerprint,
            **{f"data.{name}": value for name, value in asdict(self.args).items() if name not in _FREE_ARGUMENTS},
            **{f"model.{name}": value for name, value in asdict(self.model_args).items()},
            **{f"training.{name}": value for name, value in settings.items()},
        }
        return json.loads(json.dumps(identity, default=str))

    # -- the data

    @cached_property
    def source(self) -> Dataset:
        """The data set to select from."""
        return self._split(self.args.dataset_train_split)

    def _split(self, name: str) -> Dataset:
        from .data import open_dataset
        from .sample import load_sample

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

    def select(self) -> tuple[Dataset, Dataset | None]:
        """
        Scores and selects, writes what was selected and why, and reads it.

        A judge's work is shared by the processes of a launch on one machine; the main process does the rest.

        Returns:
            `tuple`: what to train on and, with an evaluation strategy, all of the test split to evaluate on.
        """
        from datasets import Dataset

        folder = self.folder / SELECTION_DIR
        if not (folder / "selection.json").exists():
            filled = None if self._scores_given else self._filled()
            if self.state.is_main_process:
                self._select_into(folder, filled)
        self.state.wait_for_everyone()
        train = Dataset.from_parquet(str(folder / "selected.parquet"))
        return train, self._test_set()

    def _filled(self) -> Coverage | None:
        """The work of all processes on one machine; `None` where the main process works alone."""
        one_machine = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) == self.state.num_processes
        return self.selector.fill_store(self.source) if self.state.num_processes > 1 and one_machine else None

    def _scored(self, folder: Path, filled: Coverage | None) -> Dataset:
        from .data import to_dataset

        if self._scores_given:
            logger.warning("the data set brings its own scores; they are used as they are")
            return self.source
        features, tables = self.selector.score_tables(self.source, filled=filled)
        scored, coverage = to_dataset(tables, features), self.selector.coverage
        assert coverage is not None
        if coverage.unscored_share > self.args.empathy_max_unscored:
            scored.to_parquet(folder / "scored.parquet")
            coverage.check(self.args.empathy_max_unscored, str(folder / "scored.parquet"))
        return scored

    def _select_into(self, folder: Path, filled: Coverage | None) -> None:
        from .data import write_file, write_json

        folder.mkdir(parents=True, exist_ok=True)
        selector, scored = self.selector, self._scored(folder, filled)
        summary = selector.summary(scored)
        chosen = selector.choose(scored, **self.args.rule_options())
        if not len(chosen):
            raise SelectionError(f"nothing was selected by {chosen.settings}: {chosen.counts()}\n{summary}")
        record = {
            "dataset": self.args.dataset or EMBEDDED,
            "settings": chosen.settings,
            "counts": chosen.counts(),
            "summary": summary.to_dict(),
            "coverage": selector.coverage.to_dict() if selector.coverage else None,
            "rubric": None if self._scores_given else rubric_text(selector.scorer),
        }
        features, tables = selector.select_tables(scored, chosen)
        write_file(tables, features, folder / "selected.parquet", metadata=record)
        from .reports.plane import plot_plane
        from .subset import read_scores

        scores = read_scores(scored)
        try:
            plot_plane(scores.sensibility, scores.rationality, selector.threshold, folder / "plane.png")
        except ImportError as error:
            logger.warning("the picture is left out: %s", error)
        (folder / "summary.txt").write_text(f"{summary}\n", encoding="utf-8")
        write_json(folder / "selection.json", record)  # last: its presence says that the others are whole

    def _test_set(self) -> Dataset | None:
        from .subset import all_dialogues

        if self.training_args.eval_strategy == "no":
            return None
        if self.args.dataset_test_split is None and self.args.dataset is not None:
            raise EmpathyError(
                f"eval_strategy={str(self.training_args.eval_strategy)!r} needs a data set to evaluate on: give "
                "--dataset_test_split, or --eval_strategy no"
            )
        return all_dialogues(self._split(self.args.dataset_test_split or "test"), self.selector.turns)

    @property
    def record(self) -> dict[str, Any]:
        """What was selected and why."""
        return json.loads((self.folder / SELECTION_DIR / "selection.json").read_text(encoding="utf-8"))

    # -- the end

    def save(self, trainer: SFTTrainer) -> None:
        """Saves the model, with a model card that says what was selected and why, and marks the run as finished."""
        trainer.save_model(str(self.folder))
        trainer.save_state()
        if self.state.is_main_process:
            dataset = self.args.dataset or EMBEDDED
            trainer.create_model_card(model_name=self.folder.name, dataset_name=dataset)
            card = self.folder / "README.md"
            card.write_text(card.read_text(encoding="utf-8") + selection_section(self.record), encoding="utf-8")
        self._write_record("finished")
        if self.training_args.push_to_hub:
            trainer.push_to_hub(dataset_name=self.args.dataset)
        if self.state.is_main_process:
            print(f"Saved {self.folder}: the model, {SELECTION_DIR}/ (what was selected and why), README.md")


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    names = dict.fromkeys([*old, *new])
    return [(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)]


def _content_of(dataset: str | None) -> str:
    """Names the data set's content: a file's hash, the names and sizes in a folder, a hub data set's name."""
    if dataset is None:
        return EMBEDDED
    path = Path(dataset)
    if path.is_file():
        with path.open("rb") as file:
            digest = sha256()
            while block := file.read(1 << 20):
                digest.update(block)
        return f"sha256:{digest.hexdigest()}"
    if path.is_dir():
        names = sorted((str(p.relative_to(path)), p.stat().st_size) for p in path.rglob("*") if p.is_file())
        return f"sha256:{sha256(json.dumps(names).encode()).hexdigest()}"
    return dataset


def selection_section(record: dict[str, Any]) -> str:
    """The model card's section on the data: what was selected, by what, and why the rest was not."""
    settings, counts, summary = record["settings"], record["counts"], record["summary"]
    total = sum(counts.values())
    lines = [
        "",
        "",
        "## Training data: what was selected, and why",
        "",
        f"Of {total:,} samples of `{record['dataset']}`, {counts['kept']:,} ({counts['kept'] / total:.1%}) were kept.",
        "",
        f"- scores by: {', '.join(f'`{name}`' for name in settings['scorer'])}",
        *(f"- {name}: `{value}`" for name, value in settings.items() if name != "scorer"),
        "",
        "| reason | samples |",
        "|---|---:|",
        *(f"| {name} | {n:,} |" for name, n in counts.items()),
        "",
        "| quadrant | samples | share of the scored |",
        "|---|---:|---:|",
        *(f"| {name} | {q['count']:,} | {q['share']:.1%} |" for name, q in summary["quadrants"].items()),
        "",
        *rubric_part(record.get("rubric")),
        "Selected with ee-trl, after Efficient-Empathy (arXiv:2407.01937).",
        "",
    ]
    return "\n".join(lines)
