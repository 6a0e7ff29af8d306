"""Distils a judge into a small scorer: which samples to label first, the fit, and the report."""

STRATEGIES = ("mixed", "diverse", "uncertain", "random")
"""How samples to label are chosen; see [`~ee_trl.distillation.labels.choose_to_label`]."""
