"""Models side by side on one evaluation set: replies, all metrics, paired differences, emotions, telling examples."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ee_trl.axes import AXES, DEFAULT_THRESHOLD
from ee_trl.errors import EmpathyError, unknown

from .candidates import MODEL, Candidate, LoadedModel, Replies, candidates_of, load_candidate, read_replies
from .eval_set import EvalSet, read_eval_set
from .generation import Decoding, generate_replies
from .measures import Measure, Tools, check_metrics, measure, measure_references
from .paired import compare, holm, pairs_of, plain
from .stored_replies import StoredReplies


logger = logging.getLogger("ee_trl")

REPLIES_FOLDER = "replies"
EXAMPLES = 10


@dataclass(frozen=True)
class Comparison:
    """
    What [`evaluate_models`] found. [`~Comparison.to_dict`] gives it as plain types, [`~Comparison.write`] as files.

    Args:
        dataset (`dict`): Name, size, fingerprint and what was left out of the evaluation set.
        settings (`dict`): How replies were made and measured.
        models (`dict[str, dict]`): Name -> `kind`, `description`, `fingerprint`, `numbers`, `intervals`, `details`.
        references (`dict`): `numbers`, `intervals` and `details` of the reference replies.
        paired (`list[dict]`): Two names `a` and `b`, and for each number `difference` (B - A), `interval`, `p`, and
            `p_holm`, corrected for the number of numbers; with `judge_pairs`, what the judge says, as `judge`.
        emotions (`dict[str, dict]`): Emotion -> `n`, and model -> mean of each number that samples have.
        examples (`list[dict]`): The dialogues where the models differ most.
        replies (`dict[str, list[str]]`): Of each model, in the order of the set.
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
        if model not in self.models:
            raise EmpathyError(unknown("model", model, self.models))
        return dict(self.models[model]["numbers"])

    def to_dict(self) -> dict[str, Any]:
        """All but the replies, as plain types for JSON: null where a number is not defined."""
        parts = ("dataset", "settings", "models", "references", "paired", "emotions", "examples")
        return {name: plain(getattr(self, name)) for name in parts}

    def write(self, folder: str | os.PathLike[str]) -> Path:
        """Writes `report.json`, `report.md`, `report.html` and `replies.jsonl`; returns the page's `Path`."""
        from .report import write_report

        return write_report(self, folder)


