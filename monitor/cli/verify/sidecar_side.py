"""What the sidecar and its taps say of the canaries."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import grpc
import numpy as np
import numpy.typing as npt

from monitor.cli.verify.canaries import Canary
from monitor.rpc import Target, call_error
from monitor.rpc.residuals import residuals_from
from monitor.v1.generations_pb2 import GenerationSummary, ListGenerationsRequest, ReadResidualsRequest
from monitor.v1.generations_pb2_grpc import GenerationServiceStub
from monitor.v1.policies_pb2 import ListPoliciesRequest, TapStatus
from monitor.v1.policies_pb2_grpc import PolicyServiceStub

_SECONDS: Final = 30.0

Rows = dict[str, dict[int, npt.NDArray[np.float32]]]
"""Residual rows float32 [d] by hook point and position."""


class SidecarSide:
    """Calls to one sidecar. Every method raises FeaturewatchError when a call fails."""

    def __init__(self, channel: grpc.Channel, target: Target) -> None:
        self._policies = PolicyServiceStub(channel)
        self._generations = GenerationServiceStub(channel)
        self._target = target

    def taps(self, models: Sequence[str]) -> list[TapStatus]:
        """Connected taps of the served models."""
        with self._telling():
            taps = self._policies.ListPolicies(ListPoliciesRequest(), timeout=_SECONDS).taps
        return [tap for tap in taps if tap.connected and tap.model in models]

    def taps_after(self, models: Sequence[str], moment_unix_nanos: int) -> list[TapStatus]:
        """As `taps`, once each has sent a heartbeat after that moment, or the patience is over."""
        deadline = time.monotonic() + _SECONDS
        while True:
            taps = self.taps(models)
            late = [tap for tap in taps if tap.heartbeat.sent_unix_nanos < moment_unix_nanos]
            if not late or time.monotonic() > deadline:
                return taps
            time.sleep(0.2)

    def generations(self, canaries: Sequence[Canary]) -> dict[str, list[GenerationSummary]]:
        """Ended generations by the canary's request id; several where pipeline stages have a tap each."""
        deadline = time.monotonic() + _SECONDS
        while True:
            request = ListGenerationsRequest(include_unflagged=True, page_size=1000)
            with self._telling():
                listed = self._generations.ListGenerations(request, timeout=_SECONDS).generations
            found: dict[str, list[GenerationSummary]] = {canary.request_id: [] for canary in canaries}
            for summary in listed:
                # A completion's prompts are numbered behind its id.
                for name in (summary.external_id, summary.external_id.rpartition("-")[0]):
                    if summary.end_unix_nanos and name in found:
                        found[name].append(summary)
                        break
            if all(found.values()) or time.monotonic() > deadline:
                return found
            time.sleep(0.2)

    def residuals(self, generation_id: str) -> Rows:
        """All residual rows that the taps' flight recorders still hold of a generation."""
        rows: Rows = {}
        with self._telling():
            for answer in self._generations.ReadResiduals(ReadResidualsRequest(id=generation_id), timeout=4 * _SECONDS):
                part = answer.rows
                for offset, row_d in enumerate(residuals_from(part)):
                    rows.setdefault(part.hook_point, {})[part.first_position + offset] = row_d
        return rows

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise call_error(error, self._target) from error
