"""How difficult a reply is for a model: a column that `select(rule="top")` can rank by."""

from __future__ import annotations

from typing import Any

import numpy as np

from ee_trl.data.samples import iter_samples

from .bootstrap import divided
from .candidates import LoadedModel, load_candidate
from .metrics.completion_perplexity import TokenizedSample, sample_nlls, tokenize_sample


def add_difficulty(dataset: Any, model: Any, column: str = "ifd", *, batch_size: int = 8) -> Any:
    """
    Adds the Instruction-Following Difficulty of each row's reply: how much of its perplexity the context leaves.

    It is the perplexity of the reply's tokens given the context, divided by that of the same tokens alone
    ([arXiv:2402.00530](https://arxiv.org/abs/2402.00530)). Near 0 the context tells the reply. At 1 and above it does
    not help; there the value is null, since the source drops these samples.

    Args:
        dataset (`Dataset`): Rows with one dialogue each, in any format; the last reply of each counts.
        model (`str`, `os.PathLike` or [`LoadedModel`]): The model to be trained, or a smaller one.
        column (`str`, *optional*, defaults to `"ifd"`): The name of the column.
        batch_size (`int`, *optional*, defaults to `8`): Replies at a time.

    Returns:
        `Dataset` with the column; null also where a row has no dialogue, or its reply no second token.
    """
    loaded = model if isinstance(model, LoadedModel) else load_candidate(model)
    samples: dict[int, TokenizedSample] = {}
    for batch in iter_samples(dataset, "last"):
        for sample in batch.samples:
            if (dialogue := sample.dialogue) is not None:
                row = batch.numbers[sample.row]
                samples[row] = tokenize_sample(dialogue.prompt, dialogue.completion, loaded.tokenizer)
    given = [*samples.values()]
    alone = [TokenizedSample(sample.ids[sample.start :], 0) for sample in given]
    nlls, counts = [], []
    for side in (given, alone):
        nlls.append(np.array(sample_nlls(side, loaded.model, batch_size=batch_size, progress=True)))
        counts.append(np.array([sample.scored for sample in side], float))
    ratios = dict(zip(samples, np.exp(divided(nlls[0], counts[0]) - divided(nlls[1], counts[1])), strict=True))
    values = [float(ratio) if (ratio := ratios.get(row, np.nan)) < 1 else None for row in range(len(dataset))]
    return dataset.add_column(column, values)
