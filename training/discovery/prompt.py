"""One labelled prompt."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Prompt:
    """One labelled user message."""

    text: str
    is_positive: bool
    is_val: bool
    source: str = ""
    category: str = ""
