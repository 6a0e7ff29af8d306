"""Scorers, the store of their scores, and the engine that scores a data set with one of them."""
