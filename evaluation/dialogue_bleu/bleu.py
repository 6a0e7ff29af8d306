"""Corpus BLEU: the arithmetic, without `evaluate`. The n-gram counts and the score are nltk's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .texts import Tokenizer, check_references, check_same_length, check_texts, tokenize_all


MAX_ORDER = 4
EPSILON = 1e-12


def corpus_bleu_scores(
    hypotheses: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> dict[str, float | int]:
    """
    BLEU-1 to BLEU-4 of a corpus of token lists (Papineni et al. 2002), each with uniform weights, x100.

    BLEU-N = 100 * BP * exp(1/N * sum of log p_n for n from 1 to N), with p_n the clipped n-gram precision over the
    corpus and BP = min(1, exp(1 - r/c)), c the length of all hypotheses and r that of the closest references. Where
    p_n has no match its numerator is 1e-12 (`method1` of Chen and Cherry 2014); without one common word all four
    are 0.

    Args:
        hypotheses (`Sequence[Sequence[str]]`):
            One list of tokens per sample.
        references (`Sequence[Sequence[Sequence[str]]]`):
            One list of references per sample, each a list of tokens.

    Returns:
        `dict`: `bleu1` to `bleu4` (0 to 100), `brevity_penalty` (0 to 1), `prediction_length` and `reference_length`
        (tokens), `n` (samples).

    Raises:
        ImportError: nltk is not installed.
    """
    bleu = _nltk_bleu()
    weights = [(1.0 / order,) * order for order in range(1, MAX_ORDER + 1)]
    smoothing = bleu.SmoothingFunction(epsilon=EPSILON).method1
    scores = bleu.corpus_bleu(references, hypotheses, weights, smoothing)
    lengths = [len(hypothesis) for hypothesis in hypotheses]
    closest = [bleu.closest_ref_length(refs, length) for refs, length in zip(references, lengths, strict=True)]
    return {
        **{f"bleu{order}": 100.0 * float(score) for order, score in enumerate(scores, start=1)},
        "brevity_penalty": float(bleu.brevity_penalty(sum(closest), sum(lengths))),
        "prediction_length": sum(lengths),
        "reference_length": sum(closest),
        "n": len(lengths),
    }


def bleu_scores(
    predictions: Sequence[str], references: Sequence[str | Sequence[str]], tokenizer: Tokenizer = "whitespace"
) -> dict[str, float | int]:
    """
    BLEU-1 to BLEU-4 of a corpus of texts; see [`corpus_bleu_scores`] for the formula.

    Args:
        predictions (`Sequence[str]`):
            The generated texts.
        references (`Sequence[str]` or `Sequence[Sequence[str]]`):
            The reference of each, or a list of them; their number may differ from sample to sample.
        tokenizer (`str` or `Callable`, *optional*, defaults to `"whitespace"`):
            `"whitespace"` (case kept), `"nltk"` (lower-cased word tokens), or a function from a text to its tokens.

    Returns:
        `dict`: as [`corpus_bleu_scores`].

    Raises:
        ValueError: no samples, a sample without a reference, different numbers of predictions and references, or an
            unknown tokenizer.
        TypeError: something is not a string.
        ImportError: nltk is not installed.

    Example:

    >>> scores = bleu_scores(["i am so sorry"], [["i am sorry", "i am so sad"]])
    >>> round(scores["bleu1"], 2), round(scores["bleu2"], 2), scores["brevity_penalty"], scores["n"]
    (100.0, 81.65, 1.0, 1)
    """
    checked = check_texts("predictions", predictions)
    checked_references = check_references("references", references)
    check_same_length(predictions=checked, references=checked_references)
    hypotheses = tokenize_all(checked, tokenizer)
    return corpus_bleu_scores(hypotheses, [tokenize_all(refs, tokenizer) for refs in checked_references])


def _nltk_bleu() -> Any:
    try:
        from nltk.translate import bleu_score
    except ImportError as error:
        raise ImportError(
            "dialogue_bleu needs nltk, which is not installed. Install it with: pip install nltk"
        ) from error
    return bleu_score
