"""The demo's view of the sidecar: alerts as they come, and the generations afterwards."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection

import grpc

from monitor.rpc import Target, open_channel
from monitor.v1 import (
    alerts_pb2,
    alerts_pb2_grpc,
    generations_pb2,
    generations_pb2_grpc,
    policies_pb2,
    policies_pb2_grpc,
)


class SidecarView:
    """A client of one sidecar; `alerts` grows while the block runs."""

    def __init__(self, target: str, on_alert: Callable[[alerts_pb2.Alert], None]) -> None:
        self.alerts: list[alerts_pb2.Alert] = []
        self._channel = open_channel(Target.parse(target))
        self._generations = generations_pb2_grpc.GenerationServiceStub(self._channel)
        self._policies = policies_pb2_grpc.PolicyServiceStub(self._channel)
        self._stream = alerts_pb2_grpc.AlertServiceStub(self._channel).WatchAlerts(alerts_pb2.WatchAlertsRequest())
        self._on_alert = on_alert
        self._thread = threading.Thread(target=self._watch, name="alerts", daemon=True)
        self._thread.start()

    def __enter__(self) -> SidecarView:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.cancel()
        self._thread.join(5)
        self._channel.close()

    def policies(self) -> policies_pb2.ListPoliciesResponse:
        return self._policies.ListPolicies(policies_pb2.ListPoliciesRequest(), timeout=5)

    def tap_connected(self) -> bool:
        return any(tap.connected for tap in self.policies().taps)

    def ended_generations(
        self, external_ids: Collection[str], seconds: float
    ) -> dict[str, generations_pb2.GenerationSummary]:
        """The summaries of these requests by external id, once all have ended or the time is up."""
        deadline = time.monotonic() + seconds
        while True:
            request = generations_pb2.ListGenerationsRequest(include_unflagged=True, page_size=1000)
            listed = self._generations.ListGenerations(request, timeout=5).generations
            found = {one.external_id: one for one in listed if one.external_id in external_ids and one.end_unix_nanos}
            if len(found) == len(external_ids) or time.monotonic() > deadline:
                return found
            time.sleep(0.2)

    def generation(self, generation_id: str, seconds: float) -> generations_pb2.GenerationRecord:
        """The record, once it has evidence or the time is up."""
        deadline = time.monotonic() + seconds
        while True:
            request = generations_pb2.GetGenerationRequest(id=generation_id)
            record = self._generations.GetGeneration(request, timeout=10).generation
            if record.evidence or time.monotonic() > deadline:
                return record
            time.sleep(0.2)

    def _watch(self) -> None:
        try:
            for response in self._stream:
                if response.HasField("alert"):
                    self.alerts.append(response.alert)
                    self._on_alert(response.alert)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.CANCELLED:
                raise
