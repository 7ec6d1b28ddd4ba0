"""A random sample of generations, chosen by their ids."""

from __future__ import annotations

import hashlib


def in_sample(generation_id: str, share: float) -> bool:
    """True for about this share of generations, and for the same ones wherever it is asked.

    Those of a smaller share are among those of a larger one. Generation ids depend on a random part that the sidecar
    makes, so that clients cannot choose.
    """
    return int.from_bytes(hashlib.sha256(generation_id.encode()).digest()[:8], "big") < share * 2**64
