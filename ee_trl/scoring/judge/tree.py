"""Sharing what samples have in common: the rubric's key/value cache over a batch, a dialogue's turns over branches.

One row of a batch is one dialogue: its trunk, then a branch of equal shape for each scored turn,

    [ trunk, padded to the longest ][ head chain chain ][ head chain chain ] ...

A 4-D mask lets a token see the prefix, the trunk as far as its branch's turn (for trunk tokens: up to itself), and its
own ancestors in the branch; position ids say where it would stand in the plain text. So a row gives the same logits as
the plain texts one by one, and every row of a batch has what is read at the same indices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import Cache, DynamicLayer


if TYPE_CHECKING:
    from .prompt import Chain


class SharedLayer(DynamicLayer):
    """A layer's cache of the prefix: seen by every row of any batch, and never grown by what they add."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The prefix's keys and values, expanded over the batch, with the new ones behind; nothing is kept."""
        rows = key_states.shape[0]
        if self.keys is None or self.values is None:
            raise RuntimeError("the cache of the prefix was emptied")
        keys = torch.cat([self.keys.expand(rows, -1, -1, -1), key_states], dim=-2)
        values = torch.cat([self.values.expand(rows, -1, -1, -1), value_states], dim=-2)
        return keys, values


def shared_cache(model: Any, prefix: Sequence[int]) -> Cache:
    """Runs the prefix through the model once and gives its cache, of batch size one, for any number of batches."""
    ids = torch.tensor([list(prefix)], device=model.device)
    filled = model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values
    if any(type(layer) is not DynamicLayer for layer in filled.layers):
        raise NotImplementedError(f"caches of {[type(layer).__name__ for layer in filled.layers][:1]} are not shared")
    return Cache(layers=[SharedLayer(layer.keys, layer.values) for layer in filled.layers])


# ---- the shape of a branch -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Branch:
    """
    What hangs on a scored turn: the head, and the chains that do not see each other.

    Args:
        tokens (`torch.Tensor` of shape `(k,)`): Ids: head, first chain, second chain.
        depth (`torch.Tensor` of shape `(k,)`): How far each stands behind the turn's end, from 0.
        sees (`torch.Tensor` of shape `(k, k)`, of `bool`): Row token sees column token.
        reads (`tuple[tuple[int, ...], ...]`): For each chain, the indices whose next-token distribution is wanted.
    """

    tokens: torch.Tensor
    depth: torch.Tensor
    sees: torch.Tensor
    reads: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, head: Sequence[int], chains: Sequence[Chain]) -> Branch:
        """The branch for a prompt's head and chains."""
        h, sizes = len(head), [len(chain.tokens) for chain in chains]
        total = h + sum(sizes)
        sees = torch.zeros(total, total, dtype=torch.bool)
        sees[:h, :h] = torch.ones(h, h, dtype=torch.bool).tril()
        depth, reads, start = list(range(h)), [], h
        for chain, size in zip(chains, sizes, strict=True):
            end = start + size
            sees[start:end, :h] = True
            sees[start:end, start:end] = torch.ones(size, size, dtype=torch.bool).tril()
            depth += range(h, h + size)
            reads.append(tuple(range(end - chain.reads, end)))
            start = end
        tokens = [*head, *(i for chain in chains for i in chain.tokens)]
        return cls(torch.tensor(tokens), torch.tensor(depth), sees, tuple(reads))


@dataclass
class Trunk:
    """A dialogue's turns as ids, and the samples that hang on it: `(number of the sample, where its reply ends)`."""

    tokens: list[int]
    samples: list[tuple[int, int]] = field(default_factory=list)


