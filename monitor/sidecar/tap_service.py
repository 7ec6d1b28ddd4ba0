"""monitor.v1.TapService: the stream between one tap and the sidecar."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

import grpc

from monitor import __version__
from monitor.errors import FeaturewatchError
from monitor.rpc import PROTOCOL_VERSION, abort
from monitor.sidecar.downlink import Downlink
from monitor.sidecar.plan_log import log_plan
from monitor.sidecar.prefix.service import PrefixService
from monitor.sidecar.tap import Tap
from monitor.sidecar.taps import Taps
from monitor.v1.tap_pb2 import Hello, StepFrame, StreamRequest, StreamResponse, WatchPrefixesRequest, Welcome
from monitor.v1.tap_pb2_grpc import TapServiceServicer

_log = logging.getLogger(__name__)

# Unacknowledged frames that the sidecar holds; beyond them it stops reading and the tap's own buffer fills.
CREDITS: Final = 512
# Frames judged in one go, with one acknowledgement, when many are waiting.
BATCH: Final = 32
HELLO_SECONDS: Final = 10.0

Context = grpc.aio.ServicerContext[StreamRequest, StreamResponse]
_Inbox = asyncio.Queue[StreamRequest]


class TapService(TapServiceServicer):
    def __init__(self, taps: Taps) -> None:
        self._taps = taps
        self._prefixes = PrefixService(taps)
        self._readers: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = False

    async def Stream(self, _requests: Any, context: Context) -> None:  # type: ignore[override]  # noqa: N802
        """Hello, Welcome, WatchPlan, then frames up and acknowledgements down until the tap goes."""
        hello = await self._hello(context)
        try:
            tap = await self._taps.attach(hello)
        except FeaturewatchError as error:
            await abort(context, grpc.StatusCode.FAILED_PRECONDITION, "POLICIES_DO_NOT_FIT", error)
        inbox: _Inbox = asyncio.Queue(CREDITS)
        reader = asyncio.create_task(self._read(tap, context, inbox), name=f"read tap {hello.tap_id}")
        tap.reader = reader
        self._readers.add(reader)
        self._idle.clear()
        if self._closing:
            reader.cancel()
        try:
            await context.write(StreamResponse(welcome=_welcome(tap)))
            plan = await asyncio.to_thread(tap.judge.editions.message)
            await context.write(StreamResponse(watch_plan=plan))
            log_plan(tap.hello, tap.plan)
            await self._talk(tap, inbox, reader, context, plan.version)
            if reader.done() and not reader.cancelled() and (fault := reader.exception()) is not None:
                tap.judge.problems.note("unreadable message", str(fault) or type(fault).__name__)
                unreadable = FeaturewatchError(
                    f"stream of tap {hello.tap_id!r}",
                    "it brought bytes that are no StreamRequest",
                    "install the same Featurewatch version in the engine and the sidecar",
                )
                await abort(context, grpc.StatusCode.INVALID_ARGUMENT, "UNREADABLE_MESSAGE", unreadable)
            if not self._closing and tap.reader is not reader:
                newer = FeaturewatchError(
                    f"tap {hello.tap_id!r}",
                    "a newer stream of the same tap has taken over",
                    "give every worker process a tap_id of its own",
                )
                await abort(context, grpc.StatusCode.ABORTED, "TAP_TAKEN_OVER", newer)
        finally:
            reader.cancel()
            self._readers.discard(reader)
            if not self._readers:
                self._idle.set()
            self._taps.detach(tap, reader)

    async def WatchPrefixes(self, request: WatchPrefixesRequest, context: Any) -> None:  # type: ignore[override]  # noqa: N802
        await self._prefixes.watch(request, context)

    async def close(self, timeout_seconds: float) -> None:
        """Ends all streams after the frames that have been read are judged; waits for that, but no longer."""
        self._closing = True
        self._prefixes.close()
        for reader in self._readers:
            reader.cancel()
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_seconds)
        except TimeoutError:
            _log.warning("%d tap streams still judge after %.0f s", len(self._readers), timeout_seconds)

    async def _hello(self, context: Context) -> Hello:
        try:
            first: Any = await asyncio.wait_for(context.read(), HELLO_SECONDS)
        except TimeoutError:
            error = FeaturewatchError(
                f"tap stream without a message for {HELLO_SECONDS:.0f} s", "it begins with Hello", "send Hello first"
            )
            await abort(context, grpc.StatusCode.DEADLINE_EXCEEDED, "NO_HELLO", error)
        if not isinstance(first, StreamRequest) or first.WhichOneof("message") != "hello" or not first.hello.tap_id:
            kind = first.WhichOneof("message") if isinstance(first, StreamRequest) else "end of stream"
            error = FeaturewatchError(
                f"tap stream that begins with {kind}", "it begins with Hello and a tap_id", "send Hello first"
            )
            await abort(context, grpc.StatusCode.INVALID_ARGUMENT, "NO_HELLO", error)
        if first.hello.protocol_version != PROTOCOL_VERSION:
            error = FeaturewatchError(
                f"protocol version {first.hello.protocol_version} of tap {first.hello.tap_id!r}",
                f"this sidecar ({__version__}) speaks version {PROTOCOL_VERSION}",
                "install the same Featurewatch version in the engine and the sidecar",
            )
            await abort(context, grpc.StatusCode.FAILED_PRECONDITION, "PROTOCOL_VERSION", error)
        if self._closing:
            error = FeaturewatchError("sidecar", "it is shutting down", "connect again")
            await abort(context, grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN", error)
        return first.hello

    async def _read(self, tap: Tap, context: Context, inbox: _Inbox) -> None:
        """Moves messages into the inbox until the tap ends the stream; waits while the inbox is full.

        Residual rows are large and nothing is judged by them: captures take them at once, within their own bounds.
        """
        while True:
            message: Any = await context.read()
            if message is grpc.aio.EOF:
                return
            if message.HasField("residual_rows"):
                self._taps.evidence.captures.take(tap, message.residual_rows)
            else:
                await inbox.put(message)

    async def _talk(self, tap: Tap, inbox: _Inbox, reader: asyncio.Task[None], context: Context, watched: int) -> None:
        """Judges what comes up while one task writes what goes down; ends with the reader, or when writing fails."""
        downlink = Downlink(watched)
        writer = asyncio.create_task(downlink.run(context.write), name=f"write tap {tap.hello.tap_id}")
        writer.add_done_callback(lambda _: reader.cancel())
        if tap.reader is reader:
            tap.downlink = downlink
            # It may have changed since the first one was made.
            self._taps.policies.send_plan(tap)
        try:
            await self._judge(tap, inbox, reader, downlink)
            downlink.close()
            await writer
        finally:
            writer.cancel()

    async def _judge(self, tap: Tap, inbox: _Inbox, reader: asyncio.Task[None], downlink: Downlink) -> None:
        while True:
            first = await _next(inbox, reader)
            if first is None:
                return
            messages = [first]
            while len(messages) < BATCH and not inbox.empty():
                messages.append(inbox.get_nowait())
            frames: list[StepFrame] = []
            for message in messages:
                kind = message.WhichOneof("message")
                if kind == "step":
                    frames.append(message.step)
                elif kind == "heartbeat":
                    tap.health.take(message.heartbeat)
                else:
                    tap.judge.problems.note("unexpected message", str(kind))
            if frames:
                await self._taps.judge(tap, frames)
                downlink.acknowledge(tap.judge.last_seq)


async def _next(inbox: _Inbox, reader: asyncio.Task[None]) -> StreamRequest | None:
    """The next message; None when the reader has ended and everything it read was taken."""
    if not inbox.empty():
        return inbox.get_nowait()
    waiting = asyncio.create_task(inbox.get())
    try:
        await asyncio.wait({waiting, reader}, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return waiting.result()
    finally:
        waiting.cancel()
    return None


def _welcome(tap: Tap) -> Welcome:
    return Welcome(
        protocol_version=PROTOCOL_VERSION,
        session_id=tap.session_id,
        sidecar_version=__version__,
        credits=CREDITS,
        last_seq=tap.judge.last_seq,
        unserved=tap.plan.unserved.values(),
    )
