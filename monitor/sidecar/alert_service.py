"""monitor.v1.AlertService: alerts as they happen."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc

from monitor.errors import FeaturewatchError
from monitor.rpc import abort
from monitor.sidecar.alert_hub import AlertHub
from monitor.sidecar.rollout import Rollout
from monitor.v1.alerts_pb2 import WatchAlertsRequest, WatchAlertsResponse
from monitor.v1.alerts_pb2_grpc import AlertServiceServicer

Context = grpc.aio.ServicerContext[WatchAlertsRequest, WatchAlertsResponse]


class AlertService(AlertServiceServicer):
    def __init__(self, hub: AlertHub, rollout: Rollout) -> None:
        self._hub = hub
        self._rollout = rollout

    async def WatchAlerts(  # noqa: N802
        self, request: WatchAlertsRequest, context: Context
    ) -> AsyncIterator[WatchAlertsResponse]:
        try:
            for name in request.policies:
                self._rollout.policy(name)
        except FeaturewatchError as error:
            await abort(context, grpc.StatusCode.NOT_FOUND, "UNKNOWN_POLICY", error)
        with self._hub.watch(request) as watcher:
            # Tells the client that from now on nothing escapes it.
            await context.send_initial_metadata(())
            while (response := await watcher.next()) is not None:
                yield response
