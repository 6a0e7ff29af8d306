"""How the gates start: at zero, or made from what each expert was trained on, layer by layer.

The rules ([`prototype`], [`probe`]) are functions of arrays; [`init_gates`] walks through the layers and makes each
gate from its input, with the earlier gates in place.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from ..data.chat import chat_ids
from ..data.reading import opened
from ..data.samples import all_dialogues
from ..data.tables import progress_bar
from ..errors import CompositionError
from ..scoring.encoder import fast_dtype
from .families import TARGETS
from .routing import layer_list, pad, router_of


logger = logging.getLogger(__name__)

BATCH_SIZE = 8
MAX_TOKENS = 20_000


def prototype(inputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """
    The direction from the sets' common centre to each set's mean, each feature divided by its variance in the sets.

    It is scaled so that the logits spread by 1. A gate has no intercept, so the centre's own direction is taken out:
    at the centre all experts count alike. Takes the gate's inputs `(tokens, hidden)` of each expert's set, and gives
    weights `(experts, hidden)`.
    """
    means = torch.stack([part.double().mean(0) for part in inputs])
    centre = means.mean(0)
    within = torch.stack([part.double().var(0, unbiased=False) for part in inputs]).mean(0)
    away = (means - centre) / within.clamp(min=1e-12)
    away -= torch.outer(away @ centre, centre) / centre.pow(2).sum().clamp(min=1e-12)
    spread = (torch.cat([part.double() for part in inputs]) @ away.T).std(0).mean().clamp(min=1e-12)
    return (away / spread).float()


def probe(inputs: Sequence[torch.Tensor], l2: float = 1e-3, steps: int = 100) -> torch.Tensor:
    """
    The weights of a logistic regression without intercept that tells the sets apart; all sets count alike.

    Shapes are those of [`prototype`]; the rows sum to zero. `l2` is for inputs scaled to unit size.
    """
    x = torch.cat([part.float() for part in inputs])
    scale = x.pow(2).mean().sqrt().clamp(min=1e-12)
    x = x / scale
    start = torch.zeros(len(inputs), x.shape[1], device=x.device)
    found = fit_logistic(start, lambda weights: x @ weights.T, list(map(len, inputs)), l2, steps) / scale
    return found - found.mean(0)


def fit_logistic(
    start: torch.Tensor,
    logits: Callable[[torch.Tensor], torch.Tensor],
    sizes: Sequence[int],
    l2: float,
    steps: int,
    intercept: bool = False,
) -> torch.Tensor:
    """
    The weights of a multinomial logistic regression by L-BFGS, in which all classes count alike.

    `logits` turns weights into logits `(samples, classes)`, where samples of one class (`sizes`) follow each other.
    """
    labels = torch.cat([torch.full((size,), i, device=start.device) for i, size in enumerate(sizes)])
    shares = torch.cat([torch.full((size,), 1 / size, device=start.device) for size in sizes]) / len(sizes)
    weights = start.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS([weights], max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        losses = torch.nn.functional.cross_entropy(logits(weights), labels, reduction="none")
        loss = (losses * shares).sum() + l2 * (weights[:-1] if intercept else weights).pow(2).sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return weights.detach()


RULES: dict[str, Callable[[Sequence[Any]], Any]] = {"prototype": prototype, "probe": probe}


@dataclass(frozen=True)
class GateBatch:
    """Samples of one expert's set, padded on the right: expert's number, ids and mask of shape `(batch, length)`."""

    expert: int
    input_ids: torch.Tensor
    mask: torch.Tensor


def gate_sets(data: Mapping[str, Any]) -> dict[str, Dataset]:
    """The set of each expert; paths and names are opened, and of several splits `"train"` or the only one is taken."""
    found = {}
    for name, given in data.items():
        dataset = opened(given)
        if hasattr(dataset, "keys"):
            if "train" not in dataset and len(dataset) != 1:
                raise CompositionError(f"gate_data of expert {name!r} has the splits {', '.join(dataset)}; give one")
            dataset = dataset["train"] if "train" in dataset else next(iter(dataset.values()))
        if not isinstance(dataset, Dataset):
            raise CompositionError(
                f"gate_data of expert {name!r} is of type {type(dataset).__name__}, but rows are drawn from a "
                "Dataset: Dataset.from_list(list(stream.take(1000)))"
            )
        found[name] = dataset
    return found


def readable(data: Mapping[str, Dataset], tokenizer: Path | None) -> bool:
    """Whether each set has token ids, or there is a tokenizer to make them with; logs a warning if not."""
    dialogues = [name for name, dataset in data.items() if "input_ids" not in dataset.column_names]
    if tokenizer is None and dialogues:
        logger.warning(
            "gate_data of %s holds dialogues, and there is no tokenizer to read them with: the gates start at zero, "
            "where all active experts count alike. Save a tokenizer beside the base, or give a column input_ids",
            ", ".join(dialogues),
        )
        return False
    return True


def gate_batches(
    data: Mapping[str, Dataset], tokenizer: Path | None, samples: int, seed: int = 0, max_length: int = 512
) -> list[GateBatch]:
    """At most `samples` rows drawn from each expert's set, in padded batches of their first `max_length` tokens."""
    batches = []
    for i, (name, dataset) in enumerate(data.items()):
        rows = dataset.shuffle(seed=seed).select(range(min(samples, len(dataset)))) if len(dataset) else dataset
        token_ids = sorted((ids[:max_length] for ids in _token_ids(rows, tokenizer) if ids), key=len)
        if not token_ids:
            raise CompositionError(f"gate_data of expert {name!r} holds no sample to make a gate from")
        batches += [GateBatch(i, *pad(token_ids[at : at + BATCH_SIZE])) for at in range(0, len(token_ids), BATCH_SIZE)]
    return batches


