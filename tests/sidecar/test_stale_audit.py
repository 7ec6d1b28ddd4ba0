"""The history is told once of each text and tap that do not fit, and what was told takes a bounded memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fake_tap import hello
from sidecar_kit import new_judge

from monitor.sidecar import stale_audit
from monitor.sidecar.plan import TapPlan
from monitor.sidecar.policy_audit import PolicyAudit
from monitor.sidecar.stale_audit import StaleAudit
from monitor.sidecar.tap import Tap
from monitor.v1.policies_pb2 import PolicyEvent


class Written(PolicyAudit):
    def __init__(self) -> None:
        self.details: list[str] = []

    def event(self, *_: object, **more: object) -> PolicyEvent:
        return PolicyEvent(detail=str(more["detail"]))

    def write(self, events: object) -> None:
        self.details += [event.detail for event in events]  # type: ignore[attr-defined]


def test_the_latest_are_told_once(plan: TapPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stale_audit, "MOST_TOLD", 3)
    served = {"loud": replace(plan.served["loud"], mismatches=("dtype",)), "quiet": plan.served["quiet"]}
    stale = replace(plan, served=served)
    written = Written()
    audit = StaleAudit(written)
    taps = {name: Tap(hello(name), "session", new_judge(plan)) for name in "abcd"}
    for name in "aabbacab":
        audit.tell(taps[name], stale)
    assert written.details == [f"tap {name}: dtype" for name in "abc"]
    # Beyond the bound the one that came last longest ago is forgotten: c.
    audit.tell(taps["d"], stale)
    for name in "abdc":
        audit.tell(taps[name], stale)
    assert written.details[3:] == ["tap d: dtype", "tap c: dtype"]
    assert len(audit._told) == 3
