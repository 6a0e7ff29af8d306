"""Generation: the replies are those of transformers' own `generate`, whatever the batch size and order."""

from __future__ import annotations

from pathlib import Path

from ee_trl import build_tiny_causal_lm, load_sample
from ee_trl.data.samples import all_dialogues
from ee_trl.evaluation.generation import generate_replies


def test_generation_does_not_depend_on_the_batch_and_keeps_the_order(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = build_tiny_causal_lm(tmp_path, vocab_size=500, hidden_size=32, num_hidden_layers=2)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():  # an untrained model repeats itself: make its replies differ
        for weight in model.parameters():
            weight.mul_(6)
    prompts = list(all_dialogues(load_sample("test"))["prompt"])[:12]
    alone = generate_replies(model, tokenizer, prompts, max_new_tokens=8, batch_size=1)
    assert generate_replies(model, tokenizer, prompts, max_new_tokens=8, batch_size=5) == alone
    assert generate_replies(model, tokenizer, prompts[::-1], max_new_tokens=8, batch_size=5) == alone[::-1]
    assert len(set(alone)) > 3
    ids = tokenizer.apply_chat_template(prompts[0], add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.inference_mode():
        output = model.generate(**ids, max_new_tokens=8, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    expected = tokenizer.decode(output[0, ids["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    assert alone[0] == expected
