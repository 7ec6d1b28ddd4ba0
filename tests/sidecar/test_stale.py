"""Policies whose thresholds were fitted on another configuration: who is told, and how often."""

from __future__ import annotations

import asyncio

import pytest
from fake_tap import connect, hello
from rollout_kit import set_mode
from session_calls import flag, next_alert, policies, watch
from sidecar_kit import ENGINE, QUIET, World, channel_to, read_events, running_sidecar

from monitor.v1.alerts_pb2 import Mode, ModeSource, Severity
from monitor.v1.engine_pb2 import EngineInfo


def other_engine() -> EngineInfo:
    other = EngineInfo()
    other.CopyFrom(ENGINE)
    other.dtype = "bfloat16"
    return other


async def test_each_stale_policy_is_told_once_a_tap_and_one_that_is_in_shadow_anyway_to_who_asks(world: World) -> None:
    (world.policies / "quiet.yaml").write_text(
        QUIET.replace("  detectors:\n", "  fittedOn: {dtype: float16}\n  detectors:\n")
    )
    jsonl = world.folder / "alerts.jsonl"
    async with running_sidecar(world.config(alerts_jsonl=jsonl)), channel_to(world.socket) as channel:
        plain, everything = await watch(channel), await watch(channel, include_shadow=True)
        first = await connect(channel, hello(engine=other_engine()))
        first.drop()
        # Its state is still there: nothing is new.
        await connect(channel, hello(engine=other_engine(), last_session_id=first.welcome.session_id))
        await connect(channel, hello("tap-2", engine=other_engine()))
        told = [await next_alert(plain) for _ in range(2)]
        asked = [await next_alert(everything) for _ in range(4)]
        status = {policy.name: policy for policy in (await policies(channel)).policies}
    assert [(alert.policy, alert.rule) for alert in told] == [("loud", "on-stale")] * 2
    assert {alert.policy: alert.mode for alert in asked} == {"loud": Mode.MODE_ALERT, "quiet": Mode.MODE_SHADOW}
    assert len({alert.alert_id for alert in asked}) == 4
    loud = told[0]
    assert (loud.severity, loud.model, loud.runbook) == (
        Severity.SEVERITY_MEDIUM,
        "tiny",
        "https://example.org/loud",
    )
    assert (loud.generation_id, loud.request_id, loud.mode_source) == ("", "", ModeSource.MODE_SOURCE_STALE)
    assert [event["policy"] for event in read_events(jsonl)] == ["loud", "loud"]
    assert (status["loud"].stale, status["quiet"].stale) == (True, True)
    assert (status["loud"].alerts, status["quiet"].shadow_alerts) == (2, 2)


async def test_a_policy_that_a_call_asks_to_alert_is_told_to_stay_in_shadow(world: World) -> None:
    (world.policies / "loud.yaml").write_text(
        (world.policies / "loud.yaml").read_text().replace("mode: alert", "mode: shadow")
    )
    jsonl = world.folder / "alerts.jsonl"
    async with running_sidecar(world.config(alerts_jsonl=jsonl)), channel_to(world.socket) as channel:
        plain, everything = await watch(channel), await watch(channel, include_shadow=True)
        await connect(channel, hello(engine=other_engine()))
        before = await next_alert(everything)
        await set_mode(channel, "loud", Mode.MODE_ALERT)
        told = await next_alert(plain)
        # Neither what another policy is set to nor a mode that is higher still is news of it.
        await set_mode(channel, "quiet", Mode.MODE_ALERT)
        await set_mode(channel, "loud", Mode.MODE_ENFORCE)
        await flag(await connect(channel, hello("tap-2")))
        assert (await next_alert(plain)).rule == "LOUD-001"
    assert (before.rule, before.mode) == ("on-stale", Mode.MODE_SHADOW)
    assert (told.rule, told.mode, told.policy) == ("on-stale", Mode.MODE_ALERT, "loud")
    assert told.alert_id != before.alert_id, "it was not sent before"
    assert [event["rule"] for event in read_events(jsonl)] == ["on-stale", "LOUD-001"]


async def test_a_tap_is_served_while_what_is_stale_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    told = asyncio.Event()

    async def slow(*_: object) -> None:
        await told.wait()

    async with running_sidecar(world.config()) as sidecar, channel_to(world.socket) as channel:
        monkeypatch.setattr(sidecar.taps.policies, "tell_stale", slow)
        try:
            async with asyncio.timeout(60):
                tap = await connect(channel, hello(engine=other_engine()))
                await flag(tap)
        finally:
            told.set()


async def test_nothing_is_told_where_all_fits_or_the_policy_is_off(world: World) -> None:
    (world.policies / "loud.yaml").write_text(
        (world.policies / "loud.yaml").read_text().replace("mode: alert", 'mode: "off"')
    )
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        await connect(channel, hello(engine=other_engine()))
        await connect(channel, hello("tap-2"))
        status = (await policies(channel)).policies
    assert [(policy.alerts, policy.shadow_alerts) for policy in status] == [(0, 0), (0, 0)]
