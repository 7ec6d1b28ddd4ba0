"""What a tap says of itself, and a line in the sidecar's log when it did not see everything."""

from __future__ import annotations

import logging

from monitor.sidecar.problem_log import ProblemLog
from monitor.v1.tap_pb2 import Heartbeat


class TapHealth:
    """Takes heartbeats, whose counters only grow; growth that means blindness is logged."""

    def __init__(self, log: logging.Logger, tap_id: str) -> None:
        self.last = Heartbeat()
        self._told_silent = 0
        self._log = ProblemLog(log, f"tap {tap_id}")

    def take(self, heartbeat: Heartbeat) -> None:
        before, self.last = self.last, heartbeat
        # A heartbeat may be sent while a step is half counted: only what two in a row say is so.
        silent = min(beat.steps - beat.steps_fired for beat in (before, heartbeat))
        if silent > self._told_silent:
            self._log.note(
                "hook points silent",
                f"in {silent} of {heartbeat.steps} steps one did not fire; their rows are not judged",
            )
            self._told_silent = silent
        if heartbeat.errors > before.errors:
            self._log.note("errors caught", f"{heartbeat.errors} in all; the engine's log says which")
        if heartbeat.unreported_requests > before.unreported_requests:
            self._log.note(
                "requests forgotten",
                f"{heartbeat.unreported_requests} with {heartbeat.unreported_positions} positions, of a time without a "
                "sidecar",
            )
