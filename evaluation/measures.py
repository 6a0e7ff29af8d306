"""All that is measured of one candidate's replies: each metric as numbers, as a resampler, and sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ee_trl.axes import AXES, DEFAULT_THRESHOLD
from ee_trl.errors import EmpathyError, unknown

from .bootstrap import Resampler
from .checks import has_emotions


if TYPE_CHECKING:
    from ee_trl.scoring.run import ScoringRun

    from .candidates import LoadedModel, Replies
    from .eval_set import EvalSet

METRICS = (
    "dialogue_bleu", "dialogue_rouge", "word_f1", "distinct", "empathy_axes", "completion_perplexity", "epitome",
    "emotion_accuracy", "bertscore", "judge",
)  # fmt: skip
"""Those that a comparison knows, in the order of its tables."""

NEEDS = {
    "completion_perplexity": "a model, not a file of replies",
    "epitome": "a classifier (--epitome)",
    "emotion_accuracy": "an emotion of EmpatheticDialogues for each dialogue, and a column predicted_emotion",
    "bertscore": "an encoder (--bertscore-model)",
    "judge": "a judge (--judge)",
}
"""What a metric needs beyond the replies."""

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
"""What a number is, for tables. The names are also the numbers that the page and the text show."""


@dataclass(frozen=True)
class Tools:
    """
    What metrics are computed with.

    Args:
        run ([`~ee_trl.scoring.run.ScoringRun`]): The scorer of the axes, with its store.
        threshold, ties (*optional*): Of the quadrants.
        tokenizer (`str`, *optional*, defaults to `"nltk"`): Of BLEU, word F1 and Dist.
        batch_size (`int`, *optional*, defaults to `16`): Of perplexity and BERTScore.
        classifier (*optional*): Of EPITOME levels.
        bertscore_model, bertscore_layers (*optional*): Of BERTScore.
        judge (*optional*): A [`~ee_trl.scoring.judge.chooser.Chooser`].
    """

    run: ScoringRun
    threshold: Any = DEFAULT_THRESHOLD
    ties: str = "drop"
    tokenizer: str = "nltk"
    batch_size: int = 16
    classifier: Any = None
    bertscore_model: str | None = None
    bertscore_layers: int | None = None
    judge: Any = None


@dataclass(frozen=True)
class Measure:
    """
    One metric of one candidate.

    Args:
        resampler ([`~ee_trl.evaluation.bootstrap.Resampler`]): Its numbers as a function of how often each sample
            counts, in the set's order.
        details (`dict`, *optional*): What else belongs to it: counts, fingerprints.
        samples (`dict[str, np.ndarray]`, *optional*): Numbers of each sample, of shape `(n,)`.
    """

    resampler: Resampler
    details: dict[str, Any] = field(default_factory=dict)
    samples: dict[str, np.ndarray] = field(default_factory=dict)


def check_metrics(metrics: Sequence[str] | None) -> tuple[str, ...]:
    """The metrics asked for, all of them by default; raises [`EmpathyError`] for one that is not known."""
    for name in metrics or ():
        if name not in METRICS:
            raise EmpathyError(unknown("metric", name, METRICS))
    return METRICS if metrics is None else tuple(name for name in METRICS if name in metrics)


def measure_references(eval_set: EvalSet, tools: Tools, metrics: Sequence[str]) -> dict[str, Measure]:
    """What can be said of the references themselves: how varied they are, and their scores."""
    from .candidates import Replies

    of_themselves = Replies(eval_set.references, "references", eval_set.fingerprint)
    makers = {"distinct": _distinct, "empathy_axes": _axes_alone}
    return {name: make(eval_set, of_themselves, None, tools) for name, make in makers.items() if name in metrics}


def measure(
    eval_set: EvalSet, replies: Replies, loaded: LoadedModel | None, tools: Tools, metrics: Sequence[str]
) -> dict[str, Measure]:
    """Every metric asked for that this candidate and these tools allow."""
    there = {
        "completion_perplexity": loaded is not None,
        "epitome": tools.classifier is not None,
        "emotion_accuracy": replies.emotions is not None and has_emotions(eval_set),
        "bertscore": tools.bertscore_model is not None,
        "judge": tools.judge is not None,
    }
    return {name: MAKERS[name](eval_set, replies, loaded, tools) for name in metrics if there.get(name, True)}


# ---- each metric ---------------------------------------------------------------------------------------------------

Maker = Callable[["EvalSet", "Replies", "LoadedModel | None", Tools], Measure]


def _bleu(eval_set: EvalSet, replies: Replies, loaded: LoadedModel | None, tools: Tools) -> Measure:
    from .metrics.dialogue_bleu import bleu_resampler
    from .texts import tokenize_all

    hypotheses = tokenize_all(replies.texts, tools.tokenizer)
    targets = tokenize_all(eval_set.references, tools.tokenizer)
    return Measure(bleu_resampler(hypotheses, [[target] for target in targets]), {"tokenizer": tools.tokenizer})


def _rouge(eval_set: EvalSet, replies: Replies, loaded: LoadedModel | None, tools: Tools) -> Measure:
    from .metrics.dialogue_rouge import rouge_resampler, sample_scores

    scored = sample_scores(replies.texts, eval_set.references)
    return Measure(rouge_resampler(scored), {}, {"rougeL": np.array(scored["rougeL"])})


def _word_f1(eval_set: EvalSet, replies: Replies, loaded: LoadedModel | None, tools: Tools) -> Measure:
    from .metrics.word_f1 import word_f1_resampler
    from .texts import tokenize_all

    hypotheses = tokenize_all(replies.texts, tools.tokenizer)
    targets = tokenize_all(eval_set.references, tools.tokenizer)
    return Measure(word_f1_resampler(hypotheses, targets), {"tokenizer": tools.tokenizer})


def _distinct(eval_set: EvalSet, replies: Replies, loaded: LoadedModel | None, tools: Tools) -> Measure:
    from .metrics.distinct import DistinctResampler
    from .texts import tokenize_all

    corpus = tokenize_all(replies.texts, tools.tokenizer)
    words = np.array([len(tokens) for tokens in corpus], float)
    details = {"tokenizer": tools.tokenizer, "n": len(corpus), "words": int(words.sum())}
    return Measure(DistinctResampler(corpus), details, {"words": words})


def _axes_alone(eval_set: EvalSet, replies: Replies, loaded: LoadedModel | None, tools: Tools) -> Measure:
    from .metrics.empathy_axes import axes_resampler, reply_scores

    scores = reply_scores(tools.run, eval_set.prompts, replies.texts)
    return _axes_measure(axes_resampler(scores, None, tools.threshold, tools.ties), scores, tools)


def _axes(eval_set: EvalSet, replies: Replies, loaded: LoadedModel | None, tools: Tools) -> Measure:
    from .metrics.empathy_axes import axes_resampler, reply_scores

    scores = reply_scores(tools.run, eval_set.prompts, replies.texts)
    references = reply_scores(tools.run, eval_set.prompts, eval_set.references)
    return _axes_measure(axes_resampler(scores, references, tools.threshold, tools.ties), scores, tools)


def _axes_measure(resampler: Resampler, scores: np.ndarray, tools: Tools) -> Measure:
    details = {"scorer": tools.run.scorer.fingerprint, "unscored": int(np.isnan(scores).any(axis=1).sum())}
    return Measure(resampler, details, {axis: scores[:, i] for i, axis in enumerate(AXES)})


def _perplexity(eval_set: EvalSet, replies: Replies, loaded: LoadedModel | None, tools: Tools) -> Measure:
    from .metrics.completion_perplexity import perplexity_resampler, sample_nlls, tokenize_sample

    assert loaded is not None
    limit = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None)
    samples = [
        tokenize_sample(dialogue.prompt, dialogue.completion, loaded.tokenizer, max_length=limit)
        for dialogue in eval_set.dialogues
    ]
    nlls = sample_nlls(samples, loaded.model, batch_size=tools.batch_size)
    tokens = [sample.scored for sample in samples]
    details = {"tokens": sum(tokens), "truncated": sum(sample.truncated for sample in samples)}
    return Measure(perplexity_resampler(nlls, tokens), details)


def _epitome(eval_set: EvalSet, replies: Replies, loaded: LoadedModel | None, tools: Tools) -> Measure:
    from .metrics.epitome import MECHANISMS, level_resampler, predicted_levels

    levels = predicted_levels(tools.classifier, eval_set.prompts, replies.texts)
    references = predicted_levels(tools.classifier, eval_set.prompts, eval_set.references)
    samples = {name: levels[:, i].astype(float) for i, name in enumerate(MECHANISMS)}
    return Measure(level_resampler(levels, references), {}, samples)


def _emotion(eval_set: EvalSet, replies: Replies, loaded: LoadedModel | None, tools: Tools) -> Measure:
    from .metrics.emotion_accuracy import check_labels, emotion_resampler

    given = check_labels("predicted_emotion", replies.emotions)
    wanted = check_labels("emotion", eval_set.emotions)
    hits = np.array([a == b for a, b in zip(given, wanted, strict=True)], float)
    return Measure(emotion_resampler(given, wanted), {}, {"emotion_hit": hits})


def _bertscore(eval_set: EvalSet, replies: Replies, loaded: LoadedModel | None, tools: Tools) -> Measure:
    from .metrics.bertscore import bertscore_resampler, sample_similarities

    scored = sample_similarities(
        replies.texts, eval_set.references, tools.bertscore_model,
        num_layers=tools.bertscore_layers, batch_size=tools.batch_size,
    )  # fmt: skip
    details = {"model": tools.bertscore_model, "num_layers": int(scored["num_layers"])}
    return Measure(bertscore_resampler(scored), details, {"bertscore_f1": scored["bertscore_f1"]})


def _judge(eval_set: EvalSet, replies: Replies, loaded: LoadedModel | None, tools: Tools) -> Measure:
    from .bootstrap import means
    from .metrics.judge import sample_ratings

    ratings = sample_ratings(tools.judge, eval_set.prompts, replies.texts)
    unanswered = int(sum(np.isnan(values).sum() for values in ratings.values()))
    return Measure(means(ratings), {"judge": tools.judge.fingerprint, "unanswered": unanswered}, dict(ratings))


MAKERS: Mapping[str, Maker] = {
    "dialogue_bleu": _bleu,
    "dialogue_rouge": _rouge,
    "word_f1": _word_f1,
    "distinct": _distinct,
    "empathy_axes": _axes,
    "completion_perplexity": _perplexity,
    "epitome": _epitome,
    "emotion_accuracy": _emotion,
    "bertscore": _bertscore,
    "judge": _judge,
}
