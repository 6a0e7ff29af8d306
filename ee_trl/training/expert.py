"""The run of an expert: trains on what a rule selects from the data set, and records why."""

from __future__ import annotations

from pathlib import Path

from datasets import Dataset

from ..data.samples import read_scores
from ..data.tables import write_file
from ..files import read_json, write_json, write_text
from ..reports.cards import emotion_audit, selection_section
from ..reports.rubric import rubric_text
from .arguments import ExpertArguments
from .data import EMBEDDED, choose, draw_plane, read_rows, score_together, with_scores
from .run import RecipeRun


SELECTION_DIR = "selection"


class ExpertRun(RecipeRun):
    """One training run on what a rule selects, and its folder; see [`~ee_trl.training.run.RecipeRun`]."""

    args: ExpertArguments

    def prepare(self) -> tuple[Dataset, Dataset | None]:
        """Scores and selects, unless an earlier process did; the selection's folder says what was selected and why."""
        folder = self.folder / SELECTION_DIR
        if not (folder / "selection.json").exists():
            together = not self._scores_given and score_together(self.selector, self.state)
            if together or self.state.is_main_process:
                self._select_into(folder)
        self.state.wait_for_everyone()
        return read_rows(folder / "selected.parquet"), self.test_set()

    def _select_into(self, folder: Path) -> None:
        selector, rescue = self.selector, folder / "scored.parquet"
        folder.mkdir(parents=True, exist_ok=True)
        scored = with_scores(self.source, selector, self.state, self.args.empathy_max_unscored, rescue)
        if not self.state.is_main_process:
            return
        chosen, summary = choose(scored, selector, self.args.rule_options()), selector.summary(scored)
        scores = read_scores(scored, emotion=True)
        record = {
            "dataset": self.args.named or EMBEDDED,
            "settings": chosen.settings,
            "counts": chosen.counts(),
            **({"lengths": chosen.lengths} if chosen.lengths else {}),
            "summary": summary.to_dict(),
            "coverage": selector.coverage.to_dict() if selector.coverage else None,
            "rubric": None if self._scores_given else rubric_text(selector.scorer),
            "emotions": emotion_audit(scores.emotions, chosen.drops),
        }
        features, tables = selector.select_tables(scored, chosen)
        write_file(tables, features, folder / "selected.parquet", metadata=record)
        draw_plane(scores, selector, folder / "plane.png")
        write_text(folder / "summary.txt", f"{summary}\n")
        write_json(folder / "selection.json", record)  # last: if it is there, the others are whole

    def scorers(self) -> list[str]:
        """The fingerprints of what made the scores."""
        return read_json(self.data_record)["settings"]["scorer"]

    @property
    def data_record(self) -> Path:
        """What was selected, and why."""
        return self.folder / SELECTION_DIR / "selection.json"

    def data_section(self) -> str:
        """The same for the card."""
        return selection_section(read_json(self.data_record), None if self._scores_given else self.args.empathy_scorer)

    def left_behind(self) -> str:
        """The folder of the selection."""
        return f"{SELECTION_DIR}/ (what was selected and why)"
