"""Pictures, the report of a run, generation, and the quickstart as a whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ee_trl import build_tiny_causal_lm, load_sample
from ee_trl.data.samples import all_dialogues
from ee_trl.errors import EmpathyError
from ee_trl.evaluation.generation import generate_replies
from ee_trl.reports.markdown import _cell, _table
from ee_trl.reports.plane import plot_loss, plot_plane, plot_sweep
from ee_trl.selection import sweep


SCORES = np.array([8.0, 2.0, 7.0, 3.0, 5.0, np.nan]), np.array([2.0, 8.0, 7.0, 3.0, 2.0, np.nan])


@pytest.mark.parametrize("name", ["plane.png", "plane.svg", "deep/er/plane.pdf"])
def test_plane_is_drawn_in_each_format(name: str, tmp_path: Path) -> None:
    path = plot_plane(*SCORES, (5.0, 4.0), tmp_path / name)
    assert path.stat().st_size > 1000


def test_plane_says_counts_shares_and_threshold(tmp_path: Path) -> None:
    from matplotlib import rc_context

    with rc_context({"svg.fonttype": "none"}):  # text as text, so that it can be read back
        svg = plot_plane(*SCORES, 5.0, tmp_path / "plane.svg").read_text()
    for said in ("5 samples, T = 5", "sensibility 20.0%", "rationality 20.0%", "balanced 20.0%", "low 20.0%"):
        assert said in svg


@pytest.mark.parametrize("scores", [([], []), ([np.nan], [np.nan])])
def test_nothing_to_draw_is_drawn_empty(scores: tuple[list, list], tmp_path: Path) -> None:
    plot_plane(*scores, 5.0, tmp_path / "a.png")
    plot_sweep(*scores, sweep(*scores), tmp_path / "b.png")
    plot_loss([], tmp_path / "c.png")


def test_an_unknown_picture_format_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(EmpathyError, match="valid: .png, .svg, .pdf"):
        plot_plane(*SCORES, 5.0, tmp_path / "plane.bmp")


def test_text_cannot_break_a_table() -> None:
    table = _table(("a", "b"), [(_cell("x | y\n\n# z"), _cell("<img src=x onerror=1> `c` *d*" + "long " * 100))])
    assert len(table.splitlines()) == 3
    assert table.splitlines()[2].replace("\\|", "").count("|") == 3
    assert "<img" not in table


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


def test_all_dialogues_takes_every_reply_selected_or_not() -> None:
    test = load_sample("test")
    found = all_dialogues(test)
    replies = [m["content"] for messages in test["messages"] for m in messages if m["role"] == "assistant"]
    assert [completion[0]["content"] for completion in found["completion"]] == replies
    assert len(all_dialogues(test, "last")) == len(test)
