"""The measures of a finished run: perplexities on validation and, once, at the end, everything on test."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dill
import numpy as np
from datasets import Dataset
from plan import Run
from training import folder_of, slug

from ee_trl.axes import AXES, QUADRANTS, TIE, quadrants
from ee_trl.evaluation.bootstrap import Bootstrap, intervals
from ee_trl.evaluation.candidates import Replies, load_candidate
from ee_trl.evaluation.comparison import differences, entry_of
from ee_trl.evaluation.eval_set import EvalSet, read_eval_set
from ee_trl.evaluation.generation import Decoding, generate_replies
from ee_trl.evaluation.measures import Evaluator, Measure, Tools, load_tools
from ee_trl.evaluation.metrics.completion_perplexity import perplexity_resampler, sample_nlls, tokenize_sample
from ee_trl.evaluation.metrics.epitome_training import read_posts, train_epitome


METRICS = ("dialogue_bleu", "dialogue_rouge", "distinct", "empathy_axes", "epitome")
BATCH = 64
EPITOME = "epitome"
REPLIES = 2_000
"""Test dialogues, evenly spaced, that are replied to; perplexities are of all."""
DECODING = Decoding(max_new_tokens=40, temperature=0.7, top_p=0.9, seed=0)
"""Sampled: greedily, a small model that has seen little says one sentence to nearly everybody."""
BOOTSTRAP = Bootstrap(1000)


def on_validation(run: Run, work: Path) -> dict[str, Any]:
    """Perplexities of the validation split's replies, with 95 % intervals: all, and by the authors' quadrant."""
    record = work / "validation" / f"{slug(run.name)}.json"
    if record.exists():
        return json.loads(record.read_text(encoding="utf-8"))
    held_out = work / "held_out" / "validation.parquet"
    eval_set, rows = read_eval_set(str(held_out)), Dataset.from_parquet(str(held_out))
    loaded = load_candidate(str(folder_of(run.name, work)))
    samples = [tokenize_sample(d.prompt, d.completion, loaded.tokenizer) for d in eval_set.dialogues]
    nlls = np.array(sample_nlls(samples, loaded.model, batch_size=BATCH))
    tokens = np.array([sample.scored for sample in samples])
    of = quadrants(*(rows[axis] for axis in AXES))
    found: dict[str, Any] = {"name": run.name, "fingerprint": loaded.fingerprint, "perplexity": {}}
    for name in ("all", *QUADRANTS, TIE):
        inside = np.ones(len(of), bool) if name == "all" else of == name
        counts = {"samples": int(inside.sum()), "tokens": int(tokens[inside].sum())}
        if not inside.any():
            found["perplexity"][name] = {**counts, "value": None, "interval": None}
            continue
        resampler = perplexity_resampler(nlls[inside], tokens[inside])
        point, ends = resampler.point(), intervals(resampler, BOOTSTRAP)
        found["perplexity"][name] = {**counts, "value": point["perplexity"], "interval": ends["perplexity"]}
    found["perplexity_per_word"] = float(np.exp(nlls.sum() / words_of(eval_set)))
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(found, indent=2), encoding="utf-8")
    return found


def words_of(eval_set: EvalSet) -> int:
    """Words of the references and their ends: what a perplexity per word divides by, as the literature has it."""
    return sum(len(reference.split()) + 1 for reference in eval_set.references)


def train_levels(posts: Path, work: Path) -> None:
    """Trains the classifier of EPITOME's levels on its Reddit posts."""
    if not (work / EPITOME).exists():
        train_epitome(read_posts(Dataset.from_parquet(str(posts))), work / EPITOME, folds=0)


def test_tools(work: Path, scorer: Path, epitome: Path | None) -> Tools:
    """The tools that measure the test split."""
    return load_tools(
        scorer=str(scorer), threshold=5.0, store=str(work / "scores.sqlite"), tokenizer="nltk", batch_size=BATCH,
        epitome=epitome,
    )  # fmt: skip


def answer(run: Run, work: Path, scorer: Path, epitome: Path | None) -> dict[str, Measure]:
    """A run's replies on the test split and their measures; made now, or read if they exist."""
    kept = kept_of(run, work)
    if kept.exists():
        return dill.loads(kept.read_bytes())
    loaded = load_candidate(str(folder_of(run.name, work)))
    whole, part = test_sets(work)
    texts = generate_replies(
        loaded.model, loaded.tokenizer, part.prompts, batch_size=BATCH, label=run.name, decoding=DECODING
    )
    replies, tools = Replies(texts, loaded.description, loaded.fingerprint), test_tools(work, scorer, epitome)
    found = Evaluator(part, tools).measure(replies, loaded, metrics_of(epitome))
    found |= Evaluator(whole, tools).measure(replies, loaded, ["completion_perplexity"])
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(dill.dumps(found))
    (kept.parent / f"{slug(run.name)}.txt").write_text("\n".join(texts), encoding="utf-8")
    return found