def evaluate_models(
    models: Any = None,
    dataset: Any = None,
    *,
    predictions: Any = None,
    output: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    split: str | None = None,
    config: str | None = None,
    turns: Any = "each",
    metrics: Sequence[str] | None = None,
    scorer: Any = "linear",
    threshold: Any = DEFAULT_THRESHOLD,
    ties: str = "drop",
    store: Any = True,
    tokenizer: str = "nltk",
    epitome: Any = None,
    bertscore_model: str | None = None,
    bertscore_layers: int | None = None,
    judge: Any = None,
    judge_options: Mapping[str, Any] | None = None,
    judge_pairs: bool = False,
    decoding: Decoding | None = None,
    batch_size: int = 16,
    dtype: str = "auto",
    device: str | None = None,
    baseline: str | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    show: bool | None = None,
) -> Comparison:
    """
    Generates, or reads, the replies of one or more models to one set of dialogues, and compares them.

    Args:
        models (`Mapping` or `Sequence`, *optional*):
            Name -> folder or hub id of a base model, a LoRA adapter or a composed model, or `(model, tokenizer)`.
            Entries of a sequence are `"name=folder"`, or a folder, which is called by its last part.
        dataset (`str`, `os.PathLike`, `Dataset` or [`EvalSet`], *optional*):
            Dialogues with their reference replies, in any format; by default the held-out part of the embedded sample.
        predictions (`Mapping` or `Sequence`, *optional*):
            The same as `models`, of files of replies.
        output (`str` or `os.PathLike`, *optional*):
            A folder for the report. Replies are kept there as they are made, so that a run that was stopped goes on.
        limit (`int`, *optional*):
            So many dialogues alone, evenly spaced.
        split, config, turns (*optional*):
            Of the data set, as in [`~ee_trl.evaluation.eval_set.read_eval_set`].
        metrics (`Sequence[str]`, *optional*):
            Of [`~ee_trl.evaluation.measures.METRICS`]; by default all that the other arguments allow.
        scorer (*optional*, defaults to `"linear"`):
            Of the two axes: what [`EmpathyDataSelector`] takes. Its scores go to the score store (`store`).
        threshold, ties (*optional*):
            Of the quadrants.
        tokenizer (`str`, *optional*, defaults to `"nltk"`):
            Of BLEU, word F1 and Dist: `"nltk"` (lower-cased word tokens) or `"whitespace"`.
        epitome, bertscore_model, bertscore_layers, judge, judge_options (*optional*):
            What the metrics of these names need.
        judge_pairs (`bool`, *optional*, defaults to `False`):
            Whether the judge also compares the candidates two by two, in both orders.
        decoding ([`~ee_trl.evaluation.generation.Decoding`], *optional*):
            How replies are generated; by default greedily, 64 tokens at most.
        batch_size (`int`, *optional*, defaults to `16`):
            Of generation, perplexity and BERTScore.
        dtype, device (*optional*):
            Of models that are loaded here.
        baseline (`str`, *optional*):
            The candidate that all others are compared with; by default every two are.
        resamples (`int`, *optional*, defaults to `1000`), confidence (`float`, *optional*, defaults to `0.95`), seed
            (`int`, *optional*, defaults to `0`): Of the bootstrap.
        show (`bool`, *optional*):
            Whether there are progress bars; by default where standard error is a terminal.

    Returns:
        [`Comparison`]; with `output` its files are written.

    Raises:
        [`EmpathyError`]: Something that was named is not there or not valid; before anything is generated.

    Example:

    >>> comparison = evaluate_models({"base": "base", "expert": "expert"}, "test.parquet")  # doctest: +SKIP
    >>> comparison.numbers("expert")["sensibility"]  # doctest: +SKIP
    5.8
    """
    candidates = candidates_of(models, predictions)
    names = [candidate.name for candidate in candidates]
    if baseline is not None and baseline not in names:
        raise EmpathyError(unknown("baseline", baseline, names))
    if judge_pairs and judge is None:
        raise EmpathyError("judge_pairs needs a judge: name one (--judge)")
    wanted = check_metrics(metrics)
    decoding = decoding or Decoding()
    eval_set = (
        dataset
        if isinstance(dataset, EvalSet)
        else read_eval_set(dataset, split=split, config=config, limit=limit, turns=turns)
    )
    given = {c.name: read_replies(c.source, eval_set) for c in candidates if c.kind != MODEL}  # files fail early
    tools = make_tools(
        scorer=scorer,
        threshold=threshold,
        ties=ties,
        store=store,
        tokenizer=tokenizer,
        batch_size=batch_size,
        epitome=epitome,
        bertscore_model=bertscore_model,
        bertscore_layers=bertscore_layers,
        judge=judge,
        judge_options=judge_options,
        show=show,
    )
    folder = None if output is None else Path(output)
    replies: dict[str, Replies] = {}
    measures: dict[str, dict[str, Measure]] = {}
    for candidate in candidates:
        loaded = None
        if candidate.kind == MODEL:
            loaded = load_candidate(candidate.source, dtype=dtype, device=device)
            made = _generated(candidate, loaded, eval_set, decoding, batch_size, folder, show)
        else:
            made = given[candidate.name]
        replies[candidate.name] = made
        measures[candidate.name] = measure(eval_set, made, loaded, tools, wanted)
        del loaded  # before the next is loaded
    found = _comparison(
        candidates, eval_set, replies, measures, tools, wanted, decoding, (resamples, confidence, seed), baseline
    )
    if judge_pairs:
        _add_verdicts(found, eval_set, tools)
    if folder is not None:
        found.write(folder)
    return found


