"""A tiny causal language model with tokenizer and chat template, for runs without a network."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..data.sample import load_sample


CHAT_TEMPLATE = """{%- for message in messages %}
{{- '<|' + message['role'] + '|>' }}
{%- if message['role'] == 'assistant' %}
{%- generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}
{%- else %}
{{- message['content'] + '<|end|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""
"""A prompt is a prefix of its conversation; `{% generation %}` marks what `assistant_only_loss` counts."""


def build_tiny_causal_lm(
    output_dir: str | os.PathLike[str],
    texts: Iterable[str] | None = None,
    *,
    vocab_size: int = 2048,
    hidden_size: int = 96,
    num_hidden_layers: int = 3,
    num_attention_heads: int = 4,
    max_position_embeddings: int = 1024,
    seed: int = 0,
) -> Path:
    """
    Writes a randomly initialised Llama with a byte-level BPE tokenizer to a folder that `from_pretrained` loads.

    The same arguments give the same bytes. The model knows no language before it is trained, and little after.

    Args:
        output_dir (`str` or `os.PathLike`): The folder.
        texts (`Iterable[str]`, *optional*): Texts to train the tokenizer on; by default the embedded sample.
        vocab_size, hidden_size, num_hidden_layers, num_attention_heads, max_position_embeddings (`int`, *optional*):
            See `transformers.LlamaConfig`.
        seed (`int`, *optional*, defaults to `0`): Seed of the weights; the global random state does not change.

    Returns:
        `Path` of the folder.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    if texts is None:
        texts = [message["content"] for messages in load_sample()["messages"] for message in messages]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<|pad|>", eos_token="<|end|>", model_max_length=max_position_embeddings
    )
    tokenizer.chat_template = CHAT_TEMPLATE

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=num_attention_heads,
        num_key_value_heads=num_attention_heads,
        max_position_embeddings=max_position_embeddings,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
