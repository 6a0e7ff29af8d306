"""Perplexity of completions under a causal language model, tokenised by the rules of TRL's `SFTTrainer`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os.path import commonprefix  # works on any sequences
from typing import Any, NamedTuple

import numpy as np

from ee_trl.data.chat import chat_ids, fitted
from ee_trl.errors import check_count

from ..bootstrap import Sums, Values, divided, with_intervals
from ..texts import check_columns, check_list


Message = dict[str, Any]
Text = str | list[Message]


def perplexity_scores(
    prompts: Sequence[Text],
    completions: Sequence[Text],
    model: Any = None,
    tokenizer: Any = None,
    *,
    batch_size: int = 8,
    max_length: int | None = None,
    add_eos: bool = True,
    chat_template_kwargs: dict[str, Any] | None = None,
    device: Any = None,
    dtype: Any = None,
    progress: bool = True,
    **bootstrap: Any,
) -> dict[str, Any]:
    """Perplexity of a corpus of completions, given prompts; card: `evaluation/completion_perplexity/README.md`."""
    prompts, completions = check_columns({"prompts": prompts, "completions": completions}, PERPLEXITY_CHECKS)
    check_count("batch_size", batch_size)
    check_count("max_length", 1 if max_length is None else max_length)
    tokenizer = _load_tokenizer(model, tokenizer)
    options: dict[str, Any] = {"max_length": max_length, "add_eos": add_eos}
    for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        if isinstance(prompt, str) != isinstance(completion, str):
            raise TypeError(f"prompts[{i}] and completions[{i}] must both be strings or both be lists of messages.")
    samples = [
        tokenize_sample(p, c, tokenizer, chat_template_kwargs=chat_template_kwargs, where=f"sample {i}", **options)
        for i, (p, c) in enumerate(zip(prompts, completions, strict=True))
    ]
    tokens = sum(sample.scored for sample in samples)
    if tokens == 0:
        raise ValueError(f"no completion token is left to count in {len(samples)} samples (max_length={max_length}).")
    nlls = sample_nlls(samples, _load_model(model, device, dtype), batch_size=batch_size, progress=progress)
    nll = math.fsum(nlls) / tokens
    found = {
        "perplexity": math.exp(nll) if nll < 709 else math.inf,  # above that a float overflows
        "nll": nll,
        "tokens": tokens,
        "n": len(samples),
        "truncated": sum(sample.truncated for sample in samples),
        "unscored": sum(sample.scored == 0 for sample in samples),
    }
    return with_intervals(found, lambda: perplexity_resampler(nlls, [s.scored for s in samples]), **bootstrap)


def perplexity_resampler(nlls: Sequence[float], tokens: Sequence[int]) -> Sums:
    """Perplexity of resamples, from each sample's negative log-likelihood (in nats) and completion tokens."""
    return Sums(np.array([nlls, tokens], float).T, _from_sums)


def _from_sums(sums: np.ndarray) -> Values:
    nll = divided(sums[:, 0], sums[:, 1])
    with np.errstate(over="ignore"):
        return {"perplexity": np.exp(nll), "nll": nll}


def sample_nlls(
    samples: Sequence[TokenizedSample], model: Any, *, batch_size: int = 8, progress: bool = False
) -> list[float]:
    """
    The negative log-likelihood of each sample's completion tokens, in nats; 0 if none is left to count.

    Batches hold samples of similar length, the longest first, so that too large a batch fails at once.
    """
    from tqdm import tqdm

    # the ids break ties of length, so that the batches do not depend on the order of the samples
    numbered = [(i, sample) for i, sample in enumerate(samples) if sample.scored]
    ordered = sorted(numbered, key=lambda pair: (len(pair[1].ids), pair[1].ids, pair[1].start), reverse=True)
    found = [0.0] * len(samples)
    with evaluating(model), tqdm(total=len(ordered), unit="sample", delay=2, disable=not progress) as bar:
        for i in range(0, len(ordered), batch_size):
            batch = ordered[i : i + batch_size]
            for (place, _), nll in zip(batch, batch_nll([sample for _, sample in batch], model), strict=True):
                found[place] = nll
            bar.update(len(batch))
    return found


def batch_nll(samples: Sequence[TokenizedSample], model: Any) -> list[float]:
    """[`sample_nlls`] of one batch, in one forward pass without gradients; the logits are `(B, L, vocabulary)`."""
    import torch

    longest = max(len(sample.ids) for sample in samples)
    # any id serves as padding: it is masked, and no token that counts comes after it
    input_ids = torch.tensor([s.ids + [0] * (longest - len(s.ids)) for s in samples], device=model.device)
    lengths = torch.tensor([[len(s.ids)] for s in samples], device=model.device)
    attention_mask = (torch.arange(longest, device=model.device) < lengths).long()
    with torch.no_grad():
        logits = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
    sums = []
    for row, (sample, row_logits) in enumerate(zip(samples, logits, strict=True)):
        start, end = max(sample.start, 1), len(sample.ids)
        # the logits at a position predict the next one; row by row, so that float32 copies stay small
        targets = input_ids[row, start:end].to(logits.device)
        loss = torch.nn.functional.cross_entropy(row_logits[start - 1 : end - 1].float(), targets, reduction="none")
        sums.append(loss.double().sum().item())
    return sums


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Puts a model in eval mode, and restores the mode of each of its modules afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _load_tokenizer(model: Any, tokenizer: Any) -> Any:
    if model is None:
        raise TypeError("model is needed: pass model=..., a loaded model, a folder or a hub id.")
    source = model if tokenizer is None else tokenizer
    if source is model and not isinstance(model, str):
        raise TypeError("tokenizer is needed with a model that is loaded already: pass tokenizer=...")
    if not isinstance(source, str):
        return source
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(source)


