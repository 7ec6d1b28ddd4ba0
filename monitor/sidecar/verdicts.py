"""What judging a frame gave."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from monitor.sidecar.request import LiveRequest
from monitor.v1.alerts_pb2 import Alert


@dataclass
class Verdicts:
    """Rules that began to fire, requests they fired on, requests that ended."""

    alerts: list[Alert] = field(default_factory=list)
    flagged: list[LiveRequest] = field(default_factory=list)
    ended: list[LiveRequest] = field(default_factory=list)

    def add(self, request: LiveRequest, alerts: Iterable[Alert]) -> None:
        """Alerts of one request."""
        for alert in alerts:
            self.alerts.append(alert)
            if request not in self.flagged:
                self.flagged.append(request)