def kept_of(run: Run, work: Path) -> Path:
    """The file that keeps the measures of a run's replies."""
    return work / "test" / f"{slug(run.name)}.dill"


LENGTHS = (0, 5, 7, 9, 11, 14, 18)
"""Words from which on a reply is in the next bin of lengths."""


def matched_pair(pair: tuple[str, str], measures: Mapping[str, Any]) -> dict[str, Any]:
    """Differences B - A of the levels and axes between replies of a like length, since longer ones score higher."""
    bins = [np.digitize(measures[name]["distinct"].samples["words"], LENGTHS[1:]) for name in pair]
    numbers = {
        name: matched(*(measures[run][metric].samples[name] for run in pair), *bins)
        for metric in ("empathy_axes", "epitome")
        if metric in measures[pair[0]]
        for name in measures[pair[0]][metric].samples
    }
    return {"a": pair[0], "b": pair[1], "numbers": numbers}


def matched(a: np.ndarray, b: np.ndarray, bins_a: np.ndarray, bins_b: np.ndarray) -> dict[str, Any]:
    """
    Mean difference B - A within bins, weighted by how many replies of both are in each, with a percentile interval.

    Args:
        a, b (`np.ndarray` of shape `(n,)`): A number of each reply to the same dialogues; NaN counts nowhere.
        bins_a, bins_b (`np.ndarray` of shape `(n,)`): The bin of each.
    """
    level = BOOTSTRAP.confidence
    rng = np.random.default_rng(BOOTSTRAP.seed)
    everyone = np.arange(len(a))
    draws = [everyone, *(rng.choice(everyone, len(a)) for _ in range(BOOTSTRAP.resamples))]
    point, *others = (_within(a[rows], b[rows], bins_a[rows], bins_b[rows]) for rows in draws)
    return {"difference": point, "interval": np.nanquantile(others, [(1 - level) / 2, (1 + level) / 2]).tolist()}


def _within(a: np.ndarray, b: np.ndarray, bins_a: np.ndarray, bins_b: np.ndarray) -> float:
    means, counts = [], []
    for values, bins in ((a, bins_a), (b, bins_b)):
        there = ~np.isnan(values)
        n = np.bincount(bins[there], minlength=len(LENGTHS))
        means.append(np.bincount(bins[there], values[there], len(LENGTHS)) / np.maximum(n, 1))
        counts.append(n)
    weights = np.where((counts[0] > 0) & (counts[1] > 0), counts[0] + counts[1], 0)
    return float(((means[1] - means[0]) * weights).sum() / weights.sum())


def test_sets(work: Path) -> tuple[EvalSet, EvalSet]:
    """The test split, and the part of it that is replied to."""
    path = str(work / "held_out" / "test.parquet")
    return read_eval_set(path), read_eval_set(path, limit=REPLIES)


def metrics_of(epitome: Path | None) -> tuple[str, ...]:
    """The metrics that have their tools."""
    return METRICS if epitome else METRICS[:-1]


def on_test(
    runs: Sequence[Run], work: Path, scorer: Path, epitome: Path | None, pairs: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """
    Measures everything on the test split, for all runs; saves each run's measures at once.

    Args:
        runs (`Sequence[Run]`): Finished ones.
        work (`Path`): The folder of the runs.
        scorer (`Path`): The scorer of the axes; it must not have selected any training data.
        epitome (`Path`, *optional*): A classifier of levels.
        pairs (`Sequence` of names): A and B, to be compared by paired differences (B - A).
    """
    whole, part = test_sets(work)
    tools, words = test_tools(work, scorer, epitome), words_of(whole)
    measures = {run.name: answer(run, work, scorer, epitome) for run in runs}
    models: dict[str, Any] = {}
    for name, found_by in measures.items():
        found = entry_of(found_by, BOOTSTRAP)
        numbers, tokens = found["numbers"], found["details"]["completion_perplexity"]["tokens"]
        numbers["perplexity_per_word"] = float(np.exp(np.log(numbers["perplexity"]) * tokens / words))
        models[name] = found
        print(name, {key: round(value, 3) for key, value in numbers.items()}, flush=True)
    pairs = [pair for pair in pairs if set(pair) <= set(measures)]
    references = Replies(part.references, "references", part.fingerprint)
    evaluator = Evaluator(part, tools)
    of_references = evaluator.measure_references(METRICS)
    if epitome:
        of_references |= evaluator.measure(references, None, ["epitome"])
    return {
        "n": len(whole),
        "replies": len(part),
        "dataset": whole.fingerprint,
        "decoding": DECODING.to_dict(),
        "scorer": tools.run.scorer.fingerprint,
        "models": models,
        "references": entry_of(of_references, BOOTSTRAP),
        "paired": differences(pairs, measures, BOOTSTRAP),
        "matched": [matched_pair(pair, measures) for pair in pairs],
    }
