"""How scores and runs are shown: summaries, the picture of the score plane, the report of a run."""
