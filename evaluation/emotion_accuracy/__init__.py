"""Emotion accuracy as plain functions; the `evaluate` module is `emotion_accuracy.py` beside this file."""

from .emotions import EMOTIONS, check_labels, emotion_resampler, emotion_scores


__all__ = ["EMOTIONS", "check_labels", "emotion_resampler", "emotion_scores"]
