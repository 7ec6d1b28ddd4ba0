"""Correlations in a tap's session: several requests of one tenant, and what is told of them."""

from __future__ import annotations

from correlated_world import REPEATED, correlated_policy, flag_for, write_policy
from fake_tap import connect, hello
from session_calls import next_alert, policies, record_of, watch
from sidecar_kit import World, channel_to, read_events, running_sidecar

from monitor.v1.alerts_pb2 import Mode, Severity


async def test_the_fifth_request_of_one_tenant_completes_a_correlation(world: World) -> None:
    write_policy(world, correlated_policy())
    jsonl = world.folder / "alerts.jsonl"
    async with running_sidecar(world.config(alerts_jsonl=jsonl)) as sidecar, channel_to(world.socket) as channel:
        watched = await watch(channel)
        tap = await connect(channel)
        for handle in range(1, 5):
            await flag_for(tap, handle, "acme")
            await flag_for(tap, 10 + handle, "umbrella")
        await flag_for(tap, 5, "acme")
        await flag_for(tap, 6, "acme")
        alerts = [await next_alert(watched) for _ in range(11)]
        fifth, fourth = await record_of(channel, "req-5"), await record_of(channel, "req-4")
        status = next(policy for policy in (await policies(channel)).policies if policy.name == "loud")
        counted = sidecar.taps.ledger.by_kind
    (correlated,) = [alert for alert in alerts if alert.rule == "LOUD-REPEATED"]
    made_of = [alert for alert in alerts if alert.tenant == "acme" and alert.rule == "LOUD-001"][:5]
    assert list(correlated.correlated) == [alert.alert_id for alert in made_of]
    completed_by = made_of[-1]
    assert alerts.index(correlated) == alerts.index(completed_by) + 1
    assert (correlated.external_id, correlated.tenant, correlated.position) == ("req-5", "acme", 3)
    assert (correlated.severity, correlated.mode) == (Severity.SEVERITY_CRITICAL, Mode.MODE_ALERT)
    assert (correlated.policy, correlated.runbook) == ("loud", "https://example.org/loud")
    assert correlated.alert_id not in {alert.alert_id for alert in made_of}
    assert not correlated.readings
    assert [alert.rule for alert in fifth.alerts] == ["LOUD-001", "LOUD-REPEATED"]
    assert list(fifth.summary.fired) == ["loud/LOUD-001", "loud/LOUD-REPEATED"]
    assert [alert.rule for alert in fourth.alerts] == ["LOUD-001"]
    assert status.alerts == 11
    assert {kind.rule: count for kind, count in counted.items()} == {"LOUD-001": 10, "LOUD-REPEATED": 1}
    events = [event for event in read_events(jsonl) if event.get("rule") == "LOUD-REPEATED"]
    assert [event["correlated"] for event in events] == [",".join(correlated.correlated)]
    assert events[0]["event"] == "rule_fired"


async def test_firings_of_all_taps_count_together_and_a_group_can_be_one_tap(world: World) -> None:
    by_tap = REPEATED.replace("LOUD-REPEATED", "LOUD-TAP").replace("kind:", "groupBy: [tap], kind:")
    write_policy(world, correlated_policy(correlation=f"{REPEATED}\n    - {by_tap}"))
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        one, two = await connect(channel, hello("one")), await connect(channel, hello("two"))
        for handle in range(1, 4):
            await flag_for(one, handle, "acme")
        for handle in range(11, 13):
            await flag_for(two, handle, "acme")
        last = await record_of(channel, "req-12")
        for handle in range(4, 6):
            await flag_for(one, handle, "tyrell")
        last_of_one = await record_of(channel, "req-5")
    assert [alert.rule for alert in last.alerts] == ["LOUD-001", "LOUD-REPEATED"]
    assert [alert.rule for alert in last_of_one.alerts] == ["LOUD-001", "LOUD-TAP"]


async def test_a_policy_in_shadow_records_its_correlations_and_sends_nothing(world: World) -> None:
    write_policy(world, correlated_policy("shadow"))
    jsonl = world.folder / "alerts.jsonl"
    async with running_sidecar(world.config(alerts_jsonl=jsonl)), channel_to(world.socket) as channel:
        everything = await watch(channel, include_shadow=True)
        tap = await connect(channel)
        for handle in range(1, 6):
            await flag_for(tap, handle, "acme")
        alerts = [await next_alert(everything) for _ in range(6)]
        record = await record_of(channel, "req-5")
    assert [alert.rule for alert in alerts] == ["LOUD-001"] * 5 + ["LOUD-REPEATED"]
    assert {alert.mode for alert in alerts} == {Mode.MODE_SHADOW}
    assert [alert.rule for alert in record.alerts] == ["LOUD-001", "LOUD-REPEATED"]
    assert not jsonl.exists()


async def test_a_policy_that_withholds_content_withholds_it_here_too(world: World) -> None:
    write_policy(world, correlated_policy() + "  record: {content: none}\n")
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        tap = await connect(channel)
        for handle in range(1, 6):
            await flag_for(tap, handle, "acme")
        record = await record_of(channel, "req-5")
    assert record.content == "none"
    assert {(alert.rule, alert.token, alert.token_id) for alert in record.alerts} == {
        ("LOUD-001", "", 0),
        ("LOUD-REPEATED", "", 0),
    }
