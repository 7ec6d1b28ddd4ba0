"""Detector state of token prefixes, so that a prefix-cache hit is judged as a cold run."""