def trunks_of(samples: Sequence[Sequence[tuple[int, ...]] | None]) -> list[Trunk]:
    """
    Finds the samples that are turns of one dialogue.

    Args:
        samples (`Sequence`): For each sample the ids of its turns, the reply last; `None` is left out.

    Returns:
        `list[Trunk]`: a sample that is the beginning of a longer one hangs on its trunk.
    """
    trunks: list[Trunk] = []
    ends: dict[tuple[tuple[int, ...], ...], tuple[Trunk, int]] = {}
    known = [(i, tuple(turns)) for i, turns in enumerate(samples) if turns is not None]
    for i, turns in sorted(known, key=lambda item: -len(item[1])):
        if turns not in ends:
            trunk = Trunk([token for turn in turns for token in turn])
            trunks.append(trunk)
            length = 0
            for n, turn in enumerate(turns, 1):
                length += len(turn)
                ends.setdefault(turns[:n], (trunk, length))
        trunk, end = ends[turns]
        trunk.samples.append((i, end))
    return trunks


def halves_of(trunk: Trunk) -> list[Trunk]:
    """A trunk of two samples or more as two: its earlier replies, without the turns after them, and its later ones."""
    samples = sorted(trunk.samples, key=lambda sample: sample[1])
    parts = samples[: len(samples) // 2], samples[len(samples) // 2 :]
    return [Trunk(trunk.tokens[: part[-1][1]], part) for part in parts]


# ---- batches -------------------------------------------------------------------------------------------------------


def batches_of(trunks: Sequence[Trunk], branch_size: int, token_budget: int) -> Iterator[list[Trunk]]:
    """Trunks of like length and number of samples, as many as make up `token_budget` tokens with padding."""
    batch: list[Trunk] = []
    longest = most = 0
    for trunk in sorted(trunks, key=lambda t: (len(t.samples), len(t.tokens)), reverse=True):
        size = max(longest, len(trunk.tokens)), max(most, len(trunk.samples))
        if batch and (len(batch) + 1) * (size[0] + size[1] * branch_size) > token_budget:
            yield batch
            batch, size = [], (len(trunk.tokens), len(trunk.samples))
        batch.append(trunk)
        longest, most = size
    if batch:
        yield batch


@dataclass(frozen=True)
class TreeInputs:
    """
    A batch of `b` trunks in the form that a model takes.

    Args:
        input_ids, position_ids (`torch.Tensor` of shape `(b, l)`): Trunk and branches, padded.
        mask (`torch.Tensor` of shape `(b, 1, l, p + l)`, of `bool`): What each token sees, the prefix of `p` first.
        keep (`torch.Tensor` of shape `(most * r,)`): The indices that are read, branch by branch.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    mask: torch.Tensor
    keep: torch.Tensor


def tree_inputs(batch: Sequence[Trunk], branch: Branch, prefix_length: int) -> TreeInputs:
    """Lays a batch out; see the module's docstring."""
    rows, k = len(batch), len(branch.tokens)
    longest, most = max(len(t.tokens) for t in batch), max(len(t.samples) for t in batch)
    length, p = longest + most * k, prefix_length
    ids = torch.zeros(rows, length, dtype=torch.long)
    ends = torch.zeros(rows, most, dtype=torch.long)
    for row, trunk in enumerate(batch):
        ids[row, : len(trunk.tokens)] = torch.tensor(trunk.tokens)
        ends[row, : len(trunk.samples)] = torch.tensor([end for _, end in trunk.samples])
    ids[:, longest:] = branch.tokens.repeat(most)
    positions = torch.cat(
        [torch.arange(longest).expand(rows, -1), (ends[:, :, None] + branch.depth).flatten(1)], dim=1
    )
    mask = torch.zeros(rows, 1, length, p + length, dtype=torch.bool)
    mask[..., :p] = True
    mask[:, 0, :longest, p : p + longest] = torch.ones(longest, longest, dtype=torch.bool).tril()
    trunk_seen = torch.arange(longest) < ends[:, :, None]  # (rows, most, longest)
    for n in range(most):
        own = slice(longest + n * k, longest + (n + 1) * k)
        mask[:, 0, own, p : p + longest] = trunk_seen[:, n, None, :]
        mask[:, 0, own, p + own.start : p + own.stop] = branch.sees
    reads = torch.tensor([i for chain in branch.reads for i in chain])
    keep = (longest + torch.arange(most)[:, None] * k + reads).flatten()
    return TreeInputs(ids, positions + p, mask, keep)
