"""Score, select and fine-tune on empathetic dialogue: Efficient-Empathy as a Hugging Face Trainer plugin."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING


__version__ = "0.1.0"

# name -> module that defines it; imported on first use, so that `import ee_trl` loads neither torch nor transformers
_EXPORTS = {
    "AXES": "axes",
    "QUADRANTS": "axes",
    "CascadeScorer": "scoring.cascade",
    "CausalLMScorer": "scoring.causal_lm",
    "Dialogue": "dialogue",
    "EmpathyCallback": "online.callback",
    "EmpathyDataSelector": "selector",
    "EmpathyEvalCallback": "eval_callback",
    "EmpathySFTTrainer": "online.trainer",
    "EncoderScorer": "scoring.encoder",
    "LinearScorer": "scoring.linear",
    "RequestRouter": "moe.request_router",
    "Scorer": "scoring.base",
    "Selection": "selection",
    "ServerScorer": "scoring.server",
    "build_tiny_causal_lm": "tiny_model",
    "choose_to_label": "distillation.labels",
    "distill": "distillation.run",
    "compose_moe": "moe.compose",
    "list_metrics": "metrics",
    "load_metric": "metrics",
    "load_rubric": "rubric",
    "load_sample": "sample",
    "load_scorer": "scoring.load",
    "quadrants": "selection",
    "select_indices": "selection",
    "sweep": "selection",
    "write_explorer": "reports.explorer",
}

__all__ = ["__version__", *_EXPORTS]

if TYPE_CHECKING:
    from .axes import AXES, QUADRANTS
    from .dialogue import Dialogue
    from .distillation.labels import choose_to_label
    from .distillation.run import distill
    from .eval_callback import EmpathyEvalCallback
    from .metrics import list_metrics, load_metric
    from .moe.compose import compose_moe
    from .moe.request_router import RequestRouter
    from .online.callback import EmpathyCallback
    from .online.trainer import EmpathySFTTrainer
    from .reports.explorer import write_explorer
    from .rubric import load_rubric
    from .sample import load_sample
    from .scoring.base import Scorer
    from .scoring.cascade import CascadeScorer
    from .scoring.causal_lm import CausalLMScorer
    from .scoring.encoder import EncoderScorer
    from .scoring.linear import LinearScorer
    from .scoring.load import load_scorer
    from .scoring.server import ServerScorer
    from .selection import Selection, quadrants, select_indices, sweep
    from .selector import EmpathyDataSelector
    from .tiny_model import build_tiny_causal_lm


def __getattr__(name: str) -> object:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_EXPORTS[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
