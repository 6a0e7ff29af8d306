"""The embedded sample, and the tiny model that everything runs with offline."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from ee_trl import EmpathyDataSelector, build_tiny_causal_lm, load_sample
from ee_trl.axes import QUADRANTS
from ee_trl.errors import FormatError


EMOTIONS = {
    *("afraid", "angry", "annoyed", "anticipating", "anxious", "apprehensive", "ashamed", "caring", "confident"),
    *("content", "devastated", "disappointed", "disgusted", "embarrassed", "excited", "faithful", "furious"),
    *("grateful", "guilty", "hopeful", "impressed", "jealous", "joyful", "lonely", "nostalgic", "prepared", "proud"),
    *("sad", "sentimental", "surprised", "terrified", "trusting"),
}


def test_sample_has_all_emotions_all_quadrants_and_no_repeats() -> None:
    sample = load_sample()
    assert len(sample) >= 300
    assert set(sample["emotion"]) == EMOTIONS
    intended = Counter(quadrant for row in sample["intended"] for quadrant in row)
    assert set(intended) == set(QUADRANTS)
    assert min(intended.values()) >= 40
    replies = [m["content"] for messages in sample["messages"] for m in messages if m["role"] == "assistant"]
    assert len(set(replies)) == len(replies) == sum(intended.values())


def test_sample_splits_are_disjoint_and_whole() -> None:
    train, test = set(load_sample("train")["dialogue_id"]), set(load_sample("test")["dialogue_id"])
    assert not train & test
    assert train | test == set(load_sample()["dialogue_id"])
    with pytest.raises(FormatError, match="valid: all, train, test"):
        load_sample("validation")  # type: ignore[arg-type]


def test_the_sample_is_scored_whole_and_in_all_quadrants() -> None:
    selector = EmpathyDataSelector("linear")
    scored = selector.score(load_sample())
    assert set(scored["score_status"]) == {"scored"}
    assert set(QUADRANTS) <= set(scored["quadrant"])


def test_scores_follow_what_the_replies_were_written_to_be() -> None:
    """Not a claim about the scorer: the two axes point the right way on replies that were written apart."""
    scored = EmpathyDataSelector("linear").score(load_sample()).to_pandas()
    turns = scored.groupby("row_index").cumcount()
    scored["intended_here"] = [row[i] for row, i in zip(scored["intended"], turns, strict=True)]
    means = scored.groupby("intended_here")[["sensibility", "rationality"]].mean()
    assert means.loc["sensibility", "sensibility"] > means.loc["rationality", "sensibility"] + 1
    assert means.loc["rationality", "rationality"] > means.loc["sensibility", "rationality"] + 1


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
