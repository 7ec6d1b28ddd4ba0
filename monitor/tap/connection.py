"""One stream to the sidecar, from Hello to its end."""

from __future__ import annotations

import time
from typing import Final

import grpc

from monitor.errors import FeaturewatchError
from monitor.rpc import WireFormatError, open_channel
from monitor.tap.link import Link
from monitor.tap.log import logger
from monitor.tap.plan import ActivePlan
from monitor.tap.recorder.captures import Captures
from monitor.tap.sender import Sender
from monitor.v1 import tap_pb2, tap_pb2_grpc

PLAN_PATIENCE_SECONDS: Final = 1.0
"""How long frames wait after Welcome for a watch plan; then they go without activations."""


class Connection:
    """One stream. Its requests are pulled by gRPC's thread (see Sender), its responses read by the publisher's."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._changed = link.changed
        self._outbox = link.outbox
        self._captures = Captures(link.recorder, link.stats)
        self._sender = Sender(link, self._captures)
        self._call: grpc.Call | None = None
        self.welcomed = False

    def run(self) -> None:
        """Talks until the stream ends."""
        link = self._link
        # Files of TLS are read again each time: certificates are renewed while an engine runs.
        with open_channel(link.target, link.tls) as channel:
            responses = tap_pb2_grpc.TapServiceStub(channel).Stream(self._sender.requests())
            with self._changed:
                self._call = responses
            if link.closing.is_set():
                self._sender.finish()
            for response in responses:
                self._handle(response)

    def finish(self) -> None:
        """Half-closes the stream; the sidecar then ends it."""
        self._sender.finish()

    def cancel(self) -> None:
        if self._call is not None:
            self._call.cancel()

    def close(self) -> None:
        self._sender.close()
        self.cancel()

    def _handle(self, response: tap_pb2.StreamResponse) -> None:
        kind = response.WhichOneof("message")
        if kind == "ack":
            with self._changed:
                self._outbox.acknowledge(response.ack.seq)
                self._changed.notify_all()
        elif kind == "welcome":
            self._welcome(response.welcome)
        elif kind == "watch_plan":
            self._watch_plan(response.watch_plan)
        elif kind == "directive" and response.directive.HasField("capture"):
            with self._changed:
                self._captures.ask(response.directive.handle, response.directive.capture)
                self._changed.notify_all()

    def _welcome(self, welcome: tap_pb2.Welcome) -> None:
        link = self._link
        for line in welcome.unserved:
            logger.warning("featurewatch: the sidecar cannot serve a policy here: %s", line)
        with self._changed:
            known = self._outbox.session == welcome.session_id
            self._outbox.connect(welcome.session_id, welcome.last_seq, welcome.credits)
            self._sender.frames_from(time.monotonic() + (0.0 if known else PLAN_PATIENCE_SECONDS))
        self.welcomed = True
        link.stats.connections += 1
        logger.info(
            "featurewatch: connected to the sidecar at %s (version %s, %s session)",
            link.target,
            welcome.sidecar_version or "unknown",
            "same" if known else "new",
        )

    def _watch_plan(self, message: tap_pb2.WatchPlan) -> None:
        link = self._link
        try:
            plan: ActivePlan | None = link.prepare(message)
        except Exception as error:  # noqa: BLE001 -- whatever a plan holds, the stream goes on and its rows are NO_PLAN
            link.stats.publisher_errors += 1
            unforeseen = not isinstance(error, FeaturewatchError | WireFormatError)
            logger.error("featurewatch: watch plan %d refused: %s", message.version, error, exc_info=unforeseen)
            plan = None
        with self._changed:
            # Before the engine's thread can encode under it: the outbox drops rows of plans that it does not know.
            if plan is not None:
                self._outbox.plan(plan.digest, plan.version)
            self._sender.frames_from(time.monotonic())
        link.on_plan(plan)
        if plan is not None:
            logger.info("featurewatch: watching %d directions (plan %d)", plan.directions, plan.version)
