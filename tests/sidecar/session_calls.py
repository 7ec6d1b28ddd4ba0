"""What tests ask a running sidecar, and a request that fires."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from fake_tap import ANSWER_SECONDS, FakeTap, Rows, begin, end

from monitor.v1.alerts_pb2 import Alert, WatchAlertsRequest
from monitor.v1.alerts_pb2_grpc import AlertServiceStub
from monitor.v1.generations_pb2 import GenerationRecord, GetGenerationRequest
from monitor.v1.generations_pb2_grpc import GenerationServiceStub
from monitor.v1.policies_pb2 import ListPoliciesRequest, ListPoliciesResponse
from monitor.v1.policies_pb2_grpc import PolicyServiceStub


async def watch(channel: grpc.aio.Channel, **wanted: Any) -> Any:
    call = AlertServiceStub(channel).WatchAlerts(WatchAlertsRequest(**wanted))
    await call.initial_metadata()
    return call


async def next_alert(call: Any) -> Alert:
    # A sidecar that fails sends none: the test must fail, and not take the suite's whole time.
    async with asyncio.timeout(ANSWER_SECONDS):
        response = await call.read()
    assert response is not grpc.aio.EOF
    return response.alert  # type: ignore[no-any-return]


async def record_of(channel: grpc.aio.Channel, id_: str) -> GenerationRecord:
    return (await GenerationServiceStub(channel).GetGeneration(GetGenerationRequest(id=id_))).generation


async def policies(channel: grpc.aio.Channel) -> ListPoliciesResponse:
    return await PolicyServiceStub(channel).ListPolicies(ListPoliciesRequest())


async def flag(tap: FakeTap, handle: int = 1) -> None:
    """One request that fires LOUD-001 at token 4 and ends."""
    await tap.send(
        tap.frame([Rows(handle, 0, (0, 1, 2), dense=(9, 0, 0.5))], begins=[begin(handle)]),
        tap.frame([Rows(handle, 3, (3,), dense=(1.5,))]),
        tap.frame([Rows(handle, 4, (4,), dense=(2.5,), explosives=(3.0,))]),
        tap.frame(ends=[end(handle, 5)]),
    )
