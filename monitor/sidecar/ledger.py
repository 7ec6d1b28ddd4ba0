"""What each policy has judged and fired since the sidecar started, over all taps."""

from __future__ import annotations

from collections import Counter


class PolicyLedger:
    """Counters by policy name. Written by the judging thread, read by others."""

    def __init__(self) -> None:
        self.rows_judged: Counter[str] = Counter()
        self.alerts: Counter[str] = Counter()
        self.shadow_alerts: Counter[str] = Counter()

    def judged(self, policy: str, rows: int) -> None:
        self.rows_judged[policy] += rows

    def fired(self, policy: str, *, shadow: bool) -> None:
        (self.shadow_alerts if shadow else self.alerts)[policy] += 1
