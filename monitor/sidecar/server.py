"""Puts a sidecar together, runs it and takes it down in order."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Final

import grpc
import numpy as np
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from monitor.audit import AuditStore, AuditWriter, RecentSummaries
from monitor.emit import Delivery, JsonlSink, MemoryOutbox, RedisStreamSink, SpoolOutbox
from monitor.policy import PolicyEngine, TokenClasses
from monitor.rpc import SERVER_OPTIONS, Target
from monitor.sae import Catalog
from monitor.sidecar.alert_hub import AlertHub
from monitor.sidecar.alert_service import AlertService
from monitor.sidecar.config import SidecarConfig
from monitor.sidecar.evidence.desk import EvidenceDesk
from monitor.sidecar.generation_service import GenerationService
from monitor.sidecar.history import HistoryPool
from monitor.sidecar.metrics.server import MetricsServer
from monitor.sidecar.metrics.snapshot import Snapshot, take_snapshot
from monitor.sidecar.modes import Modes
from monitor.sidecar.policy_audit import Cause, PolicyAudit
from monitor.sidecar.policy_book import PolicyBook
from monitor.sidecar.policy_files import fingerprint
from monitor.sidecar.policy_service import PolicyService
from monitor.sidecar.policy_watch import watch_policies
from monitor.sidecar.prefix.states import PrefixStates
from monitor.sidecar.publisher import Publisher
from monitor.sidecar.rollout import Edition, Rollout
from monitor.sidecar.sockets import bind, check_tls
from monitor.sidecar.tap_service import TapService
from monitor.sidecar.taps import Taps
from monitor.sidecar.tokenizer_cache import TokenizerCache
from monitor.v1.alerts_pb2_grpc import add_AlertServiceServicer_to_server
from monitor.v1.generations_pb2_grpc import add_GenerationServiceServicer_to_server
from monitor.v1.policies_pb2_grpc import add_PolicyServiceServicer_to_server
from monitor.v1.tap_pb2_grpc import add_TapServiceServicer_to_server

_log = logging.getLogger(__name__)

SERVICES: Final = (
    "monitor.v1.TapService",
    "monitor.v1.AlertService",
    "monitor.v1.PolicyService",
    "monitor.v1.GenerationService",
)


class Sidecar:
    """One sidecar process' parts. `start`, then `stop`; both once.

    Reading policies, SAEs and the store happens in the constructor, so bad input is told before anything listens.
    """

    def __init__(self, config: SidecarConfig) -> None:
        """Raises FeaturewatchError, or PolicyError with all problems of all policy files."""
        self.config = config
        self._catalog = Catalog(config.zoo)
        # Before they are read: what changes in between is read again.
        self._tried = fingerprint(config.policies)
        self.book = PolicyBook.load(config.policies, self._catalog)
        for name in config.modes:
            self.book.policy(name)
        self.modes = Modes(load=config.modes)
        self.session_id = str(uuid.uuid4())
        self.listening: tuple[Target, ...] = ()
        self.deliveries: tuple[Delivery, ...] = ()
        self.history = HistoryPool(config.history_mib << 20, len(self.book.compiled.detectors))
        self.metrics: MetricsServer | None = None
        self._watching: asyncio.Task[None] | None = None
        self._tokenizers = TokenizerCache(config.tokenizer)
        self.store = AuditStore(config.store)
        self._writer = AuditWriter(self.store)
        self._hub = AlertHub()
        self._health = health.aio.HealthServicer()
        # Compiles or loads the kernels now: the first frame must not wait for that.
        PolicyEngine(self.book.compiled)
        TokenClasses.unknown().classify(np.zeros(1, np.int64), 0)

    async def start(self) -> None:
        """Listens and serves. Raises FeaturewatchError when an address or a spool file is in use."""
        self._loop = asyncio.get_running_loop()
        credentials = check_tls(self.config.listen, self.config.tls)
        self.deliveries = tuple(_deliveries(self.config))
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        listening = []
        for target in self.config.listen:
            listening.append(bind(self._server, target, insecure_tcp=self.config.insecure_tcp, credentials=credentials))
        self.listening = tuple(listening)
        recent = RecentSummaries()
        self._publisher = Publisher(self._hub, self.deliveries, self._writer, recent)
        self.taps = Taps(
            self.book,
            self._publisher,
            self._tokenizers,
            PrefixStates(self.config.prefix_state_mib << 20),
            EvidenceDesk(self.book.sources, self._writer),
            history=self.history,
            session_id=self.session_id,
            grace_seconds=self.config.tap_grace_seconds,
            modes=self.modes,
            keep_share=self.config.keep_share,
        )
        audit = PolicyAudit(self.store, self._writer)
        self.rollout = self._make_rollout(audit)
        self._tap_service = TapService(self.taps)
        add_TapServiceServicer_to_server(self._tap_service, self._server)
        add_AlertServiceServicer_to_server(AlertService(self._hub, self.rollout), self._server)
        add_PolicyServiceServicer_to_server(PolicyService(self.rollout, self.taps, audit), self._server)
        self._generations = GenerationService(self.taps, recent, self.store, self._writer)
        add_GenerationServiceServicer_to_server(self._generations, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)
        if self.config.metrics is not None:
            self.metrics = MetricsServer(
                self.config.metrics, self._ask_for_snapshot, insecure_tcp=self.config.insecure_tcp
            )
        for name in ("", *SERVICES):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        for delivery in self.deliveries:
            delivery.start()
        await self._server.start()
        self.rollout.started()
        if self.config.watch_seconds is not None:
            self._watching = asyncio.create_task(self._watch(self.config.watch_seconds), name="watch policies")

    async def stop(self) -> None:
        """Says NOT_SERVING, judges what has arrived, ends streams, writes records, delivers events; bounded."""
        await self._health.enter_graceful_shutdown()
        if self._watching is not None:
            self._watching.cancel()
        await self._tap_service.close(self.config.drain_seconds)
        # Not before: watchers get what the last frames gave.
        self._hub.close()
        await self._server.stop(self.config.drain_seconds)
        self._generations.close()
        await self.taps.close()
        self._publisher.close()
        await asyncio.to_thread(self._writer.close)
        await asyncio.gather(*(delivery.close() for delivery in self.deliveries))
        self.store.close()
        if self.metrics is not None:
            await asyncio.to_thread(self.metrics.close)
        _log.info("stopped: %d records written, %d lost", self._writer.written, self._writer.lost)
        for delivery in self.deliveries:
            _log.info("%s: %s", delivery.name, delivery.stats)

    def _make_rollout(self, audit: PolicyAudit) -> Rollout:
        now = time.time_ns()
        edition = Edition(self.book, self.modes, {policy.name: now for policy in self.book.policies}, {})
        return Rollout(
            edition,
            self.taps,
            audit,
            paths=self.config.policies,
            tried=self._tried,
            catalog=self._catalog,
            history=self.history,
            known=self.store.revision_texts(),
        )

    async def _watch(self, every_seconds: float) -> None:
        rollout = self.rollout
        await watch_policies(
            self.config.policies,
            lambda: rollout.tried,
            lambda: bool(rollout.refused),
            lambda again: rollout.reload(Cause("file watch"), again=again),
            rollout.watch_failed,
            every_seconds=every_seconds,
        )

    def _ask_for_snapshot(self) -> Future[Snapshot]:
        # By way of the event loop, where verdicts are published: a loop that hangs must not look healthy.
        asked = self.taps.between_frames(
            lambda: take_snapshot(
                self.taps,
                self.deliveries,
                self._writer,
                self._publisher.notifications.sent,
                self.rollout,
            )
        )
        return asyncio.run_coroutine_threadsafe(asked, self._loop)


def _deliveries(config: SidecarConfig) -> Sequence[Delivery]:
    deliveries = []
    if config.alerts_jsonl is not None:
        deliveries.append(Delivery(JsonlSink(config.alerts_jsonl), MemoryOutbox()))
    if config.redis is not None:
        sink = RedisStreamSink(config.redis.url, config.redis.stream)
        deliveries.append(Delivery(sink, SpoolOutbox(config.redis.spool)))
    return deliveries