def _load_model(model: Any, device: Any, dtype: Any) -> Any:
    if not isinstance(model, str):
        if device is not None or dtype is not None:
            raise ValueError("device and dtype are for a model that is loaded by name: move this one yourself.")
        return model
    import torch
    from transformers import AutoModelForCausalLM

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    # weights that a checkpoint lacks are drawn at random: keep the caller's random generators unchanged
    with torch.random.fork_rng(devices=[]):
        given = {} if dtype is None else {"dtype": dtype}
        loaded = AutoModelForCausalLM.from_pretrained(model, use_safetensors=True, **given)
    return loaded.to(device)


class TokenizedSample(NamedTuple):
    """The ids of prompt and completion in one sequence, and the position of the completion's first token in it."""

    ids: list[int]
    start: int
    truncated: bool = False

    @property
    def scored(self) -> int:
        """How many completion tokens count; one at position 0 does not, since no token comes before it."""
        return len(self.ids) - max(self.start, 1) if len(self.ids) > self.start else 0


def check_messages(name: str, texts: Any, start: int = 0) -> list[Text]:
    """A column of prompts or completions: strings, or lists of messages with `role` and `content`."""
    found = check_list(name, texts, "a list, one entry per sample")
    return [_check_text(f"{name}[{i}]", text) for i, text in enumerate(found, start)]


def check_completions(name: str, texts: Any, start: int = 0) -> list[Text]:
    """As [`check_messages`]; an empty completion raises a `ValueError`."""
    found = check_messages(name, texts, start)
    for i, completion in enumerate(found, start):
        if not _has_content(completion):
            raise ValueError(f"{name}[{i}] is empty: {completion!r}.")
    return found


PERPLEXITY_CHECKS = {"prompts": check_messages, "completions": check_completions}


def _check_text(name: str, text: Any) -> Text:
    if isinstance(text, str):
        return text
    if not isinstance(text, list | tuple):
        raise TypeError(f"{name} must be a string or a list of messages, got {type(text).__name__}: {text!r}.")
    for message in text:
        if not isinstance(message, dict) or "role" not in message or "content" not in message:
            raise TypeError(f"{name} must hold messages with 'role' and 'content', got {message!r}.")
    return [dict(message) for message in text]


def _has_content(completion: Text) -> bool:
    # the content of a message may be a string, or a list of parts
    contents = [completion] if isinstance(completion, str) else [message["content"] for message in completion]
    return any(content.strip() if isinstance(content, str) else content for content in contents)


def tokenize_sample(
    prompt: Text,
    completion: Text,
    tokenizer: Any,
    *,
    max_length: int | None = None,
    add_eos: bool = True,
    chat_template_kwargs: dict[str, Any] | None = None,
    where: str = "a conversation",
) -> TokenizedSample:
    """
    The token ids of one sample, by the rules of TRL's `SFTTrainer` for a prompt-completion data set.

    Conversations go through the chat template twice ([`~ee_trl.data.chat.render`]): the prompt up to the reply, and
    prompt and completion together. What the template itself writes before a reply, such as an empty thought, is part
    of the prompt. Plain text is the prompt and the completion joined, closed by the end-of-sequence token unless it is
    there already. The completion starts where the two sequences first differ; if the tokenizer
    merges tokens across the border, that is before the prompt ends. Truncation keeps the start of the sequence.
    """
    if isinstance(prompt, str) and isinstance(completion, str):
        eos = tokenizer.eos_token if add_eos else None
        if eos and not completion.endswith(eos):
            completion = f"{completion}{eos}"
        prompt_ids = tokenizer(text=prompt)["input_ids"]
        ids = tokenizer(text=prompt + completion)["input_ids"]
    elif isinstance(prompt, list) and isinstance(completion, list):
        before, reply = fitted(tokenizer, prompt, completion, where)
        options = {"where": where, **(chat_template_kwargs or {})}
        prompt_ids = chat_ids(tokenizer, before, prompt=True, **options)
        ids = chat_ids(tokenizer, [*before, *reply], **options)
    else:
        raise TypeError("prompt and completion must both be strings or both be lists of messages.")
    start = len(commonprefix([prompt_ids, ids]))
    truncated = max_length is not None and len(ids) > max_length
    return TokenizedSample(list(ids[:max_length]), start, truncated)
