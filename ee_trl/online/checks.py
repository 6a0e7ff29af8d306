"""Refuses setups in which scores cannot guide training exactly, with the reason and a way out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from datasets import Dataset, DatasetDict, IterableDatasetDict
from trl import SFTConfig, SFTTrainer

from ..errors import TrainingError
from .trl_internals import has_images


ATTACH = "selector.attach(trainer, policy=...)"
_STREAM = (
    "the training data set is a stream, which has neither all scores nor an order before training; use a "
    "datasets.Dataset, or train on the stream that selector.select(stream) gives"
)


def check_trainer(trainer: Any) -> None:
    """Raises [`TrainingError`] where a policy cannot guide a trainer."""
    if not isinstance(trainer, SFTTrainer):
        raise TrainingError(
            f"{type(trainer).__name__} is not an SFTTrainer. Sampling and weighting act on the log-probabilities of "
            "TRL's SFTTrainer; for another trainer, train on what selector.select(...) keeps"
        )
    for problem in _problems(trainer):
        raise TrainingError(problem)
    check_strategy(trainer.args)


def _problems(trainer: Any) -> Iterator[str]:
    args = trainer.args
    if not hasattr(trainer.train_dataset, "__len__"):
        yield _STREAM
    if has_images(trainer):
        yield "the rows have images, but scores are of text alone; drop the image columns"
    if trainer.compute_loss_func is not None:
        yield (
            "compute_loss_func computes its loss from logits, without the weights (and is deprecated in TRL); leave "
            "it out, or weight inside it and use EmpathyCallback(selector, dataset=...) for sampling alone"
        )
    if trainer.label_smoother is not None and args.loss_type == "nll":
        yield (
            "label_smoothing_factor takes the loss from logits, without the weights (and is deprecated in TRL); set "
            "it to 0"
        )
    if not trainer.model_accepts_loss_kwargs:
        yield (
            f"the forward of {type(trainer.model).__name__} takes no loss arguments. Then transformers counts no "
            "tokens across a step, and the weights have no common sum; use a causal model of transformers"
        )
    parallel = getattr(trainer.accelerator, "parallelism_config", None)
    for name, flag in (("context", "cp_enabled"), ("sequence", "sp_enabled")):
        if getattr(parallel, flag, False):
            yield f"{name} parallelism splits a row, with its sample ids, over processes; use data parallelism"
    if trainer.accelerator.dispatch_batches:
        yield (
            "dispatch_batches=True reads all batches on the first process; leave it at its default for a "
            "datasets.Dataset"
        )


def check_free(trainer: Any) -> None:
    """Raises [`TrainingError`] where a trainer cannot be guided, has a policy already, or has packed its rows."""
    check_trainer(trainer)
    if getattr(trainer, "empathy_weights", None) is not None:
        raise TrainingError("the trainer already has a policy attached; create another trainer for another policy")
    packed = trainer.args.packing or "seq_lengths" in trainer.train_dataset.column_names
    if packed and getattr(trainer, "empathy_samples", None) is None:
        raise TrainingError(
            "the trainer has already packed its rows, and a packed row does not say which samples it holds. Packing "
            "happens when a trainer is made: make it with EmpathySFTTrainer(..., selector=selector, policy=...), or "
            "set packing=False"
        )


def check_strategy(args: Any, *, redraws: bool = False) -> None:
    """Raises [`TrainingError`] for a sampling strategy that ignores the plan, or that new draws of the plan undo."""
    strategy = str(getattr(args, "train_sampling_strategy", ""))
    if strategy == "batch_rebalance":
        raise TrainingError(
            "train_sampling_strategy='batch_rebalance' builds the batches itself and would ignore the plan; use "
            "'random'"
        )
    if strategy == "group_by_length" and redraws:
        raise TrainingError(
            "sampling weights would undo the groups of train_sampling_strategy='group_by_length'; use 'random', or "
            "a policy that gives loss weights alone"
        )


def check_rows(dataset: Any) -> None:
    """Raises [`TrainingError`] where rows given beside a trainer are not a `datasets.Dataset`."""
    if isinstance(dataset, Dataset):
        return
    if isinstance(dataset, (DatasetDict, IterableDatasetDict)):
        fix = f"give one of its splits: {', '.join(repr(name) for name in dataset)}"
    elif isinstance(dataset, str):
        fix = "load it first: datasets.load_dataset(...)"
    else:
        fix = "other types have neither all scores nor an order before training"
    raise TrainingError(
        f"dataset is a {type(dataset).__name__}, not the datasets.Dataset that the trainer is given; {fix}"
    )


def check_alone(args: Any, policy: Any, rows: Any) -> None:
    """Raises [`TrainingError`] for what a callback that never sees its trainer cannot do."""
    if not isinstance(args, SFTConfig):
        raise TrainingError(
            f"the trainer's arguments are {type(args).__name__}, not the SFTConfig of SFTTrainer; a callback alone "
            "works in no other trainer. For another trainer, train on what selector.select(...) keeps"
        )
    if not hasattr(rows, "__len__"):
        raise TrainingError(_STREAM)
    check_strategy(args)
    if args.packing:
        raise TrainingError(
            "with packing, a callback alone cannot tell the samples apart; make the trainer with "
            "EmpathySFTTrainer(..., selector=selector, policy=...)"
        )
    if args.shuffle_dataset:
        raise TrainingError(
            "shuffle_dataset=True puts the rows in another order than in the data set given to the callback; set it "
            f"to False (every epoch is shuffled anyway), or use {ATTACH}"
        )
    for need, what in (("needs_losses", "the samples' losses"), ("needs_weights", "loss weights")):
        if getattr(policy, need, False):
            raise TrainingError(f"this policy needs {what}, but a callback alone has no access to them; use {ATTACH}")
