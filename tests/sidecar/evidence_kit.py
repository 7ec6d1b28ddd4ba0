"""Residual rows on which policies fire, the frames that a tap makes of them, and calls for evidence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from fake_tap import FakeTap, Rows
from session_calls import record_of
from sidecar_kit import HOOKS, LOUD, WIDTH, make_dictionary

from monitor.rpc import floats_from_bytes, floats_to_bytes
from monitor.rpc.errors import error_info
from monitor.v1.evidence_pb2 import Evidence
from monitor.v1.generations_pb2 import CaptureGenerationRequest, CaptureGenerationResponse, GenerationRecord
from monitor.v1.generations_pb2_grpc import GenerationServiceStub
from monitor.v1.tap_pb2 import DirectionRule, HookActivations, StepFrame

THIRD, FIFTH = HOOKS
TOKENS = (0, 1, 2, 3, 4, 5)
CAPTURING = LOUD.replace("severity: high", "severity: high, actions: [alert, capture]")


def residuals(seed: int = 1, count: int = len(TOKENS)) -> dict[str, np.ndarray]:
    """Rows per hook point; policy `loud` fires at position 4 and `quiet` nowhere, for seeds 1 to 8."""
    rng = np.random.default_rng(seed)
    rows = {hook_point: rng.standard_normal((count, WIDTH), np.float32) for hook_point in HOOKS}
    rows[THIRD] -= np.clip(rows[THIRD] @ np.arange(WIDTH), 0, None)[:, None] * np.arange(WIDTH) / 140
    rows[FIFTH] *= 0.05
    if count > 4:
        rows[THIRD][4] = np.arange(WIDTH) / 10
    return rows


def frame_of(tap: FakeTap, handle: int, rows: dict[str, np.ndarray], first: int, count: int, **more: Any) -> StepFrame:
    """A frame whose activations are what a tap would have computed from the rows."""
    part = slice(first, first + count)
    frame = tap.frame([Rows(handle, first, TOKENS[part])], **more)
    frame.ClearField("activations")
    for hook in tap.plan.hooks:
        weights_kd = floats_from_bytes(hook.weights, (hook.count, hook.width), "weights")
        biases_k = floats_from_bytes(hook.biases, (hook.count,), "biases")
        thresholds_k = floats_from_bytes(hook.thresholds, (hook.count,), "thresholds")
        pre_nk = rows[hook.hook_point][part] @ weights_kd.T + biases_k
        identity_k = np.array(hook.rules) == DirectionRule.DIRECTION_RULE_IDENTITY
        acts_nk = np.where(identity_k | ((pre_nk > thresholds_k) & (pre_nk > 0)), pre_nk, 0)
        frame.activations.append(HookActivations(hook_point=hook.hook_point, values=floats_to_bytes(acts_nk)))
    return frame


async def evidence_of(
    channel: grpc.aio.Channel, id_: str, ready: Callable[[GenerationRecord], bool]
) -> GenerationRecord:
    """The record once it is as wanted: encoding has a process of its own."""
    for _ in range(400):
        record = await record_of(channel, id_)
        if ready(record):
            return record
        await asyncio.sleep(0.05)
    raise AssertionError(f"no such evidence: {record.evidence} {record.notes}")


def has_evidence(record: GenerationRecord) -> bool:
    return bool(record.evidence)


def assert_dense(evidence: Evidence, layer: int, rows_nd: np.ndarray) -> None:
    """Each token's evidence is what the whole dictionary gives of its row."""
    dictionary = make_dictionary(layer)
    for token in evidence.tokens:
        f_m = dictionary.encode(rows_nd[token.position : token.position + 1])[0]
        assert set(token.latents) == set(np.flatnonzero(f_m))
        np.testing.assert_allclose(token.activations, f_m[list(token.latents)], rtol=1e-5)
        assert token.active == np.count_nonzero(f_m)


async def capture(channel: grpc.aio.Channel, id_: str, hooks: tuple[str, ...] = ()) -> CaptureGenerationResponse:
    request = CaptureGenerationRequest(id=id_, hook_points=hooks)
    return await GenerationServiceStub(channel).CaptureGeneration(request, timeout=30)


async def refusal(call: Any) -> tuple[str, grpc.StatusCode]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    info = error_info(caught.value)
    assert info is not None, caught.value.details()
    return info.reason, caught.value.code()
