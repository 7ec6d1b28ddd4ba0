"""/metrics and /healthz over HTTP."""

from __future__ import annotations

import asyncio
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping

import pytest
from fake_tap import Rows, begin, connect, end, hello
from prometheus_client.parser import text_string_to_metric_families
from session_calls import flag
from sidecar_kit import ENGINE, World, channel_to, running_sidecar

from monitor.errors import FeaturewatchError
from monitor.rpc import Target
from monitor.sidecar.metrics import server as metrics_server
from monitor.sidecar.metrics import tap_families
from monitor.sidecar.server import Sidecar
from monitor.v1.engine_pb2 import EngineInfo
from monitor.v1.tap_pb2 import Heartbeat, SelfTest, StreamRequest, TapMemory

LOOPBACK = Target(host="127.0.0.1", port=0)


async def fetch(sidecar: Sidecar, path: str = "/metrics") -> str:
    assert sidecar.metrics is not None
    url = f"http://{sidecar.metrics.target}{path}"

    def get() -> str:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.read().decode()  # type: ignore[no-any-return]

    return await asyncio.to_thread(get)


def samples(text: str) -> dict[str, float]:
    """As they are written, `name{label="value",...}`, labels sorted."""
    return {
        sample.name + _labels(sample.labels): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _labels(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f'{key}="{labels[key]}"' for key in sorted(labels)) + "}" if labels else ""


async def test_a_scrape_tells_what_was_judged(world: World) -> None:
    config = world.config(metrics=LOOPBACK, alerts_jsonl=world.folder / "alerts.jsonl")
    async with running_sidecar(config) as sidecar, channel_to(world.socket) as channel:
        tap = await connect(channel, hello(memory=TapMemory(buffer_bytes=10, recorder_bytes=20, queue_bytes=30)))
        beat = Heartbeat(
            steps=9,
            steps_fired=8,
            rows=5,
            rejected_draft_rows=4,
            unreported_positions=3,
            engine_thread_nanos=2_500_000_000,
            self_test=SelfTest(outcome=SelfTest.OUTCOME_PASSED),
        )
        await tap.call.write(StreamRequest(heartbeat=beat))
        await flag(tap)
        await tap.send(tap.frame([Rows(2, 0, (0, 1, 2))], begins=[begin(2)]))
        await tap.send(tap.frame([Rows(3, 0, (0, 1, 2))], begins=[begin(3)]))
        await tap.send(tap.frame(ends=[end(3, 4)]))
        for delivery in sidecar.deliveries:
            while not delivery.stats.delivered:
                await asyncio.sleep(0.01)
        found = samples(await fetch(sidecar))
    sink = sidecar.deliveries[0].name
    expected = {
        "featurewatch_frames_total": 7,
        "featurewatch_rows_total": 11,
        'featurewatch_positions_total{coverage="observed"}': 11,
        'featurewatch_positions_total{coverage="dropped"}': 1,
        'featurewatch_positions_total{coverage="unseen"}': 0,
        'featurewatch_positions_total{coverage="restored"}': 0,
        "featurewatch_coverage_broken_total": 1,
        "featurewatch_live_requests": 1,
        'featurewatch_alerts_total{mode="alert",policy="loud",rule="LOUD-001",severity="high"}': 1,
        # Position 0 is no content, and every policy skips it.
        'featurewatch_policy_rows_judged_total{policy="loud"}': 8,
        "featurewatch_decision_latency_seconds_count": 5,
        'featurewatch_decision_latency_seconds_bucket{le="+Inf"}': 5,
        'featurewatch_decision_latency_seconds_bucket{le="0.002"}': 0,
        f'featurewatch_delivery_events_total{{outcome="delivered",sink="{sink}"}}': 1,
        "featurewatch_history_limit_bytes": (64 << 20) // 4096 * 4096,
        "featurewatch_history_used_bytes": 2 * 4096,
        "featurewatch_history_given_up_pages_total": 0,
        "featurewatch_prefix_states_limit_bytes": 64 << 20,
        'featurewatch_prefix_lookups_total{outcome="hit"}': 0,
        "featurewatch_captures_running": 0,
        'featurewatch_evidence_total{outcome="stored"}': 0,
        "featurewatch_taps": 1,
        'featurewatch_tap_connected{tap="tap-1"}': 1,
        'featurewatch_tap_steps_total{tap="tap-1"}': 9,
        'featurewatch_tap_steps_fired_total{tap="tap-1"}': 8,
        'featurewatch_tap_rejected_draft_rows_total{tap="tap-1"}': 4,
        'featurewatch_tap_unreported_positions_total{tap="tap-1"}': 3,
        'featurewatch_tap_engine_thread_seconds_total{tap="tap-1"}': 2.5,
        'featurewatch_tap_self_test{outcome="passed",tap="tap-1"}': 1,
        'featurewatch_tap_self_test{outcome="failed",tap="tap-1"}': 0,
        'featurewatch_tap_memory_bytes{part="recorder",tap="tap-1"}': 20,
        'featurewatch_tap_positions_total{coverage="observed",tap="tap-1"}': 11,
    }
    assert {name: found.get(name) for name in expected} == expected
    assert found['featurewatch_frame_problems_total{kind="coverage does not add up, positions never reported"}'] == 1
    assert found["process_resident_memory_bytes"] > 1e6
    assert found["featurewatch_snapshot_age_seconds"] < 5
    # The client's ids must not become labels.
    assert "req-1" not in "".join(found)


async def test_every_metric_says_what_it_is(world: World) -> None:
    async with running_sidecar(world.config(metrics=LOOPBACK)) as sidecar:
        text = await fetch(sidecar)
    ours = [family for family in text_string_to_metric_families(text) if family.name.startswith("featurewatch_")]
    assert len(ours) > 30
    assert [family.name for family in ours if len(family.documentation) < 10] == []


async def test_taps_by_name_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tap_families, "MOST_TAPS", 2)
    async with running_sidecar(world.config(metrics=LOOPBACK)) as sidecar, channel_to(world.socket) as channel:
        for number in range(4):
            tap = await connect(channel, hello(f"tap-{number}"))
            await tap.send(tap.frame([Rows(1, 0, (0, 1, 2))], begins=[begin(1)]))
        found = samples(await fetch(sidecar))
    assert found["featurewatch_taps"] == 4
    assert found["featurewatch_rows_total"] == 12
    assert sorted(name for name in found if name.startswith("featurewatch_tap_rows_total")) == [
        'featurewatch_tap_rows_total{tap="tap-0"}',
        'featurewatch_tap_rows_total{tap="tap-1"}',
    ]


