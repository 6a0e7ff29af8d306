"""From a data set to a trained expert: what is selected for an expert of one set, and the record of why.

[`ExpertRun`] is a run ([`~ee_trl.training.run`]) that selects before it trains ([`ExpertRun.select`]).
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SelectionError
from ..reports.cards import emotion_audit, selection_section
from ..reports.rubric import rubric_text
from .run import EMBEDDED, RECORD, RecipeRun


if TYPE_CHECKING:
    from datasets import Dataset

    from ..scoring.coverage import Coverage
    from .arguments import ExpertArguments

logger = logging.getLogger(__name__)

SELECTION_DIR = "selection"

__all__ = ["EMBEDDED", "RECORD", "SELECTION_DIR", "ExpertRun"]


class ExpertRun(RecipeRun):
    """
    One training run on what a rule selects, and its folder.

    Args:
        args (`ExpertArguments`): What to select.
        training_args, model_args: See [`~ee_trl.training.run.RecipeRun`].
    """

    args: ExpertArguments

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
        from ..data.tables import to_dataset

        if self._scores_given:
            logger.warning("the data set brings its own scores; they are used as they are")
            return self.source
        features, tables = self.selector.score_tables(self.source, filled=filled)
        scored, coverage = to_dataset(tables, features), self.selector.coverage
        assert coverage is not None
        print(coverage)
        if coverage.unscored_share > self.args.empathy_max_unscored:
            scored.to_parquet(folder / "scored.parquet")
            coverage.check(self.args.empathy_max_unscored, str(folder / "scored.parquet"))
        return scored

    def _select_into(self, folder: Path, filled: Coverage | None) -> None:
        from ..data.tables import write_file
        from ..files import write_json

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
        from ..data.samples import read_scores
        from ..reports.plane import plot_plane

        scores = read_scores(scored, emotion=True)
        record["emotions"] = emotion_audit(scores.emotions, chosen.drops)
        features, tables = selector.select_tables(scored, chosen)
        write_file(tables, features, folder / "selected.parquet", metadata=record)
        try:
            plot_plane(scores.sensibility, scores.rationality, selector.threshold, folder / "plane.png")
        except ImportError as error:
            logger.warning("the picture is left out: %s", error)
        (folder / "summary.txt").write_text(f"{summary}\n", encoding="utf-8")
        write_json(folder / "selection.json", record)  # last: its presence says that the others are whole

    @property
    def record(self) -> dict[str, Any]:
        """What was selected and why."""
        return json.loads((self.folder / SELECTION_DIR / "selection.json").read_text(encoding="utf-8"))

    def data_section(self) -> str:
        """The model card's section on what was selected, and why."""
        return selection_section(self.record)

    def left_behind(self) -> str:
        """The folder of the selection."""
        return f"{SELECTION_DIR}/ (what was selected and why)"
