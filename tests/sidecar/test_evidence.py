"""Captures that rules and clients ask for, and the evidence they leave. The tap is a fake with true residual rows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing
from typing import Any

import grpc
import numpy as np
import pytest
from session_calls import policies, record_of
from sidecar_kit import (
    HOOKS,
    LOUD,
    WIDTH,
    FakeTap,
    Rows,
    World,
    begin,
    channel_to,
    connect,
    end,
    hello,
    make_dictionary,
    residual_rows,
    running_sidecar,
)
from support.command import Command

from monitor.audit import AuditStore
from monitor.rpc import floats_from_bytes, floats_to_bytes
from monitor.rpc.errors import error_info
from monitor.sae import load_dense_probe
from monitor.sidecar.evidence.desk import EvidenceStats
from monitor.v1.evidence_pb2 import Evidence
from monitor.v1.generations_pb2 import CaptureGenerationRequest, CaptureGenerationResponse, GenerationRecord
from monitor.v1.generations_pb2_grpc import GenerationServiceStub
from monitor.v1.tap_pb2 import DirectionRule, Gap, GapReason, HookActivations, StepFrame, TapMemory

THIRD, FIFTH = HOOKS
TOKENS = (0, 1, 2, 3, 4, 5)
CAPTURING = LOUD.replace("severity: high", "severity: high, actions: [alert, capture]")


@pytest.fixture
def capturing(world: World) -> World:
    (world.policies / "loud.yaml").write_text(CAPTURING)
    return world


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


async def test_a_rule_that_fires_captures_the_rows_before_and_after_it(capturing: World) -> None:
    rows = residuals()
    async with running_sidecar(capturing.config()), channel_to(capturing.socket) as channel:
        tap = await connect(channel)
        await tap.send(frame_of(tap, 1, rows, 0, 5, begins=[begin(1)]))
        directive = await tap.next_directive()
        for hook_point in HOOKS:
            await tap.send_rows(residual_rows(directive, hook_point, rows[hook_point][:5]))
        await tap.send(frame_of(tap, 1, rows, 5, 1), tap.frame(ends=[end(1, 6)]))
        for hook_point in HOOKS:
            await tap.send_rows(residual_rows(directive, hook_point, rows[hook_point][5:], first=5, last=True))
        record = await evidence_of(channel, "req-1", has_evidence)
        taps = (await policies(channel)).taps
    stored = AuditStore(capturing.folder / "audit.sqlite", read_only=True).get(record.summary.generation_id)
    assert directive.capture.follow
    assert list(directive.capture.hook_points) == list(HOOKS)
    assert [alert.position for alert in record.alerts] == [4]
    assert taps[0].errors == 0
    assert stored is not None
    assert list(stored.evidence) == list(record.evidence)
    third, fifth = record.evidence
    assert [(one.hook_point, one.sae, one.reason) for one in record.evidence] == [
        (THIRD, "tiny/resid_post.3", "loud/LOUD-001"),
        (FIFTH, "tiny/resid_post.5", "loud/LOUD-001"),
    ]
    for one, layer in ((third, 3), (fifth, 5)):
        assert [token.position for token in one.tokens] == [*range(6)]
        assert one.missing == 0
        assert_dense(one, layer, rows[one.hook_point])
    named = {p.name: p.sha256 for p in record.provenance if p.kind == "sae"}
    assert named == {one.sae: one.sae_sha256 for one in record.evidence}


async def test_watched_latents_have_the_activations_that_were_judged(capturing: World) -> None:
    """The same rows, by two ways: the tap's product with the plan's rows, and the whole dictionary."""
    rows = residuals(3)
    rows[THIRD] *= 3
    async with running_sidecar(capturing.config()), channel_to(capturing.socket) as channel:
        tap = await connect(channel)
        await tap.send(frame_of(tap, 1, rows, 0, 6, begins=[begin(1)]))
        directive = await tap.next_directive()
        for hook_point in HOOKS:
            await tap.send_rows(residual_rows(directive, hook_point, rows[hook_point], last=True))
        await tap.send(tap.frame(ends=[end(1, 6)]))
        record = await evidence_of(channel, "req-1", has_evidence)
    column = list(record.score_columns).index("loud/latents")
    assert dict(record.evidence[0].labels).get(4, "explosives") == "explosives"
    judged = 0
    for token in record.evidence[0].tokens[1:]:
        activations = dict(zip(token.latents, token.activations, strict=True))
        score = activations.get(4, 0) + 0.5 * activations.get(7, 0)
        assert record.tokens[token.position].token_scores[column] == pytest.approx(score, rel=1e-5)
        judged += score > 0
    assert judged >= 2


async def test_a_rule_in_shadow_captures_nothing(capturing: World) -> None:
    (capturing.policies / "loud.yaml").write_text(CAPTURING.replace("mode: alert", "mode: shadow"))
    rows = residuals()
    async with running_sidecar(capturing.config()), channel_to(capturing.socket) as channel:
        tap = await connect(channel)
        await tap.send(frame_of(tap, 1, rows, 0, 6, begins=[begin(1)], ends=[end(1, 6)]))
        # Directives go before the acknowledgements of the frames that they come from.
        record = await record_of(channel, "req-1")
    assert [alert.rule for alert in record.alerts] == ["LOUD-001"]
    assert not tap.directives


async def test_what_is_missing_is_told(capturing: World) -> None:
    """Rows overwritten before the capture, positions that were never judged, and a hook point that never answers."""
    rows = residuals()
    async with running_sidecar(capturing.config()) as sidecar, channel_to(capturing.socket) as channel:
        sidecar.taps.evidence.captures._idle_seconds = 0.2
        tap = await connect(channel)
        cached = Gap(handle=1, first_position=0, count=2, reason=GapReason.GAP_REASON_PREFIX_CACHE)
        await tap.send(frame_of(tap, 1, rows, 2, 4, begins=[begin(1)], gaps=[cached]))
        directive = await tap.next_directive()
        await tap.send_rows(residual_rows(directive, THIRD, rows[THIRD][3:], first=3, last=True))
        await tap.send(tap.frame(ends=[end(1, 6)]))
        record = await evidence_of(channel, "req-1", has_evidence)
        assert sidecar.taps.evidence.stats == EvidenceStats(stored=1, tokens=3, missing=5)
    by_hook = {one.hook_point: one for one in record.evidence}
    assert [token.position for token in by_hook[THIRD].tokens] == [3, 4, 5]
    assert by_hook[THIRD].missing == 1
    assert (len(by_hook[FIFTH].tokens), by_hook[FIFTH].missing) == (0, 4)
    assert record.summary.coverage.unseen == 2


@pytest.mark.parametrize("comes_back", [True, False])
async def test_a_tap_that_dies_leaves_what_it_has_sent(capturing: World, comes_back: bool) -> None:
    rows = residuals()
    async with running_sidecar(capturing.config()), channel_to(capturing.socket) as channel:
        tap = await connect(channel)
        await tap.send(frame_of(tap, 1, rows, 0, 5, begins=[begin(1)]))
        directive = await tap.next_directive()
        await tap.send_rows(residual_rows(directive, THIRD, rows[THIRD][:3]))
        await tap.send(frame_of(tap, 1, rows, 5, 1))
        if comes_back:
            # A newer stream takes over while the older one is still open.
            back = await connect(channel)
            back.frame.seq = tap.frame.seq
            await back.send_rows(residual_rows(directive, THIRD, rows[THIRD][3:], first=3, last=True))
            await back.send(back.frame(ends=[end(1, 6)]))
        else:
            tap.drop()
        record = await evidence_of(channel, "req-1", has_evidence)
    third = next(one for one in record.evidence if one.hook_point == THIRD)
    assert [token.position for token in third.tokens] == [0, 1, 2]
    assert third.missing == 3


async def test_many_generations_at_once_keep_their_own_evidence(capturing: World) -> None:
    handles = [*range(1, 9)]
    rows = {handle: residuals(handle) for handle in handles}
    async with running_sidecar(capturing.config()), channel_to(capturing.socket) as channel:
        tap = await connect(channel)
        for handle in handles:
            await tap.send(frame_of(tap, handle, rows[handle], 0, 5, begins=[begin(handle)]))
        directives = [await tap.next_directive() for _ in handles]
        for first, count in ((0, 2), (2, 3)):
            for directive in reversed(directives):
                for hook_point in HOOKS:
                    part = rows[directive.handle][hook_point][first : first + count]
                    await tap.send_rows(residual_rows(directive, hook_point, part, first=first, last=first > 0))
        await tap.send(tap.frame(ends=[end(handle, 5) for handle in handles]))
        records = {h: await evidence_of(channel, f"req-{h}", lambda record: len(record.evidence) == 2) for h in handles}
    assert sorted(directive.handle for directive in directives) == handles
    for handle, record in records.items():
        for one, layer in zip(record.evidence, (3, 5), strict=True):
            assert (len(one.tokens), one.missing) == (5, 0)
            assert_dense(one, layer, rows[handle][one.hook_point])


async def test_a_second_rule_does_not_ask_again(capturing: World) -> None:
    two = CAPTURING + '    - {id: LOUD-002, when: "dense.warn", severity: low, actions: [alert, capture]}\n'
    (capturing.policies / "loud.yaml").write_text(two)
    rows = residuals()
    async with running_sidecar(capturing.config()), channel_to(capturing.socket) as channel:
        tap = await connect(channel)
        await tap.send(frame_of(tap, 1, rows, 0, 6, begins=[begin(1)]), tap.frame(ends=[end(1, 6)]))
        record = await record_of(channel, "req-1")
    assert sorted(alert.rule for alert in record.alerts) == ["LOUD-001", "LOUD-002"]
    assert len(tap.directives) == 1


async def test_a_request_that_ends_in_the_frame_that_fires_does_not_wait_for_ever(capturing: World) -> None:
    rows = residuals()
    async with running_sidecar(capturing.config()) as sidecar, channel_to(capturing.socket) as channel:
        captures = sidecar.taps.evidence.captures
        captures._idle_seconds = 0.2
        tap = await connect(channel)
        await tap.send(frame_of(tap, 1, rows, 0, 6, begins=[begin(1)], ends=[end(1, 6)]))
        # In one batch: the rule fires in the first frame, the request ends in the second.
        await tap.send(frame_of(tap, 2, rows, 0, 6, begins=[begin(2)]), tap.frame(ends=[end(2, 6)]))
        missing = [(await evidence_of(channel, f"req-{h}", has_evidence)).evidence[0].missing for h in (1, 2)]
        assert len(captures) == 0
    assert missing == [6, 6]


async def test_a_rule_that_cannot_capture_says_so_in_the_record(
    capturing: World, caplog: pytest.LogCaptureFixture
) -> None:
    rows = residuals()
    async with running_sidecar(capturing.config()), channel_to(capturing.socket) as channel:
        tap = await connect(channel, hello(memory=TapMemory()))
        await tap.send(frame_of(tap, 1, rows, 0, 6, begins=[begin(1)]))
        await tap.send(tap.frame(ends=[end(1, 6)]))
        record = await record_of(channel, "req-1")
        taps = (await policies(channel)).taps
    assert not record.evidence
    assert any("no evidence for loud/LOUD-001" in note and "recorder_mib" in note for note in record.notes)
    assert taps[0].errors == 1
    assert "rules loud/LOUD-001 ask for captures, but the tap's flight recorder is off" in caplog.text


async def test_a_client_captures_what_nothing_flagged(world: World) -> None:
    rows = {hook_point: np.zeros((4, WIDTH), np.float32) + 1e-3 for hook_point in HOOKS}
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        tap = await connect(channel)
        for handle in (1, 2):
            await tap.send(frame_of(tap, handle, rows, 0, 3, begins=[begin(handle)]))
        await tap.send(tap.frame(ends=[end(1, 3)]))
        ended = asyncio.create_task(capture(channel, "req-1"))
        await tap.answer(rows[THIRD][:3])
        live = asyncio.create_task(capture(channel, "req-2", (FIFTH,)))
        # A row that came after the request for the capture is there as well.
        directive = await tap.next_directive()
        await tap.send(frame_of(tap, 2, rows, 3, 1))
        await tap.send_rows(residual_rows(directive, FIFTH, rows[FIFTH][1:4], first=1, last=True))
        answers = [await ended, await live]
        await tap.send(tap.frame(ends=[end(2, 4)]))
        records = [await record_of(channel, "req-1"), await record_of(channel, "req-2")]
    assert [[(e.hook_point, len(e.tokens), e.missing, e.reason) for e in answer.evidence] for answer in answers] == [
        [(THIRD, 3, 0, "client"), (FIFTH, 3, 0, "client")],
        [(FIFTH, 3, 1, "client")],
    ]
    store = AuditStore(world.folder / "audit.sqlite", read_only=True)
    for record, answer in zip(records, answers, strict=True):
        assert list(record.evidence) == list(answer.evidence)
        assert not record.alerts
        assert record.content == "none"
        stored = store.get(answer.generation_id)
        assert stored is not None
        assert stored.evidence == record.evidence
        assert stored.summary.end_unix_nanos


async def test_a_capture_of_a_client_adds_to_that_of_a_rule(capturing: World) -> None:
    rows = residuals()
    async with running_sidecar(capturing.config()), channel_to(capturing.socket) as channel:
        tap = await connect(channel)
        await tap.send(frame_of(tap, 1, rows, 0, 6, begins=[begin(1)]), tap.frame(ends=[end(1, 6)]))
        directive = await tap.next_directive()
        for hook_point in HOOKS:
            await tap.send_rows(residual_rows(directive, hook_point, rows[hook_point][:4], last=True))
        await evidence_of(channel, "req-1", has_evidence)
        asking = asyncio.create_task(capture(channel, "req-1", (THIRD,)))
        await tap.answer(rows[THIRD][3:], first=3)
        await asking
        record = await evidence_of(channel, "req-1", lambda r: len(r.evidence[0].tokens) > 4)
    third, fifth = record.evidence
    assert ([token.position for token in third.tokens], third.missing) == ([*range(6)], 0)
    assert third.reason == "loud/LOUD-001, client"
    assert ([token.position for token in fifth.tokens], fifth.missing) == ([*range(4)], 2)


async def test_what_cannot_be_captured_is_refused_with_a_reason(world: World) -> None:
    rows = residuals()
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        tap = await connect(channel)
        await tap.send(frame_of(tap, 1, rows, 0, 3, begins=[begin(1)]))
        overwritten = asyncio.create_task(refusal(capture(channel, "req-1")))
        await tap.answer(rows[THIRD][:0])
        found = [await overwritten, await refusal(capture(channel, "nobody"))]
        other = await connect(channel, hello("tap-2", hooks=("resid_post.6",)))
        await other.send(other.frame(begins=[begin(9)]))
        found.append(await refusal(capture(channel, "req-9")))
        broken = asyncio.create_task(refusal(capture(channel, "req-1")))
        (world.zoo / "tiny" / "resid_post.3" / "sae_weights.safetensors").write_bytes(b"not weights")
        (world.zoo / "tiny" / "resid_post.5" / "sae_weights.safetensors").unlink()
        await tap.answer(rows[THIRD][:3])
        found.append(await broken)
    assert [(reason, code.name) for reason, code in found] == [
        ("ROWS_OVERWRITTEN", "FAILED_PRECONDITION"),
        ("UNKNOWN_GENERATION", "NOT_FOUND"),
        ("NO_DICTIONARY", "FAILED_PRECONDITION"),
        ("ENCODING_FAILED", "INTERNAL"),
    ]


async def test_a_policy_that_forbids_content_forbids_evidence(capturing: World) -> None:
    """It fires after the capture began: what the other policy's rule asked for is thrown away."""
    rows = residuals()
    rows[FIFTH][5] = make_dictionary(5).w_enc_md[1] * 10
    async with running_sidecar(capturing.config()), channel_to(capturing.socket) as channel:
        tap = await connect(channel)
        await tap.send(frame_of(tap, 1, rows, 0, 5, begins=[begin(1)]))
        directive = await tap.next_directive()
        await tap.send(frame_of(tap, 1, rows, 5, 1), tap.frame(ends=[end(1, 6)]))
        for hook_point in HOOKS:
            await tap.send_rows(residual_rows(directive, hook_point, rows[hook_point], last=True))
        refused = await refusal(capture(channel, "req-1"))
    record = AuditStore(capturing.folder / "audit.sqlite", read_only=True).page(1)
    assert {*record[0].fired} == {"loud/LOUD-001", "quiet/QUIET-001"}
    assert refused == ("CONTENT_WITHHELD", grpc.StatusCode.PERMISSION_DENIED)
    assert AuditStore(capturing.folder / "audit.sqlite", read_only=True).evidence(record[0].generation_id) == []


