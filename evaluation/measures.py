"""Measures replies: every metric as numbers, as a resampler, and sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ee_trl.axes import AXES, DEFAULT_THRESHOLD
from ee_trl.errors import EmpathyError, check_choice, check_count, require
from ee_trl.scoring.judge.chooser import load_chooser
from ee_trl.scoring.kinds import DEFAULT_SCORER
from ee_trl.scoring.run import ScoringRun
from ee_trl.selection import length_bins
from ee_trl.selector import EmpathyDataSelector

from .bootstrap import Resampler, Values, divided, means
from .candidates import LoadedModel, Replies
from .eval_set import EvalSet
from .load import LIBRARIES
from .metrics import (
    bertscore,
    completion_perplexity,
    dialogue_bleu,
    dialogue_rouge,
    distinct,
    emotion_accuracy,
    empathy_axes,
    epitome,
    word_f1,
)
from .metrics.epitome_classifier import load_classifier
from .metrics.judge import sample_ratings
from .texts import TOKENIZERS, tokenize_all


NOTES = {
    "bleu1": "x100; higher is closer to the references",
    "bleu4": "x100; higher is closer to the references",
    "rougeL": "mean F1 x100",
    "word_f1": "over the corpus, x100",
    "dist1": "distinct words, %; depends on n",
    "dist2": "distinct pairs of words, %; depends on n",
    "words": "in a reply, mean",
    "sensibility": "0 to 10, by the scorer",
    "rationality": "0 to 10, by the scorer",
    "sensibility_difference": "reply minus reference",
    "rationality_difference": "reply minus reference",
    "perplexity": "of the references; lower is better; same tokenizer only",
    "emotional_reactions": "level 0 to 2",
    "interpretations": "level 0 to 2",
    "explorations": "level 0 to 2",
    "diff_er": "squared difference to the reference's level; lower is closer",
    "diff_ip": "squared difference to the reference's level; lower is closer",
    "diff_ex": "squared difference to the reference's level; lower is closer",
    "accuracy": "of the emotion, %",
    "bertscore_f1": "x100, not rescaled",
    "naturalness": "1 to 3, by the judge",
    "coherence": "1 to 3, by the judge",
    "empathy": "1 to 3, by the judge",
}
"""What a number is. Tables and pictures show the numbers that are named here, in this order."""


@dataclass(frozen=True)
class Tools:
    """
    What metrics are computed with; see [`load_tools`]. An evaluation leaves out a metric without its tool.

    `run` scores the axes. Without a `tokenizer` text metrics use their own: Dist `"nltk"`, the others `"whitespace"`.
    """

    run: ScoringRun | None = None
    threshold: Any = DEFAULT_THRESHOLD
    ties: str = "drop"
    tokenizer: str | None = None
    batch_size: int = 16
    classifier: Any = None
    bertscore_model: str | None = None
    bertscore_layers: int | None = None
    judge: Any = None


def load_tools(
    *,
    scorer: Any = DEFAULT_SCORER,
    threshold: Any = DEFAULT_THRESHOLD,
    ties: str = "drop",
    store: Any = True,
    tokenizer: str = "nltk",
    batch_size: int = 16,
    epitome: Any = None,
    bertscore_model: str | None = None,
    bertscore_layers: int | None = None,
    judge: Any = None,
    judge_options: Mapping[str, Any] | None = None,
    show: bool | None = None,
) -> Tools:
    """
    Loads the [`Tools`]; raises [`EmpathyError`] for an option that is not valid, before anything is generated.

    Args:
        scorer, store (*optional*): The scorer of the two axes and the score store; see [`EmpathyDataSelector`].
        threshold, ties (*optional*): See [`~ee_trl.axes.quadrants`].
        tokenizer (`str`, *optional*, defaults to `"nltk"`):
            The tokenizer of BLEU, word F1 and Dist: `"nltk"` (lower-cased word tokens) or `"whitespace"`.
        batch_size (`int`, *optional*, defaults to `16`): The batch size of perplexity and BERTScore.
        epitome (`str`, `os.PathLike` or object, *optional*):
            See [`~ee_trl.evaluation.metrics.epitome_classifier.load_classifier`].
        bertscore_model, bertscore_layers (*optional*): An encoder and its layer, for BERTScore.
        judge, judge_options (*optional*): See [`~ee_trl.scoring.judge.chooser.load_chooser`].
        show (`bool`, *optional*): Whether scoring shows progress; by default where standard error is a terminal.
    """
    check_choice("tokenizer", tokenizer, TOKENIZERS)
    check_count("batch_size", batch_size)
    selector = EmpathyDataSelector(scorer, threshold=threshold, ties=ties, store=store, show_progress=show)
    try:
        classifier = None if epitome is None else load_classifier(epitome)
    except ValueError as error:
        raise EmpathyError(str(error)) from error
    if bertscore_model is not None:
        _check_encoder(bertscore_model, bertscore_layers)
    chooser = None if judge is None else load_chooser(judge, **(judge_options or {}))
    run, encoder = selector.new_run(), (bertscore_model, bertscore_layers)
    return Tools(run, selector.threshold, ties, tokenizer, batch_size, classifier, *encoder, chooser)


def _check_encoder(model: Any, layers: Any) -> None:
    """Raises [`EmpathyError`] if BERTScore's library is missing, or the encoder or its layer does not exist."""
    from transformers import AutoConfig

    require("bert_score", extra="bertscore", purpose="bertscore_model")
    try:
        there = AutoConfig.from_pretrained(model).num_hidden_layers
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise EmpathyError(
            f"bertscore_model {model!r} is not an encoder that can be loaded; valid: a folder or a hub id: {error}"
        ) from error
    if layers is not None and layers not in range(1, there + 1):
        raise EmpathyError(f"bertscore_layers {layers!r} is not valid; valid: 1 to {there}, the layers of {model!r}")


