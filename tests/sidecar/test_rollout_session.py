"""Policies and modes that change while a sidecar serves, through a real grpc.aio server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from session_calls import flag, next_alert, policies, record_of, watch
from sidecar_kit import (
    ENGINE,
    LOUD,
    QUIET,
    Rows,
    World,
    begin,
    channel_to,
    connect,
    end,
    hello,
    running_sidecar,
)

from monitor.errors import FeaturewatchError
from monitor.policy import Mode as PolicyMode
from monitor.sidecar import policy_watch
from monitor.sidecar.plan import plan_for_tap
from monitor.sidecar.policy_files import fingerprint
from monitor.sidecar.server import Sidecar
from monitor.v1.alerts_pb2 import Mode, ModeSource
from monitor.v1.engine_pb2 import EngineInfo
from monitor.v1.policies_pb2 import (
    ListPolicyEventsRequest,
    PolicyEvent,
    PolicyStatus,
    ReloadPoliciesRequest,
    ReloadPoliciesResponse,
    SetPolicyModeRequest,
    SetPolicyModeResponse,
)
from monitor.v1.policies_pb2_grpc import PolicyServiceStub

Kind = PolicyEvent.Kind
#: As LOUD, but it fires on less, and is the next revision.
LOUDER = LOUD.replace("revision: 2", "revision: 3").replace("fire: 2, clear: 0.5", "fire: 1, clear: 0.5")
#: Only a latent that LOUD does not watch.
OTHER = """\
apiVersion: monitor/v1
kind: Policy
metadata: {name: loud, revision: 3}
spec:
  mode: alert
  detectors:
    - id: latent
      source: {saeLatents: {sae: tiny/resid_post.5, latents: [{index: 2}]}}
      aggregate: {kind: max, skip: [bos]}
      threshold: {fire: 2}
  rules:
    - {id: LOUD-002, when: latent.fire, severity: high}
