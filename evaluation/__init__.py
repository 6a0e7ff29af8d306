"""
Metrics of empathetic dialogue, and the comparison of models by them.

`metrics/` holds the arithmetic as plain functions, which import without `evaluate`. Each metric is also an `evaluate`
module in a folder of its own, for [`ee_trl.load_metric`] or `evaluate.load("evaluation/distinct")`.
"""

from __future__ import annotations

from typing import Any


# name -> module that defines it; imported on first use, so that a metric's arithmetic loads nothing else
_EXPORTS = {
    "Comparison": "comparison",
    "Decoding": "generation",
    "EvalSet": "eval_set",
    "add_difficulty": "difficulty",
    "evaluate_models": "comparison",
    "read_eval_set": "eval_set",
}

__all__ = [*_EXPORTS]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_EXPORTS[name]}", __name__), name)