@dataclass(frozen=True)
class Measure:
    """
    One metric of one candidate.

    Args:
        resampler (`Resampler`): Computes its numbers from how often each sample counts.
        details (`dict`, *optional*): Other results: counts, fingerprints.
        samples (`dict[str, np.ndarray]`, *optional*): Numbers of each sample, of shape `(n,)`.
        beside (`Resampler`, *optional*): More numbers, which are not compared.
    """

    resampler: Resampler
    details: dict[str, Any] = field(default_factory=dict)
    samples: dict[str, np.ndarray] = field(default_factory=dict)
    beside: Resampler | None = None

    @property
    def resamplers(self) -> list[Resampler]:
        """Both resamplers, or the one there is."""
        return [self.resampler, *([self.beside] if self.beside else [])]

    def numbers(self) -> dict[str, float]:
        """All numbers by name."""
        return {name: value for part in self.resamplers for name, value in part.point().items()}


def numbers_of(measures: Mapping[str, Measure]) -> dict[str, float]:
    """All numbers of a candidate by name, such as `bleu4`, `dist1`, `words`, `perplexity`."""
    return {name: value for found in measures.values() for name, value in found.numbers().items()}


def check_metrics(metrics: Sequence[str] | None) -> tuple[str, ...]:
    """The metrics asked for, by default all, in the order of tables; raises [`EmpathyError`] for an unknown one."""
    for name in metrics or ():
        check_choice("metric", name, METRICS)
    return tuple(METRICS) if metrics is None else tuple(name for name in METRICS if name in metrics)


EMPATHY = ("empathy_axes", "epitome", "judge")
"""The metrics of empathy. Longer replies score higher on them, so their numbers are reported at like length too."""
LENGTH_BINS = 10
"""The most bins of reply length, in words; a bin holds about ten replies of each candidate at least."""


