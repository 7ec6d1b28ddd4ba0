"""Residual rows out of a tap's flight recorder, and what whole dictionaries say of them."""
