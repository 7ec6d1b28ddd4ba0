"""Captures that clients ask for, by call and by command."""

from __future__ import annotations

import asyncio

import numpy as np
from evidence_kit import (
    FIFTH,
    THIRD,
    capture,
    evidence_of,
    frame_of,
    has_evidence,
    refusal,
    residuals,
)
from fake_tap import begin, connect, end, hello, residual_rows
from session_calls import record_of
from sidecar_kit import HOOKS, WIDTH, World, channel_to, running_sidecar
from support.command import Command

from monitor.audit import AuditStore


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
