"""Models side by side on one evaluation set: replies, all metrics, paired differences, emotions, examples."""

from __future__ import annotations

import gc
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from ee_trl.axes import AXES
from ee_trl.display import Displayed, Table
from ee_trl.errors import EmpathyError, check_choice, require
from ee_trl.files import json_ready

from .bootstrap import Bootstrap, Resampler, compare, holm, intervals
from .candidates import (
    MODEL,
    Candidate,
    Replies,
    candidates_of,
    check_emotions,
    is_adapter,
    load_candidate,
    read_replies,
)
from .eval_set import EvalSet, read_eval_set
from .generation import WAY, Decoding, StoredReplies, generate_replies
from .measures import (
    METRICS,
    AtLikeLength,
    Evaluator,
    Measure,
    at_like_length,
    check_libraries,
    check_metrics,
    load_tools,
    numbers_of,
)
from .metrics.judge import judge_pairs as judged_pairs
from .report import check_page, parts_of, write_report


REPLIES_FOLDER = "replies"
EXAMPLES = 10
"""How many dialogues a report shows."""


@dataclass(frozen=True)
class Comparison(Displayed):
    """
    What [`evaluate_models`] found; prints as tables.

    Args:
        dataset (`dict`): Name, size, fingerprint and what was left out of the evaluation set.
        settings (`dict`): How replies were made and measured.
        models (`dict[str, dict]`):
            Name -> `kind`, `description`, `fingerprint`, `numbers`, `intervals`, `details`, and `like_length`: the
            `numbers` of empathy and their `intervals` at like length with all other models, the number of `bins` of
            length, and `covered`, the share of the replies in bins where all models have replies. `cut_off` counts the
            replies that were cut off at `max_new_tokens`; null for replies from a file.
        references (`dict`): `numbers`, `intervals`, `details` and `like_length` of the reference replies.
        paired (`list[dict]`): Two names `a` and `b`, and for each number `difference` (B - A), `interval`, `p`, and
            `p_holm`, corrected for the number of metrics (only for the primary number of each metric, else null). With
            `judge_pairs`, also the judge's verdicts as `judge`. `like_length` has the `difference` and the `interval`
            of each number of empathy at like length of the two.
        emotions (`dict[str, dict]`): Emotion -> `n`, and model -> the mean of each per-sample number.
        examples (`list[dict]`): The dialogues where the models differ most.
        replies (`dict[str, list[str]]`): The replies of each model, in the order of the set.
    """

    dataset: dict[str, Any]
    settings: dict[str, Any]
    models: dict[str, dict[str, Any]]
    references: dict[str, Any]
    paired: list[dict[str, Any]]
    emotions: dict[str, dict[str, Any]]
    examples: list[dict[str, Any]]
    replies: dict[str, list[str]] = field(repr=False)

    def numbers(self, model: str) -> dict[str, float]:
        """A model's numbers by name."""
        check_choice("model", model, self.models)
        return dict(self.models[model]["numbers"])

    def to_dict(self) -> dict[str, Any]:
        """All but the replies, as plain types for JSON: null where a number is not defined."""
        parts = ("dataset", "settings", "models", "references", "paired", "emotions", "examples")
        return {name: json_ready(getattr(self, name)) for name in parts}

    def write(self, folder: str | os.PathLike[str]) -> Path:
        """Writes `report.json`, `report.md`, `report.html` and `replies.jsonl`; returns the page's `Path`."""
        return write_report(self.to_dict(), self.replies, folder)

    def parts(self) -> Iterable[str | Table]:
        """The tables of the report, without the dialogues."""
        return parts_of(self.to_dict())


