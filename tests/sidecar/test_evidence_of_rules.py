"""Captures that rules ask for, and the evidence they leave. The tap is a fake with true residual rows."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
from evidence_kit import (
    CAPTURING,
    FIFTH,
    THIRD,
    assert_dense,
    capture,
    evidence_of,
    frame_of,
    has_evidence,
    refusal,
    residuals,
)
from fake_tap import begin, connect, end, hello, residual_rows
from session_calls import policies, record_of
from sidecar_kit import HOOKS, World, channel_to, make_dictionary, running_sidecar

from monitor.audit import AuditStore
from monitor.sae import load_dense_probe
from monitor.v1.tap_pb2 import TapMemory


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


def test_the_rows_of_these_tests_fire_where_they_say(world: World) -> None:
    probe = load_dense_probe(world.policies / "weights" / "loud.dense.safetensors")
    for seed in range(1, 9):
        scores_n = residuals(seed)[THIRD] @ probe.weight_d + probe.bias
        assert scores_n[4] >= 2
        assert (np.delete(scores_n, 4) < 2).all()
        # Token 0 begins the text and is not judged.
        assert (make_dictionary(5).encode(residuals(seed)[FIFTH])[1:, 1] < 3).all()
