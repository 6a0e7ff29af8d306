"""Fits a bi-encoder that tells replies that fit their context from made bad ones, and scores both axes."""

from __future__ import annotations

import copy
import dataclasses
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer, PrinterCallback, Trainer, set_seed

from ..axes import AXES, FLAGS
from ..data.dialogue import Dialogue
from ..errors import TrainingError
from ..scoring.biencoder import (
    HEAD_FILE,
    Head,
    compared,
    encode_apart,
    flag_odds,
    head_outputs,
    load_head,
    means,
    save_head,
    text_vectors,
)
from ..scoring.encoder import Encoded, padded
from ..scoring.judged import check_spread, conversation_numbers, targets
from .fit import FitOptions, Fitted, arguments_of, fit_words, longest_of
from .negatives import KINDS, Negative


HEAD_RATE = 1e-3  # the head's learning rate; the options' is the encoder's
RIDGE = 300.0  # of the axes' regression on the compared vectors; the optimum is flat
_SHIFTS = (1, 5)  # each context also meets the replies of the dialogues so many places later in its batch
_SWAPPED_WEIGHT, _CONTRAST_WEIGHT = 0.5, 0.2
_ROWS = 16  # texts of one forward pass in training, of similar length, so that little is padded


@dataclasses.dataclass(frozen=True)
class Compared:
    """A bi-encoder that tells true replies from made ones; it predicts no axis yet."""

    encoder: Any
    tokenizer: Any
    head: Head
    options: FitOptions
    flags: tuple[str, ...]  # those that it learnt
    seconds: float
    _known: dict[Dialogue, tuple[torch.Tensor, torch.Tensor]] = dataclasses.field(default_factory=dict, repr=False)

    def vectors(self, dialogues: Sequence[Dialogue], token_budget: int = 2_048) -> tuple[torch.Tensor, torch.Tensor]:
        """The vectors of contexts and replies, each of shape `(n, width)`, computed once, as the scorer will."""
        new = [dialogue for dialogue in dict.fromkeys(dialogues) if dialogue not in self._known]
        if new:
            inputs = self.options.inputs
            encoder = copy.deepcopy(self.encoder).eval()
            encoder.to(torch.bfloat16 if self.options.precision else torch.float32)
            sides = (
                text_vectors(encoder, self.tokenizer, texts, token_budget, inputs.max_length)[0]
                for texts in encode_apart(inputs, self.tokenizer, new)
            )
            self._known.update(zip(new, zip(*sides, strict=True), strict=True))
        contexts, replies = zip(*(self._known[dialogue] for dialogue in dialogues), strict=True)
        return torch.stack(contexts), torch.stack(replies)

    def save(self, folder: Path) -> None:
        """Writes encoder, tokenizer and head; it can be given to `distill` as an encoder."""
        self.encoder.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        save_head(self.head, folder)

    def with_axes(self, dialogues: Sequence[Dialogue], scores: np.ndarray) -> FittedApart:
        """Adds both axes: ridge regression on the compared vectors, to a judge's scores of shape `(n, 2)`."""
        from sklearn.linear_model import Ridge

        check_spread(scores)
        start = time.perf_counter()
        first, second = (functional.normalize(side, dim=-1) for side in self.vectors(dialogues))
        found = Ridge(RIDGE).fit(compared(first, second).double().cpu().numpy(), targets(scores))
        head = copy.deepcopy(self.head)
        with torch.no_grad():
            head.axes.weight.copy_(torch.tensor(found.coef_))
            head.axes.bias.copy_(torch.tensor(found.intercept_))
        words = fit_words(dialogues, scores) if self.options.words else None
        seconds = time.perf_counter() - start
        return FittedApart(self.encoder, self.tokenizer, self.options, words, seconds, head, self)


@dataclasses.dataclass(frozen=True)
class FittedApart(Fitted):
    """A bi-encoder with both axes."""

    head: Head
    compared: Compared

    def raw(self, dialogues: Sequence[Dialogue], token_budget: int = 2_048) -> np.ndarray:
        """Predictions of the axes, and the log odds of the flags: shape `(n, 2 + flags)`."""
        if not dialogues:
            return np.empty((0, len(AXES) + len(self.compared.flags)))
        outputs = head_outputs(self.head, *self.compared.vectors(dialogues, token_budget))
        return np.column_stack([outputs[:, : len(AXES)], flag_odds(outputs)])

    def save(self, folder: Path) -> None:
        """Writes encoder, tokenizer and head."""
        super().save(folder)
        save_head(self.head, folder)


