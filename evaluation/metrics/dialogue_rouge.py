"""Mean ROUGE F1 per sample. The score of a sample is rouge_score's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from ee_trl.errors import require

from ..bootstrap import means, with_intervals
from ..texts import Tokenizer, check_columns, get_tokenizer


ROUGE_TYPES = ("rouge1", "rouge2", "rougeL")


def rouge_scores(
    predictions: Sequence[str],
    references: Sequence[str],
    use_stemmer: bool = False,
    tokenizer: Tokenizer | None = None,
    **bootstrap: Any,
) -> dict[str, Any]:
    """ROUGE F1 (Lin 2004), the mean over the samples, x100; card: `evaluation/dialogue_rouge/README.md`."""
    samples = sample_scores(predictions, references, use_stemmer, tokenizer)
    # fsum rounds once, so that the mean does not depend on the order of the samples
    averages = {name: math.fsum(values) / len(values) for name, values in samples.items()}
    return with_intervals({**averages, "n": len(predictions)}, lambda: means(samples), **bootstrap)


def sample_scores(
    predictions: Sequence[str],
    references: Sequence[str],
    use_stemmer: bool = False,
    tokenizer: Tokenizer | None = None,
) -> dict[str, np.ndarray]:
    """The F1 of each sample, x100, of shape `(n,)`; arguments as in [`rouge_scores`]."""
    predictions, references = check_columns({"predictions": predictions, "references": references})
    if tokenizer is not None and use_stemmer:
        raise ValueError("use_stemmer=True works with rouge_score's own tokenizer only: leave tokenizer unset.")
    module = require("rouge_score.rouge_scorer", extra="metrics", purpose="metric 'dialogue_rouge'")
    tokens = None if tokenizer is None else SimpleNamespace(tokenize=get_tokenizer(tokenizer))
    scorer = module.RougeScorer(list(ROUGE_TYPES), use_stemmer=use_stemmer, tokenizer=tokens)
    samples = [scorer.score(target=ref, prediction=pred) for pred, ref in zip(predictions, references, strict=True)]
    return {name: np.array([100.0 * sample[name].fmeasure for sample in samples]) for name in ROUGE_TYPES}