@dataclass(frozen=True)
class AtLikeLength(Resampler):
    """
    A metric of one candidate's replies, weighted so that all candidates have the same distribution of lengths.

    In each bin of length, the candidate's replies together count as much as the replies of all candidates there. A bin
    where one candidate has no reply counts for none of them.

    Args:
        metric (`Resampler`): The metric without weights.
        bins (`np.ndarray` of shape `(candidates, n)`): The bin of each reply, from 0; -1 for a blank reply.
        own (`np.ndarray` of shape `(n,)`): The bins of the metric's own replies.
    """

    metric: Resampler
    bins: np.ndarray
    own: np.ndarray

    @property
    def n(self) -> int:  # type: ignore[override]
        """The number of samples."""
        return self.metric.n

    def weights(self, counts: np.ndarray) -> np.ndarray:
        """How much each reply counts, for `counts` of shape `(r, n)`."""
        names = np.arange(self.bins.max(initial=0) + 1)
        own, *there = (counts @ (bins[:, None] == names) for bins in (self.own, *self.bins))
        factors = divided(np.sum(there, axis=0) * np.all(there, axis=0), own, otherwise=0.0)
        return counts * np.pad(factors, ((0, 0), (0, 1)))[:, self.own]  # -1 is the column of zeros

    def values(self, counts: np.ndarray) -> Values:
        """The candidate's own numbers at like length."""
        found = self.metric.values(self.weights(counts))
        return {name: values for name, values in found.items() if not name.startswith("reference_")}

    def ranks(self) -> np.ndarray:
        """See [`Resampler`]."""
        return self.metric.ranks()

    def take(self, order: np.ndarray) -> AtLikeLength:
        """See [`Resampler`]."""
        return AtLikeLength(self.metric.take(order), self.bins[:, order], self.own[order])


