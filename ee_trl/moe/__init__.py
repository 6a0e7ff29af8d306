"""Two experts, one model: composition, gates, router training and serving. Knows models, not scores."""
