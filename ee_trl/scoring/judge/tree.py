"""Two ways through the model: a dialogue with all its questions as one tree, or each question as a text of its own.

The tree shares what samples have in common: the rubric's key/value cache over a batch, a dialogue's turns over its
questions. One row of a batch is one dialogue: its trunk, then a branch of equal shape for each scored turn,

    [ trunk, padded to the longest ][ head chain chain ][ head chain chain ] ...

A 4-D mask lets a token see the prefix, the trunk up to its branch's turn (a trunk token: up to itself), and its own
ancestors in the branch. Position ids say where it would stand in the plain text. So a row gives the same logits as the
plain texts one by one, and every row of a batch is read at the same indices. Where the model takes it, all rows become
one without padding ([`~ee_trl.scoring.judge.packed`]).
"""

from __future__ import annotations

import inspect
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad
from transformers.cache_utils import Cache

from .packed import Packed, moved, packed_logits, shared_cache
from .prompt import Chain, JudgePrompt


logger = logging.getLogger(__name__)

Answers = dict[int, np.ndarray | None]
"""Number of the sample -> its answers, shape `(2, 12)` ([`Chain.read`]); `None` where memory ran out on it alone."""


@dataclass
class Trunk:
    """A dialogue's turns as ids, and its samples: `(number of the sample, where its reply ends)`."""

    tokens: list[int]
    samples: list[tuple[int, int]] = field(default_factory=list)


def trunks_of(samples: Sequence[Sequence[Sequence[int]] | None]) -> list[Trunk]:
    """Samples on as few trunks as possible: a sample that is the beginning of a longer one shares its trunk."""
    trunks: list[Trunk] = []
    ends: dict[tuple[Sequence[int], ...], tuple[Trunk, int]] = {}
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


def alone(samples: Sequence[Sequence[Sequence[int]] | None]) -> list[Trunk]:
    """Each sample on a trunk of its own."""
    texts = [(i, [t for turn in turns for t in turn]) for i, turns in enumerate(samples) if turns is not None]
    return [Trunk(tokens, [(i, len(tokens))]) for i, tokens in texts]


