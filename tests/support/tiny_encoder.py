"""A tiny BERT with a WordPiece tokenizer, and a distilled scorer made of it: everything the tests of both need."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from ee_trl import Dialogue, load_sample
from ee_trl.data.dialogue import samples_of
from ee_trl.data.formats import FORMATS
from ee_trl.scoring.encoder import EncoderInputs, EncoderSettings


SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def tiny_encoder(folder: Path, max_length: int = 128, scale: float = 1.0) -> Path:
    """A randomly initialised encoder; with a larger `scale` its answers differ more from text to text."""
    normalizer, splitter = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    texts = [m["content"] for messages in load_sample()["messages"] for m in messages]
    counts = Counter(word for t in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(t)))
    letters = sorted({*"><", *(letter for word in counts for letter in word)})
    common = sorted(counts, key=lambda word: (-counts[word], word))[:400]
    known = dict.fromkeys([*SPECIAL, *letters, *(f"##{letter}" for letter in letters), *common])
    words = Tokenizer(models.WordPiece({word: i for i, word in enumerate(known)}, unk_token="[UNK]"))
    words.normalizer, words.pre_tokenizer = normalizer, splitter
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, words.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    named = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, model_input_names=names, **named)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=max_length, num_labels=2, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertForSequenceClassification(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(scale)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_scorer(folder: Path) -> Path:
    """A folder that loads as a distilled scorer; its scores mean nothing and differ from text to text."""
    tiny_encoder(folder, scale=6.0)
    knots = np.tile(np.linspace(-2.0, 2.0, 11), (2, 1))
    EncoderSettings(EncoderInputs(64), knots).save(folder)
    return folder


def sample_dialogues(n: int) -> list[Dialogue]:
    """Every reply of the first conversations of the embedded sample, `n` of them."""
    rows = load_sample().to_list()
    return [s.dialogue for s in samples_of(FORMATS["messages"], rows) if s.dialogue][:n]
