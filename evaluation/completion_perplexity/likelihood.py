"""The likelihood of completions under a causal language model: the arithmetic, without `evaluate`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from .bootstrap import Sums, Values, divided, with_intervals
from .samples import Text, TokenizedSample, check_samples, tokenize_sample


def perplexity_scores(
    prompts: Sequence[Text],
    completions: Sequence[Text],
    model: Any,
    tokenizer: Any = None,
    *,
    batch_size: int = 8,
    max_length: int | None = None,
    add_eos: bool = True,
    chat_template_kwargs: dict[str, Any] | None = None,
    device: Any = None,
    dtype: Any = None,
    progress: bool = True,
    resamples: int = 0,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """
    Perplexity of the completions, given their prompts, over the whole corpus.

    perplexity = exp(nll), nll = -1/T * sum of log p(token | all tokens before it), over the T completion tokens of
    all samples together (Jelinek et al. 1977). Tokens of the prompt and padding do not count. Perplexities compare
    only between models with the same tokenizer and the same chat template.

    Args:
        prompts (`Sequence[str]` or `Sequence[list[dict]]`):
            Plain texts, or conversations (lists of messages), which go through the chat template.
        completions (`Sequence[str]` or `Sequence[list[dict]]`):
            The reference reply of each, in the same form.
        model (`str` or [`~transformers.PreTrainedModel`]):
            A causal language model, or the folder or id to load one from. A model that is passed keeps its device,
            dtype and train or eval mode.
        tokenizer (`str` or [`~transformers.PreTrainedTokenizerBase`], *optional*):
            Its tokenizer, or where to load it from; by default where `model` is loaded from.
        batch_size (`int`, *optional*, defaults to `8`):
            Samples per forward pass. It changes speed and memory, not the number (in float32 within 1e-4).
        max_length (`int`, *optional*):
            Keep so many tokens of each sample at most, from its start, as `SFTTrainer` does.
        add_eos (`bool`, *optional*, defaults to `True`):
            Whether the end-of-sequence token is appended to a plain text, as `SFTTrainer` does.
        chat_template_kwargs (`dict`, *optional*):
            Passed on to the chat template.
        device (`str` or [`~torch.device`], *optional*):
            Where a model that is loaded here goes; by default a CUDA device where there is one.
        dtype (`str` or [`~torch.dtype`], *optional*):
            Type of the weights of a model that is loaded here; by default transformers' choice.
        progress (`bool`, *optional*, defaults to `True`):
            Whether a run of more than two seconds shows a progress bar.
        resamples (`int`, *optional*, defaults to `0`):
            How many bootstrap resamples to draw for an interval of each number; 0 for no intervals.
        confidence (`float`, *optional*, defaults to `0.95`):
            Of the intervals.
        seed (`int`, *optional*, defaults to `0`):
            Of the resamples.

    Returns:
        `dict`: `perplexity` (from 1 up), `nll` (nats per token, from 0 up), `tokens` (completion tokens counted), `n`
        (samples), `truncated` (samples cut to `max_length`), `unscored` (samples with no completion token left to
        count); with `resamples`, also `perplexity_interval` and `nll_interval`, `[low, high]`.

    Raises:
        ValueError: no samples, an empty completion, different numbers of prompts and completions, a batch size or
            maximum length below 1, no token left to count, or `device` or `dtype` with a model that is loaded already.
        TypeError: an input of the wrong form, or a loaded model without a tokenizer.
    """
    checked_prompts, checked_completions = check_samples(prompts, completions)
    for name, value in (("batch_size", batch_size), ("max_length", max_length)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f"{name} must be an integer of at least 1, got {value!r}.")
    tokenizer = load_tokenizer(model, tokenizer)
    samples = [
        tokenize_sample(
            prompt,
            completion,
            tokenizer,
            max_length=max_length,
            add_eos=add_eos,
            chat_template_kwargs=chat_template_kwargs,
        )
        for prompt, completion in zip(checked_prompts, checked_completions, strict=True)
    ]
    tokens = sum(sample.scored for sample in samples)
    if tokens == 0:
        raise ValueError(f"no completion token is left to count in {len(samples)} samples (max_length={max_length}).")
    model = load_model(model, device=device, dtype=dtype)
    nlls = sample_nlls(samples, model, batch_size=batch_size, progress=progress)
    nll = math.fsum(nlls) / tokens
    found = {
        "perplexity": math.exp(nll) if nll < 709 else math.inf,  # above that a float overflows
        "nll": nll,
        "tokens": tokens,
        "n": len(samples),
        "truncated": sum(sample.truncated for sample in samples),
        "unscored": sum(sample.scored == 0 for sample in samples),
    }
    scored = [sample.scored for sample in samples]
    return with_intervals(found, lambda: perplexity_resampler(nlls, scored), resamples, confidence, seed)


def perplexity_resampler(nlls: Sequence[float], tokens: Sequence[int]) -> Sums:
    """Perplexity of resamples, from each sample's negative log-likelihood (in nats) and completion tokens."""
    return Sums(np.array([nlls, tokens], float).T, _from_sums)


