"""Models side by side on one evaluation set: replies, all metrics, paired differences, emotions, telling examples."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ee_trl.axes import DEFAULT_THRESHOLD
from ee_trl.display import Displayed, Table
from ee_trl.errors import EmpathyError, unknown
from ee_trl.files import json_ready

from .bootstrap import Bootstrap
from .candidates import MODEL, Candidate, LoadedModel, Replies, candidates_of, load_candidate, read_replies
from .checks import check_emotions, check_encoder, check_whole
from .eval_set import EvalSet, read_eval_set
from .findings import by_emotion, differences, examples_of, numbers_of, samples_of
from .generation import WAY, Decoding, generate_replies
from .measures import Measure, Tools, check_metrics, measure, measure_references
from .stored_replies import StoredReplies


logger = logging.getLogger("ee_trl")

REPLIES_FOLDER = "replies"


@dataclass(frozen=True)
class Comparison(Displayed):
    """
    What [`evaluate_models`] found. Prints as tables; [`~Comparison.to_dict`] gives it as plain types,
    [`~Comparison.write`] as files.

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
        return {name: json_ready(getattr(self, name)) for name in parts}

    def write(self, folder: str | os.PathLike[str]) -> Path:
        """Writes `report.json`, `report.md`, `report.html` and `replies.jsonl`; returns the page's `Path`."""
        from .report import write_report

        return write_report(self, folder)

    def parts(self) -> Iterable[str | Table]:
        """For a notebook."""
        from .shown import parts_of

        return parts_of(self)

    def __str__(self) -> str:
        from .report import head_of

        return head_of(self)


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
    resamples: int = 2000,
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
        resamples (`int`, *optional*, defaults to `2000`), confidence (`float`, *optional*, defaults to `0.95`), seed
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
    check_whole("batch_size", batch_size, 1)
    bootstrap = Bootstrap(resamples, confidence, seed)
    decoding = decoding or Decoding()
    eval_set = (
        dataset
        if isinstance(dataset, EvalSet)
        else read_eval_set(dataset, split=split, config=config, limit=limit, turns=turns)
    )
    given = {
        c.name: read_replies(c.source, eval_set, c.name) for c in candidates if c.kind != MODEL
    }  # files fail early
    check_emotions(given, eval_set, wanted)
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
        del loaded
        _make_room()  # before the next is loaded
    found = _comparison(candidates, eval_set, replies, measures, tools, wanted, decoding, bootstrap, baseline)
    if judge_pairs:
        _add_verdicts(found, eval_set, tools)
    if folder is not None:
        found.write(folder)
    return found


def _make_room() -> None:
    """Gives back the memory of a model that nobody holds any more."""
    import gc
    import sys

    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _add_verdicts(found: Comparison, eval_set: EvalSet, tools: Tools) -> None:
    """What the judge says of every pair, as `judge` beside its differences; wins are B's."""
    from .metrics.judge import judge_pairs

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
    from ee_trl.scoring.judge.chooser import load_chooser
    from ee_trl.selector import EmpathyDataSelector

    if options["tokenizer"] not in ("nltk", "whitespace"):
        raise EmpathyError(unknown("tokenizer", options["tokenizer"], ("nltk", "whitespace")))
    selector = EmpathyDataSelector(scorer, threshold=threshold, ties=ties, store=store, show_progress=show)
    classifier = None
    if epitome is not None:
        from .metrics.epitome import load_classifier

        try:
            classifier = load_classifier(epitome)
        except ValueError as error:
            raise EmpathyError(str(error)) from error
    if options["bertscore_model"] is not None:
        check_encoder(options["bertscore_model"], options["bertscore_layers"])
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
    made_by = {"model": loaded.fingerprint, "decoding": decoding.to_dict(), "way": WAY}
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


def pairs_of(names: list[str], baseline: str | None = None) -> list[tuple[str, str]]:
    """The pairs to compare: each candidate with the baseline, or every two of them."""
    if baseline is not None:
        return [(baseline, name) for name in names if name != baseline]
    return list(itertools.combinations(names, 2))


# ---- what it comes to ----------------------------------------------------------------------------------------------


def _comparison(
    candidates: Sequence[Candidate],
    eval_set: EvalSet,
    replies: Mapping[str, Replies],
    measures: Mapping[str, Mapping[str, Measure]],
    tools: Tools,
    wanted: Sequence[str],
    decoding: Decoding,
    bootstrap: Bootstrap,
    baseline: str | None,
) -> Comparison:
    names = [candidate.name for candidate in candidates]
    samples = {name: samples_of(measures[name]) for name in names}
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
            **{name: getattr(bootstrap, name) for name in ("resamples", "confidence", "seed")},
            "baseline": baseline,
        },
        models={
            c.name: {
                "kind": c.kind,
                "description": replies[c.name].description,
                "fingerprint": replies[c.name].fingerprint,
                **numbers_of(measures[c.name], bootstrap),
            }
            for c in candidates
        },
        references=numbers_of(measure_references(eval_set, tools, wanted), bootstrap),
        paired=differences(pairs_of(names, baseline), measures, bootstrap),
        emotions=by_emotion(eval_set, samples),
        examples=examples_of(eval_set, replies, samples),
        replies={name: list(made.texts) for name, made in replies.items()},
    )
