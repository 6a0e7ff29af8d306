"""[`EmpathyCallback`]: when scores are polled, a policy asked, figures logged, a state saved and restored."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import TrainerCallback

from ..errors import SelectionError, TrainingError
from . import alignment, ranks, refusals
from .asking import Policy, Schedule, Weights, name_of, resolve_policy
from .diary import Diary
from .loss import check_free, hold
from .packing import TokenShares
from .plan import SamplingPlan, install_plan
from .records import LOSS_SUM, SAMPLE, STEP, TIMES, TOKENS, WEIGHT
from .state import STATE_FILE, read_state, write_state


if TYPE_CHECKING:
    from datasets import Dataset

    from ..selector import EmpathyDataSelector

logger = logging.getLogger(__name__)

_SAME = "same"


class EmpathyCallback(TrainerCallback):
    """
    Lets a policy decide, by scores and losses, what an SFTTrainer draws and how much each sample counts.

    With `trainer`, everything: `trainer.add_callback(EmpathyCallback(selector, trainer=trainer, policy=...))`, for
    which [`EmpathyDataSelector.attach`] is short. Without it, in `callbacks=[...]` of a script that stays as it was,
    the callback never sees the trainer: it can draw by score, and refuses what needs more.

    Args:
        selector ([`EmpathyDataSelector`]):
            Scores what has no scores; its threshold and ties make the quadrants.
        policy (`str` or `Callable`, *optional*, defaults to `"sensibility"`):
            The name of a policy, or any `policy(scores, losses, progress)` that returns sampling weights or None and
            loss weights or None; see [`~ee_trl.online.asking`].
        trainer (`SFTTrainer`, *optional*):
            The trainer that the callback is added to.
        dataset (`Dataset`, *optional*):
            The rows as they were given to the trainer, where its own have neither scores nor dialogues any more.
            Without a trainer, always.
        index (`str`, *optional*):
            A column of `dataset` and of the trainer's rows that says which row is which, where TRL dropped or shuffled
            some.
        source ([`~ee_trl.online.alignment.ScoreSource`], *optional*):
            Gives scores while training; what it has not given yet is NaN. Then nothing is scored before training.
        warmup, every_n_steps, floor, ceiling:
            See [`~ee_trl.online.asking.Schedule`].
        policy_options:
            Of the named policy.

    Raises:
        [`TrainingError`]: The trainer, or what it is given, is of a kind that is refused; the message says why.
    """

    def __init__(
        self,
        selector: EmpathyDataSelector,
        policy: str | Policy = "sensibility",
        *,
        trainer: Any = None,
        dataset: Dataset | None = None,
        index: str | None = None,
        source: alignment.ScoreSource | None = None,
        warmup: float = 0,
        every_n_steps: int = 1,
        floor: float | None = None,
        ceiling: float | None = None,
        **policy_options: Any,
    ) -> None:
        self.selector, self.trainer, self.dataset, self.index = selector, trainer, dataset, index
        self.source = source
        self.policy = resolve_policy(policy, selector.threshold, selector.ties, policy_options)
        self.schedule = Schedule(warmup, every_n_steps, floor, ceiling)
        if trainer is not None:
            check_free(trainer)
        elif dataset is None:
            raise TrainingError(
                "a callback alone needs the rows that the trainer is given: EmpathyCallback(selector, dataset=train); "
                f"or use {refusals.ATTACH}"
            )
        self.scores = self._align()
        self.loss = hold(trainer, self) if trainer is not None else None
        self._shares: TokenShares | None = None
        self.plan: SamplingPlan | None = None
        self.diary = Diary(selector, self.scores)
        self.current = Weights()

    # ---- scores ----------------------------------------------------------------------------------------------------

    @property
    def samples(self) -> Any:
        """The rows that scores, losses and weights are in the order of."""
        if self.trainer is None:
            return self.dataset
        packed_from = getattr(self.trainer, "_empathy_samples", None)
        return self.trainer.train_dataset if packed_from is None else packed_from

    def _align(self) -> np.ndarray:
        rows = self.samples
        if self.source is not None:
            return np.full((len(rows), 2), np.nan)
        if self.trainer is None:
            scores, dropped = alignment.scores_of(self.selector, rows), 0
        else:
            scores = alignment.aligned_scores(self.selector, self.trainer, rows, self.dataset, self.index)
            dropped = alignment.dropped_rows(self.trainer, rows)
        alignment.report(scores, dropped)
        return scores

    def _poll(self) -> None:
        if self.source is None:
            return
        found = [entry for part in ranks.every(self.source.poll()) for entry in part]
        for row, sensibility, rationality in found:
            self.scores[row] = sensibility, rationality
        if found:
            self.diary.scores_changed()

    # ---- weights ---------------------------------------------------------------------------------------------------

    def _ask(self, state: Any) -> None:
        """Asks the policy, on the first process, if it is due before the coming step."""
        if not self.schedule.due(state.global_step, state.max_steps):
            return
        if self.loss is not None and getattr(self.policy, "needs_losses", True):
            self._flush()
        progress = state.global_step / state.max_steps
        answer = ranks.from_the_first(lambda: self._changes(progress))
        pairs = zip(self.current, answer, strict=True)
        self._apply(Weights(*(old if isinstance(new, str) else new for old, new in pairs)))

    def _changes(self, progress: float) -> list[Any]:
        """What the policy answers, with `"same"` for what has not changed."""
        asked = self.schedule.ask(self.policy, self.scores, self.diary.records.last_loss, progress)
        return [_SAME if _equal(new, old) else new for new, old in zip(asked, self.current, strict=True)]

    def _apply(self, weights: Weights) -> None:
        """Makes the weights count: of the loss from the coming step, of the draws from what is not drawn yet."""
        if self.loss is None and weights.loss is not None and not (weights.loss == 1).all():
            raise TrainingError(
                f"policy {name_of(self.policy)!r} gives loss weights, which a callback alone cannot apply; use "
                f"{refusals.ATTACH}, or a policy of sampling weights"
            )
        assert self.plan is not None
        if not _equal(weights.sampling, self.current.sampling):
            refusals.check_grouping(self._args)
            self.plan.update(self._row_weights(weights.sampling), ranks.greatest(self.plan.cursor))
        self.current = weights
        if self.loss is not None:
            self.loss.set(loss_weights(weights))

    def _row_weights(self, sampling: np.ndarray | None) -> np.ndarray | None:
        if sampling is None or self.trainer is None or self.trainer._empathy_samples is None:
            return sampling
        if self._shares is None:
            self._shares = TokenShares(self.trainer.train_dataset)
        return self._shares.mean(sampling)

    # ---- events ----------------------------------------------------------------------------------------------------

    def on_train_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **kwargs: Any) -> None:
        """Puts the plan into the data loader; asks the policy, or goes on where a checkpoint was saved."""
        self._args = args
        if self.loss is None:
            refusals.check_alone(args, self.policy)
            alignment.same_order(len(train_dataloader.dataset), len(self.scores), False)
        else:
            refusals.check_trainer(self.trainer)
            rows = len(self.trainer.train_dataset)
            if self.trainer._empathy_samples is None and rows != len(self.scores):
                raise TrainingError(f"the trainer has {rows} rows, but had {len(self.scores)} when it was attached to")
            self.loss.reset(state.global_step)
        self.plan = install_plan(train_dataloader, args.seed if args.data_seed is None else args.data_seed)
        self._steps_in_epoch = max(-(-len(train_dataloader) // args.gradient_accumulation_steps), 1)
        self._step_rows = train_dataloader.total_batch_size * args.gradient_accumulation_steps
        self.diary, self.current = Diary(self.selector, self.scores), Weights()
        if not (state.global_step and self._resume(args, state)):
            self._poll()
            self._ask(state)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Takes in the scores that have come."""
        self._poll()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Notes the step, logs what it is time to log, and settles the weights of the next step."""
        if self.loss is not None:
            self.loss.step = state.global_step
        else:
            self._observe_plan(state.global_step)
        if control.should_log:
            self._log(state)
        if state.global_step < state.max_steps:
            self._ask(state)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Logs, where epochs are logged."""
        if control.should_log:
            self._log(state)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Writes into the checkpoint what it takes to go on with the same samples at the same weights."""
        self._flush()
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            write_state(folder, self.state_dict())

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Writes down what was drawn, at which weight and loss."""
        self._flush()
        self.diary.close_interval(state.global_step, state.global_step / state.max_steps)
        if state.is_world_process_zero:
            self.diary.write(args.output_dir)

    # ---- figures ---------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        """Brings together what the processes saw."""
        if self.loss is not None:
            self.diary.add(ranks.every(self.loss.take()))

    def _observe_plan(self, step: int) -> None:
        """Without a trainer: what the step just taken was given, by the plan. Losses are not known."""
        assert self.plan is not None
        assert self.plan.order is not None
        number = (step - 1) % self._steps_in_epoch
        samples = self.plan.order[number * self._step_rows : (number + 1) * self._step_rows]
        rows = np.zeros((len(samples), 6))
        rows[:, STEP], rows[:, SAMPLE], rows[:, TIMES], rows[:, WEIGHT] = step - 1, samples, 1, 1
        rows[:, [LOSS_SUM, TOKENS]] = 0
        self.diary.add([rows])

    def _log(self, state: Any) -> None:
        self._flush()
        figures = self.diary.close_interval(state.global_step, state.global_step / state.max_steps)
        if self.trainer is not None:
            for name, value in figures.items():
                self.trainer._metrics["train"][name].append(value)

    # ---- checkpoints -----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The plan, the weights, the policy's state, the scores known, and what was seen."""
        assert self.plan is not None
        state = getattr(self.policy, "state_dict", None)
        return {
            "policy": name_of(self.policy),
            "policy_state": state() if callable(state) else None,
            "plan": self.plan.state_dict(),
            "sampling": self.current.sampling,
            "loss": self.current.loss,
            "scores": self.scores,
            "diary": self.diary.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from [`~EmpathyCallback.state_dict`]; raises [`TrainingError`] where it is of other data."""
        assert self.plan is not None
        scores = state["scores"]
        both = None if scores.shape != self.scores.shape else ~(np.isnan(scores) | np.isnan(self.scores))
        if both is None or not np.array_equal(scores[both], self.scores[both]):
            raise TrainingError(
                f"the checkpoint is of other scores ({len(scores)} rows; {len(self.scores)} now); resume with the "
                "data set and the scorer that it was made with"
            )
        self.plan.load_state_dict(state["plan"])
        self.scores[:] = np.where(np.isnan(scores), self.scores, scores)
        self.diary.load_state_dict(state["diary"])
        self.diary.scores_changed()
        self.current = Weights(state["sampling"], state["loss"])
        if self.loss is not None:
            self.loss.set(loss_weights(self.current))
        if state["policy"] != name_of(self.policy):
            logger.warning("the checkpoint is of policy %r; %r takes over", state["policy"], name_of(self.policy))
        elif state["policy_state"] is not None:
            self.policy.load_state_dict(state["policy_state"])  # type: ignore[attr-defined]

    def _resume(self, args: Any, state: Any) -> bool:
        folders = [Path(args.output_dir) / f"checkpoint-{state.global_step}", args.resume_from_checkpoint]
        if self.trainer is not None:
            folders = [self.trainer._empathy_checkpoint]
        names = [str(folder) for folder in folders if isinstance(folder, (str, Path))]
        found = ranks.from_the_first(lambda: next((s for s in map(read_state, names) if s is not None), None))
        if found is None:
            logger.warning(
                "no %s in %s: a checkpoint made without a policy; from step %d on there is one",
                STATE_FILE, " or ".join(names), state.global_step,
            )  # fmt: skip
            return False
        self.load_state_dict(found)
        return True


def loss_weights(weights: Weights) -> np.ndarray | None:
    """
    The weights of the loss; 0 for what is not to be drawn any more, which may have been fetched already, or be packed
    with samples that are.

    Raises:
        [`SelectionError`]: Nothing is left.
    """
    if weights.sampling is None or weights.sampling.all():
        return weights.loss
    out = np.where(weights.sampling > 0, 1.0 if weights.loss is None else weights.loss, 0.0)
    if not out.any():
        raise SelectionError("every sample that is drawn has loss weight 0, so that nothing is left to train on")
    return out


def _equal(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return (a is None and b is None) or (a is not None and b is not None and np.array_equal(a, b))
