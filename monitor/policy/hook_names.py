"""Layers of hook points named ``resid_post.<layer>``."""

from __future__ import annotations


def layer_of(hook_point: str) -> int:
    """The layer of ``resid_post.14``; raises ValueError for another name."""
    site, _, layer = hook_point.partition(".")
    if site != "resid_post":
        raise ValueError(f"hook point {hook_point!r} is not written resid_post.<layer>")
    return int(layer)