"""


async def reload(channel: grpc.aio.Channel, **more: str) -> ReloadPoliciesResponse:
    return await PolicyServiceStub(channel).ReloadPolicies(ReloadPoliciesRequest(**{"actor": "ann", **more}))


async def set_mode(channel: grpc.aio.Channel, policy: str, mode: Mode.ValueType, **more: str) -> SetPolicyModeResponse:
    request = SetPolicyModeRequest(policy=policy, mode=mode, **{"actor": "ann", "reason": "drill", **more})
    return await PolicyServiceStub(channel).SetPolicyMode(request)


async def events(channel: grpc.aio.Channel, **wanted: Any) -> list[PolicyEvent]:
    return [*(await PolicyServiceStub(channel).ListPolicyEvents(ListPolicyEventsRequest(**wanted))).events]


async def status_of(channel: grpc.aio.Channel, name: str) -> PolicyStatus:
    return next(policy for policy in (await policies(channel)).policies if policy.name == name)


async def test_a_reload_takes_the_new_revision_and_requests_that_run_keep_theirs(world: World) -> None:
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        alerts = await watch(channel)
        tap = await connect(channel)
        await tap.send(tap.frame([Rows(1, 0, (0, 1), dense=(0, 0.5))], begins=[begin(1)]))
        before = await status_of(channel, "loud")
        (world.policies / "loud.yaml").write_text(LOUDER)
        response = await reload(channel, reason="catch more")
        after = await status_of(channel, "loud")
        assert (before.revision, after.revision, after.requests_on_older) == (2, 3, 1)
        assert before.loaded_unix_nanos < after.loaded_unix_nanos
        assert (await status_of(channel, "quiet")).loaded_unix_nanos < after.loaded_unix_nanos
        # 1.5 fires at the new threshold only; 3 at both.
        await tap.send(
            tap.frame([Rows(1, 2, (2,), dense=(1.5,)), Rows(2, 0, (0, 1), dense=(0, 1.5))], begins=[begin(2)]),
            tap.frame([Rows(1, 3, (3,), dense=(3,))]),
            tap.frame(ends=[end(1, 4), end(2, 2)]),
        )
        new, old = await next_alert(alerts), await next_alert(alerts)
        old_record = await record_of(channel, "req-1")
        assert (await status_of(channel, "loud")).requests_on_older == 0
    (event,) = response.events
    assert (event.kind, event.policy, event.actor, event.reason) == (Kind.KIND_CHANGED, "loud", "ann", "catch more")
    assert (event.old_revision, event.new_revision) == (2, 3)
    assert (event.old_sha256, event.new_sha256) == (before.sha256, after.sha256)
    assert event.detail == "called from a client on the Unix socket"
    assert (new.external_id, new.policy_revision, new.position) == ("req-2", 3, 1)
    assert (old.external_id, old.policy_revision, old.position) == ("req-1", 2, 3)
    provenance = {entry.name: entry.revision for entry in old_record.provenance if entry.kind == "policy"}
    assert provenance == {"loud": "2", "quiet": "1"}
    assert old_record.summary.coverage.observed == 4


async def test_a_tap_watches_for_both_editions_until_the_older_one_has_no_request(world: World) -> None:
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        alerts = await watch(channel)
        tap = await connect(channel)
        first = tap.plan
        assert [(hook.hook_point, hook.count) for hook in first.hooks] == [("resid_post.3", 3), ("resid_post.5", 1)]
        await tap.send(tap.frame([Rows(1, 0, (0, 1), dense=(0, 0))], begins=[begin(1)]))
        (world.policies / "loud.yaml").write_text(OTHER)
        assert [event.kind for event in (await reload(channel)).events] == [Kind.KIND_CHANGED]
        # Frames that were on their way under the first plan are judged, and what begins in them by its edition.
        late = tap.frame([Rows(1, 2, (2,), dense=(0,)), Rows(2, 0, (0,), dense=(0,))], begins=[begin(2)])
        both = await tap.next_plan()
        assert [(hook.hook_point, hook.count) for hook in both.hooks] == [("resid_post.3", 3), ("resid_post.5", 2)]
        assert both.version > first.version
        await tap.send(late, tap.frame([Rows(1, 3, (3,), dense=(3,)), Rows(2, 1, (1,), dense=(3,))]))
        assert [(await next_alert(alerts)).policy_revision for _ in range(2)] == [2, 2]
        await tap.send(tap.frame(ends=[end(1, 4), end(2, 2)]))
        last = await tap.next_plan()
        assert [(hook.hook_point, hook.count) for hook in last.hooks] == [("resid_post.5", 2)]
        await tap.send(
            tap.frame([Rows(3, 0, (0, 1), late=(0, 9))], begins=[begin(3)]),
            tap.frame(ends=[end(3, 2)]),
        )
        tap_status = (await policies(channel)).taps[0]
        records = [await record_of(channel, name) for name in ("req-1", "req-2")]
    assert tap_status.errors == 0
    assert (tap_status.coverage.dropped, tap_status.coverage.observed) == (0, 8)
    assert [record.summary.coverage.observed for record in records] == [4, 2]


async def test_a_tap_that_comes_back_gets_the_plan_that_is_in_force(world: World) -> None:
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        tap = await connect(channel)
        tap.drop()
        (world.policies / "loud.yaml").write_text(OTHER)
        await reload(channel)
        again = await connect(channel, hello(last_session_id=tap.welcome.session_id))
        assert again.plan.version > tap.plan.version
        assert [hook.count for hook in again.plan.hooks] == [3, 2]


async def test_with_one_problem_all_policies_stay_and_the_refusal_is_audited(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        version = (await policies(channel)).plan_version
        (world.policies / "loud.yaml").write_text(LOUDER)
        (world.policies / "quiet.yaml").write_text(QUIET.replace("shadow", "loudest"))
        response = await reload(channel)
        listed = await policies(channel)
        refused = (await events(channel))[-1]
        # What was refused is read again when it is good.
        (world.policies / "quiet.yaml").write_text(QUIET.replace("revision: 1", "revision: 2"))
        assert [event.policy for event in (await reload(channel)).events] == ["loud", "quiet"]
    (problem,) = response.problems
    assert not response.events
    assert (problem.file, problem.field, problem.line) == (str(world.policies / "quiet.yaml"), "spec.mode", 5)
    assert {policy.name: policy.revision for policy in listed.policies} == {"loud": 2, "quiet": 1}
    assert listed.plan_version == version
    assert (refused.kind, refused.policy, refused.actor) == (Kind.KIND_REFUSED, "quiet", "ann")
    assert "spec.mode" in refused.detail
    assert "policies stay as they are" in caplog.text


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda world: (world.policies / "loud.yaml").unlink(), ""),
        (lambda world: (world.policies / "loud.yaml").write_text(LOUD + "# a remark\n"), "another text"),
        (lambda world: (world.policies / "loud.yaml").write_text(LOUD.replace("revision: 2", "revision: 1")), "never"),
        (lambda world: (world.policies / "more.yaml").write_text(LOUDER), "has a policy of this name"),
        (lambda world: (world.policies / "loud.yaml").write_bytes(b"\xff\xfe\x00"), "UTF-8"),
        (
            lambda world: (world.policies / "loud.yaml").write_text(LOUDER.replace("tiny/resid_post.3", "tiny/other")),
            "no such SAE",
        ),
    ],
)
async def test_what_may_not_be_taken_over_is_refused_with_the_reason(
    world: World, change: Callable[[World], Any], rule: str
) -> None:
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        change(world)
        response = await reload(channel)
        names = [policy.name for policy in (await policies(channel)).policies]
    if rule:
        assert rule in response.problems[0].rule
        assert names == ["loud", "quiet"]
    else:
        assert [(event.kind, event.policy) for event in response.events] == [(Kind.KIND_REMOVED, "loud")]
        assert names == ["quiet"]


async def test_an_empty_folder_removes_nothing(world: World) -> None:
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        for name in ("loud.yaml", "quiet.yaml"):
            (world.policies / name).unlink()
        (problem,) = (await reload(channel)).problems
        assert "no policy file" in problem.rule
        assert len((await policies(channel)).policies) == 2


async def test_a_probe_that_is_exchanged_needs_another_revision(world: World) -> None:
    weights = world.policies / "weights" / "loud.dense.safetensors"
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        tap = await connect(channel)
        weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\x80\x3f")
        (problem,) = (await reload(channel)).problems
        assert "has other content than when revision 2" in problem.rule
        assert problem.field == "metadata.revision"
        (world.policies / "loud.yaml").write_text(LOUD.replace("revision: 2", "revision: 3"))
        assert not (await reload(channel)).problems
        # The direction has the same name and other weights: while both may be judged by, it is watched twice.
        assert [hook.count for hook in (await tap.next_plan()).hooks] == [4, 1]


async def test_to_go_back_restore_the_text_of_an_earlier_revision_also_after_a_restart(world: World) -> None:
    loud = world.policies / "loud.yaml"
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        loud.write_text(LOUDER)
        await reload(channel)
        loud.write_text(LOUD)
        (event,) = (await reload(channel, reason="too loud")).events
        assert (event.old_revision, event.new_revision) == (3, 2)
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        loud.write_text(LOUDER.replace("severity: high", "severity: low"))
        assert "revision 3 was in force with another text" in (await reload(channel)).problems[0].rule
        loud.write_text(LOUDER)
        assert [event.new_revision for event in (await reload(channel)).events] == [3]


async def test_a_start_with_another_text_under_an_old_revision_warns(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_sidecar(world.config()):
        pass
    (world.policies / "loud.yaml").write_text(LOUD + "# a remark\n")
    async with running_sidecar(world.config()):
        pass
    assert "policy loud: revision 2 was in force with another text before" in caplog.text


async def test_nothing_changed_is_no_change(world: World) -> None:
    async with running_sidecar(world.config()) as sidecar, channel_to(world.socket) as channel:
        response = await reload(channel)
        assert (list(response.events), list(response.problems)) == ([], [])
        assert sidecar.rollout.reloads == {"unchanged": 1}
        assert [event.kind for event in await events(channel)] == [Kind.KIND_STARTED] * 2


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


async def until(channel: grpc.aio.Channel, kind: Kind.ValueType) -> PolicyEvent:
    async with asyncio.timeout(60):
        while True:
            found = [event for event in await events(channel) if event.kind == kind]
            if found:
                return found[-1]
            await asyncio.sleep(0.02)


def put(path: Path, text: str) -> None:
    """At once: a look in between would find half a file."""
    written = path.with_suffix(".tmp")
    written.write_text(text)
    written.replace(path)


async def test_files_that_change_are_noticed_and_a_fault_is_told_once(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    def counted(paths: Sequence[Path]) -> str:
        nonlocal looks
        looks += 1
        return fingerprint(paths)

    monkeypatch.setattr(policy_watch, "fingerprint", counted)
    async with running_sidecar(world.config(watch_seconds=0.02)) as sidecar, channel_to(world.socket) as channel:
        put(world.policies / "loud.yaml", LOUDER)
        event = await until(channel, Kind.KIND_CHANGED)
        assert (event.policy, event.actor, event.new_revision) == ("loud", "file watch", 3)
        put(world.policies / "new.yaml", QUIET.replace("name: quiet", "name: new"))
        assert (await until(channel, Kind.KIND_ADDED)).policy == "new"
        (world.policies / "new.yaml").unlink()
        assert (await until(channel, Kind.KIND_REMOVED)).policy == "new"
        put(world.policies / "loud.yaml", LOUDER.replace("mode: alert", "mode: loudest"))
        assert "spec.mode" in (await until(channel, Kind.KIND_REFUSED)).detail
        seen = looks
        async with asyncio.timeout(60):
            while looks < seen + 5:
                await asyncio.sleep(0.02)
        assert sidecar.rollout.reloads == {"changed": 3, "refused": 1}
    assert caplog.text.count("policies stay as they are") == 1


async def test_without_a_watch_files_wait_for_a_call(world: World) -> None:
    async with running_sidecar(world.config(watch_seconds=None)) as sidecar, channel_to(world.socket) as channel:
        (world.policies / "loud.yaml").write_text(LOUDER)
        assert [task.get_name() for task in asyncio.all_tasks() if "watch policies" in task.get_name()] == []
        assert (await status_of(channel, "loud")).revision == 2
        await reload(channel)
        assert sidecar.rollout.current.book.policy("loud").revision == 3


async def test_frames_are_judged_while_policies_are_read_and_compiled(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiling, go_on = threading.Event(), threading.Event()

    def slow(*arguments: Any) -> Any:
        compiling.set()
        assert go_on.wait(60)
        return plan_for_tap(*arguments)

    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        alerts = await watch(channel)
        tap = await connect(channel)
        monkeypatch.setattr("monitor.sidecar.taps.plan_for_tap", slow)
        (world.policies / "loud.yaml").write_text(LOUDER)
        reloading = asyncio.create_task(reload(channel))
        assert await asyncio.to_thread(compiling.wait, 60)
        await flag(tap)
        assert (await next_alert(alerts)).policy_revision == 2
        go_on.set()
        assert [event.new_revision for event in (await reloading).events] == [3]
        await flag(tap, 2)
        assert (await next_alert(alerts)).policy_revision == 3


async def test_what_fails_on_one_tap_changes_nothing_on_any(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def fails_second(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise FeaturewatchError("SAE 'tiny'", "its file is gone", "restore it")
        return plan_for_tap(*arguments)

    async with running_sidecar(world.config()) as sidecar, channel_to(world.socket) as channel:
        both = [await connect(channel, hello(tap_id)) for tap_id in ("one", "two")]
        monkeypatch.setattr("monitor.sidecar.taps.plan_for_tap", fails_second)
        (world.policies / "loud.yaml").write_text(OTHER)
        (problem,) = (await reload(channel)).problems
        assert problem.rule == "its file is gone"
        assert {tap.plan.served["loud"].policy.revision for tap in sidecar.taps} == {2}
        assert [tap.judge.editions.watch.version for tap in sidecar.taps] == [tap.plan.version for tap in both]