def at_like_length(
    measures: Sequence[Mapping[str, Measure]], replies: Sequence[Sequence[str]], compared: int | None = None
) -> list[dict[str, AtLikeLength]]:
    """
    For each candidate, with its measures and replies: metric of empathy -> its numbers at like length.

    The first `compared` candidates, by default all, make up the distribution of lengths; the others follow it.
    """
    words = np.array([[len(text.split()) for text in texts] for texts in replies])
    bins = length_bins(words.ravel(), min(LENGTH_BINS, words.shape[1] // 10)).reshape(words.shape)
    bins = np.where(words == 0, -1, bins)
    return [
        {
            name: AtLikeLength(measure.resampler, bins[:compared], own)
            for name, measure in found.items()
            if name in EMPATHY
        }
        for own, found in zip(bins, measures, strict=True)
    ]


def check_libraries(metrics: Sequence[str], tokenizer: str = "nltk") -> None:
    """Raises [`MissingExtraError`] if a library of these metrics is missing; an encoder's is checked with its name."""
    by_words = ("word_f1", "distinct") if tokenizer != "nltk" else ()
    for name in metrics:
        if name in LIBRARIES and name not in ("bertscore", *by_words):
            require(LIBRARIES[name], extra="metrics", purpose=f"metric {name!r}")


class Evaluator:
    """Measures candidates on one set of dialogues; what metrics need from the references is computed once."""

    def __init__(self, eval_set: EvalSet, tools: Tools | None = None) -> None:
        self.eval_set, self.tools = eval_set, tools or Tools()

    def measure(
        self, replies: Replies, model: LoadedModel | None = None, metrics: Sequence[str] | None = None
    ) -> dict[str, Measure]:
        """
        Metric -> its measure, for those of `metrics` (names in [`METRICS`], by default all) that have their tools.

        Perplexity needs `model`, the model that replied. [`numbers_of`] gives all numbers by name.
        """
        tools = self.tools
        missing = {
            "empathy_axes": tools.run is None,
            "completion_perplexity": model is None,
            "epitome": tools.classifier is None,
            "emotion_accuracy": replies.emotions is None or self.eval_set.emotion_labels is None,
            "bertscore": tools.bertscore_model is None,
            "judge": tools.judge is None,
        }
        wanted = [name for name in check_metrics(metrics) if not missing.get(name)]
        return {name: METRICS[name].make(self, replies, model) for name in wanted}

    def measure_references(self, metrics: Sequence[str] | None = None) -> dict[str, Measure]:
        """The references' own measures: how varied they are, and their scores."""
        found, wanted = {}, check_metrics(metrics)
        if "distinct" in wanted:
            found["distinct"] = _distinct(self, Replies(self.eval_set.references), None)
        if "empathy_axes" in wanted and self.tools.run is not None:
            found["empathy_axes"] = self.axes_measure(self.reference_scores, None)
        return found

    @cached_property
    def reference_tokens(self) -> list[list[str]]:
        """The references' tokens, for BLEU and word F1."""
        return self.tokens(self.eval_set.references)

    @cached_property
    def reference_scores(self) -> np.ndarray:
        """The references' sensibility and rationality, shape `(n, 2)`."""
        return self.scores(self.eval_set.references)

    @cached_property
    def reference_levels(self) -> np.ndarray:
        """The references' EPITOME levels, shape `(n, 3)`."""
        return self.levels(self.eval_set.references)

    def tokens(self, texts: Sequence[str], default: str = "whitespace") -> list[list[str]]:
        """The tokens of texts; `default` is the metric's own tokenizer."""
        return tokenize_all(texts, self.tools.tokenizer or default)

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """Sensibility and rationality of replies to the set, shape `(n, 2)`."""
        assert self.tools.run is not None
        return empathy_axes.reply_scores(self.tools.run, self.eval_set.prompts, texts)

    def levels(self, texts: Sequence[str]) -> np.ndarray:
        """EPITOME levels of replies to the set, shape `(n, 3)`."""
        return epitome.predicted_levels(self.tools.classifier, self.eval_set.prompts, texts)

    def axes_measure(self, scores: np.ndarray, references: np.ndarray | None) -> Measure:
        """The measure of scores, and of their differences to the references' scores if given."""
        assert self.tools.run is not None
        unscored = int(np.isnan(scores).any(axis=1).sum())
        details = {"scorer": self.tools.run.scorer.fingerprint, "unscored": unscored}
        resampler = empathy_axes.axes_resampler(scores, references, self.tools.threshold, self.tools.ties)
        return Measure(resampler, details, {axis: scores[:, i] for i, axis in enumerate(AXES)})


def _bleu(by: Evaluator, replies: Replies, model: LoadedModel | None) -> Measure:
    targets = [[target] for target in by.reference_tokens]
    resampler = dialogue_bleu.bleu_resampler(by.tokens(replies.texts), targets)
    return Measure(resampler, {"tokenizer": by.tools.tokenizer or "whitespace"})


def _rouge(by: Evaluator, replies: Replies, model: LoadedModel | None) -> Measure:
    scored = dialogue_rouge.sample_scores(replies.texts, by.eval_set.references)
    return Measure(means(scored), {}, {"rougeL": scored["rougeL"]})


def _word_f1(by: Evaluator, replies: Replies, model: LoadedModel | None) -> Measure:
    resampler = word_f1.word_f1_resampler(by.tokens(replies.texts), by.reference_tokens)
    return Measure(resampler, {"tokenizer": by.tools.tokenizer or "whitespace"})


def _distinct(by: Evaluator, replies: Replies, model: LoadedModel | None) -> Measure:
    corpus = by.tokens(replies.texts, "nltk")
    words = np.array([len(tokens) for tokens in corpus], float)
    details = {"tokenizer": by.tools.tokenizer or "nltk", "n": len(corpus), "words": int(words.sum())}
    return Measure(distinct.DistinctResampler(corpus), details, {"words": words}, means({"words": words}))


def _axes(by: Evaluator, replies: Replies, model: LoadedModel | None) -> Measure:
    return by.axes_measure(by.scores(replies.texts), by.reference_scores)


def _perplexity(by: Evaluator, replies: Replies, model: LoadedModel | None) -> Measure:
    assert model is not None
    limit = getattr(model.model.config.get_text_config(), "max_position_embeddings", None)
    samples = [
        completion_perplexity.tokenize_sample(
            d.prompt, d.completion, model.tokenizer, max_length=limit, where=f"dialogue {i} of {len(by.eval_set)}"
        )
        for i, d in enumerate(by.eval_set.dialogues, 1)
    ]
    nlls = completion_perplexity.sample_nlls(samples, model.model, batch_size=by.tools.batch_size)
    tokens = [sample.scored for sample in samples]
    details = {"tokens": sum(tokens), "truncated": sum(sample.truncated for sample in samples)}
    return Measure(completion_perplexity.perplexity_resampler(nlls, tokens), details)


def _epitome(by: Evaluator, replies: Replies, model: LoadedModel | None) -> Measure:
    levels = by.levels(replies.texts)
    samples = {name: levels[:, i].astype(float) for i, name in enumerate(epitome.MECHANISMS)}
    return Measure(epitome.level_resampler(levels, by.reference_levels), {}, samples)


def _emotion(by: Evaluator, replies: Replies, model: LoadedModel | None) -> Measure:
    wanted = by.eval_set.emotion_labels or []
    given = emotion_accuracy.check_labels("predicted_emotion", replies.emotions)
    hits = np.array([a == b for a, b in zip(given, wanted, strict=True)], float)
    return Measure(emotion_accuracy.emotion_resampler(given, wanted), {}, {"emotion_hit": hits})


def _bertscore(by: Evaluator, replies: Replies, model: LoadedModel | None) -> Measure:
    encoder, layers = by.tools.bertscore_model, by.tools.bertscore_layers
    references = by.eval_set.references
    scored = bertscore.sample_similarities(replies.texts, references, encoder, layers, by.tools.batch_size)
    details = {"model": encoder, "num_layers": int(scored["num_layers"])}
    resampler = means({name: scored[name] for name in bertscore.NAMES})
    return Measure(resampler, details, {"bertscore_f1": scored["bertscore_f1"]})


def _judge(by: Evaluator, replies: Replies, model: LoadedModel | None) -> Measure:
    judge = by.tools.judge
    ratings = sample_ratings(judge, by.eval_set.prompts, replies.texts)
    unanswered = int(sum(np.isnan(values).sum() for values in ratings.values()))
    return Measure(means(ratings), {"judge": judge.fingerprint, "unanswered": unanswered}, dict(ratings))


@dataclass(frozen=True)
class Metric:
    """How to measure replies, the primary number (the only one with a p value), and what else the metric needs."""

    make: Callable[[Evaluator, Replies, LoadedModel | None], Measure]
    primary: str
    needs: str = ""


METRICS: Mapping[str, Metric] = {
    "dialogue_bleu": Metric(_bleu, "bleu4"),
    "dialogue_rouge": Metric(_rouge, "rougeL"),
    "word_f1": Metric(_word_f1, "word_f1"),
    "distinct": Metric(_distinct, "dist2"),
    "empathy_axes": Metric(_axes, "sensibility"),
    "completion_perplexity": Metric(_perplexity, "perplexity", "a model, not a file of replies"),
    "epitome": Metric(_epitome, "emotional_reactions", "a classifier (--epitome)"),
    "emotion_accuracy": Metric(
        _emotion, "accuracy", "an emotion of EmpatheticDialogues for each dialogue, and a column predicted_emotion"
    ),
    "bertscore": Metric(_bertscore, "bertscore_f1", "an encoder (--bertscore-model)"),
    "judge": Metric(_judge, "empathy", "a judge (--judge)"),
}
"""The metrics that a comparison knows, in the order of its tables."""