def _add_verdicts(found: Comparison, eval_set: EvalSet, tools: Tools) -> None:
    """What the judge says of every pair, as `judge` beside its differences; wins are B's."""
    from .judge import judge_pairs

    settings = found.settings
    names = pairs_of(list(found.replies), settings["baseline"])
    if not found.paired:
        found.paired.extend({"a": a, "b": b, "numbers": {}} for a, b in names)
    for pair in found.paired:
        pair["judge"] = judge_pairs(
            found.replies[pair["b"]],
            found.replies[pair["a"]],
            eval_set.prompts,
            tools.judge,
            resamples=settings["resamples"],
            confidence=settings["confidence"],
            seed=settings["seed"],
        )


def make_tools(
    *,
    scorer: Any,
    threshold: Any,
    ties: str,
    store: Any,
    epitome: Any,
    judge: Any,
    judge_options: Mapping[str, Any] | None,
    show: bool | None,
    **options: Any,
) -> Tools:
    """What the metrics are computed with, loaded: a wrong name is found before anything is generated."""
    from ee_trl.scoring.choices import load_chooser
    from ee_trl.selector import EmpathyDataSelector

    if options["tokenizer"] not in ("nltk", "whitespace"):
        raise EmpathyError(unknown("tokenizer", options["tokenizer"], ("nltk", "whitespace")))
    selector = EmpathyDataSelector(scorer, threshold=threshold, ties=ties, store=store, show_progress=show)
    classifier = None
    if epitome is not None:
        from .epitome import load_classifier

        try:
            classifier = load_classifier(epitome)
        except ValueError as error:
            raise EmpathyError(str(error)) from error
    chooser = None if judge is None else load_chooser(judge, **(judge_options or {}))
    return Tools(selector.new_run(), selector.threshold, ties, classifier=classifier, judge=chooser, **options)


def _generated(
    candidate: Candidate,
    loaded: LoadedModel,
    eval_set: EvalSet,
    decoding: Decoding,
    batch_size: int,
    folder: Path | None,
    show: bool | None,
) -> Replies:
    made_by = {"model": loaded.fingerprint, "decoding": decoding.to_dict()}
    stored = None if folder is None else StoredReplies(folder / REPLIES_FOLDER, candidate.name, made_by)
    texts = generate_replies(
        loaded.model,
        loaded.tokenizer,
        eval_set.prompts,
        batch_size=batch_size,
        label=candidate.name,
        decoding=decoding,
        stored=stored,
        show=show,
    )
    return Replies(texts, loaded.description, loaded.fingerprint, settings=decoding.to_dict())


# ---- what it comes to ----------------------------------------------------------------------------------------------


def _comparison(
    candidates: Sequence[Candidate],
    eval_set: EvalSet,
    replies: Mapping[str, Replies],
    measures: Mapping[str, Mapping[str, Measure]],
    tools: Tools,
    wanted: Sequence[str],
    decoding: Decoding,
    bootstrap: tuple[int, float, int],
    baseline: str | None,
) -> Comparison:
    names = [candidate.name for candidate in candidates]
    samples = {name: _samples(measures[name]) for name in names}
    return Comparison(
        dataset={
            "name": eval_set.name,
            "n": len(eval_set),
            "available": eval_set.available or len(eval_set),
            "left_out": eval_set.left_out or {},
            "fingerprint": eval_set.fingerprint,
        },
        settings={
            "scorer": tools.run.scorer.fingerprint,
            "threshold": list(tools.threshold) if isinstance(tools.threshold, (tuple, list)) else tools.threshold,
            "ties": tools.ties,
            "tokenizer": tools.tokenizer,
            "metrics": list(wanted),
            "decoding": decoding.to_dict(),
            **dict(zip(("resamples", "confidence", "seed"), bootstrap, strict=True)),
            "baseline": baseline,
        },
        models={
            c.name: {
                "kind": c.kind,
                "description": replies[c.name].description,
                "fingerprint": replies[c.name].fingerprint,
                **_numbers(measures[c.name], bootstrap),
            }
            for c in candidates
        },
        references=_numbers(measure_references(eval_set, tools, wanted), bootstrap),
        paired=_paired(pairs_of(names, baseline), measures, bootstrap),
        emotions=_by_emotion(eval_set, samples),
        examples=_examples(eval_set, replies, samples),
        replies={name: list(made.texts) for name, made in replies.items()},
    )


