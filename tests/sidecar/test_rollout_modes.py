"""Modes that change while a sidecar serves, and who changes them, through a real grpc.aio server."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from fake_tap import Rows, begin, connect, end, hello
from rollout_kit import HeldCompilation, Kind, events, reload, set_mode, status_of
from session_calls import flag, next_alert, policies, watch
from sidecar_kit import ENGINE, QUIET, World, channel_to, running_sidecar

from monitor.errors import FeaturewatchError
from monitor.policy import Mode as PolicyMode
from monitor.sidecar.server import Sidecar
from monitor.v1.alerts_pb2 import Mode, ModeSource
from monitor.v1.engine_pb2 import EngineInfo


async def test_a_mode_that_is_set_holds_for_requests_that_run_until_it_is_taken_back(world: World) -> None:
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        everything = await watch(channel, include_shadow=True)
        tap = await connect(channel)
        await tap.send(tap.frame([Rows(1, 0, (0, 1), dense=(0, 0))], begins=[begin(1)]))
        status = (await set_mode(channel, "loud", Mode.MODE_SHADOW, reason="false alarms")).status
        assert (status.mode, status.effective_mode) == (Mode.MODE_ALERT, Mode.MODE_SHADOW)
        assert status.mode_source == ModeSource.MODE_SOURCE_RUNTIME
        assert status.reason == "set by ann: false alarms"
        await tap.send(tap.frame([Rows(1, 2, (2,), dense=(3,))]))
        status = (await set_mode(channel, "loud", Mode.MODE_UNSPECIFIED)).status
        assert (status.effective_mode, status.reason) == (Mode.MODE_ALERT, "")
        await tap.send(tap.frame([Rows(2, 0, (0, 1), dense=(0, 3))], begins=[begin(2)]))
        shadow, alert = await next_alert(everything), await next_alert(everything)
        listed = await events(channel, policy="loud")
        status = await status_of(channel, "loud")
    assert (shadow.mode, shadow.mode_source) == (Mode.MODE_SHADOW, ModeSource.MODE_SOURCE_RUNTIME)
    assert (alert.mode, alert.mode_source) == (Mode.MODE_ALERT, ModeSource.MODE_SOURCE_FILE)
    (rule,) = status.rule_status
    assert (rule.rule, rule.alerts, rule.would_alert) == ("LOUD-001", 1, 1)
    started, was_set, was_reset = listed
    assert (started.kind, started.new_mode) == (Kind.KIND_STARTED, Mode.MODE_ALERT)
    assert (was_set.kind, was_set.old_mode, was_set.new_mode) == (Kind.KIND_MODE_SET, Mode.MODE_ALERT, Mode.MODE_SHADOW)
    assert (was_set.actor, was_set.reason, was_set.new_revision) == ("ann", "false alarms", 2)
    assert (was_reset.kind, was_reset.new_mode) == (Kind.KIND_MODE_RESET, Mode.MODE_ALERT)


async def test_a_policy_that_is_off_is_not_watched_and_is_switched_on_without_a_reload(world: World) -> None:
    (world.policies / "quiet.yaml").write_text(QUIET.replace("mode: shadow", "mode: off"))
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        alerts = await watch(channel)
        tap = await connect(channel)
        assert [hook.hook_point for hook in tap.plan.hooks] == ["resid_post.3"]
        await tap.send(tap.frame([Rows(1, 0, (0, 1))], begins=[begin(1)]))
        status = (await set_mode(channel, "quiet", Mode.MODE_ALERT)).status
        assert (status.mode, status.effective_mode) == (Mode.MODE_OFF, Mode.MODE_ALERT)
        assert [hook.hook_point for hook in (await tap.next_plan()).hooks] == ["resid_post.3", "resid_post.5"]
        # A request that runs has not been seen by it from its beginning.
        await tap.send(tap.frame([Rows(1, 2, (2,), late=(9,))]), tap.frame(ends=[end(1, 3)]))
        await tap.send(tap.frame([Rows(2, 0, (0, 1), late=(0, 9))], begins=[begin(2)]))
        alert = await next_alert(alerts)
        assert (alert.policy, alert.external_id, alert.mode_source) == (
            "quiet",
            "req-2",
            ModeSource.MODE_SOURCE_RUNTIME,
        )
        # Off again: at once, also for the request that runs.
        await set_mode(channel, "quiet", Mode.MODE_OFF)
        await tap.send(tap.frame([Rows(2, 2, (2,), late=(0,))]), tap.frame([Rows(2, 3, (3,), late=(9,))]))
        await tap.send(tap.frame(ends=[end(2, 4)]))
        assert [hook.hook_point for hook in (await tap.next_plan()).hooks] == ["resid_post.3"]
        assert (await status_of(channel, "quiet")).alerts == 1
        assert (await policies(channel)).taps[0].coverage.dropped == 0


async def test_a_policy_that_is_switched_off_is_silent_before_the_others_are_compiled_without_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        tap = await connect(channel)
        await tap.send(tap.frame([Rows(7, 0, (0, 1), dense=(0, 0))], begins=[begin(7)]))
        compilation = HeldCompilation(monkeypatch)
        switching = asyncio.create_task(set_mode(channel, "loud", Mode.MODE_OFF))
        try:
            await compilation.begun()
            assert (await status_of(channel, "loud")).effective_mode == Mode.MODE_OFF
            # Of one that runs and of one that begins now.
            await tap.send(tap.frame([Rows(7, 2, (2,), dense=(9,))]))
            await flag(tap)
            status = await status_of(channel, "loud")
            assert (status.alerts, status.shadow_alerts) == (0, 0)
            assert [event.kind for event in await events(channel, policy="loud")][1:] == [Kind.KIND_MODE_SET]
        finally:
            compilation.go_on.set()
        await switching
        # Nothing of it is left but what its last request needs.
        await tap.send(tap.frame(ends=[end(7, 3)]))
        assert [hook.hook_point for hook in (await tap.next_plan()).hooks] == ["resid_post.5"]


async def test_modes_of_the_start_go_before_the_files_and_calls_before_both(world: World) -> None:
    modes = {"quiet": PolicyMode.ALERT, "loud": PolicyMode.OFF}
    async with running_sidecar(world.config(modes=modes)), channel_to(world.socket) as channel:
        tap = await connect(channel)
        assert [hook.hook_point for hook in tap.plan.hooks] == ["resid_post.5"]
        quiet, loud = await status_of(channel, "quiet"), await status_of(channel, "loud")
        assert (quiet.effective_mode, quiet.mode_source) == (Mode.MODE_ALERT, ModeSource.MODE_SOURCE_LOAD)
        assert (loud.effective_mode, loud.mode) == (Mode.MODE_OFF, Mode.MODE_ALERT)
        assert "--mode" in loud.reason
        status = (await set_mode(channel, "quiet", Mode.MODE_SHADOW)).status
        assert (status.effective_mode, status.mode_source) == (Mode.MODE_SHADOW, ModeSource.MODE_SOURCE_RUNTIME)
        # A reload leaves it set; a policy that goes takes it along.
        (world.policies / "quiet.yaml").write_text(QUIET.replace("revision: 1", "revision: 2"))
        await reload(channel)
        assert (await status_of(channel, "quiet")).mode_source == ModeSource.MODE_SOURCE_RUNTIME
        (world.policies / "quiet.yaml").unlink()
        await reload(channel)
        (world.policies / "quiet.yaml").write_text(QUIET.replace("revision: 1", "revision: 3"))
        await reload(channel)
        assert (await status_of(channel, "quiet")).mode_source == ModeSource.MODE_SOURCE_LOAD
    with pytest.raises(FeaturewatchError, match="Did you mean 'quiet'"):
        Sidecar(world.config(modes={"quite": PolicyMode.ALERT}))


async def test_what_a_call_set_holds_for_requests_that_outlive_the_policy(world: World) -> None:
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        plain, everything = await watch(channel), await watch(channel, include_shadow=True)
        tap = await connect(channel)
        await tap.send(tap.frame([Rows(1, 0, (0, 1), dense=(0, 0))], begins=[begin(1)]))
        await set_mode(channel, "loud", Mode.MODE_SHADOW, reason="false alarms")
        (world.policies / "loud.yaml").unlink()
        await set_mode(channel, "quiet", Mode.MODE_ALERT)
        assert [event.kind for event in (await reload(channel)).events] == [Kind.KIND_REMOVED]
        await set_mode(channel, "quiet", Mode.MODE_SHADOW)
        await tap.send(tap.frame([Rows(1, 2, (2,), dense=(3,))]))
        shadow = await next_alert(everything)
        await set_mode(channel, "quiet", Mode.MODE_ALERT)
        await tap.send(tap.frame([Rows(1, 3, (3,), late=(9,))]))
        sent = await next_alert(plain)
    assert (shadow.policy, shadow.mode) == ("loud", Mode.MODE_SHADOW)
    assert (sent.policy, sent.mode) == ("quiet", Mode.MODE_ALERT)


@pytest.mark.parametrize(
    ("policy", "mode", "more", "code", "told"),
    [
        ("lout", Mode.MODE_OFF, {}, grpc.StatusCode.NOT_FOUND, "Did you mean 'loud'"),
        ("loud", Mode.MODE_OFF, {"actor": " "}, grpc.StatusCode.INVALID_ARGUMENT, "actor"),
        ("loud", Mode.MODE_OFF, {"reason": ""}, grpc.StatusCode.INVALID_ARGUMENT, "reason"),
        ("loud", Mode.MODE_OFF, {"reason": "x" * 1001}, grpc.StatusCode.INVALID_ARGUMENT, "at most 1000"),
        ("loud", 9, {}, grpc.StatusCode.INVALID_ARGUMENT, "mode 9"),
    ],
)
async def test_who_asks_for_a_mode_must_say_which_who_and_why(
    world: World, *, policy: str, mode: Mode.ValueType, more: dict[str, str], code: grpc.StatusCode, told: str
) -> None:
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match=told) as refused:
            await set_mode(channel, policy, mode, **more)
        assert refused.value.code() == code
        assert [event.kind for event in await events(channel)] == [Kind.KIND_STARTED] * 2


async def test_events_are_bounded_and_a_reload_needs_an_actor(world: World) -> None:
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="at most 10000"):
            await events(channel, limit=10_001)
        with pytest.raises(grpc.aio.AioRpcError, match="actor"):
            await reload(channel, actor="")
        first = await events(channel)
        assert await events(channel, limit=1) == first[-1:]
        assert await events(channel, since_unix_nanos=first[-1].time_unix_nanos) == []


async def test_that_a_policy_is_stale_on_a_tap_is_audited_once(world: World) -> None:
    half = EngineInfo()
    half.CopyFrom(ENGINE)
    half.dtype = "bfloat16"
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        for _ in range(2):
            tap = await connect(channel, hello(engine=half))
            tap.drop()
        # A mode that is set raises no policy above shadow whose thresholds may be wrong.
        status = (await set_mode(channel, "loud", Mode.MODE_ALERT)).status
        assert (status.effective_mode, status.mode_source) == (Mode.MODE_SHADOW, ModeSource.MODE_SOURCE_STALE)
        found = [event for event in await events(channel) if event.kind == Kind.KIND_STALE]
    assert [(event.policy, event.new_mode) for event in found] == [("loud", Mode.MODE_SHADOW)]
    assert "bfloat16" in found[0].detail
