"""The method from end to end on the embedded sample: score, select, train a tiny expert, evaluate, report."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..data.sample import load_sample
from ..data.samples import all_dialogues
from ..reports.markdown import write_run_report


MAX_NEW_TOKENS = 40


def quickstart(output: str | os.PathLike[str]) -> Path:
    """
    Runs the sensibility recipe with the tiny CPU config, and evaluates base and expert on the held-out dialogues.

    Returns:
        `Path` of the report (Markdown; JSON and pictures are beside it).
    """
    from ..recipes import sft_sensibility
    from .arguments import parse_recipe_args

    folder = Path(output)
    expert = folder / "expert"
    sft_sensibility.main(*parse_recipe_args(sft_sensibility.make_parser(), ["--output_dir", str(expert)]))
    test = all_dialogues(load_sample("test"))
    models = {"base": expert / "tiny_base", "sensibility expert": expert}
    evaluated = {name: evaluate_model(path, test, label=name) for name, path in models.items()}
    return write_run_report(folder, expert, test, evaluated)


def evaluate_model(path: Path, test: Any, label: str) -> dict[str, Any]:
    """The first metrics of a model on a test set of `prompt` and `completion`: `{"metrics", "replies"}`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ..evaluation.generation import generate_replies
    from ..evaluation.load import load_metric

    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path).eval()
    prompts, completions = list(test["prompt"]), list(test["completion"])
    replies = generate_replies(model, tokenizer, prompts, max_new_tokens=MAX_NEW_TOKENS, label=label)
    references = [completion[-1]["content"] for completion in completions]

    perplexity = load_metric("completion_perplexity").compute(
        prompts=prompts, completions=completions, model=model, tokenizer=tokenizer
    )
    pairs = {"predictions": replies, "references": references}
    found = {
        "perplexity": perplexity["perplexity"],
        **_keep(load_metric("dialogue_bleu").compute(**pairs), "bleu1", "bleu4"),
        **_keep(load_metric("dialogue_rouge").compute(**pairs), "rougeL"),
        **_keep(load_metric("word_f1").compute(**pairs), "word_f1"),
        **_keep(load_metric("distinct").compute(predictions=replies), "dist1", "dist2"),
        "n": len(replies),
    }
    return {"metrics": found, "replies": replies}


def _keep(result: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: result[name] for name in names}
