"""
Metrics of empathetic dialogue, each an `evaluate` module in a folder of its own.

Load one with [`ee_trl.metrics.load_metric`], or by its folder with `evaluate.load("evaluation/distinct")`. The folders
are packages too: `ee_trl.evaluation.distinct` holds the arithmetic as plain functions, and imports without `evaluate`.
"""
