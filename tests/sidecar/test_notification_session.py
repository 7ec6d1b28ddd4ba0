"""Notifications of a running sidecar, in the alerts file and in a real Redis."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from correlated_world import correlated_policy, flag_for, write_policy
from fake_tap import connect
from session_calls import next_alert, watch
from sidecar_kit import World, channel_to, read_events, running_sidecar
from support.redis_server import free_port, redis_server

from monitor.sidecar.config import RedisConfig
from monitor.sidecar.metrics.families import sidecar_families


def notifications_in(path: Path) -> list[dict[str, Any]]:
    events = read_events(path) if path.exists() else []
    return [event for event in events if event["event"] == "notification"]


async def test_alerts_are_sent_one_by_one_and_gathered_by_tenant(world: World) -> None:
    write_policy(world, correlated_policy())
    jsonl = world.folder / "alerts.jsonl"
    async with running_sidecar(world.config(alerts_jsonl=jsonl)) as sidecar, channel_to(world.socket) as channel:
        watched = await watch(channel)
        tap = await connect(channel)
        for handle in range(1, 6):
            await flag_for(tap, handle, "acme")
        await flag_for(tap, 11, "umbrella")
        alerts = [await next_alert(watched) for _ in range(7)]
        async with asyncio.timeout(60):
            while sum(int(event["new_alerts"]) for event in notifications_in(jsonl)) < 7:
                await asyncio.sleep(0.05)
        sent = sidecar.taps._publisher.notifications.sent.copy()
    events, notifications = read_events(jsonl), notifications_in(jsonl)
    assert sent == {"loud": len(notifications)}
    assert [event["event_id"] for event in events if event["event"] == "rule_fired"] == [a.alert_id for a in alerts]
    assert {event["policy"] for event in notifications} == {"loud"}
    assert {(event["owner"], event["runbook"]) for event in notifications} == {("oncall", "https://example.org/loud")}
    # As many as it takes when the machine is slow, usually one of each tenant.
    acme = [event for event in notifications if event["group_tenant"] == "acme"]
    umbrella = [event for event in notifications if event["group_tenant"] == "umbrella"]
    assert len(acme) + len(umbrella) == len(notifications)
    of_acme = [alert for alert in alerts if alert.tenant == "acme"]
    named = [alert_id for event in acme for alert_id in reversed(event["alert_ids"].split(","))]
    assert named == [alert.alert_id for alert in of_acme]
    assert (acme[-1]["alerts"], acme[-1]["severity"]) == (6, "critical")
    assert acme[0]["first_unix_nanos"] == of_acme[0].time_unix_nanos
    assert acme[-1]["last_unix_nanos"] == of_acme[-1].time_unix_nanos
    assert [event["new_alerts"] for event in umbrella] == [1]


async def test_what_waits_is_sent_when_the_sidecar_stops(world: World) -> None:
    write_policy(world, correlated_policy(notify="{wait: 30d, interval: 30d}"))
    jsonl = world.folder / "alerts.jsonl"
    async with running_sidecar(world.config(alerts_jsonl=jsonl)), channel_to(world.socket) as channel:
        tap = await connect(channel)
        for handle in range(1, 4):
            await flag_for(tap, handle, "acme")
    (event,) = notifications_in(jsonl)
    assert event["new_alerts"] == 3
    assert not [name for name in event if name.startswith("group_")]


async def test_a_policy_in_shadow_notifies_nobody(world: World) -> None:
    write_policy(world, correlated_policy("shadow"))
    jsonl = world.folder / "alerts.jsonl"
    async with running_sidecar(world.config(alerts_jsonl=jsonl)), channel_to(world.socket) as channel:
        tap = await connect(channel)
        await flag_for(tap, 1, "acme")
    assert not jsonl.exists()


async def test_redis_gets_alerts_and_notifications_with_the_fields_of_the_file(world: World) -> None:
    write_policy(world, correlated_policy(notify="{wait: 30d}"))
    jsonl, port = world.folder / "alerts.jsonl", free_port()
    with redis_server(port, world.folder) as client:
        redis = RedisConfig(f"redis://127.0.0.1:{port}", "mon:events", world.folder / "spool")
        async with (
            running_sidecar(world.config(alerts_jsonl=jsonl, redis=redis)),
            channel_to(world.socket) as channel,
        ):
            tap = await connect(channel)
            for handle in range(1, 6):
                await flag_for(tap, handle, "acme")
        entries = [fields for _, fields in client.xrange("mon:events")]
    told = [{name.decode(): value.decode() for name, value in entry.items()} for entry in entries]
    assert [fields["event"] for fields in told] == ["rule_fired"] * 6 + ["notification"]
    assert told == [{name: str(value) for name, value in event.items()} for event in read_events(jsonl)]


async def test_metrics_count_notifications_and_correlation_alerts(world: World) -> None:
    write_policy(world, correlated_policy(notify="{wait: 30d}"))
    async with running_sidecar(world.config()) as sidecar, channel_to(world.socket) as channel:
        tap = await connect(channel)
        for handle in range(1, 6):
            await flag_for(tap, handle, "acme")
        sidecar.taps.correlations.evicted["loud"] += 3
        sidecar._publisher.close()
        snapshot = await asyncio.wrap_future(sidecar._ask_for_snapshot())
    samples = {
        (sample.name, sample.labels.get("rule", "")): sample.value
        for family in sidecar_families(snapshot)
        for sample in family.samples
        if sample.labels.get("policy") == "loud"
    }
    assert samples["featurewatch_notifications_total", ""] == 1
    assert samples["featurewatch_correlation_groups_evicted_total", ""] == 3
    assert samples["featurewatch_alerts_total", "LOUD-REPEATED"] == 1
