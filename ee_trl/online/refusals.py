"""Setups in which scores cannot guide training, or not exactly: refused by name, with the reason and a way out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..errors import TrainingError


ATTACH = "selector.attach(trainer, policy=...)"
_STREAM = (
    "the training data set is a stream, of which neither all scores nor an order exist; use a datasets.Dataset, or "
    "train on the stream that selector.select(stream) gives"
)


def check_trainer(trainer: Any) -> None:
    """Raises [`TrainingError`] where a trainer is none that can be attached to."""
    from trl import SFTTrainer

    if not isinstance(trainer, SFTTrainer):
        raise TrainingError(
            f"{type(trainer).__name__} is not an SFTTrainer. Sampling and weighting act on the log-probabilities of "
            "TRL's SFTTrainer; for another trainer, train on what selector.select(...) keeps"
        )
    for problem in _problems(trainer):
        raise TrainingError(problem)
    check_args(trainer.args)


def _problems(trainer: Any) -> Iterator[str]:
    args = trainer.args
    if not hasattr(trainer.train_dataset, "__len__"):
        yield _STREAM
    if getattr(trainer, "_is_vision_dataset", False):
        yield "rows with images are refused: scores are of text alone; drop the image columns"
    if trainer.compute_loss_func is not None:
        yield (
            "compute_loss_func computes its own loss from logits, past the weights (and is deprecated in TRL); leave "
            "it out, or weight inside it and use EmpathyCallback(selector, dataset=...) for sampling alone"
        )
    if trainer.label_smoother is not None and args.loss_type == "nll":
        yield (
            "label_smoothing_factor computes the loss from logits, past the weights (and is deprecated in TRL); set "
            "it to 0"
        )
    if not trainer.model_accepts_loss_kwargs:
        yield (
            f"the forward of {type(trainer.model).__name__} takes no loss arguments, so that transformers counts no "
            "tokens across a step and the weights would have no common sum; use a causal model of transformers"
        )
    parallel = getattr(trainer.accelerator, "parallelism_config", None)
    for name, flag in (("context", "cp_enabled"), ("sequence", "sp_enabled")):
        if getattr(parallel, flag, False):
            yield f"{name} parallelism splits a row over processes, sample ids and all; use data parallelism"
    if trainer.accelerator.dispatch_batches:
        yield (
            "dispatch_batches=True reads all batches on the first process; leave it at its default for a "
            "datasets.Dataset"
        )


def check_packing(trainer: Any) -> None:
    """Raises [`TrainingError`] for a trainer whose rows are packed: nobody knows which sample a token is of."""
    if trainer.args.packing or "seq_lengths" in trainer.train_dataset.column_names:
        raise TrainingError(
            "the trainer has packed its rows already, and a packed row no longer says which samples it holds; packing "
            "happens when a trainer is made, so make it with EmpathySFTTrainer(..., selector=selector, policy=...), "
            "or set packing=False"
        )


def check_args(args: Any) -> None:
    """Raises [`TrainingError`] for settings that no way in can serve."""
    if str(getattr(args, "train_sampling_strategy", "")) == "batch_rebalance":
        raise TrainingError(
            "train_sampling_strategy='batch_rebalance' builds the batches itself and would ignore the plan; use "
            "'random'"
        )


def check_rows(dataset: Any) -> None:
    """Raises [`TrainingError`] where rows given beside a trainer are no `datasets.Dataset`."""
    from datasets import Dataset, DatasetDict, IterableDatasetDict

    if isinstance(dataset, Dataset):
        return
    if isinstance(dataset, (DatasetDict, IterableDatasetDict)):
        fix = f"give one of its splits: {', '.join(repr(name) for name in dataset)}"
    elif isinstance(dataset, str):
        fix = "load it first: datasets.load_dataset(...)"
    else:
        fix = "of anything else neither all scores nor an order exist"
    raise TrainingError(
        f"dataset is a {type(dataset).__name__}, not the datasets.Dataset that the trainer is given; {fix}"
    )


def check_alone(args: Any, policy: Any, rows: Any) -> None:
    """
    Raises [`TrainingError`] for what a callback that never sees its trainer cannot do.

    Args:
        args (`TrainingArguments`): Of the trainer, whose kind they tell.
        policy (`Callable`): That is to be asked.
        rows (`Any`): What the trainer's loader reads.
    """
    from trl import SFTConfig

    if not isinstance(args, SFTConfig):
        raise TrainingError(
            f"the trainer's arguments are {type(args).__name__}, not the SFTConfig of an SFTTrainer, whose rows a "
            "callback alone can be sure of; for another trainer, train on what selector.select(...) keeps"
        )
    if not hasattr(rows, "__len__"):
        raise TrainingError(_STREAM)
    check_args(args)
    if getattr(args, "packing", False):
        raise TrainingError(
            "with packing, a callback alone cannot tell the samples apart; make the trainer with "
            "EmpathySFTTrainer(..., selector=selector, policy=...)"
        )
    if getattr(args, "shuffle_dataset", False):
        raise TrainingError(
            "shuffle_dataset=True puts the rows in another order than that of the data set given to the callback; set "
            f"it to False (every epoch is shuffled anyway), or use {ATTACH}"
        )
    for need, what in (("needs_losses", "the samples' losses"), ("needs_weights", "loss weights")):
        if getattr(policy, need, False):
            raise TrainingError(f"this policy needs {what}, which a callback alone has no way to; use {ATTACH}")


def check_grouping(args: Any) -> None:
    """Raises [`TrainingError`] where sampling weights would undo the grouping of rows by length."""
    if str(getattr(args, "train_sampling_strategy", "")) == "group_by_length":
        raise TrainingError(
            "train_sampling_strategy='group_by_length' would lose its grouping to sampling weights; use 'random', or "
            "a policy that gives loss weights alone"
        )
