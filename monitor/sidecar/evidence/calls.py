"""What clients ask of the flight recorder: residual rows of one generation, raw or as evidence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Final

import grpc

from monitor.audit import AuditWriter, RecentSummaries
from monitor.audit.writer import BuildRecord
from monitor.sidecar.evidence.capture import Capture, CaptureRefusedError, Outcome, Subject
from monitor.sidecar.records import prepare_record
from monitor.sidecar.tap import Tap
from monitor.sidecar.taps import Taps
from monitor.v1.evidence_pb2 import Evidence
from monitor.v1.generations_pb2 import GenerationRecord
from monitor.v1.tap_pb2 import ResidualRows

CODES: Final = {
    "NO_DICTIONARY": grpc.StatusCode.FAILED_PRECONDITION,
    "ENCODING_FAILED": grpc.StatusCode.INTERNAL,
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
CAPTURED: Final = "nothing flagged this generation: a client captured it after its end, only its summary was kept"


class CaptureCalls:
    def __init__(self, taps: Taps, recent: RecentSummaries, writer: AuditWriter) -> None:
        self._taps = taps
        self._recent = recent
        self._writer = writer

    async def evidence(self, generation_id: str, hook_points: Sequence[str]) -> Sequence[Evidence]:
        """Evidence of the rows that the recorder still holds, one per dictionary; the generation's record gets it too,
        also when the caller goes away. Raises CaptureRefusedError when nothing could be encoded."""
        tap, subject = await self._find(generation_id)
        asked = [name for name in hook_points_of(tap, hook_points) if name in subject.dictionaries]
        if not asked:
            raise CaptureRefusedError(
                "NO_DICTIONARY",
                f"hook point {', '.join(hook_points or tap.hello.hook_points)}",
                f"the policies that judge it on tap {tap.hello.tap_id} name no SAE there",
                "name another hook point, or load a policy that names an SAE of this one",
            )
        await self._keep(tap, subject)
        capture = self._taps.evidence.captures.start(tap, subject, asked, follow=False)
        gathered = await asyncio.shield(self._taps.captures.gather(tap, capture, "client"))
        if gathered.withheld:
            raise _withheld(generation_id)
        if not any(one.tokens for one in gathered.evidence):
            if gathered.faults:
                raise CaptureRefusedError(
                    "ENCODING_FAILED",
                    f"evidence of generation {generation_id}",
                    f"its rows could not be encoded: {gathered.faults[0]}",
                    "look at the sidecar's log",
                )
            require_rows(capture, tap)
        return gathered.evidence

    async def _keep(self, tap: Tap, subject: Subject) -> None:
        """What nothing flagged gets a record too, so that its evidence has a place."""
        if subject.flagged:
            return

        def work() -> BuildRecord | None:
            request = tap.judge.keep(subject.generation_id)
            return None if request is None else prepare_record(request, tap.judge)

        build = await self._taps.between_frames(work)
        if build is None:
            known = [s for s in self._recent.summaries() if s.generation_id == subject.generation_id]
            record = GenerationRecord(summary=known[0] if known else None, content="none", notes=[CAPTURED])
            # Flagged between the two looks: it has a record.
            build = (lambda: record) if known else None
        if build is not None:
            self._writer.submit(build, subject.generation_id)

    async def residuals(self, generation_id: str, hook_points: Sequence[str]) -> AsyncGenerator[ResidualRows]:
        """The rows that the recorder still holds of a generation, as the tap sends them. Raises CaptureRefusedError.

        Ends without an error when some rows were overwritten: positions tell which came.
        """
        tap, subject = await self._find(generation_id)
        asked = hook_points_of(tap, hook_points)
        capture = self._taps.evidence.captures.start(tap, subject, asked, follow=False)
        try:
            async for rows in capture:
                # A policy that fires meanwhile may forbid content.
                await self._find(generation_id)
                yield rows
            require_rows(capture, tap)
        finally:
            self._taps.evidence.captures.stop(capture)

    async def _find(self, generation_id: str) -> tuple[Tap, Subject]:
        found = await self._taps.captures.find(generation_id)
        if found is None:
            raise CaptureRefusedError(
                "ROWS_GONE",
                f"residual rows of generation {generation_id}",
                "its tap has gone, or it ended before the latest ones that this sidecar process knows of",
                "capture a generation while it runs or soon after",
            )
        if found[1].content == "none":
            raise _withheld(generation_id)
        return found


def _withheld(generation_id: str) -> CaptureRefusedError:
    return CaptureRefusedError(
        "CONTENT_WITHHELD",
        f"residual rows of generation {generation_id}",
        "a policy with record.content none fired on it, and text can be guessed from its rows",
        "capture a generation on which no such policy fired",
    )


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
