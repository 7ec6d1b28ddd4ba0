"""Policies that change while a sidecar serves, through a real grpc.aio server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fake_tap import Rows, begin, connect, end, hello
from rollout_kit import LOUDER, OTHER, Kind, events, reload, status_of
from session_calls import next_alert, policies, record_of, watch
from sidecar_kit import LOUD, QUIET, World, channel_to, running_sidecar


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


async def test_evidence_of_a_request_is_of_its_own_edition(world: World) -> None:
    """The policy that names the SAE goes while the request runs."""
    (world.policies / "loud.yaml").write_text(
        LOUD.replace("severity: high", "severity: high, actions: [alert, capture]")
    )
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        tap = await connect(channel)
        await tap.send(tap.frame([Rows(1, 0, (0, 1), dense=(0, 0))], begins=[begin(1)]))
        (world.policies / "loud.yaml").unlink()
        await reload(channel)
        await tap.send(tap.frame([Rows(1, 2, (2,), dense=(9,))]), tap.frame(ends=[end(1, 3)]))
        await tap.answer(np.eye(3, 8, dtype=np.float32), hooks=("resid_post.3", "resid_post.5"))
        async with asyncio.timeout(60):
            while not (record := await record_of(channel, "req-1")).evidence:
                await asyncio.sleep(0.02)
    assert {(one.hook_point, one.sae, len(one.tokens)) for one in record.evidence} == {
        ("resid_post.3", "tiny/resid_post.3", 3),
        ("resid_post.5", "tiny/resid_post.5", 3),
    }
    # Its label is of the policy that is gone.
    assert dict(next(one for one in record.evidence if one.hook_point == "resid_post.3").labels).get(4) == "explosives"
