"""BLEU-1 to BLEU-4 as plain functions; the `evaluate` module is `dialogue_bleu.py` beside this file."""

from .bleu import bleu_resampler, bleu_scores, corpus_bleu_scores


__all__ = ["bleu_resampler", "bleu_scores", "corpus_bleu_scores"]
