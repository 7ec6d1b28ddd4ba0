"""Keeps a part of the sample back, to see what thresholds do to generations that they were not chosen on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from monitor.calibration.generation import Generation
from monitor.errors import FeaturewatchError


@dataclass(frozen=True)
class Split:
    """Attributes:

    fitted: thresholds are chosen on its benign ones.
    held: the rest; empty when nothing is kept back.
    how: in words.
    """

    fitted: list[Generation]
    held: list[Generation]
    how: str


def split(generations: Sequence[Generation], share: float, sources: Sequence[str]) -> Split:
    """Keeps `sources` back as a whole, or a share of the generations, chosen by a hash of their names.

    Raises:
        FeaturewatchError: both or unknown sources are given, or the share is none.
    """
    if sources and share:
        raise FeaturewatchError(
            "--holdout-share with --holdout-source", "one way of keeping back is enough", "leave one of them out"
        )
    if sources:
        known = sorted({generation.source for generation in generations})
        for source in sources:
            if source not in known:
                raise FeaturewatchError(
                    f"--holdout-source {source}", f"the data have {', '.join(known)}", "name one of these"
                )
        held = [generation for generation in generations if generation.source in sources]
        return Split([g for g in generations if g.source not in sources], held, f"sources {', '.join(sorted(sources))}")
    if not 0 <= share < 1:
        raise FeaturewatchError(f"--holdout-share {share:g}", "it is a share from 0 to below 1", "give for example 0.5")
    held = [generation for generation in generations if _draw(generation.name) < share]
    how = f"{share:.0%} of the generations, by a hash of their names" if share else ""
    return Split([generation for generation in generations if _draw(generation.name) >= share], held, how)


def _draw(name: str) -> float:
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64