def _samples(measures: Mapping[str, Measure]) -> dict[str, np.ndarray]:
    """All numbers that single samples have."""
    return {name: values for measure in measures.values() for name, values in measure.samples.items()}


def _numbers(measures: Mapping[str, Measure], bootstrap: tuple[int, float, int]) -> dict[str, Any]:
    from .distinct.bootstrap import intervals, means

    numbers: dict[str, float] = {}
    ends: dict[str, list[float]] = {}
    for name, found in measures.items():
        resamplers: list[Any] = [found.resampler]
        if name == "distinct":
            resamplers.append(means({"words": found.samples["words"]}))
        for resampler in resamplers:
            numbers |= resampler.point()
            ends |= intervals(resampler, *bootstrap) if bootstrap[0] else {}
    return {"numbers": numbers, "intervals": ends, "details": {name: m.details for name, m in measures.items()}}


def _paired(
    pairs: Sequence[tuple[str, str]],
    measures: Mapping[str, Mapping[str, Measure]],
    bootstrap: tuple[int, float, int],
) -> list[dict[str, Any]]:
    if not bootstrap[0]:
        return []
    found = []
    for a, b in pairs:
        numbers: dict[str, dict[str, Any]] = {}
        for name in (name for name in measures[a] if name in measures[b]):
            parts = compare(measures[a][name].resampler, measures[b][name].resampler, *bootstrap)
            numbers |= {k: v for k, v in parts.items() if not k.startswith("reference_")}
        corrected = holm({name: row["p"] for name, row in numbers.items()})
        found.append({"a": a, "b": b, "numbers": {k: {**row, "p_holm": corrected[k]} for k, row in numbers.items()}})
    return found


def _by_emotion(eval_set: EvalSet, samples: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, dict[str, Any]]:
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


def _examples(
    eval_set: EvalSet, replies: Mapping[str, Replies], samples: Mapping[str, Mapping[str, np.ndarray]]
) -> list[dict[str, Any]]:
    """The dialogues where the models' scores lie furthest apart, summed over the axes; where texts differ at all."""
    names = list(replies)
    apart = np.zeros(len(eval_set))
    for axis in AXES:
        scored = [samples[name][axis] for name in names if axis in samples[name]]
        if scored:
            table = np.nan_to_num(np.stack(scored))  # an unscored reply stands as low as one can
            apart += table.max(axis=0) - table.min(axis=0)
    texts = [{replies[name].texts[i] for name in names} for i in range(len(eval_set))]
    order = sorted(range(len(eval_set)), key=lambda i: (-apart[i], i))
    chosen = [i for i in order if len(texts[i]) > 1 or len(names) == 1]
    return [_example(i, eval_set, replies, samples, apart[i]) for i in itertools.islice(chosen, EXAMPLES)]


def _example(
    i: int,
    eval_set: EvalSet,
    replies: Mapping[str, Replies],
    samples: Mapping[str, Mapping[str, np.ndarray]],
    apart: float,
) -> dict[str, Any]:
    dialogue = eval_set.dialogues[i]
    return {
        "index": i,
        "emotion": eval_set.emotions[i] if eval_set.emotions else None,
        "context": [{"role": r, "text": t} for r, t in zip(dialogue.roles, dialogue.context, strict=True)],
        "reference": dialogue.response,
        "apart": float(apart),
        "replies": {
            name: {
                "text": made.texts[i],
                **{axis: float(samples[name][axis][i]) for axis in AXES if axis in samples[name]},
            }
            for name, made in replies.items()
        },
    }
