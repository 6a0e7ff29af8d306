"""Models measured for the reports of runs: the same numbers as by each metric alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from ee_trl import build_tiny_causal_lm, load_metric
from ee_trl.evaluation.eval_set import read_eval_set
from ee_trl.training.report import SHOWN, measure_model


def test_a_model_is_measured_as_by_each_metric_alone(tmp_path: Path) -> None:
    folder = build_tiny_causal_lm(tmp_path, vocab_size=400, hidden_size=16, num_hidden_layers=1)
    eval_set = read_eval_set(limit=12)
    quadrants = ["low", "tie", "tie"] * 4
    found = measure_model(folder, eval_set, quadrants, label="tiny", replies=5, max_new_tokens=6, device="cpu")
    assert found["samples"] == {"all": 12, "low": 4, "tie": 8}
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    perplexity = load_metric("completion_perplexity")
    for name in found["samples"]:
        own = [d for d, quadrant in zip(eval_set.dialogues, quadrants, strict=True) if name in ("all", quadrant)]
        texts: dict[str, Any] = {"prompts": [d.prompt for d in own], "completions": [d.completion for d in own]}
        alone: Any = perplexity.compute(**texts, model=model, tokenizer=tokenizer, progress=False)
        assert found["perplexity"][name] == pytest.approx(alone["perplexity"], rel=1e-4)
        assert found["loss"][name] == pytest.approx(math.log(alone["perplexity"]), rel=1e-4)
    assert len(found["replies"]) == found["metrics"]["n"] == 5
    pairs = {"predictions": found["replies"], "references": eval_set.references[:5]}
    numbers: dict[str, Any] = {}
    for name in ("dialogue_bleu", "dialogue_rouge", "word_f1"):
        numbers |= load_metric(name).compute(**pairs)  # type: ignore[operator]
    numbers |= load_metric("distinct").compute(predictions=found["replies"])  # type: ignore[operator]
    assert {name: found["metrics"][name] for name in SHOWN} == pytest.approx({name: numbers[name] for name in SHOWN})


def test_without_replies_only_the_references_are_measured(tmp_path: Path) -> None:
    folder = build_tiny_causal_lm(tmp_path, vocab_size=400, hidden_size=16, num_hidden_layers=1)
    found = measure_model(folder, read_eval_set(limit=2), label="tiny", replies=0, device="cpu")
    assert (found["metrics"], found["replies"]) == ({}, [])
    assert set(found["perplexity"]) == {"all"}