def evaluate_models(
    models: Any = None,
    dataset: Any = None,
    *,
    predictions: Any = None,
    output: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    split: str | None = None,
    config: str | None = None,
    encoding: str | None = None,
    mapping: Mapping[str, str] | None = None,
    turns: Any = "each",
    system: str | None = None,
    metrics: Sequence[str] | None = None,
    judge_pairs: bool = False,
    decoding: Decoding | None = None,
    batch_size: int = 16,
    dtype: str = "auto",
    device: str | None = None,
    baseline: str | None = None,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    show: bool | None = None,
    **tools: Any,
) -> Comparison:
    """
    Generates, or reads, the replies of one or more models to one set of dialogues, and compares them.

    All processes of a launch must call this: they share the generation, the first one measures and writes, and all get
    the result.

    Args:
        models, predictions (`Mapping` or `Sequence`, *optional*):
            Models, and files of replies; see [`~ee_trl.evaluation.candidates.candidates_of`].
        dataset, limit, split, config, encoding, mapping, turns (*optional*):
            Dialogues with their reference replies; see [`~ee_trl.evaluation.read_eval_set`].
        system (`str`, *optional*): The system message of every dialogue, in place of its own; models are given it.
        output (`str` or `os.PathLike`, *optional*):
            A folder for the report. Replies are saved there as they are made, and a stopped run continues from them.
        metrics (`Sequence[str]`, *optional*):
            Names of [`~ee_trl.evaluation.measures.METRICS`]; by default all that the other arguments allow.
        judge_pairs (`bool`, *optional*, defaults to `False`): Whether the judge also compares each two candidates.
        decoding ([`Decoding`], *optional*): How replies are generated; by default greedily, 128 tokens at most.
        batch_size (`int`, *optional*, defaults to `16`): The batch size of generation, perplexity and BERTScore.
        dtype, device (*optional*): See [`~ee_trl.evaluation.candidates.load_candidate`].
        baseline (`str`, *optional*): The candidate that all others are compared with; by default every two are.
        resamples (`int`, *optional*, defaults to `2000`), confidence, seed (*optional*):
            See [`~ee_trl.evaluation.bootstrap.Bootstrap`]. Whole conversations are drawn.
        show (`bool`, *optional*): Whether there are progress bars; by default where standard error is a terminal.
        tools (*optional*):
            What metrics need: `scorer`, `threshold`, `ties`, `store`, `tokenizer`, `epitome`, `bertscore_model`,
            `bertscore_layers`, `judge`, `judge_options`; see [`~ee_trl.evaluation.measures.load_tools`].

    Raises [`EmpathyError`], before anything is generated, for an argument that is not valid.

    Example:

    >>> comparison = evaluate_models({"base": "base", "expert": "expert"}, "test.parquet")  # doctest: +SKIP
    >>> comparison.numbers("expert")["sensibility"]  # doctest: +SKIP
    5.8
    """
    candidates = candidates_of(models, predictions)
    names = [candidate.name for candidate in candidates]
    if baseline is not None:
        check_choice("baseline", baseline, names)
    if judge_pairs and tools.get("judge") is None:
        raise EmpathyError("judge_pairs needs a judge: name one (--judge)")
    wanted = check_metrics(metrics)
    check_libraries(wanted, tools.get("tokenizer", "nltk"))
    if tools.get("bertscore_model"):
        require("bert_score", extra="bertscore", purpose="bertscore_model")
    if isinstance(tools.get("epitome"), (str, os.PathLike)):
        require("sklearn", extra="metrics", purpose="the EPITOME classifier")
    if any(is_adapter(candidate.source) for candidate in candidates if candidate.kind == MODEL):
        require("peft", purpose="a LoRA adapter")
    if output is not None:
        check_page()
    decoding = decoding or Decoding()
    Bootstrap(resamples, confidence, seed)  # refuses wrong numbers before anything is read
    reading: dict[str, Any] = {"split": split, "config": config, "encoding": encoding, "mapping": mapping}
    eval_set = read_eval_set(dataset, limit=limit, turns=turns, **reading)
    if system is not None:
        eval_set = replace(eval_set, dialogues=tuple(replace(d, system=system) for d in eval_set.dialogues))
    bootstrap = Bootstrap(resamples, confidence, seed, eval_set.conversations)
    # first, so that errors in files come early
    replies = {c.name: read_replies(c.source, eval_set, c.name) for c in candidates if c.kind != MODEL}
    if "emotion_accuracy" in wanted:
        check_emotions(replies, eval_set)
    evaluator = Evaluator(eval_set, load_tools(batch_size=batch_size, show=show, **tools))
    folder = None if output is None else Path(output)
    measures: dict[str, dict[str, Measure]] = {}
    for candidate in candidates:
        loaded = None
        if candidate.kind == MODEL:
            loaded = load_candidate(candidate.source, dtype=dtype, device=device)
            made_by = {"model": loaded.fingerprint, "decoding": decoding.to_dict(), "way": WAY}
            texts = generate_replies(
                loaded.model,
                loaded.tokenizer,
                eval_set.prompts,
                batch_size=batch_size,
                label=candidate.name,
                decoding=decoding,
                stored=None if folder is None else StoredReplies(folder / REPLIES_FOLDER, candidate.name, made_by),
                show=show,
                shared=_launched(),
            )
            replies[candidate.name] = Replies(texts, loaded.description, loaded.fingerprint)

        def work(name: str = candidate.name, loaded: Any = loaded) -> None:
            measures[name] = evaluator.measure(replies[name], loaded, wanted)

        _on_the_first(work)
        del loaded, work
        gc.collect()  # gives back the model's memory before the next is loaded
        if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
            sys.modules["torch"].cuda.empty_cache()

    settings = {"metrics": list(wanted), "decoding": decoding.to_dict(), "baseline": baseline, "system": system}

    def compared() -> Comparison:
        found = _comparison(candidates, evaluator, replies, measures, settings, bootstrap)
        if judge_pairs:
            _add_verdicts(found, evaluator, bootstrap)
        if folder is not None:
            found.write(folder)
        return found

    return _on_the_first(compared)


