"""Reports on scores and runs: summaries, agreement, pictures, the explorer, cards, and what a policy drew."""
