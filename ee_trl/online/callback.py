"""[`EmpathyCallback`]: asks a policy, and applies its answer."""

from __future__ import annotations

import inspect
import logging
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import TrainerCallback

from ..errors import NothingLeftError, TrainingError, check_choice
from ..scoring.base import ScoringSelector
from . import alignment, checks, ranks
from .dialogues import text_tokenizer
from .lookahead import LookAhead, ScoringAhead
from .loss import IDS, loss_weights
from .plan import PackedRows, Rows, SamplingPlan, install_plan
from .policies.named import BEHIND, ON_FAILURE, Policy, Schedule, check_options, load_policy, name_of
from .policies.weights import Weights
from .records import Diary, unseen
from .state import STATE_FILE, read_state, resume, state_of, write_state
from .trl_internals import hold, number_tokens, running_figures


logger = logging.getLogger(__name__)

_SAME = "same"
_ROWS_A_REFRESH = 4_000  # rows of the data set for each step between refreshes: a redraw takes time for each row


class EmpathyCallback(TrainerCallback):
    """
    Lets a policy decide, by scores and losses, what an SFTTrainer draws and how much each sample counts.

    With `trainer` it can do everything: `trainer.add_callback(EmpathyCallback(selector, trainer=trainer,
    policy=...))`, or in short [`EmpathyDataSelector.attach`]. Without it, in `callbacks=[...]` of a script that stays
    as it was, the callback never sees the trainer: it can draw by score, and refuses what needs more.

    Args:
        selector ([`EmpathyDataSelector`]): Scores the rows without scores; its threshold and ties make the quadrants.
        policy (`str` or `Callable`, *optional*, defaults to `"sensibility"`):
            The name of a policy, or any `policy(scores, losses, progress)`; see [`~ee_trl.online.policies.named`].
        trainer (`SFTTrainer`, *optional*): The trainer that the callback is added to.
        dataset (`Dataset`, *optional*): The rows that the trainer was given. Needed without `trainer`, and where its
            own rows have neither scores nor dialogues any more.
        index (`str`, *optional*):
            A column of `dataset` and of the trainer's rows that names each row, if TRL dropped or shuffled rows.
        granularity (`str`, *optional*, defaults to `"sample"`):
            What has scores and weights: a row (the mean of its turns), or with `"turn"` each listener turn.
        ahead (`bool`, *optional*, defaults to `True`): Whether rows without scores are scored while training, shortly
            before they are drawn, in another process; otherwise all of them are scored before training begins.
        behind, on_failure: See [`~ee_trl.online.lookahead.ScoringAhead`] and [`~ee_trl.online.lookahead.LookAhead`].
        warmup, every_n_steps, floor, ceiling: See [`~ee_trl.online.policies.named.Schedule`].
        policy_options: Options of the named policy.

    Raises:
        [`TrainingError`]: The trainer or its rows are of a kind that is refused; the message says why.
    """

    plan: SamplingPlan

    def __init__(
        self,
        selector: ScoringSelector,
        policy: str | Policy = "sensibility",
        *,
        trainer: Any = None,
        dataset: Dataset | None = None,
        index: str | None = None,
        granularity: str = "sample",
        ahead: bool = True,
        behind: str = "wait",
        on_failure: str = "stop",
        warmup: float = 0,
        every_n_steps: int = 1,
        floor: float | None = None,
        ceiling: float | None = None,
        **policy_options: Any,
    ) -> None:
        parameters = inspect.signature(EmpathyCallback).parameters.values()
        ours = [option.name for option in parameters if option.kind is inspect.Parameter.KEYWORD_ONLY]
        self.spec, self.trainer, self.dataset = selector.spec, trainer, dataset
        check_options(policy, list(policy_options), ours)
        self.policy = load_policy(policy, threshold=self.spec.threshold, ties=self.spec.ties, **policy_options)
        self.schedule = Schedule(warmup, every_n_steps, floor, ceiling)
        check_choice("behind", behind, BEHIND, TrainingError)
        check_choice("on_failure", on_failure, ON_FAILURE, TrainingError)
        if dataset is not None:
            checks.check_rows(dataset)
        if trainer is not None:
            checks.check_free(trainer)
        elif dataset is None:
            raise TrainingError(
                "a callback alone needs the rows that the trainer is given: EmpathyCallback(selector, dataset=train); "
                f"or use {checks.ATTACH}"
            )
        samples: Any = dataset
        if trainer is not None:
            packed_from = getattr(trainer, "empathy_samples", None)
            samples = trainer.train_dataset if packed_from is None else packed_from
        scoring = getattr(self.policy, "needs_scores", True)
        rows = alignment.RowScores(trainer, samples, dataset, index, granularity=granularity, scoring=scoring)
        if hasattr(self.policy, "bind"):
            self.policy.bind(rows)
        if not ahead:
            rows.score(selector)
        rows.report()
        self.scores, self.flagged = rows.scores, rows.flagged
        self.ahead: ScoringAhead | None = None
        if rows.wanting.any():
            look = LookAhead(self.spec, rows.dialogues(self.spec.turns), on_failure=on_failure)
            self.ahead = ScoringAhead(look, self.scores, rows.wanting, self.flagged, behind=behind)
        if rows.turns is not None and IDS not in samples.column_names:
            trainer.train_dataset = number_tokens(trainer, samples, rows.turns, trainer.processing_class, trainer.args)
        self.loss = None if trainer is None else hold(trainer, self)
        self._rows, self.turns = len(samples), rows.turns
        self.diary, self.current = Diary(self.spec, self.scores, self.turns, self.flagged), Weights()
        self._said_alike = False
        self._saved: int | None = None  # the step of the last saved state

    @cached_property
    def units(self) -> Rows:
        """What the plan draws: rows of one sample each, or of several (packed samples, or listener turns)."""
        several = self.trainer is not None and IDS in self.trainer.train_dataset.column_names
        return PackedRows(self.trainer.train_dataset, IDS) if several else Rows()

    def _ask(self, state: Any, *, takes_over: bool = False) -> None:
        """Asks the policy before the coming step, where it is due or takes over a stock training."""
        if self.ahead is not None and self.ahead.pending.any():
            since = state.global_step - self.schedule.warmup_steps(state.max_steps)
            due = not since % self._period or (takes_over and since > 0)
            if state.global_step < state.max_steps and due:
                self.ahead.refresh()
                self._settle(self.ahead, state, since >= 0)
        elif self.schedule.due(state.global_step, state.max_steps):
            answer = self._answer(state)
            assert answer is not None
            self._apply(answer if self.ahead is None else self.ahead.filled(answer))

    @property
    def _period(self) -> int:
        """Steps from one refresh of the scores to the next."""
        return max(self.schedule.every_n_steps, -(-len(self.scores) // _ROWS_A_REFRESH))

    def _settle(self, ahead: ScoringAhead, state: Any, guided: bool) -> None:
        """Asks the policy until the next rows to draw have their scores; then requests more scores."""
        interval = self._period * self._step_rows
        start = max(ranks.every(self.plan.cursor))

        def coming(rows: int | None = None) -> np.ndarray:
            return self.units.samples_of(self.plan.coming(start)[:rows])

        def ask() -> bool:
            answer = self._answer(state)
            if answer is not None:
                self._apply(ahead.filled(answer), late=ahead.pending.copy())
            return answer is not None

        if guided:  # enough rows up to the next refresh, mostly up to the one after it
            ahead.settle(ask, coming, interval + max(interval, self._fetched))
        ahead.request(coming(), len(coming(interval)), ahead.kept(self.current.sampling) if guided else None)

    def _answer(self, state: Any) -> Weights | None:
        """The policy's answer, on all processes; None where it leaves nothing while scores are awaited."""
        if self.loss is not None and getattr(self.policy, "needs_losses", True):
            self._flush()
        progress = state.global_step / state.max_steps
        answer = ranks.from_the_first(lambda: self._changes(progress))
        if answer is None:
            return None
        pairs = zip(self.current, answer, strict=True)
        return Weights(*(old if isinstance(new, str) else new for old, new in pairs))

    def _changes(self, progress: float) -> list[Any] | None:
        """The policy's answer, with `"same"` for weights that did not change, which need not travel."""
        try:
            losses = self.diary.records.last_loss
            asked = self.schedule.ask(self.policy, self.scores, losses, progress, self.flagged)
        except NothingLeftError:
            if self.ahead is not None and self.ahead.pending.any():
                return None
            if self.ahead is None or self.ahead.failure is None:
                raise
            asked = Weights()
            if not self._said_alike:
                self._said_alike = True
                logger.warning(
                    "scores are missing since the scorer's process died, and policy %r leaves nothing to draw; "
                    "everything is drawn alike", name_of(self.policy),
                )  # fmt: skip
        return [_SAME if _equal(new, old) else new for new, old in zip(asked, self.current, strict=True)]

    def _apply(self, weights: Weights, late: np.ndarray | None = None) -> None:
        """Sets the loss weights from the next step on, and the sampling weights from the first open draw on."""
        if self.loss is None and weights.loss is not None and not (weights.loss == 1).all():
            raise TrainingError(
                f"policy {name_of(self.policy)!r} gives loss weights, which a callback alone cannot apply; use "
                f"{checks.ATTACH}, or a policy of sampling weights"
            )
        was = self.current.sampling
        if weights.sampling is None:
            late = None  # the stock order has no rows that come last
        if weights.sampling is None and was is not None and (was == was[0]).all():
            self.plan.weights = self.plan.late = None  # this epoch's order has equal shares already
        elif late is not None or not _equal(weights.sampling, was):
            checks.check_strategy(self._args, redraws=True)
            start = max(ranks.every(self.plan.cursor))
            draws = None if weights.sampling is None else self.units.mean(weights.sampling)
            self.plan.update(draws, start, late=None if late is None else self.units.holding(late))
        self.current = weights
        if self.loss is not None:
            self.loss.set(loss_weights(weights))

    def on_train_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **kwargs: Any) -> None:
        """Puts the plan into the data loader; asks the policy, or goes on from a checkpoint."""
        self._args, self._saved = args, None
        if self.loss is None:
            rows, given = train_dataloader.dataset, self.dataset
            assert given is not None  # a callback alone has it
            checks.check_alone(args, self.policy, rows)
            alignment.same_order(len(rows), len(given), shuffled=False)
            tokenizer = text_tokenizer(kwargs.get("processing_class"))
            alignment.same_dialogues(rows, given, tokenizer, args.max_length)
        else:
            checks.check_trainer(self.trainer)
            now, then = len(self.trainer.train_dataset), self._rows
            if self.trainer.empathy_samples is None and now != then:
                raise TrainingError(f"the trainer has {now} rows, but it had {then} when the policy was attached")
            self.loss.reset(state.global_step)
        self.plan = install_plan(train_dataloader, args.seed if args.data_seed is None else args.data_seed)
        self._steps_in_epoch = max(-(-len(train_dataloader) // args.gradient_accumulation_steps), 1)
        self._step_rows = train_dataloader.total_batch_size * args.gradient_accumulation_steps
        ahead_of_use = 1 + (args.dataloader_prefetch_factor or 2) * args.dataloader_num_workers
        self._fetched = train_dataloader.total_batch_size * ahead_of_use
        self.diary, self.current = Diary(self.spec, self.scores, self.turns, self.flagged), Weights()
        epoch, step = divmod(state.global_step, self._steps_in_epoch)
        resumed = bool(state.global_step) and self._resume(args, state)
        self._epoch_settled = not resumed or step > 0
        if not resumed:
            self.plan.open_epoch(epoch, 0 if args.ignore_data_skip else step * self._step_rows)
            self._ask(state, takes_over=True)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Settles the epoch's order while scores are awaited; its first rows were not known earlier."""
        settled, self._epoch_settled = self._epoch_settled, False
        if settled or self.ahead is None or not self.ahead.pending.any() or state.global_step >= state.max_steps:
            return
        if state.global_step >= self.schedule.warmup_steps(state.max_steps):
            self.plan.open_epoch(self.plan.epoch + 1)
            self._settle(self.ahead, state, True)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Notes the step, logs if it is time, and settles the weights of the next step."""
        if self.loss is not None:
            self.loss.step = state.global_step
        else:
            assert self.plan.order is not None
            start = (state.global_step - 1) % self._steps_in_epoch * self._step_rows
            self.diary.add([unseen(state.global_step - 1, self.plan.order[start : start + self._step_rows])])
        if control.should_log:
            self._log(state)
        if state.global_step < state.max_steps:
            self._ask(state)
        self._save_alone(args, state, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Logs, if the trainer logs each epoch."""
        if control.should_log:
            self._log(state)
        self._save_alone(args, state, control)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Writes the state of a callback alone, if no earlier event said that the trainer would save."""
        if self.loss is None and self._saved != state.global_step:
            self.save(args, state)

    def save(self, args: Any, state: Any) -> None:
        """Writes the state into the checkpoint that the trainer is about to make; all processes call it."""
        self._flush()
        self._saved = state.global_step
        if state.is_world_process_zero:
            folder = self._checkpoint(args, state)
            folder.mkdir(parents=True, exist_ok=True)
            write_state(folder, state_of(self))

    def _save_alone(self, args: Any, state: Any, control: Any) -> None:
        """Without the trainer this is the last event before it saves: a kill in between must not lose the state."""
        if self.loss is None and control.should_save:
            self.save(args, state)

    def _checkpoint(self, args: Any, state: Any) -> Path:
        return Path(args.output_dir) / f"checkpoint-{state.global_step}"

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Writes what was drawn, at which weight and loss."""
        self._flush()
        self.diary.close_interval(state.global_step, state.global_step / state.max_steps)
        if self.ahead is not None:
            self.ahead.look.close()
        if state.is_world_process_zero:
            self.diary.write(args.output_dir)

    def _flush(self) -> None:
        """Gathers the observations of all processes."""
        if self.loss is not None:
            self.diary.add(ranks.every(self.loss.take()))

    def _log(self, state: Any) -> None:
        self._flush()
        figures = self.diary.close_interval(state.global_step, state.global_step / state.max_steps)
        if self.ahead is not None:
            figures["empathy/scorer_wait"] = self.ahead.waited_since()
        if self.trainer is not None:
            running = running_figures(self.trainer) or {}
            running.update({name: [value] for name, value in figures.items()})

    def write_from(self, checkpoint: str | Path) -> None:
        """Writes the files of the training's end from a checkpoint of the last step."""
        state = read_state(checkpoint)
        if state is None:
            raise TrainingError(f"no {STATE_FILE} in {str(checkpoint)!r}, so what was drawn is not known")
        self.scores[:] = state["scores"]
        self.flagged[:] = (state.get("ahead") or {}).get("flagged", self.flagged)
        self.diary.load_state_dict(state["diary"])
        self.diary.close_interval(self.trainer.state.global_step, 1.0)
        if self.trainer.accelerator.is_main_process:
            self.diary.write(self.trainer.args.output_dir)

    def _resume(self, args: Any, state: Any) -> bool:
        if self.trainer is not None:
            return resume(self, [self.trainer.empathy_checkpoint], state.global_step)
        own = self._checkpoint(args, state)
        return resume(self, [own, args.resume_from_checkpoint], state.global_step)


def _equal(a: Any, b: Any) -> bool:
    return np.array_equal(a, b)  # also where one is None
