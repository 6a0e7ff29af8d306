"""What a finished run is measured by: perplexities on validation and, once, at the end, everything on test."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from plan import Run
from training import folder_of, slug

from ee_trl.axes import AXES, QUADRANTS, TIE
from ee_trl.epitome_training import read_posts, train_epitome
from ee_trl.evaluation.candidates import Replies, load_candidate
from ee_trl.evaluation.comparison import make_tools
from ee_trl.evaluation.completion_perplexity import perplexity_resampler, sample_nlls, tokenize_sample
from ee_trl.evaluation.distinct.bootstrap import intervals
from ee_trl.evaluation.eval_set import EvalSet, read_eval_set
from ee_trl.evaluation.findings import differences, numbers_of
from ee_trl.evaluation.generation import Decoding, generate_replies
from ee_trl.evaluation.measures import Measure, measure, measure_references
from ee_trl.evaluation.stored_replies import StoredReplies
from ee_trl.score_plane import quadrants


METRICS = ("dialogue_bleu", "dialogue_rouge", "distinct", "empathy_axes", "completion_perplexity", "epitome")
BATCH = 64
DECODING = Decoding(max_new_tokens=40)
BOOTSTRAP = (1000, 0.95, 0)


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
        resampler = perplexity_resampler(nlls[inside], tokens[inside])
        point, ends = resampler.point(), intervals(resampler, *BOOTSTRAP)
        found["perplexity"][name] = {
            "samples": int(inside.sum()),
            "tokens": int(tokens[inside].sum()),
            "value": point["perplexity"],
            "interval": ends["perplexity"],
        }
    found["perplexity_per_word"] = float(np.exp(nlls.sum() / words_of(eval_set)))
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(found, indent=2), encoding="utf-8")
    return found


def words_of(eval_set: EvalSet) -> int:
    """Words of the references and their ends: what a perplexity per word divides by, as the literature has it."""
    return sum(len(reference.split()) + 1 for reference in eval_set.references)


def epitome_of(source: Path, work: Path) -> Path:
    """The classifier of EPITOME's levels, trained on its Reddit posts."""
    folder = work / "epitome"
    if not folder.exists():
        train_epitome(read_posts(Dataset.from_parquet(str(source))), folder, folds=0)
    return folder


def on_test(
    runs: Sequence[Run], work: Path, scorer: Path, epitome: Path | None, pairs: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """
    Everything on the test split, for all runs at once; replies are kept as they are made.

    Args:
        runs (`Sequence[Run]`): Finished ones.
        work (`Path`): The folder of the runs.
        scorer (`Path`): Of the axes: one that nothing was selected by.
        epitome (`Path`, *optional*): A classifier of levels.
        pairs (`Sequence` of names): A and B, whose paired differences (B - A) are told.
    """
    eval_set = read_eval_set(str(work / "held_out" / "test.parquet"))
    tools = make_tools(
        scorer=str(scorer), threshold=5.0, ties="drop", store=str(work / "scores.sqlite"), tokenizer="nltk",
        batch_size=BATCH, epitome=epitome, bertscore_model=None, bertscore_layers=None, judge=None,
        judge_options=None, show=None,
    )  # fmt: skip
    metrics = METRICS if epitome else METRICS[:-1]
    measures: dict[str, dict[str, Measure]] = {}
    found: dict[str, Any] = {"n": len(eval_set), "dataset": eval_set.fingerprint, "decoding": DECODING.to_dict()}
    found["models"] = {}
    for run in runs:
        loaded = load_candidate(str(folder_of(run.name, work)))
        made_by = {"model": loaded.fingerprint, "decoding": DECODING.to_dict()}
        texts = generate_replies(
            loaded.model, loaded.tokenizer, eval_set.prompts, batch_size=BATCH, label=run.name, decoding=DECODING,
            stored=StoredReplies(work / "replies", slug(run.name), made_by),
        )  # fmt: skip
        measures[run.name] = measure(
            eval_set, Replies(texts, loaded.description, loaded.fingerprint), loaded, tools, metrics
        )
        found["models"][run.name] = numbers_of(measures[run.name], BOOTSTRAP)
        nll = np.log(found["models"][run.name]["numbers"]["perplexity"])
        tokens = found["models"][run.name]["details"]["completion_perplexity"]["tokens"]
        found["models"][run.name]["numbers"]["perplexity_per_word"] = float(np.exp(nll * tokens / words_of(eval_set)))
        print(f"{run.name}: {found['models'][run.name]['numbers']}", flush=True)
    found["references"] = numbers_of(measure_references(eval_set, tools, metrics), BOOTSTRAP)
    found["paired"] = differences([p for p in pairs if set(p) <= set(measures)], measures, BOOTSTRAP)
    found["scorer"] = tools.run.scorer.fingerprint
    return found
