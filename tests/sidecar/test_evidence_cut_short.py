"""Evidence where rows were overwritten, or a tap, a request or the sidecar ends before all rows are there."""

from __future__ import annotations

from contextlib import closing

import pytest
from evidence_kit import (
    FIFTH,
    THIRD,
    evidence_of,
    frame_of,
    has_evidence,
    residuals,
)
from fake_tap import begin, connect, end, residual_rows
from sidecar_kit import World, channel_to, running_sidecar

from monitor.audit import AuditStore
from monitor.sidecar.evidence.desk import EvidenceStats
from monitor.v1.tap_pb2 import Gap, GapReason


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


async def test_the_end_of_the_sidecar_keeps_what_has_arrived(capturing: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # On a busy machine the encoding process may take longer to begin than the end of a sidecar waits for it.
    monkeypatch.setattr("monitor.sidecar.evidence.desk.DRAIN_SECONDS", 120.0)
    rows = residuals()
    async with running_sidecar(capturing.config(drain_seconds=60.0)), channel_to(capturing.socket) as channel:
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
