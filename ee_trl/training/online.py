"""The run of an online recipe: all samples, drawn and weighted by a policy while the model trains on them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from datasets import Dataset

from ..data.formats import recognise
from ..data.samples import dialogue_tables, refuse_utterances
from ..data.tables import write_file
from ..errors import SelectionError, check_choice
from ..files import read_json, write_json
from ..online.state import STATE_FILE
from ..online.trainer import EmpathySFTTrainer
from ..reports.cards import draws_section
from ..reports.draws import DRAWS, HISTORY, PAGE, PICTURE, by_quadrant, draws_warnings, read_draws
from ..reports.rubric import rubric_text
from .arguments import OnlineArguments
from .data import EMBEDDED, read_rows
from .run import RecipeRun


ROWS_DIR = "rows"


class OnlineRun(RecipeRun):
    """One training run on all samples, which a policy draws and weights; see [`~ee_trl.training.run.RecipeRun`]."""

    args: OnlineArguments
    in_checkpoints = (STATE_FILE,)
    # how far a data loader draws ahead decides when a policy's answer begins to act
    free_prefixes = tuple(name for name in RecipeRun.free_prefixes if name != "dataloader_")

    def prepare(self) -> tuple[Dataset, Dataset | None]:
        """Writes every sample that is a dialogue with a reply; those without scores are scored while training."""
        folder = self.folder / ROWS_DIR
        if not (folder / "rows.json").exists() and self.state.is_main_process:
            self._write_rows()
        self.state.wait_for_everyone()
        return read_rows(folder / "rows.parquet"), self.test_set()

    def make_trainer(self, **options: Any) -> Any:
        """TRL's trainer with the policy attached; with packing, the subclass that packs the sample numbers too."""
        policy, online = self.args.empathy_policy, self.args.online_options()
        if self.training_args.packing:
            return EmpathySFTTrainer(selector=self.selector, policy=policy, online=online, **options)
        trainer = super().make_trainer(**options)
        self.selector.attach(trainer, policy, **online)
        return trainer

    @property
    def _columns(self) -> list[str]:
        """The columns that the policy reads."""
        return [self.args.online_options()["column"]] if self.args.empathy_policy == "column" else []

    def check(self) -> None:
        """Raises [`SelectionError`] where the data set lacks a column that the policy reads."""
        for name in self._columns:
            check_choice("column of the data set", name, self.source.column_names, SelectionError)

    def _scores_by(self) -> str:
        own = self.selector.scorer.fingerprint
        return f"given with the data, where missing by {own}" if self._scores_given else own

    def _write_rows(self) -> None:
        folder, left_out, turns = self.folder / ROWS_DIR, Counter[str](), self.selector.turns
        if self._scores_given:
            refuse_utterances(recognise(self.source.column_names))
            turns = "last"  # the scores of a row are those of its last reply
        features, tables = dialogue_tables(self.source, turns, left_out, self._columns)
        settings = {name: value for name, value in self.identity.items() if name.startswith("data.")}
        samples = write_file(tables, features, folder / "rows.parquet", metadata=settings)
        if not samples:
            raise SelectionError(f"there is nothing to train on: no sample is a dialogue with a reply: {left_out}")
        record = {
            "dataset": self.args.named or EMBEDDED,
            "samples": samples,
            "left_out": dict(left_out),
            "scores": self.identity["scorer"],
            "policy": self.args.empathy_policy,
            "policy_options": self.args.empathy_policy_options,
            **self.args.schedule(),
            "threshold": self.selector.threshold,
            "ties": self.selector.ties,
            "rubric": None if self._scores_given else rubric_text(self.selector.scorer),
        }
        write_json(folder / "rows.json", record)  # last: if it is there, the rows are whole

    @property
    def data_record(self) -> Path:
        """All samples, and what draws them."""
        return self.folder / ROWS_DIR / "rows.json"

    def train(self, trainer: Any) -> bool:
        """Trains, or resumes; the files of what was drawn are written in any case."""
        trained = super().train(trainer)
        if not trained:  # the training's end, which writes them, may have been killed
            trainer.empathy_callback.write_from(self.checkpoint)
        self.state.wait_for_everyone()
        return trained

    def data_section(self) -> str:
        """What was drawn, and why."""
        draws = read_draws(self.folder / DRAWS)
        warnings = draws_warnings(draws, self.selector.threshold, self.selector.ties)
        scorer = None if self._scores_given else self.args.empathy_scorer
        return draws_section(read_json(self.data_record), by_quadrant(draws), scorer, warnings)

    def left_behind(self) -> str:
        """The rows, and what the policy drew of them."""
        there = [name for name in (PAGE, PICTURE, DRAWS, HISTORY) if (self.folder / name).exists()]
        return f"{ROWS_DIR}/ (all samples), {', '.join(there)} (what was drawn)"