def learn_to_compare(
    dialogues: Sequence[Dialogue],
    negatives: Sequence[Negative],
    encoder: str | os.PathLike[str],
    options: FitOptions,
    trust_remote_code: bool = False,
) -> Compared:
    """
    Fits an encoder and a head to tell the dialogues' replies from made ones and from each other's.

    The loss is the cross entropy of [`Head.logits`] over true, made and swapped pairs, plus a contrastive term: among
    the replies of a batch each context must find its own (softmax over cosines, van den Oord et al. 2018).
    """
    start = time.perf_counter()
    set_seed(options.seed)
    made = {KINDS[negative.kind] for negative in negatives} | {"off_topic"}
    flags = tuple(flag for flag in FLAGS if flag in made)
    try:
        tokenizer = AutoTokenizer.from_pretrained(encoder, trust_remote_code=trust_remote_code)
        # on a CPU the backward pass of fused attention takes most of the time
        how = None if torch.cuda.is_available() else "eager"
        settings = {"dtype": torch.float32, "trust_remote_code": trust_remote_code, "attn_implementation": how}
        model = AutoModel.from_pretrained(encoder, use_safetensors=True, **settings)
    except Exception as error:  # a damaged folder can raise anything
        raise TrainingError(f"the encoder {os.fspath(encoder)!r} cannot be loaded: {error}") from error
    longest = longest_of(model)
    if longest is not None and options.inputs.max_length > longest:
        raise TrainingError(f"max_length {options.inputs.max_length} is more than this encoder's {longest}")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    width = model.config.hidden_size
    known = Path(encoder) / HEAD_FILE
    head = load_head(Path(encoder), width, len(flags)) if known.is_file() else Head(width, len(flags))
    model.get_input_embeddings().requires_grad_(False)
    rows = _rows(tokenizer, dialogues, negatives, options, flags)

    arguments = arguments_of(options, grouped=False)
    contrast = _Contrast(model, head.train(), flags.index("off_topic") + 1)
    rates = [{"params": head.parameters(), "lr": HEAD_RATE}]
    rates.append({"params": [p for p in model.parameters() if p.requires_grad], "lr": options.rate})
    trainer = Trainer(
        model=contrast,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        data_collator=lambda some: _batch(tokenizer, some),
        optimizers=(torch.optim.AdamW(rates, weight_decay=arguments.weight_decay), None),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    model.requires_grad_(True)
    return Compared(model.eval(), tokenizer, head.eval(), options, flags, time.perf_counter() - start)


def _rows(
    tokenizer: Any,
    dialogues: Sequence[Dialogue],
    negatives: Sequence[Negative],
    options: FitOptions,
    flags: Sequence[str],
) -> list[dict[str, Any]]:
    """One row for each dialogue: its context, its reply and the made ones, and the class of each reply."""
    contexts, replies = encode_apart(options.inputs, tokenizer, dialogues)
    _, made = encode_apart(options.inputs, tokenizer, [negative.dialogue for negative in negatives])
    conversations = conversation_numbers(dialogues).tolist()
    rows = [
        {
            "context": context["input_ids"],
            "replies": [reply["input_ids"]],
            "classes": [0],
            "conversation": conversation,
        }
        for context, reply, conversation in zip(contexts, replies, conversations, strict=True)
    ]
    for negative, text in zip(negatives, made, strict=True):
        rows[negative.source]["replies"].append(text["input_ids"])
        rows[negative.source]["classes"].append(1 + flags.index(KINDS[negative.kind]))
    return rows


def _batch(tokenizer: Any, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The texts of some rows, in small groups of similar length; first all true replies, then the made ones."""
    made = [
        (i, ids, c)
        for i, row in enumerate(rows)
        for ids, c in zip(row["replies"][1:], row["classes"][1:], strict=True)
    ]
    replies = [row["replies"][0] for row in rows] + [ids for _, ids, _ in made]
    return {
        "contexts": _grouped(tokenizer, [row["context"] for row in rows]),
        "replies": _grouped(tokenizer, replies),
        "sources": torch.tensor([i for i, _, _ in made], dtype=torch.long),
        "classes": torch.tensor([c for _, _, c in made], dtype=torch.long),
        "conversations": torch.tensor([row["conversation"] for row in rows]),
    }


def _grouped(tokenizer: Any, texts: Sequence[list[int]]) -> dict[str, Any]:
    """Padded groups of texts, sorted by length, and the places of the texts among them."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    groups = []
    for start in range(0, len(order), _ROWS):
        group: list[Encoded] = [{"input_ids": texts[i]} for i in order[start : start + _ROWS]]
        groups.append(padded(tokenizer, group, len(group), max(len(text["input_ids"]) for text in group)))
    return {"groups": groups, "places": torch.tensor(order).argsort()}


class _Contrast(torch.nn.Module):
    """An encoder and a head, whose forward pass is the loss of a batch."""

    def __init__(self, encoder: Any, head: Head, off_topic: int) -> None:
        super().__init__()
        self.encoder, self.head, self.off_topic = encoder, head, off_topic

    def forward(
        self,
        contexts: dict[str, Any],
        replies: dict[str, Any],
        sources: torch.Tensor,
        classes: torch.Tensor,
        conversations: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        first, second = self._vectors(contexts), self._vectors(replies)
        count = len(first)
        here = torch.arange(count, device=first.device)
        same = (conversations[:, None] == conversations[None, :]) & (here[:, None] != here[None, :])
        near, far = self.head.projected(first, second[:count])
        cosines = (near @ far.T * self.head.temperature).masked_fill(same, -1e4)
        left, right = [here, sources], [here, count + torch.arange(len(sources), device=first.device)]
        for shift in _SHIFTS:
            other = (here + shift) % count
            apart = conversations != conversations[other]
            left.append(here[apart])
            right.append(other[apart])
        swapped = sum(len(part) for part in left[2:])
        wanted = torch.cat(
            [torch.zeros_like(here), classes, torch.full((swapped,), self.off_topic, device=first.device)]
        )
        weights = torch.ones(len(wanted), device=first.device)
        weights[len(wanted) - swapped :] = _SWAPPED_WEIGHT
        logits = self.head.logits(first[torch.cat(left)], second[torch.cat(right)])
        told = (functional.cross_entropy(logits, wanted, reduction="none") * weights).sum() / weights.sum()
        return {"loss": told + _CONTRAST_WEIGHT * functional.cross_entropy(cosines, here)}

    def _vectors(self, texts: dict[str, Any]) -> torch.Tensor:
        return torch.cat([means(self.encoder, group) for group in texts["groups"]])[texts["places"]]