def halves_of(trunk: Trunk) -> list[Trunk]:
    """The earlier replies of a trunk without the later turns, and its later replies; nothing where it has only one."""
    samples = sorted(trunk.samples, key=lambda sample: sample[1])
    parts = samples[: len(samples) // 2], samples[len(samples) // 2 :]
    return [Trunk(trunk.tokens[: part[-1][1]], part) for part in parts] if parts[0] else []


def batches_of(
    trunks: Sequence[Trunk], branch_size: int, token_budget: int, packed: bool = False
) -> Iterator[list[Trunk]]:
    """
    Trunks of similar length and number of samples, as many as fit into `token_budget` tokens with padding; where the
    batches are `packed`, without it, and twice as many with it.
    """
    batch: list[Trunk] = []
    tokens = longest = most = 0
    for trunk in sorted(trunks, key=lambda t: (len(t.samples), len(t.tokens)), reverse=True):
        own = len(trunk.tokens) + len(trunk.samples) * branch_size
        size = max(longest, len(trunk.tokens)), max(most, len(trunk.samples))
        padded = (len(batch) + 1) * (size[0] + size[1] * branch_size)
        if batch and (max(tokens + own, padded / 2) if packed else padded) > token_budget:
            yield batch
            batch, tokens, size = [], 0, (len(trunk.tokens), len(trunk.samples))
        batch.append(trunk)
        tokens += own
        longest, most = size
    if batch:
        yield batch


def within_memory(scorer: Any, way: Tree | QuestionTexts, trunks: Sequence[Trunk]) -> Iterator[tuple[Answers, int]]:
    """
    Runs trunks in batches. Where a batch needs more memory than there is, the scorer's `token_budget` is halved.

    A trunk that is too large alone is halved without a change of the budget; a single sample gets `None`. Yields the
    answers of each batch, and the tokens that went through the model. Where `way.ahead`, the answers of a batch are
    waited for after the next one has started.
    """

    def planned(trunks: Sequence[Trunk]) -> deque[list[Trunk]]:
        return deque(batches_of(trunks, way.branch_size, scorer.token_budget, way.packed))

    waiting, running = planned(trunks), deque[Started]()
    before = None  # the budget before the halvings that have not helped yet
    while waiting:
        batch = waiting.popleft()
        try:
            running.append(way.start(batch))
        except Exception as error:
            yield from (started.answers() for started in running)
            running.clear()
            if not _out_of_memory(error):
                raise
        else:
            if before is not None:
                logger.warning("out of memory; the token budget is halved to %d", scorer.token_budget)
                before = None
            while len(running) > way.ahead:
                yield running.popleft().answers()
            continue
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(batch) > 1:
            before = before or scorer.token_budget
            scorer.token_budget = max(1, scorer.token_budget // 2)
        else:
            scorer.token_budget, before = before or scorer.token_budget, None
            trunk = batch[0]
            batch = halves_of(trunk)
            if not batch:
                yield {trunk.samples[0][0]: None}, 0
        waiting = planned([*batch, *(t for later in waiting for t in later)])
    yield from (started.answers() for started in running)


@dataclass
class Started:
    """A batch whose answers are on their way: on a GPU, the next batch is prepared and started meanwhile."""

    samples: list[int]
    chains: Sequence[Chain]
    chances: list[torch.Tensor]  # of each chain, on the CPU
    tokens: int  # that went through the model
    over: torch.cuda.Event | None  # when the chances have arrived

    @classmethod
    def of(cls, samples: list[int], chains: Sequence[Chain], logits: Sequence[torch.Tensor], tokens: int) -> Started:
        """From each chain's logits, `(samples, reads, vocabulary)`."""
        found = [moved(chances_of(*one), "cpu") for one in zip(chains, logits, strict=True)]
        over = torch.cuda.Event() if logits[0].is_cuda else None
        if over is not None:
            over.record(torch.cuda.current_stream(logits[0].device))
        return cls(samples, chains, found, tokens, over)

    def answers(self) -> tuple[Answers, int]:
        """The answers of all samples of the batch, and the tokens that went through the model."""
        if self.over is not None:
            self.over.synchronize()
        read = [chain.read(part.numpy()) for chain, part in zip(self.chains, self.chances, strict=True)]
        return dict(zip(self.samples, np.stack(read, axis=1), strict=True)), self.tokens


def chances_of(chain: Chain, logits: torch.Tensor) -> torch.Tensor:
    """What [`Chain.read`] reads, from logits of shape `(samples, reads, vocabulary)`."""
    chances = logits.float().softmax(dim=-1)
    first = chances[:, 0, list(chain.first)]
    if chain.second is None:
        return first
    return torch.cat([first, chances[:, 1, [chain.second]], chances[:, 1].amax(dim=-1, keepdim=True)], dim=1)


def _out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "can't allocate memory" in text


@dataclass(frozen=True)
class Branch:
    """What follows a scored turn: the head, and the chains that do not see each other; `k` tokens."""

    tokens: torch.Tensor  # (k,) ids: head, first chain, second chain
    depth: torch.Tensor  # (k,) distance of each token from the turn's end, from 0
    sees: torch.Tensor  # (k, k) of bool: row token sees column token
    reads: tuple[int, ...]  # the indices whose next-token distribution is wanted, chain by chain

    @classmethod
    def of(cls, head: Sequence[int], chains: Sequence[Chain]) -> Branch:
        """The branch for a prompt's head and chains."""
        h, sizes = len(head), [len(chain.tokens) for chain in chains]
        tokens = [*head, *(i for chain in chains for i in chain.tokens)]
        depth = [*range(h), *(h + i for size in sizes for i in range(size))]
        part = torch.tensor([0] * h + [n for n, size in enumerate(sizes, 1) for _ in range(size)])
        order = torch.arange(len(tokens))
        sees = (order <= order[:, None]) & ((part == 0) | (part == part[:, None]))
        ends = list(accumulate(sizes, initial=h))[1:]
        reads = [i for chain, end in zip(chains, ends, strict=True) for i in range(end - chain.reads, end)]
        return cls(torch.tensor(tokens), torch.tensor(depth), sees, tuple(reads))


@dataclass(frozen=True)
class TreeInputs:
    """A batch of `b` trunks in the form that a model takes."""

    input_ids: torch.Tensor  # (b, l): trunk and branches, padded
    position_ids: torch.Tensor  # (b, l)
    mask: torch.Tensor  # (b, 1, l, l) of bool: what each token sees of its row; it sees the whole prefix
    keep: torch.Tensor  # (most * r,): the indices that are read, branch by branch
    real: torch.Tensor  # (b, l) of bool: the tokens that are no padding


def tree_inputs(batch: Sequence[Trunk], branch: Branch, prefix_length: int) -> TreeInputs:
    """Lays out a batch; see the module's docstring."""
    rows, k = len(batch), len(branch.tokens)
    longest, most = max(len(t.tokens) for t in batch), max(len(t.samples) for t in batch)
    length = longest + most * k
    ids = torch.zeros(rows, length, dtype=torch.long)
    ends = torch.zeros(rows, most, dtype=torch.long)
    for row, trunk in enumerate(batch):
        ids[row, : len(trunk.tokens)] = torch.tensor(trunk.tokens)
        ends[row, : len(trunk.samples)] = torch.tensor([end for _, end in trunk.samples])
    ids[:, longest:] = branch.tokens.repeat(most)
    positions = torch.cat(
        [torch.arange(longest).expand(rows, -1), (ends[:, :, None] + branch.depth).flatten(1)], dim=1
    )
    mask = torch.zeros(rows, 1, length, length, dtype=torch.bool)
    mask[:, 0, :longest, :longest] = torch.ones(longest, longest, dtype=torch.bool).tril()
    trunk_seen = torch.arange(longest) < ends[:, :, None]  # (rows, most, longest)
    for n in range(most):
        own = slice(longest + n * k, longest + (n + 1) * k)
        mask[:, 0, own, :longest] = trunk_seen[:, n, None, :]
        mask[:, 0, own, own] = branch.sees
    keep = (longest + torch.arange(most)[:, None] * k + torch.tensor(branch.reads)).flatten()
    lengths = torch.tensor([len(trunk.tokens) for trunk in batch])
    real = torch.cat([torch.arange(longest) < lengths[:, None], (ends > 0).repeat_interleave(k, dim=1)], dim=1)
    return TreeInputs(ids, positions + prefix_length, mask, keep, real)


def tree_logits(model: Any, inputs: TreeInputs, cache: Cache) -> torch.Tensor:
    """The model's logits at the indices that are read, shape `(b, most * r, vocabulary)`."""
    device, mask = model.device, pad(inputs.mask, (cache.get_seq_length(), 0), value=True)
    if model.config._attn_implementation == "eager":
        mask = torch.zeros(mask.shape, dtype=model.dtype).masked_fill(~mask, torch.finfo(model.dtype).min)
    return model(
        input_ids=inputs.input_ids.to(device),
        position_ids=inputs.position_ids.to(device),
        attention_mask=mask.to(device),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=inputs.keep.to(device),
    ).logits


class Tree:
    """One forward pass for all questions about a batch of dialogues."""

    def __init__(self, model: Any, prompt: JudgePrompt) -> None:
        self.model, self.prompt = model, prompt
        self.branch = Branch.of(prompt.head, prompt.chains)
        self.branch_size = len(self.branch.tokens)  # tokens that each sample adds to its row
        self.packed = False  # whether batches are without padding: see `try_packing`
        self.why_not_packed: str | None = None
        self.ahead = int(model.device.type == "cuda")  # batches that are started before the answers of one are read

    @torch.inference_mode()
    def start(self, batch: list[Trunk]) -> Started:
        """Starts the forward pass of a batch."""
        inputs: Any = tree_inputs(batch, self.branch, len(self.prompt.prefix))
        samples = [i for trunk in batch for i, _ in trunk.samples]
        if self.packed:
            inputs = Packed.of(inputs)
        logits = self.logits(inputs)
        if not self.packed:
            places = [(row, n) for row, trunk in enumerate(batch) for n in range(len(trunk.samples))]
            logits = logits[tuple(torch.tensor(places).T)]
        parts = logits.split([chain.reads for chain in self.prompt.chains], dim=1)
        return Started.of(samples, self.prompt.chains, parts, inputs.input_ids.numel())

    def logits(self, inputs: TreeInputs | Packed) -> torch.Tensor:
        """Logits of shape `(b, most, reads, vocabulary)`, of a packed batch `(samples, reads, vocabulary)`."""
        reads = len(self.branch.reads)
        if isinstance(inputs, Packed):
            return packed_logits(self.model, inputs, self._prefix_cache).unflatten(0, (-1, reads))
        return tree_logits(self.model, inputs, self._prefix_cache).unflatten(1, (-1, reads))

    @torch.inference_mode()
    def try_packing(self, batch: list[Trunk], exact: bool) -> None:
        """Packs from now on where the model takes it, and each layer's attention on this batch is the usual one."""
        if self.model.config._attn_implementation != "sdpa":
            self.why_not_packed = f"attention is {self.model.config._attn_implementation!r}"
            return
        inputs = Packed.of(tree_inputs(batch, self.branch, len(self.prompt.prefix)), checked=True)
        try:
            self.logits(inputs)
            reason = None if inputs.apart <= (1e-3 if exact else 0.03) else f"attention differs by {inputs.apart:.2g}"
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
        self.packed, self.why_not_packed = reason is None, reason
        if reason:
            logger.info("the batches keep their padding: %s", reason)

    @cached_property
    def _prefix_cache(self) -> Cache:
        return shared_cache(self.model, self.prompt.prefix)


def why_no_tree(model: Any) -> str | None:
    """Why a model of this kind cannot take the branch mask; a comparison in low precision may not show it."""
    config = model.config.get_text_config()
    kinds = {*(getattr(config, "layer_types", None) or ()), *(getattr(config, "attention_layers", None) or ())}
    kinds -= {"full_attention", "global"}
    if kinds:
        return f"this model has layers of {', '.join(sorted(kinds))}, which do not take the branch mask"
    if "position_ids" not in _parameters(model) or getattr(config, "alibi", False):
        return "this model counts positions itself"
    if model.config._attn_implementation not in ("sdpa", "eager"):
        return f"attention {model.config._attn_implementation!r} does not take the branch mask"
    return None


class PlainTexts:
    """Texts through any causal language model, nothing shared; `example` is a text's ids, to try padding with."""

    def __init__(self, model: Any, exact: bool, example: Sequence[int]) -> None:
        self.model, self.exact, self.example = model, exact, example

    @torch.inference_mode()
    def logits(self, texts: Sequence[Sequence[int]], keep: int) -> torch.Tensor:
        """As [`last_logits`], in one forward pass where the model takes padding."""
        if len(set(map(len, texts))) > 1 and not self.takes_padding:
            return torch.cat([last_logits(self.model, [text], keep) for text in texts])
        return last_logits(self.model, texts, keep)

    @cached_property
    def takes_padding(self) -> bool:
        """
        Whether a padded text has the same logits as without padding; warns if not.

        In low precision the model's own rounding hides a small difference, so a model without `position_ids`
        counts as one that does not take padding.
        """
        model, text = self.model, self.example
        if self.exact or "position_ids" in _parameters(model):
            beside = last_logits(model, [text, [*text, *text]], keep=1)[0, -1].log_softmax(-1)
            by_itself = last_logits(model, [text], keep=1)[0, -1].log_softmax(-1)
            likely = by_itself.topk(min(20, len(by_itself))).indices
            if bool((beside - by_itself)[likely].abs().max() <= (1e-2 if self.exact else 1.0)):
                return True
        logger.warning("this model gives other numbers beside padding; texts run one by one: correct, but slow")
        return False


def last_logits(model: Any, texts: Sequence[Sequence[int]], keep: int) -> torch.Tensor:
    """The logits at the last `keep` tokens of texts padded on the left, shape `(b, keep, vocabulary)`, float32."""
    width, device = max(map(len, texts)), model.device
    mask = torch.tensor([[0] * (width - len(t)) + [1] * len(t) for t in texts])
    ids = torch.tensor([[0] * (width - len(t)) + list(t) for t in texts])
    arguments = {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    takes = _parameters(model)
    kept = {name: tensor.to(device) for name, tensor in arguments.items() if name in takes}
    extra: dict[str, Any] = {"logits_to_keep": keep} if "logits_to_keep" in takes else {}
    return model(**kept, use_cache=False, **extra).logits[:, -keep:].float()


def _parameters(model: Any) -> frozenset[str]:
    """The names of the parameters of the model's forward; for an adapter, of its base model's forward."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return frozenset(inspect.signature(inner.forward).parameters)


class QuestionTexts(PlainTexts):
    """Every question as a text of its own: correct for any model, and the reference for the tree."""

    def __init__(self, model: Any, exact: bool, prompt: JudgePrompt) -> None:
        super().__init__(model, exact, prompt.prefix[-64:])
        self.prompt, self.packed, self.ahead = prompt, False, 0
        self.branch_size = len(prompt.prefix) + len(prompt.head) + max(len(chain.tokens) for chain in prompt.chains)

    def start(self, batch: list[Trunk]) -> Started:
        """As [`Tree.start`], in one forward pass for each axis; the trunks have one sample each ([`alone`])."""
        parts, tokens = [], 0
        for chain in self.prompt.chains:
            texts = [self.prompt.ids([trunk.tokens], chain.tokens) for trunk in batch]
            parts.append(self.logits(texts, chain.reads))
            tokens += len(texts) * max(map(len, texts))
        return Started.of([trunk.samples[0][0] for trunk in batch], self.prompt.chains, parts, tokens)
