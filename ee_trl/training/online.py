"""From a data set to a model that a policy guided: the run of a recipe that trains on all rows.

[`OnlineRun`] is a run ([`~ee_trl.training.run`]) that takes every sample and leaves the choice to the training.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from ..data.formats import recognise
from ..errors import SelectionError
from ..reports.cards import draws_section
from ..reports.draws import DRAWS, HISTORY, PAGE, PICTURE, by_quadrant, read_draws
from ..reports.rubric import rubric_text
from .run import EMBEDDED, RecipeRun


if TYPE_CHECKING:
    from datasets import Dataset

    from .arguments import OnlineArguments

ROWS_DIR = "rows"


class OnlineRun(RecipeRun):
    """
    One training run on all samples, drawn and weighted by a policy, and its folder.

    Args:
        args (`OnlineArguments`): The data and the policy.
        training_args, model_args: See [`~ee_trl.training.run.RecipeRun`].
    """

    args: OnlineArguments
    # how far a data loader draws ahead says when a policy's answer begins to act
    free_prefixes = tuple(name for name in RecipeRun.free_prefixes if name != "dataloader_")

    def prepare(self) -> tuple[Dataset, Dataset | None]:
        """
        Writes every sample that is a dialogue with a reply, and reads it.

        Scores that the data set brings along go with the samples; samples without are scored while training, or when
        the trainer is attached to.

        Returns:
            `tuple`: what to train on and, with an evaluation strategy, all of the test split to evaluate on.
        """
        from datasets import Dataset

        folder = self.folder / ROWS_DIR
        if not (folder / "rows.json").exists() and self.state.is_main_process:
            self._write_rows()
        self.state.wait_for_everyone()
        return Dataset.from_parquet(str(folder / "rows.parquet")), self._test_set()

    def _scores_by(self) -> str:
        """Whose the scores are; those that a row does not bring are the scorer's."""
        own = self.selector.scorer.fingerprint
        return f"given with the data, where missing by {own}" if self._scores_given else own

    def _write_rows(self) -> None:
        from ..data.samples import dialogue_tables, refuse_utterances
        from ..data.tables import conversation_order, write_file
        from ..files import write_json

        source, folder, left_out = self.source, self.folder / ROWS_DIR, Counter[str]()
        fmt = recognise(source.column_names)
        if self._scores_given:
            refuse_utterances(fmt)
        if fmt.utterance_rows:
            source = source.select(conversation_order(source))
        features, tables = dialogue_tables(source, "last" if self._scores_given else self.selector.turns, left_out)
        settings = {name: value for name, value in self.identity.items() if name.startswith("data.")}
        samples = write_file(tables, features, folder / "rows.parquet", metadata=settings)
        if not samples:
            raise SelectionError(
                f"no sample is a dialogue with a reply, so that there is nothing to train on: {left_out}"
            )
        record = {
            "dataset": self.args.dataset or EMBEDDED,
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
        write_json(folder / "rows.json", record)  # last: its presence says that the other is whole

    def train(self, trainer: Any) -> None:
        """Trains, or goes on; what was drawn is written down in any case."""
        super().train(trainer)
        if self.checkpoint is not None and not (self.folder / DRAWS).exists():  # cut off after the last step
            trainer._empathy_callback.write_from(self.checkpoint)
        self.state.wait_for_everyone()

    @property
    def record(self) -> dict[str, Any]:
        """What the samples are, and the policy."""
        return json.loads((self.folder / ROWS_DIR / "rows.json").read_text(encoding="utf-8"))

    def data_section(self) -> str:
        """The model card's section on what was drawn, and why."""
        return draws_section(self.record, by_quadrant(read_draws(self.folder / DRAWS)))

    def left_behind(self) -> str:
        """The rows, and what the policy drew of them."""
        there = [name for name in (PAGE, PICTURE, DRAWS, HISTORY) if (self.folder / name).exists()]
        return f"{ROWS_DIR}/ (all samples), {', '.join(there)} (what was drawn)"
