"""Peers' trainers, each run as its own users run it."""
