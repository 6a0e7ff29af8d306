"""Dialogue data: formats, files and hub data sets, Arrow tables, and the samples in them."""
