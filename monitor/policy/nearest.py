"""The known name that an unknown one was probably meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import islice
from typing import Final

#: Longer names are no slips of the pen, and comparing takes time with their length.
_LONGEST: Final = 100
#: As many as a policy has detectors or rules: a file that has more is refused for that.
_MOST: Final = 256


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The most similar one; None where none is. Only the first 256 are looked at."""
    if len(name) > _LONGEST:
        return None
    near = difflib.get_close_matches(name, [*islice(known, _MOST)], n=1)
    return near[0] if near else None