async def test_a_judge_that_is_busy_holds_up_neither_scrape_nor_loop(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_server, "SNAPSHOT_SECONDS", 0.05)
    async with running_sidecar(world.config(metrics=LOOPBACK)) as sidecar, channel_to(world.socket) as channel:
        tap = await connect(channel)
        await tap.send(tap.frame([Rows(1, 0, (0, 1, 2))], begins=[begin(1)]))
        assert await fetch(sidecar, "/healthz") == "ok\n"
        release = threading.Event()
        stuck = sidecar.taps.submit(release.wait)
        try:
            found = samples(await fetch(sidecar))
            with pytest.raises(urllib.error.HTTPError, match="503"):
                await fetch(sidecar, "/healthz")
        finally:
            release.set()
        assert stuck.result(5)
        # As they were at the last scrape.
        assert found["featurewatch_rows_total"] == 3
        assert await fetch(sidecar, "/healthz") == "ok\n"


async def test_other_paths_are_not_found(world: World) -> None:
    async with running_sidecar(world.config(metrics=LOOPBACK)) as sidecar:
        with pytest.raises(urllib.error.HTTPError, match="404"):
            await fetch(sidecar, "/")


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (Target(host="0.0.0.0", port=0), "pass --insecure-tcp"),
        (Target.parse("unix:/tmp/m.sock"), "served over plain HTTP on a TCP port"),
    ],
)
async def test_addresses_that_are_refused(world: World, target: Target, says: str) -> None:
    with pytest.raises(FeaturewatchError, match=says):
        async with running_sidecar(world.config(metrics=target)):
            pass


async def test_a_port_that_is_taken_is_told(world: World) -> None:
    async with running_sidecar(world.config(metrics=LOOPBACK)) as sidecar:
        assert sidecar.metrics is not None
        other = world.config(metrics=sidecar.metrics.target, listen=(LOOPBACK,), store=world.folder / "other.sqlite")
        with pytest.raises(FeaturewatchError, match="another process may have it"):
            async with running_sidecar(other):
                pass


async def test_a_scrape_tells_how_policies_stand_and_what_their_rules_would_do(world: World) -> None:
    other = EngineInfo()
    other.CopyFrom(ENGINE)
    other.dtype = "bfloat16"
    async with running_sidecar(world.config(metrics=LOOPBACK)) as sidecar, channel_to(world.socket) as channel:
        before = samples(await fetch(sidecar))
        await flag(await connect(channel, hello(engine=other)))
        after = samples(await fetch(sidecar))
    rule = 'policy="loud",rule="LOUD-001"'
    # Rules are there before anything happens: a rate over the first alert must not miss it.
    zero = [f"featurewatch_{name}_total{{{rule}}}" for name in ("would_alert", "excepted_alerts", "late_rows")]
    assert [before[name] for name in zero] == [0, 0, 0]
    assert [after[name] for name in zero] == [1, 0, 0]
    stale, mode = 'featurewatch_policy_stale{policy="loud"}', 'featurewatch_policy_mode{mode="%s",policy="loud"}'
    assert (before[stale], after[stale]) == (0, 1)
    modes = ("off", "shadow", "alert", "enforce")
    assert [before[mode % name] for name in modes] == [0, 0, 1, 0]
    assert [after[mode % name] for name in modes] == [0, 1, 0, 0]
    assert after['featurewatch_policy_stale{policy="quiet"}'] == 0
    assert after['featurewatch_alerts_total{mode="alert",policy="loud",rule="on-stale",severity="medium"}'] == 1
