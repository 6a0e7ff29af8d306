"""How scores are made: the scorer protocol, the bundled linear scorer, the engine that runs one over data."""
