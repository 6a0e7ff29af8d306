"""A judge's scores made into a small scorer: what to have judged first, how the scorer is fitted, its report."""

STRATEGIES = ("mixed", "diverse", "uncertain", "random")
"""How samples to label are chosen; see [`~ee_trl.distillation.labels.choose_to_label`]."""
