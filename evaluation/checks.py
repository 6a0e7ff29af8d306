"""What an evaluation is asked for, held against what is valid before anything is loaded or generated."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ee_trl.errors import EmpathyError, FormatError, require


if TYPE_CHECKING:
    from .candidates import Replies
    from .eval_set import EvalSet


def is_whole(value: Any, least: int) -> bool:
    """Whether it is a whole number of at least `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check_whole(name: str, value: Any, least: int) -> None:
    """Raises [`EmpathyError`] for what is no whole number of at least `least`."""
    if not is_whole(value, least):
        raise EmpathyError(f"{name} {value!r} is not a whole number of at least {least}")


def check_decoding(max_new_tokens: Any, temperature: Any, top_p: Any, seed: Any) -> None:
    """Raises [`EmpathyError`] for settings with which no reply can be generated."""
    check_whole("max_new_tokens", max_new_tokens, 1)
    check_whole("seed", seed, 0)
    if not isinstance(temperature, (int, float)) or not 0 <= temperature < math.inf:
        raise EmpathyError(f"temperature {temperature!r} is not valid; valid: 0 (greedy), or a number above 0")
    if not isinstance(top_p, (int, float)) or not 0 < top_p <= 1:
        raise EmpathyError(f"top_p {top_p!r} is not valid; valid: a share above 0, up to 1 (all)")


def check_encoder(model: Any, layers: Any) -> None:
    """Raises [`EmpathyError`] where BERTScore's library, its encoder or that layer of it is not there."""
    from transformers import AutoConfig

    require("bert_score", extra="bertscore", purpose="bertscore_model")
    try:
        there = AutoConfig.from_pretrained(model).num_hidden_layers
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise EmpathyError(
            f"bertscore_model {model!r} is not an encoder that can be loaded; valid: a folder or a hub id: {error}"
        ) from error
    if layers is not None and not (is_whole(layers, 1) and layers <= there):
        raise EmpathyError(f"bertscore_layers {layers!r} is not valid; valid: 1 to {there}, the layers of {model!r}")


def has_emotions(eval_set: EvalSet) -> bool:
    """Whether each dialogue has one of the 32 emotions of EmpatheticDialogues."""
    from .metrics.emotion_accuracy import check_labels

    try:
        return eval_set.emotions is not None and bool(check_labels("emotion", eval_set.emotions))
    except (TypeError, ValueError):
        return False


def check_emotions(given: Mapping[str, Replies], eval_set: EvalSet, metrics: Sequence[str]) -> None:
    """Raises [`FormatError`] for an emotion beside a reply that is none, where it is to be measured."""
    from .metrics.emotion_accuracy import check_labels

    if "emotion_accuracy" not in metrics or not has_emotions(eval_set):
        return
    for name, replies in given.items():
        if replies.emotions is not None:
            try:
                check_labels("predicted_emotion", replies.emotions)
            except (TypeError, ValueError) as error:
                raise FormatError(
                    f"{name!r}, {replies.description}: {error} Correct it, drop the column, or name --metrics without "
                    "emotion_accuracy."
                ) from error
