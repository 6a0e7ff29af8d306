"""[`RequestRouter`]: which expert answers a request, from the prompt alone, by a linear classifier over its words."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file

from ..data.samples import all_dialogues
from ..errors import CompositionError
from ..files import read_json, write_json
from ..scoring.features import tokenise
from .gates import fit_logistic


Prompt = str | Sequence[Mapping[str, Any]]

BITS = 16
FILE, WEIGHTS = "request_router.json", "request_router.safetensors"
FEATURE_VERSION = 1


def prompt_buckets(prompt: Prompt) -> list[int]:
    """The hashed words of a prompt: words and pairs of words of the last message, words of the messages before."""
    if isinstance(prompt, str):
        texts = [prompt]
    else:
        texts = [_text_of(turn.get("content")) for turn in prompt if turn["role"] != "system"]
    if not texts:
        raise CompositionError("a prompt has no user message, so it cannot be routed; add one")
    words = tokenise(texts[-1])
    grams = [*words, *(" ".join(pair) for pair in zip(words, words[1:], strict=False))]
    found = [f"last {gram}" for gram in grams]
    found += [f"earlier {word}" for text in texts[:-1] for word in tokenise(text)]
    return [zlib.crc32(gram.encode("utf-8")) >> (32 - BITS) for gram in found]


def _text_of(content: Any) -> str:
    """A message's text: as it is, the text parts of several, or `""` if there is only a tool call."""
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    if not isinstance(content, (list, tuple)) or not all(isinstance(part, Mapping) for part in content):
        raise CompositionError(f"the content {content!r} is neither a text nor a list of parts")
    return " ".join(str(part["text"]) for part in content if part.get("type", "text") == "text")


class RequestRouter:
    """
    Which expert answers a request: a logistic regression on the prompt, learnt from each expert's training set.

    Args:
        experts (`Sequence[str]`): The experts' names.
        weights (`torch.Tensor` of shape `(2 ** 16 + 1, experts)`): The last row is the intercept.

    Example:
        ```python
        router = RequestRouter.fit({"sensibility": sensibility_set, "rationality": rationality_set})
        [expert] = router.route(["I lost my job today."])  # "sensibility" or "rationality"
        ```
    """

    def __init__(self, experts: Sequence[str], weights: torch.Tensor) -> None:
        shape = (2**BITS + 1, len(experts))
        if tuple(weights.shape) != shape or len(experts) < 2:
            raise CompositionError(
                f"weights of shape {tuple(weights.shape)} do not fit {len(experts)} experts; expected {shape}, two "
                "experts or more"
            )
        self.experts, self.weights = tuple(experts), weights.float()

    @classmethod
    def fit(cls, data: Mapping[str, Dataset], *, l2: float = 1e-3, steps: int = 100) -> RequestRouter:
        """
        Learns from the prompts of each expert's set; all sets count alike, whatever their size.

        Args:
            data (`Mapping[str, Dataset]`): Expert's name -> its training set, in any dialogue format.
            l2 (`float`, *optional*, defaults to `1e-3`): Penalty on the squared weights.
            steps (`int`, *optional*, defaults to `100`): Iterations of L-BFGS at most.
        """
        if len(data) < 2:
            raise CompositionError(
                f"a router needs the sets of two experts or more; given: {', '.join(data) or 'none'}"
            )
        prompts = {name: _prompts_of(dataset) for name, dataset in data.items()}
        for name, found in prompts.items():
            if not found:
                raise CompositionError(f"the set of expert {name!r} holds no prompt to learn from")
        bags = _bags([prompt for found in prompts.values() for prompt in found])
        start, sizes = torch.zeros(2**BITS + 1, len(prompts)), [len(found) for found in prompts.values()]
        return cls(tuple(prompts), fit_logistic(start, lambda w: _logits(w, bags), sizes, l2, steps, intercept=True))

    def probabilities(self, prompts: Sequence[Prompt]) -> np.ndarray:
        """The probability that each prompt is from each expert's set: `(prompts, experts)`, rows sum to 1."""
        if isinstance(prompts, (str, Mapping)) or any(isinstance(prompt, Mapping) for prompt in prompts):
            raise CompositionError(f"{str(prompts)[:80]!r} is one prompt; give a list of prompts: route([prompt])")
        if not len(prompts):
            return np.zeros((0, len(self.experts)))
        return _logits(self.weights, _bags(prompts)).softmax(-1).numpy()

    def route(self, prompts: Sequence[Prompt]) -> list[str]:
        """The name of the expert for each prompt."""
        return [self.experts[i] for i in self.probabilities(prompts).argmax(-1)]

    def accuracy(self, data: Mapping[str, Dataset]) -> dict[str, float]:
        """
        The share of each expert's prompts that are routed to it, and their mean (`"balanced"`; by chance 1 / experts).

        Args:
            data (`Mapping[str, Dataset]`): As for `fit`, but held out: on the sets of `fit` the figure means nothing.
        """
        found = {}
        for name, dataset in data.items():
            routed = self.route(_prompts_of(dataset))
            if not routed:
                raise CompositionError(f"the set of expert {name!r} holds no prompt to measure on")
            found[name] = sum(expert == name for expert in routed) / len(routed)
        return found | {"balanced": sum(found.values()) / len(found)}

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Writes it to a folder."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        (path / FILE).unlink(missing_ok=True)  # without it the folder holds no router: it comes last
        save_file({"weights": self.weights.contiguous()}, path / WEIGHTS)
        write_json(path / FILE, {"experts": list(self.experts), "feature_version": FEATURE_VERSION, "bits": BITS})
        return path

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> RequestRouter:
        """Reads what `save` wrote."""
        path = Path(folder)
        if not (path / FILE).is_file() or not (path / WEIGHTS).is_file():
            raise CompositionError(f"{str(path)!r} holds no request router ({FILE} and {WEIGHTS}); fit and save one")
        record = read_json(path / FILE)
        if (record["feature_version"], record["bits"]) != (FEATURE_VERSION, BITS):
            raise CompositionError(f"{str(path)!r} was made by another version of ee-trl; fit it again")
        return cls(record["experts"], load_file(path / WEIGHTS)["weights"])


def _prompts_of(dataset: Dataset) -> list[Prompt]:
    """The prompt of each dialogue with a reply."""
    return [list(prompt) for prompt in all_dialogues(dataset)["prompt"]]


def _bags(prompts: Iterable[Prompt]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The buckets of all prompts in one row, where each prompt begins, and the weight of each bucket in its prompt."""
    buckets: list[int] = []
    starts: list[int] = []
    shares: list[float] = []
    for prompt in prompts:
        own = sorted(set(prompt_buckets(prompt)))
        starts.append(len(buckets))
        buckets += [*own, 2**BITS]
        shares += [*([max(len(own), 1) ** -0.5] * len(own)), 1.0]  # of unit length, so that long prompts count no more
    return torch.tensor(buckets), torch.tensor(starts), torch.tensor(shares)


def _logits(weights: torch.Tensor, bags: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
    buckets, starts, shares = bags
    return torch.nn.functional.embedding_bag(buckets, weights, starts, mode="sum", per_sample_weights=shares)
