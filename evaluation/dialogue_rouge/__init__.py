"""ROUGE-1, ROUGE-2 and ROUGE-L as a plain function; the `evaluate` module is `dialogue_rouge.py` beside this file."""

from .rouge import rouge_resampler, rouge_scores, sample_scores


__all__ = ["rouge_resampler", "rouge_scores", "sample_scores"]
