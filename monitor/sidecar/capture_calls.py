"""What clients ask of the flight recorder: residual rows of one generation, raw or as evidence."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Final

import grpc

from monitor.sidecar.capture import Capture, CaptureRefusedError, Outcome, Subject
from monitor.sidecar.taps import Tap, Taps
from monitor.v1.tap_pb2 import ResidualRows

CODES: Final = {
    "ROWS_GONE": grpc.StatusCode.FAILED_PRECONDITION,
    "ROWS_OVERWRITTEN": grpc.StatusCode.FAILED_PRECONDITION,
    "RECORDER_OFF": grpc.StatusCode.FAILED_PRECONDITION,
    "NOT_TAPPED": grpc.StatusCode.INVALID_ARGUMENT,
    "CONTENT_WITHHELD": grpc.StatusCode.PERMISSION_DENIED,
    "TAP_AWAY": grpc.StatusCode.UNAVAILABLE,
    "TOO_MANY_CAPTURES": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "TOO_SLOW": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "CAPTURE_TIMED_OUT": grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""The status code of each reason of a CaptureRefusedError."""


class CaptureCalls:
    def __init__(self, taps: Taps) -> None:
        self._taps = taps

    async def residuals(self, generation_id: str, hook_points: Sequence[str]) -> AsyncGenerator[ResidualRows]:
        """The rows that the recorder still holds of a generation, as the tap sends them. Raises CaptureRefusedError.

        Ends without an error when some rows were overwritten: positions tell which came.
        """
        tap, subject = await self._find(generation_id)
        asked = hook_points_of(tap, hook_points)
        capture = self._taps.captures.start(tap, subject, asked, follow=False)
        try:
            async for rows in capture:
                yield rows
            require_rows(capture, tap)
        finally:
            self._taps.captures.stop(capture)

    async def _find(self, generation_id: str) -> tuple[Tap, Subject]:
        found = await self._taps.find(generation_id)
        if found is None:
            raise CaptureRefusedError(
                "ROWS_GONE",
                f"residual rows of generation {generation_id}",
                "its tap has gone, or it ended before the latest ones that this sidecar process knows of",
                "capture a generation while it runs or soon after",
            )
        if found[1].content == "none":
            raise CaptureRefusedError(
                "CONTENT_WITHHELD",
                f"residual rows of generation {generation_id}",
                "a policy with record.content none fired on it, and text can be guessed from its rows",
                "capture a generation without such a policy",
            )
        return found


def hook_points_of(tap: Tap, wanted: Sequence[str]) -> tuple[str, ...]:
    """Those of a tap that are wanted, all for none; raises CaptureRefusedError."""
    known = tuple(tap.hello.hook_points)
    unknown = [name for name in wanted if name not in known]
    if unknown or not known:
        raise CaptureRefusedError(
            "NOT_TAPPED",
            f"hook point {', '.join(unknown) or 'none'}",
            f"tap {tap.hello.tap_id} has {', '.join(known) or 'none'}",
            "choose among them, or add it to the tap's hook_points and restart the engine",
        )
    return tuple(dict.fromkeys(wanted)) or known


def require_rows(capture: Capture, tap: Tap) -> None:
    """Raises CaptureRefusedError unless a capture gave all that the recorder had, and that was something."""
    of = f"residual rows of generation {capture.subject.generation_id}"
    sent = sum(capture.counts.values())
    if capture.overflowed:
        raise CaptureRefusedError(
            "TOO_SLOW", of, f"the tap sent them faster than they were taken; {sent} rows came", "ask for one hook point"
        )
    if capture.outcome is Outcome.TAP_AWAY:
        raise CaptureRefusedError(
            "TAP_AWAY", of, f"tap {tap.hello.tap_id} went away while it sent them", "try again when it is back"
        )
    if capture.outcome is Outcome.TIMED_OUT:
        raise CaptureRefusedError(
            "CAPTURE_TIMED_OUT",
            of,
            f"tap {tap.hello.tap_id} did not finish sending them; {sent} rows came",
            "look at the engine's log and try again",
        )
    if not sent:
        raise CaptureRefusedError(
            "ROWS_OVERWRITTEN",
            of,
            f"the flight recorder of tap {tap.hello.tap_id} holds none of them any more",
            "capture sooner, or raise recorder_mib in the tap's configuration",
        )