async def test_the_end_of_the_sidecar_keeps_what_has_arrived(capturing: World) -> None:
    rows = residuals()
    async with running_sidecar(capturing.config()), channel_to(capturing.socket) as channel:
        tap = await connect(channel)
        await tap.send(frame_of(tap, 1, rows, 0, 5, begins=[begin(1)]))
        directive = await tap.next_directive()
        await tap.send_rows(residual_rows(directive, THIRD, rows[THIRD][:5]))
        await tap.send(frame_of(tap, 1, rows, 5, 1))
    with closing(AuditStore(capturing.folder / "audit.sqlite", read_only=True)) as store:
        record = store.get(store.page(1)[0].generation_id)
    assert record is not None
    assert any("shut down" in note for note in record.notes)
    assert [(one.hook_point, len(one.tokens), one.missing) for one in record.evidence] == [(THIRD, 5, 1), (FIFTH, 0, 6)]


async def test_the_command_captures_and_shows(world: World, featurewatch: Command) -> None:
    rows = residuals()
    sidecar = ("--sidecar", f"unix:{world.socket}")
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        tap = await connect(channel)
        await tap.send(frame_of(tap, 1, rows, 0, 6, begins=[begin(1)]))
        asking = asyncio.create_task(
            asyncio.to_thread(featurewatch, "audit", "capture", "req-1", "--hook-point", THIRD, *sidecar)
        )
        await tap.answer(rows[THIRD])
        code, out, _ = await asking
        unknown = await asyncio.to_thread(featurewatch, "audit", "capture", "nobody", *sidecar)
        await tap.send(tap.frame(ends=[end(1, 6)]))
    shown = featurewatch("audit", "show", "req-1", "--store", str(world.folder / "audit.sqlite"))
    assert code == 0
    assert "Evidence of tiny/resid_post.3 (12 latents)" in out
    assert "6 of 6 judged tokens" in out
    assert "where LOUD-001 fired" in out
    assert unknown[0] == 2
    assert "no such generation" in unknown[2]
    assert "Evidence of tiny/resid_post.3 (12 latents)" in shown[1]


def test_the_rows_of_these_tests_fire_where_they_say(world: World) -> None:
    probe = load_dense_probe(world.policies / "weights" / "loud.dense.safetensors")
    for seed in range(1, 9):
        scores_n = residuals(seed)[THIRD] @ probe.weight_d + probe.bias
        assert scores_n[4] >= 2
        assert (np.delete(scores_n, 4) < 2).all()
        # Token 0 begins the text and is not judged.
        assert (make_dictionary(5).encode(residuals(seed)[FIFTH])[1:, 1] < 3).all()
