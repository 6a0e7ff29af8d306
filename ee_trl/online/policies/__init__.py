"""Policies: which samples to draw, and with what weight, from their scores and losses."""
