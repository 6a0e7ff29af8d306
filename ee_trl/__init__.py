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
    "CausalLMScorer": "scoring.judge.model",
    "Dialogue": "data.dialogue",
    "EmpathyCallback": "online.callback",
    "EmpathyDataSelector": "selector",
    "EmpathyEvalCallback": "evaluation.callback",
    "EmpathySFTTrainer": "online.trainer",
    "EncoderScorer": "scoring.encoder",
    "LinearScorer": "scoring.linear",
    "RequestRouter": "moe.request_router",
    "Scorer": "scoring.base",
    "Selection": "selection",
    "ServerScorer": "scoring.judge.server",
    "behaviour_check": "reports.check",
    "build_tiny_causal_lm": "training.tiny_model",
    "choose_to_label": "distillation.labels",
    "compose_moe": "moe.compose",
    "demo_model": "training.demo_model",
    "distill": "distillation.run",
    "list_metrics": "evaluation.load",
    "load_metric": "evaluation.load",
    "load_rubric": "scoring.judge.rubric",
    "load_sample": "data.sample",
    "load_scorer": "scoring.load",
    "quadrants": "axes",
    "select_indices": "selection",
    "sweep": "selection",
    "write_explorer": "reports.explorer",
}

__all__ = ["__version__", *_EXPORTS]

if TYPE_CHECKING:
    from .axes import AXES, QUADRANTS, quadrants
    from .data.dialogue import Dialogue
    from .data.sample import load_sample
    from .distillation.labels import choose_to_label
    from .distillation.run import distill
    from .evaluation.callback import EmpathyEvalCallback
    from .evaluation.load import list_metrics, load_metric
    from .moe.compose import compose_moe
    from .moe.request_router import RequestRouter
    from .online.callback import EmpathyCallback
    from .online.trainer import EmpathySFTTrainer
    from .reports.check import behaviour_check
    from .reports.explorer import write_explorer
    from .scoring.base import Scorer
    from .scoring.cascade import CascadeScorer
    from .scoring.encoder import EncoderScorer
    from .scoring.judge.model import CausalLMScorer
    from .scoring.judge.rubric import load_rubric
    from .scoring.judge.server import ServerScorer
    from .scoring.linear import LinearScorer
    from .scoring.load import load_scorer
    from .selection import Selection, select_indices, sweep
    from .selector import EmpathyDataSelector
    from .training.demo_model import demo_model
    from .training.tiny_model import build_tiny_causal_lm


def __getattr__(name: str) -> object:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(f".{_EXPORTS[name]}", __name__), name)
    except ModuleNotFoundError as error:
        if error.name not in ("ee_trl.evaluation", "ee_trl.recipes"):
            raise
        raise ImportError(
            f"the package {error.name} cannot be found, because ee-trl is imported from a folder in which it is not "
            "installed. Install it, in a copy of its repository with: pip install -e ."
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