def _token_ids(dataset: Dataset, tokenizer: Path | None) -> list[list[int]]:
    """The token ids of each row: its column `input_ids`, or its dialogue by the chat template."""
    if "input_ids" in dataset.column_names:
        return [list(ids or ()) for ids in dataset["input_ids"]]
    encoder: Any = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
    talks = [[*row["prompt"], *row["completion"]] for row in all_dialogues(dataset)]
    if encoder.chat_template is None:
        return [encoder("\n".join(turn["content"] for turn in talk))["input_ids"] for talk in talks]
    return [
        chat_ids(encoder, talk, where=f"dialogue {i} that was drawn from gate_data") for i, talk in enumerate(talks, 1)
    ]


class _Stop(Exception):
    """Ends a forward pass once the gate's input is known."""


def load_for_gates(folder: Path) -> Any:
    """A composed model to make gates for, on a GPU if there is one, in a type that the machine is fast at."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config: Any = AutoConfig.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=fast_dtype(config.dtype, device))
    return model.to(device).eval()


def init_gates(model: Any, batches: Sequence[GateBatch], how: str) -> dict[str, torch.Tensor]:
    """
    Sets the gate of each layer by a rule (`"prototype"` or `"probe"`) on its input.

    The hidden states of all batches are carried from layer to layer, so that each layer runs twice in all: once up to
    its gate, and once with its new gate. Returns the gates by their names in the checkpoint.
    """
    family, found = TARGETS[model.config.model_type], {}
    layers: list[Any] = list(layer_list(model))
    bar = progress_bar(total=2 * len(layers) * len(batches), label="gates", show=None, unit="batches")
    with bar, torch.inference_mode():
        states, arguments = _first_inputs(model, batches, bar)
        for number, layer in enumerate(layers):
            router = router_of(layer)
            inputs = _gate_inputs(layer, router, states, [own[number] for own in arguments], batches)
            with torch.inference_mode(False):
                weight = RULES[how](inputs)
            router.weight.data.copy_(weight)
            found[family.gate_name(number)] = router.weight.detach().cpu().clone()
            states = [layer(h, **own[number]) for h, own in zip(states, arguments, strict=True)]
            bar.update(len(batches))
    return found


def _first_inputs(model: Any, batches: Sequence[GateBatch], bar: Any) -> tuple[list[Any], list[list[dict[str, Any]]]]:
    """For each batch the input of the first layer, and the arguments (mask, positions) of every layer."""
    seen: list[tuple[Any, dict[str, Any]]] = []

    def note(module: Any, args: Any, kwargs: Any) -> None:
        seen.append((args[0], kwargs))

    states, arguments = [], []
    handles = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in layer_list(model)]
    try:
        for batch in batches:
            seen.clear()
            ids, mask = batch.input_ids.to(model.device), batch.mask.to(model.device)
            model.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False)
            states.append(seen[0][0])
            arguments.append([kwargs for _, kwargs in seen])
            bar.update(len(seen))
    finally:
        for handle in handles:
            handle.remove()
    return states, arguments


def _gate_inputs(
    layer: Any, router: Any, states: Sequence[Any], arguments: Sequence[dict[str, Any]], batches: Sequence[GateBatch]
) -> list[torch.Tensor]:
    """The gate's inputs in a layer, without padding: for each expert's set a tensor of shape `(tokens, hidden)`."""
    inputs: list[list[torch.Tensor]] = [[] for _ in range(1 + max(batch.expert for batch in batches))]

    def stop(module: Any, args: Any) -> None:
        raise _Stop(args[0])

    handle = router.register_forward_pre_hook(stop)
    try:
        for batch, state, own in zip(batches, states, arguments, strict=True):
            try:
                layer(state, **own)
            except _Stop as found:
                [reached] = found.args
                kept = batch.mask.bool().reshape(-1).to(reached.device)
                inputs[batch.expert].append(reached.reshape(-1, reached.shape[-1])[kept])
    finally:
        handle.remove()
    whole = [torch.cat(parts) for parts in inputs]
    return [rows[:: -(-len(rows) // MAX_TOKENS)].clone() for rows in whole]  # evenly spaced, if there are too many
