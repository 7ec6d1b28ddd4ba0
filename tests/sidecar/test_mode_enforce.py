"""A policy that may intervene alerts as one in mode alert does: no action of this version intervenes."""

from __future__ import annotations

from correlated_world import correlated_policy, flag_for, write_policy
from evidence_kit import CAPTURING, frame_of, residuals
from fake_tap import begin, connect
from session_calls import next_alert, watch
from sidecar_kit import HOOKS, World, channel_to, read_events, running_sidecar

from monitor.v1.alerts_pb2 import Mode


async def test_alerts_correlations_and_notifications_are_sent(world: World) -> None:
    write_policy(world, correlated_policy("enforce"))
    jsonl = world.folder / "alerts.jsonl"
    async with running_sidecar(world.config(alerts_jsonl=jsonl)), channel_to(world.socket) as channel:
        watched = await watch(channel)
        tap = await connect(channel)
        for handle in range(1, 6):
            await flag_for(tap, handle, "acme")
        alerts = [await next_alert(watched) for _ in range(6)]
    assert [alert.rule for alert in alerts] == ["LOUD-001"] * 5 + ["LOUD-REPEATED"]
    assert {alert.mode for alert in alerts} == {Mode.MODE_ENFORCE}
    told = [event["event"] for event in read_events(jsonl)]
    assert told.count("rule_fired") == 6
    assert "notification" in told


async def test_captures_are_asked_for(capturing: World) -> None:
    (capturing.policies / "loud.yaml").write_text(CAPTURING.replace("mode: alert", "mode: enforce"))
    async with running_sidecar(capturing.config()), channel_to(capturing.socket) as channel:
        tap = await connect(channel)
        await tap.send(frame_of(tap, 1, residuals(), 0, 5, begins=[begin(1)]))
        directive = await tap.next_directive()
    assert list(directive.capture.hook_points) == list(HOOKS)
