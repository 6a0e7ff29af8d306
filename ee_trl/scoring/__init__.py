"""How scores are made: the scorer protocol, the bundled linear scorer, and the engine that runs one over a data set."""
