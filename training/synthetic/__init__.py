"""Worlds whose features are known: what an SAE recipe finds in them can be counted. Start at `world` and `score`."""
