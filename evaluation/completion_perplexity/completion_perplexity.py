"""Perplexity of completions as an `evaluate` module. The arithmetic is in `likelihood.py` and `samples.py`."""

from __future__ import annotations

import inspect
import json
from typing import Any

import datasets
import evaluate

from .bootstrap import CONFIDENCE
from .likelihood import perplexity_scores
from .samples import check_samples


_DESCRIPTION = """
Perplexity of reference completions, given their prompts, under a causal language model, over the whole corpus. Only
completion tokens count; samples are tokenised as TRL's SFTTrainer tokenises a prompt-completion data set.
"""

_CITATION = """
@article{jelinek1977perplexity,
    title = {Perplexity -- a Measure of the Difficulty of Speech Recognition Tasks},
    author = {Jelinek, Frederick and Mercer, Robert L. and Bahl, Lalit R. and Baker, James K.},
    journal = {The Journal of the Acoustical Society of America},
    volume = {62},
    year = {1977}
}
"""

_KWARGS_DESCRIPTION = """
Args:
    prompts (`list[str]` or `list[list[dict]]`):
        Plain texts, or conversations (lists of messages), which go through the chat template.
    completions (`list[str]` or `list[list[dict]]`):
        The reference reply of each, in the same form.
    model (`str` or `PreTrainedModel`):
        A causal language model, or the folder or id to load one from.
    tokenizer (`str` or `PreTrainedTokenizerBase`, *optional*):
        Its tokenizer, or where to load it from; by default where `model` is loaded from.
    batch_size (`int`, *optional*, defaults to `8`):
        Samples per forward pass. It does not change the number.
    max_length (`int`, *optional*):
        Keep so many tokens of each sample at most, from its start.
    add_eos (`bool`, *optional*, defaults to `True`):
        Whether the end-of-sequence token is appended to a plain text.
    chat_template_kwargs (`dict`, *optional*):
        Passed on to the chat template.
    device (`str` or `torch.device`, *optional*):
        Where a model that is loaded here goes; by default a CUDA device where there is one.
    dtype (`str` or `torch.dtype`, *optional*):
        Type of the weights of a model that is loaded here.
    progress (`bool`, *optional*, defaults to `True`):
        Whether a run of more than two seconds shows a progress bar.
    resamples (`int`, *optional*, defaults to `0`):
        How many bootstrap resamples to draw for an interval of each number; 0 for no intervals.
    confidence (`float`, *optional*, defaults to `0.95`):
        Of the intervals.
    seed (`int`, *optional*, defaults to `0`):
        Of the resamples.

Returns:
    `dict`: `perplexity` (from 1 up), `nll` (nats per token), `tokens` (completion tokens counted), `n` (samples),
    `truncated` (samples cut to `max_length`), `unscored` (samples with no completion token left to count); with
    `resamples`, also `perplexity_interval` and `nll_interval`.

Examples:

    A model with a vocabulary of five and all weights zero finds every token equally likely: its perplexity is 5.

    >>> import evaluate
    >>> import torch
    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    >>> words = Tokenizer(models.WordLevel({"<unk>": 0, "<eos>": 1, "i": 2, "am": 3, "sorry": 4}, unk_token="<unk>"))
    >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
    >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="<eos>")
    >>> config = LlamaConfig(vocab_size=5, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
    ...                      num_attention_heads=1, bos_token_id=1, eos_token_id=1)
    >>> model = LlamaForCausalLM(config)
    >>> for weight in model.parameters():
    ...     _ = torch.nn.init.zeros_(weight)
    >>> perplexity = evaluate.load("evaluation/completion_perplexity")
    >>> scores = perplexity.compute(prompts=["i am"], completions=[" sorry"], model=model, tokenizer=tokenizer)
    >>> round(scores["perplexity"], 4), scores["tokens"], scores["n"]
    (5.0, 2, 1)
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class CompletionPerplexity(evaluate.Metric):
    """Perplexity of completions; see `perplexity_scores`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            # stored as JSON: an Arrow struct would give every message the keys of all others, set to None, and a
            # chat template tells a key that is None from one that is not there
            features=datasets.Features({"prompts": datasets.Value("string"), "completions": datasets.Value("string")}),
            reference_urls=["https://doi.org/10.1121/1.2016299"],
        )

    def add_batch(self, *, prompts: Any = None, completions: Any = None, **kwargs: Any) -> None:
        """Adds samples: `prompts` and `completions`, both `list[str]` or both `list[list[dict]]`."""
        prompts, completions = check_samples(prompts, completions, start=len(self))
        columns = {"prompts": prompts, "completions": completions}
        super().add_batch(**{name: [json.dumps(text) for text in texts] for name, texts in columns.items()}, **kwargs)

    def add(self, *, prompts: Any = None, completions: Any = None, **kwargs: Any) -> None:
        """Adds one sample: `prompts` and `completions`, both a `str` or both a `list[dict]`."""
        self.add_batch(prompts=[prompts], completions=[completions], **kwargs)

    def compute(self, *, prompts: Any = None, completions: Any = None, **kwargs: Any) -> dict[str, Any] | None:
        """Computes the metric over the samples added so far and those given here."""
        if prompts is None and completions is None and len(self) == 0:
            raise ValueError("no samples: 0 were added, and none were given to compute.")
        options = [name for name in inspect.signature(perplexity_scores).parameters if name not in self.features]
        for name in kwargs:
            if name not in options:
                raise TypeError(f"unknown option {name!r}; valid: {', '.join(options)}.")
        if kwargs.get("model") is None:
            raise TypeError("model is needed: pass model=..., a loaded model or where to load one from.")
        return super().compute(prompts=prompts, completions=completions, **kwargs)

    def _compute(
        self,
        prompts: list[str],
        completions: list[str],
        resamples: int = 0,
        confidence: float = CONFIDENCE,
        seed: int = 0,
        **options: Any,
    ) -> dict[str, Any]:
        options |= {"resamples": resamples, "confidence": confidence, "seed": seed}
        return perplexity_scores(
            [json.loads(text) for text in prompts], [json.loads(text) for text in completions], **options
        )
