"""Residual rows into a folder, for a training on the same host: instead of the sidecar, and never beside it."""
