"""The tiny model that everything runs with offline."""

from __future__ import annotations

from pathlib import Path

from ee_trl import build_tiny_causal_lm


def test_tiny_model_is_the_same_bytes_each_time_and_leaves_the_seed_alone(tmp_path: Path) -> None:
    import torch

    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = build_tiny_causal_lm(tmp_path / "a", vocab_size=400, hidden_size=16, num_hidden_layers=1)
    assert torch.equal(torch.rand(1), expected)
    second = build_tiny_causal_lm(tmp_path / "b", vocab_size=400, hidden_size=16, num_hidden_layers=1)
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_tiny_models_chat_template_suits_trl(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = build_tiny_causal_lm(tmp_path, vocab_size=400, hidden_size=16, num_hidden_layers=1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    talk = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "I failed, äöü 😢"},
        {"role": "assistant", "content": "Oh no."},
    ]
    whole = tokenizer.apply_chat_template(talk, return_dict=True, return_assistant_tokens_mask=True)
    prompt = tokenizer.apply_chat_template(talk[:2], add_generation_prompt=True, return_dict=True)
    assert whole["input_ids"][: len(prompt["input_ids"])] == prompt["input_ids"]
    marked = [i for i, m in zip(whole["input_ids"], whole["assistant_masks"], strict=True) if m]
    assert tokenizer.decode(marked) == "Oh no.<|end|>"
    assert tokenizer.decode(whole["input_ids"]).count("äöü 😢") == 1
    assert max(whole["input_ids"]) < model.config.vocab_size
