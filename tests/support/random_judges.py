"""Judges with random weights, of every family of models that a test needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MptConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    RwkvConfig,
)

from ee_trl import CausalLMScorer, load_sample
from ee_trl.scoring.judge.rubric import Rubric


TEMPLATES = {
    "none": None,
    "chatml": "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "inst": "{% for m in messages %}{{ '<s>[INST] ' + m.content + ' [/INST]' }}{% endfor %}",
}
SPECIAL = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "[INST]", "[/INST]"]
RUBRIC = Rubric("short", "Rate the last reply for sensibility and rationality, 0 to 10.")


def make_tokenizer(template: str = "none", digits: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer; with `digits` every digit is a token of its own, so that 10 is two."""
    bpe = Tokenizer(models.BPE())
    split = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    bpe.pre_tokenizer = pre_tokenizers.Sequence([*split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    texts = [m["content"] for messages in load_sample()["messages"] for m in messages]
    numbers = [f"- Sensibility: {i % 11}\n- Rationality: {i % 11}\n" for i in range(2_000)]
    bpe.train_from_iterator([*texts, *numbers, RUBRIC.text], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = TEMPLATES[template]
    return tokenizer


SIZES: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
KV: dict[str, Any] = {**SIZES, "num_key_value_heads": 2, "max_position_embeddings": 2048}
FULL = {
    "llama": lambda v: LlamaConfig(vocab_size=v, **KV),
    "qwen2": lambda v: Qwen2Config(vocab_size=v, **KV),
    "qwen3": lambda v: Qwen3Config(vocab_size=v, head_dim=8, **KV),
    "llama64": lambda v: LlamaConfig(vocab_size=v, **(KV | {"hidden_size": 64, "intermediate_size": 128})),
    "mistral": lambda v: MistralConfig(vocab_size=v, sliding_window=None, **KV),
    "gpt_neox": lambda v: GPTNeoXConfig(vocab_size=v, max_position_embeddings=2048, **SIZES),
    "gpt2": lambda v: GPT2Config(vocab_size=v, n_embd=32, n_layer=2, n_head=4, n_positions=2048),
}
SLIDING = {
    "mistral_sliding": lambda v: MistralConfig(vocab_size=v, sliding_window=16, **KV),
    "gemma2": lambda v: Gemma2Config(vocab_size=v, head_dim=8, sliding_window=16, **KV),
}
LOCAL: dict[str, Any] = {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]}
UNTOLD = {  # forward takes no position ids, or no mask for each head
    "mpt": lambda v: MptConfig(vocab_size=v, d_model=32, n_layers=2, n_heads=4, max_seq_len=2048),
    "gpt_neo": lambda v: GPTNeoConfig(
        vocab_size=v, hidden_size=32, window_size=16, max_position_embeddings=2048, **LOCAL
    ),
}
UNPADDED = {  # padding is seen, or counted
    "rwkv": lambda v: RwkvConfig(vocab_size=v, hidden_size=32, num_hidden_layers=2, attention_hidden_size=32),
    "bart": lambda v: BartConfig(
        vocab_size=v,
        d_model=32,
        decoder_layers=2,
        decoder_attention_heads=4,
        decoder_ffn_dim=48,
        max_position_embeddings=2048,
    ),
}
FAMILIES: dict[str, Callable[[int], Any]] = {**FULL, **SLIDING, **UNTOLD, **UNPADDED}


def make_scorer(
    family: str = "llama", template: str = "chatml", digits: bool = True, **options: Any
) -> CausalLMScorer:
    tokenizer = make_tokenizer(template, digits)
    torch.manual_seed(0)
    attention = "eager" if family in ("gemma2", *UNTOLD, "rwkv") else "sdpa"
    model = AutoModelForCausalLM.from_config(FAMILIES[family](len(tokenizer)), attn_implementation=attention).eval()
    with torch.no_grad():  # weights of a fresh model say nothing: make its answers differ from text to text
        for weight in model.parameters():
            if weight.ndim > 1 and family != "rwkv":
                weight.mul_(8)
    return CausalLMScorer(model, tokenizer, rubric=options.pop("rubric", RUBRIC), **options)


def saved(folder: Path, **options: Any) -> Path:
    scorer = make_scorer(**options)
    scorer.model.save_pretrained(folder)
    scorer.tokenizer.save_pretrained(folder)
    return folder
