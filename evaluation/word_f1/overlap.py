"""Word F1 over a corpus: the arithmetic, without `evaluate`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from .texts import Tokenizer, check_same_length, check_texts, tokenize_all


def clipped_matches(prediction: Sequence[str], reference: Sequence[str]) -> int:
    """
    The clipped unigram matches of two token lists: the sum over words of the smaller of the two counts.

    Example:

    >>> clipped_matches(["so", "so", "sorry"], ["so", "sorry", "sorry"])
    2
    """
    return (Counter(prediction) & Counter(reference)).total()


def word_f1_scores(
    predictions: Sequence[str], references: Sequence[str], tokenizer: Tokenizer = "whitespace"
) -> dict[str, float | int]:
    """
    Word F1 over the corpus, x100: counts are summed over the samples first, then one F1 is made of them.

    With P_i and R_i the bags of words of sample i's prediction and reference, and M_i = |P_i & R_i| the clipped
    matches: precision = sum M_i / sum |P_i|, recall = sum M_i / sum |R_i|, F1 = 2 * precision * recall /
    (precision + recall) = 2 * sum M_i / (sum |P_i| + sum |R_i|).

    Args:
        predictions (`Sequence[str]`):
            The generated texts.
        references (`Sequence[str]`):
            The reference of each.
        tokenizer (`str` or `Callable`, *optional*, defaults to `"whitespace"`):
            `"whitespace"` (case kept), `"nltk"` (lower-cased word tokens), or a function from a text to its tokens.

    Returns:
        `dict`: `word_f1`, `precision`, `recall` (0 to 100; 0 where there are no tokens to divide by) and `n`, the
        number of samples.

    Raises:
        ValueError: no samples, different numbers of predictions and references, or an unknown tokenizer.
        TypeError: something is not a string.

    Example:

    >>> word_f1_scores(["i am so so sorry", "oh"], ["i am sorry", "oh no !"])
    {'word_f1': 66.66666666666667, 'precision': 66.66666666666667, 'recall': 66.66666666666667, 'n': 2}
    """
    predictions, references = check_texts("predictions", predictions), check_texts("references", references)
    check_same_length(predictions=predictions, references=references)
    hypotheses, targets = tokenize_all(predictions, tokenizer), tokenize_all(references, tokenizer)
    matches = sum(clipped_matches(hyp, ref) for hyp, ref in zip(hypotheses, targets, strict=True))
    predicted, wanted = sum(map(len, hypotheses)), sum(map(len, targets))
    return {
        "word_f1": _percent(2 * matches, predicted + wanted),
        "precision": _percent(matches, predicted),
        "recall": _percent(matches, wanted),
        "n": len(hypotheses),
    }


def _percent(part: int, whole: int) -> float:
    return 100.0 * part / whole if whole else 0.0
