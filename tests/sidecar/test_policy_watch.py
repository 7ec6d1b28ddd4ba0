"""When policies are read again, and what goes on meanwhile."""

from __future__ import annotations

import asyncio
import threading
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_tap import connect, hello
from rollout_kit import LOUDER, OTHER, HeldCompilation, Kind, events, put, reload, set_mode, status_of, until
from session_calls import flag, next_alert, watch
from sidecar_kit import QUIET, World, channel_to, running_sidecar

from monitor.errors import FeaturewatchError
from monitor.policy.yaml_fields import MAX_CHARACTERS
from monitor.rpc import Target
from monitor.sidecar import policy_watch
from monitor.sidecar.plan import plan_for_tap
from monitor.sidecar.policy_audit import Cause
from monitor.sidecar.policy_changes import read_changes
from monitor.sidecar.policy_files import fingerprint
from monitor.v1.alerts_pb2 import Mode


async def test_nothing_changed_is_no_change(world: World) -> None:
    async with running_sidecar(world.config()) as sidecar, channel_to(world.socket) as channel:
        response = await reload(channel)
        assert (list(response.events), list(response.problems)) == ([], [])
        assert sidecar.rollout.reloads == {"unchanged": 1}
        assert [event.kind for event in await events(channel)] == [Kind.KIND_STARTED] * 2


def test_what_no_reading_takes_in_is_not_looked_at_either(tmp_path: Path) -> None:
    """Of a file that is too long the beginning shows it. All of it, at each look, might not fit into the memory."""
    long = tmp_path / "long.yaml"
    long.write_bytes(b"#" * 4 * (MAX_CHARACTERS + 1))
    before = fingerprint([long])
    with long.open("ab") as opened:
        opened.write(b"more")
    assert fingerprint([long]) == before
    long.write_bytes(b"#" * 4 * MAX_CHARACTERS)
    assert fingerprint([long]) != before


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


async def test_what_was_refused_is_taken_over_once_what_it_names_has_come(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_watch, "RETRY_LOOKS", 2)
    probe = world.policies / "weights" / "loud.dense.safetensors"
    async with running_sidecar(world.config(watch_seconds=0.02)) as sidecar, channel_to(world.socket) as channel:
        tried = 0
        reload = sidecar.rollout.reload

        async def counted(*arguments: Any, **more: Any) -> Any:
            nonlocal tried
            tried += 1
            return await reload(*arguments, **more)

        monkeypatch.setattr(sidecar.rollout, "reload", counted)
        put(world.policies / "loud.yaml", LOUDER.replace("weights/loud", "weights/louder"))
        assert "louder" in (await until(channel, Kind.KIND_REFUSED)).detail
        async with asyncio.timeout(60):
            while tried < 4:
                await asyncio.sleep(0.02)
        probe.with_name("louder.dense.safetensors").write_bytes(probe.read_bytes())
        assert (await until(channel, Kind.KIND_CHANGED)).new_revision == 3
        assert sidecar.rollout.reloads == {"refused": 1, "changed": 1}
        assert not sidecar.rollout.refused
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
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        alerts = await watch(channel)
        tap = await connect(channel)
        compilation = HeldCompilation(monkeypatch)
        (world.policies / "loud.yaml").write_text(LOUDER)
        reloading = asyncio.create_task(reload(channel))
        await compilation.begun()
        await flag(tap)
        assert (await next_alert(alerts)).policy_revision == 2
        compilation.go_on.set()
        assert [event.new_revision for event in (await reloading).events] == [3]
        await flag(tap, 2)
        assert (await next_alert(alerts)).policy_revision == 3


async def test_a_mode_is_set_while_files_are_read_and_holds_after_the_reload(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, go_on = threading.Event(), threading.Event()

    def slow(*arguments: Any) -> Any:
        reading.set()
        assert go_on.wait(60)
        return read_changes(*arguments)

    monkeypatch.setattr("monitor.sidecar.rollout.read_changes", slow)
    async with running_sidecar(world.config(watch_seconds=None)), channel_to(world.socket) as channel:
        (world.policies / "loud.yaml").write_text(LOUDER)
        reloading = asyncio.create_task(reload(channel))
        try:
            assert await asyncio.to_thread(reading.wait, 60)
            async with asyncio.timeout(30):
                assert (await set_mode(channel, "loud", Mode.MODE_OFF)).status.effective_mode == Mode.MODE_OFF
        finally:
            go_on.set()
        (event,) = (await reloading).events
        status = await status_of(channel, "loud")
    assert (event.old_mode, event.new_mode, event.new_revision) == (Mode.MODE_OFF, Mode.MODE_OFF, 3)
    assert (status.revision, status.effective_mode) == (3, Mode.MODE_OFF)


async def test_a_fault_that_nobody_foresaw_is_a_refusal_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("the parser gave up")

    monkeypatch.setattr("monitor.sidecar.rollout.read_changes", broken)
    async with running_sidecar(world.config(watch_seconds=None)) as sidecar, channel_to(world.socket) as channel:
        (problem,) = (await reload(channel)).problems
        refused = (await events(channel))[-1]
        assert sidecar.rollout.reloads == {"refused": 1}
    assert (problem.value, problem.rule) == ("RuntimeError", "the parser gave up")
    assert (refused.kind, refused.actor) == (Kind.KIND_REFUSED, "ann")
    assert "the parser gave up" in refused.detail


async def test_metrics_count_reloads_and_looks_that_fail_after_which_files_are_looked_at_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = [RuntimeError("out of threads")]

    def failing(paths: Sequence[Path]) -> str:
        if faults:
            raise faults.pop()
        return fingerprint(paths)

    config = world.config(metrics=Target(host="127.0.0.1", port=0), watch_seconds=0.02)
    monkeypatch.setattr(policy_watch, "fingerprint", failing)
    async with running_sidecar(config) as sidecar, channel_to(world.socket) as channel:
        await sidecar.rollout.reload(Cause("test"))
        put(world.policies / "loud.yaml", LOUDER)
        assert (await until(channel, Kind.KIND_CHANGED)).actor == "file watch"
        put(world.policies / "loud.yaml", "kind: nothing\n")
        await until(channel, Kind.KIND_REFUSED)
        assert sidecar.metrics is not None
        address = f"http://{sidecar.metrics.target}/metrics"
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(address, timeout=60).read().decode())
    name = "featurewatch_policy_reloads_total"
    counts = {
        line.split()[0].removeprefix(name): line.split()[1] for line in text.splitlines() if line.startswith(name)
    }
    assert counts == {f'{{outcome="{outcome}"}}': "1.0" for outcome in ("changed", "unchanged", "refused", "failed")}
    assert "\nfeaturewatch_policy_problems 4.0\n" in text


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
        monkeypatch.setattr("monitor.sidecar.tap_policies.plan_for_tap", fails_second)
        (world.policies / "loud.yaml").write_text(OTHER)
        (problem,) = (await reload(channel)).problems
        assert problem.rule == "its file is gone"
        assert {tap.plan.served["loud"].policy.revision for tap in sidecar.taps} == {2}
        assert [tap.judge.editions.watch.version for tap in sidecar.taps] == [tap.plan.version for tap in both]
