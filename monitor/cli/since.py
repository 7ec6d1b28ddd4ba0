"""A moment in the past, as people write it."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from monitor.errors import FeaturewatchError

_AGO = re.compile(r"([0-9]{1,6})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_since(text: str, now: datetime) -> int:
    """Nanoseconds since the Unix epoch of ``30m``, ``12h``, ``7d`` ago, or of a date or time in ISO 8601.

    A date or time without a zone is one of the zone of `now`. Raises FeaturewatchError.
    """
    ago = _AGO.fullmatch(text.strip())
    try:
        if ago is not None:
            moment = now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        else:
            moment = datetime.fromisoformat(text.strip())
            moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=now.tzinfo)
        nanos = int(moment.timestamp() * 1e9)
    except (ValueError, OverflowError):
        nanos = -1
    if nanos < 0:
        raise FeaturewatchError(
            f"--since {text}",
            "it is a time ago such as 30m, 12h or 7d, or a date such as 2026-03-31 or 2026-03-31T18:00",
            "write one of them",
        )
    return nanos
