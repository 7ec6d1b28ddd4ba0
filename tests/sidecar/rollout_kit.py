"""What tests ask of a sidecar whose policies change, and the policies that they change to."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest
from session_calls import policies
from sidecar_kit import LOUD

from monitor.sidecar.plan import plan_for_tap
from monitor.v1.alerts_pb2 import Mode
from monitor.v1.policies_pb2 import (
    ListPolicyEventsRequest,
    PolicyEvent,
    PolicyStatus,
    ReloadPoliciesRequest,
    ReloadPoliciesResponse,
    SetPolicyModeRequest,
    SetPolicyModeResponse,
)
from monitor.v1.policies_pb2_grpc import PolicyServiceStub

Kind = PolicyEvent.Kind
#: As LOUD, but it fires on less, and is the next revision.
LOUDER = LOUD.replace("revision: 2", "revision: 3").replace("fire: 2, clear: 0.5", "fire: 1, clear: 0.5")
#: Only a latent that LOUD does not watch.
OTHER = """\
apiVersion: monitor/v1
kind: Policy
metadata: {name: loud, revision: 3}
spec:
  mode: alert
  detectors:
    - id: latent
      source: {saeLatents: {sae: tiny/resid_post.5, latents: [{index: 2}]}}
      aggregate: {kind: max, skip: [bos]}
      threshold: {fire: 2}
  rules:
    - {id: LOUD-002, when: latent.fire, severity: high}
"""


async def reload(channel: grpc.aio.Channel, **more: str) -> ReloadPoliciesResponse:
    return await PolicyServiceStub(channel).ReloadPolicies(ReloadPoliciesRequest(**{"actor": "ann", **more}))


async def set_mode(channel: grpc.aio.Channel, policy: str, mode: Mode.ValueType, **more: str) -> SetPolicyModeResponse:
    request = SetPolicyModeRequest(policy=policy, mode=mode, **{"actor": "ann", "reason": "drill", **more})
    return await PolicyServiceStub(channel).SetPolicyMode(request)


async def events(channel: grpc.aio.Channel, **wanted: Any) -> list[PolicyEvent]:
    return [*(await PolicyServiceStub(channel).ListPolicyEvents(ListPolicyEventsRequest(**wanted))).events]


async def status_of(channel: grpc.aio.Channel, name: str) -> PolicyStatus:
    return next(policy for policy in (await policies(channel)).policies if policy.name == name)


async def until(channel: grpc.aio.Channel, kind: Kind.ValueType) -> PolicyEvent:
    async with asyncio.timeout(60):
        while True:
            found = [event for event in await events(channel) if event.kind == kind]
            if found:
                return found[-1]
            await asyncio.sleep(0.02)


def put(path: Path, text: str) -> None:
    """At once: a look in between would find half a file."""
    written = path.with_suffix(".tmp")
    written.write_text(text)
    written.replace(path)


class HeldCompilation:
    """Once it stands in for `plan_for_tap`, an edition is compiled only when `go_on` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go_on = threading.Event()
        self._begun = threading.Event()
        monkeypatch.setattr("monitor.sidecar.tap_policies.plan_for_tap", self._compile)

    async def begun(self) -> None:
        assert await asyncio.to_thread(self._begun.wait, 60)

    def _compile(self, *arguments: Any) -> Any:
        self._begun.set()
        assert self.go_on.wait(60)
        return plan_for_tap(*arguments)
