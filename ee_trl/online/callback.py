"""[`EmpathyCallback`]: when a policy is asked, figures logged, a state saved and restored."""

from __future__ import annotations

import inspect
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import TrainerCallback

from ..errors import NothingLeftError, SelectionError, TrainingError, unknown
from . import alignment, ranks, refusals
from .ahead import BEHIND, ScoringAhead
from .diary import Diary
from .lookahead import ON_FAILURE, LookAhead
from .loss import check_free, hold
from .packing import Rows, TokenShares
from .plan import SamplingPlan, draw, install_plan
from .policies.asking import Policy, Schedule, Weights, name_of, resolve_policy
from .records import LOSS_SUM, SAMPLE, STEP, TIMES, TOKENS, WEIGHT
from .state import STATE_FILE, read_state, write_state


if TYPE_CHECKING:
    from datasets import Dataset

    from ..selector import EmpathyDataSelector

logger = logging.getLogger(__name__)

_SAME = "same"
_LEAST_KEPT = 1 / 16
"""Share of the scored samples that are drawn, below which no more rows are asked for ahead on account of it."""
_ROWS_A_REFRESH = 4_000  # of the data set, for each step between refreshes: drawing anew costs by its rows


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
            loss weights or None; see [`~ee_trl.online.policies.asking`].
        trainer (`SFTTrainer`, *optional*):
            The trainer that the callback is added to.
        dataset (`Dataset`, *optional*):
            The rows as they were given to the trainer, where its own have neither scores nor dialogues any more.
            Without a trainer, always.
        index (`str`, *optional*):
            A column of `dataset` and of the trainer's rows that says which row is which, where TRL dropped or shuffled
            some.
        ahead (`bool`, *optional*, defaults to `True`):
            Whether rows without scores are scored while training, shortly before they are drawn, in a process of its
            own; otherwise all of them are, before it begins.
        behind (`str`, *optional*, defaults to `"wait"`):
            What happens where the scorer falls behind: `"wait"` for it, or `"draw"` what is scored first and then what
            is not. See [`~ee_trl.online.ahead.ScoringAhead`].
        on_failure (`str`, *optional*, defaults to `"stop"`):
            What happens where the scorer's process dies twice: `"stop"`, or `"continue"` without new scores.
        warmup, every_n_steps, floor, ceiling:
            See [`~ee_trl.online.policies.asking.Schedule`].
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
        ahead: bool = True,
        behind: str = "wait",
        on_failure: str = "stop",
        warmup: float = 0,
        every_n_steps: int = 1,
        floor: float | None = None,
        ceiling: float | None = None,
        **policy_options: Any,
    ) -> None:
        self.selector, self.trainer, self.dataset, self.index = selector, trainer, dataset, index
        options = inspect.signature(EmpathyCallback).parameters.values()
        known = [option.name for option in options if option.kind is inspect.Parameter.KEYWORD_ONLY]
        self.policy = resolve_policy(policy, selector.threshold, selector.ties, policy_options, known)
        for name, value, valid in (("behind", behind, BEHIND), ("on_failure", on_failure, ON_FAILURE)):
            if value not in valid:
                raise TrainingError(unknown(name, value, valid))
        if dataset is not None:
            refusals.check_rows(dataset)
        self.schedule = Schedule(warmup, every_n_steps, floor, ceiling)
        if trainer is not None:
            check_free(trainer)
        elif dataset is None:
            raise TrainingError(
                "a callback alone needs the rows that the trainer is given: EmpathyCallback(selector, dataset=train); "
                f"or use {refusals.ATTACH}"
            )
        self.ahead: ScoringAhead | None = None
        self._said_alike = False
        self.scores = self._align(ahead, behind, on_failure)
        self.loss = hold(trainer, self) if trainer is not None else None
        self._units: Rows | None = None
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

    def _align(self, ahead: bool, behind: str, on_failure: str) -> np.ndarray:
        """The scores that there are; the others are made now, or while training."""
        given, positions, eos = alignment.origin(self.trainer, self.samples, self.dataset, self.index)
        scores, wanting = (found[positions] for found in alignment.known_scores(given))
        if alignment.brings_scores(given) and not alignment.has_dialogues(given):
            wanting[:] = False  # tokens alone: what has no score stays without
        dropped = 0 if self.trainer is None else alignment.dropped_rows(self.trainer, self.samples)
        if not ahead and wanting.any():
            rows = given.select(positions[wanting])
            scores[wanting], wanting = alignment.scores_of(self.selector, rows, eos), np.zeros(len(scores), dtype=bool)
        alignment.report(scores, int(wanting.sum()), dropped)
        if wanting.any():
            dialogues = alignment.RowDialogues(given, self.selector.turns, eos, positions)
            look = LookAhead(self.selector, dialogues, on_failure=on_failure)
            self.ahead = ScoringAhead(look, scores, wanting, behind=behind)
        return scores

    # ---- weights ---------------------------------------------------------------------------------------------------

    def _ask(self, state: Any, *, takes_over: bool = False) -> None:
        """Asks the policy, on the first process, if it is due before the coming step, or takes a training over."""
        if self.ahead is not None and self.ahead.pending.any():
            self._ask_ahead(self.ahead, state, takes_over)
        elif self.schedule.due(state.global_step, state.max_steps):
            answer = self._answer(state)
            assert answer is not None
            if self.ahead is not None:  # which has made an order of its own: a policy without an opinion keeps it
                answer = _for_all(answer, self.ahead.pending)
            self._apply(answer)

    def _answer(self, state: Any) -> Weights | None:
        """What the policy says now; `None` where it leaves nothing, and scores are still on their way."""
        if self.loss is not None and getattr(self.policy, "needs_losses", True):
            self._flush()
        progress = state.global_step / state.max_steps
        answer = ranks.from_the_first(lambda: self._changes(progress))
        if answer is None:
            return None
        pairs = zip(self.current, answer, strict=True)
        return Weights(*(old if isinstance(new, str) else new for old, new in pairs))

    def _changes(self, progress: float) -> list[Any] | None:
        """What the policy answers, with `"same"` for what has not changed."""
        try:
            asked = self.schedule.ask(self.policy, self.scores, self.diary.records.last_loss, progress)
        except NothingLeftError:
            if self.ahead is not None and self.ahead.pending.any():
                return None
            if self.ahead is None or self.ahead.failure is None:
                raise
            if not self._said_alike:
                self._said_alike = True
                logger.warning(
                    "without the scores that the scorer's process did not give, policy %r leaves nothing to draw; "
                    "everything is drawn alike", name_of(self.policy),
                )  # fmt: skip
            asked = Weights()
        return [_SAME if _equal(new, old) else new for new, old in zip(asked, self.current, strict=True)]

    def _ask_ahead(self, ahead: ScoringAhead, state: Any, takes_over: bool = False) -> None:
        """The same while scores are on their way."""
        since = state.global_step - self.schedule.warmup_steps(state.max_steps)
        now = not since % self._period or (takes_over and since > 0)
        if state.global_step < state.max_steps and now:
            ahead.refresh()
            self.diary.scores_changed()
            self._settle(ahead, state, since >= 0)

    @property
    def _period(self) -> int:
        """Steps from one refresh of the scores to the next."""
        return max(self.schedule.every_n_steps, -(-len(self.scores) // _ROWS_A_REFRESH))

    def _settle(self, ahead: ScoringAhead, state: Any, guided: bool) -> None:
        """Puts the rows that await a score after the others, waits for those near, asks for more."""
        assert self.plan is not None
        interval = self._period * self._step_rows
        rows = interval + max(interval, self._fetched)  # drawn until the next refresh, mostly the one after
        start = ranks.greatest(self.plan.cursor)
        while guided:
            none_yet = np.isnan(self.scores).all() and ahead.pending.any()
            answer = None if none_yet else self._answer(state)
            if answer is not None:
                self._apply(_for_all(answer, ahead.pending), late=ahead.pending.copy())
            near = self._coming(start, rows)
            waiting = _waiting(self._coming(start) if answer is None else near, ahead.pending)
            if answer is None and not len(waiting):  # a draw need not hold every row
                waiting = np.flatnonzero(ahead.pending)
            if not len(waiting) or (answer is not None and ahead.behind == "draw"):
                break
            ahead.need(waiting[: len(near)])
            self.diary.scores_changed()
        ahead.request(self._coming(start), len(self._coming(start, interval)), self._kept(ahead) if guided else None)

    def _kept(self, ahead: ScoringAhead) -> float:
        """The share of the samples with an answer that are drawn at all."""
        sampling = self.current.sampling
        if sampling is None or ahead.pending.all():
            return 1.0
        return max(float((sampling[~ahead.pending] > 0).mean()), _LEAST_KEPT)

    def _coming(self, start: int, rows: int | None = None) -> np.ndarray:
        """The samples of the next rows, in the order in which they are to be drawn, as far as that is known."""
        plan = self.plan
        assert plan is not None
        if plan.order is not None and start < len(plan.order):
            order = plan.order[start:]
        else:
            order = draw(np.ones(plan.size), plan.size, [plan.seed])
        return self.units.samples_of(order[:rows])

    def _apply(self, weights: Weights, late: np.ndarray | None = None) -> None:
        """Makes the weights count: of the loss from the coming step, of the draws from what is not drawn yet."""
        if self.loss is None and weights.loss is not None and not (weights.loss == 1).all():
            raise TrainingError(
                f"policy {name_of(self.policy)!r} gives loss weights, which a callback alone cannot apply; use "
                f"{refusals.ATTACH}, or a policy of sampling weights"
            )
        assert self.plan is not None
        if late is not None or not _equal(weights.sampling, self.current.sampling):
            refusals.check_grouping(self._args)
            start = ranks.greatest(self.plan.cursor)
            draws = None if weights.sampling is None else self.units.mean(weights.sampling)
            self.plan.update(draws, start, late=None if late is None else self.units.holding(late))
        self.current = weights
        if self.loss is not None:
            self.loss.set(loss_weights(weights))

    @property
    def units(self) -> Rows:
        """What the plan draws: a sample each, or packed rows of several."""
        if self._units is None:
            packed = self.trainer is not None and self.trainer._empathy_samples is not None
            self._units = TokenShares(self.trainer.train_dataset) if packed else Rows()
        return self._units

    # ---- events ----------------------------------------------------------------------------------------------------

    def on_train_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **kwargs: Any) -> None:
        """Puts the plan into the data loader; asks the policy, or goes on where a checkpoint was saved."""
        self._args = args
        if self.loss is None:
            rows = train_dataloader.dataset
            refusals.check_alone(args, self.policy, rows)
            alignment.same_order(len(rows), len(self.scores), False)
            tokenizer = alignment.text_tokenizer(kwargs.get("processing_class"))
            alignment.same_dialogues(rows, self.dataset, tokenizer, args.max_length)
        else:
            refusals.check_trainer(self.trainer)
            rows = len(self.trainer.train_dataset)
            if self.trainer._empathy_samples is None and rows != len(self.scores):
                raise TrainingError(f"the trainer has {rows} rows, but had {len(self.scores)} when it was attached to")
            self.loss.reset(state.global_step)
        self.plan = install_plan(train_dataloader, args.seed if args.data_seed is None else args.data_seed)
        self._steps_in_epoch = max(-(-len(train_dataloader) // args.gradient_accumulation_steps), 1)
        self._step_rows = train_dataloader.total_batch_size * args.gradient_accumulation_steps
        ahead_of_use = 1 + (args.dataloader_prefetch_factor or 2) * args.dataloader_num_workers
        self._fetched = train_dataloader.total_batch_size * ahead_of_use
        self.diary, self.current = Diary(self.selector, self.scores), Weights()
        epoch, step = divmod(state.global_step, self._steps_in_epoch)
        resumed = bool(state.global_step) and self._resume(args, state)
        self._epoch_settled = not resumed or step > 0
        if not resumed:
            self.plan.open_epoch(epoch, 0 if args.ignore_data_skip else step * self._step_rows)
            self._ask(state, takes_over=True)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Settles the epoch's order while scores are on their way: before this, none knew what comes first in it."""
        settled, self._epoch_settled = self._epoch_settled, False
        if settled or self.ahead is None or not self.ahead.pending.any() or state.global_step >= state.max_steps:
            return
        if state.global_step >= self.schedule.warmup_steps(state.max_steps):
            assert self.plan is not None
            self.plan.open_epoch(self.plan.epoch + 1)
            self._settle(self.ahead, state, True)

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
        if self.ahead is not None:
            self.ahead.look.close()
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
        if self.ahead is not None:
            figures["empathy/scorer_wait"] = self.ahead.waited_since()
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
            "ahead": None if self.ahead is None else self.ahead.state_dict(),
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
        if self.ahead is not None and state["ahead"] is not None:
            self.ahead.load_state_dict(state["ahead"])
            self.scores[self.ahead.pending] = np.nan  # of a training before, by the same trainer
        self.diary.scores_changed()
        self.current = Weights(state["sampling"], state["loss"])
        if self.loss is not None:
            self.loss.set(loss_weights(self.current))
        if state["policy"] != name_of(self.policy):
            logger.warning("the checkpoint is of policy %r; %r takes over", state["policy"], name_of(self.policy))
        elif state["policy_state"] is not None:
            self.policy.load_state_dict(state["policy_state"])  # type: ignore[attr-defined]

    def write_from(self, checkpoint: str | Path) -> None:
        """Writes down what was drawn until a checkpoint of the last step, as the training's end would have done."""
        state = read_state(checkpoint)
        if state is None:
            raise TrainingError(f"no {STATE_FILE} in {str(checkpoint)!r}: what was drawn is not known")
        self.scores[:] = state["scores"]
        self.diary.load_state_dict(state["diary"])
        self.diary.scores_changed()
        self.diary.close_interval(self.trainer.state.global_step, 1.0)
        if self.trainer.accelerator.is_main_process:
            self.diary.write(self.trainer.args.output_dir)

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


def _for_all(weights: Weights, pending: np.ndarray) -> Weights:
    """The weights, with the mean of the others for the rows whose scores are awaited."""
    sampling, loss = (None if w is None else np.where(pending, w[~pending].mean(), w) for w in weights)
    return Weights(np.ones(len(pending)) if sampling is None else sampling, loss)


def _waiting(rows: np.ndarray, pending: np.ndarray) -> np.ndarray:
    return rows[pending[rows]]


def _equal(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return (a is None and b is None) or (a is not None and b is not None and np.array_equal(a, b))
