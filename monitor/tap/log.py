"""The tap's log: below vLLM's logger, so that its lines appear where the operator looks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

logger = logging.getLogger("vllm.featurewatch")

REPEAT_SECONDS: Final = 10.0


class RateLimitedLog:
    """Warnings that may come every step, written at most once per `REPEAT_SECONDS` and subject."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: dict[str, tuple[float, int]] = {}

    def warn_about(self, subject: str, message: str, *, exception: BaseException | None = None) -> None:
        """Writes `message`, or counts it when `subject` was written a moment ago."""
        now = self._clock()
        last, held_back = self._last.get(subject, (float("-inf"), 0))
        if now - last < REPEAT_SECONDS:
            self._last[subject] = (last, held_back + 1)
            return
        self._last[subject] = (now, 0)
        more = f" ({held_back} more since the last message)" if held_back else ""
        logger.warning("featurewatch: %s%s", message, more, exc_info=exception)
