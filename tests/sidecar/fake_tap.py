"""A fake tap that speaks the protocol in the place of a vLLM worker."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from sidecar_kit import ENGINE, HOOKS

from monitor.rpc import PROTOCOL_VERSION, floats_to_bytes, ints_to_bytes
from monitor.v1.engine_pb2 import EngineInfo
from monitor.v1.tap_pb2 import (
    DirectionRule,
    Directive,
    Gap,
    Hello,
    HookActivations,
    RequestBegin,
    RequestEnd,
    ResidualRows,
    StepFrame,
    StreamRequest,
    StreamResponse,
    TapMemory,
    WatchPlan,
    Welcome,
)
from monitor.v1.tap_pb2_grpc import TapServiceStub

#: Longest wait for what a sidecar sends.
ANSWER_SECONDS = 120


def begin(handle: int, prompt: Sequence[int] = (0, 1, 2), request_id: str = "", **more: Any) -> RequestBegin:
    name = request_id or f"req-{handle}"
    return RequestBegin(
        handle=handle,
        request_id=f"{name}-x1",
        external_id=name,
        prompt_token_ids=ints_to_bytes(np.array(prompt)),
        start_unix_nanos=1_700_000_000_000_000_000 + handle,
        **more,
    )


def end(handle: int, positions: int, tail: Sequence[int] = (9,)) -> RequestEnd:
    return RequestEnd(
        handle=handle,
        positions=positions,
        tail_token_ids=ints_to_bytes(np.array(tail, np.int32)),
        end_unix_nanos=1_700_000_005_000_000_000,
    )


@dataclass(frozen=True)
class Rows:
    """Consecutive rows of one request. `dense`, `explosives` and `late` are activations of those directions per row."""

    handle: int
    first: int
    tokens: Sequence[int]
    dense: Sequence[float] = ()
    explosives: Sequence[float] = ()
    late: Sequence[float] = ()


class FrameMaker:
    """Makes frames in the column order of a plan."""

    def __init__(self, plan: WatchPlan) -> None:
        self.plan = plan
        self.seq = 0

    def __call__(
        self,
        rows: Sequence[Rows] = (),
        *,
        begins: Sequence[RequestBegin] = (),
        gaps: Sequence[Gap] = (),
        ends: Sequence[RequestEnd] = (),
        seq: int | None = None,
    ) -> StepFrame:
        self.seq = self.seq + 1 if seq is None else seq
        tokens = [token for run in rows for token in run.tokens]
        return StepFrame(
            seq=self.seq,
            plan_version=self.plan.version,
            forward_end_unix_nanos=1_700_000_000_000_000_000,
            begins=begins,
            gaps=gaps,
            ends=ends,
            handles=[run.handle for run in rows],
            first_positions=[run.first for run in rows],
            row_counts=[len(run.tokens) for run in rows],
            token_ids=ints_to_bytes(np.array(tokens, np.int32)),
            activations=[
                HookActivations(hook_point=hook.hook_point, values=floats_to_bytes(self._values(hook, rows)))
                for hook in self.plan.hooks
                if rows
            ],
        )

    def _values(self, hook: Any, rows: Sequence[Rows]) -> npt.NDArray[np.float32]:
        parts = []
        for run in rows:
            values = np.zeros((len(run.tokens), hook.count), np.float32)
            dense = [k for k, rule in enumerate(hook.rules) if rule == DirectionRule.DIRECTION_RULE_IDENTITY]
            latents = [k for k, rule in enumerate(hook.rules) if rule == DirectionRule.DIRECTION_RULE_JUMPRELU]
            if hook.hook_point == "resid_post.3" and run.dense:
                values[:, dense[0]] = run.dense
            if hook.hook_point == "resid_post.3" and run.explosives:
                values[:, latents[0]] = run.explosives
            if hook.hook_point == "resid_post.5" and run.late:
                values[:, latents[0]] = run.late
            parts.append(values)
        return np.concatenate(parts)


@dataclass
class FakeTap:
    """One stream of a tap. `acked` is the highest acknowledged seq; `directives` and `plans` wait to be asked for."""

    call: grpc.aio.StreamStreamCall[StreamRequest, StreamResponse]
    welcome: Welcome
    plan: WatchPlan
    frame: FrameMaker
    acked: int = 0
    errors: list[str] = field(default_factory=list)
    directives: deque[Directive] = field(default_factory=deque)
    plans: deque[WatchPlan] = field(default_factory=deque)

    async def send(self, *frames: StepFrame, wait: bool = True) -> None:
        for frame in frames:
            await self.call.write(StreamRequest(step=frame))
        if wait and frames:
            await self.wait_ack(max(frame.seq for frame in frames))

    async def wait_ack(self, seq: int) -> None:
        while self.acked < seq:
            await self._read()

    async def next_directive(self) -> Directive:
        while not self.directives:
            await self._read()
        return self.directives.popleft()

    async def next_plan(self) -> WatchPlan:
        """Waits for another plan; frames that are made from now on are encoded under it."""
        while not self.plans:
            await self._read()
        self.plan = self.frame.plan = self.plans.popleft()
        return self.plan

    async def send_rows(self, *messages: ResidualRows) -> None:
        for rows in messages:
            await self.call.write(StreamRequest(residual_rows=rows))

    async def answer(self, rows_nd: npt.NDArray[Any], *, first: int = 0, hooks: Sequence[str] = ()) -> Directive:
        """Answers the next capture with float32 rows of consecutive positions, the same at each hook point."""
        directive = await self.next_directive()
        for hook_point in hooks or directive.capture.hook_points:
            await self.send_rows(residual_rows(directive, hook_point, rows_nd, first=first, last=True))
        return directive

    async def _read(self) -> None:
        async with asyncio.timeout(ANSWER_SECONDS):
            response: Any = await self.call.read()
        assert response is not grpc.aio.EOF, "the sidecar ended the stream"
        if response.WhichOneof("message") == "directive":
            self.directives.append(response.directive)
        elif response.WhichOneof("message") == "watch_plan":
            self.plans.append(response.watch_plan)
        else:
            assert response.WhichOneof("message") == "ack"
            self.acked = response.ack.seq

    def drop(self) -> None:
        """As if the connection broke."""
        self.call.cancel()


def residual_rows(
    directive: Directive, hook_point: str, rows_nd: npt.NDArray[Any], *, first: int = 0, last: bool = False, **more: Any
) -> ResidualRows:
    values: dict[str, Any] = {
        "capture_id": directive.capture.capture_id,
        "handle": directive.handle,
        "hook_point": hook_point,
        "first_position": first,
        "row_count": len(rows_nd),
        "width": rows_nd.shape[1],
        "dtype": "float32",
        "values": floats_to_bytes(rows_nd),
        "last": last,
    }
    return ResidualRows(**{**values, **more})


def hello(tap_id: str = "tap-1", engine: EngineInfo = ENGINE, hooks: Sequence[str] = HOOKS, **more: Any) -> Hello:
    memory = TapMemory(recorder_bytes=1 << 20, recorder_rows=1 << 10)
    settings: dict[str, Any] = {"protocol_version": PROTOCOL_VERSION, "hook_points": hooks, "memory": memory, **more}
    return Hello(tap_id=tap_id, engine=engine, **settings)


async def connect(channel: grpc.aio.Channel, said: Hello | None = None) -> FakeTap:
    call = TapServiceStub(channel).Stream(wait_for_ready=True)
    await call.write(StreamRequest(hello=said or hello()))
    first: Any = await call.read()
    second: Any = await call.read()
    assert first.WhichOneof("message") == "welcome"
    assert second.WhichOneof("message") == "watch_plan"
    return FakeTap(call, first.welcome, second.watch_plan, FrameMaker(second.watch_plan), acked=first.welcome.last_seq)