def _launched() -> bool:
    """Whether there are several processes; if so, joins them. They wait for each other, if need be for days."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return False
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=7)).num_processes > 1


def _on_the_first(make: Callable[[], Any]) -> Any:
    """Calls `make` on the first process and returns its result on all."""
    if not _launched():
        return make()
    from ee_trl.online.ranks import from_the_first

    return from_the_first(make)


def _add_verdicts(found: Comparison, evaluator: Evaluator, bootstrap: Bootstrap) -> None:
    """The judge's verdicts on every pair, as `judge` beside its differences; wins are B's."""
    if not found.paired:
        names = pairs_of(list(found.replies), found.settings["baseline"])
        found.paired.extend({"a": a, "b": b, "numbers": {}} for a, b in names)
    for pair in found.paired:
        ours, theirs = found.replies[pair["b"]], found.replies[pair["a"]]
        prompts = evaluator.eval_set.prompts
        pair["judge"] = judged_pairs(ours, theirs, prompts, evaluator.tools.judge, **vars(bootstrap))


def pairs_of(names: Sequence[str], baseline: str | None = None) -> list[tuple[str, str]]:
    """The pairs to compare: each candidate with the baseline, or every two of them."""
    if baseline is not None:
        return [(baseline, name) for name in names if name != baseline]
    return list(itertools.combinations(names, 2))


def _comparison(
    candidates: Sequence[Candidate],
    evaluator: Evaluator,
    replies: Mapping[str, Replies],
    measures: Mapping[str, Mapping[str, Measure]],
    settings: Mapping[str, Any],
    bootstrap: Bootstrap,
) -> Comparison:
    eval_set, tools = evaluator.eval_set, evaluator.tools
    names = [candidate.name for candidate in candidates]
    samples = {
        name: {key: values for found in measures[name].values() for key, values in found.samples.items()}
        for name in names
    }
    of_references = evaluator.measure_references(settings["metrics"])
    all_measures = [*(measures[name] for name in names), of_references]
    all_replies = [*(replies[name].texts for name in names), eval_set.references]
    alike = [_like_length(found, bootstrap) for found in at_like_length(all_measures, all_replies, len(names))]
    paired = differences(pairs_of(names, settings["baseline"]), measures, bootstrap)
    for pair in paired:
        both = [pair["a"], pair["b"]]
        a, b = at_like_length([measures[name] for name in both], [replies[name].texts for name in both])
        found = [compare(a[metric], b[metric], bootstrap) for metric in a if metric in b]
        pair["like_length"] = {
            name: {"difference": row["difference"], "interval": row["interval"]}
            for rows in found
            for name, row in rows.items()
        }
    return Comparison(
        dataset={
            "name": eval_set.name,
            "n": len(eval_set),
            "available": eval_set.available or len(eval_set),
            "left_out": eval_set.left_out or {},
            "fingerprint": eval_set.fingerprint,
        },
        settings={
            "scorer": tools.run.scorer.fingerprint if tools.run else None,
            "threshold": list(tools.threshold) if isinstance(tools.threshold, (tuple, list)) else tools.threshold,
            "ties": tools.ties,
            "tokenizer": tools.tokenizer,
            "metrics": settings["metrics"],
            "decoding": settings["decoding"],
            **{name: getattr(bootstrap, name) for name in ("resamples", "confidence", "seed")},
            "baseline": settings["baseline"],
            "system": settings["system"],
        },
        models={
            c.name: {
                "kind": c.kind,
                "description": replies[c.name].description,
                "fingerprint": replies[c.name].fingerprint,
                **entry_of(measures[c.name], bootstrap),
                "like_length": like_length,
                "cut_off": _cut_off(replies[c.name].texts) if c.kind == MODEL else None,
            }
            for c, like_length in zip(candidates, alike, strict=False)
        },
        references={**entry_of(of_references, bootstrap), "like_length": alike[-1]},
        paired=paired,
        emotions=by_emotion(eval_set, samples),
        examples=examples_of(eval_set, {name: replies[name].texts for name in names}, samples),
        replies={name: list(replies[name].texts) for name in names},
    )


def entry_of(measures: Mapping[str, Measure], bootstrap: Bootstrap) -> dict[str, Any]:
    """A candidate's `numbers` and `intervals` by name, and the `details` of each metric."""
    ends = _ends([resampler for found in measures.values() for resampler in found.resamplers], bootstrap)
    details = {name: found.details for name, found in measures.items()}
    return {"numbers": numbers_of(measures), "intervals": ends, "details": details}


