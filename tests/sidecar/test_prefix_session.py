"""Prefix-cache gaps over a real grpc.aio server: restored where the prefix is known, told where it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_tap import FakeTap, Rows, begin, connect, end, hello
from session_calls import next_alert, policies, record_of, watch
from sidecar_kit import ENGINE, QUIET, World, channel_to, running_sidecar

from monitor.cli.render import alert_line
from monitor.v1.alerts_pb2 import Alert, Mode, Severity
from monitor.v1.engine_pb2 import EngineInfo
from monitor.v1.generations_pb2 import GenerationRecord
from monitor.v1.tap_pb2 import Gap, GapReason

BLOCK = 4
PROMPT = (0, 1, 2, 3, 4, 5, 6, 7, 5)
DENSE = (9.0, 0.0, 1.5, 2.5, 0.5, 0.5, 0.0, 0.5, 0.0)


def engine(block_size: int = BLOCK) -> EngineInfo:
    caching = EngineInfo()
    caching.CopyFrom(ENGINE)
    caching.prefix_block_size = block_size
    return caching


def cached(handle: int, count: int, first: int = 0) -> Gap:
    return Gap(handle=handle, first_position=first, count=count, reason=GapReason.GAP_REASON_PREFIX_CACHE)


async def cold(tap: FakeTap, handle: int = 1, prompt: tuple[int, ...] = PROMPT, **more: Any) -> None:
    """Fires LOUD-001 at token 3."""
    rows = Rows(handle, 0, prompt, dense=DENSE[: len(prompt)])
    await tap.send(tap.frame([rows], begins=[begin(handle, prompt, **more)], ends=[end(handle, len(prompt))]))


async def hit(tap: FakeTap, handle: int, count: int, prompt: tuple[int, ...] = PROMPT, **more: Any) -> None:
    """The same, its first `count` positions out of the cache."""
    rows = Rows(handle, count, prompt[count:], dense=DENSE[count : len(prompt)])
    frame = tap.frame(
        [rows], begins=[begin(handle, prompt, **more)], gaps=[cached(handle, count)], ends=[end(handle, len(prompt))]
    )
    await tap.send(frame)


def counts(record: GenerationRecord) -> tuple[int, int, int, int]:
    coverage = record.summary.coverage
    assert coverage.observed + coverage.restored + coverage.dropped + coverage.unseen == coverage.positions
    return coverage.observed, coverage.restored, coverage.dropped, coverage.unseen


def comparable(alert: Alert) -> Alert:
    """Without what tells two requests apart."""
    copy = Alert()
    copy.CopyFrom(alert)
    for name in (
        "alert_id",
        "time_unix_nanos",
        "request_id",
        "external_id",
        "generation_id",
        "latency_nanos",
        "restored",
    ):
        copy.ClearField(name)
    return copy


async def test_a_hit_fires_as_the_cold_run_did(world: World) -> None:
    async with running_sidecar(world.config()) as sidecar, channel_to(world.socket) as channel:
        alerts = await watch(channel)
        tap = await connect(channel, hello(engine=engine()))
        await cold(tap)
        await hit(tap, 2, 8)
        first, second = await next_alert(alerts), await next_alert(alerts)
        records = [await record_of(channel, "req-1"), await record_of(channel, "req-2")]
        totals = (await policies(channel)).taps[0].coverage
        found = sidecar.taps.prefix_states.stats()
    assert (first.restored, second.restored) == (False, True)
    assert second.position == 3
    assert second.token.strip() == "bomb"
    assert comparable(first) == comparable(second)
    assert first.alert_id != second.alert_id
    assert "(restored)" in alert_line(second).plain
    assert [counts(record) for record in records] == [(9, 0, 0, 0), (1, 8, 0, 0)]
    assert [(gap.first_position, gap.count, gap.reason) for gap in records[1].gaps] == [
        (0, 8, "restored: prefix cache")
    ]
    assert records[0].summary.peaks == records[1].summary.peaks
    assert records[0].summary.fired == records[1].summary.fired
    assert (totals.observed, totals.restored, totals.broken) == (10, 8, 0)
    assert (found.hits, found.misses, found.entries) == (1, 0, 2)


async def test_a_hold_goes_on_through_a_gap_and_a_later_firing_is_not_restored(world: World) -> None:
    text = (world.policies / "loud.yaml").read_text()
    (world.policies / "loud.yaml").write_text(
        text.replace("dense.fire or latents.fire", "dense.fire").replace(
            "severity: high", "for: 5 tokens, severity: high"
        )
    )
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        alerts = await watch(channel)
        tap = await connect(channel, hello(engine=engine()))
        # Fires at token 3 and holds from then on (kind: max), so the rule fires at token 7, in the second block.
        await cold(tap, prompt=PROMPT[:5])
        await hit(tap, 2, 4)
        alert = await next_alert(alerts)
        record = await record_of(channel, "req-2")
    assert (alert.external_id, alert.position, alert.restored) == ("req-2", 7, False)
    assert counts(record) == (5, 4, 0, 0)


async def test_adapters_salts_and_images_have_prefixes_of_their_own(world: World) -> None:
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        tap = await connect(channel, hello(engine=engine()))
        await cold(tap, adapter="lora", cache_salt_sha256=b"salt")
        await hit(tap, 2, 8, adapter="lora")
        await hit(tap, 3, 8, cache_salt_sha256=b"salt")
        await hit(tap, 4, 8, adapter="lora", cache_salt_sha256=b"salt")
        shown = [await record_of(channel, f"req-{handle}") for handle in (2, 3, 4)]
    assert [counts(record) for record in shown] == [(1, 0, 0, 8), (1, 0, 0, 8), (1, 8, 0, 0)]


async def test_a_longer_prefix_after_a_preemption_and_a_shorter_one_that_is_known(world: World) -> None:
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        tap = await connect(channel, hello(engine=engine()))
        await cold(tap)
        # Its first chunk was computed, then it waited while another request filled the cache.
        await tap.send(
            tap.frame([Rows(2, 0, PROMPT[:2], dense=DENSE[:2])], begins=[begin(2, PROMPT)]),
            tap.frame([Rows(2, 8, PROMPT[8:])], gaps=[cached(2, 6, first=2)], ends=[end(2, 9)]),
        )
        longer = (*PROMPT, 1, 2, 3, 4)
        await tap.send(
            tap.frame([Rows(3, 12, longer[12:])], begins=[begin(3, longer)], gaps=[cached(3, 12)], ends=[end(3, 13)])
        )
        records = [await record_of(channel, "req-2"), await record_of(channel, "req-3")]
    assert [counts(record) for record in records] == [(3, 6, 0, 0), (1, 8, 0, 4)]
    assert [record.alerts[0].restored for record in records] == [True, True]
    assert [(gap.first_position, gap.count, gap.reason) for gap in records[1].gaps] == [
        (0, 8, "restored: prefix cache"),
        (8, 4, "unseen: prefix cache"),
    ]


async def test_nothing_is_known_after_a_restart_or_behind_a_hole_or_without_memory(world: World) -> None:
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        tap = await connect(channel, hello(engine=engine()))
        lost = Gap(handle=1, first_position=0, count=1, reason=GapReason.GAP_REASON_QUEUE_FULL)
        rows = Rows(1, 1, PROMPT[1:], dense=DENSE[1:])
        await tap.send(tap.frame([rows], begins=[begin(1, PROMPT)], gaps=[lost], ends=[end(1, 9)]))
        await hit(tap, 2, 8)
        assert counts(await record_of(channel, "req-2")) == (1, 0, 0, 8)
        await cold(tap, 3)
        await hit(tap, 4, 8)
        assert counts(await record_of(channel, "req-4")) == (1, 8, 0, 0)
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        tap = await connect(channel, hello(engine=engine()))
        await hit(tap, 5, 8)
        assert counts(await record_of(channel, "req-5")) == (1, 0, 0, 8)
    async with running_sidecar(world.config(prefix_state_mib=0)), channel_to(world.socket) as channel:
        tap = await connect(channel, hello(engine=engine()))
        await cold(tap, 6)
        await hit(tap, 7, 8)
        assert counts(await record_of(channel, "req-7")) == (1, 0, 0, 8)


async def test_two_taps_of_one_model_share_what_they_know(world: World) -> None:
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        one = await connect(channel, hello("tap-1", engine=engine()))
        other = await connect(channel, hello("tap-2", engine=engine()))
        third = await connect(channel, hello("tap-3", engine=engine(block_size=8)))
        await cold(one)
        await hit(other, 2, 8)
        await hit(third, 3, 8)
        found = [await record_of(channel, f"req-{handle}") for handle in (2, 3)]
    assert [counts(record) for record in found] == [(1, 8, 0, 0), (1, 0, 0, 8)]


@pytest.mark.parametrize("choice", ["accept", "alert", "reread"])
async def test_what_stays_unseen_is_told_once_if_a_policy_asks(world: World, choice: str) -> None:
    _ask(world.policies / "loud.yaml", choice)
    async with running_sidecar(world.config()) as sidecar, channel_to(world.socket) as channel:
        alerts = await watch(channel)
        tap = await connect(channel, hello(engine=engine()))
        await tap.send(
            tap.frame([Rows(1, 8, PROMPT[8:])], begins=[begin(1, PROMPT)], gaps=[cached(1, 8)]),
            tap.frame(gaps=[Gap(handle=1, first_position=9, count=2, reason=GapReason.GAP_REASON_TAP_ERROR)]),
            tap.frame([Rows(1, 11, (5,), dense=(9,))], ends=[end(1, 12)]),
        )
        told = [await next_alert(alerts)]
        if choice != "accept":
            told.append(await next_alert(alerts))
        record = await record_of(channel, "req-1")
        reread = [tap.plan.reread for tap in sidecar.taps]
    assert told[-1].rule == "LOUD-001"
    assert reread == [choice == "reread"]
    assert counts(record) == (2, 0, 0, 10)
    if choice == "accept":
        assert list(record.summary.fired) == ["loud/LOUD-001"]
        return
    unseen = told[0]
    assert (unseen.policy, unseen.rule, unseen.position, unseen.unseen_positions) == ("loud", "on-unseen", 0, 8)
    assert (unseen.severity, unseen.mode) == (Severity.SEVERITY_LOW, Mode.MODE_ALERT)
    assert not unseen.readings
    assert "8 positions unseen" in alert_line(unseen).plain
    assert list(record.summary.fired) == ["loud/on-unseen", "loud/LOUD-001"]


async def test_what_was_restored_is_not_told_as_unseen_and_shadow_stays_shadow(world: World) -> None:
    _ask(world.policies / "loud.yaml", "alert")
    (world.policies / "quiet.yaml").write_text(QUIET.replace("record: {content: none}", "onUnseen: reread"))
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        alerts = await watch(channel, include_shadow=True)
        tap = await connect(channel, hello(engine=engine()))
        await cold(tap)
        await hit(tap, 2, 8)
        # Known up to 8 of 12.
        longer = (*PROMPT, 1, 2, 3, 4)
        await tap.send(
            tap.frame([Rows(3, 12, longer[12:])], begins=[begin(3, longer)], gaps=[cached(3, 12)], ends=[end(3, 13)])
        )
        found = [await next_alert(alerts) for _ in range(5)]
    assert [(alert.external_id, alert.rule, alert.restored) for alert in found] == [
        ("req-1", "LOUD-001", False),
        ("req-2", "LOUD-001", True),
        ("req-3", "LOUD-001", True),
        ("req-3", "on-unseen", False),
        ("req-3", "on-unseen", False),
    ]
    assert [(alert.position, alert.unseen_positions) for alert in found[3:]] == [(8, 4), (8, 4)]
    assert {(alert.policy, alert.mode) for alert in found[3:]} == {
        ("loud", Mode.MODE_ALERT),
        ("quiet", Mode.MODE_SHADOW),
    }


def _ask(policy: Path, choice: str) -> None:
    text = policy.read_text()
    assert text.count("spec:\n") == 1
    policy.write_text(text.replace("spec:\n", f"spec:\n  onUnseen: {choice}\n"))


async def test_a_prefix_that_another_request_computes_in_the_same_step(world: World) -> None:
    """vLLM enters blocks into its cache when it schedules them: three requests with one prompt can begin together, and
    each takes from the cache what the one before it computes in that very step."""
    longer = (*PROMPT, 1, 2, 3)
    last = (*longer, 4)
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        alerts = await watch(channel)
        tap = await connect(channel, hello(engine=engine()))
        begins = [begin(3, last), begin(2, longer), begin(1, PROMPT)]
        gaps = [cached(3, 12), cached(2, 8)]
        rows = [Rows(3, 12, last[12:]), Rows(2, 8, longer[8:]), Rows(1, 0, PROMPT, dense=DENSE)]
        await tap.send(tap.frame(rows, begins=begins, gaps=gaps, ends=[end(1, 9), end(2, 12), end(3, 13)]))
        found = [await next_alert(alerts) for _ in range(3)]
        records = [await record_of(channel, f"req-{handle}") for handle in (1, 2, 3)]
    assert [counts(record) for record in records] == [(9, 0, 0, 0), (4, 8, 0, 0), (1, 12, 0, 0)]
    assert [(alert.external_id, alert.position, alert.restored) for alert in found] == [
        ("req-1", 3, False),
        ("req-2", 3, True),
        ("req-3", 3, True),
    ]
