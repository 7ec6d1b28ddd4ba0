"""Keeps in the history that thresholds were fitted on another configuration than a tap serves."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from monitor.sidecar.plan import TapPlan
from monitor.sidecar.policy_audit import Cause, PolicyAudit
from monitor.sidecar.tap import Tap
from monitor.v1.policies_pb2 import PolicyEvent

#: Texts on taps that are remembered as told, the latest of them. Reloads and taps come for as long as the sidecar runs.
MOST_TOLD: Final = 4096


class StaleAudit:
    """Tells it once for each text and tap, as long as it remembers that. Used on the event loop."""

    def __init__(self, audit: PolicyAudit) -> None:
        self._audit = audit
        self._told: OrderedDict[tuple[str, str], None] = OrderedDict()

    def tell(self, tap: Tap, plan: TapPlan) -> None:
        """`plan` is new on the tap."""
        events = []
        for served in plan.served.values():
            if not served.stale or self._was_told(tap.hello.tap_id, served.policy.sha256):
                continue
            told = f"tap {tap.hello.tap_id}: {'; '.join(served.mismatches)}"
            events.append(
                self._audit.event(
                    PolicyEvent.KIND_STALE,
                    Cause("sidecar"),
                    new=served.policy,
                    old_mode=served.asked_mode,
                    new_mode=served.mode,
                    detail=told,
                )
            )
        self._audit.write(events)

    def _was_told(self, tap_id: str, sha256: str) -> bool:
        """Whether it was told before; from now on it was."""
        known = (tap_id, sha256) in self._told
        self._told[tap_id, sha256] = None
        self._told.move_to_end((tap_id, sha256))
        if len(self._told) > MOST_TOLD:
            self._told.popitem(last=False)
        return known
