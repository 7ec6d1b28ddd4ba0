"""Residuals of a model at several hook points, from text to a shuffled cache on disk. Start at `run`."""
