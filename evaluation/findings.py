"""What measures come to: numbers with intervals, paired differences, means by emotion, telling dialogues."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ee_trl.axes import AXES

from .bootstrap import Bootstrap, compare, holm, intervals, means


if TYPE_CHECKING:
    from .candidates import Replies
    from .eval_set import EvalSet
    from .measures import Measure

EXAMPLES = 10
"""How many dialogues a report shows."""


def samples_of(measures: Mapping[str, Measure]) -> dict[str, np.ndarray]:
    """All numbers that single samples have."""
    return {name: values for measure in measures.values() for name, values in measure.samples.items()}


def numbers_of(measures: Mapping[str, Measure], bootstrap: Bootstrap) -> dict[str, Any]:
    """All numbers of a candidate by name, their intervals, and what else belongs to each metric."""
    numbers: dict[str, float] = {}
    ends: dict[str, list[float]] = {}
    for name, found in measures.items():
        resamplers: list[Any] = [found.resampler]
        if name == "distinct":
            resamplers.append(means({"words": found.samples["words"]}))
        for resampler in resamplers:
            numbers |= resampler.point()
            ends |= intervals(resampler, bootstrap)
    return {"numbers": numbers, "intervals": ends, "details": {name: m.details for name, m in measures.items()}}


def differences(
    pairs: Sequence[tuple[str, str]],
    measures: Mapping[str, Mapping[str, Measure]],
    bootstrap: Bootstrap,
) -> list[dict[str, Any]]:
    """The paired differences of each pair of candidates, with Holm's correction; none without a bootstrap."""
    if not bootstrap.resamples:
        return []
    found = []
    for a, b in pairs:
        numbers: dict[str, dict[str, Any]] = {}
        for name in (name for name in measures[a] if name in measures[b]):
            parts = compare(measures[a][name].resampler, measures[b][name].resampler, bootstrap)
            numbers |= {k: v for k, v in parts.items() if not k.startswith("reference_")}
        corrected = holm({name: row["p"] for name, row in numbers.items()})
        found.append({"a": a, "b": b, "numbers": {k: {**row, "p_holm": corrected[k]} for k, row in numbers.items()}})
    return found


def by_emotion(eval_set: EvalSet, samples: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, dict[str, Any]]:
    """Emotion -> how many dialogues, and the mean of each number that samples have, by candidate."""
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
