"""A judge's scores made into a small scorer: what is read, how it is fitted, what to have judged first."""

STRATEGIES = ("mixed", "diverse", "uncertain", "random")
"""How samples to label are chosen; see [`~ee_trl.distillation.labels.choose_to_label`]."""
