"""[`EmpathyEvalCallback`]: replies to fixed dialogues while a model trains, and logs cheap metrics of the replies.

The callback does not change the training: it restores the random generators, the mode of every module and the
trainer's running means, so a run with it ends bit-equal to a run without it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ee_trl.axes import AXES
from ee_trl.display import Table
from ee_trl.errors import TrainingError, check_choice, check_count
from ee_trl.files import json_ready, json_text, write_text
from ee_trl.online.alignment import random_state_kept
from ee_trl.online.ranks import place
from ee_trl.online.trl_internals import running_figures
from ee_trl.scoring.kinds import DEFAULT_SCORER
from ee_trl.selector import EmpathyDataSelector

from .candidates import Replies
from .eval_set import read_eval_set
from .generation import Decoding, generate_replies
from .measures import Evaluator, Tools, check_libraries, numbers_of
from .metrics.completion_perplexity import evaluating


logger = logging.getLogger("ee_trl")

METRICS = ("dialogue_bleu", "word_f1", "distinct", "empathy_axes")
"""The metrics that are quick to compute."""

LOGGED = (
    "bleu4", "word_f1", "dist1", "dist2", "words", "sensibility", "rationality", "sensibility_difference",
    "rationality_difference",
)  # fmt: skip
PREFIX = "empathy_eval/"
FOLDER = "empathy_samples"
"""The folder in the output folder with a JSON-lines file for each evaluation."""


class EmpathyEvalCallback(TrainerCallback):
    """
    Generates replies to a fixed set of dialogues every few steps; logs metrics and a table of samples.

    The metrics go through the trainer's log to every reporter, under `empathy_eval/`; of several evaluations
    between two logs, only the last is logged (`history` has all). They can choose the best checkpoint:
    `metric_for_best_model="empathy_eval/word_f1"`. The table goes to Weights & Biases, Trackio, Comet
    and TensorBoard if the trainer reports to them, always to `empathy_samples/step-<n>.jsonl` in the output folder.

    Args:
        trainer (`Trainer`):
            The trainer that the callback is added to: `trainer.add_callback(EmpathyEvalCallback(trainer, dialogues))`.
        dataset (`str`, `os.PathLike`, `Dataset` or `EvalSet`, *optional*):
            Dialogues with reference replies; see [`~ee_trl.evaluation.read_eval_set`].
        every_n_steps (`int`, *optional*, defaults to `100`):
            Steps between two evaluations; the last step is always followed by one.
        limit (`int`, *optional*, defaults to `32`): The number of dialogues, evenly spaced.
        samples (`int`, *optional*, defaults to `8`): The number of dialogues in the table, always the same.
        scorer (*optional*, defaults to [`~ee_trl.scoring.kinds.DEFAULT_SCORER`]):
            The scorer of sensibility and rationality; see [`EmpathyDataSelector`]. With `None` nothing is scored.
        decoding (`Decoding`, *optional*): How replies are generated; by default greedily, 64 tokens at most.
        batch_size (`int`, *optional*): The batch size of generation; by default the trainer's for evaluation.

    Raises [`TrainingError`] for a number that is too small, [`FormatError`] if the dialogues cannot be read.
    """

    def __init__(
        self,
        trainer: Any,
        dataset: Any = None,
        *,
        every_n_steps: int = 100,
        limit: int | None = 32,
        samples: int = 8,
        scorer: Any = DEFAULT_SCORER,
        decoding: Decoding | None = None,
        batch_size: int | None = None,
    ) -> None:
        check_count("every_n_steps", every_n_steps, 1, TrainingError)
        check_count("samples", samples, 0, TrainingError)
        if batch_size is not None:
            check_count("batch_size", batch_size, 1, TrainingError)
        check_libraries(METRICS)
        self.trainer, self.every_n_steps, self.samples = trainer, every_n_steps, samples
        self.eval_set = read_eval_set(dataset, limit=limit)
        self.decoding = decoding or Decoding()
        self.batch_size = batch_size
        run = None
        if scorer is not None:
            run = EmpathyDataSelector(scorer, store=False, show_progress=False).new_run()
        self.evaluator = Evaluator(self.eval_set, Tools(run, tokenizer="nltk"))
        self.history: list[dict[str, Any]] = []
        self._last_step = -1

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Refuses a `metric_for_best_model` under its prefix that it does not give."""
        if self._chooses(args):
            name = args.metric_for_best_model.removeprefix("eval_").removeprefix(PREFIX)
            scored = self.evaluator.tools.run is not None
            given = [one for one in LOGGED if scored or not one.startswith(AXES)]
            check_choice("metric_for_best_model empathy_eval/...", name, given, TrainingError)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Evaluates when it is due."""
        if state.global_step % self.every_n_steps == 0 or state.global_step == state.max_steps:
            self._evaluate_once(args, state, kwargs["processing_class"])

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        """Adds its numbers to the trainer's, which then choose the best checkpoint; measures if they are to choose."""
        if self._chooses(args):
            self._evaluate_once(args, state, kwargs["processing_class"])
        if metrics is not None and self._last_step == state.global_step:
            metrics |= {f"eval_{PREFIX}{name}": self.history[-1].get(name, math.nan) for name in LOGGED}

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Forgets the last evaluation: the model may become another, e.g. the best one."""
        self._last_step = -1

    def _chooses(self, args: Any) -> bool:
        """Whether a number of the callback is to choose the best checkpoint."""
        return (args.metric_for_best_model or "").removeprefix("eval_").startswith(PREFIX)

    def _evaluate_once(self, args: Any, state: Any, tokenizer: Any) -> None:
        if state.global_step != self._last_step:
            self._last_step = state.global_step
            self.evaluate(args, state.global_step, tokenizer)

    def evaluate(self, args: Any, step: int, tokenizer: Any) -> dict[str, float]:
        """Generates and measures now; returns what it logs."""
        with random_state_kept():
            replies = self._replies(args, tokenizer)
            numbers, axes = self._numbers(replies)
        self.history.append({"step": step, **numbers})
        self._log(numbers)
        if self.trainer.is_world_process_zero():
            rows = self._rows(step, replies, axes)
            lines = "".join(json_text(row) + "\n" for row in rows)
            write_text(Path(args.output_dir) / FOLDER / f"step-{step:06d}.jsonl", lines)
            report_samples(self.trainer, args, step, rows)
        return numbers

    def _replies(self, args: Any, tokenizer: Any) -> Replies:
        from trl.models.utils import unwrap_model_for_generation

        prompts = self.eval_set.prompts
        batch_size = self.batch_size or args.per_device_eval_batch_size
        with (
            unwrap_model_for_generation(
                self.trainer.model_wrapped,
                self.trainer.accelerator,
                gradient_checkpointing_kwargs=args.gradient_checkpointing_kwargs,
            ) as model,
            evaluating(model),
        ):
            texts = generate_replies(
                model,
                tokenizer,
                prompts,
                batch_size=min(batch_size, math.ceil(len(prompts) / place()[1])),  # every process gets some
                decoding=self.decoding,
                show=False,
                shared=True,
            )
        return Replies(texts, "the model in training", "training")

    def _numbers(self, replies: Replies) -> tuple[dict[str, float], dict[str, Any]]:
        """What is logged, and the scores of each reply by axis."""
        found = self.evaluator.measure(replies, metrics=METRICS)
        numbers = numbers_of(found)
        axes = found["empathy_axes"].samples if "empathy_axes" in found else {}
        # a number that is not defined (nothing scored) is left out of the log
        return {name: numbers[name] for name in LOGGED if not math.isnan(numbers.get(name, math.nan))}, axes

    def _log(self, numbers: dict[str, float]) -> None:
        named = {f"{PREFIX}{name}": value for name, value in numbers.items()}
        running = running_figures(self.trainer)
        if running is not None:
            for name in [name for name in running if name.startswith(PREFIX)]:  # of an evaluation since the last log
                del running[name]
            running.update({name: [value] for name, value in named.items()})
        else:
            self.trainer.log(named)

    def _rows(self, step: int, replies: Replies, axes: dict[str, Any]) -> list[dict[str, Any]]:
        rows = []
        for i, dialogue in enumerate(self.eval_set.dialogues[: self.samples]):
            said = {"speaker": dialogue.last_speaker_turn, "reply": replies.texts[i], "reference": dialogue.response}
            rows.append({"step": step, **said, **{axis: values[i] for axis, values in axes.items()}})
        return json_ready(rows)


def report_samples(trainer: Any, args: Any, step: int, rows: Sequence[dict[str, Any]]) -> None:
    """Sends the table to each of `args.report_to` that takes tables; a failure does not stop the training."""
    for name in args.report_to if isinstance(args.report_to, (list, tuple)) else [args.report_to]:
        try:
            _send(name, trainer, step, rows)
        except Exception as error:  # of a library or a service
            logger.warning("%s did not take the table of samples: %s", name, error)


def _send(reporter: str, trainer: Any, step: int, rows: Sequence[dict[str, Any]]) -> None:
    """Sends the table to one reporter, by its name in `report_to`; other reporters take no tables."""
    import pandas

    frame = pandas.DataFrame(list(rows))
    if reporter == "wandb":
        import wandb

        if wandb.run is not None:
            wandb.log({FOLDER: wandb.Table(dataframe=frame)})
    elif reporter == "trackio":
        import trackio

        trackio.log({FOLDER: trackio.Table(dataframe=frame)})
    elif reporter == "comet_ml":
        from trl.trainer.utils import log_table_to_comet_experiment

        log_table_to_comet_experiment(name=f"{FOLDER}-{step}.csv", table=frame)
    elif reporter == "tensorboard":
        cells = [[str(value) for value in row.values()] for row in rows]
        text = Table(list(rows[0]), cells).markdown() if rows else ""
        for callback in trainer.callback_handler.callbacks:
            if (writer := getattr(callback, "tb_writer", None)) is not None:
                writer.add_text(FOLDER, text, step)
