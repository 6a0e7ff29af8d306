"""What the judge's answers come to: without `evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ee_trl.data.dialogue import dialogue_of
from ee_trl.scoring.judge.chooser import Chooser, checked_choices, load_chooser

from .bootstrap import Sums, means, with_intervals
from .questions import ASPECTS, LEVELS, VERDICTS, VERSION, absolute_question, pair_question
from .texts import check_contexts, check_same_length, check_texts


def judge_replies(
    predictions: Sequence[str],
    contexts: Sequence[Any],
    judge: Any = None,
    aspects: Sequence[str] = tuple(ASPECTS),
    judge_options: Mapping[str, Any] | None = None,
    resamples: int = 0,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """
    Mean ratings of replies from 1 to 3 on each aspect, by an LLM judge: the expected value of its answer.

    Args:
        predictions (`Sequence[str]`): The replies.
        contexts (`Sequence[list]`): What came before each, utterances or messages.
        judge (`str`, `os.PathLike` or [`~ee_trl.scoring.judge.chooser.Chooser`]): A folder or hub id of a causal
            language model, `"server"`, or an object with `fingerprint` and `choose`.
        aspects (`Sequence[str]`, *optional*): Of `naturalness`, `coherence`, `empathy`; by default all.
        judge_options (`Mapping`, *optional*): Of a judge that is loaded here, e.g. `{"quantization": "nf4"}`.
        resamples (`int`, *optional*, defaults to `0`): Bootstrap resamples for an interval of each number.
        confidence (`float`, *optional*, defaults to `0.95`): Of the intervals.
        seed (`int`, *optional*, defaults to `0`): Of the resamples.

    Returns:
        `dict`: each aspect's mean (1 to 3), `unanswered` (questions), `n` (replies) and `judge` (what judged, and by
        which questions); with `resamples` also `<aspect>_interval`.

    Raises:
        ValueError: no samples, columns of different lengths, an unknown aspect, or no such judge.
        TypeError: something is not of the form asked for.

    Example:

    >>> class Longest:
    ...     fingerprint = "longest"
    ...     def choose(self, questions, options):
    ...         lengths = [len(question.candidates[0][1]) for question in questions]
    ...         return np.array([[0.0, 0.0, 1.0] if length > 5 else [1.0, 0.0, 0.0] for length in lengths])
    >>> found = judge_replies(["i am so sorry", "oh"], ["my dog died"] * 2, Longest())
    >>> found["empathy"], found["n"], found["judge"]
    (2.0, 2, 'longest/judge-1')
    """
    texts, before, asked = _checked(predictions, contexts, judge, aspects, judge_options)
    ratings = sample_ratings(asked, before, texts, aspects)
    resampler = means(ratings)
    found = {
        **resampler.point(),
        "unanswered": int(sum(np.isnan(rating).sum() for rating in ratings.values())),
        "n": len(texts),
        "judge": f"{asked.fingerprint}/{VERSION}",
    }
    return with_intervals(found, lambda: resampler, resamples, confidence, seed)


def sample_ratings(
    judge: Chooser, contexts: Sequence[Any], replies: Sequence[str], aspects: Sequence[str] = tuple(ASPECTS)
) -> dict[str, np.ndarray]:
    """Aspect -> the rating of each reply, of shape `(n,)`, 1 to 3; NaN where the judge gave none."""
    dialogues = [dialogue_of(context, reply) for context, reply in zip(contexts, replies, strict=True)]
    values = np.array([float(level) for level in LEVELS])
    ratings = {}
    for aspect in aspects:
        questions = [absolute_question(aspect, dialogue) for dialogue in dialogues]
        ratings[aspect] = checked_choices(judge, questions, LEVELS) @ values
    return ratings


def judge_pairs(
    predictions: Sequence[str],
    references: Sequence[str],
    contexts: Sequence[Any],
    judge: Any = None,
    aspects: Sequence[str] = tuple(ASPECTS),
    judge_options: Mapping[str, Any] | None = None,
    resamples: int = 0,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """
    Which of two replies an LLM judge prefers on each aspect, asked in both orders.

    A reply wins where it is preferred in both orders, loses where the other is; every other outcome is a tie.

    Args:
        predictions, references (`Sequence[str]`): The two replies to each context; wins are the predictions'.
        contexts, judge, aspects, judge_options, resamples, confidence, seed: As of [`judge_replies`].

    Returns:
        `dict`: for each aspect `<aspect>_win`, `_tie`, `_lose` (shares), `_preference` (mean probability of the
        prediction being better, a tie counting half, over both orders: 0.5 is even), `_position_bias` (how much more
        probable the first place is than the second: -1 to 1, 0 is none) and `_consistency` (share of pairs with the
        same verdict in both orders); `unanswered` (questions), `n` (pairs), `judge`; with `resamples` also
        `<name>_interval`.

    Example:

    >>> class First:
    ...     fingerprint = "first"
    ...     def choose(self, questions, options):
    ...         return np.tile([1.0, 0.0, 0.0], (len(questions), 1))
    >>> found = judge_pairs(["i am so sorry"], ["oh"], ["my dog died"], First(), aspects=("empathy",))
    >>> found["empathy_tie"], found["empathy_preference"], found["empathy_position_bias"], found["empathy_consistency"]
    (1.0, 0.5, 1.0, 0.0)
    """
    texts, before, asked = _checked(predictions, contexts, judge, aspects, judge_options)
    dialogues = [dialogue_of(context, text) for context, text in zip(before, texts, strict=True)]
    others = check_texts("references", references)
    check_same_length(predictions=texts, references=others)
    columns: dict[str, np.ndarray] = {}
    unanswered = 0
    for aspect in aspects:
        triples = list(zip(dialogues, texts, others, strict=True))
        asking = [pair_question(aspect, dialogue, ours, theirs) for dialogue, ours, theirs in triples]
        asking += [pair_question(aspect, dialogue, theirs, ours) for dialogue, ours, theirs in triples]
        chances = checked_choices(asked, asking, VERDICTS)
        unanswered += int(np.isnan(chances).any(axis=1).sum())
        columns |= _pair_columns(aspect, chances[: len(texts)], chances[len(texts) :])
    resampler = pair_resampler(columns)
    found = {
        **resampler.point(), "unanswered": unanswered, "n": len(texts), "judge": f"{asked.fingerprint}/{VERSION}"
    }  # fmt: skip
    return with_intervals(found, lambda: resampler, resamples, confidence, seed)


def pair_resampler(columns: Mapping[str, np.ndarray]) -> Sums:
    """The numbers of [`judge_pairs`] for resamples, from a column of shape `(n,)` for each."""
    return means(columns)


def _pair_columns(aspect: str, first: np.ndarray, second: np.ndarray) -> dict[str, np.ndarray]:
    """From probabilities of A, B, neither, `(n, 3)`, with the prediction as A and as B, to a column of each number."""
    missing = np.isnan(first).any(axis=1) | np.isnan(second).any(axis=1)
    ours, theirs = first.argmax(axis=1), np.array([1, 0, 2])[second.argmax(axis=1)]  # 0: the prediction is better
    verdict = np.where(ours == theirs, ours, 2)
    preference = (first[:, 0] + first[:, 2] / 2 + second[:, 1] + second[:, 2] / 2) / 2
    columns = {
        "win": verdict == 0,
        "tie": verdict == 2,
        "lose": verdict == 1,
        "preference": preference,
        "position_bias": (first[:, 0] - first[:, 1] + second[:, 0] - second[:, 1]) / 2,
        "consistency": ours == theirs,
    }
    return {f"{aspect}_{name}": np.where(missing, np.nan, column) for name, column in columns.items()}


def _checked(
    predictions: Sequence[str],
    contexts: Sequence[Any],
    judge: Any,
    aspects: Sequence[str],
    judge_options: Mapping[str, Any] | None,
) -> tuple[list[str], list[Any], Any]:
    texts, before = check_texts("predictions", predictions), check_contexts("contexts", contexts)
    check_same_length(predictions=texts, contexts=before)
    unknown = [aspect for aspect in aspects if aspect not in ASPECTS]
    if unknown or not aspects or isinstance(aspects, str):
        raise ValueError(f"unknown aspects {unknown or aspects!r}; valid: a list of {', '.join(ASPECTS)}.")
    if judge is None:
        raise ValueError("judge is needed: a model's folder or hub id, 'server', or an object with `choose`.")
    return texts, before, load_chooser(judge, **(judge_options or {}))
