"""A judge's scores made into a small scorer: what is read, how it is fitted, what to have judged first."""