def _ends(resamplers: Iterable[Resampler], bootstrap: Bootstrap) -> dict[str, list[float]]:
    return {name: pair for resampler in resamplers for name, pair in intervals(resampler, bootstrap).items()}


def _cut_off(texts: Sequence[str]) -> dict[str, float]:
    n = sum(getattr(text, "cut_off", False) for text in texts)
    return {"count": n, "share": n / len(texts)}


def _like_length(found: Mapping[str, AtLikeLength], bootstrap: Bootstrap) -> dict[str, Any] | None:
    """A candidate's numbers of empathy at like length; `None` if there are none."""
    if not found:
        return None
    first = next(iter(found.values()))
    return {
        "bins": int(first.bins.max()) + 1,
        "covered": float((first.weights(np.ones((1, first.n))) > 0).mean()),
        "numbers": {name: value for metric in found.values() for name, value in metric.point().items()},
        "intervals": _ends(found.values(), bootstrap),
    }


def differences(
    pairs: Sequence[tuple[str, str]], measures: Mapping[str, Mapping[str, Measure]], bootstrap: Bootstrap
) -> list[dict[str, Any]]:
    """
    The paired differences of each pair of candidates; none without a bootstrap.

    Holm's correction is over the primary number of each metric; the other numbers say nearly the same and get none.
    """
    if not bootstrap.resamples:
        return []
    found = []
    for a, b in pairs:
        numbers: dict[str, dict[str, Any]] = {}
        shared = [name for name in measures[a] if name in measures[b]]
        for name in shared:
            parts = compare(measures[a][name].resampler, measures[b][name].resampler, bootstrap)
            numbers |= {key: row for key, row in parts.items() if not key.startswith("reference_")}
        primary = {METRICS[name].primary for name in shared}
        corrected = holm({key: row["p"] for key, row in numbers.items() if key in primary})
        rows = {key: {**row, "p_holm": corrected.get(key)} for key, row in numbers.items()}
        found.append({"a": a, "b": b, "numbers": rows})
    return found


def by_emotion(eval_set: EvalSet, samples: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, dict[str, Any]]:
    """Emotion -> how many dialogues, and each candidate's mean of each per-sample number."""
    if eval_set.emotions is None:
        return {}
    labels = np.array([emotion or "(none)" for emotion in eval_set.emotions])
    found: dict[str, dict[str, Any]] = {}
    for emotion in sorted(set(labels.tolist())):
        inside = labels == emotion
        means = {
            name: {key: _mean(values[inside]) for key, values in columns.items()} for name, columns in samples.items()
        }
        found[emotion] = {"n": int(inside.sum()), "models": means}
    return found


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def examples_of(
    eval_set: EvalSet, replies: Mapping[str, Sequence[str]], samples: Mapping[str, Mapping[str, np.ndarray]]
) -> list[dict[str, Any]]:
    """The dialogues with unequal replies whose scores lie furthest apart, summed over the axes."""
    apart = np.zeros(len(eval_set))
    for axis in AXES:
        scored = [samples[name][axis] for name in replies if axis in samples[name]]
        if scored:
            table = np.nan_to_num(np.stack(scored))  # an unscored reply counts as the lowest score
            apart += table.max(axis=0) - table.min(axis=0)
    order = sorted(range(len(eval_set)), key=lambda i: (-apart[i], i))
    differ = [i for i in order if len(replies) == 1 or len({texts[i] for texts in replies.values()}) > 1]
    found = []
    for i in differ[:EXAMPLES]:
        dialogue = eval_set.dialogues[i]
        scores = {name: {axis: samples[name][axis][i] for axis in AXES if axis in samples[name]} for name in replies}
        found.append(
            {
                "index": i,
                "emotion": eval_set.emotions[i] if eval_set.emotions else None,
                "context": [{"role": r, "text": t} for r, t in zip(dialogue.roles, dialogue.context, strict=True)],
                "reference": dialogue.response,
                "apart": float(apart[i]),
                "replies": {
                    name: {"text": texts[i], **{axis: float(value) for axis, value in scores[name].items()}}
                    for name, texts in replies.items()
                },
            }
        )
    return found