def _from_sums(sums: np.ndarray) -> Values:
    nll = divided(sums[:, 0], sums[:, 1])
    with np.errstate(over="ignore"):
        return {"perplexity": np.exp(nll), "nll": nll}


def total_nll(samples: Sequence[TokenizedSample], model: Any, *, batch_size: int = 8, progress: bool = False) -> float:
    """The summed negative log-likelihood of the completion tokens, in nats; see [`sample_nlls`]."""
    return math.fsum(sample_nlls(samples, model, batch_size=batch_size, progress=progress))


def sample_nlls(
    samples: Sequence[TokenizedSample], model: Any, *, batch_size: int = 8, progress: bool = False
) -> list[float]:
    """
    The negative log-likelihood of each sample's completion tokens, in nats; 0 where none is left to count.

    Batches hold samples of like length, the longest first, so that too large a batch fails at once. They are padded on
    the right and the padding is masked; a causal model sees nothing of it.

    Args:
        samples (`Sequence[TokenizedSample]`):
            The samples.
        model ([`~transformers.PreTrainedModel`]):
            A causal language model.
        batch_size (`int`, *optional*, defaults to `8`):
            Samples per forward pass.
        progress (`bool`, *optional*, defaults to `False`):
            Whether a run of more than two seconds shows a progress bar.

    Returns:
        `list[float]`: nats, from 0 up, in the order of the samples.
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
    """
    The negative log-likelihood of each sample's completion tokens, in nats: one forward pass, no gradient.

    Args:
        samples (`Sequence[TokenizedSample]`):
            B samples, of L tokens at most.
        model ([`~transformers.PreTrainedModel`]):
            A causal language model; its logits are `(B, L, vocabulary)`.

    Returns:
        `list[float]`: B sums over the sample's completion tokens.
    """
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
    """Puts a model in eval mode, and each of its modules back in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def load_tokenizer(model: Any, tokenizer: Any = None) -> Any:
    """The tokenizer that is given, or loaded from where it, or else the model, is said to lie."""
    if tokenizer is None and not isinstance(model, str):
        raise TypeError("tokenizer is needed with a model that is loaded already: pass tokenizer=...")
    source = model if tokenizer is None else tokenizer
    if not isinstance(source, str):
        return source
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(source)


def load_model(model: Any, *, device: Any = None, dtype: Any = None) -> Any:
    """The model that is given, as it is, or loaded from where it is said to lie."""
    if not isinstance(model, str):
        if device is not None or dtype is not None:
            raise ValueError("device and dtype are for a model that is loaded by name: move this one yourself.")
        return model
    import torch
    from transformers import AutoModelForCausalLM

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    # weights that a checkpoint lacks would be drawn at random: leave the caller's generators as they were
    with torch.random.fork_rng(devices=[]):
        loaded = AutoModelForCausalLM.from_pretrained(model, **({} if dtype is None else {"dtype": dtype}))
    return loaded.to(device)
